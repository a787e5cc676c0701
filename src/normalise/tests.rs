//! The normaliser with real frames, read by the real driver: what reaches whom.

use super::testing::*;
use super::*;
use chairside_drivers::kit::driver::ChannelId;
use std::time::Duration;

fn number(value: Value) -> String {
    match value.reading {
        Reading::Number(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_public_frame_becomes_values_in_the_units_of_the_table() {
    let mut chair = Chair::nikkiso();
    let found = chair.poll();
    for (key, reads) in [
        ("uf_target_volume", "2500"),
        ("uf_removed_volume", "680"),
        ("uf_rate", "800"),
        ("blood_flow_rate", "250"),
        ("anticoagulant_rate", "2.0"),
        ("dialysate_temperature", "36.5"),
        ("dialysate_conductivity", "14.4"),
        ("venous_pressure", "170"),
        ("treatment_time_elapsed", "54"),
        ("treatment_modality", "State(\"HD\")"),
        ("substitution_rate", "0.00"),
        ("nibp_systolic", "Absent"),
    ] {
        assert_eq!(number(value(&found, key)), reads, "{key}");
    }
    assert_eq!(values(&found).len(), nikkiso_map().entries.len());

    let found = Chair::toray().poll();
    assert_eq!(number(value(&found, "blood_volume_processed")), "66.1");
    assert_eq!(number(value(&found, "dialysate_pressure_limit_low")), "-29");
}

#[test]
fn findings_come_in_order_and_carry_the_phase_they_were_made_in() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "1"), ("c", "1")]);
    let found = chair.poll();
    assert_eq!(events(&found), ["started", "Start venous_pressure"]);
    assert!(found.iter().all(|capture| capture.phase == Phase::Treating));
    assert_eq!(found.last().unwrap().origin.slot, Some(Slot(1)), "the values fill the slot");
    assert!(found.iter().rev().skip(1).all(|capture| capture.origin.slot.is_none()), "and nothing else does");

    chair.show_all(&[("M", "0"), ("D", "0")]);
    let found = chair.poll();
    assert_eq!(events(&found), ["ended FlagOff"]);
    assert_eq!(found.last().unwrap().phase, Phase::Idle);
}

#[test]
fn settings_and_states_are_news_at_first_when_they_change_and_at_a_treatment_start() {
    let mut chair = Chair::nikkiso();
    let marks = |found: &[Capture]| {
        ["uf_target_volume", "treatment_modality", "venous_pressure", "uf_removed_volume"]
            .map(|key| value(found, key).mark)
    };
    chair.show("M", "0");
    assert_eq!(marks(&chair.poll()), [Mark::New; 4]);
    assert_eq!(marks(&chair.poll()), [Mark::Same, Mark::Same, Mark::New, Mark::New]);

    chair.show("A", "03.00");
    assert_eq!(marks(&chair.poll()), [Mark::New, Mark::Same, Mark::New, Mark::New]);
    chair.show("N", "2");
    assert_eq!(marks(&chair.poll()), [Mark::Same, Mark::New, Mark::New, Mark::New]);

    chair.show("M", "1");
    assert_eq!(marks(&chair.poll()), [Mark::New; 4]);
    assert_eq!(marks(&chair.poll())[0], Mark::Same);

    chair.normaliser.treatment_changed(chair.at());
    assert_eq!(marks(&chair.poll()), [Mark::New; 4]);
}

#[test]
fn a_reading_the_machine_does_not_have_is_kept_as_absent() {
    let mut chair = Chair::nikkiso();
    chair.show("H", "0000/");
    let venous = value(&chair.poll(), "venous_pressure");
    assert_eq!((venous.reading, venous.mark), (Reading::Absent, Mark::New));

    let spot = value(&chair.poll(), "nibp_systolic");
    assert_eq!((spot.reading, spot.mark), (Reading::Absent, Mark::Baseline));
}

#[test]
fn a_mode_nobody_knows_is_sent_as_unknown_and_counted() {
    let mut chair = Chair::nikkiso();
    chair.show("N", "9");
    assert_eq!(value(&chair.poll(), "treatment_modality").reading, Reading::UnknownState);
    assert_eq!(chair.normaliser.counts(), Counts { unknown_states: 1, unusable: 0 });
}

