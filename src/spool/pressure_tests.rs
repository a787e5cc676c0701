//! What a disk without room and an eviction under way do not cost: what an upstream has in hand, what was settled, and the start.

use crate::model::name::ChairName;
use crate::privacy::record::{Body, LossCause};
use crate::spool::disk::Faults;
use crate::spool::frame::Header;
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::small_disk::SmallDisk;
use crate::spool::testing::{Keys, at, fast_home, reading, record, upstream};
use crate::spool::{BatchLimit, Counts, Lane, Retention, Sequence, Spool, SpoolError, Stored, Verdict};
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MAX: u64 = 15 * 1024 * 1024;
const ENOSPC: i32 = 28;
const EPERM: i32 = 1;

/// A disk on which acts of some names fail while somebody wants that.
#[derive(Clone, Default)]
struct Failing(Arc<Mutex<BTreeSet<&'static str>>>);

impl Failing {
    fn these(&self, acts: &[&'static str]) {
        *self.0.lock().unwrap() = acts.iter().copied().collect();
    }

    fn faults(&self, error: i32) -> Arc<Faults> {
        let acts = self.0.clone();
        Arc::new(move |act| acts.lock().unwrap().contains(act).then(|| io::Error::from_raw_os_error(error)))
    }
}

fn open(home: &Path, keys: &Arc<Keys>, options: Options) -> SledSpool {
    SledSpool::open(home, keys.clone(), &[upstream("ehr")], options, at(0)).unwrap()
}

fn small(faults: Option<Arc<Faults>>) -> Options {
    Options { faults, volume_records: 50, ..Options::new(u64::MAX) }
}

fn lease(spool: &mut SledSpool, records: usize) -> Vec<Stored> {
    let limit = BatchLimit { records };
    spool.lease(&upstream("ehr"), limit, Lane::Backlog, Tick::ZERO).unwrap()
}

fn delivered(sequence: u64) -> (Sequence, Verdict) {
    (Sequence(sequence), Verdict::Delivered { parts: 1, refused_parts: Vec::new() })
}

fn settle(spool: &mut SledSpool, sequences: impl IntoIterator<Item = u64>) {
    let verdicts: Vec<_> = sequences.into_iter().map(delivered).collect();
    spool.settle(&upstream("ehr"), &verdicts).unwrap();
}

fn fill(spool: &mut SledSpool, hundreds: u64) -> Result<(), SpoolError> {
    for hundred in 0..hundreds {
        let numbers = hundred * 100 + 1..=hundred * 100 + 100;
        spool.append(&numbers.map(reading).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn counts(spool: &mut SledSpool) -> Counts {
    spool.status().upstreams[0].1
}

fn copy(from: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = into.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

#[test]
fn a_disk_without_room_costs_no_settlement_that_was_written() {
    let (home, keys, disk) = (fast_home(), Arc::new(Keys::default()), Failing::default());
    let mut spool = open(home.path(), &keys, small(Some(disk.faults(ENOSPC))));
    spool.append(&(1..=120).map(record).collect::<Vec<_>>()).unwrap();
    settle(&mut spool, 1..=60);
    for acts in [&["write to a database"][..], &["write to a database", "open a database"]] {
        disk.these(acts);
        settle(&mut spool, 61..=70);
        settle(&mut spool, 71..=75);
    }
    let cut_off = fast_home();
    copy(home.path(), cut_off.path());
    assert_eq!(counts(&mut open(cut_off.path(), &keys, small(None))).delivered, 60);
    // Once there is room, what waited is written.
    disk.these(&[]);
    settle(&mut spool, 76..=80);
    let cut_off = fast_home();
    copy(home.path(), cut_off.path());
    assert_eq!(counts(&mut open(cut_off.path(), &keys, small(None))).delivered, 80);
}

#[test]
fn a_settlement_store_that_finds_no_room_at_a_start_is_left_as_it_is() {
    let (home, keys, disk) = (fast_home(), Arc::new(Keys::default()), Failing::default());
    let mut spool = open(home.path(), &keys, small(None));
    spool.append(&(1..=120).map(record).collect::<Vec<_>>()).unwrap();
    settle(&mut spool, 1..=60);
    spool.close().unwrap();
    drop(spool);
    disk.these(&["open a database"]);
    let options = small(Some(disk.faults(ENOSPC)));
    let opened = SledSpool::open(home.path(), keys.clone(), &[upstream("ehr")], options, at(0));
    assert!(matches!(opened, Err(SpoolError::Disk { .. })), "{opened:?}");
    assert_eq!(counts(&mut open(home.path(), &keys, small(None))).delivered, 60);
}

#[test]
fn a_prune_and_a_start_of_a_run_without_room_are_done_another_time() {
    for act in [
        "write dead letters",
        "write to a database",
        "sync the settlement store",
        "write down the poll slots",
    ] {
        let (home, keys, disk) = (fast_home(), Arc::new(Keys::default()), Failing::default());
        let mut spool = open(home.path(), &keys, small(Some(disk.faults(ENOSPC))));
        spool.append(&(1..=60).map(record).collect::<Vec<_>>()).unwrap();
        spool.append(&[record(61)]).unwrap();
        let reason = crate::spool::Reason { status: 422, issue: None };
        for n in 1..=40 {
            spool.settle(&upstream("ehr"), &[(Sequence(n), Verdict::Refused { parts: 1, reason })]).unwrap();
        }
        settle(&mut spool, 41..=60);
        disk.these(&[act]);
        let chairs = [(ChairName::new("chair-1").unwrap(), Duration::from_secs(1))];
        spool.begin_run(&chairs).unwrap();
        let policy = Retention { keep_delivered: Duration::ZERO, max_bytes: u64::MAX };
        spool.prune(policy, at(1)).unwrap();
        disk.these(&[]);
        assert_eq!(spool.append(&[record(62)]).unwrap(), [Sequence(62)], "{act}");
        spool.prune(policy, at(2)).unwrap();
        assert_eq!((spool.status().records, counts(&mut spool).refused), (2, 40), "{act}");
        spool.close().unwrap();
    }
}

#[test]
fn a_start_on_a_file_system_that_others_filled_takes_what_was_reserved() {
    let Some(disk) = SmallDisk::new(96) else { return };
    let (home, keys) = (disk.path().join("spool"), Arc::new(Keys::default()));
    let options = || Options { volume_records: 5_000, ..Options::new(1 << 30) };
    let mut spool = open(&home, &keys, options());
    spool.append(&(1..=120).map(record).collect::<Vec<_>>()).unwrap();
    settle(&mut spool, 1..=60);
    drop(spool);
    assert!(home.join("reserve").exists());
    disk.fill();
    let mut spool = open(&home, &keys, options());
    assert_eq!((counts(&mut spool).delivered, counts(&mut spool).waiting), (60, 60));
    spool.begin_run(&[(ChairName::new("chair-1").unwrap(), Duration::from_secs(1))]).unwrap();
    spool.append(&[record(121)]).unwrap();
    settle(&mut spool, 61..=70);
    spool.prune(Retention { keep_delivered: Duration::ZERO, max_bytes: 1 << 30 }, at(1)).unwrap();
    spool.close().unwrap();
    drop(spool);
    assert_eq!(counts(&mut open(&home, &keys, options())).delivered, 70);
}

#[test]
fn what_an_upstream_has_in_hand_is_not_evicted() {
    let (home, keys) = (fast_home(), Arc::new(Keys::default()));
    let options = || Options { volume_records: 1_000, ..Options::new(MAX) };
    let mut spool = open(home.path(), &keys, options());
    fill(&mut spool, 20).unwrap();
    let in_hand: Vec<u64> = lease(&mut spool, 700).iter().map(|stored| stored.sequence.0).collect();
    assert_eq!(in_hand, (1..=700).collect::<Vec<_>>());
    fill(&mut spool, 600).unwrap();
    let before = counts(&mut spool);
    assert!(before.evicted > 10_000, "{before:?}");
    settle(&mut spool, in_hand);
    let after = counts(&mut spool);
    assert_eq!((after.delivered, after.evicted, after.lost), (700, before.evicted, 0));
    // What is left of that volume goes when nobody has it in hand any more.
    fill(&mut spool, 100).unwrap();
    assert!(!home.path().join("volume-00000001").exists());
    assert!(spool.space().used <= MAX);
}

#[test]
fn files_of_a_damaged_volume_that_nobody_may_remove_do_not_stop_an_eviction() {
    let (home, keys, disk) = (fast_home(), Arc::new(Keys::default()), Failing::default());
    let options = || Options { volume_records: 1_000, faults: Some(disk.faults(EPERM)), ..Options::new(MAX) };
    let mut spool = open(home.path(), &keys, options());
    fill(&mut spool, 25).unwrap();
    let store = spool.store();
    spool.close().unwrap();
    drop(spool);
    damage(&volume(home.path(), 2).join("db"), store.0, 1_500);
    let mut spool = open(home.path(), &keys, options());
    lease_all(&mut spool);
    spool.append(&[reading(1)]).unwrap();
    assert!(home.path().join("aside/volume-00000002").exists());
    spool.close().unwrap();
    drop(spool);
    disk.these(&["remove the files of a damaged volume"]);
    let mut spool = open(home.path(), &keys, options());
    fill(&mut spool, 600).unwrap();
    assert!(counts(&mut spool).evicted > 10_000);
    let policy = Retention { keep_delivered: Duration::ZERO, max_bytes: MAX };
    spool.prune(policy, at(91 * 86_400)).unwrap();
    assert_eq!(spool.status().set_aside.len(), 1);
    disk.these(&[]);
    spool.prune(policy, at(91 * 86_400)).unwrap();
    assert_eq!(spool.status().set_aside, []);
}

/// Appends a record that nobody can read, as a newer program could have written it.
fn append_a_riddle(spool: &mut SledSpool) -> u64 {
    let sequence = spool.contents.last + 1;
    let row = spool.sealer.seal_a_riddle(Sequence(sequence)).into();
    spool.write_frames(&[(Sequence(sequence), row)], at(1)).unwrap();
    spool.contents.last = sequence;
    spool.contents.volumes.last_mut().unwrap().last = sequence;
    spool.mark().unwrap();
    spool.settlement.appended(sequence);
    sequence
}

#[test]
fn a_record_that_authenticates_and_cannot_be_read_stops_no_eviction_and_stays() {
    let (home, keys) = (fast_home(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys, Options { volume_records: 1_000, ..Options::new(MAX) });
    fill(&mut spool, 5).unwrap();
    let riddle = append_a_riddle(&mut spool);
    fill(&mut spool, 600).unwrap();
    assert!(counts(&mut spool).evicted > 10_000);
    assert!(spool.frames(&[Sequence(riddle)]).unwrap()[0].is_some());
    // Whoever asks for it hears that it is lost, once.
    let mut leased = lease_all(&mut spool);
    for n in 1..=2 {
        spool.append(&[record(n)]).unwrap();
        leased.extend(lease_all(&mut spool));
    }
    let damaged = leased.iter().filter_map(|stored| match stored.record.body() {
        Body::Evicted(tombstone) if tombstone.cause == LossCause::StoreDamaged => Some(tombstone),
        _ => None,
    });
    let told: Vec<_> = damaged.collect();
    assert_eq!(counts(&mut spool).lost, 1);
    assert_eq!(told.iter().map(|it| (it.first, it.last)).collect::<Vec<_>>(), [(riddle, riddle)]);
}

fn lease_all(spool: &mut SledSpool) -> Vec<Stored> {
    let mut all = Vec::new();
    loop {
        let leased = lease(spool, 1_000);
        if leased.is_empty() {
            return all;
        }
        all.extend(leased);
    }
}

#[test]
fn a_folder_that_stands_where_a_damaged_volume_should_go_stops_no_start() {
    let (home, keys) = (fast_home(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys, small(None));
    for first in (1..=120).step_by(10) {
        spool.append(&(first..first + 10).map(record).collect::<Vec<_>>()).unwrap();
    }
    let store = spool.store();
    spool.close().unwrap();
    drop(spool);
    fs::create_dir_all(home.path().join("aside/volume-00000002/something")).unwrap();
    damage(&volume(home.path(), 2).join("db"), store.0, 77);
    for appended in 1..=3 {
        let mut spool = open(home.path(), &keys, small(None));
        let leased = lease(&mut spool, 1_000);
        let told = leased.iter().filter(|stored| matches!(stored.record.body(), Body::Evicted(_))).count();
        assert_eq!(told, usize::from(appended > 1));
        assert_eq!(counts(&mut spool).lost, 1);
        spool.append(&[record(appended)]).unwrap();
    }
    assert!(home.path().join("aside/volume-00000002/something").exists());
}

#[test]
fn no_number_that_an_upstream_knows_is_given_again() {
    let (home, older, keys) = (fast_home(), fast_home(), Arc::new(Keys::default()));
    let all = || Options::new(u64::MAX);
    let mut spool = open(home.path(), &keys, all());
    spool.append(&(1..=110).map(record).collect::<Vec<_>>()).unwrap();
    copy(home.path(), older.path());
    spool.append(&(111..=120).map(record).collect::<Vec<_>>()).unwrap();
    settle(&mut spool, (1..=118).filter(|sequence| *sequence != 115));
    spool.flush().unwrap();
    drop(spool);
    // The disk had confirmed ten records more than it kept.
    fs::remove_dir_all(older.path().join("settlement")).unwrap();
    copy(&home.path().join("settlement"), &older.path().join("settlement"));
    let mut spool = open(older.path(), &keys, all());
    let counts_now = counts(&mut spool);
    assert_eq!((counts_now.delivered, counts_now.lost, counts_now.waiting), (117, 1, 0));
    let appended = spool.append(&[record(1)]).unwrap();
    let leased = lease(&mut spool, 100);
    let numbers: Vec<u64> = leased.iter().map(|stored| stored.sequence.0).collect();
    assert_eq!((numbers.as_slice(), appended.as_slice()), (&[119, 120][..], &[Sequence(120)][..]));
    let Body::Evicted(tombstone) = leased[0].record.body() else { panic!("{:?}", leased[0]) };
    assert_eq!((tombstone.first, tombstone.last, tombstone.cause), (115, 115, LossCause::StoreDamaged));
    drop(spool);
    let mut spool = open(older.path(), &keys, all());
    assert_eq!((counts(&mut spool).lost, spool.status().last), (1, 120));
}

fn volume(home: &Path, number: u64) -> PathBuf {
    home.join(format!("volume-{number:08}"))
}

/// Every copy of one frame: sled leaves older ones behind when it rewrites a page.
fn damage(path: &Path, store: [u8; 16], sequence: u64) {
    let mut bytes = fs::read(path).unwrap();
    let needle = [store.as_slice(), &sequence.to_be_bytes()].concat();
    let hits: Vec<_> = (8..bytes.len() - 24).filter(|at| bytes[*at..*at + 24] == needle).collect();
    let frames: Vec<_> = hits.into_iter().filter(|at| Header::read(&bytes[at - 8..]).is_ok()).collect();
    assert!(!frames.is_empty());
    frames.iter().for_each(|at| bytes[at + 100] ^= 1);
    fs::write(path, &bytes).unwrap();
}
