//! Two patients one after the other on one chair: what of the first may reach the second, and what a restart keeps.

use super::testing::*;
use super::*;
use std::time::Duration;

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
    let origin = ward.chair.origin();
    drop(ward.chair.normaliser.treatment_changed(&origin, true));
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
