//! The rules of seating, on the keyring's state and without a clock, a disk or a lock.

use super::early;
use super::{LATE, LONGEST, Rebound, SeatError, SeatOutcome, Seated, Span, WAITS};
use crate::model::name::{ChairName, MachineName};
use crate::model::time::Timestamp;
use crate::privacy::crypto::{Refused, Secret, random};
use crate::privacy::keyring::KeyringError;
use crate::privacy::keyring::state::{Early, RowId, State, Treatment, Waiting};
use crate::privacy::record::{Correction, TreatmentId};
use crate::privacy::record_number::RecordNumber;
use chairside_drivers::kit::decimal::Decimal;
use std::collections::BTreeSet;
use std::time::Duration;

/// Whether the machine has confirmed the running treatment since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Yes,
    No,
}

/// A clock that steps back by more than this makes an age unknown: no seat may live longer because of it.
pub(super) const SLACK: Duration = Duration::from_secs(5 * 60);
/// A treatment that nobody heard of for longer ended when it was last heard of. The judge needs a quarter of an hour to see
/// that a treatment stands still, and says then when it last ran; progress is noted once a minute or so.
const UNHEARD: Duration = Duration::from_secs(20 * 60);

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

/// Somebody's word on what runs on a chair, the machine's or a nurse's, and what is known of the machine by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    pub(super) at: Timestamp,
    /// When this process last saw the running treatment treating, where it did.
    pub(super) heard: Option<Timestamp>,
    /// The elapsed time that the machine last showed in it.
    pub(super) elapsed: Option<Decimal>,
    pub(super) settled: Settled,
}

pub(super) fn start(
    state: &mut State,
    chair: &ChairName,
    machine: &MachineName,
    word: Word,
) -> Result<TreatmentId, KeyringError> {
    end(state, chair, word);
    let id = begin(state, chair, machine, word.at)?;
    let known = state.chairs.entry(chair.clone()).or_default();
    known.progress = None;
    known.early = known.early.filter(|early| early.seat.is_some_and(|seat| waits(seat, word.at)));
    let waiting = known.waiting.take().filter(|waiting| waits(*waiting, word.at));
    bind(state, id, waiting.map(|waiting| waiting.row));
    Ok(id)
}

/// Ends the running treatment: now, or when it was last heard of where that is longer ago. A machine that was switched off
/// at night tells of the end in the morning, and by then somebody else sits there.
pub(super) fn end(state: &mut State, chair: &ChairName, word: Word) -> Option<TreatmentId> {
    let (_, treatment) = running(state, chair)?;
    let durable = state.chairs.get(chair).and_then(|chair| chair.progress).map(|(at, _)| at);
    let began = began(state, chair, treatment);
    let heard = word.heard.or(durable).map_or(began, |heard| heard.max(began));
    let is_now = word.settled == Settled::Yes && age(word.at, heard).is_none_or(|age| age <= UNHEARD);
    end_at(state, chair, if is_now { word.at } else { heard })
}

/// A nurse's word must not land on a treatment that is over only because nobody has asked the machine since: one that the
/// machine confirmed, but not for long now, or that is longer than any can be. It ends first.
pub(super) fn end_if_over(state: &mut State, chair: &ChairName, word: Word) -> Option<TreatmentId> {
    let (_, treatment) = running(state, chair)?;
    // One that a seat began was heard of at that moment at the latest: the seat found it running.
    let began = began(state, chair, treatment);
    let heard = word.heard.map(|heard| heard.max(began));
    let is_heard = heard.and_then(|heard| age(word.at, heard)).is_some_and(|age| age <= UNHEARD);
    let is_over = !is_heard || is_too_long(began, word.at);
    (word.settled == Settled::Yes && is_over).then(|| end(state, chair, word)).flatten()
}

fn is_too_long(began: Timestamp, at: Timestamp) -> bool {
    age(at, began).is_some_and(|age| age >= LONGEST)
}

