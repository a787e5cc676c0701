//! `chairside outage rehearse`: beside a running gateway, and without touching a byte of what is not its own.

use crate::gateway::{Home, Wishes};
use crate::machine::{Machine, Screen};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Every file under a folder, with its bytes.
fn everything(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn folders_of_rehearsals(home: &Home) -> usize {
    let entries = std::fs::read_dir(home.state()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with("rehearsal-")).count()
}

fn holds(code: Option<i32>, report: &str, said: &str) -> serde_json::Value {
    assert_eq!(code, Some(0), "{report}\n{said}");
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["holds"], true);
    assert_eq!(report["records"]["readings_expected"], report["records"]["readings_received"]);
    assert_eq!(report["records"]["readings_doubled"], 0);
    assert_eq!(report["records"]["waiting"], 0);
    assert!(report["records"]["delivered"].as_u64().unwrap() > 50, "{report}");
    assert_eq!(report["certificate"]["told_as"], "own_certificate_expired");
    let number = |place: &str| report.pointer(place).and_then(serde_json::Value::as_f64).unwrap();
    let (warned, refused) = (number("/pressure/warned_after"), number("/pressure/refused_intake_after"));
    assert!(0.0 < warned && warned < refused && refused < number("/pressure/records"), "{report}");
    assert!(number("/pressure/evicted") > 0.0, "{report}");
    let fullest = number("/pressure/most_bytes") / number("/pressure/max_bytes");
    assert!((0.9..1.05).contains(&fullest), "{report}");
    assert!(number("/autonomy/room_bytes") > 0.0 && number("/autonomy/days") > 0.0, "{report}");
    // What an empty spool takes already is not what an hour brings.
    let hour = number("/played/bytes_per_hour");
    assert!(0.0 < hour && hour < number("/played/bytes") / 0.5, "{report}");
    assert!(number("/drain/seconds") > 0.0 && number("/drain/times_nominal") > 1.0, "{report}");
    // The first reading of the outage waited for all of it, and for the certificate.
    assert!((0.49..1.5).contains(&number("/drain/worst_age_hours")), "{report}");
    report
}

#[test]
fn an_outage_is_rehearsed_beside_the_running_gateway_which_goes_on() {
    let machine = Machine::start(Screen::default());
    let home = Home::new(&Wishes { chairs: &[&machine], every: "1s", ..Wishes::default() });
    let running = home.ready("info");
    let answered = || {
        let status: serde_json::Value = serde_json::from_str(&home.ask(&["status", "--json"], "").1).unwrap();
        status["chairs"][0]["answered"].as_u64().unwrap()
    };
    home.until_page("the chair answers", |page| page.contains("1 of 1 answering"));
    let before = answered();
    let words = ["outage", "rehearse", "--hours", "0.5", "--speed", "900", "--json"];
    let (code, report, said) = home.ask(&words, "");
    let report = holds(code, &report, &said);
    // Half an hour at 900 times the speed of life: two seconds, and not less.
    assert!(report["played"]["seconds"].as_f64() >= Some(2.0), "{report}");
    assert!(answered() > before, "the gateway stood still meanwhile");
    assert_eq!(folders_of_rehearsals(&home), 0);
    running.stop();
}

#[test]
fn a_rehearsal_changes_no_byte_of_a_stopped_gateway_and_neither_does_an_interrupted_one() {
    let machine = Machine::start(Screen::default());
    let home = Home::new(&Wishes { chairs: &[&machine], every: "1s", ..Wishes::default() });
    let running = home.ready("info");
    home.until_page("the chair answers", |page| page.contains("1 of 1 answering"));
    running.stop();
    let before = everything(&home.state());
    let (code, report, said) = home.ask(&["outage", "rehearse", "--hours", "0.5", "--json"], "");
    let report = holds(code, &report, &said);
    // What is not durable when the power goes is what one commit interval brings, and it is told.
    let cut = &report["power_cut"];
    assert!(cut["records_lost"].as_u64().unwrap() <= 2, "{cut}");
    assert_eq!(cut["records_lost"], cut["slots_told"], "{cut}");
    assert!(everything(&home.state()) == before, "a byte of the state directory has changed");

    let mut command = home.command(&["outage", "rehearse", "--hours", "100", "--speed", "1"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while folders_of_rehearsals(&home) == 0 {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(75), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"));
    assert!(everything(&home.state()) == before, "an interrupted rehearsal left something");
}

#[test]
fn without_a_chair_it_says_what_to_do() {
    let home = Home::new(&Wishes::default());
    let (code, _, said) = home.ask(&["outage", "rehearse", "--hours", "1"], "");
    assert_eq!(code, Some(75));
    assert!(said.contains("add a [[chair]]"), "{said}");
}
