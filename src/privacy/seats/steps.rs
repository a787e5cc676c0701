//! A wall clock that was set: what was counted from it counts on, so that no seat lives longer or shorter because of it.

use super::rules::SLACK;
use crate::model::name::ChairName;
use crate::model::time::{ClockStep, Timestamp};
use crate::privacy::keyring::state::State;

/// Moves what waits and what runs on a chair along with the clock. What was told to have begun or ended keeps its time,
/// unless it was told by a clock that nobody had set, `unset_since` then.
pub(super) fn shift(state: &mut State, chair: &ChairName, step: ClockStep, unset_since: Option<Timestamp>) {
    let by = step.found.micros_since(step.expected);
    let is_unset =
        |at: Timestamp| unset_since.is_some_and(|since| since <= at && at <= step.expected.after(SLACK));
    let known = state.chairs.get(chair);
    let (running, last) = known.map_or((None, None), |known| (known.running, known.last));
    let began = running.and_then(|id| state.treatments.get(&id)).map(|treatment| treatment.started);
    let ended = last.and_then(|id| state.treatments.get(&id)).and_then(|treatment| treatment.ended);
    for treatment in state.treatments.values_mut().filter(|treatment| treatment.chair == *chair) {
        if is_unset(treatment.started) {
            treatment.started = treatment.started.shifted(by);
        }
        treatment.ended = treatment.ended.map(|at| if is_unset(at) { at.shifted(by) } else { at });
    }
    let Some(known) = state.chairs.get_mut(chair) else { return };
    if let Some(waiting) = &mut known.waiting {
        waiting.since = waiting.since.shifted(by);
    }
    if let Some(seat) = known.early.as_mut().and_then(|early| early.seat.as_mut()) {
        seat.since = seat.since.shifted(by);
    }
    if let Some((at, _)) = &mut known.progress {
        *at = at.shifted(by);
    }
    if began.is_some_and(|began| !is_unset(began)) {
        known.stepped = known.stepped.saturating_add(by);
    }
    // How long ago the last one ended, this clock cannot tell: no late seat may guess.
    if ended.is_some_and(|ended| !is_unset(ended)) && u128::from(by.unsigned_abs()) > SLACK.as_micros() {
        known.late_closed = true;
    }
}
