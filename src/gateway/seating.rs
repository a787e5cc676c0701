//! What a seat request does, and the plain sentence that says so to whoever asked.

use crate::control::Correct;
use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::privacy::seats::{SeatError, SeatOutcome, Seated, Seats};
use chairside_drivers::kit::sensitive::Sensitive;
use jiff::tz::TimeZone;
use std::time::Duration;
use tokio::sync::oneshot;

/// A request on its way to the chair's sealing task, which alone changes its seats: in order with what the machine says.
#[derive(Debug)]
pub(super) struct SeatRequest {
    pub(super) act: Act,
    pub(super) answer: oneshot::Sender<Result<Seated, SeatError>>,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Act {
    Seat {
        record_number: Sensitive<String>,
        correct: Correct,
        /// Corrections are possible as long as delivered records are kept.
        keep_delivered: Duration,
    },
    Unseat,
}

/// Does what is asked; durable when it returns.
pub(super) fn act(seats: &Seats, chair: &ChairName, act: Act, at: Timestamp) -> Result<Seated, SeatError> {
    match act {
        Act::Seat { record_number, correct: Correct::No, .. } => seats.seat(chair, record_number, at),
        Act::Seat { record_number, correct: Correct::Yes, keep_delivered } => {
            seats.correct(chair, record_number, at, keep_delivered)
        }
        Act::Unseat => seats.unseat(chair, at),
    }
}

/// A stable word for the audit record.
pub(super) const fn word(outcome: SeatOutcome) -> &'static str {
    match outcome {
        SeatOutcome::Bound { .. } => "bound",
        SeatOutcome::BoundLate { .. } => "bound_late",
        SeatOutcome::Waiting { .. } => "waiting",
        SeatOutcome::AlreadySeated => "already_seated",
        SeatOutcome::Changed { .. } => "changed",
        SeatOutcome::Corrected { .. } => "corrected",
        SeatOutcome::Unseated => "unseated",
        SeatOutcome::WaitingCancelled => "waiting_cancelled",
        SeatOutcome::NobodySeated => "nobody_seated",
    }
}

/// What happened, for the person who asked, with times of the ward's own clock.
pub(super) fn sentence(chair: &str, outcome: SeatOutcome, zone: &TimeZone) -> String {
    let time = |at| time_of_day(at, zone);
    let what = match outcome {
        SeatOutcome::Bound { since } => {
            format!("patient seated on the treatment running since {}", time(since))
        }
        SeatOutcome::BoundLate { since, ended } => format!(
            "patient seated on the treatment that ran from {} to {}; the next treatment needs a seat of its own",
            time(since),
            time(ended)
        ),
        SeatOutcome::Waiting { until } => format!(
            "patient seated for the next treatment, if it begins before {}; none is running now",
            time(until)
        ),
        SeatOutcome::AlreadySeated => "this patient is seated already; nothing changed".to_owned(),
        SeatOutcome::Changed { until: Some(until) } => format!(
            "another patient was seated; that treatment has ended. The next one that the machine begins before {} is \
             this patient's. If this patient is on the machine already, use --correct",
            time(until)
        ),
        SeatOutcome::Changed { until: None } => {
            "another patient was seated; that treatment has ended, and what follows is held. Seat again once this \
             patient's treatment has begun. If this patient is on the machine already, use --correct"
                .to_owned()
        }
        SeatOutcome::Corrected { since } => format!(
            "the treatment since {} is now this patient's from its start; what was sent is being rewritten",
            time(since)
        ),
        SeatOutcome::Unseated => {
            "patient unseated; what follows is held, and a seat from now on is for the next treatment".to_owned()
        }
        SeatOutcome::WaitingCancelled => "the patient seated for the next treatment is unseated".to_owned(),
        SeatOutcome::NobodySeated => "nobody was seated; nothing changed".to_owned(),
    };
    format!("{chair}: {what}")
}

fn time_of_day(at: Timestamp, zone: &TimeZone) -> String {
    match jiff::Timestamp::from_microsecond(at.as_micros()) {
        Ok(at) => at.to_zoned(zone.clone()).strftime("%H:%M").to_string(),
        Err(_) => "an unknown time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_told_with_the_wards_own_time() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let since = Timestamp::from_micros(1_800_000_720_000_000);
        assert_eq!(
            sentence("chair-1", SeatOutcome::Bound { since }, &zone),
            "chair-1: patient seated on the treatment running since 09:12"
        );
    }
}
