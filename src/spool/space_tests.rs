//! What leaves a spool that is full, what never does, and what a crash in the middle of it changes.

use crate::privacy::record::{Body, LossCause, Record, Tombstone};
use crate::spool::disk::Faults;
use crate::spool::slots::Missing;
use crate::spool::space::Level;
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::small_disk::SmallDisk;
use crate::spool::testing::{Keys, at, reading, record, upstream};
use crate::spool::volume::files;
use crate::spool::{BatchLimit, Counts, Lane, Retention, Sequence, Spool, SpoolError, Stored, Verdict};
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const MAX: u64 = 15 * 1024 * 1024;

struct Home {
    folder: tempfile::TempDir,
    keys: Arc<Keys>,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), keys: Arc::new(Keys::default()) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn open(&self, max_bytes: u64, faults: Option<Arc<Faults>>) -> Result<SledSpool, SpoolError> {
        let options = Options { faults, volume_records: 1_000, ..Options::new(max_bytes) };
        SledSpool::open(self.path(), self.keys.clone(), &[upstream("ehr")], options, at(0))
    }

    fn volume(&self, number: u64) -> PathBuf {
        self.path().join(format!("volume-{number:08}"))
    }
}

/// Every tenth record is an event, the others are readings.
fn kind(number: u64) -> Record {
    if number.is_multiple_of(10) { record(number) } else { reading(number) }
}

fn append(spool: &mut SledSpool, count: u64) -> Result<(), SpoolError> {
    let next = spool.status().last + 1;
    spool.append(&(next..next + count).map(kind).collect::<Vec<_>>()).map(|_| ())
}

/// What was appended, and not what the spool itself has to say.
fn events(stored: &[Stored]) -> u64 {
    let event = |stored: &&Stored| matches!(stored.record.body(), Body::Gap(_));
    stored.iter().filter(event).count() as u64
}

/// Whether the record is as it was appended.
fn is_right(stored: &Stored) -> bool {
    stored.record == kind(stored.record.origin().at.since(at(0)).as_secs())
}

fn counts(spool: &mut SledSpool) -> Counts {
    spool.status().upstreams[0].1
}

/// Everything that waits, leased in strides.
fn lease_all(spool: &mut SledSpool) -> Vec<Stored> {
    let mut all = Vec::new();
    loop {
        let some = BatchLimit { records: 1_000 };
        let leased = spool.lease(&upstream("ehr"), some, Lane::Backlog, Tick::ZERO).unwrap();
        if leased.is_empty() {
            return all;
        }
        all.extend(leased);
    }
}

/// Records that tombstones speak of, by cause, and where.
fn told(stored: &[Stored]) -> BTreeMap<u64, (u64, u64)> {
    tombstones(stored).map(|tombstone| (tombstone.first, (tombstone.last, tombstone.records))).collect()
}

fn tombstones(stored: &[Stored]) -> impl Iterator<Item = &Tombstone> {
    stored.iter().filter_map(|stored| match stored.record.body() {
        Body::Evicted(tombstone) => Some(tombstone),
        _ => None,
    })
}

#[test]
fn a_full_spool_goes_on_taking_readings_and_keeps_every_event() {
    let home = Home::new();
    let mut spool = home.open(MAX, None).unwrap();
    let mut highest = Level::Normal;
    for hundred in 0..600 {
        let numbers = hundred * 100 + 1..=hundred * 100 + 100;
        spool.append(&numbers.map(kind).collect::<Vec<_>>()).unwrap();
        highest = highest.max(spool.space().level());
    }
    let status = spool.status();
    assert!(status.space.used <= MAX, "{:?}", status.space);
    assert!(highest >= Level::Refuse, "{highest}");
    let counts = counts(&mut spool);
    assert!(counts.evicted > 10_000, "{counts:?}");
    assert_eq!((counts.waiting + counts.evicted, counts.lost), (status.last, 0));
    drop(spool);
    let mut spool = home.open(MAX, None).unwrap();
    let stored = lease_all(&mut spool);
    assert_eq!(stored.len() as u64, counts.waiting);
    let told = told(&stored);
    assert_eq!(told.values().map(|(_, records)| records).sum::<u64>(), counts.evicted);
    let there: std::collections::BTreeSet<u64> = stored.iter().map(|stored| stored.sequence.0).collect();
    assert_eq!(events(&stored), 6_000);
    for number in (1..=status.last).filter(|number| !there.contains(number)) {
        let (last, _) = told.range(..=number).next_back().map(|(_, span)| *span).unwrap();
        assert!(number <= last, "{number}");
    }
    for stored in &stored {
        match stored.record.body() {
            Body::Evicted(tombstone) => assert_eq!(tombstone.cause, LossCause::StoreFull),
            _ => assert!(is_right(stored), "{:?}", stored.sequence),
        }
    }
}

