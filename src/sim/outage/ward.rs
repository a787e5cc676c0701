//! A ward that lives as fast as it is asked to: simulated machines, their drivers and normalisers, with no wire between
//! them and no waiting.

use crate::config::settings::{ChairSettings, Unseated};
use crate::model::time::{ClockTrust, Timestamp};
use crate::normalise::{Capture, Finding, Normaliser, Origin, Phase, Poll, Resume};
use crate::privacy::Pseudonymiser;
use crate::privacy::keyring::{Keyring, KeyringError};
use crate::privacy::record::{Body, Event, Gap, GapCause, Record, TreatmentId};
use crate::privacy::seats::{SeatError, Seats};
use crate::sim::ward::Patient;
use chairside_drivers::kit::driver::{Driver, Outcome, Output, Sample};
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::simulator::{Act, Machine, Switch};
use chairside_drivers::kit::time::{Slot, Tick};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// From one treatment's start on a chair to the next one's: four hours of treatment, one to clean up.
const TURN: Duration = Duration::from_secs(5 * 3600);
/// The next chair starts this much later.
const STAGGER: Duration = Duration::from_secs(40);
/// What is done at a machine in one turn, by minute.
const CARE: [(u64, Care); 12] = [
    (0, Care::Start),
    (15, Care::Cuff),
    (45, Care::Cuff),
    (75, Care::Cuff),
    (100, Care::Alarm(Switch::On)),
    (102, Care::Alarm(Switch::Off)),
    (105, Care::Cuff),
    (150, Care::Cuff),
    (195, Care::Cuff),
    (235, Care::Cuff),
    (240, Care::End),
    (243, Care::Rinse),
];
/// How often the seats hear that a treatment goes on, and forget what is void.
const PROGRESS: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Care {
    Start,
    Cuff,
    Alarm(Switch),
    End,
    Rinse,
}

/// Why the ward could not be played on.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// A treatment could not be kept.
    #[error("keep a simulated treatment")]
    Keyring(#[from] KeyringError),
    /// A simulated patient could not be seated.
    #[error("seat a simulated patient")]
    Seat(#[from] SeatError),
}

/// What a ward did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Polls that were due.
    pub polls: u64,
    /// Polls that the machine answered.
    pub answered: u64,
    /// Samples of these answers: what machines said, alarms and states included.
    pub readings: u64,
    /// Values of the records they became.
    pub values: u64,
}

/// The ward.
pub struct FastWard {
    chairs: Vec<FastChair>,
    due: BinaryHeap<Reverse<(Tick, usize)>>,
    /// Wall-clock time at tick zero.
    start: Timestamp,
    /// `None` while the gateway has no power: nobody asks then.
    gateway: Option<Gateway>,
    purged: Tick,
    played: Played,
}

/// What the ward needs of a gateway.
struct Gateway {
    seats: Seats,
    border: Pseudonymiser,
}

impl Gateway {
    fn new(keyring: &Arc<Keyring>, unseated: Unseated) -> Self {
        Self {
            seats: Seats::new(Arc::clone(keyring), unseated),
            border: Pseudonymiser::new(Arc::clone(keyring)),
        }
    }
}

impl std::fmt::Debug for FastWard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FastWard({} chairs)", self.chairs.len())
    }
}

impl FastWard {
    /// These chairs, each asked `pace` times as seldom as it is configured, from `start` on.
    #[must_use]
    pub fn new(
        chairs: &[ChairSettings],
        pace: f64,
        start: Timestamp,
        keyring: &Arc<Keyring>,
        unseated: Unseated,
    ) -> Self {
        let mut ward = Self {
            chairs: Vec::with_capacity(chairs.len()),
            due: BinaryHeap::new(),
            start,
            gateway: Some(Gateway::new(keyring, unseated)),
            purged: Tick::ZERO,
            played: Played::default(),
        };
        for (number, chair) in chairs.iter().enumerate() {
            let every = chair.every.mul_f64(pace.clamp(0.01, 100.0)).max(Duration::from_millis(1));
            let chair = FastChair::new(number, chair.clone(), every);
            // Not all in one instant, as in a real ward.
            let first = Tick::ZERO.after(every.mul_f64(number as f64 / chairs.len() as f64));
            ward.due.push(Reverse((first, number)));
            ward.chairs.push(chair);
        }
        ward
    }