/// When the chair's treatment began, by the clock as it stands now.
pub(super) fn began(state: &State, chair: &ChairName, treatment: &Treatment) -> Timestamp {
    let stepped =
        state.chairs.get(chair).filter(|known| known.running.is_some()).map_or(0, |known| known.stepped);
    treatment.started.shifted(stepped)
}

pub(super) fn seat(
    state: &mut State,
    chair: &ChairName,
    row: RowId,
    word: Word,
) -> Result<Seated, SeatError> {
    let Word { at, settled, .. } = word;
    void_behind_running(state, chair, settled);
    let is_early = early::stands(state, chair, at);
    match standing(state, chair, at, settled) {
        Standing::Idle if is_early => Ok(early::renew(state, chair, row, at)),
        Standing::Idle => Ok(seat_idle(state, chair, row, at)),
        Standing::Over(_) => Ok(wait(state, chair, row, at)),
        Standing::Unsettled(treatment) if treatment.patient() == Some(row) => {
            Ok(Seated::only(SeatOutcome::AlreadySeated))
        }
        Standing::Unsettled(_) => Err(SeatError::Unsettled(chair.clone())),
        Standing::Running(_, treatment) if treatment.patient() == Some(row) => {
            Ok(Seated::only(SeatOutcome::AlreadySeated))
        }
        Standing::Running(id, treatment) if treatment.patient().is_none() => {
            let since = treatment.started;
            if is_early && !early::was_here_before(state, chair, row) {
                return Ok(early::renew(state, chair, row, at));
            }
            early::clear(state, chair);
            Ok(rebind(state, id, row, SeatOutcome::Bound { since }))
        }
        Standing::Running(id, treatment) => {
            let machine = treatment.machine.clone();
            let started = split(state, chair, &machine, word)?;
            let seated = early::renew(state, chair, row, at);
            Ok(Seated { ended: Some(id), started: Some(started), ..seated })
        }
    }
}

/// Nothing runs: the seat is late for the last treatment, or early for the next.
fn seat_idle(state: &mut State, chair: &ChairName, row: RowId, at: Timestamp) -> Seated {
    let is_open = state.chairs.get(chair).is_none_or(|chair| !chair.late_closed);
    if let Some((id, treatment)) = last(state, chair)
        && let Some(ended) = treatment.ended
        && treatment.patient().is_none()
        && age(at, ended).is_some_and(|age| age <= LATE)
        && is_open
    {
        let since = treatment.started;
        // One word reaches one treatment, and it is the last one: nobody waits behind it.
        state.chairs.entry(chair.clone()).or_default().waiting = None;
        return rebind(state, id, row, SeatOutcome::BoundLate { since, ended });
    }
    wait(state, chair, row, at)
}

/// A word on a treatment that runs is the last word: no seat from before waits behind it for the next one.
fn void_behind_running(state: &mut State, chair: &ChairName, settled: Settled) {
    if let Some(known) = state.chairs.get_mut(chair)
        && known.running.is_some()
        && settled == Settled::Yes
    {
        known.waiting = None;
    }
}

fn wait(state: &mut State, chair: &ChairName, row: RowId, at: Timestamp) -> Seated {
    early::cancel(state, chair);
    state.chairs.entry(chair.clone()).or_default().waiting = Some(Waiting { row, since: at });
    Seated::only(SeatOutcome::Waiting { until: at.after(WAITS) })
}

/// Which records a correction can still rewrite.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<'a> {
    /// For how long all of them are kept.
    pub(super) keep_delivered: Duration,
    /// Treatments of which some left earlier.
    pub(super) incomplete: &'a BTreeSet<TreatmentId>,
}

