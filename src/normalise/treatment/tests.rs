//! The judge, rule by rule: what begins a treatment, what ends it, and what does neither.

use super::*;

const STARTED: Ruling = Ruling { ended: None, started: true };
const NOTHING: Ruling = Ruling { ended: None, started: false };

/// A judge, and a machine polled every ten seconds.
struct Ward {
    judge: Judge,
    now: Tick,
    signals: Signals,
}

impl Ward {
    fn new(rule: Rule) -> Self {
        let signals =
            Signals { flag: Some(false), elapsed: Some(Decimal::ZERO), flow: Some(false), hot: false };
        Self { judge: Judge::new(rule, None), now: Tick::ZERO, signals }
    }

    fn resumed(rule: Rule, resume: Resume) -> Self {
        Self { judge: Judge::new(rule, Some(resume)), ..Self::new(rule) }
    }

    /// A ward in mid-treatment, with this many minutes on the machine.
    fn treating(rule: Rule, minutes: i64) -> Self {
        let mut ward = Self::new(rule);
        ward.signals = Signals { flag: Some(true), flow: Some(true), ..ward.signals };
        ward.at_minute(minutes - 1);
        ward.at_minute(minutes);
        ward.poll();
        ward.poll();
        assert_eq!(ward.judge.phase(), Phase::Treating);
        ward
    }

    fn wait(&mut self, wait: Duration) {
        self.now = self.now.after(wait);
    }

    fn poll(&mut self) -> Ruling {
        self.wait(Duration::from_secs(10));
        self.judge.step(self.now, self.wall(), self.signals)
    }

    fn wall(&self) -> Timestamp {
        minute(0).after(self.now.since(Tick::ZERO))
    }

    fn at_minute(&mut self, minutes: i64) -> Ruling {
        self.signals.elapsed = Some(Decimal::whole(minutes));
        self.poll()
    }

    /// Polls for this long without the machine's time moving; what ended meanwhile, and after how long.
    fn frozen_for(&mut self, minutes: u64) -> Option<(EndReason, Duration)> {
        let from = self.now;
        while self.now.since(from) < Duration::from_secs(minutes * 60) {
            if let Some(reason) = self.poll().ended {
                return Some((reason, self.now.since(from)));
            }
        }
        None
    }
}

/// A time on the wall, some minutes after the clock was set.
fn minute(minutes: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + minutes * 60_000_000)
}

fn ended(reason: EndReason) -> Ruling {
    Ruling { ended: Some(reason), started: false }
}

fn ended_and_started(reason: EndReason) -> Ruling {
    Ruling { ended: Some(reason), started: true }
}

#[test]
fn a_flag_that_goes_on_begins_a_treatment_and_one_that_goes_off_ends_it() {
    let mut ward = Ward::new(Rule::Flag);
    assert_eq!((ward.poll(), ward.judge.phase()), (NOTHING, Phase::Idle));

    ward.signals.flow = Some(true);
    assert_eq!((ward.poll(), ward.judge.phase()), (NOTHING, Phase::Preparing));

    ward.signals.flag = Some(true);
    assert_eq!((ward.poll(), ward.judge.phase()), (STARTED, Phase::Treating));
    assert_eq!((ward.poll(), ward.judge.phase()), (NOTHING, Phase::Treating));

    ward.signals.flag = Some(false);
    assert_eq!((ward.poll(), ward.judge.phase()), (ended(EndReason::FlagOff), Phase::Preparing));
}

#[test]
fn a_flag_that_the_machine_leaves_out_changes_nothing() {
    let mut ward = Ward::treating(Rule::Flag, 30);
    ward.signals.flag = None;
    assert_eq!((ward.poll(), ward.judge.phase()), (NOTHING, Phase::Treating));
}

#[test]
fn time_that_advances_with_blood_flow_on_two_polls_begins_a_treatment() {
    let mut ward = Ward::new(Rule::Elapsed);
    ward.signals.flow = Some(true);
    assert_eq!((ward.at_minute(0), ward.judge.phase()), (NOTHING, Phase::Preparing));
    assert_eq!(ward.at_minute(1), NOTHING, "one poll is not believed");
    assert_eq!(
        (ward.at_minute(1), ward.judge.phase()),
        (STARTED, Phase::Treating),
        "whole minutes look still"
    );
}

