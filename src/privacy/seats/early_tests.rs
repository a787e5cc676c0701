//! A seat before the end of the treatment before: each rule by an example.

use super::tests::*;
use super::*;
use crate::privacy::record::Revision;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

/// Patient 11 has been treated for an hour.
fn treating() -> (Ward, TreatmentId) {
    let ward = Ward::new();
    let first = ward.start(0);
    ward.seat("11", MINUTE);
    ward.elapsed(HOUR, 60);
    (ward, first)
}

/// Patient 12 is seated while 11's treatment seems to run.
fn seated_early() -> (Ward, TreatmentId, TreatmentId) {
    let (ward, first) = treating();
    let seated = ward.seat("12", HOUR + MINUTE);
    assert_eq!(seated.outcome, SeatOutcome::Changed { until: Some(at(3 * HOUR + MINUTE)) });
    assert_eq!((seated.ended, seated.release), (Some(first), None));
    (ward, first, seated.started.unwrap())
}

#[test]
fn a_seat_before_the_end_was_seen_is_for_the_next_treatment() {
    let (ward, first, piece) = seated_early();
    assert_eq!(ward.end(HOUR + 2 * MINUTE), Some(piece));
    let next = ward.start(HOUR + 20 * MINUTE);
    assert_eq!(ward.told(next), None, "not before the machine has said that it is another treatment");
    let seated = ward.elapsed(HOUR + 20 * MINUTE, 0).unwrap();
    assert_eq!(seated.outcome, SeatOutcome::Bound { since: at(HOUR + 20 * MINUTE) });
    assert_eq!(seated.release, Some(next));
    assert_eq!(ward.told(next), ward.name_of("12"));
    assert_eq!(ward.told(first), ward.name_of("11"));
    assert_eq!(ward.told(piece), None);
    assert_eq!(ward.elapsed(HOUR + 21 * MINUTE, 1), None, "once");
}

#[test]
fn an_early_seat_gets_nothing_of_a_treatment_that_goes_on() {
    let (ward, _, piece) = seated_early();
    for minute in 62..120 {
        assert_eq!(ward.elapsed(minute * MINUTE, minute), None);
    }
    // The flag flickers, and the same patient's time goes on.
    ward.end(2 * HOUR);
    let flicker = ward.start(2 * HOUR + 10);
    assert_eq!(ward.elapsed(2 * HOUR + 10, 120), None);
    assert_eq!((ward.told(piece), ward.told(flicker)), (None, None));
    ward.end(2 * HOUR + 30 * MINUTE);
    let next = ward.start(2 * HOUR + 55 * MINUTE);
    ward.elapsed(2 * HOUR + 55 * MINUTE, 0);
    assert_eq!((ward.told(flicker), ward.told(next)), (None, ward.name_of("12")));
}

#[test]
fn an_early_seat_survives_a_restart() {
    let (mut ward, ..) = seated_early();
    ward.restart();
    ward.end(2 * HOUR);
    let next = ward.start(2 * HOUR);
    ward.elapsed(2 * HOUR, 3);
    assert_eq!(ward.told(next), ward.name_of("12"));
}

#[test]
fn an_early_seat_waits_two_hours_and_no_longer() {
    for (wait, bound) in [(3 * HOUR + MINUTE, true), (3 * HOUR + MINUTE + 1, false)] {
        let (ward, ..) = seated_early();
        ward.end(2 * HOUR);
        assert_eq!(ward.seats.waiting(&chair(), at(wait)).is_some(), bound);
        let next = ward.start(wait);
        ward.elapsed(wait, 0);
        assert_eq!(ward.told(next).is_some(), bound);
    }
}

#[test]
fn a_machine_that_clears_its_time_late_gives_the_seat_to_the_next_treatment_all_the_same() {
    let (ward, ..) = seated_early();
    ward.end(2 * HOUR);
    let next = ward.start(2 * HOUR + MINUTE);
    assert_eq!(ward.elapsed(2 * HOUR + MINUTE, 62), None);
    ward.elapsed(2 * HOUR + 3 * MINUTE, 1);
    assert_eq!(ward.told(next), ward.name_of("12"));
}

