//! Seats: who is which treatment. A nurse's word binds one treatment of one chair, and dies with it.
//!
//! A record names its treatment; the binding says, apart from it and sealed in the keyring, which patient that is. So a
//! late or corrected seat changes one binding and rewrites no record. Everything here is durable before it returns.

mod early;
mod rules;
mod steps;

use super::keyring::state::{Chair, State};
use super::keyring::{Keyring, KeyringError};
use super::record::{Correction, OpenAlarm, TreatmentId};
use super::record_number::{RecordNumber, RecordNumberError};
use crate::config::settings::Unseated;
use crate::model::name::{ChairName, MachineName};
use crate::model::time::{ClockStep, Timestamp};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::time::Tick;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A seat waits this long for the chair's next treatment.
pub const WAITS: Duration = Duration::from_secs(2 * 3600);
/// A late seat still binds a treatment this long after its end.
pub const LATE: Duration = Duration::from_secs(30 * 60);
/// No treatment is longer; one that a restart left open for longer is over.
pub const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// Progress is written this often; between two writes a restart finds it this old.
const PROGRESS_EVERY: Duration = Duration::from_secs(5 * 60);

/// The seats of every chair.
#[derive(Debug)]
pub struct Seats {
    keyring: Arc<Keyring>,
    unseated: Unseated,
    live: Mutex<Live>,
}

/// What need not survive a restart.
#[derive(Debug, Default)]
struct Live {
    /// Treatments that the machine itself confirmed since this process started.
    settled: BTreeSet<TreatmentId>,
    heard: BTreeMap<TreatmentId, (Timestamp, Option<Decimal>)>,
    /// When progress was last written.
    written: Option<Timestamp>,
}

/// The treatment that runs on a chair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: TreatmentId,
    /// On which machine it began. Where the chair has another one by now, it is over.
    pub machine: MachineName,
    /// Since when, by the clock as it stands now.
    pub started: Timestamp,
    /// The machine's elapsed time when it was last seen, and when that was; what a restart goes on from.
    pub progress: Option<(Timestamp, Decimal)>,
    /// Whether a patient is bound to it.
    pub seated: bool,
    /// Whether the machine has confirmed it since this process started; until then nobody else can be seated on it.
    pub settled: bool,
}

/// What an act of seating did, and what is left for the caller to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seated {
    /// What to tell whoever acted.
    pub outcome: SeatOutcome,
    /// Held records of this treatment may go out now.
    pub release: Option<TreatmentId>,
    /// This treatment was ended by the act: write its `TreatmentEnded`. Where none was begun, the machine had not been
    /// heard of for long and the treatment was over before; should the machine go on with it, what follows is another one:
    /// call [`Seats::treatment_started`].
    pub ended: Option<TreatmentId>,
    /// This treatment was begun by the act: write its `TreatmentStarted` and tell the chair's normaliser.
    pub started: Option<TreatmentId>,
    /// What was sent under the old revision has to be rewritten: append this.
    pub correction: Option<Correction>,
    /// A correction may reach the treatment before as well, where a seat had cut one treatment of the machine in two.
    pub also: Option<Rebound>,
}

/// A treatment that became somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebound {
    /// Its held records may go out now.
    pub treatment: TreatmentId,
    /// What was sent under the old revision has to be rewritten: append this.
    pub correction: Option<Correction>,
}

impl Seated {
    /// Every treatment that became somebody else's.
    pub fn rebound(&self) -> impl Iterator<Item = Rebound> {
        let release = self.release.map(|treatment| Rebound { treatment, correction: self.correction });
        release.into_iter().chain(self.also)
    }
}