#[test]
fn delivered_volumes_leave_before_anything_that_is_waited_for() {
    let home = Home::new();
    let mut spool = home.open(MAX, None).unwrap();
    let mut delivered = 0;
    for _ in 0..450 {
        append(&mut spool, 100).unwrap();
        let leased = lease_all(&mut spool);
        let done =
            |stored: &Stored| (stored.sequence, Verdict::Delivered { parts: 1, refused_parts: Vec::new() });
        delivered += leased.len() as u64;
        spool.settle(&upstream("ehr"), &leased.iter().map(done).collect::<Vec<_>>()).unwrap();
    }
    let counts = counts(&mut spool);
    assert_eq!((counts.delivered, counts.evicted, counts.waiting), (delivered, 0, 0));
    assert!(spool.status().records < 45_000);
    assert!(spool.space().used <= MAX);
}

/// Lets the act of this turn fail, and every one after it: the process dies there.
fn dies_at(turn: u32) -> (Arc<Faults>, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let faults = move |act: &'static str| {
        if act.starts_with("ask") {
            return None;
        }
        (counted.fetch_add(1, Ordering::Relaxed) >= turn).then(|| std::io::Error::from_raw_os_error(5))
    };
    (Arc::new(faults), count)
}

#[test]
fn a_crash_at_any_step_of_an_eviction_loses_nothing_in_silence() {
    let template = Home::new();
    let mut spool = template.open(u64::MAX, None).unwrap();
    for _ in 0..45 {
        append(&mut spool, 100).unwrap();
    }
    let used = spool.space().used;
    spool.close().unwrap();
    drop(spool);
    let seeds = std::env::var("CHAIRSIDE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_u32);
    let stride = if seeds > 100 { 1 } else { 3 };
    for turn in (0..).step_by(stride) {
        let home = Home { folder: tempfile::tempdir().unwrap(), keys: template.keys.clone() };
        for path in files(template.path()).unwrap() {
            let to = home.path().join(path.strip_prefix(template.path()).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(path, to).unwrap();
        }
        // The next append has to make room.
        let (faults, acts) = dies_at(turn);
        let survived = home.open(used, Some(faults)).map(|mut spool| {
            let appended = append(&mut spool, 10).is_ok();
            (appended, counts(&mut spool).evicted)
        });
        let through = acts.load(Ordering::Relaxed) <= turn;
        let mut spool = home.open(u64::MAX, None).unwrap();
        append(&mut spool, 1).unwrap();
        let counts = counts(&mut spool);
        let stored = lease_all(&mut spool);
        assert_eq!((counts.waiting + counts.evicted, counts.lost), (spool.status().last, 0), "turn {turn}");
        assert_eq!(stored.len() as u64, counts.waiting, "turn {turn}");
        assert!(events(&stored) >= 450, "turn {turn}");
        // Each is told of once, and its slot counts once, wherever it was cut short.
        let told: u64 = tombstones(&stored).map(|tombstone| tombstone.records).sum();
        assert_eq!(told, counts.evicted, "turn {turn}");
        let slots = &spool.status().slots[0].1;
        assert_eq!(slots.missing()[Missing::Evicted as usize], counts.evicted, "turn {turn}");
        if through {
            let (appended, evicted) = survived.unwrap();
            assert_eq!((appended, told), (true, evicted), "turn {turn}");
            assert!(evicted > 0);
            return;
        }
    }
}

#[test]
fn what_is_good_in_a_damaged_volume_is_copied_and_its_files_go_aside_untouched() {
    let home = Home::new();
    let mut spool = home.open(u64::MAX, None).unwrap();
    for _ in 0..25 {
        append(&mut spool, 100).unwrap();
    }
    let store = spool.store();
    spool.close().unwrap();
    drop(spool);
    let path = home.volume(2).join("db");
    let mut bytes = fs::read(&path).unwrap();
    for lost in [1_500_u64, 1_501, 1_503] {
        let needle = [store.0.as_slice(), &lost.to_be_bytes()].concat();
        let hits: Vec<_> = (0..bytes.len() - 24).filter(|at| bytes[*at..*at + 24] == needle).collect();
        hits.iter().for_each(|at| bytes[at + 95] ^= 1);
    }
    fs::write(&path, &bytes).unwrap();
    let mut spool = home.open(u64::MAX, None).unwrap();
    let before = lease_all(&mut spool).len();
    assert_eq!((before, counts(&mut spool).lost), (2_497, 3));
    append(&mut spool, 1).unwrap();
    assert!(!home.volume(2).exists());
    assert_eq!(fs::read(home.path().join("aside/volume-00000002/db")).unwrap(), bytes);
    let status = spool.status();
    assert_eq!(status.set_aside[0].volume, "aside/volume-00000002");
    assert_eq!((status.set_aside[0].expected, status.set_aside[0].found), (1_000, 997));
    // 2,500, one appended, and two that tell of the two holes.
    assert_eq!((status.last, status.records), (2_503, 2_500));
    drop(spool);
    let mut spool = home.open(u64::MAX, None).unwrap();
    let stored = lease_all(&mut spool);
    assert_eq!(stored.len(), 2_500);
    let holes: Vec<_> = stored
        .iter()
        .filter_map(|stored| match stored.record.body() {
            Body::Evicted(told) => {
                Some((told.first, told.last, told.records, told.cause, told.from, told.to))
            }
            _ => None,
        })
        .collect();
    let damaged = LossCause::StoreDamaged;
    assert_eq!(
        holes,
        [(1_500, 1_501, 2, damaged, at(1_499), at(1_502)), (1_503, 1_503, 1, damaged, at(1_502), at(1_504))]
    );
    let policy = Retention { keep_delivered: std::time::Duration::MAX, max_bytes: u64::MAX };
    spool.prune(policy, at(89 * 86_400)).unwrap();
    assert!(home.path().join("aside/volume-00000002").exists());
    spool.prune(policy, at(91 * 86_400)).unwrap();
    assert!(!home.path().join("aside/volume-00000002").exists());
    assert_eq!(spool.status().set_aside, []);
}

#[test]
fn a_copy_is_found_again_without_the_manifest() {
    let home = Home::new();
    let mut spool = home.open(MAX, None).unwrap();
    let appended = 40_000;
    for hundred in 0..appended / 100 {
        let numbers = hundred * 100 + 1..=hundred * 100 + 100;
        spool.append(&numbers.map(kind).collect::<Vec<_>>()).unwrap();
    }
    let before = counts(&mut spool);
    assert!(before.evicted > 0);
    drop(spool);
    fs::write(home.path().join("manifest"), b"gone").unwrap();
    let mut spool = home.open(u64::MAX, None).unwrap();
    let stored = lease_all(&mut spool);
    let last = stored.iter().map(|stored| stored.sequence.0).max().unwrap();
    assert_eq!(events(&stored), appended / 10);
    assert_eq!(stored.len() as u64, before.waiting);
    assert_eq!(spool.append(&[record(1)]).unwrap(), [Sequence(last + 1)]);
}

#[test]
fn a_file_system_that_others_fill_costs_no_event_and_stops_nothing() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let keys = Arc::new(Keys::default());
    let home = disk.path().join("spool");
    let open = || {
        let options = Options { volume_records: 5_000, ..Options::new(u64::MAX) };
        SledSpool::open(&home, keys.clone(), &[upstream("ehr")], options, at(0)).unwrap()
    };
    let mut spool = open();
    let mut number = 0;
    let mut kept = 0_u64;
    let mut append = |spool: &mut SledSpool, count: u64, only_events: bool| {
        let numbers = number + 1..=number + count;
        number += count;
        let records: Vec<_> = numbers.map(|n| if only_events { record(n * 10) } else { kind(n) }).collect();
        let events = records.iter().filter(|record| matches!(record.body(), Body::Gap(_))).count() as u64;
        let answer = spool.append(&records);
        kept += if answer.is_ok() { events } else { 0 };
        answer.map(|_| ())
    };
    let full = |answer: &Result<(), SpoolError>| matches!(answer, Ok(()) | Err(SpoolError::Full { .. }));
    // The spool alone stays below what the file system has.
    for _ in 0..750 {
        append(&mut spool, 100, false).unwrap();
    }
    assert!(counts(&mut spool).evicted > 0);
    // Others take everything, at once: what machines have to say still finds room.
    disk.fill();
    append(&mut spool, 5, true).unwrap();
    append(&mut spool, 5, true).unwrap();
    // And again and again, with nothing kept back any more.
    for _ in 0..5 {
        disk.fill();
        let (events, readings) = (append(&mut spool, 5, true), append(&mut spool, 50, false));
        assert!(full(&events) && full(&readings), "{events:?} {readings:?}");
        spool.settle(&upstream("ehr"), &[(Sequence(1), Verdict::SkippedByPolicy)]).unwrap();
    }
    // There is room again, without a restart.
    fs::remove_file(disk.path().join("else")).unwrap();
    append(&mut spool, 100, false).unwrap();
    spool.close().unwrap();
    drop(spool);
    let mut spool = open();
    append(&mut spool, 100, false).unwrap();
    let stored = lease_all(&mut spool);
    let skipped = counts(&mut spool).skipped;
    assert_eq!((events(&stored) + skipped, counts(&mut spool).lost), (kept, 0));
    assert!(told(&stored).len() > 1);
}
