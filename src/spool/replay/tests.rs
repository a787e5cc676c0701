//! What becomes of refused records when they are put back, held against the spool in memory.

use crate::model::name::UpstreamName;
use crate::spool::memory::MemorySpool;
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::{Keys, at, record, record_of, treatment, upstream};
use crate::spool::tools::{Content, Letters, Look, Replayed, SpoolTools, Standing, Wanted};
use crate::spool::{
    BatchLimit, Lane, Reason, RefusedPart, Retention, Sequence, Spool, SpoolStatus, Stored, Verdict,
};
use chairside_drivers::kit::time::Tick;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const REASON: Reason = Reason { status: 422, issue: Some("value") };
const GONE: Retention = Retention { keep_delivered: Duration::ZERO, max_bytes: u64::MAX };

fn open(home: &Path, keys: &Arc<Keys>) -> SledSpool {
    let options = Options { volume_records: 10, ..Options::new(u64::MAX) };
    SledSpool::open(home, keys.clone(), &[upstream("ehr")], options, at(0)).unwrap()
}

fn lease(spool: &mut dyn Spool) -> Vec<Stored> {
    let all = BatchLimit { records: 1000 };
    spool.lease(&upstream("ehr"), all, Lane::Backlog, Tick::from_micros(u64::MAX)).unwrap()
}

fn settle(spool: &mut dyn Spool, sequence: u64, verdict: Verdict) {
    spool.settle(&upstream("ehr"), &[(Sequence(sequence), verdict)]).unwrap();
}

fn delivered() -> Verdict {
    Verdict::Delivered { parts: 3, refused_parts: Vec::new() }
}

/// Twenty-five records in three volumes: 7 was refused, of 9 a part was, the rest was delivered, and what could go has gone.
fn refused(spool: &mut dyn Spool) {
    for first in [1, 11, 21] {
        spool.append(&(first..first + 10).map(|n| record_of(treatment(2), n)).collect::<Vec<_>>()).unwrap();
    }
    for stored in lease(spool) {
        let verdict = match stored.sequence.0 {
            7 => Verdict::Refused { parts: 3, reason: REASON },
            9 => {
                Verdict::Delivered { parts: 2, refused_parts: vec![RefusedPart { part: 1, reason: REASON }] }
            }
            _ => delivered(),
        };
        settle(spool, stored.sequence.0, verdict);
    }
    assert_eq!(spool.prune(GONE, at(50)).unwrap().records, 20);
}

fn counts(spool: &mut dyn Spool) -> [u64; 5] {
    let counts = spool.status().upstreams[0].1;
    assert_eq!(counts.records(), 30);
    [counts.delivered, counts.refused, counts.waiting, counts.parts_delivered, counts.parts_refused]
}

fn all(spool: &mut dyn Spool) -> Letters {
    spool.tools().letters(&Wanted::default(), None, 100).unwrap()
}

#[test]
fn a_refused_record_whose_volume_is_gone_is_sent_again_as_it_was() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys);
    refused(&mut spool);
    assert_eq!(counts(&mut spool), [29, 1, 0, 28 * 3 + 2, 4]);
    let letters = all(&mut spool).letters;
    assert_eq!(letters.iter().map(|letter| letter.sequence.0).collect::<Vec<_>>(), [7, 9]);
    assert_eq!((letters[0].refusal.at, letters[0].standing), (at(30), Some(Standing::Settled)));

    let replayed = spool.replay(&Wanted::default(), None, 100).unwrap();
    assert_eq!(replayed, Replayed { reopened: 2, ..Replayed::default() });
    assert_eq!(counts(&mut spool), [28, 0, 2, 28 * 3, 0]);
    // A power cut, and nothing but the dead letters has the records.
    drop(spool);
    let mut spool = open(home.path(), &keys);
    assert_eq!(counts(&mut spool), [28, 0, 2, 28 * 3, 0]);
    let found = spool.find(Sequence(7)).unwrap().unwrap();
    assert!(found.only_in_letter);
    assert_eq!(found.standings, [(upstream("ehr"), Standing::Waiting)]);
    let again = lease(&mut spool);
    let store = spool.store();
    let expected =
        [7, 9].map(|n| Stored { store, sequence: Sequence(n), record: record_of(treatment(2), n) });
    assert_eq!(again, expected);
    assert_eq!(all(&mut spool).letters.len(), 2, "the letters stay until the records are taken");

    settle(&mut spool, 7, delivered());
    settle(&mut spool, 9, Verdict::Refused { parts: 3, reason: Reason { status: 409, issue: None } });
    let letters = all(&mut spool).letters;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].sequence, letters[0].refusal.reasons[0].status), (Sequence(9), 409));
    assert_eq!(counts(&mut spool), [29, 1, 0, 29 * 3, 3]);
}

