//! Whatever a machine says, in whatever order: what must hold all the same.

use super::testing::{Chair, nikkiso_map, toray_map};
use super::*;
use crate::model::alarm::{Alarm, Phase as Edge};
use crate::model::parameter::Kind;
use chairside_drivers::kit::driver::{ChannelId, Mark as SpotMark};
use chairside_drivers::kit::time::Tick;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::time::Duration;

/// What happens to a chair.
#[derive(Clone, Debug)]
enum Event {
    /// The machine answers after some seconds, by a wall clock that is off by some more.
    Answered {
        wait: u32,
        clock_off: i32,
        missed: u64,
        samples: Vec<Sample>,
    },
    LineLost,
    /// By a seat; `another` where one began in its place.
    TreatmentChanged {
        another: bool,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let wait = prop_oneof![8 => Just(10_u32), 2 => 0..120_u32, 1 => 0..100_000_u32];
    let clock_off = prop_oneof![8 => Just(0), 1 => any::<i32>()];
    let missed = prop_oneof![8 => Just(0), 1 => 0..3_u64];
    let answered = (wait, clock_off, missed, samples())
        .prop_map(|(wait, clock_off, missed, samples)| Event::Answered { wait, clock_off, missed, samples });
    vec(
        prop_oneof![20 => answered, 1 => Just(Event::LineLost), 1 => any::<bool>().prop_map(|another| Event::TreatmentChanged { another })],
        1..60,
    )
}

/// An answer: mostly what a machine in a treatment says, with a few values to change between; sometimes anything.
fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let usual = (
        select(vec!["0", "1", "1", "1", ""]),
        select(vec!["0", "1", "2", "3", "30", ""]),
        select(vec!["0", "250", "250", ""]),
        select(vec!["", "1", "2", "3"]),
        select(vec!["", "0", "118", "131"]),
        select(vec!["", "0", "76", "82"]),
        select(vec!["0", "0", "1"]),
        select(vec!["36.5", "36.5", "36.5", "85.0", ""]),
    )
        .prop_map(|(flag, elapsed, flow, mark, systolic, diastolic, alarm, temperature)| {
            vec![
                sample("D", number(flow)),
                sample("F", number(temperature)),
                sample("K", number(elapsed)),
                sample("A", number("2.5")),
                sample("c", code(alarm)),
                sample("g", code(alarm)),
                sample("M", code(flag)),
                sample("S", spot_mark(mark)),
                sample("T", number(systolic)),
                sample("U", number(diastolic)),
                sample("V", number("70")),
                // The same cuff as the other machine has it.
                sample("N", number(systolic)),
                sample("O", number(diastolic)),
            ]
        });
    let anything = vec((select(CHANNELS), reading()), 0..12)
        .prop_map(|samples| samples.into_iter().map(|(channel, reading)| sample(channel, reading)).collect());
    prop_oneof![6 => usual, 1 => anything]
}

const CHANNELS: &[&str] =
    &["A", "B", "D", "F", "K", "M", "N", "S", "T", "U", "V", "c", "g", "n", "?", "venous"];

fn reading() -> impl Strategy<Value = driver::Reading> {
    prop_oneof![
        (any::<i64>(), 0..=18_u8)
            .prop_map(|(mantissa, scale)| driver::Reading::Number(Decimal::new(mantissa, scale).unwrap())),
        (0..12_u32).prop_map(|raw| driver::Reading::Code { raw, name: None }),
        any::<u64>().prop_map(|token| driver::Reading::Mark(SpotMark::new(token))),
        Just(driver::Reading::Text(Sensitive::new(String::from("Mustermann")))),
        Just(driver::Reading::Absent),
    ]
}

fn sample(channel: &'static str, reading: driver::Reading) -> Sample {
    Sample { channel: ChannelId::from_static(channel), reading }
}

fn number(text: &str) -> driver::Reading {
    Decimal::parse(text.as_bytes()).map_or(driver::Reading::Absent, driver::Reading::Number)
}

fn code(text: &str) -> driver::Reading {
    text.parse().map_or(driver::Reading::Absent, |raw| driver::Reading::Code { raw, name: None })
}

fn spot_mark(text: &str) -> driver::Reading {
    text.parse().map_or(driver::Reading::Absent, |token| driver::Reading::Mark(SpotMark::new(token)))
}

