//! How a life ends badly: a file that is damaged between two runs, a power cut while records are appended to a disk that fails,
//! or one on a disk that answers every sync well and keeps nothing.

use super::{End, Life, ROOM, VOLUME, fast_home, open};
use crate::disk::Disk;
use crate::disk::simulated::Fault;
use crate::model::name::UpstreamName;
use crate::privacy::record::Record;
use crate::spool::manifest::folder_name;
use crate::spool::opening::volume_folders;
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::{at, treatment};
use crate::spool::volume::files;
use crate::spool::{BatchLimit, Lane, Spool};
use chairside_drivers::kit::time::Tick;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records that lives were lied to about: counted as lost, and behind all that is known.
pub(super) static LOST_TO_LIES: AtomicU64 = AtomicU64::new(0);
pub(super) static BEHIND_LIES: AtomicU64 = AtomicU64::new(0);

type Waiting = BTreeMap<UpstreamName, BTreeSet<u64>>;

impl Life {
    /// One file is damaged while nobody looks. It costs records at most, each of them is counted, and intake goes on.
    pub(super) fn damage(mut self) {
        let (lost_before, store) = (self.lost(), self.real().store());
        let end = if self.dice.roll(2) == 0 { End::Crash } else { End::Close };
        self.end(end);
        let mut targets = files(self.home.path()).unwrap();
        targets.retain(|path| fs::metadata(path).unwrap().len() > 0);
        let Some(target) = targets.get(self.dice.roll(targets.len().max(1) as u64) as usize).cloned() else {
            return;
        };
        self.spoil(&target);
        let real = open(self.home.path(), &self.keys, &self.upstreams);
        let store_is_lost = real.store() != store;
        self.real = Some(real);
        let (expected, found) = (self.model_waiting(), self.real_waiting());
        let lost_now = self.lost();
        for (name, expected) in &expected {
            let lost = lost_now[name] - lost_before.get(name).copied().unwrap_or_default();
            let missing = expected.difference(&found[name]).count() as u64;
            let place = target.display();
            // What was settled already, in this volume, is lost to nobody.
            assert_eq!(lost, missing, "seed {}, {place}, {name}", self.seed);
            // More comes out again where the settlements are lost, and only there.
            let again = found[name].difference(expected).count();
            let forgotten = target.starts_with(self.home.path().join("settlement")) || store_is_lost;
            assert!(again == 0 || forgotten, "seed {}, {place}, {name}: {again} again", self.seed);
        }
        let last = self.real().status().last;
        let more = self.new_records(3);
        // A record that says what was lost may come before them.
        assert!(self.real().append(&more).unwrap()[0].0 > last, "seed {}", self.seed);
    }

    fn spoil(&mut self, target: &Path) {
        let mut bytes = fs::read(target).unwrap();
        let length = bytes.len() as u64;
        match self.dice.roll(4) {
            0 => bytes.truncate(self.dice.roll(length) as usize),
            1 => (0..1 + self.dice.roll(20)).for_each(|_| {
                bytes[self.dice.roll(length) as usize] ^= 1 << self.dice.roll(8);
            }),
            2 => {
                let (from, many) = (self.dice.roll(length) as usize, self.dice.roll(9000) as usize);
                bytes.iter_mut().skip(from).take(many).for_each(|byte| *byte = 0);
            }
            _ => return fs::remove_file(target).unwrap(),
        }
        fs::write(target, &bytes).unwrap();
    }

    /// The disk fails once while records are appended, then the power goes: whatever was acknowledged is there, what was under way
    /// is there up to some record.
    pub(super) fn lose_power(mut self) {
        self.end(End::Close);
        let faults = [Fault::PowerCut, Fault::PowerCutAfter, Fault::Broken, Fault::Full, Fault::Short];
        let fault = faults[self.dice.roll(faults.len() as u64) as usize];
        let disk = Disk::simulated(&[(self.dice.roll(40), fault)]);
        let options = Options { volume_records: VOLUME, disk: disk.clone(), ..Options::new(ROOM) };
        let opened = SledSpool::open(self.home.path(), self.keys.clone(), &self.upstreams, options, at(0));
        let mut under_way = Vec::new();
        if let Ok(mut real) = opened {
            for _ in 0..1 + self.dice.roll(6) {
                let count = 1 + self.dice.roll(12);
                let records = self.new_records(count);
                match real.append(&records) {
                    Ok(sequences) => {
                        assert_eq!(self.model.append(&records).unwrap(), sequences, "seed {}", self.seed);
                        self.written.extend(records);
                    }
                    Err(_) => {
                        under_way = records;
                        break;
                    }
                }
            }
            self.cut(&disk);
            drop(real);
        } else {
            self.cut(&disk);
        }
        self.model.crash(&self.upstreams);
        self.real = Some(open(self.home.path(), &self.keys, &self.upstreams));
        let more = self.real().status().last.checked_sub(self.written.len() as u64);
        let more = more.unwrap_or_else(|| panic!("seed {}: acknowledged records are gone", self.seed));
        let kept: Vec<Record> = under_way.into_iter().take(more as usize).collect();
        assert_eq!(kept.len() as u64, more, "seed {}: records nobody gave it", self.seed);
        self.model.append(&kept).unwrap();
        self.written.extend(kept);
        let (expected, found) = (self.model_waiting(), self.real_waiting());
        // A settlement store whose sync failed is given up, and what it knew is sent again.
        let failed = disk.acts().into_iter().find(|act| act.contains(": Broken") || act.contains(": Full"));
        let forgotten = failed.is_some_and(|act| {
            ["database", "settlement", "sync the folder"].iter().any(|part| act.contains(part))
        });
        for (name, expected) in &expected {
            let (found, seed) = (&found[name], self.seed);
            let gone: Vec<_> = expected.difference(found).collect();
            assert!(gone.is_empty(), "seed {seed}, {fault:?}, {name}: {gone:?} are gone\n{:#?}", disk.acts());
            let again: Vec<_> = found.difference(expected).collect();
            assert!(
                again.is_empty() || forgotten,
                "seed {seed}, {name}: {again:?} again\n{:#?}",
                disk.acts()
            );
        }
        assert_eq!(self.real().status().set_aside, [], "seed {}", self.seed);
    }

