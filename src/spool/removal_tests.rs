//! What a power cut in the middle of a removal changes: nothing that anybody is told.

use crate::disk::Disk;
use crate::disk::simulated::Fault;
use crate::spool::opening::volume_folders;
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::{Keys, at, fast_home, record, upstream};
use crate::spool::volume::files;
use crate::spool::{BatchLimit, Lane, Retention, Spool, SpoolError, Verdict};
use chairside_drivers::kit::time::Tick;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const RECORDS: u64 = 100;
const MAX: u64 = 64 * 1024 * 1024;

fn open(home: &Path, keys: &Arc<Keys>, disk: &Disk) -> Result<SledSpool, SpoolError> {
    let options = Options { volume_records: 30, disk: disk.clone(), ..Options::new(MAX) };
    SledSpool::open(home, keys.clone(), &[upstream("ehr")], options, at(0))
}

/// Three full volumes and the newest one, all of it delivered.
fn fill(home: &Path, keys: &Arc<Keys>) {
    let mut spool = open(home, keys, &Disk::default()).unwrap();
    for first in (1..=RECORDS).step_by(10) {
        spool.append(&(first..first + 10).map(record).collect::<Vec<_>>()).unwrap();
    }
    let everything = BatchLimit { records: 1_000 };
    let leased = spool.lease(&upstream("ehr"), everything, Lane::Backlog, Tick::ZERO).unwrap();
    let delivered = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
    let verdicts: Vec<_> = leased.iter().map(|stored| (stored.sequence, delivered.clone())).collect();
    spool.settle(&upstream("ehr"), &verdicts).unwrap();
    spool.close().unwrap();
}

fn copy(from: &Path, into: &Path) {
    for path in files(from).unwrap() {
        let to = into.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

#[test]
fn a_power_cut_at_any_act_of_a_removal_leaves_nothing_that_looks_lost() {
    let (template, keys) = (fast_home(), Arc::new(Keys::default()));
    fill(template.path(), &keys);
    for turn in 0.. {
        let (home, disk) = (fast_home(), Disk::simulated(&[]));
        copy(template.path(), home.path());
        let mut spool = open(home.path(), &keys, &disk).unwrap();
        let opened = disk.calls();
        disk.fail_in(turn, Fault::PowerCut);
        let pruned =
            spool.prune(Retention { keep_delivered: Duration::ZERO, max_bytes: MAX }, at(1_000)).ok();
        let through = disk.calls() <= opened + turn;
        // What was not synced is gone, or all of it came.
        for seed in [0, 1] {
            let left = fast_home();
            disk.after_power_cut(home.path(), left.path(), seed);
            let mut spool = open(left.path(), &keys, &Disk::default()).unwrap();
            let status = spool.status();
            let acts = || disk.acts().split_off(opened as usize).join("\n");
            assert_eq!(status.set_aside, [], "turn {turn}, seed {seed}\n{}", acts());
            let counts = status.upstreams[0].1;
            assert_eq!((counts.delivered, counts.records()), (RECORDS, RECORDS), "turn {turn}, seed {seed}");
            let folders = volume_folders(left.path()).unwrap().len();
            assert_eq!(folders as u64, u64::from(status.volumes), "turn {turn}, seed {seed}\n{}", acts());
            assert!(through || status.records == RECORDS || status.records < 30, "{}", status.records);
            assert_eq!(spool.append(&[record(1)]).unwrap()[0].0, RECORDS + 1);
        }
        drop(spool);
        if through {
            assert_eq!(pruned.map(|pruned| (pruned.volumes, pruned.records)), Some((3, 90)));
            assert!(turn > 5, "a removal is more than {turn} acts");
            return;
        }
    }
}
