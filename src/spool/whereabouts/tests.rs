//! Which treatments are whole after records have left, and what a forwarder that is gone leaves behind.

use super::*;
use crate::privacy::record::Record;
use crate::spool::store::Options;
use crate::spool::testing::{Keys, at, fast_home, reading, record, record_of, treatment, upstream};
use crate::spool::tools::Standing;
use crate::spool::{Lane, Reason, Retention, Verdict};
use chairside_drivers::kit::time::Tick;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MANY: BatchLimit = BatchLimit { records: 1_000 };
const TO_THE_END: Sequence = Sequence(u64::MAX);
const DONE: Verdict = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };

fn open(home: &Path, keys: &Arc<Keys>, max_bytes: u64, volume_records: u64) -> SledSpool {
    let options = Options { volume_records, ..Options::new(max_bytes) };
    SledSpool::open(home, keys.clone(), &[upstream("ehr")], options, at(0)).unwrap()
}

/// A treatment's first record has a number that three divides.
fn start(number: u8) -> Record {
    record_of(treatment(number), 0)
}

fn more(number: u8) -> Record {
    record_of(treatment(number), 2)
}

fn settle_all(spool: &mut SledSpool, verdict: &Verdict) {
    let leased = spool.lease(&upstream("ehr"), MANY, Lane::Backlog, Tick::ZERO).unwrap();
    let verdicts: Vec<_> = leased.iter().map(|stored| (stored.sequence, verdict.clone())).collect();
    spool.settle(&upstream("ehr"), &verdicts).unwrap();
}

fn whole(spool: &mut SledSpool) -> Vec<u8> {
    (1..=4).filter(|number| spool.is_whole(treatment(*number), TO_THE_END).unwrap()).collect()
}

#[test]
fn a_treatment_is_whole_until_a_volume_with_records_behind_its_beginning_is_removed() {
    let (home, keys) = (fast_home(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys, 1 << 30, 4);
    spool.append(&[start(1), more(1), start(2), more(2)]).unwrap();
    spool.append(&[more(2), start(3), more(3), record(7)]).unwrap();
    assert_eq!(whole(&mut spool), [1, 2, 3, 4], "nothing has left, and of the fourth nothing ever was");
    settle_all(&mut spool, &DONE);
    let policy = Retention { keep_delivered: Duration::ZERO, max_bytes: 1 << 30 };
    assert_eq!(spool.prune(policy, at(9)).unwrap().volumes, 1);
    for _ in 0..2 {
        assert_eq!(
            whole(&mut spool),
            [3],
            "of the others the beginning is gone, or nothing says that it is not"
        );
        assert!(spool.read_treatment(treatment(2), Sequence(0), MANY).unwrap().len() == 1);
        spool.close().unwrap();
        drop(spool);
        spool = open(home.path(), &keys, 1 << 30, 4);
    }
    spool.append(&[start(4), more(4)]).unwrap();
    assert_eq!(whole(&mut spool), [3, 4]);
}

#[test]
fn a_treatment_whose_readings_were_evicted_is_not_whole_although_its_beginning_is_kept() {
    const MAX: u64 = 15 * 1024 * 1024;
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys, MAX, 1_000);
    spool.append(&[start(2)]).unwrap();
    for hundred in 0..600 {
        spool.append(&(hundred * 100..hundred * 100 + 100).map(reading).collect::<Vec<_>>()).unwrap();
        if spool.status().upstreams[0].1.evicted > 0 {
            break;
        }
    }
    assert!(spool.status().upstreams[0].1.evicted > 0);
    spool.append(&[start(3), more(3)]).unwrap();
    for _ in 0..2 {
        let kept = spool.read_treatment(treatment(2), Sequence(0), MANY).unwrap();
        assert_eq!(kept.len(), 1, "a beginning is never evicted");
        assert_eq!(whole(&mut spool), [3]);
        assert!(spool.is_whole(treatment(2), Sequence(1)).unwrap(), "up to there nothing is missing");
        drop(spool);
        spool = open(home.path(), &keys, MAX, 1_000);
    }
}

#[test]
fn a_treatment_that_ran_into_a_volume_that_vanished_is_not_whole() {
    let (home, keys) = (fast_home(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys, 1 << 30, 4);
    spool.append(&[start(1), more(1), start(2), more(2)]).unwrap();
    spool.append(&[more(2), start(3), more(3), record(7)]).unwrap();
    spool.append(&[start(4), more(4)]).unwrap();
    spool.close().unwrap();
    drop(spool);
    std::fs::remove_dir_all(home.path().join("volume-00000002")).unwrap();
    let mut spool = open(home.path(), &keys, 1 << 30, 4);
    assert_eq!(whole(&mut spool), [4]);
    assert!(spool.is_whole(treatment(2), Sequence(4)).unwrap(), "what is lost came later");
    spool.append(&[record(8)]).unwrap();
    assert_eq!(whole(&mut spool), [4], "nor once what is good was copied");
}

#[test]
fn what_a_forwarder_that_is_gone_had_leased_is_leased_again_and_what_was_settled_is_not() {
    let (home, keys) = (fast_home(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys, 1 << 30, 1_000);
    spool.append(&(0..6).map(record).collect::<Vec<_>>()).unwrap();
    let ehr = upstream("ehr");
    let lease = |spool: &mut SledSpool| -> Vec<u64> {
        let leased = spool.lease(&ehr, MANY, Lane::Backlog, Tick::ZERO).unwrap();
        leased.iter().map(|stored| stored.sequence.0).collect()
    };
    assert_eq!(lease(&mut spool).len(), 6);
    let refused = Verdict::Refused { parts: 1, reason: Reason { status: 422, issue: None } };
    let held = Verdict::Held(treatment(1));
    spool.settle(&ehr, &[(Sequence(1), DONE), (Sequence(3), refused), (Sequence(4), held)]).unwrap();
    assert_eq!(lease(&mut spool), [0; 0]);
    assert_eq!(spool.reclaim(&ehr).unwrap(), 3);
    assert_eq!(lease(&mut spool), [2, 5, 6]);
    assert!(spool.reclaim(&upstream("lab")).is_err());
    let standings = spool.standings_at(&ehr, &[1, 2, 3, 4].map(Sequence)).unwrap();
    let (settled, waiting) = (Standing::Settled, Standing::Waiting);
    assert_eq!(standings, [settled, waiting, settled, Standing::Held(treatment(1))]);
}
