//! Each rule of seating by an example, and that seats survive a restart sealed.

use super::*;
use crate::config::settings::KeySource;
use crate::model::name::UpstreamName;
use crate::privacy::Pseudonymiser;
use crate::privacy::keyring::Absent;
use crate::privacy::record::Revision;
use crate::upstream::Identities;
use std::cell::Cell;
use std::path::Path;

const HOUR: i64 = 3600;
const MINUTE: i64 = 60;
const KEEP: Duration = Duration::from_secs(3 * 24 * 3600);

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_800_000_000 + seconds) * 1_000_000)
}

pub(super) fn chair() -> ChairName {
    ChairName::new("chair-1").unwrap()
}

pub(super) fn machine() -> MachineName {
    MachineName::new("asset-14").unwrap()
}

pub(super) fn ehr() -> UpstreamName {
    UpstreamName::new("ehr").unwrap()
}

pub(super) fn number(text: &str) -> Sensitive<String> {
    Sensitive::new(text.to_owned())
}

/// A ward with one chair, and what its receiver is told.
pub(super) struct Ward {
    keyring: Arc<Keyring>,
    pub(super) seats: Seats,
    /// Whether the machine treats and answers up to the moment of every act.
    answers: Cell<bool>,
}

impl Ward {
    pub(super) fn new() -> Self {
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        keyring.ensure_recipients([&ehr()]).unwrap();
        let seats = Seats::new(Arc::clone(&keyring), Unseated::Hold);
        Self { keyring, seats, answers: Cell::new(true) }
    }

    pub(super) fn switch_off(&self) {
        self.answers.set(false);
    }

    pub(super) fn answer(&self, seconds: i64) {
        if self.answers.get() {
            self.seats.progress(&chair(), at(seconds), None).unwrap();
        }
    }

    pub(super) fn start(&self, seconds: i64) -> TreatmentId {
        self.answer(seconds);
        self.seats.treatment_started(&chair(), &machine(), at(seconds)).unwrap()
    }

    pub(super) fn end(&self, seconds: i64) -> Option<TreatmentId> {
        self.answer(seconds);
        self.seats.treatment_ended(&chair(), at(seconds)).unwrap()
    }

    pub(super) fn seat(&self, patient: &str, seconds: i64) -> Seated {
        self.answer(seconds);
        self.seats.seat(&chair(), number(patient), at(seconds)).unwrap()
    }

    pub(super) fn correct(&self, patient: &str, seconds: i64) -> Seated {
        self.answer(seconds);
        self.seats.correct(&chair(), number(patient), at(seconds), KEEP, &BTreeSet::new()).unwrap()
    }

    pub(super) fn unseat(&self, seconds: i64) -> Seated {
        self.answer(seconds);
        self.seats.unseat(&chair(), at(seconds)).unwrap()
    }

    pub(super) fn restart(&mut self) {
        self.seats = Seats::new(Arc::clone(&self.keyring), Unseated::Hold);
        self.switch_off();
    }

    pub(super) fn elapsed(&self, seconds: i64, minutes: i64) -> Option<Seated> {
        self.seats.progress(&chair(), at(seconds), Decimal::whole(minutes)).unwrap()
    }

    pub(super) fn border(&self) -> Pseudonymiser {
        Pseudonymiser::new(Arc::clone(&self.keyring))
    }

    pub(super) fn revision(&self, treatment: TreatmentId) -> u32 {
        self.border().revision(treatment).unwrap().0
    }

    /// What the receiver is told of this treatment's patient.
    pub(super) fn told(&self, treatment: TreatmentId) -> Option<String> {
        let revision = self.border().revision(treatment)?;
        self.border().subject(&ehr(), treatment, revision).map(|seen| seen.as_str().to_owned())
    }

    /// What the receiver is told of this patient.
    pub(super) fn name_of(&self, patient: &str) -> Option<String> {
        let number = RecordNumber::parse(&number(patient)).unwrap();
        let row = self.keyring.change(|state| rules::row(state, &number)).unwrap();
        Some(self.border().pseudonym(&ehr(), row)?.as_str().to_owned())
    }
}

#[test]
fn a_seat_binds_the_running_treatment_from_its_start_and_releases_its_records() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    assert_eq!(ward.told(treatment), None);
    let seated = ward.seat("11", HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Bound { since: at(0) });
    assert_eq!(seated.release, Some(treatment));
    assert_eq!((seated.ended, seated.started, seated.correction), (None, None, None));
    assert!(ward.told(treatment).is_some());
    assert_eq!(ward.told(treatment), ward.name_of(" 1 1\n"));
    assert_ne!(ward.told(treatment), ward.name_of("12"));
}