#[test]
fn an_implausible_value_is_doubted_while_treating_and_delivered() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "0"), ("F", "085.0")]);
    let rinsing = value(&chair.poll(), "dialysate_temperature");
    assert!(rinsing.doubts.is_empty(), "a machine that rinses may be as hot as it likes");

    chair.show_all(&[("M", "1"), ("F", "041.1")]);
    let hot = value(&chair.poll(), "dialysate_temperature");
    assert_eq!((number(hot).as_str(), hot.doubts), ("41.1", Doubts::OUTSIDE_PLAUSIBLE));

    chair.show("F", "041.0");
    assert!(value(&chair.poll(), "dialysate_temperature").doubts.is_empty());
}

#[test]
fn a_total_that_falls_is_news_without_a_doubt() {
    let mut chair = Chair::nikkiso();
    chair.poll();
    chair.show("B", "00.00");
    let removed = value(&chair.poll(), "uf_removed_volume");
    assert_eq!((number(removed).as_str(), removed.mark, removed.doubts), ("0", Mark::New, Doubts::NONE));
}

#[test]
fn values_after_a_gap_say_so_once() {
    let mut chair = Chair::nikkiso();
    let doubts = |found: Vec<Capture>| value(&found, "venous_pressure").doubts;
    assert_eq!(doubts(chair.poll()), Doubts::NONE);
    assert!(chair.lose_line().is_empty());
    assert_eq!(doubts(chair.poll()), Doubts::AFTER_GAP);
    assert_eq!(doubts(chair.poll()), Doubts::NONE);

    chair.slot += 1;
    assert_eq!(doubts(chair.poll()), Doubts::AFTER_GAP, "a slot was missed");
    assert_eq!(doubts(chair.poll()), Doubts::NONE);

    chair.clock = ClockTrust::Untrusted;
    assert_eq!(doubts(chair.poll()), Doubts::CLOCK_UNTRUSTED);
}

#[test]
fn previous_is_the_last_capture_of_the_same_treatment_or_of_the_same_stretch_without_one() {
    let mut chair = Chair::nikkiso();
    let previous = |chair: &mut Chair, flag: &str| {
        chair.show("M", flag);
        let before = chair.at();
        let found = chair.poll().pop().unwrap().origin.previous;
        found.map(|previous| previous == before)
    };
    assert_eq!(previous(&mut chair, "0"), None, "the first of all");
    assert_eq!(previous(&mut chair, "0"), Some(true));
    assert_eq!(previous(&mut chair, "1"), None, "the first of a treatment");
    assert_eq!(previous(&mut chair, "1"), Some(true));
    assert_eq!(previous(&mut chair, "0"), None, "the first after it");
    assert_eq!(previous(&mut chair, "0"), Some(true));
    assert_eq!(previous(&mut chair, "1"), None);
    chair.normaliser.treatment_changed(chair.at());
    assert_eq!(previous(&mut chair, "1"), None, "the first of another seat");
    assert_eq!(previous(&mut chair, "1"), Some(true));
}

#[test]
fn after_a_pause_previous_is_the_capture_before_it() {
    let mut chair = Chair::toray();
    chair.poll();
    chair.show("K", "195");
    chair.poll();
    let started = chair.poll();
    assert_eq!(events(&started), ["started"]);
    let mut last = None;
    loop {
        let at = chair.at();
        let found = chair.poll().pop().unwrap();
        if found.phase == Phase::Ending {
            assert_eq!(found.origin.previous, None);
            break;
        }
        last = Some((at, chair.at()));
    }
    chair.show("K", "196");
    let back = chair.poll().pop().unwrap();
    assert_eq!((back.phase, back.origin.previous), (Phase::Treating, last.map(|(_, at)| at)));
}

#[test]
fn text_travels_as_identity_and_in_no_value() {
    let mut chair = Chair::toray();
    chair.show("n", "AB123456");
    let found = chair.poll();
    let [capture] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(capture.identity, [Sensitive::new(String::from("AB123456"))]);
    assert!(!format!("{capture:?}").contains("AB123456"));
}

#[test]
fn a_sample_of_the_wrong_kind_is_counted_and_the_rest_of_the_poll_stands() {
    let mut chair = Chair::nikkiso();
    let mut samples = chair.samples();
    for sample in &mut samples {
        if sample.channel == ChannelId::from_static("H") {
            sample.reading = driver::Reading::Code { raw: 3, name: None };
        }
    }
    let origin = chair.origin();
    let found = chair.normaliser.answered(Poll { origin, samples });
    assert_eq!(values(&found).len(), nikkiso_map().entries.len() - 1);
    assert_eq!(chair.normaliser.counts(), Counts { unknown_states: 0, unusable: 1 });
}