pub(super) fn correct(
    state: &mut State,
    chair: &ChairName,
    row: RowId,
    word: Word,
    Kept { keep_delivered, incomplete }: Kept<'_>,
) -> Result<Seated, SeatError> {
    let Word { at, settled, .. } = word;
    void_behind_running(state, chair, settled);
    let waiting = state.chairs.get(chair).is_some_and(|chair| chair.waiting.is_some());
    let target = match standing(state, chair, at, settled) {
        // Whoever corrects before the treatment begins means the seat that waits, not yesterday's treatment.
        Standing::Idle | Standing::Over(_) if waiting => return Ok(wait(state, chair, row, at)),
        Standing::Idle if early::stands(state, chair, at) => {
            return Ok(early::renew(state, chair, row, at));
        }
        Standing::Idle => last(state, chair),
        Standing::Over(id) => state.treatments.get(&id).map(|treatment| (id, treatment)),
        Standing::Running(id, treatment) => Some((id, treatment)),
        Standing::Unsettled(_) => return Err(SeatError::Unsettled(chair.clone())),
    };
    let Some((id, treatment)) = target else { return Err(SeatError::NoTreatment(chair.clone())) };
    let since = treatment.started;
    // Counted from the start: then no record of it, not even the first, has left the spool in due time.
    let is_kept = |since| age(at, since).is_some_and(|age| age <= keep_delivered);
    let mut span = Span { from: began(state, chair, treatment), until: treatment.ended };
    if !is_kept(span.from) {
        let hours = keep_delivered.as_secs() / 3600;
        return Err(SeatError::TooLate { chair: chair.clone(), hours, span });
    }
    if treatment.patient() == Some(row) {
        return Ok(Seated::only(SeatOutcome::AlreadySeated));
    }
    // What ran on from a seat, or from an unseat, and what ran up to it is one treatment to the machine.
    let before = early::before(state, chair, id).filter(|(_, treatment)| is_kept(treatment.started));
    let before = before.filter(|(_, treatment)| treatment.patient() != Some(row));
    let (before, since) = before.map_or((None, since), |(id, treatment)| (Some(id), treatment.started));
    if incomplete.contains(&id) || before.is_some_and(|before| incomplete.contains(&before)) {
        span.from = span.from.min(since);
        return Err(SeatError::LeftEarly { chair: chair.clone(), span });
    }
    early::clear(state, chair);
    let also = before.map(|before| {
        let Seated { correction, .. } = rebind(state, before, row, SeatOutcome::AlreadySeated);
        Rebound { treatment: before, correction }
    });
    Ok(Seated { also, ..rebind(state, id, row, SeatOutcome::Corrected { since }) })
}

pub(super) fn unseat(state: &mut State, chair: &ChairName, word: Word) -> Result<Seated, SeatError> {
    let Word { at, settled, .. } = word;
    if early::stands(state, chair, at) {
        return Ok(Seated::only(early::cancel(state, chair)));
    }
    let waiting = state.chairs.get(chair).is_some_and(|chair| chair.waiting.is_some());
    let id = match standing(state, chair, at, settled) {
        Standing::Idle | Standing::Over(_) if waiting => {
            state.chairs.entry(chair.clone()).or_default().waiting = None;
            return Ok(Seated::only(SeatOutcome::WaitingCancelled));
        }
        Standing::Idle => return Ok(Seated::only(SeatOutcome::NobodySeated)),
        Standing::Over(_) | Standing::Unsettled(_) | Standing::Running(..) => running(state, chair),
    };
    let Some((id, treatment)) = id else { return Ok(Seated::only(SeatOutcome::NobodySeated)) };
    let machine = treatment.machine.clone();
    let started = split(state, chair, &machine, word)?;
    Ok(Seated { ended: Some(id), started: Some(started), ..Seated::only(SeatOutcome::Unseated) })
}

/// Drops seats that waited too long, on every chair.
pub(super) fn purge(state: &mut State, at: Timestamp) {
    for chair in state.chairs.values_mut() {
        chair.waiting = chair.waiting.filter(|waiting| waits(*waiting, at));
        early::purge(chair, at);
    }
}