#[test]
fn a_first_seat_is_a_correction_where_unseated_records_went_out_as_the_machines() {
    let ward = Ward::new();
    let seats = Seats::new(Arc::clone(&ward.keyring), Unseated::Machine);
    let treatment = seats.treatment_started(&chair(), &machine(), at(0)).unwrap();
    let seated = seats.seat(&chair(), number("11"), at(1)).unwrap();
    assert_eq!(seated.correction, Some(Correction { treatment, old: Revision(0), new: Revision(1) }));
}

#[test]
fn an_early_seat_waits_two_hours_for_the_next_treatment_and_no_longer() {
    for (wait, bound) in [(2 * HOUR, true), (2 * HOUR + 1, false)] {
        let ward = Ward::new();
        assert_eq!(ward.seat("11", 0).outcome, SeatOutcome::Waiting { until: at(2 * HOUR) });
        assert_eq!(ward.seats.waiting(&chair(), at(wait)), bound.then(|| at(2 * HOUR)));
        let treatment = ward.start(wait);
        assert_eq!(ward.told(treatment).is_some(), bound, "after {wait} s");
        assert_eq!(ward.seats.running(&chair()).unwrap().seated, bound);
    }
}

#[test]
fn a_seat_dies_with_its_treatment() {
    let ward = Ward::new();
    ward.seat("11", 0);
    let first = ward.start(MINUTE);
    assert_eq!(ward.end(4 * HOUR), Some(first));
    let second = ward.start(4 * HOUR + MINUTE);
    assert!(ward.told(first).is_some());
    assert_eq!(ward.told(second), None);
}

#[test]
fn a_treatment_that_starts_over_another_ends_it_and_takes_nothing_from_it() {
    let ward = Ward::new();
    ward.seat("11", 0);
    let first = ward.start(MINUTE);
    let second = ward.start(HOUR);
    assert_eq!(ward.told(second), None);
    assert_eq!(ward.border().treatment(first).unwrap().ended, Some(at(HOUR)));
    assert_eq!(ward.seats.running(&chair()).unwrap().id, second);
}

#[test]
fn the_same_patient_again_changes_nothing() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.seat("ab 11", MINUTE);
    let again = ward.seat("AB11", HOUR);
    assert_eq!(
        again,
        Seated {
            outcome: SeatOutcome::AlreadySeated,
            release: None,
            ended: None,
            started: None,
            correction: None,
            also: None
        }
    );
    assert_eq!(ward.revision(treatment), 1);
}

#[test]
fn a_late_seat_binds_the_treatment_that_ended_within_thirty_minutes() {
    for (late, bound) in [(30 * MINUTE, true), (30 * MINUTE + 1, false)] {
        let ward = Ward::new();
        let treatment = ward.start(0);
        ward.end(HOUR);
        let seated = ward.seat("11", HOUR + late);
        assert_eq!(ward.told(treatment).is_some(), bound, "{late} s late");
        let next = ward.start(HOUR + late + MINUTE);
        // One word of the nurse reaches one treatment.
        assert_eq!(ward.told(next).is_some(), !bound);
        assert_eq!(seated.release, bound.then_some(treatment));
    }
}

#[test]
fn a_late_seat_never_takes_a_treatment_that_was_somebodys() {
    let ward = Ward::new();
    ward.seat("11", 0);
    let first = ward.start(MINUTE);
    ward.end(HOUR);
    let seated = ward.seat("12", HOUR + MINUTE);
    assert_eq!(seated.outcome, SeatOutcome::Waiting { until: at(3 * HOUR + MINUTE) });
    assert_eq!(ward.told(first), ward.name_of("11"));
    assert_eq!(ward.told(ward.start(HOUR + 2 * MINUTE)), ward.name_of("12"));
}

#[test]
fn unseat_ends_the_treatment_and_what_follows_is_nobodys() {
    let ward = Ward::new();
    let first = ward.start(0);
    ward.seat("11", MINUTE);
    let seated = ward.unseat(HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Unseated);
    assert_eq!(seated.ended, Some(first));
    let second = seated.started.unwrap();
    assert_eq!(ward.told(second), None);
    assert_eq!(ward.told(first), ward.name_of("11"));
}