#[test]
fn a_machine_that_clears_its_time_late_in_the_treatment_before_does_not_deceive() {
    let ward = Ward::new();
    ward.start(0);
    ward.seat("11", 0);
    // It still shows the time of the treatment before.
    ward.elapsed(10, 240);
    let piece = ward.seat("12", MINUTE).started.unwrap();
    assert_eq!(ward.elapsed(2 * MINUTE, 1), None);
    ward.end(30 * MINUTE);
    let flicker = ward.start(30 * MINUTE + 10);
    assert_eq!(ward.elapsed(30 * MINUTE + 10, 30), None);
    assert_eq!((ward.told(piece), ward.told(flicker)), (None, None));
}

#[test]
fn a_machine_without_a_time_keeps_nobody_waiting_and_says_so() {
    let ward = Ward::new();
    let first = ward.start(0);
    ward.seat("11", MINUTE);
    let seated = ward.seat("12", HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Changed { until: None });
    ward.end(2 * HOUR);
    let next = ward.start(2 * HOUR + MINUTE);
    assert_eq!(ward.told(next), None);
    assert_eq!(ward.seat("12", 2 * HOUR + 2 * MINUTE).release, Some(next));
    assert_eq!((ward.told(first), ward.told(next)), (ward.name_of("11"), ward.name_of("12")));
}

#[test]
fn a_correction_says_that_it_was_one_treatment_all_along() {
    let (ward, first, piece) = seated_early();
    let seated = ward.correct("12", 2 * HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Corrected { since: at(0) });
    assert_eq!(seated.release, Some(piece));
    let correction = Correction { treatment: first, old: Revision(1), new: Revision(2) };
    assert_eq!(seated.also, Some(Rebound { treatment: first, correction: Some(correction) }));
    assert_eq!((ward.told(first), ward.told(piece)), (ward.name_of("12"), ward.name_of("12")));
    ward.end(3 * HOUR);
    let next = ward.start(3 * HOUR);
    ward.elapsed(3 * HOUR, 0);
    assert_eq!(ward.told(next), None, "the seat was spent");
}

#[test]
fn the_patient_before_seated_again_has_the_whole_treatment() {
    let (ward, first, piece) = seated_early();
    assert_eq!(ward.seat("11", HOUR + 5 * MINUTE).release, Some(piece));
    assert_eq!((ward.told(first), ward.told(piece)), (ward.name_of("11"), ward.name_of("11")));
    ward.end(2 * HOUR);
    let next = ward.start(2 * HOUR);
    ward.elapsed(2 * HOUR, 0);
    assert_eq!(ward.told(next), None, "the last word was that nobody else comes");
}

#[test]
fn the_last_early_seat_counts_and_an_unseat_voids_it() {
    let (ward, _, piece) = seated_early();
    ward.seat("13", HOUR + 2 * MINUTE);
    ward.end(2 * HOUR);
    assert!(matches!(ward.seat("13", 2 * HOUR).outcome, SeatOutcome::Waiting { .. }));
    let next = ward.start(2 * HOUR);
    ward.elapsed(2 * HOUR, 0);
    assert_eq!((ward.told(piece), ward.told(next)), (None, ward.name_of("13")));

    let (ward, _, piece) = seated_early();
    assert_eq!(ward.unseat(HOUR + 2 * MINUTE).outcome, SeatOutcome::WaitingCancelled);
    assert_eq!(ward.unseat(HOUR + 2 * MINUTE).outcome, SeatOutcome::NobodySeated);
    ward.end(2 * HOUR);
    // What ran on is of two words: no late seat takes it.
    assert!(matches!(ward.seat("13", 2 * HOUR).outcome, SeatOutcome::Waiting { .. }));
    let next = ward.start(2 * HOUR);
    assert_eq!((ward.told(piece), ward.told(next)), (None, ward.name_of("13")));
}

#[test]
fn a_seat_after_an_unseat_is_for_the_next_treatment_too() {
    let (ward, ..) = treating();
    let piece = ward.unseat(HOUR + MINUTE).started.unwrap();
    assert!(matches!(ward.seat("12", HOUR + MINUTE).outcome, SeatOutcome::Changed { until: Some(_) }));
    ward.end(HOUR + 2 * MINUTE);
    let next = ward.start(HOUR + 30 * MINUTE);
    ward.elapsed(HOUR + 30 * MINUTE, 0);
    assert_eq!((ward.told(piece), ward.told(next)), (None, ward.name_of("12")));
}
