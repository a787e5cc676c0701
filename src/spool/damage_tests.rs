//! What a failing disk, a damaged file or a second process does to a spool.

use crate::spool::frame::{Header, Opener};
use crate::spool::scan::{Index, Tail};
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::{Keys, at, record, record_of, treatment, upstream};
use crate::spool::verify::verify;
use crate::spool::{
    BatchLimit, Lane, Reason, RefusedPart, Retention, Sequence, Spool, SpoolError, Stored, Verdict,
};
use chairside_drivers::kit::time::Tick;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

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

    fn try_open(&self, options: Options) -> Result<SledSpool, SpoolError> {
        SledSpool::open(self.path(), self.keys.clone(), &[upstream("ehr")], options, at(0))
    }

    fn open(&self) -> SledSpool {
        self.try_open(Options { volume_records: 50, ..Options::new(u64::MAX) }).unwrap()
    }

    fn volume(&self, number: u64) -> PathBuf {
        self.path().join(format!("volume-{number:08}"))
    }

    /// 120 records in three volumes, closed in order.
    fn filled() -> Self {
        let home = Self::new();
        let mut spool = home.open();
        for first in (1..=120).step_by(10) {
            spool.append(&(first..first + 10).map(record).collect::<Vec<_>>()).unwrap();
        }
        spool.close().unwrap();
        home
    }
}

fn lease(spool: &mut SledSpool) -> Vec<Stored> {
    let everything = BatchLimit { records: 1000 };
    let mut leased = spool.lease(&upstream("ehr"), everything, Lane::Backlog, Tick::ZERO).unwrap();
    leased.sort_by_key(|stored| stored.sequence);
    leased
}

fn assert_right(leased: &[Stored]) {
    for stored in leased {
        assert_eq!(stored.record, record(stored.sequence.0));
    }
}

/// Fails the acts of this name whose turn it is, counted from zero.
fn failing(act: &'static str, turns: std::ops::Range<u32>) -> Options {
    let turn = AtomicU32::new(0);
    let faults = move |now: &'static str| {
        let due = now == act && turns.contains(&turn.fetch_add(1, Ordering::Relaxed));
        due.then(|| io::Error::from_raw_os_error(5))
    };
    Options { faults: Some(Arc::new(faults)), ..Options::new(u64::MAX) }
}

#[test]
fn a_failed_sync_sends_the_records_to_a_new_volume_and_loses_none() {
    let home = Home::new();
    for act in ["sync records", "write to a database"] {
        let mut spool = home.try_open(failing(act, 3..4)).unwrap();
        let before = spool.status().last;
        for n in 1..=8 {
            assert_eq!(spool.append(&[record(before + n)]).unwrap(), [Sequence(before + n)]);
        }
        assert_eq!(spool.status().volumes % 2, 0);
        drop(spool);
    }
    let mut spool = home.open();
    let leased = lease(&mut spool);
    assert_eq!(leased.len(), 16);
    assert_right(&leased);
    assert_eq!(spool.status().set_aside, []);
}

#[test]
fn an_append_is_synced_in_its_volume_and_then_noted_in_the_manifest_before_it_is_acknowledged() {
    let home = Home::new();
    let acts = Arc::new(Mutex::new(Vec::new()));
    let noted = acts.clone();
    let faults = move |act: &'static str| {
        noted.lock().unwrap().push(act);
        None
    };
    let mut spool =
        home.try_open(Options { faults: Some(Arc::new(faults)), ..Options::new(u64::MAX) }).unwrap();
    spool.append(&[record(1)]).unwrap();
    acts.lock().unwrap().clear();
    spool.append(&[record(2)]).unwrap();
    let (write, sync, manifest) = ("write to a database", "sync records", "write the manifest");
    let acts: Vec<_> = acts.lock().unwrap().iter().copied().filter(|act| !act.starts_with("ask")).collect();
    assert_eq!(acts, [write, sync, manifest]);
}

