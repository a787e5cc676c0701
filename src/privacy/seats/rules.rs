//! The rules of seating, on the keyring's state and without a clock, a disk or a lock.

use super::{LATE, LONGEST, SeatError, SeatOutcome, Seated, WAITS};
use crate::model::name::{ChairName, MachineName};
use crate::model::time::Timestamp;
use crate::privacy::crypto::{Refused, Secret, random};
use crate::privacy::keyring::KeyringError;
use crate::privacy::keyring::state::{RowId, State, Treatment, Waiting};
use crate::privacy::record::{Correction, TreatmentId};
use crate::privacy::record_number::RecordNumber;
use std::time::Duration;

/// Whether the machine has confirmed the running treatment since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Yes,
    No,
}

/// A clock that steps back by more than this makes an age unknown: no seat may live longer because of it.
const SLACK: Duration = Duration::from_secs(5 * 60);

/// How long ago `then` is; `None` where it lies in the future.
pub(super) fn age(at: Timestamp, then: Timestamp) -> Option<Duration> {
    (then <= at.after(SLACK)).then(|| at.since(then))
}

/// Whether a seat still waits.
pub(super) fn waits(waiting: Waiting, at: Timestamp) -> bool {
    age(at, waiting.since).is_some_and(|age| age <= WAITS)
}

/// The patient's row, drawn at the first sight of the record number.
pub(super) fn row(state: &mut State, number: &RecordNumber) -> Result<RowId, KeyringError> {
    let mac = number.mac(&state.lookup);
    match state.patients.get(&mac) {
        Some(row) => Ok(*row),
        None => {
            let row = RowId(random()?);
            state.patients.insert(mac, row);
            Ok(row)
        }
    }
}

pub(super) fn start(
    state: &mut State,
    chair: &ChairName,
    machine: &MachineName,
    at: Timestamp,
) -> Result<TreatmentId, KeyringError> {
    end(state, chair, at);
    let id = begin(state, chair, machine, at)?;
    let known = state.chairs.entry(chair.clone()).or_default();
    known.progress = None;
    let waiting = known.waiting.take().filter(|waiting| waits(*waiting, at));
    bind(state, id, waiting.map(|waiting| waiting.row));
    Ok(id)
}

pub(super) fn end(state: &mut State, chair: &ChairName, at: Timestamp) -> Option<TreatmentId> {
    let known = state.chairs.get_mut(chair)?;
    let id = known.running.take()?;
    known.last = Some(id);
    known.progress = None;
    if let Some(treatment) = state.treatments.get_mut(&id) {
        treatment.ended = Some(at.max(treatment.started));
    }
    Some(id)
}

pub(super) fn seat(
    state: &mut State,
    chair: &ChairName,
    row: RowId,
    at: Timestamp,
    settled: Settled,
) -> Result<Seated, SeatError> {
    if patient_of_running(state, chair) == Some(row) {
        return Ok(Seated::only(SeatOutcome::AlreadySeated));
    }
    let over = drop_if_over(state, chair, at, settled)?;
    let Some((id, treatment)) = running(state, chair) else {
        let seated = seat_idle(state, chair, row, at);
        return Ok(Seated { ended: over, ..seated });
    };
    let (since, machine) = (treatment.started, treatment.machine.clone());
    if treatment.patient().is_none() {
        return Ok(rebind(state, id, row, SeatOutcome::Bound { since }));
    }
    let started = split(state, chair, &machine, at)?;
    bind(state, started, Some(row));
    Ok(Seated { ended: Some(id), started: Some(started), ..Seated::only(SeatOutcome::Changed) })
}

/// Nothing runs: the seat is late for the last treatment, or early for the next.
fn seat_idle(state: &mut State, chair: &ChairName, row: RowId, at: Timestamp) -> Seated {
    let known = state.chairs.entry(chair.clone()).or_default();
    let last = known.last.and_then(|id| Some((id, state.treatments.get(&id)?)));
    if let Some((id, treatment)) = last
        && let Some(ended) = treatment.ended
        && treatment.patient().is_none()
        && age(at, ended).is_some_and(|age| age <= LATE)
    {
        let since = treatment.started;
        return rebind(state, id, row, SeatOutcome::BoundLate { since, ended });
    }
    known.waiting = Some(Waiting { row, since: at });
    Seated::only(SeatOutcome::Waiting { until: at.after(WAITS) })
}