    /// Everything that is due before `until`, as records in the order of time.
    ///
    /// # Errors
    /// [`PlayError`] when a treatment cannot be kept.
    pub fn play_until(&mut self, until: Tick, records: &mut Vec<Record>) -> Result<(), PlayError> {
        let Some(Gateway { seats, border }) = &self.gateway else { return Ok(()) };
        while let Some(&Reverse((due, number))) = self.due.peek() {
            if due >= until {
                return Ok(());
            }
            self.due.pop();
            let Some(chair) = self.chairs.get_mut(number) else { continue };
            self.due.push(Reverse((due.after(chair.every), number)));
            let at = self.start.after(due.since(Tick::ZERO));
            if due.since(self.purged) >= TURN {
                self.purged = due;
                seats.purge(at)?;
            }
            chair.care(due);
            self.played.polls += 1;
            let Some(samples) = chair.ask(due) else { continue };
            self.played.answered += 1;
            self.played.readings += samples.len() as u64;
            let captures = chair.normalise(due, at, samples);
            for capture in captures {
                if let Finding::Values(values) = &capture.finding {
                    self.played.values += values.len() as u64;
                }
                let Some(treatment) = chair.treatment_of(&capture, seats)? else { continue };
                records.push(border.seal(capture, treatment));
            }
            chair.progress(due, at, seats)?;
        }
        Ok(())
    }

    /// The gateway was without power and is back at `now`: it forgets all but what is on disk, and tells what it missed.
    ///
    /// `lost` are the records that were sealed and not durable; the slots they filled are part of what is told.
    #[must_use]
    pub fn restart(
        &mut self,
        keyring: &Arc<Keyring>,
        unseated: Unseated,
        lost: &[Record],
        now: Tick,
    ) -> Vec<Record> {
        let gateway = Gateway::new(keyring, unseated);
        let missed = self.skip_until(now);
        let to = self.start.after(now.since(Tick::ZERO));
        let mut told = Vec::new();
        for (number, chair) in self.chairs.iter_mut().enumerate() {
            let of_chair = |record: &&Record| record.origin().chair == chair.settings.name;
            // A poll becomes one record with values, and perhaps others.
            let unsaved = lost.iter().filter(of_chair).filter(|it| matches!(it.body(), Body::Values(_)));
            let mut from: Vec<Timestamp> = unsaved.map(|record| record.origin().at).collect();
            let unasked = missed.iter().filter(|(_, other)| *other == number);
            from.extend(unasked.map(|(due, _)| self.start.after(due.since(Tick::ZERO))));
            from.sort_unstable();
            from.dedup();
            chair.start_over(&gateway.seats);
            let Some(first) = from.first().copied() else { continue };
            let slots = u32::try_from(from.len()).unwrap_or(u32::MAX);
            let gap = Gap { from: first, to, slots, cause: GapCause::GatewayDown };
            told.push(Record::event(chair.origin(now, to, None), None, Event::Gap(gap)));
        }
        self.gateway = Some(gateway);
        told
    }

    /// The gateway loses its power: it lets go of its keyring, and nobody is asked until [`FastWard::restart`].
    pub fn lose_power(&mut self) {
        self.gateway = None;
    }

    /// Asks nobody until `now`; returns what was due meanwhile, and at which chair.
    pub fn skip_until(&mut self, now: Tick) -> Vec<(Tick, usize)> {
        let mut missed = Vec::new();
        while let Some(&Reverse((due, number))) = self.due.peek() {
            if due >= now {
                break;
            }
            self.due.pop();
            let Some(chair) = self.chairs.get(number) else { continue };
            self.due.push(Reverse((due.after(chair.every), number)));
            missed.push((due, number));
        }
        missed
    }

    /// What it did so far.
    #[must_use]
    pub const fn played(&self) -> Played {
        self.played
    }
}

/// One chair.
struct FastChair {
    settings: ChairSettings,
    every: Duration,
    machine: Box<dyn Machine>,
    driver: Box<dyn Driver>,
    normaliser: Normaliser,
    next_care: usize,
    /// When its first turn begins.
    begins: Duration,
    turn: u32,
    slot: u64,
    patients: u16,
    told: Option<Tick>,
}

impl FastChair {
    fn new(number: usize, settings: ChairSettings, every: Duration) -> Self {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let mut driver = settings.model.driver();
        driver.handle_open(Tick::ZERO);
        Self {
            machine: settings.model.machine(u64::from(number) + 1),
            driver,
            normaliser: Normaliser::new(Arc::clone(&settings.map), None),
            next_care: 0,
            begins: STAGGER.saturating_mul(number),
            turn: 0,
            slot: 0,
            patients: u16::try_from(number).unwrap_or(u16::MAX),
            told: None,
            settings,
            every,
        }
    }