#[test]
fn unseat_cancels_a_seat_that_waits() {
    let ward = Ward::new();
    ward.seat("11", 0);
    assert_eq!(ward.unseat(MINUTE).outcome, SeatOutcome::WaitingCancelled);
    assert_eq!(ward.unseat(MINUTE).outcome, SeatOutcome::NobodySeated);
    assert_eq!(ward.told(ward.start(2 * MINUTE)), None);
}

#[test]
fn a_correction_rebinds_the_running_treatment_under_the_next_revision() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.seat("11", MINUTE);
    let seated = ward.correct("12", HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Corrected { since: at(0) });
    assert_eq!(seated.correction, Some(Correction { treatment, old: Revision(1), new: Revision(2) }));
    assert_eq!(seated.release, Some(treatment));
    assert_eq!(ward.told(treatment), ward.name_of("12"));
    let before = ward.border().subject(&ehr(), treatment, Revision(1)).unwrap();
    assert_eq!(Some(before.as_str().to_owned()), ward.name_of("11"), "the old ids can still be found");
}

#[test]
fn a_correction_reaches_the_last_treatment_as_long_as_its_records_are_there() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.seat("11", MINUTE);
    ward.end(4 * HOUR);
    assert_eq!(ward.correct("12", 2 * 24 * HOUR).outcome, SeatOutcome::Corrected { since: at(0) });
    let why = ward
        .seats
        .correct(&chair(), number("13"), at(3 * 24 * HOUR + 1), KEEP, &BTreeSet::new())
        .unwrap_err();
    let span = Span { from: at(0), until: Some(at(4 * HOUR)) };
    assert!(matches!(why, SeatError::TooLate { hours: 72, span: told, .. } if told == span), "{why}");
    assert_eq!(ward.told(treatment), ward.name_of("12"));
}

#[test]
fn a_correction_of_a_treatment_whose_records_left_early_is_refused_with_its_span_and_changes_nothing() {
    let ward = Ward::new();
    let first = ward.start(0);
    ward.seat("11", MINUTE);
    ward.elapsed(10 * MINUTE, 10);
    // One treatment of the machine, cut in two by a seat: a correction reaches both.
    let piece = ward.seat("12", HOUR).started.unwrap();
    assert_eq!(ward.seats.correctable(&chair()), [piece, first]);
    for left in [first, piece] {
        ward.answer(2 * HOUR);
        let incomplete = BTreeSet::from([left]);
        let refused = ward.seats.correct(&chair(), number("13"), at(2 * HOUR), KEEP, &incomplete);
        let span = Span { from: at(0), until: None };
        let why = refused.unwrap_err();
        assert!(matches!(why, SeatError::LeftEarly { span: told, .. } if told == span), "{why}");
        assert_eq!((ward.told(first), ward.told(piece)), (ward.name_of("11"), None));
        assert_eq!(ward.seats.untold(), []);
    }
    let other = BTreeSet::from([TreatmentId::from_bytes([9; 16])]);
    let seated = ward.seats.correct(&chair(), number("13"), at(2 * HOUR), KEEP, &other).unwrap();
    assert_eq!(seated.outcome, SeatOutcome::Corrected { since: at(0) });
}

#[test]
fn a_correction_before_the_treatment_begins_means_the_seat_that_waits() {
    let ward = Ward::new();
    let yesterday = ward.start(0);
    ward.seat("11", MINUTE);
    ward.end(HOUR);
    ward.seat("12", 20 * HOUR);
    assert_eq!(ward.correct("13", 20 * HOUR).outcome, SeatOutcome::Waiting { until: at(22 * HOUR) });
    assert_eq!(ward.told(yesterday), ward.name_of("11"));
    assert_eq!(ward.told(ward.start(20 * HOUR + MINUTE)), ward.name_of("13"));
}

#[test]
fn nothing_to_correct_is_an_error() {
    let why = Ward::new().seats.correct(&chair(), number("11"), at(0), KEEP, &BTreeSet::new()).unwrap_err();
    assert_eq!(why.to_string(), "no treatment of chair-1 is known that could be corrected");
}

#[test]
fn a_bad_record_number_changes_nothing_and_is_not_repeated() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    let why = ward.seats.seat(&chair(), number("Müstermann"), at(1)).unwrap_err();
    assert!(!format!("{why} {why:?}").contains("stermann"));
    assert_eq!(ward.told(treatment), None);
}