impl Seated {
    pub(super) const fn only(outcome: SeatOutcome) -> Self {
        Self { outcome, release: None, ended: None, started: None, correction: None, also: None }
    }
}

/// What a chair is to a nurse's word.
enum Standing<'a> {
    /// Nothing runs.
    Idle,
    /// A restart left a treatment open that is too old to go on; the machine's next word will end it.
    Over(TreatmentId),
    /// A restart left a treatment open, and by now the next patient may sit there: only the machine can tell.
    Unsettled(&'a Treatment),
    /// A treatment runs, and the machine said so lately.
    Running(TreatmentId, &'a Treatment),
}

fn standing<'a>(state: &'a State, chair: &ChairName, at: Timestamp, settled: Settled) -> Standing<'a> {
    match (running(state, chair), settled) {
        (None, _) => Standing::Idle,
        (Some((id, treatment)), Settled::Yes) => Standing::Running(id, treatment),
        (Some((id, treatment)), Settled::No) if is_too_long(began(state, chair, treatment), at) => {
            Standing::Over(id)
        }
        (Some((_, treatment)), Settled::No) => Standing::Unsettled(treatment),
    }
}

pub(super) fn running<'a>(state: &'a State, chair: &ChairName) -> Option<(TreatmentId, &'a Treatment)> {
    let id = state.chairs.get(chair)?.running?;
    Some((id, state.treatments.get(&id)?))
}

fn last<'a>(state: &'a State, chair: &ChairName) -> Option<(TreatmentId, &'a Treatment)> {
    let id = state.chairs.get(chair)?.last?;
    Some((id, state.treatments.get(&id)?))
}

fn end_at(state: &mut State, chair: &ChairName, ended: Timestamp) -> Option<TreatmentId> {
    let known = state.chairs.get_mut(chair)?;
    let id = known.running.take()?;
    known.last = Some(id);
    known.progress = None;
    let is_stepped = u128::from(known.stepped.unsigned_abs()) > SLACK.as_micros();
    known.late_closed = is_stepped || known.early.is_some_and(|early| early.piece == id);
    if let Some(treatment) = state.treatments.get_mut(&id) {
        treatment.ended = Some(ended.max(treatment.started));
    }
    Some(id)
}

/// Ends the running treatment and begins another in the same breath, which is nobody's. The machine's elapsed time goes on.
fn split(
    state: &mut State,
    chair: &ChairName,
    machine: &MachineName,
    word: Word,
) -> Result<TreatmentId, KeyringError> {
    let progress = state.chairs.get(chair).and_then(|chair| chair.progress);
    let before = end_at(state, chair, word.at);
    let id = begin(state, chair, machine, word.at)?;
    let known = state.chairs.entry(chair.clone()).or_default();
    let elapsed = word.elapsed.or(progress.map(|(_, elapsed)| elapsed));
    known.progress = progress;
    known.waiting = None;
    known.early = before.map(|before| Early { before, piece: id, seat: None, elapsed });
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
    let known = state.chairs.entry(chair.clone()).or_default();
    known.running = Some(id);
    known.stepped = 0;
    known.late_closed = false;
    Ok(id)
}

fn bind(state: &mut State, id: TreatmentId, row: Option<RowId>) {
    if let Some(treatment) = state.treatments.get_mut(&id) {
        treatment.bindings.extend(row);
    }
}

/// The treatment is this patient's from its start: one revision more.
pub(super) fn rebind(state: &mut State, id: TreatmentId, row: RowId, outcome: SeatOutcome) -> Seated {
    let mut seated = Seated { release: Some(id), ..Seated::only(outcome) };
    if let Some(treatment) = state.treatments.get_mut(&id) {
        let old = treatment.revision();
        treatment.bindings.push(row);
        seated.correction = Some(Correction { treatment: id, old, new: treatment.revision() });
    }
    seated
}
