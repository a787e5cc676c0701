//! A ledger against a map with one entry a record, and against what a crash leaves of it.

use super::stored::chunk;
use super::*;
use crate::spool::testing::treatment;
use proptest::prelude::*;

fn restored(ledger: &mut Ledger, without: Option<u64>) -> Ledger {
    ledger.change_all();
    let summary = ledger.summary();
    let changes = ledger.take_changes();
    let chunks = changes
        .iter()
        .filter(|(number, _)| Some(*number) != without)
        .filter_map(|(number, bytes)| Some((*number, bytes.as_deref()?)));
    let mut back = Ledger::restore(&summary, chunks, ledger.last).unwrap();
    back.changed.clear();
    back
}

fn total(counts: Counts) -> u64 {
    counts.records()
}

#[test]
fn a_settled_backlog_takes_one_chunk_of_memory() {
    let mut ledger = Ledger::new(1, 100_000);
    ledger.end_all(1, 100_000, End::Delivered);
    assert_eq!((ledger.cursor, ledger.chunks.len()), (100_001, 1));
    assert_eq!(ledger.counts().delivered, 100_000);
}

#[test]
fn a_lost_chunk_is_sent_again_and_the_counts_still_agree() {
    let mut ledger = Ledger::new(1, 2000);
    ledger.end_all(600, 2000, End::Delivered);
    let back = restored(&mut ledger, Some(4));
    let again: Vec<_> = back.due(9999, Lane::Backlog, Tick::ZERO);
    assert_eq!(again.len(), 599 + 256);
    assert_eq!(total(back.counts()), 2000);
    assert_eq!(back.counts().waiting, 599 + 256);
}

#[test]
fn a_cursor_ahead_of_the_records_skips_nothing_that_comes_later() {
    let mut ledger = Ledger::new(1, 500);
    ledger.end_all(1, 500, End::Delivered);
    let mut back = Ledger::restore(&ledger.summary(), std::iter::empty(), 400).unwrap();
    back.appended(401);
    assert_eq!(back.due(9, Lane::Backlog, Tick::ZERO), [Sequence(401)]);
}

#[test]
fn marks_ahead_of_the_records_skip_nothing_that_comes_later() {
    let mut ledger = Ledger::new(1, 1000);
    ledger.end_all(300, 1000, End::Delivered);
    ledger.change_all();
    let (summary, changes) = (ledger.summary(), ledger.take_changes());
    let chunks = || changes.iter().filter_map(|(number, bytes)| Some((*number, bytes.as_deref()?)));
    let mut back = Ledger::restore(&summary, chunks(), 400).unwrap();
    assert_eq!((back.counts().delivered, back.counts().waiting), (101, 299));
    back.appended(402);
    let due = back.due(9999, Lane::Backlog, Tick::ZERO);
    assert_eq!(due.last(), Some(&Sequence(402)));
    assert_eq!(due.len(), 299 + 2);
}

/// Every second of 800,000 records is held, the others wait: what a day of an unseated ward and a receiver that is away leaves.
#[test]
fn counts_and_the_oldest_waiting_one_do_not_walk_through_a_large_backlog() {
    let mut ledger = Ledger::new(1, 800_000);
    (1..=400_000).for_each(|n| ledger.hold(Sequence(n), treatment((n % 5) as u8)));
    let walked = ledger.open_from;
    assert_eq!(walked, 400_001, "the held ones are behind it");
    assert_eq!(ledger.oldest_waiting(), Some(Sequence(400_001)));
    assert_eq!(
        (ledger.oldest_unsent(), ledger.cursor),
        (Some(Sequence(1)), 1),
        "held, and found at the first look"
    );
    assert_eq!((ledger.counts().held, ledger.counts().waiting), (400_000, 400_000));
    ledger.release(treatment(0));
    assert_eq!(ledger.oldest_waiting(), Some(Sequence(5)));
    ledger.end(Sequence(5), End::Delivered);
    assert_eq!((ledger.oldest_waiting(), ledger.counts().held), (Some(Sequence(10)), 320_000));
}

/// What was captured before the clock was right waits for it, all of it, and is asked for again and again.
#[test]
fn a_large_backlog_that_is_not_due_is_passed_over_chunk_by_chunk() {
    let mut ledger = Ledger::new(1, 800_000);
    let (early, late) = (Tick::from_micros(5), Tick::from_micros(10));
    (1..=799_000).for_each(|n| ledger.delay(Sequence(n), if n == 70_000 { early } else { late }));
    let looked_at = |now| {
        let chunks = ledger.open_chunks();
        chunks.filter(|number| ledger.open_in(*number) > ledger.delayed.waiting(*number, now)).count()
    };
    assert_eq!((looked_at(Tick::ZERO), looked_at(early), looked_at(late)), (5, 6, 3_126));
    assert_eq!(ledger.due(2, Lane::Backlog, Tick::ZERO), [Sequence(799_001), Sequence(799_002)]);
    assert_eq!(ledger.due(1, Lane::Backlog, early), [Sequence(70_000)]);
    assert_eq!(ledger.due(2, Lane::Live, early), [Sequence(799_999), Sequence(800_000)]);
    ledger.lease([Sequence(70_000)], 0);
    ledger.delay(Sequence(70_000), late);
    assert_eq!(ledger.due(1, Lane::Backlog, early), [Sequence(799_001)]);
    assert_eq!(ledger.due(2, Lane::Backlog, late), [Sequence(1), Sequence(2)]);
}

