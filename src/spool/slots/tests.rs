//! Tests of the slot ledger: its counts, its holes, and its form on disk.

use super::*;
use crate::disk::simulated::under_every_fault;
use crate::model::name::MachineName;
use crate::model::time::ClockTrust;
use crate::normalise::Origin;
use crate::privacy::record::{Event, LossCause, Tombstone};
use crate::spool::disk::Disk;
use crate::spool::testing::at;
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::{Slot, Tick};
use proptest::prelude::*;

const EVERY: Duration = Duration::from_secs(10);

fn chair(name: &str) -> ChairName {
    ChairName::new(name).unwrap()
}

fn origin(name: &str, second: u64, slot: Option<u64>) -> Origin {
    Origin {
        chair: chair(name),
        machine: MachineName::new("M-1").unwrap(),
        model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
        at: at(second),
        tick: Tick::ZERO,
        clock: ClockTrust::Trusted,
        slot: slot.map(Slot),
        previous: None,
        simulated: true,
    }
}

fn reading(name: &str, slot: u64) -> Record {
    Record::sample(origin(name, slot * 10, Some(slot)), None, Body::Values(Vec::new()))
}

fn gap(name: &str, first: Option<u64>, second: u64, slots: u32, cause: GapCause) -> Record {
    let to = at(second).after(EVERY.saturating_mul(slots));
    let gap = Gap { from: at(second), to, slots, cause };
    Record::event(origin(name, second, first), None, Event::Gap(gap))
}

fn evicted(records: u64) -> Tombstone {
    Tombstone { from: at(0), to: at(20), records, first: 1, last: records, cause: LossCause::StoreFull }
}

/// A ledger in its first run, and the count of its records.
struct Book {
    ledger: SlotLedger,
    sequence: u64,
}

impl Book {
    fn new() -> Self {
        let mut ledger = SlotLedger::default();
        ledger.begin(&[(chair("chair-1"), EVERY)]);
        Self { ledger, sequence: 0 }
    }

    fn note(&mut self, record: &Record) {
        self.sequence += 1;
        self.ledger.note(Sequence(self.sequence), record);
    }

    fn lose(&mut self) {
        self.sequence += 1;
        self.ledger.note_lost(Sequence(self.sequence));
    }

    fn begin(&mut self) -> Left {
        self.ledger.begin(&[(chair("chair-1"), EVERY)]).remove(&chair("chair-1")).unwrap()
    }

    fn chair(&self) -> &ChairSlots {
        &self.ledger.chairs[&chair("chair-1")]
    }

    fn missing(&self, cause: Missing) -> u64 {
        self.chair().missing()[cause as usize]
    }
}

#[test]
fn readings_and_gaps_account_for_every_slot() {
    let mut book = Book::new();
    (0..3).for_each(|slot| book.note(&reading("chair-1", slot)));
    book.note(&gap("chair-1", Some(3), 30, 4, GapCause::MachineSilent));
    book.note(&reading("chair-1", 7));
    let slots = book.chair();
    assert_eq!((slots.captured(), slots.of_this_run(), slots.open_below(8)), (4, 8, 0));
    assert_eq!(book.missing(Missing::MachineSilent), 4);
    assert_eq!(slots.open_below(10), 2, "two more are due and nobody knows of them");
}

#[test]
fn a_slot_that_no_record_accounts_for_is_a_hole_until_it_is_told() {
    let mut book = Book::new();
    book.note(&reading("chair-1", 0));
    book.lose();
    book.note(&reading("chair-1", 3));
    assert_eq!((book.chair().of_this_run(), book.chair().open_below(4)), (2, 2));
    let left = book.begin();
    let told = Gap { from: at(10), to: at(30), slots: 2, cause: GapCause::LostInStore };
    assert_eq!(left.holes, [told]);
    assert_eq!(book.chair().untold(), 2, "until a record says so");
    book.note(&Record::event(origin("chair-1", 99, None), None, Event::Gap(told)));
    assert_eq!((book.chair().untold(), book.missing(Missing::LostInStore)), (0, 2));
    assert_eq!(book.begin().holes, []);
}

