//! The normaliser with real frames, read by the real driver: what reaches whom.

use super::testing::*;
use super::*;
use chairside_drivers::kit::driver::ChannelId;

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
    assert_eq!(
        events(&found),
        ["EndTreatmentChanged venous_pressure", "ended FlagOff", "Start venous_pressure"]
    );
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

    let origin = chair.origin();
    drop(chair.normaliser.treatment_changed(&origin, true));
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
    for (mode, name) in [("0", "HD"), ("1", "IUF"), ("2", "HDF"), ("3", "HF"), ("4", "HDF")] {
        chair.show("N", mode);
        assert_eq!(value(&chair.poll(), "treatment_modality").reading, Reading::State(name));
    }
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
    let origin = chair.origin();
    drop(chair.normaliser.treatment_changed(&origin, true));
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