/// What an act of seating did, for the person who acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatOutcome {
    /// The running treatment is the patient's, from its start.
    Bound {
        /// Its start.
        since: Timestamp,
    },
    /// No treatment runs; the one that ended at `ended` is the patient's. The next one is nobody's yet.
    BoundLate {
        /// Its start.
        since: Timestamp,
        /// Its end.
        ended: Timestamp,
    },
    /// No treatment runs; the chair's next one will be the patient's if it begins by then.
    Waiting {
        /// The seat is void after this.
        until: Timestamp,
    },
    /// This patient was seated already.
    AlreadySeated,
    /// Another patient was seated: that treatment ended. What the machine goes on with is nobody's; the treatment that it
    /// begins next is this patient's.
    Changed {
        /// The seat is void after this; `None` where the machine shows no time that could tell when the next one begins.
        until: Option<Timestamp>,
    },
    /// The treatment was another patient's by mistake and is this patient's now, from its start.
    Corrected {
        /// Its start.
        since: Timestamp,
    },
    /// The treatment ended; what follows is nobody's.
    Unseated,
    /// The seat that waited for the next treatment is void.
    WaitingCancelled,
    /// Nothing ran and nobody waited.
    NobodySeated,
}

/// From when to when a treatment ran, as it is to be found in systems that received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start.
    pub from: Timestamp,
    /// Its end; `None` where it still runs.
    pub until: Option<Timestamp>,
}