pub(super) fn correct(
    state: &mut State,
    chair: &ChairName,
    row: RowId,
    at: Timestamp,
    keep_delivered: Duration,
    settled: Settled,
) -> Result<Seated, SeatError> {
    let over = drop_if_over(state, chair, at, settled)?;
    let known = state.chairs.entry(chair.clone()).or_default();
    // Whoever corrects before the treatment begins means the seat that waits, not yesterday's treatment.
    if let (None, Some(waiting)) = (known.running, &mut known.waiting) {
        *waiting = Waiting { row, since: at };
        let seated = Seated::only(SeatOutcome::Waiting { until: at.after(WAITS) });
        return Ok(Seated { ended: over, ..seated });
    }
    let target = known.running.or(known.last).and_then(|id| Some((id, state.treatments.get(&id)?)));
    let Some((id, treatment)) = target else { return Err(SeatError::NoTreatment(chair.clone())) };
    let since = treatment.started;
    // Counted from the start: then no record of it, not even the first, can have left the spool.
    if age(at, since).is_none_or(|age| age > keep_delivered) {
        let hours = keep_delivered.as_secs() / 3600;
        return Err(SeatError::TooLate { chair: chair.clone(), hours });
    }
    let seated = if treatment.patient() == Some(row) {
        Seated::only(SeatOutcome::AlreadySeated)
    } else {
        rebind(state, id, row, SeatOutcome::Corrected { since })
    };
    Ok(Seated { ended: over, ..seated })
}

pub(super) fn unseat(state: &mut State, chair: &ChairName, at: Timestamp) -> Result<Seated, SeatError> {
    let Some((id, treatment)) = running(state, chair) else {
        let known = state.chairs.entry(chair.clone()).or_default();
        return Ok(Seated::only(match known.waiting.take() {
            Some(_) => SeatOutcome::WaitingCancelled,
            None => SeatOutcome::NobodySeated,
        }));
    };
    let machine = treatment.machine.clone();
    let started = split(state, chair, &machine, at)?;
    Ok(Seated { ended: Some(id), started: Some(started), ..Seated::only(SeatOutcome::Unseated) })
}

/// Drops seats that waited too long, on every chair.
pub(super) fn purge(state: &mut State, at: Timestamp) {
    for chair in state.chairs.values_mut() {
        chair.waiting = chair.waiting.filter(|waiting| waits(*waiting, at));
    }
}

impl Seated {
    const fn only(outcome: SeatOutcome) -> Self {
        Self { outcome, release: None, ended: None, started: None, correction: None }
    }
}

/// A treatment left open by a restart is nobody's until the machine confirms it: by now the next patient may sit there. One
/// that is too old to go on is ended here, at its last sign of life; any other has to wait for the machine's word.
fn drop_if_over(
    state: &mut State,
    chair: &ChairName,
    at: Timestamp,
    settled: Settled,
) -> Result<Option<TreatmentId>, SeatError> {
    let Some((_, treatment)) = running(state, chair) else { return Ok(None) };
    if settled == Settled::Yes {
        return Ok(None);
    }
    if age(at, treatment.started).is_none_or(|age| age < LONGEST) {
        return Err(SeatError::Unsettled(chair.clone()));
    }
    let progress = state.chairs.get(chair).and_then(|chair| chair.progress);
    let seen = progress.map_or(treatment.started, |(at, _)| at);
    Ok(end(state, chair, seen))
}

fn running<'a>(state: &'a State, chair: &ChairName) -> Option<(TreatmentId, &'a Treatment)> {
    let id = state.chairs.get(chair)?.running?;
    Some((id, state.treatments.get(&id)?))
}

fn patient_of_running(state: &State, chair: &ChairName) -> Option<RowId> {
    running(state, chair)?.1.patient()
}

/// Ends the running treatment and begins another in the same breath. The machine's elapsed time goes on.
fn split(
    state: &mut State,
    chair: &ChairName,
    machine: &MachineName,
    at: Timestamp,
) -> Result<TreatmentId, KeyringError> {
    let progress = state.chairs.get(chair).and_then(|chair| chair.progress);
    end(state, chair, at);
    let id = begin(state, chair, machine, at)?;
    state.chairs.entry(chair.clone()).or_default().progress = progress;
    Ok(id)
}

/// A new treatment with an id and a data key of its own, nobody's.
fn begin(
    state: &mut State,
    chair: &ChairName,
    machine: &MachineName,
    at: Timestamp,
) -> Result<TreatmentId, Refused> {
    let id = TreatmentId::from_bytes(random()?);
    let treatment = Treatment {
        key: Secret::random()?,
        chair: chair.clone(),
        machine: machine.clone(),
        started: at,
        ended: None,
        bindings: Vec::new(),
    };
    state.treatments.insert(id, treatment);
    state.chairs.entry(chair.clone()).or_default().running = Some(id);
    Ok(id)
}

fn bind(state: &mut State, id: TreatmentId, row: Option<RowId>) {
    if let Some(treatment) = state.treatments.get_mut(&id) {
        treatment.bindings.extend(row);
    }
}

/// The treatment is this patient's from its start: one revision more.
fn rebind(state: &mut State, id: TreatmentId, row: RowId, outcome: SeatOutcome) -> Seated {
    let mut seated = Seated { release: Some(id), ..Seated::only(outcome) };
    if let Some(treatment) = state.treatments.get_mut(&id) {
        let old = treatment.revision();
        treatment.bindings.push(row);
        seated.correction = Some(Correction { treatment: id, old, new: treatment.revision() });
    }
    seated
}
