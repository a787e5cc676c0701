//! Does any machine behave like a machine? Every model of the list against its own simulator, on good and bad cables.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what must hold in the shortest way"
)]

mod bed;

use bed::{Bed, INTERVAL, Poll};
use chairside_drivers::kit::driver::{ChannelKind, Outcome, Output, Reading};
use chairside_drivers::kit::noise::{Fault, Noise};
use chairside_drivers::kit::random::Random;
use chairside_drivers::kit::simulator::{Act, Switch};
use chairside_drivers::{Entry, MODELS, OptionError, OptionValue, Options, find};
use std::collections::BTreeSet;

#[test]
fn every_model_says_what_its_screen_shows_from_one_patient_to_the_next() {
    for entry in MODELS {
        for seed in 0..6 {
            let mut bed = Bed::new(entry, Noise::NONE, seed);
            for act in [
                None,
                Some(Act::StartTreatment),
                Some(Act::MeasureBloodPressure { systolic: 128, diastolic: 71, pulse: 66 }),
                Some(Act::VenousPressureAlarm(Switch::On)),
                Some(Act::VenousPressureAlarm(Switch::Off)),
                Some(Act::EndTreatment),
                Some(Act::Rinse),
                Some(Act::StartTreatment),
                Some(Act::MeasureBloodPressure { systolic: 104, diastolic: 58, pulse: 91 }),
            ] {
                if let Some(act) = act {
                    bed.act(act);
                }
                for _ in 0..20 {
                    bed.poll().must_be_right(entry);
                }
            }
        }
    }
}

#[test]
fn a_screen_shows_every_channel_in_its_kind_and_nothing_else() {
    for entry in MODELS {
        let model = (entry.build)(&Options::new()).unwrap();
        let screen = model.machine(1).screen();
        let shown: BTreeSet<&str> = screen.keys().map(|channel| channel.as_str()).collect();
        let listed: BTreeSet<&str> = model.channels().iter().map(|channel| channel.id.as_str()).collect();
        assert_eq!(listed.len(), model.channels().len(), "{}: a channel is listed twice", entry.id);
        assert_eq!(shown, listed, "{}", entry.id);
        for channel in model.channels() {
            let example =
                channel.example_reading.as_ref().expect("every channel has an example that can be read");
            for reading in [example, &screen[&channel.id]] {
                assert!(fits(channel.kind, reading), "{} {}: {reading:?}", entry.id, channel.id);
            }
            assert!(
                channel.unit.is_none() || channel.kind == ChannelKind::Number,
                "{} {}",
                entry.id,
                channel.id
            );
        }
    }
}

fn fits(kind: ChannelKind, reading: &Reading) -> bool {
    matches!(
        (kind, reading),
        (_, Reading::Absent)
            | (ChannelKind::Number, Reading::Number(_))
            | (ChannelKind::Code(_), Reading::Code { .. })
            | (ChannelKind::Alarm, Reading::Code { name: None, .. })
            | (ChannelKind::Mark, Reading::Mark(_))
            | (ChannelKind::Text, Reading::Text(_))
    )
}

#[test]
fn any_split_of_the_bytes_gives_the_same_samples() {
    for entry in MODELS {
        for seed in 0..60 {
            let pieces = u32::try_from(seed).unwrap() + 1;
            let mut bed = Bed::treating(entry, Noise { pieces, ..Noise::NONE }, seed);
            for _ in 0..4 {
                bed.poll().must_be_right(entry);
            }
        }
    }
}