#[test]
fn samples_in_another_order_mean_the_same() {
    let mut chair = Chair::nikkiso();
    let mut shuffled = Chair::nikkiso();
    for turn in 0..3_usize {
        let found = chair.poll();
        let mut samples = shuffled.samples();
        samples.rotate_left(turn * 7);
        shuffled.now = chair.now;
        shuffled.slot = chair.slot;
        let origin = shuffled.origin();
        let other = shuffled.normaliser.answered(Poll { origin, samples });
        let sorted = |captures: &[Capture]| {
            let mut values = values(captures);
            values.sort_by_key(|value| value.parameter);
            values
        };
        assert_eq!(sorted(&found), sorted(&other));
    }
}

#[test]
fn the_first_patients_blood_pressure_never_reaches_the_second() {
    for mut chair in [Chair::nikkiso(), Chair::toray()] {
        let mut ward = TwoPatients::new(&mut chair);
        ward.first_patient();
        let second = ward.second_patient();
        assert_eq!(
            news_of_spots(&second),
            Vec::<String>::new(),
            "what the machine repeats is not the second's"
        );

        ward.measure("131", "82", "71");
        let found = ward.chair.poll();
        assert_eq!(news_of_spots(&found), ["systolic 131", "diastolic 82", "pulse_rate 71"]);
        assert_eq!(found.last().unwrap().phase, Phase::Treating);
    }
}

/// Two patients one after the other on one chair, on either kind of machine.
struct TwoPatients<'a> {
    chair: &'a mut Chair,
    nikkiso: bool,
    measured: u32,
}

impl<'a> TwoPatients<'a> {
    fn new(chair: &'a mut Chair) -> Self {
        let nikkiso = chair.is_nikkiso();
        Self { chair, nikkiso, measured: 10 }
    }

    fn measure(&mut self, systolic: &str, diastolic: &str, pulse: &str) {
        self.measured += 1;
        let [mark, sys, dia, rate] = if self.nikkiso { ["S", "T", "U", "V"] } else { ["M", "N", "O", "P"] };
        let measured = self.measured.to_string();
        self.chair.show_all(&[(mark, &measured), (sys, systolic), (dia, diastolic), (rate, pulse)]);
    }

    fn flag(&mut self, flag: &str) {
        if self.nikkiso {
            self.chair.show("M", flag);
        }
    }

    /// Minutes of treatment from this one on, six polls each.
    fn treat(&mut self, minutes: std::ops::Range<u32>) -> Vec<Capture> {
        self.chair.show("D", "250");
        self.flag("1");
        let mut found = Vec::new();
        for minute in minutes {
            self.chair.show("K", &minute.to_string());
            found.extend(self.chair.poll_for(60));
        }
        found
    }

    fn first_patient(&mut self) {
        self.treat(0..5);
        self.measure("118", "76", "64");
        let found = self.treat(5..10);
        assert_eq!(news_of_spots(&found), ["systolic 118", "diastolic 76", "pulse_rate 64"]);
        assert_eq!(self.chair.normaliser.phase(), Phase::Treating);
    }

    /// The first leaves, the machine is made ready, the second is connected; the screen keeps the last blood pressure.
    fn second_patient(&mut self) -> Vec<Capture> {
        self.flag("0");
        self.chair.show("D", "0");
        let mut found = self.chair.poll_for(20 * 60);
        assert_eq!(self.chair.normaliser.phase(), Phase::Idle);
        found.extend(self.treat(0..5));
        assert_eq!(events(&found).last().unwrap(), "started");
        found
    }
}

#[test]
fn a_blood_pressure_that_the_machine_hides_at_the_start_and_shows_again_is_not_the_second_patients() {
    let mut chair = Chair::nikkiso();
    let mut ward = TwoPatients::new(&mut chair);
    ward.first_patient();
    ward.flag("0");
    ward.chair.poll();
    // Blank while the second is connected, back a minute later.
    ward.chair.show_all(&[("S", "000/00"), ("T", "0000/"), ("U", "0000/"), ("V", "0000/")]);
    ward.treat(0..1);
    ward.chair.show_all(&[("S", "000011"), ("T", "118"), ("U", "76"), ("V", "64")]);
    assert_eq!(news_of_spots(&ward.treat(1..3)), Vec::<String>::new());
}