    /// Does at the machine whatever was due until now.
    fn care(&mut self, now: Tick) {
        while let Some((minute, care)) = CARE.get(self.next_care) {
            let due = TURN * self.turn + Duration::from_secs(minute * 60) + self.begins;
            if now.since(Tick::ZERO) < due {
                return;
            }
            let act = match *care {
                Care::Start => Act::StartTreatment,
                Care::Cuff => self.cuff(),
                Care::Alarm(switch) => Act::VenousPressureAlarm(switch),
                Care::End => Act::EndTreatment,
                Care::Rinse => Act::Rinse,
            };
            self.machine.act(now, act);
            self.next_care += 1;
            if self.next_care == CARE.len() {
                self.next_care = 0;
                self.turn += 1;
            }
        }
    }

    fn cuff(&self) -> Act {
        let step = u16::try_from(self.next_care).unwrap_or(0) + u16::try_from(self.turn % 7).unwrap_or(0);
        Act::MeasureBloodPressure { systolic: 112 + step * 2, diastolic: 64 + step, pulse: 62 + step }
    }

    /// One poll, from the request to the last byte of the answer.
    fn ask(&mut self, due: Tick) -> Option<Vec<Sample>> {
        self.slot += 1;
        let (slot, give_up, mut now) = (Slot(self.slot), due.after(self.every), due);
        let mut samples = Vec::new();
        self.machine.advance(now);
        self.driver.handle_poll_due(now, slot);
        loop {
            let mut outcome = None;
            let wait = loop {
                match self.driver.poll() {
                    Output::Sample(sample) => samples.push(sample),
                    Output::Send(request) => self.machine.handle_bytes(now, request.bytes()),
                    Output::EndOfPoll(of, how) if of == slot => outcome = Some(how),
                    Output::EndOfPoll(..) => samples.clear(),
                    Output::Trouble(_) => {}
                    Output::Wait(until) => break until,
                }
            };
            if let Some(outcome) = outcome {
                return (outcome == Outcome::Answered).then_some(samples);
            }
            if let Some(sent) = self.machine.transmit(now) {
                self.driver.handle_bytes(now, &sent.bytes);
                continue;
            }
            let next = [self.machine.wake(), wait].into_iter().flatten().min()?;
            if next > give_up {
                return None;
            }
            // Time goes on, whatever was asked for.
            now = next.max(now.after(Duration::from_micros(1)));
            self.driver.handle_tick(now);
        }
    }

    fn normalise(&mut self, due: Tick, at: Timestamp, samples: Vec<Sample>) -> Vec<Capture> {
        let origin = self.origin(due, at, Some(Slot(self.slot)));
        self.normaliser.answered(Poll { origin, samples })
    }

    /// The treatment a finding belongs to, kept in the keyring before its record can be sealed. `None` where the finding
    /// makes no record: the end of a treatment that nobody knew.
    fn treatment_of(
        &mut self,
        capture: &Capture,
        seats: &Seats,
    ) -> Result<Option<Option<TreatmentId>>, PlayError> {
        let (chair, at) = (&self.settings.name, capture.origin.at);
        Ok(match &capture.finding {
            Finding::TreatmentStarted => {
                // Seated before the treatment begins: one that begins unseated is the machine's until then, and a seat
                // that comes later takes back what may have been sent of it.
                self.patients = self.patients.wrapping_add(97);
                let number = Sensitive::new(Patient(self.patients).record_number());
                seats.seat(chair, number, at)?;
                Some(Some(seats.treatment_started(chair, &self.settings.machine, at)?))
            }
            Finding::TreatmentEnded(_) => seats.treatment_ended(chair, at)?.map(Some),
            Finding::Values(_) | Finding::Alarm(_) if capture.phase == Phase::Treating => {
                Some(seats.running(chair).map(|running| running.id))
            }
            Finding::Values(_) | Finding::Alarm(_) => Some(None),
        })
    }

    fn progress(&mut self, now: Tick, at: Timestamp, seats: &Seats) -> Result<(), PlayError> {
        let is_due = self.told.is_none_or(|told| now.since(told) >= PROGRESS);
        if is_due && self.normaliser.phase() == Phase::Treating {
            seats.progress(&self.settings.name, at, self.normaliser.elapsed())?;
            self.told = Some(now);
        }
        Ok(())
    }

    /// The gateway's half of the chair begins anew; the machine goes on.
    fn start_over(&mut self, seats: &Seats) {
        self.driver = self.settings.model.driver();
        self.driver.handle_open(Tick::ZERO);
        let resume = seats.running(&self.settings.name).map(|running| Resume {
            started: running.started,
            elapsed: running.progress.map(|(_, elapsed)| elapsed),
            at: running.progress.map_or(running.started, |(at, _)| at),
        });
        self.normaliser = Normaliser::new(Arc::clone(&self.settings.map), resume);
        self.told = None;
    }

