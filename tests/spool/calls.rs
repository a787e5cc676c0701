//! The order of system calls, as the kernel saw it: nothing is acknowledged before the records are on the device, and a disk
//! that refuses costs nothing that was acknowledged.
//!
//! `CHAIRSIDE_APPENDS` sets how many acknowledgements are watched.

use crate::spool::{HOME, everything, fast_home, number, open, record, tell};
use chairside::spool::{Sequence, Spool};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

const APPENDS: &str = "CHAIRSIDE_APPENDS";

#[test]
#[ignore = "the process that is watched; the tests below start it"]
fn the_process_that_is_watched() {
    let Some(home) = std::env::var_os(HOME) else { return };
    let mut spool = open(Path::new(&home));
    let last = spool.status().last;
    for sequence in last + 1..=last + number(APPENDS).unwrap() {
        match spool.append(&[record(sequence)]) {
            Ok(sequences) => assert_eq!(sequences, [Sequence(sequence)]),
            Err(error) => return tell(format!("refused {error}")),
        }
        tell(format!("acknowledged {sequence}"));
    }
}

/// The process under strace, or nothing where there is none.
fn traced(home: &Path, appends: u64, words: &[&str], log: &Path) -> Option<Output> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "40", "-o"]).arg(log).args(words);
    strace.arg("--").arg(std::env::current_exe().unwrap());
    strace.args([
        "--exact",
        "calls::the_process_that_is_watched",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    match strace.env(HOME, home).env(APPENDS, appends.to_string()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("not tested here: strace cannot be run ({error}); packaging/ci.sh installs it");
            assert!(std::env::var_os("CHAIRSIDE_GATE").is_none(), "the gate has strace");
            None
        }
    }
}

/// Pairs of what was called and where, in the order in which the calls returned; a call that one thread began and that
/// another one's calls interrupted is put together again.
fn calls(log: &str) -> Vec<(usize, usize, String)> {
    let mut begun: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (number, line) in log.lines().enumerate() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread.to_owned(), (number, start.to_owned()));
        } else if let Some((_, end)) =
            call.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
        {
            if let Some((start, front)) = begun.remove(thread) {
                calls.push((start, number, format!("{front}{end}")));
            }
        } else {
            calls.push((number, number, call.to_owned()));
        }
    }
    calls
}

#[test]
fn no_append_is_acknowledged_before_its_records_were_synced() {
    let appends = number(APPENDS).unwrap_or(10_000);
    let (home, log) = (fast_home(), tempfile::NamedTempFile::new().unwrap());
    let words = ["-e", "trace=pwrite64,pwritev,write,fdatasync,fsync"];
    let Some(output) = traced(home.path(), appends, &words, log.path()) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(log.path()).unwrap();
    // For the files of volumes: when the last write to them returned, and when the last sync that followed it did.
    let (mut written, mut synced) = (BTreeMap::new(), BTreeMap::new());
    let (mut acknowledged, mut writes) = (0_u64, 0);
    for (began, ended, call) in calls(&log) {
        let place = call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(place, _)| place);
        // `contents/` has a cache of what volumes hold, which is made anew when it is missing.
        let ours = |place: &&str| place.contains("/volume-") && !place.contains("/contents/");
        let volume = place.filter(ours).map(str::to_owned);
        if let Some(volume) = volume {
            if call.starts_with("pwrite") || call.starts_with("write") {
                written.insert(volume, ended);
                writes += 1;
            } else if call.ends_with(" = 0") && written.get(&volume).is_none_or(|write| *write < began) {
                synced.insert(volume, ended);
            }
        } else if call.starts_with("write(1") && call.contains("@ acknowledged ") {
            acknowledged += 1;
            assert!(writes > 0, "acknowledgement {acknowledged}: nothing was written to a volume before it");
            writes = 0;
            for (volume, write) in &written {
                let sync = synced.get(volume);
                assert!(
                    sync.is_some_and(|sync| sync > write && *sync < began),
                    "acknowledgement {acknowledged}, line {began}: {volume} was written at {write} and synced at {sync:?}"
                );
            }
        }
    }
    assert_eq!(acknowledged, appends);
    println!("{acknowledged} of {appends} acknowledgements came after the sync of what they acknowledge");
}

#[test]
fn a_disk_that_refuses_at_any_call_costs_nothing_that_was_acknowledged() {
    let faults = ["fdatasync:error=EIO", "pwrite64:error=ENOSPC", "pwrite64:error=EIO", "fsync:error=EIO"];
    for (number, when) in [1, 2, 3, 5, 8, 13, 21, 34, 55, 60].into_iter().enumerate() {
        for fault in faults {
            let (home, log) = (fast_home(), tempfile::NamedTempFile::new().unwrap());
            // Once, or from then on.
            let more = if number % 2 == 0 { "" } else { "+" };
            let inject = format!("inject={fault}:when={when}{more}");
            let trace = format!("trace={}", fault.split(':').next().unwrap());
            let words = ["-e", &trace, "-e", &inject];
            let Some(output) = traced(home.path(), 20, &words, log.path()) else { return };
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let acknowledged: Vec<u64> =
                said.lines().filter_map(|line| line.strip_prefix("@ acknowledged ")?.parse().ok()).collect();
            let mut spool = open(home.path());
            let found = everything(&mut spool);
            for stored in &found {
                assert_eq!(stored.record, record(stored.sequence.0), "{inject}");
            }
            let sequences: Vec<u64> = found.iter().map(|stored| stored.sequence.0).collect();
            assert!(acknowledged.iter().all(|sequence| sequences.contains(sequence)), "{inject}: {said}");
            assert!(sequences.len() <= acknowledged.len() + 1, "{inject}: {sequences:?} of {acknowledged:?}");
            assert_eq!(spool.status().upstreams[0].1.lost, 0, "{inject}");
        }
    }
}