#[test]
fn time_that_advances_without_blood_flow_begins_nothing() {
    let mut ward = Ward::new(Rule::Elapsed);
    for minutes in 0..30 {
        assert_eq!((ward.at_minute(minutes), ward.judge.phase()), (NOTHING, Phase::Idle));
    }
}

#[test]
fn blood_flow_without_time_begins_nothing() {
    let mut ward = Ward::new(Rule::Elapsed);
    ward.signals.flow = Some(true);
    for _ in 0..100 {
        assert_eq!((ward.poll(), ward.judge.phase()), (NOTHING, Phase::Preparing));
    }
}

#[test]
fn a_pump_stopped_for_five_minutes_is_a_pause_of_the_same_treatment() {
    let mut ward = Ward::treating(Rule::Elapsed, 30);
    ward.signals.flow = Some(false);
    assert_eq!(ward.frozen_for(5), None);
    assert_eq!(ward.judge.phase(), Phase::Ending, "nothing read in a pause is the patient's");

    ward.signals.flow = Some(true);
    assert_eq!((ward.at_minute(31), ward.judge.phase()), (NOTHING, Phase::Treating));
}

#[test]
fn a_pump_stopped_and_time_frozen_for_a_quarter_of_an_hour_end_the_treatment() {
    let mut ward = Ward::treating(Rule::Elapsed, 30);
    ward.signals.flow = Some(false);
    let (reason, after) = ward.frozen_for(20).unwrap();
    assert_eq!(reason, EndReason::Frozen);
    assert!((14 * 60..=16 * 60).contains(&after.as_secs()), "{after:?}");
    assert_eq!(ward.judge.phase(), Phase::Idle);
}

#[test]
fn a_pump_that_runs_while_time_stands_still_ends_nothing_and_is_not_the_patients() {
    let mut ward = Ward::treating(Rule::Elapsed, 30);
    assert_eq!(ward.frozen_for(60), None);
    assert_eq!(ward.judge.phase(), Phase::Ending);
}

#[test]
fn elapsed_time_that_falls_is_another_treatment() {
    let mut ward = Ward::treating(Rule::Elapsed, 30);
    assert_eq!((ward.at_minute(0), ward.judge.phase()), (ended(EndReason::ElapsedFell), Phase::Preparing));
    assert_eq!(ward.at_minute(1), NOTHING);
    assert_eq!(ward.at_minute(1), STARTED);

    let mut ward = Ward::treating(Rule::Flag, 30);
    assert_eq!(ward.at_minute(0), ended_and_started(EndReason::ElapsedFell), "its flag says that it runs");
    assert_eq!(ward.judge.phase(), Phase::Treating);
}

#[test]
fn a_total_cleared_late_does_not_end_the_treatment_that_has_just_begun() {
    let mut ward = Ward::new(Rule::Flag);
    ward.at_minute(240);
    ward.signals.flag = Some(true);
    assert_eq!(ward.at_minute(240), STARTED);
    assert_eq!(ward.at_minute(0), NOTHING, "the machine clears the last treatment's time");
    assert_eq!(ward.at_minute(1), NOTHING);
    assert_eq!(ward.at_minute(0), ended_and_started(EndReason::ElapsedFell), "now it is this treatment's");
}

#[test]
fn a_total_cleared_after_minutes_of_treatment_is_another_treatment() {
    let mut ward = Ward::new(Rule::Flag);
    ward.at_minute(240);
    ward.signals.flag = Some(true);
    assert_eq!(ward.at_minute(240), STARTED);
    assert_eq!(ward.frozen_for(6), None);
    assert_eq!(ward.at_minute(0), ended_and_started(EndReason::ElapsedFell));
}

#[test]
fn twelve_hours_end_a_treatment_and_what_still_runs_is_the_next_one() {
    for (rule, then) in
        [(Rule::Flag, ended_and_started(EndReason::TooLong)), (Rule::Elapsed, ended(EndReason::TooLong))]
    {
        let mut ward = Ward::treating(rule, 1);
        let mut minutes = 1;
        let ruling = loop {
            minutes += 1;
            ward.wait(Duration::from_secs(50));
            let ruling = ward.at_minute(minutes);
            if ruling != NOTHING {
                break ruling;
            }
            assert!(minutes < 730, "{rule:?}");
        };
        assert_eq!(ruling, then);
        assert!((719..=722).contains(&minutes), "{minutes}");
    }
}