#[test]
fn a_slot_that_ends_behind_later_ones_closes_its_hole() {
    let mut book = Book::new();
    book.note(&gap("chair-1", Some(0), 0, 5, GapCause::LineDown));
    book.note(&gap("chair-1", Some(8), 80, 2, GapCause::GatewayDown));
    assert_eq!(book.chair().open_below(10), 3);
    book.note(&gap("chair-1", Some(6), 60, 1, GapCause::MachineSilent));
    assert_eq!(book.chair().open_below(10), 2);
    book.note(&reading("chair-1", 5));
    book.note(&reading("chair-1", 7));
    assert_eq!((book.chair().open_below(10), book.chair().of_this_run()), (0, 10));
}

#[test]
fn a_run_that_begins_counts_from_zero_and_keeps_what_was() {
    let mut book = Book::new();
    (0..5).for_each(|slot| book.note(&reading("chair-1", slot)));
    let left = book.begin();
    assert_eq!((left.through, left.every, left.cut_off), (Some(at(50)), EVERY, true));
    book.note(&gap("chair-1", None, 50, 7, GapCause::GatewayDown));
    (0..5).for_each(|slot| book.note(&reading("chair-1", slot)));
    assert_eq!((book.chair().captured(), book.chair().of_this_run()), (10, 5));
    assert_eq!(book.missing(Missing::GatewayDown), 7);
    book.ledger.end();
    assert!(!book.begin().cut_off);
}

#[test]
fn a_chair_that_is_away_has_no_slots_until_it_is_back() {
    let mut book = Book::new();
    book.note(&reading("chair-1", 0));
    book.ledger.begin(&[(chair("chair-2"), EVERY)]);
    let left = book.begin();
    assert_eq!((left.through, left.holes), (None, Vec::new()));
    assert_eq!(book.chair().captured(), 1);
}

#[test]
fn an_untrusted_clock_says_nothing_of_when() {
    let mut book = Book::new();
    book.note(&reading("chair-1", 0));
    let untrusted = Origin { clock: ClockTrust::Untrusted, ..origin("chair-1", 0, Some(1)) };
    book.note(&Record::sample(untrusted, None, Body::Values(Vec::new())));
    assert_eq!(book.chair().hours().iter().map(|hour| hour.captured).sum::<u64>(), 1);
    assert_eq!(book.begin().through, None);
}

#[test]
fn what_is_evicted_was_captured_before() {
    let mut book = Book::new();
    (0..5).for_each(|slot| book.note(&reading("chair-1", slot)));
    let tombstone = evicted(3);
    book.note(&Record::event(origin("chair-1", 60, None), None, Event::Evicted(tombstone)));
    assert_eq!((book.chair().captured(), book.missing(Missing::Evicted)), (2, 3));
    let hour = book.chair().hours()[0];
    assert_eq!((hour.captured, hour.missing[Missing::Evicted as usize]), (2, 3));
}

#[test]
fn a_long_silence_told_in_pieces_is_one_range() {
    let mut book = Book::new();
    for piece in 0..4 {
        book.note(&gap("chair-1", Some(piece * 30), piece * 300, 30, GapCause::MachineSilent));
    }
    book.note(&gap("chair-1", Some(120), 1_200, 1, GapCause::LineDown));
    let [silence, down] = book.chair().ranges() else { panic!() };
    assert_eq!((silence.from, silence.to, silence.slots), (at(0), at(1_200), 120));
    assert_eq!(down.cause, Missing::LineDown);
}

#[test]
fn a_gap_is_spread_over_the_hours_it_lasted() {
    let mut book = Book::new();
    // From a quarter to the hour on, two hours long, a slot in ten seconds.
    book.note(&gap("chair-1", Some(0), 2_700, 720, GapCause::GatewayDown));
    let down: Vec<_> =
        book.chair().hours().iter().map(|hour| hour.missing[Missing::GatewayDown as usize]).collect();
    assert_eq!(down, [90, 360, 270]);
}

#[test]
fn a_day_is_kept_and_no_more() {
    let mut book = Book::new();
    for hour in 0..40 {
        book.note(&gap("chair-1", Some(hour * 360), hour * 3_600, 360, GapCause::LineDown));
    }
    let hours = book.chair().hours();
    assert_eq!((hours.len(), hours[24].hour - hours[0].hour), (25, 24));
}

