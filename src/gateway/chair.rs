//! One chair's sealing task: what its line tells becomes records in order, and the spool has them before anybody else.

mod keeping;
mod seats;

use super::alarms::Alarms;
use super::gaps::{self, Gaps, Missed};
use super::seating::SeatRequest;
use super::steps::Steps;
use crate::clock::{BUILD_FLOOR, Clock, StepWatch};
use crate::config::settings::ChairSettings;
use crate::model::alarm::{self, AlarmEdge};
use crate::model::name::ChairName;
use crate::model::time::{ClockStep, ClockTrust, Timestamp};
use crate::normalise::{Capture, EndReason, Finding, Normaliser, Origin, Phase, Poll, Resume};
use crate::poll::{ChairEvent, LineEvent, MissCause, Moment};
use crate::privacy::Pseudonymiser;
use crate::privacy::record::{Correction, Event, Gap, GapCause, OpenAlarm, Record, TreatmentId};
use crate::privacy::seats::Seats;
use crate::spool::handle::{SpoolHandle, Urgency};
use crate::spool::reserve;
use crate::spool::slots::Left;
use crate::status::{self, Board};
use crate::supervise::{Cause, Pulse};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::Sample;
use chairside_drivers::kit::time::{Slot, Tick};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// Events sealed and written together when they come faster than the disk.
const TOGETHER: usize = 64;
/// The machine's elapsed time is handed to the seats at least this often.
const PROGRESS: Duration = Duration::from_secs(10);
/// After a silence this long, alarms that were on are closed: nobody knows whether they still are.
const SILENCE: Duration = Duration::from_secs(60);

/// What all chairs share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seats: Arc<Seats>,
    pub(super) border: Pseudonymiser,
    pub(super) spool: SpoolHandle,
    /// The folder of the spool, which has space in reserve.
    pub(super) spool_home: PathBuf,
    pub(super) board: Arc<Board>,
    /// What the run before left of each chair's slots.
    pub(super) left: BTreeMap<ChairName, Left>,
    /// When the run before is last known to have lived.
    pub(super) last_alive: Option<Timestamp>,
    pub(super) steps: Steps,
    /// Whether every record is branded as simulated.
    pub(super) simulated: bool,
}

impl Shared {
    /// The disk is full: gives back what the spool holds in reserve, if it still does.
    pub(super) fn make_room(&self) -> bool {
        reserve::release(&self.spool_home)
    }
}

/// One chair's sealing task.
pub(super) struct Sealing {
    shared: Arc<Shared>,
    chair: ChairSettings,
    normaliser: Normaliser,
    gaps: Gaps,
    alarms: Alarms,
    steps: StepWatch,
    /// Whether the clock that was seen by a run before is this one, set or not: it was in the same boot of the computer.
    knows_clock: bool,
    /// When a wall clock that nobody had set was first seen, until one that can be trusted is.
    unset_since: Option<Timestamp>,
    /// What the run before left of this chair, until a clock that can be trusted says how long ago that was.
    left: Option<Left>,
    /// When this run began.
    began: Tick,
    /// The elapsed time last handed to the seats, where the machine shows one, and when.
    progress: Option<(Option<Decimal>, Tick)>,
    /// Since when the machine is silent, until its alarms were closed for it.
    silent: Option<Tick>,
    records: Vec<Record>,
    /// Slots and capture times of the readings in `records`, by their place there.
    readings: Vec<(usize, Option<Slot>, Timestamp)>,
    urgency: Urgency,
    pulse: Pulse,
    /// Whether the keyring could not be written when it was last tried.
    keyring_refuses: bool,
}

