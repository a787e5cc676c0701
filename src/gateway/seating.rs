//! What a seat request does, and the plain sentence that says so to whoever asked.

use crate::control::Correct;
use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::privacy::record::TreatmentId;
use crate::privacy::seats::{SeatError, SeatOutcome, Seated, Seats};
use chairside_drivers::kit::sensitive::Sensitive;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// A request on its way to the chair's sealing task, which alone changes its seats: in order with what the machine says.
#[derive(Debug)]
pub(super) struct SeatRequest {
    pub(super) act: Act,
    pub(super) claim: Claim,
    pub(super) answer: oneshot::Sender<Result<Seated, SeatError>>,
}

/// Who decides about a request: the chair that does it, or the desk that gave up waiting for the chair. Whoever takes it first has
/// it alone, so a request that was refused for being late is never done later, on another patient's treatment.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Takes the request; `false` if it is taken already.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
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

impl Act {
    pub(super) const fn is_correction(&self) -> bool {
        matches!(self, Act::Seat { correct: Correct::Yes, .. })
    }
}

/// Does what is asked; durable when it returns.
pub(super) fn act(
    seats: &Seats,
    chair: &ChairName,
    act: Act,
    at: Timestamp,
    incomplete: &BTreeSet<TreatmentId>,
) -> Result<Seated, SeatError> {
    match act {
        Act::Seat { record_number, correct: Correct::No, .. } => seats.seat(chair, record_number, at),
        Act::Seat { record_number, correct: Correct::Yes, keep_delivered } => {
            seats.correct(chair, record_number, at, keep_delivered, incomplete)
        }
        Act::Unseat => seats.unseat(chair, at),
    }
}

/// Why it was not done, for the person who asked. Where records are to be put right by hand, with the treatment's times.
pub(super) fn refusal(why: &SeatError, zone: &TimeZone) -> String {
    let said = crate::telemetry::chain(why);
    let (SeatError::TooLate { span, .. } | SeatError::LeftEarly { span, .. }) = why else { return said };
    let from = date_and_time(span.from, zone);
    match span.until {
        Some(until) => format!("{said}. It ran from {from} to {}", date_and_time(until, zone)),
        None => format!(
            "{said}. It runs since {from}; for what follows, unseat the chair and seat the patient anew"
        ),
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
    written(at, zone, "%H:%M")
}

fn date_and_time(at: Timestamp, zone: &TimeZone) -> String {
    written(at, zone, "%Y-%m-%d %H:%M")
}

fn written(at: Timestamp, zone: &TimeZone, format: &str) -> String {
    match jiff::Timestamp::from_microsecond(at.as_micros()) {
        Ok(at) => at.to_zoned(zone.clone()).strftime(format).to_string(),
        Err(_) => "an unknown time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::seats::Span;

    #[test]
    fn a_seat_is_told_with_the_wards_own_time() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let since = Timestamp::from_micros(1_800_000_720_000_000);
        assert_eq!(
            sentence("chair-1", SeatOutcome::Bound { since }, &zone),
            "chair-1: patient seated on the treatment running since 09:12"
        );
    }

    #[test]
    fn what_has_to_be_put_right_by_hand_is_told_with_its_times() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let from = Timestamp::from_micros(1_800_000_720_000_000);
        let chair = ChairName::new("chair-1").unwrap();
        for (until, told) in [
            (
                Some(from.after(Duration::from_secs(4 * 3600))),
                "It ran from 2027-01-15 09:12 to 2027-01-15 13:12",
            ),
            (
                None,
                "It runs since 2027-01-15 09:12; for what follows, unseat the chair and seat the patient anew",
            ),
        ] {
            let span = Span { from, until };
            let why = SeatError::LeftEarly { chair: chair.clone(), span };
            let said = refusal(&why, &zone);
            assert!(said.ends_with(told) && said.contains("stays under the patient of before"), "{said}");
            let why = SeatError::TooLate { chair: chair.clone(), hours: 72, span };
            assert!(refusal(&why, &zone).ends_with(told));
        }
        assert_eq!(
            refusal(&SeatError::NoTreatment(chair.clone()), &zone),
            SeatError::NoTreatment(chair).to_string()
        );
    }
}
