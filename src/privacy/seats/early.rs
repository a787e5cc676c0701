//! A seat that comes while another patient's treatment seems to run: for whom it is, and when it keeps its word.
//!
//! A gateway sees the end of a treatment one poll late, or a quarter of an hour late where a clock that stands still is all
//! that tells it. So a nurse who seats the next patient may find the last one's treatment running. Between the two words
//! nobody knows whose readings they are, so what runs on from the seat is nobody's. The seat is for the treatment that comes
//! next, and the machine says which one that is: its elapsed time begins anew. A flag that only flickers, a silence or a
//! restart of the gateway in the middle of a treatment are no next treatment.

use super::rules::{self, waits};
use super::{SeatOutcome, Seated, WAITS};
use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::privacy::keyring::state::{Chair, Early, RowId, State, Treatment, Waiting};
use crate::privacy::record::TreatmentId;
use chairside_drivers::kit::decimal::Decimal;

/// Whether a word on this chair is about the next treatment: of what runs nobody knows whose it is, or an early seat waits.
pub(super) fn stands(state: &State, chair: &ChairName, at: Timestamp) -> bool {
    state.chairs.get(chair).is_some_and(|known| {
        let is_running = |early: &Early| known.running == Some(early.piece);
        known.early.is_some_and(|early| is_running(&early) || early.seat.is_some_and(|seat| waits(seat, at)))
    })
}

/// Whether it was this patient's treatment that was cut by another word: then the other word was the mistake.
pub(super) fn was_here_before(state: &State, chair: &ChairName, row: RowId) -> bool {
    let early = state.chairs.get(chair).and_then(|known| known.early);
    let before = early.and_then(|early| state.treatments.get(&early.before));
    before.is_some_and(|treatment| treatment.patient() == Some(row))
}

/// The treatment that ran up to the word from which on `piece` ran.
pub(super) fn before<'a>(
    state: &'a State,
    chair: &ChairName,
    piece: TreatmentId,
) -> Option<(TreatmentId, &'a Treatment)> {
    let early = state.chairs.get(chair)?.early.filter(|early| early.piece == piece)?;
    Some((early.before, state.treatments.get(&early.before)?))
}

/// The seat is this patient's from now on. A machine that has not counted its first minute, or counts none, could not show
/// that another treatment began: then nobody waits, and is not told so.
pub(super) fn renew(state: &mut State, chair: &ChairName, row: RowId, at: Timestamp) -> Seated {
    let known = state.chairs.entry(chair.clone()).or_default();
    let is_running = known.running.is_some();
    known.waiting = None;
    let mut until = None;
    if let Some(early) = &mut known.early {
        let counts = early.elapsed.is_some_and(|elapsed| elapsed.mantissa() > 0);
        early.seat = counts.then_some(Waiting { row, since: at });
        until = counts.then(|| at.after(WAITS));
    }
    Seated::only(match until {
        Some(until) if !is_running => SeatOutcome::Waiting { until },
        until => SeatOutcome::Changed { until },
    })
}

/// Nobody waits any more. What runs stays nobody's.
pub(super) fn cancel(state: &mut State, chair: &ChairName) -> SeatOutcome {
    let Some(known) = state.chairs.get_mut(chair) else { return SeatOutcome::NobodySeated };
    let waited = known.early.as_mut().and_then(|early| early.seat.take());
    known.early = known.early.filter(|early| is_latest(known, early));
    if waited.is_some() { SeatOutcome::WaitingCancelled } else { SeatOutcome::NobodySeated }
}

/// There is a word that says whose the running treatment is.
pub(super) fn clear(state: &mut State, chair: &ChairName) {
    if let Some(known) = state.chairs.get_mut(chair) {
        known.early = None;
    }
}

/// Drops a seat that waited too long.
pub(super) fn purge(known: &mut Chair, at: Timestamp) {
    if let Some(early) = &mut known.early {
        early.seat = early.seat.filter(|seat| waits(*seat, at));
    }
    known.early = known.early.filter(|early| early.seat.is_some() || is_latest(known, early));
}

/// Whether nothing has begun since: a correction may still say whose it all was.
fn is_latest(known: &Chair, early: &Early) -> bool {
    known.running.or(known.last) == Some(early.piece)
}

/// Whether [`hear`] would change anything.
pub(super) fn is_news(state: &State, chair: &ChairName, elapsed: Decimal) -> bool {
    let early = state.chairs.get(chair).and_then(|known| known.early);
    early.and_then(|early| early.elapsed).is_some_and(|least| elapsed.compare(least).is_lt())
}

/// The machine treats and shows this elapsed time. Less than it ever showed since the seat is the treatment that comes
/// next: it is the patient's who was seated for it, from its start.
pub(super) fn hear(state: &mut State, chair: &ChairName, elapsed: Decimal) -> Option<Seated> {
    if !is_news(state, chair, elapsed) {
        return None;
    }
    let (id, treatment) = rules::running(state, chair)?;
    let (since, is_taken) = (treatment.started, treatment.patient().is_some());
    let known = state.chairs.get_mut(chair)?;
    let early = known.early.as_mut()?;
    if early.piece == id {
        // A machine may clear the total of the treatment before only after a while; no other treatment has begun.
        early.elapsed = Some(elapsed);
        return None;
    }
    let seat = known.early.take()?.seat.filter(|seat| !is_taken && waits(*seat, since))?;
    Some(rules::rebind(state, id, seat.row, SeatOutcome::Bound { since }))
}