#[test]
fn after_a_restart_nobody_else_is_seated_until_the_machine_has_answered() {
    let mut ward = Ward::new();
    let treatment = ward.start(0);
    ward.elapsed(MINUTE, 1);
    ward.restart();
    let why = ward.seats.seat(&chair(), number("12"), at(10 * MINUTE)).unwrap_err();
    assert!(matches!(why, SeatError::Unsettled(_)), "{why}");
    assert_eq!(ward.told(treatment), None);
    ward.elapsed(11 * MINUTE, 11);
    assert_eq!(ward.seat("12", 12 * MINUTE).release, Some(treatment));
}

#[test]
fn after_a_restart_the_patient_who_was_seated_still_is() {
    let mut ward = Ward::new();
    let treatment = ward.start(0);
    ward.seat("11", MINUTE);
    ward.restart();
    assert_eq!(ward.seat("11", 2 * MINUTE).outcome, SeatOutcome::AlreadySeated);
    let running = ward.seats.running(&chair()).unwrap();
    assert_eq!((running.id, running.seated, running.settled), (treatment, true, false));
}

#[test]
fn a_treatment_left_open_for_twelve_hours_is_nobody_elses_and_the_seat_waits_for_the_next() {
    let mut ward = Ward::new();
    let treatment = ward.start(0);
    ward.elapsed(HOUR, 60);
    ward.restart();
    let seated = ward.seat("12", 13 * HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Waiting { until: at(15 * HOUR) });
    assert_eq!((seated.ended, seated.started), (None, None), "the machine's word ends it");
    assert_eq!(ward.end(13 * HOUR + MINUTE), Some(treatment));
    assert_eq!(ward.border().treatment(treatment).unwrap().ended, Some(at(HOUR)));
    let next = ward.start(14 * HOUR);
    assert_eq!(ward.told(treatment), None);
    assert_eq!(ward.told(next), ward.name_of("12"));
}

#[test]
fn a_seat_that_waits_behind_an_old_treatment_is_void_once_somebody_is_seated_on_it() {
    let mut ward = Ward::new();
    let old = ward.start(0);
    ward.restart();
    ward.seat("12", 13 * HOUR);
    // Against all odds the machine says that the old treatment goes on.
    ward.elapsed(13 * HOUR + MINUTE, 780);
    assert_eq!(ward.seat("13", 13 * HOUR + 2 * MINUTE).release, Some(old));
    ward.end(13 * HOUR + 3 * MINUTE);
    let next = ward.start(13 * HOUR + 4 * MINUTE);
    assert_eq!(ward.told(old), ward.name_of("13"));
    assert_eq!(ward.told(next), None);
}

#[test]
fn a_machine_switched_off_overnight_leaves_no_treatment_for_a_late_seat_in_the_morning() {
    for restarted in [false, true] {
        let mut ward = Ward::new();
        let evening = ward.start(0);
        ward.elapsed(4 * HOUR, 240);
        ward.switch_off();
        if restarted {
            ward.restart();
        }
        // The first answer in the morning ends it.
        assert_eq!(ward.end(16 * HOUR), Some(evening));
        assert_eq!(ward.border().treatment(evening).unwrap().ended, Some(at(4 * HOUR)));
        assert!(matches!(ward.seat("12", 16 * HOUR + MINUTE).outcome, SeatOutcome::Waiting { .. }));
        assert_eq!(ward.told(evening), None);
        assert_eq!(ward.told(ward.start(17 * HOUR)), ward.name_of("12"));
    }
}

#[test]
fn a_seat_on_a_machine_that_was_switched_off_is_the_next_treatments() {
    for whose in [None, Some("11"), Some("12")] {
        let ward = Ward::new();
        let morning = ward.start(0);
        if let Some(patient) = whose {
            ward.seat(patient, MINUTE);
        }
        ward.elapsed(4 * HOUR, 240);
        ward.switch_off();
        let seated = ward.seat("12", 6 * HOUR);
        assert_eq!(seated.outcome, SeatOutcome::Waiting { until: at(8 * HOUR) }, "{whose:?}");
        assert_eq!((seated.ended, seated.started, seated.release), (Some(morning), None, None));
        assert_eq!(ward.border().treatment(morning).unwrap().ended, Some(at(4 * HOUR)));
        assert_eq!(ward.told(morning), whose.and_then(|patient| ward.name_of(patient)));
        // The first answers: the old treatment is over, which is no news, and the next one begins.
        assert_eq!(ward.end(6 * HOUR + MINUTE), None);
        let afternoon = ward.start(6 * HOUR + 2 * MINUTE);
        assert_eq!(ward.told(afternoon), ward.name_of("12"));
    }
}

