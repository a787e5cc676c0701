//! `chairside demo` as a newcomer runs it: the verdict, and nothing left behind.

use assert_cmd::cargo::CommandCargoExt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The demo with a folder of its own for everything it makes.
fn demo(temp: &Path, arguments: &str) -> Child {
    let mut command = Command::cargo_bin("chairside").unwrap();
    command.arg("demo").args(arguments.split(' ')).env("TMPDIR", temp);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn a_demo_with_an_outage_and_a_change_of_patient_agrees_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let ended = demo(temp.path(), "--json --seconds 12 --speed 60 --outage 3").wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    let verdict: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(verdict["agrees"], true);
    assert_eq!(verdict["simulated"], true);
    assert_eq!(verdict["treatments"], 5, "four chairs, one of them with a second patient");
    for nothing in ["wrong", "misattributed", "duplicates", "missing"] {
        assert_eq!(verdict[nothing], 0, "{nothing}: {said}");
    }
    assert_eq!(verdict["polls"]["unaccounted"], 0, "{said}");
    // How many there are depends on how busy the computer is; that something was compared does not.
    assert!(verdict["values_compared"].as_u64().unwrap() > 100, "{said}");
    assert!(is_empty(temp.path()));
}

#[test]
fn an_interrupted_demo_ends_without_a_verdict_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = demo(temp.path(), "--seconds 600");
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("polls; spool")), "the demo did not begin");
    assert!(!is_empty(temp.path()));
    let process = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    assert!(!said.any(|line| line.contains("verdict")));
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"));
    assert!(is_empty(temp.path()));
}