#[test]
fn another_patient_seated_in_mid_treatment_gets_no_blood_pressure_of_the_one_before() {
    let mut chair = Chair::nikkiso();
    let mut ward = TwoPatients::new(&mut chair);
    ward.first_patient();
    let at = ward.chair.at();
    ward.chair.normaliser.treatment_changed(at);
    let found = ward.treat(10..12);
    assert_eq!(news_of_spots(&found), Vec::<String>::new());
    assert_eq!(value(&found, "nibp_systolic").mark, Mark::Baseline);
    ward.measure("131", "82", "71");
    assert_eq!(news_of_spots(&ward.chair.poll()).len(), 3);
}

#[test]
fn a_measurement_made_while_the_cable_was_out_is_baseline() {
    let mut chair = Chair::nikkiso();
    let mut ward = TwoPatients::new(&mut chair);
    ward.first_patient();
    assert!(ward.chair.lose_line().is_empty());
    ward.measure("131", "82", "71");
    assert_eq!(news_of_spots(&ward.chair.poll()), Vec::<String>::new());
    ward.measure("129", "80", "70");
    assert_eq!(news_of_spots(&ward.chair.poll()).len(), 3);
}

#[test]
fn a_restart_in_mid_treatment_goes_on_with_it_and_repeats_no_blood_pressure() {
    for mut chair in [Chair::nikkiso(), Chair::toray()] {
        let mut ward = TwoPatients::new(&mut chair);
        ward.first_patient();
        let known = Resume {
            started: ward.chair.at(),
            elapsed: ward.chair.normaliser.elapsed(),
            at: ward.chair.at(),
        };
        ward.chair.restart(Some(known));
        assert_eq!(ward.chair.normaliser.elapsed(), known.elapsed);

        ward.chair.show("K", "12");
        let found = ward.chair.poll_after(Duration::from_secs(120));
        assert_eq!(events(&found), Vec::<String>::new());
        assert_eq!(found.last().unwrap().phase, Phase::Treating);
        assert_eq!(found.last().unwrap().origin.previous, None);
        assert_eq!(news_of_spots(&found), Vec::<String>::new());
        let target = value(&found, "uf_target_volume");
        assert_eq!((target.mark, target.doubts), (Mark::New, Doubts::AFTER_GAP));
    }
}

#[test]
fn a_restart_after_which_the_time_does_not_agree_ends_the_treatment_and_starts_another() {
    let mut chair = Chair::nikkiso();
    let mut ward = TwoPatients::new(&mut chair);
    ward.first_patient();
    let known =
        Resume { started: ward.chair.at(), elapsed: ward.chair.normaliser.elapsed(), at: ward.chair.at() };
    ward.chair.restart(Some(known));
    ward.chair.show("K", "3");
    let found = ward.chair.poll_after(Duration::from_secs(120));
    assert_eq!(events(&found), ["ended LostTrack", "started"]);
    assert_eq!(found.first().unwrap().phase, Phase::Ending);
}

#[test]
fn an_alarm_edge_held_back_goes_out_before_the_end_of_its_treatment() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "1"), ("c", "1")]);
    chair.poll();
    chair.show("c", "0");
    assert!(events(&chair.poll()).is_empty(), "it may be raised again");
    let cleared = chair.now;
    chair.show("M", "0");
    let found = chair.poll();
    assert_eq!(events(&found), ["End venous_pressure", "ended FlagOff"]);
    let (_, tick, phase) = edges(&found)[0];
    assert_eq!((tick, phase), (cleared, Phase::Treating));
}

#[test]
fn an_alarm_edge_held_back_over_a_change_of_seat_is_nobodys() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "1"), ("c", "1")]);
    chair.poll();
    chair.show("c", "0");
    chair.poll();
    let cleared = chair.now;
    chair.normaliser.treatment_changed(chair.at());
    let found = chair.poll();
    assert_eq!(events(&found), ["End venous_pressure"]);
    let (_, tick, phase) = edges(&found)[0];
    assert_eq!((tick, phase), (cleared, Phase::Ending));
    assert_eq!(found.last().unwrap().phase, Phase::Treating);
}