impl Sealing {
    pub(super) fn new(shared: Arc<Shared>, chair: ChairSettings, pulse: Pulse) -> Self {
        let (now, trust) = shared.clock.now();
        let tick = shared.clock.tick();
        let seen = shared.seats.clock_seen(&chair.name);
        let seen = seen.filter(|(then, _)| *then <= tick && shared.clock.is_one_boot(*then, tick));
        // What cannot go on is ended before the first poll.
        let is_lost = seen.is_none() && trust != ClockTrust::Trusted;
        let before = shared.seats.running(&chair.name);
        let before = before.filter(|running| running.machine == chair.machine && !is_lost);
        let resume = before.map(|running| Resume {
            started: running.started,
            elapsed: running.progress.map(|(_, elapsed)| elapsed),
            at: running.progress.map_or(running.started, |(at, _)| at),
        });
        let (then, shown) = seen.unwrap_or((tick, now));
        Self {
            normaliser: Normaliser::new(Arc::clone(&chair.map), resume),
            gaps: Gaps::new(chair.every),
            alarms: Alarms::left(shared.seats.open_alarms(&chair.name)),
            steps: StepWatch::new(then, shown),
            knows_clock: seen.is_some(),
            unset_since: (trust != ClockTrust::Trusted).then_some(now),
            left: shared.left.get(&chair.name).cloned(),
            began: tick,
            progress: None,
            silent: None,
            records: Vec::new(),
            readings: Vec::new(),
            urgency: Urgency::Routine,
            pulse,
            keyring_refuses: false,
            shared,
            chair,
        }
    }

