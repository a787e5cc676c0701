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
    /// Edges of a treatment that was ended by hand, to go out before anything else.
    outbox: Vec<Capture>,
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
            outbox: Vec::new(),
            heard: Heard::default(),
        }
    }

    /// The machine answered. The findings, in order: treatment ended, treatment started, alarm edges, values.
    #[must_use]
    pub fn answered(&mut self, poll: Poll) -> Vec<Capture> {
        let Poll { mut origin, samples } = poll;
        let mut out = std::mem::take(&mut self.outbox);
        let mut identity = Vec::new();
        let mut values = self.hear(samples, &mut identity);

        self.judge_treatment(&origin, &mut out);
        self.tell_alarms(&origin, &mut out);
        self.finish(&mut values, &origin);

        let phase = self.judge.phase();
        origin.previous = self.previous.turn(phase, origin.at);
        self.last_slot = origin.slot.or(self.last_slot);
        self.after_gap = false;
        out.push(Capture { origin, phase, finding: Finding::Values(values), identity });
        out
    }

    /// The line is gone. Alarms that are on are closed; when it comes back, what stands on the screen is baseline.
    #[must_use]
    pub fn line_lost(&mut self, origin: Origin) -> Vec<Capture> {
        let mut out = std::mem::take(&mut self.outbox);
        let phase = self.judge.phase();
        for alarm in &mut self.alarms {
            alarm.line_lost(&origin, phase, &mut out);
        }
        self.after_gap = true;
        self.spots_start_over = true;
        out
    }

    /// A change of seat ended one treatment and began another: settings and states are news again, spot values baseline.
    ///
    /// Alarm edges that were held back for the treatment before go out with the next findings, in no treatment's phase.
    pub fn treatment_changed(&mut self, at: Timestamp) {
        let from = self.outbox.len();
        for alarm in &mut self.alarms {
            alarm.flush(&mut self.outbox);
        }
        for edge in self.outbox.iter_mut().skip(from) {
            edge.phase = Phase::Ending;
        }
        self.judge.restarted(at);
        self.previous = Previous::default();
        self.starts_over = true;
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
        let event = |phase, finding| Capture {
            origin: Origin { slot: None, previous: None, ..origin.clone() },
            phase,
            finding,
            identity: Vec::new(),
        };
        if let Some(reason) = ruling.ended {
            // Edges held back belong to the treatment in which they were seen: before its end.
            for alarm in &mut self.alarms {
                alarm.flush(out);
            }
            out.push(event(Phase::Ending, Finding::TreatmentEnded(reason)));
            self.previous = Previous::default();
        }
        if ruling.started {
            out.push(event(Phase::Treating, Finding::TreatmentStarted));
            self.previous = Previous::default();
            self.starts_over = true;
        }
    }

    fn tell_alarms(&mut self, origin: &Origin, out: &mut Vec<Capture>) {
        let phase = self.judge.phase();
        for alarm in &mut self.alarms {
            alarm.prepare(origin.tick, out);
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
                None => meaning.mark(value.reading),
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
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wards;
