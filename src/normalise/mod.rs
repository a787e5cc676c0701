//! From a machine's samples to values that mean something: units, marks, doubts, alarms, treatments. Pure.
//!
//! One [`Normaliser`] follows one chair. It is told of each answered poll and of each lost line, and says what was found,
//! in order: the end of a treatment, the start of one, alarm edges, and the values of the poll.

mod alarm;
mod capture;
mod plausible;
mod route;
mod spot;
mod treatment;
mod values;

pub use capture::{Capture, EndReason, Finding, Origin, Phase};
pub use treatment::Resume;

use crate::config::device_map::DeviceMap;
use crate::model::parameter::Parameter;
use crate::model::time::{ClockTrust, Timestamp};
use crate::model::value::{Doubts, Mark, Reading, Value};
use alarm::Watch;
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::{self, Sample};
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::time::Slot;
use route::Routes;
use spot::SpotGroup;
use std::sync::Arc;
use std::time::Duration;
use treatment::{Judge, Signals};
use values::Meaning;

/// One answered poll of one chair.
#[derive(Debug)]
pub struct Poll {
    /// Where and when; its `previous` is not read, the normaliser sets it.
    pub origin: Origin,
    /// What the machine said, in the driver's order.
    pub samples: Vec<Sample>,
}

/// What could not be said as it was meant; each is counted where it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// States that the driver or the table does not know; sent as unknown.
    pub unknown_states: u64,
    /// Samples of the wrong kind for their parameter, or with more digits than a number holds; not sent.
    pub unusable: u64,
}

/// Dialysate at this temperature touches no patient: the machine disinfects itself with heat.
const HOT: Decimal = Decimal::whole(45);

/// A treatment that was seen treating no longer ago ends now.
const JUST_NOW: Duration = Duration::from_secs(90);

/// Follows one chair: turns its polls into findings.
#[derive(Debug)]
pub struct Normaliser {
    routes: Routes,
    meanings: Vec<Meaning>,
    spots: Vec<SpotGroup>,
    alarms: Vec<Watch>,
    judge: Judge,
    counts: Counts,
    dialysate_temperature: Option<Parameter>,
    /// Settings, states and spot values start over with the next poll.
    starts_over: bool,
    /// Spot values start over with the next poll.
    spots_start_over: bool,
    after_gap: bool,
    last_slot: Option<Slot>,
    previous: Previous,
    /// The last poll of the running treatment that saw it treating; its end, where it is told of later.
    treating: Option<Origin>,
    /// When the treatment known before a restart was last seen, until the machine was heard of it.
    resumed: Option<Timestamp>,
    heard: Heard,
}

/// What the samples of one poll said; kept to use its memory again.
#[derive(Debug, Default)]
struct Heard {
    /// The meaning of each value, in the order of the values.
    meanings: Vec<usize>,
    alarms: Vec<(usize, u32)>,
    signals: Signals,
}

/// Capture times of the last values: those of the running treatment, and those of the stretch without one.
#[derive(Debug, Default)]
struct Previous {
    treatment: Option<Timestamp>,
    machine: Option<Timestamp>,
}

impl Normaliser {
    /// Follows a chair with this map. `resume` is the treatment that ran before a restart; it goes on where the machine's
    /// elapsed time agrees with it, and is ended where not.
    #[must_use]
    pub fn new(map: Arc<DeviceMap>, resume: Option<Resume>) -> Self {
        let (marks, groups) = route::spot_groups(&map);
        let mut spots: Vec<SpotGroup> = marks.iter().map(|_| SpotGroup::default()).collect();
        let meanings = map
            .entries
            .iter()
            .zip(groups)
            .map(|(entry, group)| {
                let spot = group.and_then(|group| Some((group, spots.get_mut(group)?.join())));
                Meaning::new(entry, spot)
            })
            .collect();
        Self {
            routes: Routes::new(&map, &marks),
            meanings,
            spots,
            alarms: map.alarms.iter().map(|(alarm, _)| Watch::new(*alarm)).collect(),
            judge: Judge::new(route::rule(&map), resume),
            counts: Counts::default(),
            dialysate_temperature: Parameter::from_key("dialysate_temperature"),
            starts_over: false,
            spots_start_over: false,
            after_gap: resume.is_some(),
            last_slot: None,
            previous: Previous::default(),
            treating: None,
            resumed: resume.map(|resume| resume.at),
            heard: Heard::default(),
        }
    }