    /// Seals until the line is gone for good: the gateway is stopping.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<ChairEvent>,
        mut requests: mpsc::Receiver<SeatRequest>,
        tried: oneshot::Sender<()>,
    ) -> Result<(), Cause> {
        self.take_up().await?;
        let mut tried = Some(tried);
        let mut beat = interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut together = Vec::with_capacity(TOGETHER);
        loop {
            // Receiving from a channel and an interval's tick are cancel-safe.
            tokio::select! {
                count = events.recv_many(&mut together, TOGETHER) => {
                    if count == 0 {
                        break;
                    }
                    for event in together.drain(..) {
                        self.hear(event).await?;
                    }
                    tried.take().map(|tried| tried.send(()));
                }
                Some(request) = requests.recv() => {
                    self.seat(request).await?;
                }
                _ = beat.tick() => {
                    self.look_at_silence().await?;
                }
            }
            self.write().await?;
            self.pulse.beat(self.shared.clock.tick());
        }
        if let Some(missed) = self.gaps.close() {
            self.tell_missed(missed);
        }
        // Nobody watches the alarms that are on from now on; the next run raises anew what is on then.
        self.lose_line(self.moment()).await?;
        self.write().await
    }

    /// What the run before left undone.
    async fn take_up(&mut self) -> Result<(), Cause> {
        self.look_at_clock_of_before().await?;
        self.end_what_cannot_go_on().await?;
        self.close_alarms();
        self.tell_downtime();
        self.write().await?;
        self.tell_untold().await
    }

    /// The clock may have been set while the gateway was down: then what the run before left is told in times of another clock.
    async fn look_at_clock_of_before(&mut self) -> Result<(), Cause> {
        let (moment, before) = (self.moment(), self.steps.last_look());
        if let Some(step) = self.look_at_clock(moment).await? {
            // Only what was told by the clock that was set moves with it.
            let known_since = step
                .expected
                .shifted(-i64::try_from(moment.tick.since(before).as_micros()).unwrap_or(i64::MAX));
            if let Some(through) = self.left.as_mut().and_then(|left| left.through.as_mut())
                && *through >= known_since
            {
                *through = through.shifted(step.found.micros_since(step.expected));
            }
        } else if !self.knows_clock {
            let chair = self.chair.name.clone();
            self.seats_later(move |seats| seats.note_clock(&chair, moment.tick, moment.at)).await?;
        }
        Ok(())
    }

    /// The chair was given another machine while the gateway was down, or the computer came up without knowing how long it was
    /// off: whatever ran before is not what the machine shows now, however well the elapsed times may agree.
    async fn end_what_cannot_go_on(&mut self) -> Result<(), Cause> {
        let Some(before) = self.shared.seats.running(&self.chair.name) else { return Ok(()) };
        let moment = self.moment();
        let is_other = before.machine != self.chair.machine;
        if !is_other && (self.knows_clock || moment.clock == ClockTrust::Trusted) {
            return Ok(());
        }
        tracing::warn!(
            chair = self.chair.name.as_str(),
            before = before.machine.as_str(),
            machine = self.chair.machine.as_str(),
            "the treatment of before is ended: {}",
            if is_other {
                "the chair has another machine"
            } else {
                "nobody knows how long the computer was off"
            }
        );
        let chair = self.chair.name.clone();
        self.seats(move |seats| seats.treatment_ended(&chair, moment.at)).await?;
        let origin = Origin { machine: before.machine, ..self.origin(moment, None) };
        self.records.push(Record::event(
            origin,
            Some(before.id),
            Event::TreatmentEnded(EndReason::LostTrack),
        ));
        self.urgency = self.urgency.max(Urgency::Prompt);
        Ok(())
    }

    /// A run before was cut off while alarms were on, and nobody has watched them since.
    fn close_alarms(&mut self) {
        for open in self.alarms.take() {
            let OpenAlarm { alarm, raw, occurrence, machine, treatment } = open;
            let phase = if treatment.is_some() { Phase::Treating } else { Phase::Idle };
            let edge = AlarmEdge { alarm, phase: alarm::Phase::EndGatewayDown, raw, occurrence };
            let origin = Origin { machine, ..self.origin(self.moment(), None) };
            let capture = Capture { origin, phase, finding: Finding::Alarm(edge), identity: Vec::new() };
            self.push(capture, treatment);
        }
    }

    /// A crash between a seat and its record: what was sent to the wrong chart must still be taken back.
    async fn tell_untold(&mut self) -> Result<(), Cause> {
        for (chair, correction) in self.shared.seats.untold() {
            if chair != self.chair.name {
                continue;
            }
            self.correct(correction, self.moment()).await?;
            self.shared.spool.release(correction.treatment).await?;
        }
        Ok(())
    }

    /// Writes a correction down; only then the keyring forgets that it is due.
    async fn correct(&mut self, correction: Correction, moment: Moment) -> Result<(), Cause> {
        self.tell(moment, Some(correction.treatment), Event::Correction(correction));
        self.urgency = Urgency::Now;
        self.write().await?;
        self.seats_later(move |seats| seats.told(&correction)).await.map(|_| ())
    }

    /// What was missed since the run before, once a clock that can be trusted says how long that is.
    fn tell_downtime(&mut self) {
        let moment = self.moment();
        if moment.clock != ClockTrust::Trusted {
            return;
        }
        let Some(mut left) = self.left.take() else { return };
        // A clock that nobody had set would claim more than half a century.
        left.through = left.through.filter(|through| *through >= BUILD_FLOOR);
        let runs = i64::try_from(moment.tick.since(self.began).as_micros()).unwrap_or(i64::MAX);
        let start = Timestamp::from_micros(moment.at.as_micros().saturating_sub(runs));
        for gap in gaps::before_start(&left, start, self.shared.last_alive) {
            self.tell_gap(gap, None);
        }
    }

    async fn hear(&mut self, ChairEvent { event, moment, .. }: ChairEvent) -> Result<(), Cause> {
        self.look_at_clock(moment).await?;
        match event {
            LineEvent::Up => self.shared.board.chair(&self.chair.name, status::Chair::has_line),
            LineEvent::Answered { slot, samples } => self.answered(slot, samples, moment).await?,
            LineEvent::Missed { slot, slots, cause } => self.missed(slot, slots, cause, moment),
            LineEvent::Down { why } => {
                let why = crate::telemetry::chain(&why);
                self.shared.board.chair(&self.chair.name, |chair| chair.loses_line(moment.at, why));
                self.lose_line(moment).await?;
            }
        }
        Ok(())
    }

    async fn answered(&mut self, slot: Slot, samples: Vec<Sample>, moment: Moment) -> Result<(), Cause> {
        if let Some(missed) = self.gaps.close() {
            self.tell_missed(missed);
        }
        self.silent = None;
        let origin = self.origin(moment, Some(slot));
        for capture in self.normaliser.answered(Poll { origin, samples }) {
            self.seal(capture).await?;
        }
        self.hand_progress(moment).await?;
        let seat = self.seat_state(moment.at);
        let running = self.shared.seats.running(&self.chair.name);
        let phase = self.normaliser.phase();
        self.shared.board.chair(&self.chair.name, |chair| {
            chair.answers(moment.at);
            chair.phase = phase.into();
            chair.seat = seat;
            chair.treatment_since = running.map(|running| running.started.into());
        });
        Ok(())
    }

    async fn begin(&mut self, at: Timestamp) -> Result<TreatmentId, Cause> {
        let (chair, machine) = (self.chair.name.clone(), self.chair.machine.clone());
        let id = self.seats(move |seats| seats.treatment_started(&chair, &machine, at)).await?;
        tracing::info!(chair = self.chair.name.as_str(), treatment = ?id, "treatment started");
        Ok(id)
    }

    fn missed(&mut self, slot: Slot, slots: u32, cause: MissCause, moment: Moment) {
        let (cause, faulty) = match cause {
            MissCause::MachineSilent => (GapCause::MachineSilent, false),
            MissCause::AnswerFaulty(_) => (GapCause::AnswerFaulty, true),
            MissCause::LineDown => (GapCause::LineDown, false),
            MissCause::GatewayDown => (GapCause::GatewayDown, false),
        };
        if let Some(before) = self.gaps.missed(slot, moment.at, slots, cause, moment.tick) {
            self.tell_missed(before);
        }
        if cause == GapCause::MachineSilent {
            self.silent.get_or_insert(moment.tick);
        }
        if !matches!(cause, GapCause::GatewayDown | GapCause::LineDown) {
            self.shared.board.chair(&self.chair.name, |chair| chair.misses(moment.at, faulty));
        }
    }

    async fn look_at_silence(&mut self) -> Result<(), Cause> {
        self.look_at_clock(self.moment()).await?;
        let now = self.shared.clock.tick();
        if let Some(missed) = self.gaps.piece(now) {
            self.tell_missed(missed);
        }
        self.tell_downtime();
        if self.silent.take_if(|since| now.since(*since) >= SILENCE).is_some() {
            self.lose_line(self.moment()).await?;
        }
        Ok(())
    }

    async fn lose_line(&mut self, moment: Moment) -> Result<(), Cause> {
        let origin = self.origin(moment, None);
        for capture in self.normaliser.line_lost(origin) {
            self.seal(capture).await?;
        }
        Ok(())
    }

    /// A wall clock that was set moves along whatever is counted from it, and is told of once, by the chair that sees it first.
    async fn look_at_clock(&mut self, moment: Moment) -> Result<Option<ClockStep>, Cause> {
        let after = self.steps.last_look();
        let step = self.steps.look(moment.tick, moment.at);
        if let Some(step) = step {
            let by = step.found.micros_since(step.expected);
            // What was missed so far was missed by the clock of before.
            if let Some(missed) = self.gaps.close() {
                self.tell_missed(missed);
            }
            self.normaliser.clock_stepped(by);
            let unset_since = self.unset_since.filter(|_| moment.clock == ClockTrust::Trusted);
            self.unset_since = self.unset_since.map(|since| since.shifted(by));
            let chair = self.chair.name.clone();
            self.seats(move |seats| seats.clock_stepped(&chair, moment.tick, step, unset_since)).await?;
            if self.shared.steps.is_news(step, after, moment.tick) {
                tracing::warn!(
                    expected = crate::clock::stamp(step.expected),
                    found = crate::clock::stamp(step.found),
                    "the wall clock jumped"
                );
                self.tell(moment, None, Event::ClockStep(step));
            }
        }
        self.unset_since = match moment.clock {
            ClockTrust::Trusted => None,
            ClockTrust::Untrusted | ClockTrust::Retimed | ClockTrust::Between { .. } => {
                self.unset_since.or(Some(moment.at))
            }
        };
        Ok(step)
    }

    /// Takes a capture through the border. A treatment that starts or ends is durable in the keyring before its record
    /// can be, so that no encoder ever meets a treatment nobody knows.
    async fn seal(&mut self, capture: Capture) -> Result<(), Cause> {
        let (chair, at) = (self.chair.name.clone(), capture.origin.at);
        let treatment = match &capture.finding {
            Finding::TreatmentStarted => Some(self.begin(at).await?),
            Finding::TreatmentEnded(reason) => {
                let id = self.seats(move |seats| seats.treatment_ended(&chair, at)).await?;
                tracing::info!(chair = self.chair.name.as_str(), treatment = ?id, ?reason, "treatment ended");
                if id.is_none() {
                    return Ok(());
                }
                id
            }
            Finding::Values(values) => {
                self.shared.board.chair(&chair, |chair| chair.shows(values, at));
                self.readings.push((self.records.len(), capture.origin.slot, at));
                self.running_if_treating(capture.phase)
            }
            Finding::Alarm(_) => self.running_if_treating(capture.phase),
        };
        if !matches!(capture.finding, Finding::Values(_)) {
            self.urgency = self.urgency.max(Urgency::Prompt);
        }
        self.push(capture, treatment);
        Ok(())
    }

    fn push(&mut self, capture: Capture, treatment: Option<TreatmentId>) {
        if let Finding::Alarm(edge) = &capture.finding {
            self.alarms.note(*edge, &capture.origin.machine, treatment);
        }
        self.records.push(self.shared.border.seal(capture, treatment));
    }

    /// Only what was found while treating can be a patient's; in every other phase it is the machine's own.
    fn running_if_treating(&self, phase: Phase) -> Option<TreatmentId> {
        (phase == Phase::Treating)
            .then(|| self.shared.seats.running(&self.chair.name).map(|running| running.id))
            .flatten()
    }

    async fn hand_progress(&mut self, moment: Moment) -> Result<(), Cause> {
        if self.normaliser.phase() != Phase::Treating {
            return Ok(());
        }
        let elapsed = self.normaliser.elapsed();
        let known =
            self.progress.is_some_and(|(last, when)| last == elapsed && moment.tick.since(when) < PROGRESS);
        if known {
            return Ok(());
        }
        self.progress = Some((elapsed, moment.tick));
        let chair = self.chair.name.clone();
        let heard = self.seats_later(move |seats| seats.progress(&chair, moment.at, elapsed)).await?;
        let Some(seated) = heard.flatten() else { return Ok(()) };
        tracing::info!(
            chair = self.chair.name.as_str(),
            treatment = ?seated.release,
            "the machine began the treatment that a patient was seated for"
        );
        self.follow(&seated, moment).await
    }

    fn tell_missed(&mut self, Missed { first, gap }: Missed) {
        self.tell_gap(gap, Some(first));
    }

    /// A gap without a slot was before this run.
    fn tell_gap(&mut self, gap: Gap, first: Option<Slot>) {
        tracing::info!(
            chair = self.chair.name.as_str(),
            slots = gap.slots,
            cause = ?gap.cause,
            from = crate::clock::stamp(gap.from),
            to = crate::clock::stamp(gap.to),
            "polls missed"
        );
        let treatment = self.shared.seats.running(&self.chair.name).map(|running| running.id);
        let origin = self.origin(self.moment(), first);
        self.records.push(Record::event(origin, treatment, Event::Gap(gap)));
    }

    fn tell(&mut self, moment: Moment, treatment: Option<TreatmentId>, event: Event) {
        if matches!(event, Event::TreatmentEnded(_) | Event::TreatmentStarted | Event::Correction(_)) {
            self.urgency = self.urgency.max(Urgency::Prompt);
        }
        self.records.push(Record::event(self.origin(moment, None), treatment, event));
    }

    fn moment(&self) -> Moment {
        let (at, clock) = self.shared.clock.now();
        Moment { at, tick: self.shared.clock.tick(), clock }
    }

    fn origin(&self, moment: Moment, slot: Option<Slot>) -> Origin {
        Origin {
            chair: self.chair.name.clone(),
            machine: self.chair.machine.clone(),
            model: self.chair.model.id().clone(),
            at: moment.at,
            tick: moment.tick,
            clock: moment.clock,
            slot,
            previous: None,
            simulated: self.shared.simulated,
        }
    }
}

#[cfg(test)]
mod down_tests;
#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
mod truth_tests;