#[test]
fn a_second_failed_sync_stops_intake_and_keeps_what_was_acknowledged() {
    let home = Home::new();
    let mut spool = home.try_open(failing("sync records", 3..9)).unwrap();
    for n in 1..=3 {
        spool.append(&[record(n)]).unwrap();
    }
    assert!(matches!(spool.append(&[record(4)]), Err(SpoolError::Disk { .. })));
    assert!(matches!(spool.append(&[record(5)]), Err(SpoolError::Disk { .. })));
    drop(spool);
    let mut spool = home.open();
    let leased = lease(&mut spool);
    assert_right(&leased);
    // The fourth was never acknowledged; it may be there or not. A fifth was never written.
    assert!((3..=4).contains(&leased.len()), "{}", leased.len());
}

#[test]
fn a_failed_manifest_is_written_once_more_and_then_stops_intake() {
    let home = Home::new();
    let mut spool = home.try_open(failing("write the manifest", 40..42)).unwrap();
    let appended = (1..=60).take_while(|n| spool.append(&[record(*n)]).is_ok()).count();
    assert!(appended < 60);
    drop(spool);
    let mut spool = home.open();
    let leased = lease(&mut spool);
    assert_right(&leased);
    assert!(leased.len() >= appended);
}

#[test]
fn a_damaged_volume_is_set_aside_untouched_and_the_rest_of_it_is_still_served() {
    let home = Home::filled();
    let path = home.volume(2).join("db");
    let mut bytes = fs::read(&path).unwrap();
    // Every copy of one frame: sled leaves older ones behind when it rewrites a page.
    let store = { home.open().store() };
    let needle = [store.0.as_slice(), &77_u64.to_be_bytes()].concat();
    let hits: Vec<_> = (0..bytes.len() - 24).filter(|place| bytes[*place..*place + 24] == needle).collect();
    assert!(!hits.is_empty());
    hits.iter().for_each(|place| bytes[place + 90] ^= 1);
    fs::write(&path, &bytes).unwrap();
    let mut spool = home.open();
    let leased = lease(&mut spool);
    assert_right(&leased);
    assert_eq!(leased.len(), 119);
    assert!(leased.iter().all(|stored| stored.sequence != Sequence(77)));
    let status = spool.status();
    let aside = &status.set_aside[0];
    assert_eq!((aside.volume.as_str(), aside.expected, aside.found), ("volume-00000002", 50, 49));
    assert_eq!((status.upstreams[0].1.lost, status.upstreams[0].1.waiting), (1, 119));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    // It is still counted after a restart, and intake goes on, with one record more that tells of the loss.
    spool.append(&[record(121)]).unwrap();
    drop(spool);
    let status = home.open().status();
    assert_eq!((status.set_aside.len(), status.upstreams[0].1.lost, status.last), (1, 1, 122));
}

#[test]
fn a_vanished_volume_is_counted_as_lost() {
    let home = Home::filled();
    fs::remove_dir_all(home.volume(1)).unwrap();
    let mut spool = home.open();
    assert_eq!(lease(&mut spool).len(), 70);
    let status = spool.status();
    assert_eq!((status.set_aside[0].found, status.upstreams[0].1.lost, status.records), (0, 50, 70));
}

