//! Any bytes at any time: no driver panics, no decoder stands still, and the next good answer is taken.
#![expect(clippy::unwrap_used, reason = "a test says what must hold in the shortest way")]

use chairside_drivers::kit::driver::{Codec, Driver, Outcome, Output, Step};
use chairside_drivers::kit::simulator::Act;
use chairside_drivers::kit::time::{Slot, Tick};
use chairside_drivers::kit::transcript::Transcript;
use chairside_drivers::kpoll::codec::Kpoll;
use chairside_drivers::kpoll::table::{NIKKISO_DBB27C, TORAY_TR321, TORAY_TR3000, TORAY_TR8000, Table};
use chairside_drivers::{Entry, MODELS, Options};
use proptest::prelude::*;
use std::time::Duration;

const TABLES: [&Table; 4] = [&NIKKISO_DBB27C, &TORAY_TR8000, &TORAY_TR321, &TORAY_TR3000];

/// What happens to a driver.
#[derive(Clone, Debug)]
enum Event {
    Bytes(Vec<u8>),
    /// A good answer of the machine, with some of its bytes replaced.
    Answer(Vec<(prop::sample::Index, u8)>),
    PollDue,
    Open,
    Close,
    Passes(Duration),
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        // Bytes that look like frames much more often than chance does.
        prop::collection::vec(prop::sample::select(b"KK12012346/ \r\nabcH.-".to_vec()), 0..600),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => bytes().prop_map(Event::Bytes),
        3 => prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3).prop_map(Event::Answer),
        3 => Just(Event::PollDue),
        1 => Just(Event::Open),
        1 => Just(Event::Close),
        2 => (0_u64..5_000).prop_map(|millis| Event::Passes(Duration::from_millis(millis))),
    ]
}

/// The bytes of one good answer.
fn answer(entry: &Entry) -> Vec<u8> {
    let model = (entry.build)(&Options::new()).unwrap();
    let mut machine = model.machine(11);
    machine.act(Tick::ZERO, Act::StartTreatment);
    let later = Tick::from_micros(60_000_000);
    machine.handle_bytes(later, &model.requests()[0].bytes);
    std::iter::from_fn(|| machine.transmit(later.after(Duration::from_secs(1))))
        .flat_map(|sent| sent.bytes)
        .collect()
}

/// Takes everything the driver says until it waits; gives how the last poll ended, if one did.
fn drain(driver: &mut dyn Driver, ends: &mut Vec<(Slot, Outcome)>) -> Result<Option<Tick>, TestCaseError> {
    for _ in 0..5_000 {
        match driver.poll() {
            Output::Wait(deadline) => return Ok(deadline),
            Output::EndOfPoll(slot, outcome) => ends.push((slot, outcome)),
            Output::Sample(_) | Output::Send(_) | Output::Trouble(_) => {}
        }
    }
    Err(TestCaseError::fail("the driver never waits"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_poll_ends_once_and_the_next_good_answer_is_taken(events in prop::collection::vec(event(), 0..24)) {
        for entry in MODELS {
            let model = (entry.build)(&Options::new()).unwrap();
            let good = answer(entry);
            let mut driver = model.driver();
            let (mut now, mut slot, mut ends) = (Tick::ZERO, 0, Vec::new());
            for event in &events {
                match event {
                    Event::Bytes(bytes) => driver.handle_bytes(now, bytes),
                    Event::Answer(changes) => {
                        let mut changed = good.clone();
                        for (place, byte) in changes {
                            *place.get_mut(&mut changed) = *byte;
                        }
                        driver.handle_bytes(now, &changed);
                    }
                    Event::PollDue => {
                        driver.handle_poll_due(now, Slot(slot));
                        slot += 1;
                    }
                    Event::Open => driver.handle_open(now),
                    Event::Close => driver.handle_close(now),
                    Event::Passes(time) => {
                        now = now.after(*time);
                        driver.handle_tick(now);
                    }
                }
                if let Some(deadline) = drain(&mut *driver, &mut ends)? {
                    prop_assert!(deadline > now, "a deadline in the past");
                }
            }
            driver.handle_close(now);
            driver.handle_open(now);
            driver.handle_poll_due(now, Slot(slot));
            driver.handle_bytes(now, &good);
            drain(&mut *driver, &mut ends)?;
            let slots: Vec<u64> = ends.iter().map(|(slot, _)| slot.0).collect();
            prop_assert_eq!(slots, (0..=slot).collect::<Vec<u64>>(), "each slot ends once, in order");
            prop_assert_eq!(ends.last(), Some(&(Slot(slot), Outcome::Answered)));
        }
    }

    #[test]
    fn a_kpoll_decoder_always_makes_progress_and_never_asks_for_more_than_a_frame(bytes in bytes()) {
        for table in TABLES {
            let codec = Kpoll::new(table);
            let mut rest = bytes.as_slice();
            loop {
                match codec.decode(rest) {
                    Step::NeedMore => {
                        prop_assert!(rest.len() < Kpoll::MAX_FRAME);
                        match codec.give_up(rest) {
                            Some((used, _)) => rest = &rest[used.get()..],
                            None => break,
                        }
                    }
                    Step::Junk { used, .. } => rest = &rest[used.get()..],
                    Step::Frame { frame, used } => {
                        prop_assert!(frame.samples().count() <= table.items.len());
                        rest = &rest[used.get()..];
                    }
                }
            }
        }
    }

    #[test]
    fn any_text_is_a_transcript_or_an_error_with_its_line(text in "(model|[><~!=]| |\\||4B|[a-z =\n]){0,60}") {
        if let Err(error) = Transcript::parse(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count().max(1));
        }
    }
}