    /// The machine answered. The findings, in order: treatment ended, treatment started, alarm edges, values.
    #[must_use]
    pub fn answered(&mut self, poll: Poll) -> Vec<Capture> {
        let Poll { mut origin, samples } = poll;
        let mut out = Vec::new();
        let mut identity = Vec::new();
        let mut values = self.hear(samples, &mut identity);

        self.judge_treatment(&origin, &mut out);
        self.tell_alarms(&origin, &mut out);
        self.finish(&mut values, &origin);

        let phase = self.judge.phase();
        if phase == Phase::Treating {
            self.treating = Some(own(&origin));
            self.resumed = None;
        }
        origin.previous = self.previous.turn(phase, origin.at);
        self.last_slot = origin.slot.or(self.last_slot);
        self.after_gap = false;
        out.push(Capture { origin, phase, finding: Finding::Values(values), identity });
        out
    }

    /// The line is gone. Alarms that are on are closed; when it comes back, what stands on the screen is baseline.
    #[must_use]
    pub fn line_lost(&mut self, origin: Origin) -> Vec<Capture> {
        let mut out = Vec::new();
        for alarm in &mut self.alarms {
            alarm.line_lost(&origin, &mut out);
        }
        self.after_gap = true;
        self.spots_start_over = true;
        out
    }

    /// A change of seat ended the treatment, and where `another` is set began one in its place: settings and states are
    /// news again, spot values baseline. Where none began, the machine begins one with what it shows from now on.
    ///
    /// What comes back are the last alarm edges of the treatment that ended, to be sealed with that one.
    #[must_use]
    pub fn treatment_changed(&mut self, origin: &Origin, another: bool) -> Vec<Capture> {
        let mut out = Vec::new();
        for alarm in &mut self.alarms {
            alarm.treatment_over(origin, &mut out);
        }
        if another {
            self.judge.restarted(origin.at);
            self.treating = Some(own(origin));
        } else {
            self.judge.ended();
            self.treating = None;
        }
        self.resumed = None;
        self.previous = Previous::default();
        self.starts_over = true;
        out
    }

    /// The wall clock was set by this many microseconds: times that are compared with later ones move along.
    pub fn clock_stepped(&mut self, micros: i64) {
        self.judge.clock_stepped(micros);
        if let Some(treating) = &mut self.treating {
            treating.at = treating.at.shifted(micros);
        }
        for at in [&mut self.resumed, &mut self.previous.treatment, &mut self.previous.machine] {
            *at = at.map(|at| at.shifted(micros));
        }
    }