/// Why somebody cannot be seated.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// What was typed or scanned.
    #[error(transparent)]
    RecordNumber(#[from] RecordNumberError),
    /// After a restart, the machine has not yet said whether the treatment of before goes on.
    #[error(
        "the gateway has started anew and {0}'s machine has not yet said whether its treatment goes on; \
         seat again once the machine has answered"
    )]
    Unsettled(ChairName),
    /// Nothing to correct.
    #[error("no treatment of {0} is known that could be corrected")]
    NoTreatment(ChairName),
    /// Records of the treatment may be gone from the spool.
    #[error(
        "the last treatment of {chair} began more than {hours} h ago and some of its records may be gone from the \
         spool; correct it by hand in every system that received it"
    )]
    TooLate {
        /// The chair.
        chair: ChairName,
        /// For how long a correction is possible.
        hours: u64,
        /// The treatment.
        span: Span,
    },
    /// Records of the treatment left the spool before their time.
    #[error(
        "records of the treatment of {chair} have left the spool early, so not all of it can be rewritten and nothing was \
         changed: what was sent of it stays under the patient of before; correct it by hand in every system that received it"
    )]
    LeftEarly {
        /// The chair.
        chair: ChairName,
        /// The treatment.
        span: Span,
    },
    /// The keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl Seats {
    /// The seats in this keyring. `unseated` says whether records of an unbound treatment go out as the machine's own,
    /// so that a first seat has something to rewrite.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, unseated: Unseated) -> Self {
        Self { keyring, unseated, live: Mutex::default() }
    }

    /// The machine began a treatment: draws its id and its data key, and binds the seat that waited for it. One that
    /// still ran on this chair is ended.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable; then nothing has begun.
    pub fn treatment_started(
        &self,
        chair: &ChairName,
        machine: &MachineName,
        at: Timestamp,
    ) -> Result<TreatmentId, KeyringError> {
        let mut live = self.live();
        let before = self.running_id(chair);
        let word = live.word(before, at);
        let id = self.keyring.change(|state| rules::start(state, chair, machine, word))?;
        live.forget(before);
        live.settled.insert(id);
        live.heard.insert(id, (at, None));
        Ok(id)
    }

    /// The machine ended its treatment at this time, which may lie a while back where the end takes time to be seen; `None`
    /// where none ran. Where the machine was silent for long before, it ended when it was last heard of.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable; then it still runs.
    pub fn treatment_ended(
        &self,
        chair: &ChairName,
        at: Timestamp,
    ) -> Result<Option<TreatmentId>, KeyringError> {
        let mut live = self.live();
        let word = live.word(self.running_id(chair), at);
        let ended: Option<TreatmentId> =
            self.keyring.change(|state| Ok::<_, KeyringError>(rules::end(state, chair, word)))?;
        live.forget(ended);
        Ok(ended)
    }

    /// The treatment that runs on a chair.
    #[must_use]
    pub fn running(&self, chair: &ChairName) -> Option<Running> {
        let live = self.live();
        let state = self.keyring.state();
        let known = state.chairs.get(chair)?;
        let id = known.running?;
        let treatment = state.treatments.get(&id)?;
        Some(Running {
            id,
            machine: treatment.machine.clone(),
            started: rules::began(&state, chair, treatment),
            progress: live.progress(id).or(known.progress),
            seated: treatment.patient().is_some(),
            settled: live.settled.contains(&id),
        })
    }

    /// Until when a seat waits for the chair's next treatment.
    #[must_use]
    pub fn waiting(&self, chair: &ChairName, at: Timestamp) -> Option<Timestamp> {
        let state = self.keyring.state();
        let known = state.chairs.get(chair)?;
        let waiting = known.waiting.or_else(|| known.early?.seat)?;
        rules::waits(waiting, at).then(|| waiting.since.after(WAITS))
    }

    /// The machine is treating and shows this elapsed time, if it shows one: the running treatment is settled, and a
    /// restart can go on with it. To be called with every such poll, or once a minute, whether or not it shows a time: a
    /// treatment that is not heard of for twenty minutes is over for the next seat. It is written at once the first time and
    /// then every five minutes, for all chairs together.
    ///
    /// What comes back is a seat that the machine's word made good: it came while the treatment before seemed to run.
    ///
    /// # Errors
    /// [`KeyringError`] when it was due and cannot be made durable.
    pub fn progress(
        &self,
        chair: &ChairName,
        at: Timestamp,
        elapsed: impl Into<Option<Decimal>>,
    ) -> Result<Option<Seated>, KeyringError> {
        let elapsed = elapsed.into();
        let mut live = self.live();
        let state = self.keyring.state();
        let Some(Chair { running: Some(id), progress: durable, .. }) = state.chairs.get(chair) else {
            return Ok(None);
        };
        live.settled.insert(*id);
        live.heard.insert(*id, (at, elapsed));
        let age = live.written.and_then(|written| rules::age(at, written));
        let is_known = durable.is_some() || elapsed.is_none();
        if !is_known || age.is_none_or(|age| age >= PROGRESS_EVERY) {
            self.write_progress(&live)?;
            live.written = Some(at);
        }
        let Some(elapsed) = elapsed.filter(|elapsed| early::is_news(&self.keyring.state(), chair, *elapsed))
        else {
            return Ok(None);
        };
        self.keyring.change(|state| {
            let seated = early::hear(state, chair, elapsed);
            Ok(seated.map(|seated| self.announce(state, seated)))
        })
    }

    /// Writes the progress of all chairs now: when the gateway stops in an orderly way.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable.
    pub fn close(&self) -> Result<(), KeyringError> {
        self.write_progress(&self.live())
    }

    /// This patient sits on this chair.
    ///
    /// # Errors
    /// [`SeatError`] says what to do; then nothing has changed.
    pub fn seat(
        &self,
        chair: &ChairName,
        record_number: Sensitive<String>,
        at: Timestamp,
    ) -> Result<Seated, SeatError> {
        let number = RecordNumber::parse(&record_number)?;
        self.act(chair, at, |state, word| {
            let row = rules::row(state, &number)?;
            rules::seat(state, chair, row, word)
        })
    }

    /// The treatments that a correction on this chair could be about.
    #[must_use]
    pub fn correctable(&self, chair: &ChairName) -> Vec<TreatmentId> {
        let state = self.keyring.state();
        let latest = state.chairs.get(chair).and_then(|known| known.running.or(known.last));
        let before = latest.and_then(|latest| early::before(&state, chair, latest)).map(|(id, _)| id);
        latest.into_iter().chain(before).collect()
    }

    /// The chair's treatment, or its last one, was this patient's all along. `incomplete` names those of
    /// [`Seats::correctable`] of which records have left the spool.
    ///
    /// # Errors
    /// [`SeatError`] says what to do; then nothing has changed. Past `keep_delivered`, records of the treatment may be gone.
    pub fn correct(
        &self,
        chair: &ChairName,
        record_number: Sensitive<String>,
        at: Timestamp,
        keep_delivered: Duration,
        incomplete: &BTreeSet<TreatmentId>,
    ) -> Result<Seated, SeatError> {
        let number = RecordNumber::parse(&record_number)?;
        self.act(chair, at, |state, word| {
            let row = rules::row(state, &number)?;
            rules::correct(state, chair, row, word, rules::Kept { keep_delivered, incomplete })
        })
    }

    /// Nobody sits on this chair any more, or nobody that is known.
    ///
    /// # Errors
    /// [`SeatError`] when it cannot be made durable; then nothing has changed.
    pub fn unseat(&self, chair: &ChairName, at: Timestamp) -> Result<Seated, SeatError> {
        self.act(chair, at, |state, word| rules::unseat(state, chair, word))
    }

    /// When a run before looked at the wall clock for this chair and what it showed. What it left of the chair is told in times
    /// of that clock.
    #[must_use]
    pub fn clock_seen(&self, chair: &ChairName) -> Option<(Tick, Timestamp)> {
        self.keyring.state().chairs.get(chair)?.clock
    }

    /// The wall clock shows `now` at this tick: from now on what is kept of the chair is told in times of this clock.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable.
    pub fn note_clock(&self, chair: &ChairName, tick: Tick, now: Timestamp) -> Result<(), KeyringError> {
        self.keyring.change(|state| {
            state.chairs.entry(chair.clone()).or_default().clock = Some((tick, now));
            Ok(())
        })
    }

    /// The wall clock was set, as is seen at this tick: what was counted from it on this chair counts on. `unset_since` is when
    /// this process first saw a clock that nobody had set, where that is what it was until now.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable.
    pub fn clock_stepped(
        &self,
        chair: &ChairName,
        tick: Tick,
        step: ClockStep,
        unset_since: Option<Timestamp>,
    ) -> Result<(), KeyringError> {
        let mut live = self.live();
        self.keyring.change(|state| {
            steps::shift(state, chair, step, unset_since);
            // In the same breath, so that a crash shifts nothing twice.
            state.chairs.entry(chair.clone()).or_default().clock = Some((tick, step.found));
            Ok::<_, KeyringError>(())
        })?;
        let running = self.running_id(chair);
        if let Some((at, _)) = running.and_then(|id| live.heard.get_mut(&id)) {
            *at = at.shifted(step.found.micros_since(step.expected));
        }
        Ok(())
    }

    /// The alarms of a chair that a run before told to be on.
    #[must_use]
    pub fn open_alarms(&self, chair: &ChairName) -> Vec<OpenAlarm> {
        self.keyring.state().chairs.get(chair).map(|known| known.alarms.clone()).unwrap_or_default()
    }

    /// Notes which alarms of a chair are told to be on. They stand here because they say something of a patient.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable.
    pub fn note_alarms(&self, chair: &ChairName, alarms: Vec<OpenAlarm>) -> Result<(), KeyringError> {
        self.keyring.change(|state| {
            state.chairs.entry(chair.clone()).or_default().alarms = alarms;
            Ok(())
        })
    }

    /// Drops seats that waited too long. To be called now and then: a seat that nobody needs is not kept.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable.
    pub fn purge(&self, at: Timestamp) -> Result<(), KeyringError> {
        self.keyring.change(|state| {
            rules::purge(state, at);
            Ok(())
        })
    }

    /// Corrections that a crash may have kept from the spool, with their chairs. To be appended at the start, and then
    /// [`Seats::told`].
    #[must_use]
    pub fn untold(&self) -> Vec<(ChairName, Correction)> {
        let state = self.keyring.state();
        let chair =
            |correction: &Correction| Some(state.treatments.get(&correction.treatment)?.chair.clone());
        state.untold.iter().filter_map(|correction| Some((chair(correction)?, *correction))).collect()
    }

    /// The spool has this correction. Until then it comes back after a restart; appended twice it does no harm.
    ///
    /// # Errors
    /// [`KeyringError`] when it cannot be made durable.
    pub fn told(&self, correction: &Correction) -> Result<(), KeyringError> {
        self.keyring.change(|state| {
            state.untold.retain(|untold| untold != correction);
            Ok(())
        })
    }

    fn act(
        &self,
        chair: &ChairName,
        at: Timestamp,
        act: impl FnOnce(&mut State, rules::Word) -> Result<Seated, SeatError>,
    ) -> Result<Seated, SeatError> {
        let mut live = self.live();
        let word = live.word(self.running_id(chair), at);
        let seated = self.keyring.change(|state| {
            rules::purge(state, at);
            let over = rules::end_if_over(state, chair, word);
            let mut seated = act(state, word)?;
            if let Some(over) = over {
                seated.ended = Some(over);
                if seated.outcome == SeatOutcome::NobodySeated {
                    seated.outcome = SeatOutcome::Unseated;
                }
            }
            Ok::<_, SeatError>(self.announce(state, seated))
        })?;
        if word.settled == rules::Settled::Yes {
            live.settled.extend(seated.started);
        }
        if let (Some(ended), Some(started)) = (seated.ended, seated.started)
            && let Some(heard) = live.heard.get(&ended).copied()
        {
            live.heard.insert(started, heard);
        }
        live.forget(seated.ended);
        Ok(seated)
    }

    /// Notes the corrections that the spool has to be told. Under the hold policy nothing went out under revision 0, so there
    /// is nothing to rewrite.
    fn announce(&self, state: &mut State, mut seated: Seated) -> Seated {
        let due = |correction: &Correction| self.unseated == Unseated::Machine || correction.old.0 > 0;
        seated.correction = seated.correction.filter(due);
        if let Some(also) = &mut seated.also {
            also.correction = also.correction.filter(due);
        }
        state.untold.extend(seated.rebound().filter_map(|rebound| rebound.correction));
        seated
    }

    fn running_id(&self, chair: &ChairName) -> Option<TreatmentId> {
        self.keyring.state().chairs.get(chair)?.running
    }

    fn write_progress(&self, live: &Live) -> Result<(), KeyringError> {
        self.keyring.change(|state| {
            for chair in state.chairs.values_mut() {
                chair.progress = chair.running.and_then(|id| live.progress(id)).or(chair.progress);
            }
            Ok(())
        })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn settled(&self, running: Option<TreatmentId>) -> rules::Settled {
        match running {
            Some(id) if !self.settled.contains(&id) => rules::Settled::No,
            Some(_) | None => rules::Settled::Yes,
        }
    }

    /// What is known of the running treatment at this time.
    fn word(&self, running: Option<TreatmentId>, at: Timestamp) -> rules::Word {
        let known = running.and_then(|id| self.heard.get(&id));
        let (heard, elapsed) = (known.map(|(at, _)| *at), known.and_then(|(_, elapsed)| *elapsed));
        rules::Word { at, heard, elapsed, settled: self.settled(running) }
    }

    fn progress(&self, id: TreatmentId) -> Option<(Timestamp, Decimal)> {
        let (at, elapsed) = self.heard.get(&id)?;
        Some((*at, (*elapsed)?))
    }

    fn forget(&mut self, ended: Option<TreatmentId>) {
        if let Some(id) = ended {
            self.settled.remove(&id);
            self.heard.remove(&id);
        }
    }
}

#[cfg(test)]
mod early_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod steps_tests;
#[cfg(test)]
mod tests;