    /// From some act on the disk keeps nothing that it says it keeps, then the power goes, and the newest volume loses its end. The
    /// spool starts. No record is wrong, each one that is gone is counted or behind all that is known, and the
    /// slots of those are open, so that they show as a gap.
    pub(super) fn be_lied_to(mut self) {
        let store = self.real().store();
        self.end(End::Close);
        let disk = Disk::simulated(&[(self.dice.roll(80), Fault::Lies)]);
        let options = Options { volume_records: VOLUME, disk: disk.clone(), ..Options::new(ROOM) };
        let names = self.upstreams.clone();
        self.real =
            Some(SledSpool::open(self.home.path(), self.keys.clone(), &names, options, at(0)).unwrap());
        for _ in 0..3 + self.dice.roll(9) {
            match self.dice.roll(6) {
                0..3 => self.append(),
                3 => self.lease(),
                4 => self.settle(),
                _ => self.prune(),
            }
        }
        let real = self.real.take();
        self.leased.clear();
        self.cut(&disk);
        drop(real);
        self.lose_the_end_of_the_newest_volume();
        self.model.crash(&self.upstreams);
        let real = open(self.home.path(), &self.keys, &self.upstreams);
        let forgotten = real.store() != store;
        self.real = Some(real);
        let (expected, found, lost) = (self.model_waiting(), self.real_waiting(), self.lost());
        let last = self.real().status().last;
        assert!(last <= self.written.len() as u64, "seed {}", self.seed);
        BEHIND_LIES.fetch_add(self.written.len() as u64 - last, Ordering::Relaxed);
        for (name, expected) in &expected {
            let (found, seed) = (&found[name], self.seed);
            let gone = expected.iter().filter(|sequence| **sequence <= last && !found.contains(sequence));
            assert_eq!(lost[name], gone.count() as u64, "seed {seed}, {name}\n{:#?}", disk.acts());
            LOST_TO_LIES.fetch_add(lost[name], Ordering::Relaxed);
            let again: Vec<_> = found.difference(expected).collect();
            assert!(again.is_empty() || forgotten, "seed {seed}, {name}: {again:?} again");
        }
        let left = self.real().begin_run(&[(super::chair(1), super::EVERY)]).unwrap();
        for left in left.values() {
            let through = left.through.unwrap_or(at(0));
            assert!(through <= at(last + 1), "seed {}: slots behind {last} are known of", self.seed);
        }
        let more = self.new_records(3);
        assert!(self.real().append(&more).unwrap()[0].0 > last, "seed {}", self.seed);
    }

    fn lose_the_end_of_the_newest_volume(&mut self) {
        let newest = volume_folders(self.home.path()).unwrap().pop();
        let Some(db) = newest.map(|number| self.home.path().join(folder_name(number)).join("db")) else {
            return;
        };
        let Ok(mut bytes) = fs::read(&db) else { return };
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let from = used.saturating_sub(self.dice.roll(64 * 1024).min(used)) / 512 * 512;
        bytes.truncate(from as usize);
        if self.dice.roll(2) == 0 {
            bytes.resize(used as usize, 0);
        }
        fs::write(db, bytes).unwrap();
    }

    fn cut(&mut self, disk: &Disk) {
        let left = fast_home();
        disk.after_power_cut(self.home.path(), left.path(), self.dice.roll(50));
        self.home = left;
    }

    fn lost(&mut self) -> BTreeMap<UpstreamName, u64> {
        let status = match self.real.as_mut() {
            Some(real) => real.status(),
            None => self.model.status(),
        };
        status.upstreams.into_iter().map(|(name, counts)| (name, counts.lost)).collect()
    }

    fn model_waiting(&mut self) -> Waiting {
        waiting(&mut self.model, &self.upstreams, &self.written, self.seed)
    }

    fn real_waiting(&mut self) -> Waiting {
        waiting(self.real.as_mut().unwrap(), &self.upstreams, &self.written, self.seed)
    }
}

/// Everything that comes out of a spool, each record as it was given and in order.
fn waiting(spool: &mut impl Spool, upstreams: &[UpstreamName], written: &[Record], seed: u64) -> Waiting {
    for number in 0..4 {
        spool.release(treatment(number)).unwrap();
    }
    let late = Tick::from_micros(u64::MAX);
    let mut out = Waiting::new();
    for name in upstreams {
        let seen = out.entry(name.clone()).or_default();
        loop {
            let leased = spool.lease(name, BatchLimit { records: 900 }, Lane::Backlog, late).unwrap();
            if leased.is_empty() {
                break;
            }
            assert!(leased.is_sorted_by_key(|stored| stored.sequence), "seed {seed}");
            for stored in leased {
                let sequence = stored.sequence.0;
                assert_eq!(
                    Some(&stored.record),
                    written.get(sequence as usize - 1),
                    "seed {seed}, {sequence}"
                );
                assert!(seen.insert(sequence), "seed {seed}: {sequence} twice");
            }
        }
    }
    out
}