#[derive(Clone, Debug)]
enum Act {
    Append(u64),
    Lease(usize, bool),
    End(u64),
    Hold(u64, u8),
    Delay(u64, u64),
    Release(u8),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1_u64..90).prop_map(Act::Append),
        (1_usize..60, any::<bool>()).prop_map(|(limit, live)| Act::Lease(limit, live)),
        (1_u64..900).prop_map(Act::End),
        (1_u64..900, 0_u8..5).prop_map(|(sequence, number)| Act::Hold(sequence, number)),
        (1_u64..900, 0_u64..3).prop_map(|(sequence, tick)| Act::Delay(sequence, tick)),
        (0_u8..5).prop_map(Act::Release),
        Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_agrees_with_one_map_entry_a_record(
        start in 1_u64..300,
        acts in proptest::collection::vec(act(), 1..120),
    ) {
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Plain { Open(u64), Leased, Held(u8), Done }
        let mut ledger = Ledger::new(start, start - 1);
        let mut plain: BTreeMap<u64, Plain> = BTreeMap::new();
        let mut last = start - 1;
        for act in acts {
            match act {
                Act::Append(count) => {
                    (last + 1..=last + count).for_each(|n| { plain.insert(n, Plain::Open(0)); });
                    last += count;
                    ledger.appended(last);
                }
                Act::Lease(limit, live) => {
                    let free = plain.iter().filter(|(_, p)| matches!(p, Plain::Open(at) if *at <= 1)).map(|(n, _)| *n);
                    let mut expected: Vec<u64> =
                        if live { free.rev().take(limit).collect() } else { free.take(limit).collect() };
                    expected.sort_unstable();
                    let lane = if live { Lane::Live } else { Lane::Backlog };
                    let due = ledger.due(limit, lane, Tick::from_micros(1));
                    prop_assert_eq!(due.iter().map(|s| s.0).collect::<Vec<_>>(), expected.clone());
                    ledger.lease(due, 0);
                    expected.iter().for_each(|n| { plain.insert(*n, Plain::Leased); });
                }
                Act::End(n) => {
                    ledger.end(Sequence(n), End::Delivered);
                    plain.entry(n).and_modify(|p| *p = Plain::Done);
                }
                Act::Hold(n, number) => {
                    ledger.hold(Sequence(n), treatment(number));
                    plain.entry(n).and_modify(|p| if *p != Plain::Done { *p = Plain::Held(number) });
                }
                Act::Delay(n, tick) => {
                    ledger.delay(Sequence(n), Tick::from_micros(tick));
                    plain.entry(n).and_modify(|p| if *p != Plain::Done { *p = Plain::Open(tick) });
                }
                Act::Release(number) => {
                    ledger.release(treatment(number));
                    plain.values_mut().filter(|p| **p == Plain::Held(number)).for_each(|p| *p = Plain::Open(0));
                }
                Act::Restart => {
                    ledger = restored(&mut ledger, None);
                    plain.values_mut()
                        .filter(|p| matches!(p, Plain::Open(_) | Plain::Leased))
                        .for_each(|p| *p = Plain::Open(0));
                }
            }
            let counts = ledger.counts();
            let count = |wanted: fn(&Plain) -> bool| plain.values().filter(|p| wanted(p)).count() as u64;
            prop_assert_eq!(counts.delivered, count(|p| *p == Plain::Done));
            prop_assert_eq!(counts.held, count(|p| matches!(p, Plain::Held(_))));
            prop_assert_eq!(total(counts), plain.len() as u64);
            prop_assert_eq!(counts.held, ledger.held_by_marks());
            let oldest = plain.iter().find(|(_, p)| matches!(p, Plain::Open(_) | Plain::Leased)).map(|(n, _)| Sequence(*n));
            prop_assert_eq!(ledger.oldest_waiting(), oldest);
            let unsent = plain.iter().find(|(_, p)| **p != Plain::Done).map(|(n, _)| Sequence(*n));
            prop_assert_eq!(ledger.oldest_unsent(), unsent);
            let (from, to) = (start + 100, start + 200);
            let settled = plain.range(from..=to).all(|(_, p)| *p == Plain::Done);
            prop_assert_eq!(ledger.all_settled(from, to), settled);
        }
    }

    #[test]
    fn any_stored_bytes_are_read_without_a_panic(
        summary: Vec<u8>,
        numbers in proptest::array::uniform10(0_u64..2000),
        bytes: Vec<u8>,
        last in 0_u64..5000,
    ) {
        let _ = Ledger::restore(&summary, std::iter::once((3, bytes.as_slice())), last);
        let _ = chunk(&bytes);
        let summary: Vec<u8> = numbers.into_iter().flat_map(u64::to_be_bytes).collect();
        if let Some(ledger) = Ledger::restore(&summary, std::iter::once((3, bytes.as_slice())), last) {
            let everything = ledger.last.saturating_add(1).saturating_sub(ledger.start);
            prop_assert_eq!(total(ledger.counts()), everything);
        }
    }
}