#[test]
fn what_waits_to_be_sent_again_is_not_thrown_away_and_the_rest_can_be() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys);
    refused(&mut spool);
    let seven = Wanted { sequences: [Sequence(7)].into(), ..Wanted::default() };
    assert_eq!(spool.replay(&seven, None, 100).unwrap().reopened, 1);
    assert_eq!(spool.replay(&seven, None, 100).unwrap().waiting, 1);
    let old = Wanted { before: Some(at(20)), ..Wanted::default() };
    assert_eq!(spool.discard(&old, None, 100).unwrap().letters, 0);
    let discarded = spool.discard(&Wanted::default(), None, 100).unwrap();
    assert_eq!((discarded.letters, discarded.waiting), (1, 1));
    drop(spool);
    let mut spool = open(home.path(), &keys);
    assert_eq!(all(&mut spool).letters.len(), 1);
    assert_eq!(lease(&mut spool).len(), 1);
}

#[test]
fn a_record_whose_key_was_destroyed_is_not_sent_again() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys);
    refused(&mut spool);
    keys.destroy(treatment(2).into());
    let replayed = spool.replay(&Wanted::default(), None, 100).unwrap();
    assert_eq!(replayed, Replayed { erased: 2, ..Replayed::default() });
    assert!(all(&mut spool).letters.iter().all(|letter| letter.content == Content::Erased));
    assert_eq!(spool.discard(&Wanted::default(), None, 100).unwrap().letters, 2);
}

#[test]
fn letters_of_an_upstream_that_is_gone_are_shown_and_cannot_be_sent() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys);
    refused(&mut spool);
    drop(spool);
    let options = Options { volume_records: 10, ..Options::new(u64::MAX) };
    let mut spool = SledSpool::open(home.path(), keys.clone(), &[upstream("lab")], options, at(0)).unwrap();
    assert_eq!(all(&mut spool).letters.iter().filter(|letter| letter.standing.is_none()).count(), 2);
    assert_eq!(spool.replay(&Wanted::default(), None, 100).unwrap().nobody, 2);
}

#[test]
fn treatments_with_a_record_or_a_letter_leave_a_trace() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys);
    refused(&mut spool);
    spool.append(&[record_of(treatment(3), 31), record(32)]).unwrap();
    let asked = [2, 3, 4].map(treatment);
    // Treatment 2 has records in the last volume as well; they go with it.
    assert_eq!(spool.without_trace(&asked).unwrap(), [treatment(4)]);
    lease(&mut spool);
    [31, 32].into_iter().for_each(|n| settle(&mut spool, n, delivered()));
    spool.append(&(33..60).map(record).collect::<Vec<_>>()).unwrap();
    spool.append(&(60..80).map(record).collect::<Vec<_>>()).unwrap();
    lease(&mut spool).iter().for_each(|stored| settle(&mut spool, stored.sequence.0, delivered()));
    spool.prune(GONE, at(90)).unwrap();
    assert_eq!(spool.without_trace(&asked).unwrap(), [treatment(3), treatment(4)], "the letters hold 2");
    spool.discard(&Wanted::default(), None, 100).unwrap();
    assert_eq!(spool.without_trace(&asked).unwrap(), asked);
}

#[test]
fn pages_of_letters_follow_each_other_and_miss_none() {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let mut spool = open(home.path(), &keys);
    spool.append(&(1..=9).map(record).collect::<Vec<_>>()).unwrap();
    (1..=9).for_each(|n| settle(&mut spool, n, Verdict::Refused { parts: 1, reason: REASON }));
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = spool.letters(&Wanted::default(), after.as_ref(), 4).unwrap();
        seen.extend(page.letters.iter().map(|letter| letter.sequence.0));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=9).collect::<Vec<_>>());
}

