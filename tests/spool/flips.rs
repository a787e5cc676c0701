//! One flipped bit in any file, and a tail that is cut off: what it costs, and whether that is said.
//!
//! A loss is reported when the status counts it as lost. A flip that costs nothing has to show every record as it was given.
//! `CHAIRSIDE_FLIPS` and `CHAIRSIDE_CUTS` set how many are tried.

use crate::spool::{Dice, Keys, ehr, everything, fast_home, free, number, open_with, record};
use chairside::spool::verify::verify;
use chairside::spool::{Sequence, Spool, Verdict};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const RECORDS: u64 = 5_000;
const VOLUME: u64 = 500;

fn fill(home: &Path, records: u64, batch: u64) {
    let mut spool = open_with(home, VOLUME);
    for first in (1..=records).step_by(batch as usize) {
        spool.append(&(first..first + batch).map(record).collect::<Vec<_>>()).unwrap();
    }
    // The first ten are settled, so that the settlement store has something to lose.
    let delivered = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
    let verdicts: Vec<_> = (1..=10).map(|n| (Sequence(n), delivered.clone())).collect();
    spool.settle(&ehr(), &verdicts).unwrap();
    spool.close().unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            // Space that is kept free: nobody reads it.
            false if path.ends_with("reserve") => {}
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, into: &Path) {
    for path in files(from) {
        let target = into.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, &target).unwrap();
    }
}

/// Opens a spool in which something was damaged, and gives the number of records that are gone. Each of them must be counted as lost,
/// none may come out changed, and a check of the stopped spool must have seen it.
fn cost(home: &Path, records: u64, what: &str) -> u64 {
    let check =
        free(|| verify(home, &Keys, &mut |_, _| {})).unwrap_or_else(|error| panic!("{what}: {error}"));
    let unfound: u64 = check.volumes.iter().map(|volume| volume.expected.saturating_sub(volume.found)).sum();
    let mut spool = open_with(home, VOLUME);
    let found = everything(&mut spool);
    for stored in &found {
        assert!(stored.record == record(stored.sequence.0), "{what}: {} is wrong", stored.sequence.0);
    }
    assert!(found.is_sorted_by(|one, two| one.sequence < two.sequence), "{what}");
    let status = spool.status();
    let counts = status.upstreams[0].1;
    let settled = counts.delivered;
    assert!(settled == 10 || settled == 0, "{what}: {counts:?}");
    assert_eq!(counts.waiting, found.len() as u64, "{what}");
    assert_eq!(counts.waiting + counts.lost + settled, records, "{what}: {counts:?}");
    assert_eq!(check.holds() || !check.manifest, unfound == 0, "{what}");
    // Counted by the check over all records, by the status over those that were still to be sent.
    assert!(counts.lost <= unfound, "{what}: {} lost, {unfound} not found", counts.lost);
    let last = status.last;
    spool.append(&[record(last + 1)]).unwrap_or_else(|error| panic!("{what}: intake stopped: {error}"));
    unfound.max(counts.lost)
}

/// Runs `work` for every number below `count`, in as many threads as there are processors.
fn each(count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let run = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return;
        }
        work(number);
    };
    let workers = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(run))));
}

#[test]
fn a_flipped_bit_in_any_file_costs_one_record_at_most_and_is_told() {
    let template = fast_home();
    fill(template.path(), RECORDS, 50);
    let files = files(template.path());
    let sizes: Vec<u64> = files.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    let lost = Mutex::new(0);
    each(number("CHAIRSIDE_FLIPS").unwrap_or(256), |flip| {
        let mut dice = Dice(flip.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        dice.roll(2);
        // Every fourth flip falls on a file of its own kind, however small, the others on any byte of all.
        let mut place = dice.roll(sizes.iter().sum());
        let mut file = 0;
        if flip % 4 == 0 {
            file = dice.roll(files.len() as u64) as usize;
            place = dice.roll(sizes[file].max(1));
        } else {
            while place >= sizes[file] {
                place -= sizes[file];
                file += 1;
            }
        }
        let home = fast_home();
        copy(template.path(), home.path());
        let target = home.path().join(files[file].strip_prefix(template.path()).unwrap());
        let mut bytes = fs::read(&target).unwrap();
        let bit = dice.roll(8);
        let Some(byte) = bytes.get_mut(place as usize) else { return };
        *byte ^= 1 << bit;
        fs::write(&target, &bytes).unwrap();
        let name = files[file].strip_prefix(template.path()).unwrap().display().to_string();
        let cost = cost(home.path(), RECORDS, &format!("flip {flip}: bit {bit} of byte {place} of {name}"));
        assert!(cost <= 1, "flip {flip}: bit {bit} of byte {place} of {name} cost {cost} records");
        *lost.lock().unwrap() += cost;
    });
    println!("{} records lost, each of them counted", lost.lock().unwrap());
}

#[test]
fn a_tail_cut_at_any_place_starts_and_what_it_took_is_told() {
    const KEPT: u64 = 300;
    let template = fast_home();
    fill(template.path(), KEPT, 10);
    let files = files(template.path());
    let db = files.iter().find(|path| path.ends_with("volume-00000001/db")).unwrap();
    let used = fs::read(db).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    let manifest = template.path().join("manifest");
    let length = fs::metadata(&manifest).unwrap().len();
    // What sled has taken ahead is not the tail of anything: the cuts fall where records are.
    let cuts: Vec<(&PathBuf, u64)> = (1..=1024)
        .flat_map(|step| {
            [(db, used.saturating_sub(step * 64)), (&manifest, length.saturating_sub(step * 64))]
        })
        .collect();
    let count = number("CHAIRSIDE_CUTS").unwrap_or(128).clamp(1, cuts.len() as u64);
    let told = Mutex::new(0);
    each(count, |number| {
        let (target, length) = cuts[(number as usize * cuts.len()) / count as usize];
        let home = fast_home();
        copy(template.path(), home.path());
        let name = target.strip_prefix(template.path()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(home.path().join(name)).unwrap();
        file.set_len(length).unwrap();
        drop(file);
        *told.lock().unwrap() += cost(home.path(), KEPT, &format!("{} cut to {length}", name.display()));
    });
    assert!(*told.lock().unwrap() > 0, "no cut took a record: they fell behind the tail");
}