    /// What the chair is doing.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.judge.phase()
    }

    /// The machine's elapsed treatment time as last seen, in minutes; what [`Resume`] needs after a restart.
    #[must_use]
    pub fn elapsed(&self) -> Option<Decimal> {
        self.judge.elapsed()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads every sample once: values without mark and doubt, alarm digits, signals of the treatment, spot marks, text.
    fn hear(&mut self, samples: Vec<Sample>, identity: &mut Vec<Sensitive<String>>) -> Vec<Value> {
        self.heard.meanings.clear();
        self.heard.alarms.clear();
        self.heard.signals = Signals::default();
        for group in &mut self.spots {
            group.clear();
        }
        let mut values = Vec::with_capacity(self.meanings.len());
        for (place, sample) in samples.into_iter().enumerate() {
            if let Some(route) = self.routes.find(place, &sample.channel) {
                self.heard.hear(route, &sample.reading);
                for &group in &route.mark_of {
                    if let (Some(group), driver::Reading::Mark(mark)) =
                        (self.spots.get_mut(group), &sample.reading)
                    {
                        group.see_mark(*mark);
                    }
                }
                for &index in &route.meanings {
                    let Some(meaning) = self.meanings.get(index) else { continue };
                    let Ok(reading) = meaning.read(&sample.reading) else {
                        self.counts.unusable += 1;
                        continue;
                    };
                    self.counts.unknown_states += u64::from(reading == Reading::UnknownState);
                    if let Reading::Number(number) = reading {
                        if Some(meaning.parameter) == self.dialysate_temperature {
                            self.heard.signals.hot = number.compare(HOT).is_ge();
                        }
                        if let Some((group, place)) = meaning.spot
                            && let Some(group) = self.spots.get_mut(group)
                        {
                            group.see(place, number);
                        }
                    }
                    self.heard.meanings.push(index);
                    values.push(Value {
                        parameter: meaning.parameter,
                        reading,
                        mark: Mark::New,
                        doubts: Doubts::NONE,
                    });
                }
            }
            if let driver::Reading::Text(text) = sample.reading {
                identity.push(text);
            }
        }
        values
    }

    fn judge_treatment(&mut self, origin: &Origin, out: &mut Vec<Capture>) {
        let ruling = self.judge.step(origin.tick, origin.at, self.heard.signals);
        let event = |origin, phase, finding| Capture { origin, phase, finding, identity: Vec::new() };
        if let Some(reason) = ruling.ended {
            let end = self.end(origin);
            // Edges held back belong to the treatment in which they were seen: before its end.
            for alarm in &mut self.alarms {
                alarm.treatment_over(&end, out);
            }
            out.push(event(end, Phase::Ending, Finding::TreatmentEnded(reason)));
            self.previous = Previous::default();
        }
        if ruling.started {
            out.push(event(own(origin), Phase::Treating, Finding::TreatmentStarted));
            self.previous = Previous::default();
            self.starts_over = true;
        }
    }

    /// When the treatment ended that is over by now: at this poll where it was treating a moment ago, else when it was last
    /// seen treating. A machine that stood still or was silent says so a quarter of an hour later, or the next morning.
    fn end(&mut self, now: &Origin) -> Origin {
        match (self.treating.take(), self.resumed.take()) {
            (Some(last), _) if now.tick.since(last.tick) > JUST_NOW => last,
            // The tick of the process before says nothing in this one.
            (None, Some(at)) => Origin { at, ..own(now) },
            _ => own(now),
        }
    }

    fn tell_alarms(&mut self, origin: &Origin, out: &mut Vec<Capture>) {
        let phase = self.judge.phase();
        for alarm in &mut self.alarms {
            alarm.prepare(origin, phase, out);
        }
        for &(index, raw) in &self.heard.alarms {
            if let Some(alarm) = self.alarms.get_mut(index) {
                alarm.hear(raw, origin, phase, out);
            }
        }
        for alarm in &mut self.alarms {
            alarm.settle(origin.tick, out);
        }
    }

    /// Sets marks and doubts, now that the phase is known.
    fn finish(&mut self, values: &mut [Value], origin: &Origin) {
        if self.starts_over {
            self.meanings.iter_mut().for_each(Meaning::forget);
        }
        let spots_start_over = self.starts_over || self.spots_start_over;
        self.starts_over = false;
        self.spots_start_over = false;
        for group in &mut self.spots {
            if spots_start_over {
                group.start_over();
            }
            group.judge();
        }
        let mut doubts = Doubts::NONE;
        if self.after_gap || self.missed_a_slot(origin.slot) {
            doubts = doubts.with(Doubts::AFTER_GAP);
        }
        if origin.clock == ClockTrust::Untrusted {
            doubts = doubts.with(Doubts::CLOCK_UNTRUSTED);
        }
        let treating = self.judge.phase() == Phase::Treating;
        for (value, &index) in values.iter_mut().zip(&self.heard.meanings) {
            let Some(meaning) = self.meanings.get_mut(index) else { continue };
            value.mark = match meaning.spot.and_then(|(group, _)| self.spots.get(group)) {
                Some(group) => group.mark(value.reading),
                None => meaning.mark(value.reading, treating),
            };
            value.doubts =
                if treating { doubts.with(meaning.plausible.doubt(value.reading)) } else { doubts };
        }
    }

    fn missed_a_slot(&self, slot: Option<Slot>) -> bool {
        matches!((self.last_slot, slot), (Some(Slot(last)), Some(Slot(slot))) if slot > last.saturating_add(1))
    }
}

impl Heard {
    /// What a sample says besides its values.
    fn hear(&mut self, route: &route::Route, reading: &driver::Reading) {
        match reading {
            driver::Reading::Number(number) => {
                if let Some(minutes) = route.elapsed.and_then(|conversion| conversion.apply(*number)) {
                    self.signals.elapsed = Some(minutes);
                }
                if route.flow {
                    self.signals.flow = Some(number.mantissa() > 0);
                }
            }
            driver::Reading::Code { raw, .. } => {
                if let Some(running) = &route.flag {
                    self.signals.flag = Some(running.contains(raw));
                }
                self.alarms.extend(route.alarms.iter().map(|&alarm| (alarm, *raw)));
            }
            driver::Reading::Mark(_) | driver::Reading::Text(_) | driver::Reading::Absent => {}
        }
    }
}

/// What happens at a poll fills no slot and is no value of a window; both belong to the values.
fn own(origin: &Origin) -> Origin {
    Origin { slot: None, previous: None, ..origin.clone() }
}

impl Previous {
    /// The capture time of the values before these, which become the last ones.
    const fn turn(&mut self, phase: Phase, at: Timestamp) -> Option<Timestamp> {
        if matches!(phase, Phase::Treating) {
            self.machine = None;
            self.treatment.replace(at)
        } else {
            self.machine.replace(at)
        }
    }
}

#[cfg(test)]
mod handover;
#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wards;