#[test]
fn a_treatment_unheard_of_for_twenty_minutes_is_over_for_a_nurse() {
    for (silence, over) in [(20 * MINUTE, false), (20 * MINUTE + 1, true)] {
        let ward = Ward::new();
        let first = ward.start(0);
        ward.seat("11", MINUTE);
        ward.elapsed(HOUR, 60);
        ward.switch_off();
        let seated = ward.seat("12", HOUR + silence);
        assert_eq!(seated.ended, Some(first));
        assert_eq!(seated.started.is_none(), over, "after {silence} s");
        assert_eq!(ward.told(first), ward.name_of("11"));
    }
}

#[test]
fn a_seat_soon_after_the_machine_was_last_heard_of_is_late() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.elapsed(HOUR, 60);
    ward.switch_off();
    let seated = ward.seat("11", HOUR + 30 * MINUTE);
    assert_eq!(seated.outcome, SeatOutcome::BoundLate { since: at(0), ended: at(HOUR) });
    assert_eq!((seated.ended, seated.release), (Some(treatment), Some(treatment)));
}

#[test]
fn unseat_and_correct_end_a_treatment_that_is_unheard_of_and_begin_none() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.seat("11", MINUTE);
    ward.switch_off();
    let seated = ward.correct("12", HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Corrected { since: at(0) });
    assert_eq!((seated.ended, seated.started), (Some(treatment), None));
    assert_eq!(ward.told(treatment), ward.name_of("12"));

    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.switch_off();
    let seated = ward.unseat(HOUR);
    assert_eq!(seated.outcome, SeatOutcome::Unseated);
    assert_eq!((seated.ended, seated.started), (Some(treatment), None));
}

#[test]
fn no_treatment_is_longer_than_twelve_hours_for_a_nurse() {
    let ward = Ward::new();
    let treatment = ward.start(0);
    ward.seat("11", MINUTE);
    ward.elapsed(12 * HOUR, 720);
    let seated = ward.seat("12", 12 * HOUR);
    assert_eq!((seated.ended, seated.started), (Some(treatment), None));
    assert_eq!(ward.told(ward.start(12 * HOUR + MINUTE)), ward.name_of("12"));
}

#[test]
fn a_late_seat_is_the_last_word_and_nobody_waits_behind_it() {
    let mut ward = Ward::new();
    let old = ward.start(0);
    ward.elapsed(12 * HOUR + 50 * MINUTE, 770);
    ward.restart();
    assert!(matches!(ward.seat("12", 13 * HOUR).outcome, SeatOutcome::Waiting { .. }));
    ward.end(13 * HOUR + MINUTE);
    assert!(matches!(ward.seat("13", 13 * HOUR + 2 * MINUTE).outcome, SeatOutcome::BoundLate { .. }));
    assert_eq!(ward.told(old), ward.name_of("13"));
    assert_eq!(ward.told(ward.start(13 * HOUR + 3 * MINUTE)), None);
}

#[test]
fn an_end_that_was_seen_late_counts_from_when_the_machine_last_treated() {
    for (late, bound) in [(30 * MINUTE, true), (30 * MINUTE + 1, false)] {
        let ward = Ward::new();
        let treatment = ward.start(0);
        ward.elapsed(4 * HOUR, 240);
        // Seen a quarter of an hour later, when time has stood still for long enough.
        ward.switch_off();
        ward.end(4 * HOUR);
        assert_eq!(ward.border().treatment(treatment).unwrap().ended, Some(at(4 * HOUR)));
        ward.seat("11", 4 * HOUR + late);
        assert_eq!(ward.told(treatment).is_some(), bound, "{late} s late");
    }
}

#[test]
fn a_running_treatment_says_on_which_machine() {
    let ward = Ward::new();
    ward.start(0);
    assert_eq!(ward.seats.running(&chair()).unwrap().machine, machine());
}

#[test]
fn a_correction_comes_back_after_a_crash_until_the_spool_has_it() {
    let mut ward = Ward::new();
    ward.start(0);
    ward.seat("11", MINUTE);
    assert_eq!(ward.seats.untold(), vec![], "a first seat has nothing to rewrite");
    let correction = ward.correct("12", HOUR).correction.unwrap();
    ward.restart();
    assert_eq!(ward.seats.untold(), vec![(chair(), correction)]);
    ward.seats.told(&correction).unwrap();
    ward.restart();
    assert_eq!(ward.seats.untold(), vec![]);
}

