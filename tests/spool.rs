//! Kills a process that appends to the spool, at any instant and again and again, and counts what is left.
//!
//! `CHAIRSIDE_KILLS` sets how often. The oracle is outside the process that dies: it knows only what was acknowledged to it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what must hold in the shortest way"
)]

use chairside::model::name::{ChairName, MachineName, UpstreamName};
use chairside::model::time::{ClockTrust, Timestamp};
use chairside::normalise::Origin;
use chairside::privacy::keyring::{DataKey, DataKeys, KeyError, KeyId};
use chairside::privacy::record::{Event, Gap, GapCause, Record};
use chairside::spool::store::{Options, SledSpool};
use chairside::spool::{BatchLimit, Lane, Sequence, Spool, Verdict};
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::{Slot, Tick};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const HOME: &str = "CHAIRSIDE_TEST_SPOOL";
const SEED: &str = "CHAIRSIDE_TEST_SEED";

/// Keys that follow from their id.
struct Keys;

impl DataKeys for Keys {
    fn seal_key(&self, id: KeyId) -> Result<DataKey, KeyError> {
        Ok(self.open_key(id).expect("every key can be had"))
    }

    fn open_key(&self, id: KeyId) -> Option<DataKey> {
        let mut bytes = [0xA7; 32];
        bytes[..16].copy_from_slice(&id.0);
        Some(DataKey::from_bytes(bytes))
    }
}

/// The one record that this sequence may hold.
fn record(sequence: u64) -> Record {
    let at = Timestamp::from_micros(1_800_000_000_000_000 + i64::try_from(sequence).unwrap());
    let origin = Origin {
        chair: ChairName::new("chair-1").unwrap(),
        machine: MachineName::new("M-1").unwrap(),
        model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
        at,
        tick: Tick::from_micros(sequence),
        clock: ClockTrust::Trusted,
        slot: Some(Slot(sequence)),
        previous: None,
        simulated: true,
    };
    let slots = u32::try_from(sequence).unwrap();
    Record::event(origin, None, Event::Gap(Gap { from: at, to: at, slots, cause: GapCause::MachineSilent }))
}

fn open(home: &Path) -> SledSpool {
    let ehr = [UpstreamName::new("ehr").unwrap()];
    let options = Options { volume_records: 400, ..Options::new(u64::MAX) };
    SledSpool::open(home, Arc::new(Keys), &ehr, options, Timestamp::from_micros(0)).expect("open the spool")
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Tells the oracle. Written at once and in one piece, as the test harness buffers what is printed.
fn tell(line: String) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n@ {line}\n").as_bytes());
    let _ = out.flush();
}

#[test]
#[ignore = "the process that is killed; the test below starts it"]
fn the_process_that_dies() {
    let Some(home) = std::env::var_os(HOME) else { return };
    let mut dice = Dice(std::env::var(SEED).unwrap().parse().unwrap());
    let ehr = UpstreamName::new("ehr").unwrap();
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
    let kills = std::env::var("CHAIRSIDE_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(15);
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice(20_270_101);
    let (mut acknowledged, mut settling) = (0_u64, BTreeSet::new());
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_dies", "--ignored", "--nocapture", "--test-threads=1"])
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
    let ehr = UpstreamName::new("ehr").unwrap();
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