#[test]
fn one_fault_at_any_byte_gives_no_wrong_value_and_the_next_poll_is_answered() {
    let bits = (0..8).map(|bit| Fault::Flip(1 << bit));
    let faults: Vec<Fault> = bits.chain([Fault::Drop, Fault::Double]).collect();
    for entry in MODELS {
        let mut bed = Bed::treating(entry, Noise::NONE, 3);
        let (mut answered, mut refused) = (0, 0);
        for place in 0..bed.longest_answer() {
            for fault in &faults {
                bed.cable.fault_after(place, *fault);
                let poll = bed.poll();
                match poll.outcome {
                    // The fault struck a terminator, or an answer shorter than the place.
                    Outcome::Answered => {
                        poll.must_be_right(entry);
                        answered += 1;
                    }
                    _ => {
                        assert!(poll.samples.is_empty(), "{}: {fault:?} at {place}", entry.id);
                        refused += 1;
                    }
                }
                let next = bed.poll();
                assert_eq!(next.outcome, Outcome::Answered, "{}: after {fault:?} at {place}", entry.id);
                next.must_be_right(entry);
            }
        }
        println!("{}: {refused} damaged answers refused, {answered} not touched by the fault", entry.id);
        assert!(refused > answered, "{}: the faults must strike", entry.id);
    }
}