#[test]
fn a_clock_that_steps_back_keeps_no_seat_alive() {
    let ward = Ward::new();
    ward.seat("11", 10 * HOUR);
    let treatment = ward.start(3 * HOUR);
    assert_eq!(ward.told(treatment), None);
    ward.end(10 * HOUR);
    // Hours before the end of the last treatment: the clock is wrong, and "late" would be a guess.
    assert!(matches!(ward.seat("12", 0).outcome, SeatOutcome::Waiting { .. }));
    assert_eq!(ward.told(treatment), None);
}

#[test]
fn a_seat_that_waited_too_long_is_not_kept() {
    let ward = Ward::new();
    ward.seat("11", 0);
    ward.seats.purge(at(2 * HOUR)).unwrap();
    assert!(ward.keyring.state().chairs[&chair()].waiting.is_some());
    ward.seats.purge(at(2 * HOUR + 1)).unwrap();
    assert!(ward.keyring.state().chairs[&chair()].waiting.is_none());
}

fn open(folder: &Path) -> Arc<Keyring> {
    let root = KeySource::File { path: folder.join("root.key"), created: true };
    Arc::new(Keyring::open(folder, &root, Absent::Create).unwrap())
}

#[test]
fn treatments_seats_and_progress_survive_a_restart_and_stand_nowhere_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (second_chair, patient) = (ChairName::new("chair-2").unwrap(), "CANARY-4711");
    let (treatment, next) = {
        let keyring = open(folder.path());
        keyring.ensure_recipients([&ehr()]).unwrap();
        let seats = Seats::new(Arc::clone(&keyring), Unseated::Hold);
        let treatment = seats.treatment_started(&chair(), &machine(), at(0)).unwrap();
        seats.seat(&chair(), number(patient), at(1)).unwrap();
        seats.seat(&second_chair, number(patient), at(2)).unwrap();
        seats.progress(&chair(), at(MINUTE), Decimal::whole(1)).unwrap();
        (treatment, at(MINUTE))
    };
    let keyring = open(folder.path());
    let seats = Seats::new(Arc::clone(&keyring), Unseated::Hold);
    let running = seats.running(&chair()).unwrap();
    assert_eq!(running.id, treatment);
    assert_eq!(running.progress, Some((next, Decimal::whole(1))));
    let second = seats.treatment_started(&second_chair, &machine(), at(HOUR)).unwrap();
    let border = Pseudonymiser::new(keyring);
    let told = |id| border.subject(&ehr(), id, Revision(1)).unwrap().as_str().to_owned();
    assert_eq!(told(treatment), told(second));

    let needles = [patient.as_bytes().to_vec(), told(treatment).into_bytes(), b"chair-1".to_vec()];
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for needle in &needles {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle.as_slice()));
        }
    }
}

#[test]
fn progress_is_written_at_once_and_then_every_five_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    let seats = Seats::new(Arc::clone(&keyring), Unseated::Hold);
    seats.treatment_started(&chair(), &machine(), at(0)).unwrap();
    let durable = || keyring.state().chairs[&chair()].progress.map(|(at, _)| at);
    seats.progress(&chair(), at(10), Decimal::whole(0)).unwrap();
    assert_eq!(durable(), Some(at(10)));
    seats.progress(&chair(), at(10 + 299), Decimal::whole(5)).unwrap();
    assert_eq!(durable(), Some(at(10)));
    assert_eq!(seats.running(&chair()).unwrap().progress, Some((at(309), Decimal::whole(5))));
    seats.progress(&chair(), at(10 + 300), Decimal::whole(5)).unwrap();
    assert_eq!(durable(), Some(at(310)));
    seats.progress(&chair(), at(320), Decimal::whole(5)).unwrap();
    seats.close().unwrap();
    assert_eq!(durable(), Some(at(320)));
}

#[test]
fn an_act_that_the_disk_refuses_has_not_happened() {
    let folder = tempfile::tempdir().unwrap();
    let seats = Seats::new(open(folder.path()), Unseated::Hold);
    let treatment = seats.treatment_started(&chair(), &machine(), at(0)).unwrap();
    std::fs::create_dir(folder.path().join("keyring.new")).unwrap();
    assert!(seats.seat(&chair(), number("11"), at(1)).is_err());
    assert!(seats.treatment_ended(&chair(), at(2)).is_err());
    assert!(seats.treatment_started(&chair(), &machine(), at(3)).is_err());
    let running = seats.running(&chair()).unwrap();
    assert_eq!((running.id, running.seated, running.settled), (treatment, false, true));
}
