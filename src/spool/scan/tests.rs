//! What a scan finds in whole, in damaged and in foreign files.

use super::*;
use crate::spool::disk::Disk;
use crate::spool::frame::{HEADER, Sealer};
use crate::spool::testing::{Keys, pack, record_of, treatment};
use crate::spool::volume::Database;
use proptest::prelude::*;
use std::fs;
use std::sync::Arc;

const STORE: StoreId = StoreId([1; 16]);

fn volume(folder: &Path, keys: &Arc<Keys>, records: u64) {
    let mut sealer = Sealer::new(STORE, [2; 32], keys.clone());
    let mut volume = Database::open(folder, &Disk::default()).unwrap();
    for first in (1..=records).step_by(7) {
        let frames: Vec<_> = (first..(first + 7).min(records + 1))
            .map(|n| sealer.seal(Sequence(n), &record_of(treatment((n % 4) as u8), n)).unwrap())
            .collect();
        volume.write(pack(Sequence(first), &frames), Vec::new()).unwrap();
    }
    volume.close().unwrap();
}

fn scan(folder: &Path, keys: &Keys, last: u64, tail: Tail) -> Index {
    Index::scan(folder, STORE, 1, last, tail, &mut Opener::new(keys)).unwrap()
}

#[test]
fn every_frame_of_a_whole_volume_is_found_and_read() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    volume(home.path(), &keys, 500);
    let index = scan(home.path(), &keys, 500, Tail::Ignore);
    assert!(index.is_complete());
    assert_eq!((index.found(), index.last(), index.keys().len()), (500, 500, 4));
    let wanted: Vec<_> = (1..=500).map(Sequence).collect();
    for (sequence, frame) in wanted.iter().zip(index.frames(&wanted).unwrap()) {
        let stored = Opener::new(&*keys).open(&frame.unwrap()).unwrap();
        assert_eq!(
            (stored.sequence, stored.record),
            (*sequence, record_of(treatment((sequence.0 % 4) as u8), sequence.0))
        );
    }
}

#[test]
fn what_lies_behind_the_manifest_is_adopted_up_to_the_first_gap() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    volume(home.path(), &keys, 100);
    assert_eq!(scan(home.path(), &keys, 90, Tail::Ignore).last(), 90);
    assert_eq!(scan(home.path(), &keys, 90, Tail::Adopt).last(), 100);
    keys.destroy(treatment(2).into());
    // 91, 92 and 93 are there; 94 cannot be proved any more.
    assert_eq!(scan(home.path(), &keys, 90, Tail::Adopt).last(), 93);
}

#[test]
fn a_frame_of_a_destroyed_key_is_not_counted_as_lost() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    volume(home.path(), &keys, 100);
    keys.destroy(treatment(3).into());
    assert!(scan(home.path(), &keys, 100, Tail::Ignore).is_complete());
}

#[test]
fn a_volume_without_files_has_lost_everything() {
    let keys = Keys::default();
    let index = scan(Path::new("/nonexistent/volume"), &keys, 5, Tail::Adopt);
    assert_eq!((index.found(), index.missing().count()), (0, 5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_flipped_bit_or_a_cut_costs_no_record_but_those_it_hits(
        places in proptest::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
        volume(home.path(), &keys, 60);
        let path = home.path().join("db");
        let mut bytes = fs::read(&path).unwrap();
        for (place, bit) in &places {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        let whole = bytes.len();
        if let Some(cut) = cut {
            bytes.truncate(cut.index(whole));
        }
        fs::write(&path, &bytes).unwrap();
        let index = scan(home.path(), &keys, 60, Tail::Ignore);
        prop_assert!(bytes.len() < whole || index.found() + places.len() as u64 >= 60);
        let wanted: Vec<_> = (1..=60).map(Sequence).collect();
        for (sequence, frame) in wanted.iter().zip(index.frames(&wanted).unwrap()) {
            let Some(frame) = frame else { continue };
            let stored = Opener::new(&*keys).open(&frame).unwrap();
            prop_assert_eq!(stored.sequence, *sequence);
            prop_assert_eq!(stored.record, record_of(treatment((sequence.0 % 4) as u8), sequence.0));
        }
    }

    #[test]
    fn any_file_is_scanned_without_a_panic(bytes: Vec<u8>, repeat in 1_usize..2000) {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("db"), bytes.repeat(repeat)).unwrap();
        prop_assert_eq!(scan(home.path(), &Keys::default(), 5, Tail::Adopt).found(), 0);
    }
}

#[test]
fn a_frame_across_the_edge_of_a_window_is_found() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut sealer = Sealer::new(STORE, [2; 32], keys.clone());
    let frame = sealer.seal(Sequence(1), &record_of(treatment(1), 1)).unwrap();
    for lead in (CHUNK + MAX_FRAME - HEADER * 3)..(CHUNK + MAX_FRAME + 2) {
        if lead % 37 != 0 && lead + 6 < CHUNK + MAX_FRAME {
            continue;
        }
        let bytes = [vec![MAGIC[0]; lead], frame.clone()].concat();
        fs::write(home.path().join("db"), bytes).unwrap();
        assert_eq!(scan(home.path(), &keys, 1, Tail::Ignore).found(), 1, "{lead}");
    }
}