#[test]
fn any_damage_to_any_file_loses_records_at_most_and_never_shows_a_wrong_one() {
    let mut dice = 7_u64;
    let mut roll = |sides: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % sides
    };
    let seeds = std::env::var("CHAIRSIDE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
    for seed in 0..seeds * 2 {
        let home = Home::filled();
        let mut targets = crate::spool::volume::files(home.path()).unwrap();
        targets.retain(|path| fs::metadata(path).unwrap().len() > 0);
        let target = targets[roll(targets.len())].clone();
        let mut bytes = fs::read(&target).unwrap();
        match roll(3) {
            0 => bytes.truncate(roll(bytes.len())),
            1 => (0..1 + roll(20)).for_each(|_| {
                let place = roll(bytes.len());
                bytes[place] ^= 1 << roll(8);
            }),
            _ => {
                let (from, length) = (roll(bytes.len()), roll(9000));
                bytes.iter_mut().skip(from).take(length).for_each(|byte| *byte = 0);
            }
        }
        fs::write(&target, &bytes).unwrap();
        let mut spool = home.open();
        let leased = lease(&mut spool);
        assert_right(&leased);
        let status = spool.status();
        let counts = status.upstreams[0].1;
        assert_eq!(counts.waiting, leased.len() as u64, "seed {seed}, {}", target.display());
        assert_eq!(counts.waiting + counts.lost, 120, "seed {seed}, {}", target.display());
        let lost: u64 = status.set_aside.iter().map(|aside| aside.expected - aside.found).sum();
        assert_eq!(lost, counts.lost, "seed {seed}, {}", target.display());
        let appended = spool.append(&[record(status.last + 1)]).unwrap();
        // What is lost is told of in front of it.
        let told = spool.status().last - 1 - status.last;
        assert!((counts.lost > 0) == (told > 0) && told <= counts.lost, "seed {seed}: {told}");
        assert_eq!(appended, [Sequence(status.last + told + 1)]);
    }
}

#[test]
fn a_lost_manifest_is_made_anew_under_a_new_store_and_nothing_is_lost() {
    let home = Home::filled();
    let store = home.open().store();
    fs::write(home.path().join("manifest"), b"gone").unwrap();
    let mut spool = home.open();
    assert_ne!(spool.store(), store);
    spool.append(&[record(121)]).unwrap();
    let leased = lease(&mut spool);
    assert_right(&leased);
    assert_eq!(leased.len(), 121);
    assert_eq!((leased[0].store, leased[120].store), (store, spool.store()));
}

#[test]
fn a_lost_settlement_store_sends_everything_again() {
    let home = Home::filled();
    let mut spool = home.open();
    let done: Vec<_> =
        (1..=60).map(|n| (Sequence(n), Verdict::Delivered { parts: 1, refused_parts: Vec::new() })).collect();
    spool.settle(&upstream("ehr"), &done).unwrap();
    drop(spool);
    for (damage, expected) in [(false, 60), (true, 120)] {
        if damage {
            fs::write(home.path().join("settlement/db"), vec![0x55; 100_000]).unwrap();
        }
        assert_eq!(lease(&mut home.open()).len(), expected);
    }
}

#[test]
fn a_second_process_is_turned_away_and_changes_nothing() {
    let home = Home::filled();
    let spool = home.open();
    let before: Vec<_> = crate::spool::volume::files(home.path())
        .unwrap()
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert!(matches!(home.try_open(Options::new(u64::MAX)), Err(SpoolError::Busy(_))));
    let after: Vec<_> = crate::spool::volume::files(home.path())
        .unwrap()
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert!(before == after);
    drop(spool);
    home.open();
}

#[test]
fn a_destroyed_key_ends_its_records_and_no_others() {
    let home = Home::new();
    let mut spool = home.open();
    spool.append(&[record(1), record_of(treatment(1), 2), record(3)]).unwrap();
    home.keys.destroy(treatment(1).into());
    let leased: Vec<_> = lease(&mut spool).iter().map(|stored| stored.sequence.0).collect();
    assert_eq!(leased, [1, 3]);
    let counts = spool.status().upstreams[0].1;
    assert_eq!((counts.erased, counts.lost, counts.waiting), (1, 0, 2));
}