/// The mark of a poll and its spot values.
type Shown = (Option<u64>, Vec<(Parameter, Reading)>);

/// What an onlooker knows of a chair, from its findings alone.
#[derive(Default)]
struct Onlooker {
    treatments: u32,
    running: bool,
    /// Time of the last values of the running treatment, and of the running stretch without one.
    previous: (Option<Timestamp>, Option<Timestamp>),
    /// Occurrence and owner of each alarm that is on.
    open: BTreeMap<&'static str, (u32, Phase)>,
    last_occurrence: BTreeMap<&'static str, u32>,
    /// What was last told of the treatment, and of the running stretch without one.
    settings: [BTreeMap<Parameter, Reading>; 2],
    /// The mark and the spot values of the last news.
    told: Option<Shown>,
    fresh: bool,
}

impl Onlooker {
    fn treatment_changed(&mut self) {
        self.previous = (None, None);
        self.settings = Default::default();
        self.fresh = true;
    }

    fn treatment_over(&mut self) {
        self.running = false;
        self.previous = (None, None);
        let left = self.open.values().any(|(_, owner)| *owner == Phase::Treating);
        assert!(!left, "no alarm outlives the treatment it was raised in");
    }

    fn looks(&mut self, capture: &Capture, mark: Option<u64>) {
        match &capture.finding {
            Finding::TreatmentStarted => {
                assert!(!self.running);
                self.running = true;
                self.treatments += 1;
                self.treatment_changed();
            }
            Finding::TreatmentEnded(_) => {
                assert!(self.running);
                self.treatment_over();
            }
            Finding::Alarm(edge) => {
                self.looks_at_edge(edge.alarm, edge.phase, (edge.occurrence, capture.phase))
            }
            Finding::Values(values) => self.looks_at_values(capture, values, mark),
        }
    }

    fn looks_at_edge(&mut self, alarm: Alarm, edge: Edge, raised: (u32, Phase)) {
        match edge {
            Edge::Start => {
                assert_eq!(self.open.insert(alarm.key(), raised), None, "raised twice");
                let before = self.last_occurrence.insert(alarm.key(), raised.0);
                assert!(before.is_none_or(|before| before < raised.0));
            }
            Edge::End | Edge::EndConnectionLost | Edge::EndTreatmentChanged | Edge::EndGatewayDown => {
                let told = self.open.remove(alarm.key());
                assert_eq!(told, Some(raised), "an end ends what was told of, and is whose that is");
            }
            Edge::Chattering { edges } => assert!(edges > 0),
        }
    }

    fn looks_at_values(&mut self, capture: &Capture, values: &[Value], mark: Option<u64>) {
        let treating = capture.phase == Phase::Treating;
        assert!(self.running || !matches!(capture.phase, Phase::Treating | Phase::Ending));
        let previous = if treating { &mut self.previous.0 } else { &mut self.previous.1 };
        assert_eq!(previous.replace(capture.origin.at), capture.origin.previous);
        if treating {
            self.previous.1 = None;
            self.settings[1].clear();
            let others = self.open.values().any(|(_, owner)| *owner != Phase::Treating);
            assert!(!others, "what is on while a patient is treated is the patient's");
        }
        for value in values {
            assert!(treating || !value.doubts.contains(Doubts::OUTSIDE_PLAUSIBLE));
            match value.parameter.row().kind {
                Kind::Measured | Kind::Total => assert_eq!(value.mark, Mark::New),
                Kind::Setting | Kind::State(_) => {
                    let settings = &mut self.settings[usize::from(!treating)];
                    let before = settings.insert(value.parameter, value.reading);
                    assert_eq!(value.mark == Mark::Same, before == Some(value.reading), "{value:?}");
                    assert_ne!(value.mark, Mark::Baseline);
                }
                Kind::Spot => {}
            }
        }
        self.looks_at_spots(values, mark);
    }

    fn looks_at_spots(&mut self, values: &[Value], mark: Option<u64>) {
        let spots = || values.iter().filter(|value| value.parameter.row().kind == Kind::Spot);
        for value in spots().filter(|value| value.mark == Mark::New) {
            assert!(matches!(value.reading, Reading::Number(number) if number.mantissa() > 0), "{value:?}");
        }
        let is_new = spots().any(|value| value.mark == Mark::New);
        assert!(!(is_new && self.fresh), "what stands there at a start is baseline");
        if std::mem::take(&mut self.fresh) {
            self.told = None;
        }
        if is_new {
            let shown = spots().map(|value| (value.parameter, value.reading)).collect();
            let told = Some((mark, shown));
            assert_ne!(self.told, told, "one measurement is news once");
            self.told = told;
        }
    }
}