#[test]
fn a_change_of_seat_starts_the_twelve_hours_anew() {
    let mut ward = Ward::treating(Rule::Flag, 1);
    for minutes in 2..700 {
        ward.wait(Duration::from_secs(50));
        assert_eq!(ward.at_minute(minutes), NOTHING);
    }
    ward.judge.restarted(ward.wall());
    for minutes in 700..1400 {
        ward.wait(Duration::from_secs(50));
        assert_eq!(ward.at_minute(minutes), NOTHING, "{minutes}");
    }
}

#[test]
fn hot_dialysate_ends_a_treatment_on_the_second_poll() {
    let mut ward = Ward::treating(Rule::Flag, 200);
    ward.signals.hot = true;
    assert_eq!(ward.poll(), NOTHING, "one poll is not believed");
    assert_eq!((ward.poll(), ward.judge.phase()), (ended(EndReason::Rinse), Phase::Rinsing));
    assert_eq!(
        (ward.poll(), ward.judge.phase()),
        (NOTHING, Phase::Rinsing),
        "the flag does not make it a treatment"
    );
}

#[test]
fn a_short_silence_ends_nothing() {
    for rule in [Rule::Flag, Rule::Elapsed] {
        let mut ward = Ward::treating(rule, 30);
        ward.wait(Duration::from_secs(10 * 60));
        assert_eq!((ward.at_minute(40), ward.judge.phase()), (NOTHING, Phase::Treating), "{rule:?}");
    }
}

#[test]
fn a_silence_after_which_the_time_does_not_agree_loses_the_treatment() {
    // Too far for the time that passed; too little for it; and less than before.
    for (minutes, reason) in
        [(75, EndReason::LostTrack), (31, EndReason::LostTrack), (12, EndReason::ElapsedFell)]
    {
        let mut ward = Ward::treating(Rule::Flag, 30);
        ward.wait(Duration::from_secs(40 * 60));
        assert_eq!(ward.at_minute(minutes), ended_and_started(reason), "{minutes}");
    }
}

#[test]
fn a_jump_of_the_time_between_two_polls_is_no_other_treatment() {
    let mut ward = Ward::treating(Rule::Flag, 30);
    assert_eq!((ward.at_minute(75), ward.judge.phase()), (NOTHING, Phase::Treating));
}

#[test]
fn a_flag_alone_survives_a_short_silence_and_not_a_long_one() {
    let mut ward = Ward::new(Rule::Flag);
    ward.signals = Signals { flag: Some(true), elapsed: None, ..ward.signals };
    assert_eq!(ward.poll(), STARTED);
    ward.wait(Duration::from_secs(5 * 60));
    assert_eq!(ward.poll(), NOTHING);
    ward.wait(Duration::from_secs(20 * 60));
    assert_eq!(ward.poll(), ended_and_started(EndReason::LostTrack));
}

/// The restart of a treatment that had 30 minutes on the machine at minute 0 of the wall clock.
fn restart(rule: Rule) -> Ward {
    let resume = Resume { started: minute(-30), elapsed: Some(Decimal::whole(30)), at: minute(0) };
    let mut ward = Ward::resumed(rule, resume);
    ward.signals = Signals { flag: Some(true), flow: Some(true), ..ward.signals };
    ward
}

#[test]
fn a_restart_goes_on_where_the_machines_time_agrees() {
    for rule in [Rule::Flag, Rule::Elapsed] {
        // Minutes the restart took, and minutes on the machine after it.
        for (took, shows) in [(0, 30), (0, 31), (5, 34), (5, 36), (10, 30), (60, 80)] {
            let mut ward = restart(rule);
            assert_eq!(
                ward.judge.phase(),
                Phase::Ending,
                "nothing is the patient's before the machine has spoken"
            );
            assert_eq!(ward.judge.elapsed(), Some(Decimal::whole(30)));
            ward.wait(Duration::from_secs(took * 60));
            assert_eq!(ward.at_minute(shows), NOTHING, "{rule:?} {took} {shows}");
            let frozen = rule == Rule::Elapsed && took > 1 && shows == 30;
            let phase = if frozen { Phase::Ending } else { Phase::Treating };
            assert_eq!(ward.judge.phase(), phase, "{rule:?} {took} {shows}");
        }
    }
}

