//! What a device that does not give what it has, or gives something else, costs: nothing while it may come back, and nothing in silence.

use crate::disk::reading::faults;
use crate::privacy::record::{Body, LossCause};
use crate::spool::frame::{Header, Sealer};
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::{Keys, at, record, upstream};
use crate::spool::volume::files;
use crate::spool::{BatchLimit, Counts, Lane, Sequence, Spool, SpoolError, Stored, Verdict};
use chairside_drivers::kit::time::Tick;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Home {
    folder: tempfile::TempDir,
    keys: Arc<Keys>,
}

impl Home {
    /// 120 records in three volumes, closed in order.
    fn filled() -> Self {
        let home = Self { folder: crate::spool::testing::fast_home(), keys: Arc::new(Keys::default()) };
        let mut spool = home.open();
        for first in (1..=120).step_by(10) {
            spool.append(&(first..first + 10).map(record).collect::<Vec<_>>()).unwrap();
        }
        spool.close().unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn open(&self) -> SledSpool {
        let options = Options { volume_records: 50, ..Options::new(u64::MAX) };
        SledSpool::open(self.path(), self.keys.clone(), &[upstream("ehr")], options, at(0)).unwrap()
    }

    fn volume(&self, number: u64) -> PathBuf {
        self.path().join(format!("volume-{number:08}"))
    }

    /// From now on, nothing can be read of where this record is in its volume.
    fn lose_blocks_of(&self, store: [u8; 16], sequence: u64, volume: u64) {
        let path = self.volume(volume).join("db");
        let (inode, places) =
            (fs::metadata(&path).unwrap().ino(), places(&fs::read(&path).unwrap(), store, sequence));
        assert!(!places.is_empty());
        faults::fail(move |file, offset, length| {
            let here = |place: &usize| (offset..offset + length as u64).contains(&(*place as u64));
            file.metadata().unwrap().ino() == inode && places.iter().any(here)
        });
    }
}

/// Where the frames of a record begin.
fn places(bytes: &[u8], store: [u8; 16], sequence: u64) -> Vec<usize> {
    let needle = [store.as_slice(), &sequence.to_be_bytes()].concat();
    let hits = (8..bytes.len() - 24).filter(|at| bytes[*at..*at + 24] == needle);
    hits.map(|at| at - 8).filter(|at| Header::read(&bytes[*at..]).is_ok()).collect()
}

fn try_lease(spool: &mut SledSpool, limit: usize, second: u64) -> Result<Vec<Stored>, SpoolError> {
    let limit = BatchLimit { records: limit };
    spool.lease(&upstream("ehr"), limit, Lane::Backlog, Tick::from_micros(second * 1_000_000))
}

fn counts(spool: &mut SledSpool) -> Counts {
    spool.status().upstreams[0].1
}

/// First and last of what records say is lost.
fn told(stored: &[Stored]) -> Vec<(u64, u64, LossCause)> {
    let tombstones = stored.iter().filter_map(|stored| match stored.record.body() {
        Body::Evicted(tombstone) => Some((tombstone.first, tombstone.last, tombstone.cause)),
        _ => None,
    });
    tombstones.collect()
}

fn assert_right(stored: &[Stored]) {
    for stored in stored {
        assert_eq!(stored.record, record(stored.sequence.0));
    }
}

#[test]
fn a_burst_of_read_errors_ends_no_record_wherever_it_begins() {
    let home = Home::filled();
    for already_read in [0, 1, 45, 75] {
        for burst in [1, 2, 3, 7, 200] {
            let mut spool = home.open();
            let mut leased =
                if already_read > 0 { try_lease(&mut spool, already_read, 1).unwrap() } else { Vec::new() };
            faults::fail_next(burst);
            for second in 1..100 {
                match try_lease(&mut spool, 1000, second) {
                    Ok(more) if more.is_empty() => break,
                    Ok(more) => leased.extend(more),
                    Err(error) => assert!(matches!(error, SpoolError::Disk { .. }), "{error}"),
                }
                if second == 60 {
                    faults::heal();
                }
            }
            faults::heal();
            assert_right(&leased);
            let case = format!("{burst} failed reads behind {already_read} records");
            assert_eq!(leased.len(), 120, "{case}");
            let status = spool.status();
            assert_eq!((status.upstreams[0].1.lost, status.set_aside), (0, vec![]), "{case}");
        }
    }
}

#[test]
fn a_burst_of_read_errors_at_a_start_ends_no_record() {
    for burst in [1, 4, 40, 400] {
        let home = Home::filled();
        // A process that was cut off: the newest volume is scanned at the next start.
        let mut spool = home.open();
        spool.append(&[record(121)]).unwrap();
        drop(spool);
        faults::fail_next(burst);
        let mut spool = home.open();
        faults::heal();
        let leased = try_lease(&mut spool, 1000, 10).unwrap();
        assert_right(&leased);
        assert_eq!((leased.len(), counts(&mut spool).lost), (121, 0), "{burst} failed reads");
        assert_eq!(spool.append(&[record(122)]).unwrap(), [Sequence(122)]);
    }
}

#[test]
fn what_stays_unreadable_is_lost_after_a_while_and_told_and_all_else_comes_out() {
    let home = Home::filled();
    let mut spool = home.open();
    home.lose_blocks_of(spool.store().0, 77, 2);
    let mut leased = Vec::new();
    for second in 1..300 {
        leased.extend(try_lease(&mut spool, 1000, second).unwrap_or_default());
        let lost = counts(&mut spool).lost;
        assert!(lost == 0 || second > 60, "{lost} lost after {second} s");
    }
    let lost = counts(&mut spool).lost;
    assert!((1..50).contains(&lost), "{lost}");
    assert_eq!(leased.len() as u64 + lost, 120);
    spool.append(&[record(121)]).unwrap();
    let after = try_lease(&mut spool, 1000, 400).unwrap();
    let told = told(&after);
    assert!(told.iter().any(|(first, last, _)| (*first..=*last).contains(&77)), "{told:?}");
    assert_eq!(told.iter().map(|(first, last, _)| last - first + 1).sum::<u64>(), lost);
    faults::heal();
}

#[test]
fn what_can_be_read_again_before_it_is_given_up_was_never_lost() {
    let home = Home::filled();
    let mut spool = home.open();
    home.lose_blocks_of(spool.store().0, 77, 2);
    let mut leased = Vec::new();
    for second in 1..100 {
        leased.extend(try_lease(&mut spool, 1000, second).unwrap_or_default());
        if second == 90 {
            faults::heal();
        }
    }
    assert_right(&leased);
    assert_eq!((leased.len(), counts(&mut spool).lost), (120, 0));
    assert_eq!(spool.append(&[record(121)]).unwrap(), [Sequence(121)]);
}

#[test]
fn a_read_error_while_good_records_are_copied_leaves_none_of_them_behind() {
    for burst in 1..12 {
        let home = Home::filled();
        let mut spool = home.open();
        let path = home.volume(2).join("db");
        let mut bytes = fs::read(&path).unwrap();
        let places = places(&bytes, spool.store().0, 77);
        places.iter().for_each(|place| bytes[place + 110] ^= 1);
        fs::write(&path, &bytes).unwrap();
        let leased = try_lease(&mut spool, 1000, 1).unwrap();
        assert_eq!((leased.len(), counts(&mut spool).lost), (119, 1));
        faults::fail_next(burst);
        spool.append(&[record(121)]).unwrap();
        faults::heal();
        let everything =
            crate::spool::Retention { keep_delivered: std::time::Duration::MAX, max_bytes: u64::MAX };
        spool.prune(everything, at(0)).unwrap();
        let mut told_at_last = Vec::new();
        for second in [100, 200] {
            spool.append(&[record(1)]).unwrap();
            told_at_last.extend(told(&try_lease(&mut spool, 1000, second).unwrap()));
        }
        assert_eq!(told_at_last, [(77, 77, LossCause::StoreDamaged)], "{burst}");
        drop(spool);
        let mut spool = home.open();
        let first: Vec<_> = try_lease(&mut spool, 119, 1).unwrap();
        assert_right(&first);
        assert_eq!((first.len(), counts(&mut spool).lost), (119, 1), "{burst}");
    }
}

#[test]
fn a_frame_of_another_record_in_the_place_of_one_is_not_taken_for_it() {
    let home = Home::filled();
    let mut spool = home.open();
    let first = try_lease(&mut spool, 55, 1).unwrap();
    assert_eq!(first.len(), 55);
    // The volume is at hand now. Behind its back, the frame of record 77 becomes a copy of that of record 78.
    let path = home.volume(2).join("db");
    let mut bytes = fs::read(&path).unwrap();
    let store = spool.store().0;
    let (to, from) = (places(&bytes, store, 77), places(&bytes, store, 78));
    let length = Header::read(&bytes[from[0]..]).unwrap().frame_length();
    for to in to {
        assert_eq!(Header::read(&bytes[to..]).unwrap().frame_length(), length);
        bytes.copy_within(from[0]..from[0] + length, to);
    }
    fs::write(&path, &bytes).unwrap();
    let rest = try_lease(&mut spool, 1000, 1).unwrap();
    assert_right(&rest);
    let numbers: Vec<u64> = rest.iter().map(|stored| stored.sequence.0).collect();
    assert_eq!(numbers, (56..=120).filter(|number| *number != 77).collect::<Vec<_>>());
    assert_eq!(counts(&mut spool).lost, 1);
    spool.append(&[record(121)]).unwrap();
    assert_eq!(told(&try_lease(&mut spool, 1000, 1).unwrap()), [(77, 77, LossCause::StoreDamaged)]);
}

#[test]
fn a_record_that_moved_within_its_volume_is_found_again() {
    let home = Home::filled();
    let mut spool = home.open();
    try_lease(&mut spool, 55, 1).unwrap();
    let path = home.volume(2).join("db");
    let mut bytes = fs::read(&path).unwrap();
    let places = places(&bytes, spool.store().0, 77);
    let length = Header::read(&bytes[places[0]..]).unwrap().frame_length();
    let frame = bytes[places[0]..places[0] + length].to_vec();
    places.iter().for_each(|place| bytes[*place] ^= 1);
    fs::write(&path, &bytes).unwrap();
    fs::write(home.volume(2).join("moved"), frame).unwrap();
    let rest = try_lease(&mut spool, 1000, 1).unwrap();
    assert_right(&rest);
    assert_eq!((rest.len(), counts(&mut spool).lost), (65, 0));
}

#[test]
fn frames_of_another_store_under_the_same_keys_stand_in_for_nothing() {
    let home = Home::filled();
    let store = home.open().store();
    let mut foreign = Sealer::new(crate::spool::StoreId([9; 16]), [3; 32], home.keys.clone());
    let frames: Vec<u8> =
        (51..=100).flat_map(|n| foreign.seal(Sequence(n), &record(n + 1000)).unwrap()).collect();
    // A file behind all others: what is found last would win.
    fs::write(home.volume(2).join("zz-foreign"), &frames).unwrap();
    assert!(files(&home.volume(2)).unwrap().last().unwrap().ends_with("zz-foreign"));
    let path = home.volume(2).join("db");
    let mut bytes = fs::read(&path).unwrap();
    places(&bytes, store.0, 77).iter().for_each(|place| bytes[place + 110] ^= 1);
    fs::write(&path, &bytes).unwrap();
    let mut spool = home.open();
    let leased = try_lease(&mut spool, 1000, 1).unwrap();
    assert_right(&leased);
    assert_eq!((leased.len(), counts(&mut spool).lost), (119, 1));
    let status = spool.status();
    assert_eq!((status.set_aside[0].expected, status.set_aside[0].found), (50, 49));
}

#[test]
fn a_record_that_is_leased_when_its_volume_is_damaged_is_not_ended() {
    let home = Home::filled();
    let mut spool = home.open();
    let leased = try_lease(&mut spool, 60, 1).unwrap();
    assert_eq!(leased.len(), 60);
    fs::remove_dir_all(home.volume(2)).unwrap();
    let rest = try_lease(&mut spool, 1000, 1).unwrap();
    assert_eq!(rest.len(), 20);
    let done =
        |stored: &Stored| (stored.sequence, Verdict::Delivered { parts: 1, refused_parts: Vec::new() });
    spool.settle(&upstream("ehr"), &leased.iter().map(done).collect::<Vec<_>>()).unwrap();
    assert_eq!((counts(&mut spool).delivered, counts(&mut spool).lost), (60, 40));
}
