//! One flipped bit in any file, and a tail that is cut off: what it costs, and whether that is said.
//!
//! A loss is reported when the status counts it as lost. A flip that costs nothing has to show every record as it was given.
//! `CHAIRSIDE_FLIPS` and `CHAIRSIDE_CUTS` set how many are tried, `CHAIRSIDE_FLIP` and `CHAIRSIDE_CUT` name one that is tried alone.

use crate::spool::{Dice, Keys, ehr, everything, fast_home, free, number, open_with, record};
use chairside::spool::verify::verify;
use chairside::spool::{Sequence, Spool, Verdict};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const RECORDS: u64 = 5_000;
const VOLUME: u64 = 500;

/// How the process ended that wrote the spool.
#[derive(Clone, Copy, Debug)]
enum End {
    InOrder,
    Killed,
}

fn fill(home: &Path, records: u64, batch: u64, end: End) {
    let place = fast_home();
    let mut spool = open_with(place.path(), VOLUME);
    for first in (1..=records).step_by(batch as usize) {
        spool.append(&(first..first + batch).map(record).collect::<Vec<_>>()).unwrap();
    }
    // The first ten are settled, so that the settlement store has something to lose.
    let delivered = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
    let verdicts: Vec<_> = (1..=10).map(|n| (Sequence(n), delivered.clone())).collect();
    spool.settle(&ehr(), &verdicts).unwrap();
    if matches!(end, End::InOrder) {
        spool.close().unwrap();
    }
    // The files as they are at this instant: what the process would still have written is lost.
    copy(place.path(), home);
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

/// The one number of this variable, or all up to the number of the other one.
fn tries(one: &str, many: &str, usual: u64) -> Range<u64> {
    match number(one) {
        Some(one) => one..one + 1,
        None => 0..number(many).unwrap_or(usual),
    }
}

/// Runs `work` for each of the numbers, in as many threads as there are processors.
fn each(numbers: Range<u64>, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(numbers.start);
    let run = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= numbers.end {
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
    fill(template.path(), RECORDS, 50, End::InOrder);
    let files = files(template.path());
    let sizes: Vec<u64> = files.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    let lost = Mutex::new(0);
    each(tries("CHAIRSIDE_FLIP", "CHAIRSIDE_FLIPS", 256), |flip| {
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
    const STEPS: u64 = 1024;
    const CUTS: u64 = 4 * STEPS;
    let tried = number("CHAIRSIDE_CUTS").unwrap_or(128).clamp(4, CUTS);
    // A number says which spool, which file and how much. As many as are wanted are spread over all there are, with each kind among them.
    let spread = |place: u64| place / 4 * 4 * CUTS / tried / 4 * 4 + place % 4;
    let one = number("CHAIRSIDE_CUT");
    let cuts: Vec<u64> = one.map_or_else(|| (0..tried).map(spread).collect(), |one| vec![one]);
    let templates = [End::InOrder, End::Killed].map(|end| {
        let home = fast_home();
        fill(home.path(), KEPT, 10, end);
        let db = home.path().join("volume-00000001/db");
        // What sled has taken ahead is not the tail of anything: the cuts fall where records are.
        let used = fs::read(&db).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        let manifest = home.path().join("manifest");
        let length = fs::metadata(&manifest).unwrap().len();
        (end, home, [(db, used), (manifest, length)], Mutex::new(0))
    });
    each(0..cuts.len() as u64, |place| {
        let number = cuts[place as usize];
        let (end, template, targets, told) = &templates[(number % 2) as usize];
        let (target, used) = &targets[(number / 2 % 2) as usize];
        let length = used.saturating_sub((number / 4 + 1) * 64);
        let home = fast_home();
        copy(template.path(), home.path());
        let name = target.strip_prefix(template.path()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(home.path().join(name)).unwrap();
        file.set_len(length).unwrap();
        drop(file);
        let what = format!("cut {number}, ended {end:?}: {} at {length}", name.display());
        *told.lock().unwrap() += cost(home.path(), KEPT, &what);
    });
    for (end, _, _, told) in &templates {
        assert!(
            one.is_some() || *told.lock().unwrap() > 0,
            "no cut took a record ({end:?}): they fell behind the tail"
        );
    }
}