#[test]
fn a_restart_loses_the_treatment_where_the_machines_time_does_not_agree() {
    for (took, shows) in [(0, 29), (0, 32), (5, 37), (20, 30), (60, 70)] {
        let mut ward = restart(Rule::Flag);
        ward.wait(Duration::from_secs(took * 60));
        assert_eq!(ward.at_minute(shows), ended_and_started(EndReason::LostTrack), "{took} {shows}");

        let mut ward = restart(Rule::Elapsed);
        ward.wait(Duration::from_secs(took * 60));
        assert_eq!(ward.at_minute(shows), ended(EndReason::LostTrack), "{took} {shows}");
        assert_eq!(ward.judge.phase(), Phase::Preparing);
    }
}

#[test]
fn a_restart_without_a_known_time_or_a_trusted_clock_does_not_guess() {
    let unknown = Resume { started: minute(-30), elapsed: None, at: minute(0) };
    let mut ward = Ward::resumed(Rule::Flag, unknown);
    ward.signals.flag = Some(true);
    assert_eq!(ward.at_minute(30), ended_and_started(EndReason::LostTrack));

    // A box without a battery: by its clock no time passed at all.
    let mut ward = restart(Rule::Flag);
    let clock_of_1970 = Timestamp::from_micros(5_000_000);
    ward.signals.elapsed = Some(Decimal::whole(35));
    let ruling = ward.judge.step(ward.now, clock_of_1970, ward.signals);
    assert_eq!(ruling, ended_and_started(EndReason::LostTrack));
}

#[test]
fn a_restart_waits_for_a_machine_that_does_not_say_its_time() {
    let mut ward = restart(Rule::Flag);
    ward.signals.elapsed = None;
    assert_eq!((ward.poll(), ward.judge.phase()), (NOTHING, Phase::Ending));
    assert_eq!((ward.at_minute(30), ward.judge.phase()), (NOTHING, Phase::Treating));

    let mut ward = restart(Rule::Flag);
    ward.signals.flag = Some(false);
    assert_eq!(ward.poll(), ended(EndReason::FlagOff));
}

#[test]
fn a_restart_counts_the_twelve_hours_from_the_treatments_start() {
    let resume = Resume { started: minute(-719), elapsed: Some(Decimal::whole(719)), at: minute(0) };
    let mut ward = Ward::resumed(Rule::Flag, resume);
    ward.signals.flag = Some(true);
    assert_eq!(ward.at_minute(719), NOTHING);
    ward.wait(Duration::from_secs(60));
    assert_eq!(ward.at_minute(720), ended_and_started(EndReason::TooLong));
}

#[test]
fn without_a_rule_no_treatment_is_seen_and_a_known_one_is_ended() {
    let mut ward = Ward::new(Rule::None);
    ward.signals = Signals { flag: Some(true), flow: Some(true), ..ward.signals };
    for minutes in 0..10 {
        assert_eq!((ward.at_minute(minutes), ward.judge.phase()), (NOTHING, Phase::Preparing));
    }
    let mut ward = restart(Rule::None);
    assert_eq!(ward.at_minute(30), ended(EndReason::LostTrack));
}

#[test]
fn a_machine_that_stopped_in_a_silence_is_not_treating_after_it() {
    for (flow, phase) in [(false, Phase::Ending), (true, Phase::Treating)] {
        let mut ward = Ward::treating(Rule::Elapsed, 30);
        ward.wait(Duration::from_secs(30 * 60));
        ward.signals.flow = Some(flow);
        assert_eq!(ward.at_minute(50), NOTHING);
        assert_eq!(ward.judge.phase(), phase);
    }
}

#[test]
fn a_clock_that_is_set_while_the_machine_is_waited_for_changes_no_age() {
    for hours in [-5, 5] {
        let resume = Resume { started: minute(0), elapsed: Some(Decimal::whole(30)), at: minute(30) };
        let by = hours * 3_600_000_000;
        let mut ward = Ward::resumed(Rule::Flag, resume);
        ward.judge.clock_stepped(by);
        let signals =
            Signals { flag: Some(true), elapsed: Some(Decimal::whole(31)), flow: Some(true), hot: false };
        assert_eq!(ward.judge.step(ward.now, minute(31).shifted(by), signals), NOTHING);
        assert_eq!(ward.judge.phase(), Phase::Treating);
    }
}