#[derive(Clone, Debug)]
enum Act {
    Reading(u64),
    Gap(u64, u32),
    Lost,
    Begin,
    Evicted(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u64..3).prop_map(Act::Reading),
        2 => (0_u64..3, 0_u32..9).prop_map(|(skip, slots)| Act::Gap(skip, slots)),
        1 => Just(Act::Lost),
        1 => Just(Act::Begin),
        1 => (0_u64..4).prop_map(Act::Evicted),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is noted, the slots that are known and those that are open are all there were; and the bytes say the same.
    #[test]
    fn the_sums_agree_at_any_instant_and_after_any_restart(acts in proptest::collection::vec(act(), 1..200)) {
        let mut book = Book::new();
        let (mut next, mut due_before) = (0_u64, 0_u64);
        for act in acts {
            match act {
                Act::Reading(skip) => {
                    book.note(&reading("chair-1", next + skip));
                    next += skip + 1;
                }
                Act::Gap(skip, slots) => {
                    book.note(&gap("chair-1", Some(next + skip), (next + skip) * 10, slots, GapCause::LineDown));
                    next += skip + u64::from(slots);
                }
                Act::Lost => book.lose(),
                Act::Begin => {
                    due_before += next;
                    next = 0;
                    for hole in book.begin().holes {
                        if hole.slots % 2 == 0 {
                            book.note(&Record::event(origin("chair-1", 0, None), None, Event::Gap(hole)));
                        }
                    }
                }
                Act::Evicted(records) => {
                    let tombstone = evicted(records.min(book.chair().captured()));
                    book.note(&Record::event(origin("chair-1", 60, None), None, Event::Evicted(tombstone)));
                }
            }
            let slots = book.chair();
            let known = slots.captured() + slots.missing().iter().sum::<u64>();
            prop_assert_eq!(known + slots.untold() + slots.open_below(next), due_before + next);
            prop_assert_eq!(slots.of_this_run() + slots.open_below(next), next);
            let back = kept::restore(&book.ledger.bytes(), Sequence(book.sequence)).unwrap();
            prop_assert_eq!(&back, &book.ledger);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(mut bytes: Vec<u8>, place: usize, flip: u8) {
        let _ = kept::restore(&bytes, Sequence(u64::MAX));
        let _ = kept::restore(&crate::spool::bytes::with_checksum(&bytes), Sequence(u64::MAX));
        let mut book = Book::new();
        (0..9).for_each(|slot| book.note(&reading("chair-1", slot * 2)));
        bytes = book.ledger.bytes();
        let place = place % bytes.len();
        bytes[place] ^= flip;
        let back = kept::restore(&bytes, Sequence(9));
        prop_assert_eq!(back.is_some(), flip == 0, "a changed file is not believed");
    }
}

#[test]
fn a_ledger_ahead_of_the_records_is_not_believed() {
    let mut book = Book::new();
    book.note(&reading("chair-1", 0));
    assert_eq!(kept::restore(&book.ledger.bytes(), Sequence(0)), None);
}

#[test]
fn counts_that_were_written_down_are_read_back_whatever_the_disk_does() {
    let after = |readings: u64| {
        let mut book = Book::new();
        (0..readings).for_each(|slot| book.note(&reading("chair-1", slot)));
        book.ledger
    };
    under_every_fault(
        20,
        |own, home| {
            let disk = Disk::new(None, own.clone());
            // A failed one is left, and a later one may go well again.
            (1..=3).filter(|readings| file::write(&disk, home, &after(*readings)).is_ok()).max()
        },
        |home, written| {
            let found = load(home, Sequence(3));
            let cursor = found.as_ref().map(|found| found.cursor().0);
            assert!(cursor >= *written, "{cursor:?}");
            assert_eq!(found, cursor.map(after), "never anything else than was written");
        },
    );
}

#[test]
fn holes_of_a_chair_that_is_taken_out_count_as_missing_and_not_as_unaccounted_for_for_ever() {
    let mut book = Book::new();
    book.note(&reading("chair-1", 0));
    book.lose();
    book.note(&reading("chair-1", 3));
    for _ in 0..2 {
        assert!(book.ledger.begin(&[]).is_empty());
        let (_, slots) = book.ledger.chairs().next().unwrap();
        let lost = slots.missing()[Missing::LostInStore as usize];
        assert_eq!((slots.captured(), lost, slots.untold()), (2, 2, 0));
    }
    // Back again, it is told of nothing twice.
    let left = book.ledger.begin(&[(chair("chair-1"), EVERY)]);
    assert_eq!(left[&chair("chair-1")].holes, []);
}
