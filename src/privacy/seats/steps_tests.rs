//! Seats while the wall clock is set, by hours and days: nobody is seated for longer, and nobody for anybody else.

use super::tests::*;
use super::*;
use crate::upstream::Identities;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

impl Ward {
    /// The clock shows `found` where it should show `expected`.
    fn step(&self, expected: i64, found: i64) {
        let step = ClockStep { expected: at(expected), found: at(found) };
        self.seats.clock_stepped(&chair(), Tick::ZERO, step, None).unwrap();
    }
}

#[test]
fn a_seat_waits_two_hours_however_the_clock_is_set() {
    for set in [-10 * HOUR, -HOUR, HOUR, 30 * HOUR] {
        for (wait, bound) in [(2 * HOUR, true), (2 * HOUR + 1, false)] {
            let ward = Ward::new();
            ward.seat("11", 0);
            ward.step(HOUR, HOUR + set);
            let next = ward.start(wait + set);
            assert_eq!(ward.told(next).is_some(), bound, "set by {set} s, after {wait} s");
        }
    }
}

#[test]
fn a_clock_set_back_brings_no_treatment_of_hours_ago_into_the_reach_of_a_late_seat() {
    for restarted in [false, true] {
        let mut ward = Ward::new();
        let morning = ward.start(0);
        ward.end(HOUR);
        // Eleven hours later it shows ten minutes after that end.
        ward.step(12 * HOUR, HOUR + 10 * MINUTE);
        if restarted {
            ward.restart();
        }
        assert!(matches!(ward.seat("12", HOUR + 11 * MINUTE).outcome, SeatOutcome::Waiting { .. }));
        assert_eq!(ward.told(morning), None);
    }
}

#[test]
fn a_treatment_that_ended_under_a_clock_set_back_is_out_of_reach_once_its_time_comes_again() {
    let ward = Ward::new();
    let treatment = ward.start(10 * HOUR);
    ward.step(11 * HOUR, 7 * HOUR);
    ward.end(7 * HOUR + MINUTE);
    ward.switch_off();
    ward.seat("12", 10 * HOUR + MINUTE);
    assert_eq!(ward.told(treatment), None, "it ended three hours ago");
}

#[test]
fn a_clock_set_forward_by_a_day_ends_no_treatment_for_a_nurse() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.elapsed(HOUR, 60);
    ward.switch_off();
    ward.step(HOUR, 25 * HOUR);
    let seated = ward.seat("11", 25 * HOUR + MINUTE);
    assert_eq!((seated.ended, seated.release), (None, Some(treatment)));
    assert_eq!(ward.seats.running(&chair()).unwrap().started, at(24 * HOUR));
}

#[test]
fn a_clock_that_was_never_set_before_gives_the_treatment_its_time() {
    let ward = Ward::new();
    let (before, unset) = (ward.start(0), -400 * 24 * HOUR);
    ward.end(HOUR);
    let running = ward.start(unset + HOUR);
    let step = ClockStep { expected: at(unset + 2 * HOUR), found: at(10 * HOUR) };
    ward.seats.clock_stepped(&chair(), Tick::ZERO, step, Some(at(unset))).unwrap();
    assert_eq!(ward.border().treatment(running).unwrap().started, at(9 * HOUR));
    assert_eq!(ward.border().treatment(before).unwrap().started, at(0), "what was told before stands");
}

#[test]
fn progress_without_a_time_keeps_a_treatment_alive_and_leaves_a_restart_nothing_to_go_on_from() {
    let mut ward = Ward::new();
    let treatment = ward.start(0);
    for minute in (10..=60).step_by(10) {
        assert_eq!(ward.seats.progress(&chair(), at(minute * MINUTE), None).unwrap(), None);
    }
    ward.switch_off();
    assert_eq!(ward.seat("11", HOUR + 20 * MINUTE).release, Some(treatment));
    assert_eq!(ward.seats.running(&chair()).unwrap().progress, None);
    ward.seats.close().unwrap();
    ward.restart();
    let running = ward.seats.running(&chair()).unwrap();
    assert_eq!((running.progress, running.settled), (None, false));
}
