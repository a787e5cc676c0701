//! Kills a process that appends to the spool, at any instant and again and again, and counts what is left.
//!
//! `CHAIRSIDE_KILLS` sets how often. The oracle is outside the process that dies: it knows only what was acknowledged to it.

use crate::spool::{Dice, HOME, SEED, ehr, fast_home, open, record, tell};
use chairside::spool::{BatchLimit, Lane, Sequence, Spool, Verdict};
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
#[ignore = "the process that is killed; the test below starts it"]
fn the_process_that_dies() {
    let Some(home) = std::env::var_os(HOME) else { return };
    let mut dice = Dice(std::env::var(SEED).unwrap().parse().unwrap());
    let ehr = ehr();
    let mut spool = open(Path::new(&home));
    let mut last = spool.status().last;
    tell(format!("opened {last}"));
    loop {
        let count = 1 + dice.roll(40);
        let batch: Vec<_> = (last + 1..=last + count).map(record).collect();
        let sequences = spool.append(&batch).expect("append");
        assert_eq!(sequences.first(), Some(&Sequence(last + 1)));
        last += count;
        tell(format!("acknowledged {last}"));
        if dice.roll(3) == 0 {
            let lane = if dice.roll(2) == 0 { Lane::Live } else { Lane::Backlog };
            let records = dice.roll(60) as usize;
            let leased = spool.lease(&ehr, BatchLimit { records }, lane, Tick::ZERO).expect("lease");
            for stored in &leased {
                assert_eq!(stored.record, record(stored.sequence.0));
                tell(format!("settling {}", stored.sequence.0));
            }
            let delivered = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
            let verdicts: Vec<_> = leased.iter().map(|stored| (stored.sequence, delivered.clone())).collect();
            spool.settle(&ehr, &verdicts).expect("settle");
        }
    }
}

#[test]
fn a_process_killed_at_any_instant_loses_no_acknowledged_record() {
    let kills = std::env::var("CHAIRSIDE_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let home = fast_home();
    let mut dice = Dice(20_270_101);
    let (mut acknowledged, mut settling) = (0_u64, BTreeSet::new());
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kills::the_process_that_dies", "--ignored", "--nocapture", "--test-threads=1"])
            .env(HOME, home.path())
            .env(SEED, (kill + 1).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let patience = dice.roll(60);
        let mut heard = 0;
        let mut hear = |line: &str| {
            let Some((what, number)) = line.strip_prefix("@ ").and_then(|told| told.split_once(' ')) else {
                return 0;
            };
            let number: u64 = number.parse().unwrap();
            match what {
                "opened" => assert!(number >= acknowledged, "kill {kill}: {number} of {acknowledged}"),
                "acknowledged" => acknowledged = number,
                "settling" => drop(settling.insert(number)),
                _ => panic!("unknown word {what}"),
            }
            1
        };
        while heard <= patience {
            let line = lines.next().expect("the process lives until it is killed").unwrap();
            heard += hear(&line);
        }
        // A spin of its own length, so that the kill falls anywhere between two lines.
        for turn in 0..dice.roll(400_000) {
            std::hint::black_box(turn);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was in the pipe was told before the kill.
        for line in lines.map_while(Result::ok) {
            hear(&line);
        }
    }
    let mut spool = open(home.path());
    let status = spool.status();
    assert!(status.last >= acknowledged, "{} of {acknowledged}", status.last);
    assert_eq!((status.records, status.set_aside.len()), (status.last, 0));
    let ehr = ehr();
    let mut left = BTreeSet::new();
    loop {
        let leased = spool.lease(&ehr, BatchLimit { records: 1000 }, Lane::Backlog, Tick::ZERO).unwrap();
        if leased.is_empty() {
            break;
        }
        for stored in leased {
            assert_eq!(stored.record, record(stored.sequence.0));
            assert!(left.insert(stored.sequence.0));
        }
    }
    // Settled and never leased again: only what somebody had settled.
    let gone: BTreeSet<u64> = (1..=status.last).filter(|sequence| !left.contains(sequence)).collect();
    assert!(gone.is_subset(&settling), "{:?}", gone.difference(&settling).take(9).collect::<Vec<_>>());
    let counts = spool.status().upstreams[0].1;
    assert_eq!((counts.lost, counts.delivered), (0, gone.len() as u64));
}