/// A generator of its own, so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn replayed_records_behave_on_disk_as_they_do_in_memory() {
    let lives = std::env::var("CHAIRSIDE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(4);
    for seed in 1..=lives {
        live(seed);
    }
}

fn live(seed: u64) {
    let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
    let ehr: [UpstreamName; 1] = [upstream("ehr")];
    let mut real = open(home.path(), &keys);
    let mut model = MemorySpool::with_volumes_of(10, real.store(), &ehr);
    let (mut dice, mut appended) = (Dice(seed), 0);
    for step in 0..80 {
        let act = dice.roll(10);
        match act {
            0 | 1 => {
                let records: Vec<_> = (0..=dice.roll(12)).map(|n| record(appended + n)).collect();
                appended += records.len() as u64;
                assert_eq!(real.append(&records).unwrap(), model.append(&records).unwrap());
            }
            2..5 => {
                let leased = lease(&mut real);
                assert_eq!(leased, lease(&mut model), "seed {seed}, step {step}");
                for stored in leased {
                    let refused_parts = vec![RefusedPart { part: 2, reason: REASON }];
                    let verdict = match dice.roll(6) {
                        0 => Verdict::Refused { parts: 4, reason: REASON },
                        1 => Verdict::Delivered { parts: 1, refused_parts },
                        2 => Verdict::Retry { not_before: Tick::ZERO },
                        _ => delivered(),
                    };
                    settle(&mut real, stored.sequence.0, verdict.clone());
                    settle(&mut model, stored.sequence.0, verdict);
                }
            }
            5 | 6 => {
                let count = dice.roll(3);
                let sequences = (0..count).map(|_| Sequence(dice.roll(appended + 2))).collect();
                let wanted = Wanted { sequences, ..Wanted::default() };
                let replayed = real.replay(&wanted, None, 50).unwrap();
                assert_eq!(replayed, model.replay(&wanted, None, 50).unwrap(), "seed {seed}, step {step}");
            }
            7 => {
                let wanted =
                    Wanted { sequences: [Sequence(dice.roll(appended + 1))].into(), ..Wanted::default() };
                let discarded = real.discard(&wanted, None, 50).unwrap();
                assert_eq!(discarded, model.discard(&wanted, None, 50).unwrap(), "seed {seed}, step {step}");
            }
            8 => {
                let now = at(step * 10);
                assert_eq!(real.prune(GONE, now).unwrap(), model.prune(GONE, now).unwrap());
            }
            _ => {
                drop(real);
                real = open(home.path(), &keys);
                model.crash(&ehr);
            }
        }
        let plain = |status: SpoolStatus| (status.last, status.records, status.upstreams);
        assert_eq!(plain(real.status()), plain(model.status()), "seed {seed}, step {step}, act {act}");
        let shown = |letters: Letters| {
            let about = |letter: &crate::spool::tools::DeadLetter| {
                (letter.sequence, letter.standing, letter.content.clone(), letter.refusal.reasons.clone())
            };
            letters.letters.iter().map(about).collect::<Vec<_>>()
        };
        assert_eq!(shown(all(&mut real)), shown(all(&mut model)), "seed {seed}, step {step}, act {act}");
    }
}

#[test]
fn letters_that_are_thrown_away_together_wait_for_the_disk_once() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (home, keys, syncs) =
        (tempfile::tempdir().unwrap(), Arc::new(Keys::default()), Arc::new(AtomicU64::new(0)));
    let counted = syncs.clone();
    let faults = Arc::new(move |act: &'static str| {
        counted.fetch_add(u64::from(act == "sync dead letters"), Ordering::Relaxed);
        None
    });
    let options = Options { faults: Some(faults), ..Options::new(u64::MAX) };
    let mut spool = SledSpool::open(home.path(), keys, &[upstream("ehr")], options, at(0)).unwrap();
    spool.append(&(1..=100).map(record).collect::<Vec<_>>()).unwrap();
    let refused = |n| (Sequence(n), Verdict::Refused { parts: 1, reason: REASON });
    spool.settle(&upstream("ehr"), &(1..=100).map(refused).collect::<Vec<_>>()).unwrap();
    syncs.store(0, Ordering::Relaxed);
    assert_eq!(spool.discard(&Wanted::default(), None, 256).unwrap().letters, 100);
    assert_eq!(syncs.load(Ordering::Relaxed), 1);
}