/// The mark a poll shows: the last one wins, as it does in the normaliser.
fn mark_of(samples: &[Sample], channel: &str) -> Option<u64> {
    let marks = samples.iter().filter(|sample| sample.channel.as_str() == channel);
    marks
        .filter_map(|sample| match sample.reading {
            driver::Reading::Mark(mark) => Some(mark.bits()),
            _ => None,
        })
        .next_back()
}

fn run(map: DeviceMap, mark: &str, resume: Option<Resume>, events: Vec<Event>) {
    let mut chair = Chair::nikkiso();
    let mut normaliser = Normaliser::new(Arc::new(map), resume);
    let mut onlooker = Onlooker { fresh: true, running: resume.is_some(), ..Onlooker::default() };
    for event in events {
        match event {
            Event::Answered { wait, clock_off, missed, samples } => {
                chair.now = chair.now.after(Duration::from_secs(u64::from(wait)));
                chair.slot += 1 + missed;
                let mut origin = chair.origin();
                origin.at = Timestamp::from_micros(origin.at.as_micros() + i64::from(clock_off) * 1_000_000);
                let mark = mark_of(&samples, mark);
                let found = normaliser.answered(Poll { origin, samples });
                let (values, rest) = found.split_last().unwrap();
                assert!(matches!(values.finding, Finding::Values(_)));
                assert_eq!(values.origin.slot, Some(Slot(chair.slot)));
                assert_eq!(values.phase, normaliser.phase());
                for capture in rest {
                    assert!(!matches!(capture.finding, Finding::Values(_)));
                    assert_eq!((capture.origin.slot, capture.origin.previous), (None, None));
                    assert!(capture.identity.is_empty());
                }
                found.iter().for_each(|capture| onlooker.looks(capture, mark));
            }
            Event::LineLost => {
                let found = normaliser.line_lost(chair.origin());
                found.iter().for_each(|capture| onlooker.looks(capture, None));
                assert!(onlooker.open.is_empty(), "a lost line leaves no alarm on");
                onlooker.fresh = true;
            }
            Event::TreatmentChanged { another } => {
                let found = normaliser.treatment_changed(&chair.origin(), another);
                found.iter().for_each(|capture| onlooker.looks(capture, None));
                let running = onlooker.running && another;
                onlooker.treatment_over();
                onlooker.treatment_changed();
                onlooker.running = running;
            }
        }
    }
}

fn resume() -> impl Strategy<Value = Option<Resume>> {
    let known = (any::<i32>(), any::<i32>(), proptest::option::of((any::<i64>(), 0..=18_u8)));
    proptest::option::of(known).prop_map(|known| {
        known.map(|(started, at, elapsed)| {
            let time =
                |seconds: i32| Timestamp::from_micros(1_800_000_000_000_000 + i64::from(seconds) * 1_000_000);
            let elapsed = elapsed.and_then(|(mantissa, scale)| Decimal::new(mantissa, scale));
            Resume { started: time(started), elapsed, at: time(at) }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_sequence_is_told_consistently_by_a_machine_with_a_flag(resume in resume(), events in events()) {
        run(nikkiso_map(), "S", resume, events);
    }

    #[test]
    fn any_sequence_is_told_consistently_by_a_machine_without_a_flag(resume in resume(), events in events()) {
        run(toray_map(), "M", resume, events);
    }
}

#[test]
fn times_at_the_end_of_their_range_are_survived() {
    let mut chair = Chair::nikkiso();
    for (at, tick) in [(i64::MIN, 0), (i64::MAX, u64::MAX), (0, 0), (i64::MAX, 1), (i64::MIN, u64::MAX)] {
        let origin =
            Origin { at: Timestamp::from_micros(at), tick: Tick::from_micros(tick), ..chair.origin() };
        let samples = chair.samples();
        assert!(!chair.normaliser.answered(Poll { origin: origin.clone(), samples }).is_empty());
        drop(chair.normaliser.line_lost(origin.clone()));
        drop(chair.normaliser.treatment_changed(&origin, at == 0));
    }
}