#[test]
fn a_cable_pulled_at_any_byte_gives_no_wrong_value_and_comes_back() {
    for entry in MODELS {
        for port in [Port::StaysOpen, Port::IsReopened] {
            let mut bed = Bed::treating(entry, Noise::NONE, 4);
            for place in 0..bed.longest_answer() {
                bed.cable.pull_after(usize::try_from(place).unwrap());
                let poll = bed.poll();
                if poll.outcome == Outcome::Answered {
                    poll.must_be_right(entry);
                } else {
                    assert!(poll.samples.is_empty(), "{}: pulled at {place}", entry.id);
                }
                if port == Port::IsReopened {
                    bed.reopen();
                }
                bed.cable.plug();
                bed.poll().must_be_right(entry);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Port {
    StaysOpen,
    IsReopened,
}

#[test]
fn a_port_that_closes_in_mid_answer_ends_the_poll_as_closed() {
    for entry in MODELS {
        let mut bed = Bed::treating(entry, Noise::NONE, 5);
        assert_eq!(bed.poll_and_close().outcome, Outcome::Closed, "{}", entry.id);
        bed.reopen();
        bed.poll().must_be_right(entry);
    }
}

#[test]
fn a_poll_that_is_due_too_early_gives_the_last_one_up_and_is_answered() {
    for entry in MODELS {
        let mut bed = Bed::treating(entry, Noise::NONE, 5);
        bed.poll_too_early().must_be_right(entry);
        bed.poll().must_be_right(entry);
    }
}

#[test]
fn echo_and_stale_bytes_do_not_spoil_the_answer() {
    for entry in MODELS {
        let noise = Noise { echo: Switch::On, stale: 1_000_000, ..Noise::NONE };
        for seed in 0..40 {
            let mut bed = Bed::treating(entry, noise, seed);
            for _ in 0..6 {
                let poll = bed.poll();
                // A stale tail may end in what looks like the start of a frame; then this poll may be lost.
                if poll.outcome == Outcome::Answered {
                    poll.must_be_right(entry);
                }
            }
            bed.cable.set_noise(Noise::NONE);
            bed.poll().must_be_right(entry);
        }
    }
}

#[test]
fn a_dead_machine_is_silent_and_every_poll_ends_within_the_quiet_time() {
    for entry in MODELS {
        let mut bed = Bed::treating(entry, Noise::NONE, 6);
        let quiet_time = (entry.build)(&Options::new()).unwrap().quiet_time();
        bed.cable.pull_after(0);
        for _ in 0..5 {
            let poll = bed.poll();
            assert_eq!((poll.outcome, poll.took), (Outcome::Silent, quiet_time), "{}", entry.id);
        }
    }
}

#[test]
fn only_listed_requests_are_ever_sent_and_none_changes_anything() {
    for entry in MODELS {
        let storm = Noise {
            drops: 9_000,
            flips: 9_000,
            doubles: 9_000,
            stale: 300_000,
            pieces: 30,
            echo: Switch::On,
        };
        for seed in 0..10 {
            // The bed itself refuses a request outside the list.
            let mut bed = Bed::treating(entry, storm, seed);
            for _ in 0..30 {
                bed.poll();
            }
            assert!(bed.requests_sent() >= 30, "{}", entry.id);
        }
        // Device maps point to channels, so nothing a map says can reach the wire.
        let model = (entry.build)(&Options::new()).unwrap();
        assert!(
            model.requests().iter().all(|request| !request.bytes.is_empty() && !request.source.is_empty())
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_output() {
    let run = |entry: &'static Entry, seed| -> Vec<Output> {
        let storm = Noise {
            drops: 2_000,
            flips: 2_000,
            doubles: 2_000,
            stale: 100_000,
            pieces: 20,
            echo: Switch::On,
        };
        let mut bed = Bed::treating(entry, storm, seed);
        for _ in 0..40 {
            bed.poll();
        }
        bed.into_log()
    };
    for entry in MODELS {
        assert_eq!(run(entry, 8), run(entry, 8), "{}", entry.id);
        assert_ne!(run(entry, 8), run(entry, 9), "{}", entry.id);
    }
}

#[test]
fn an_unknown_option_is_refused_by_its_name() {
    for entry in MODELS {
        let options = Options::from([("no_such_option".to_owned(), OptionValue::Switch(true))]);
        match (entry.build)(&options) {
            Err(OptionError::Unknown { key, .. }) => assert_eq!(key, "no_such_option"),
            other => panic!("{}: {other:?}", entry.id),
        }
        assert_eq!(find(entry.id.as_str()).map(|found| &found.id), Some(&entry.id));
    }
}

/// What a weak check cannot see is measured and told. Recovery is asserted, and that no half answer passes.
#[test]
fn a_storm_is_survived_and_what_the_check_cannot_see_is_told() {
    for entry in MODELS {
        for rate in [300, 3_000, 20_000] {
            let storm = Noise {
                drops: rate,
                flips: rate,
                doubles: rate,
                stale: 10 * rate,
                pieces: 40,
                echo: Switch::On,
            };
            let mut tally = Tally::default();
            for seed in 0..8 {
                let mut bed = Bed::treating(entry, storm, seed);
                for _ in 0..100 {
                    tally.count(&bed.poll(), entry);
                }
                bed.cable.set_noise(Noise::NONE);
                bed.poll();
                bed.poll().must_be_right(entry);
            }
            println!("{} at {rate} faults of each sort in a million bytes: {tally:?}", entry.id);
        }
    }
}

#[test]
fn two_errors_that_balance_each_other_are_measured() {
    for entry in MODELS {
        let mut bed = Bed::treating(entry, Noise::NONE, 7);
        let length = u32::try_from(bed.longest_answer()).unwrap();
        let mut random = Random::new(7);
        let mut tally = Tally::default();
        for _ in 0..2_000 {
            bed.cable.fault_after(u64::from(random.below(length)), Fault::Add(1));
            bed.cable.fault_after(u64::from(random.below(length)), Fault::Add(0xFF));
            tally.count(&bed.poll(), entry);
            bed.poll().must_be_right(entry);
        }
        println!("{}, one byte up by one and another down by one: {tally:?}", entry.id);
    }
}

/// How polls ended. `wrong` are answers with a value that no screen showed: what the protocol's own check lets through.
#[derive(Debug, Default)]
struct Tally {
    right: u32,
    wrong: u32,
    refused: u32,
    silent: u32,
}

impl Tally {
    fn count(&mut self, poll: &Poll, entry: &Entry) {
        match poll.outcome {
            Outcome::Answered if poll.is_right() => self.right += 1,
            Outcome::Answered => {
                assert_eq!(poll.samples.len(), poll.shown(), "{}: a part of an answer passed", entry.id);
                self.wrong += 1;
            }
            Outcome::Silent => self.silent += 1,
            Outcome::Faulty(_) | Outcome::Closed => self.refused += 1,
        }
        assert!(poll.took <= INTERVAL, "{}", entry.id);
    }
}