#[test]
fn a_refused_record_outlives_its_volume_as_a_sealed_letter() {
    let home = Home::new();
    let mut spool = home.open();
    spool.append(&(1..=60).map(record).collect::<Vec<_>>()).unwrap();
    spool.append(&[record(61)]).unwrap();
    let reason = Reason { status: 422, issue: Some("value") };
    let refused_parts = vec![RefusedPart { part: 2, reason }];
    let delivered = |n: u64| (Sequence(n), Verdict::Delivered { parts: 1, refused_parts: Vec::new() });
    let mut verdicts: Vec<_> = (1..=61).filter(|n| ![7, 9].contains(n)).map(delivered).collect();
    verdicts.push((Sequence(9), Verdict::Refused { parts: 1, reason }));
    verdicts.push((Sequence(7), Verdict::Delivered { parts: 1, refused_parts }));
    spool.settle(&upstream("ehr"), &verdicts).unwrap();
    let policy = Retention { keep_delivered: std::time::Duration::ZERO, max_bytes: u64::MAX };
    assert_eq!(spool.prune(policy, at(0)).unwrap().records, 60);
    let store = spool.store();
    drop(spool);
    let mut opener = Opener::new(&*home.keys);
    let letters = Index::scan(&home.path().join("dead"), store, 7, 9, Tail::Ignore, &mut opener).unwrap();
    let frames = letters.frames(&[Sequence(7), Sequence(8), Sequence(9)]).unwrap();
    let records: Vec<_> =
        frames.iter().map(|frame| Some(opener.open(frame.as_ref()?).unwrap().record)).collect();
    assert_eq!(records, [Some(record(7)), None, Some(record(9))]);
}

#[test]
fn without_a_letter_a_refusal_does_not_settle() {
    let home = Home::new();
    let mut spool = home.try_open(failing("sync dead letters", 0..1)).unwrap();
    spool.append(&[record(1)]).unwrap();
    let refused = [(Sequence(1), Verdict::Refused { parts: 1, reason: Reason { status: 422, issue: None } })];
    assert!(spool.settle(&upstream("ehr"), &refused).is_err());
    assert_eq!(spool.status().upstreams[0].1.waiting, 1);
    spool.settle(&upstream("ehr"), &refused).unwrap();
    assert_eq!(spool.status().upstreams[0].1.refused, 1);
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let home = Home::filled();
    let path = home.path().join("manifest");
    let mut bytes = fs::read(&path).unwrap();
    for slot in [0, 256 * 1024] {
        let length = 20 + u32::from_be_bytes(bytes[slot + 16..slot + 20].try_into().unwrap()) as usize;
        bytes[slot + 7] = 2;
        let checksum = crc32fast::hash(&bytes[slot..slot + length]).to_be_bytes();
        bytes[slot + length..slot + length + 4].copy_from_slice(&checksum);
    }
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(home.try_open(Options::new(u64::MAX)), Err(SpoolError::Format { found: 2, .. })));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(matches!(verify(home.path(), &*home.keys, &mut |_, _| {}), Err(SpoolError::Format { .. })));
}

#[test]
fn a_check_of_a_stopped_spool_finds_what_is_missing_and_changes_nothing() {
    let home = Home::filled();
    let check = verify(home.path(), &*home.keys, &mut |_, _| {}).unwrap();
    assert!(check.holds() && check.closed);
    assert_eq!((check.last, check.volumes.len()), (120, 3));
    let path = home.volume(3).join("db");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 4]).unwrap();
    let check = verify(home.path(), &*home.keys, &mut |_, _| {}).unwrap();
    assert!(!check.holds());
    assert!(check.volumes[2].found < check.volumes[2].expected);
    assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() / 4]);
    let _running = home.open();
    assert!(matches!(verify(home.path(), &*home.keys, &mut |_, _| {}), Err(SpoolError::Busy(_))));
}

#[test]
fn every_start_seals_under_a_salt_of_its_own() {
    let home = Home::new();
    let mut salts = std::collections::HashSet::new();
    for n in 1..=5 {
        let mut spool = home.open();
        spool.append(&[record(n)]).unwrap();
        drop(spool);
    }
    for number in 1..=5 {
        for path in crate::spool::volume::files(&home.volume(number)).unwrap() {
            let bytes = fs::read(path).unwrap();
            let headers = (0..bytes.len()).filter_map(|at| Header::read(&bytes[at..]).ok());
            salts.extend(headers.map(|header| (header.salt, header.counter)));
        }
    }
    assert_eq!(salts.len(), 5);
}