    fn origin(&self, tick: Tick, at: Timestamp, slot: Option<Slot>) -> Origin {
        Origin {
            chair: self.settings.name.clone(),
            machine: self.settings.machine.clone(),
            model: self.settings.model.id().clone(),
            at,
            tick,
            clock: ClockTrust::Trusted,
            slot,
            previous: None,
            simulated: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const MAP: &str = include_str!("../../../config/devices/nikkiso_dbb27c.toml");

    fn chairs(home: &std::path::Path) -> Vec<ChairSettings> {
        std::fs::create_dir(home.join("devices")).unwrap();
        std::fs::write(home.join("devices/map.toml"), MAP).unwrap();
        let mut text = "[gateway]\nname = \"test\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\n\
            namespace = \"https://clinic.example/chairside\"\n[keys]\nroot = { file = \"root.key\" }\n"
            .to_owned();
        for chair in 1..=3 {
            text += &format!(
                "[[chair]]\nname = \"chair-{chair}\"\nmachine = \"asset-{chair}\"\ndriver = \"kpoll/nikkiso_dbb27c\"\n\
                 port = \"port-{chair}\"\nevery = \"10s\"\nmap = \"map.toml\"\n"
            );
        }
        std::fs::write(home.join("gateway.toml"), text).unwrap();
        crate::config::load(&home.join("gateway.toml")).unwrap().chairs
    }

    fn minutes(minutes: u64) -> Tick {
        Tick::ZERO.after(Duration::from_secs(60 * minutes))
    }

    #[test]
    fn a_shift_has_treatments_with_patients_alarms_and_every_poll() {
        let home = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        let mut ward = FastWard::new(&chairs(home.path()), 1.0, NOON, &keyring, Unseated::Machine);
        let mut records = Vec::new();
        ward.play_until(minutes(60), &mut records).unwrap();
        let gateway = ward.gateway.as_ref().unwrap();
        let running = |chair: &FastChair| gateway.seats.running(&chair.settings.name).unwrap();
        assert!(ward.chairs.iter().all(|chair| running(chair).seated));
        assert_eq!(gateway.seats.untold(), [], "a seat took back what was sent before it");
        ward.play_until(minutes(300), &mut records).unwrap();
        let count = |wanted: fn(&Body) -> bool| records.iter().filter(|record| wanted(record.body())).count();
        assert_eq!(count(|body| matches!(body, Body::Values(_))), 3 * 300 * 6);
        assert_eq!(ward.played().answered, 3 * 300 * 6);
        assert_eq!(count(|body| matches!(body, Body::TreatmentStarted)), 3);
        assert_eq!(count(|body| matches!(body, Body::TreatmentEnded(_))), 3);
        assert_eq!(count(|body| matches!(body, Body::Alarm(_))), 6);
        // An end lies a while before the poll that shows it; what was read comes in order.
        let read = records.iter().filter(|record| matches!(record.body(), Body::Values(_)));
        assert!(read.is_sorted_by_key(|record| record.origin().tick));
        let treatments: BTreeSet<_> =
            records.iter().filter_map(|record| record.treatment().map(|id| *id.as_bytes())).collect();
        assert_eq!(treatments.len(), 3);
    }

    #[test]
    fn after_a_power_cut_each_poll_is_a_record_or_told_as_missing_and_no_treatment_begins_twice() {
        let home = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        let mut ward = FastWard::new(&chairs(home.path()), 1.0, NOON, &keyring, Unseated::Hold);
        let (mut records, mut lost) = (Vec::new(), Vec::new());
        ward.play_until(minutes(60), &mut records).unwrap();
        ward.play_until(minutes(61), &mut lost).unwrap();
        ward.lose_power();
        ward.play_until(minutes(65), &mut lost).unwrap();
        records.extend(ward.restart(&keyring, Unseated::Hold, &lost, minutes(65)));
        ward.play_until(minutes(120), &mut records).unwrap();
        let slots = |record: &Record| match record.body() {
            Body::Values(_) => 1,
            Body::Gap(gap) => gap.slots,
            _ => 0,
        };
        assert_eq!(records.iter().map(slots).sum::<u32>(), 3 * 120 * 6);
        let started = |record: &&Record| matches!(record.body(), Body::TreatmentStarted);
        assert_eq!(records.iter().filter(started).count(), 3);
    }
}
