//! Whose reading is it: two patients on one chair, late seats, seats that died by themselves, wrong seats.

use crate::gateway::{Home, Running, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

struct Ward {
    machine: Machine,
    receiver: Receiver,
    home: Home,
}

impl Ward {
    /// One chair whose machine stands idle; readings without a patient are held.
    async fn open() -> Self {
        let machine = Machine::start(Screen { in_treatment: false, ..Screen::default() });
        let pki = Pki::new();
        let receiver = Receiver::start(&pki).await;
        let home = Home::new(&Wishes {
            chairs: &[&machine],
            receiver: Some((&receiver, &pki)),
            unseated: "hold",
            ..Wishes::default()
        });
        Self { machine, receiver, home }
    }

    fn begin(&self, gateway: &Running, treatments: usize) {
        self.machine.show(|screen| (screen.in_treatment, screen.elapsed_min) = (true, 0));
        gateway.until_count("the treatment", treatments, |line| line.contains("treatment started"));
    }

    fn end(&self, gateway: &Running, treatments: usize) {
        self.machine.show(|screen| screen.in_treatment = false);
        gateway.until_count("its end", treatments, |line| line.contains("treatment ended"));
    }

    fn seat(&self, words: &[&str], number: &str) -> String {
        let (code, said, why) = self.home.ask(words, &format!("{number}\n"));
        assert_eq!(code, Some(0), "{why}");
        said
    }

    /// Waits for readings of a patient who is none of `known`, and says the pseudonym.
    async fn next_patient(&self, known: &[&str]) -> String {
        let new =
            |resources: &Resources| patients(resources).into_iter().find(|it| !known.contains(&it.as_str()));
        self.receiver.until("readings of another patient", |it| new(it).is_some()).await;
        new(&self.receiver.resources()).unwrap()
    }
}

type Resources = BTreeMap<String, Value>;

fn patient(resource: &Value) -> Option<&str> {
    resource["subject"]["identifier"]["value"].as_str()
}

/// Everybody who has an Observation that stands.
fn patients(resources: &Resources) -> BTreeSet<String> {
    resources.values().filter(|it| stands(it)).filter_map(patient).map(str::to_owned).collect()
}

fn stands(resource: &Value) -> bool {
    resource["resourceType"] == "Observation" && resource["status"] != "entered-in-error"
}

/// Observations of this patient that stand and hold this value anywhere.
fn with_value(resources: &Resources, whose: &str, value: i64) -> usize {
    let holds = |it: &&Value| stands(it) && patient(it) == Some(whose) && quantities(it).contains(&value);
    resources.values().filter(holds).count()
}

fn quantities(resource: &Value) -> Vec<i64> {
    let components = resource["component"].as_array().into_iter().flatten();
    let all = components.chain([resource]).map(|it| it["valueQuantity"]["value"].as_i64());
    all.flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_first_patient_reaches_the_second_not_even_a_repeated_blood_pressure() {
    let ward = Ward::open().await;
    let gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    ward.seat(&["seat", "chair-1"], "1001");
    let first = ward.next_patient(&[]).await;
    ward.machine.show(|screen| screen.pressure = Some((101_530, 121, 74, 68)));
    ward.receiver.until("the first one's pressure", |it| with_value(it, &first, 121) == 1).await;
    ward.end(&gateway, 1);

    // The machine goes on showing the first patient's pressure.
    ward.begin(&gateway, 2);
    ward.seat(&["seat", "chair-1"], "1002");
    let second = ward.next_patient(&[&first]).await;
    ward.machine.show(|screen| screen.pressure = Some((111_200, 133, 81, 70)));
    ward.receiver.until("the second one's pressure", |it| with_value(it, &second, 133) == 1).await;
    gateway.stop();

    let all = ward.receiver.resources();
    assert_eq!(
        with_value(&all, &second, 121),
        0,
        "the first patient's pressure is in the second one's record"
    );
    assert_eq!(with_value(&all, &first, 121), 1, "one measurement is one observation");
    assert_eq!(with_value(&all, &first, 133), 0);
    assert_eq!(patients(&all).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patient_seated_before_the_last_one_is_seen_to_leave_has_the_next_treatment_and_nothing_of_the_last()
 {
    let ward = Ward::open().await;
    let gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    ward.seat(&["seat", "chair-1"], "1001");
    ward.machine.show(|screen| (screen.elapsed_min, screen.venous) = (54, 181));
    let first = ward.next_patient(&[]).await;
    ward.receiver.until("the first one's time", |it| with_value(it, &first, 54) > 0).await;
    // The first one leaves while nobody is asked.
    ward.machine.show(|screen| (screen.mute, screen.in_treatment) = (true, false));
    let said = ward.seat(&["seat", "chair-1"], "1002");
    assert!(said.contains("The next one that the machine begins before"), "{said}");
    ward.machine.show(|screen| screen.mute = false);
    gateway.until_count("its end", 1, |line| line.contains("treatment ended"));

    ward.machine.show(|screen| screen.venous = 192);
    ward.begin(&gateway, 2);
    let second = ward.next_patient(&[&first]).await;
    ward.receiver.until("the second one's readings", |it| with_value(it, &second, 192) > 0).await;
    gateway.stop();
    let all = ward.receiver.resources();
    assert_eq!((with_value(&all, &first, 192), with_value(&all, &second, 181)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_without_a_seat_are_held_and_then_go_to_the_right_patient() {
    let ward = Ward::open().await;
    let gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    gateway.until_count("readings of the treatment", 100, |line| line.contains(": kept "));
    ward.home.until_page("held records", |page| page.contains(" held"));
    assert!(patients(&ward.receiver.resources()).is_empty(), "nobody is seated");

    let said = ward.seat(&["seat", "chair-1"], "1001");
    assert!(said.contains("seated on the treatment running since"), "{said}");
    let patient = ward.next_patient(&[]).await;
    // Everything since the treatment began, not only what came after the seat.
    ward.receiver.until("what was held", |it| with_value(it, &patient, 170) >= 50).await;
    ward.home.until_page("that nothing is held", |page| !page.contains(" held"));
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_dies_with_its_treatment_without_anybody_unseating() {
    let ward = Ward::open().await;
    let gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    ward.seat(&["seat", "chair-1"], "1001");
    let first = ward.next_patient(&[]).await;
    ward.end(&gateway, 1);
    ward.machine.show(|screen| screen.venous = 191);
    ward.begin(&gateway, 2);
    ward.home.until_page("an empty seat", |page| page.contains("NO PATIENT SEATED"));
    ward.home.until_page("held records", |page| page.contains(" held"));
    gateway.stop();

    let gateway = ward.home.ready("debug");
    gateway.until_count("readings after a restart", 60, |line| line.contains(": kept "));
    gateway.stop();
    assert_eq!(
        with_value(&ward.receiver.resources(), &first, 191),
        0,
        "the next patient landed on the last one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_survives_a_restart_and_a_kill() {
    let ward = Ward::open().await;
    let gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    ward.seat(&["seat", "chair-1"], "1001");
    let patient = ward.next_patient(&[]).await;
    gateway.stop();

    ward.machine.show(|screen| screen.venous = 192);
    let mut gateway = ward.home.ready("debug");
    ward.receiver.until("readings after a restart", |it| with_value(it, &patient, 192) > 0).await;
    gateway.kill();

    ward.machine.show(|screen| screen.venous = 193);
    let gateway = ward.home.ready("debug");
    ward.receiver.until("readings after a kill", |it| with_value(it, &patient, 193) > 0).await;
    gateway.stop();
    assert_eq!(patients(&ward.receiver.resources()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_seat_is_corrected_from_the_treatments_start() {
    let ward = Ward::open().await;
    let gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    ward.seat(&["seat", "chair-1"], "1001");
    let wrong = ward.next_patient(&[]).await;
    let before = with_value(&ward.receiver.resources(), &wrong, 170);
    assert!(before > 0);

    let said = ward.seat(&["seat", "chair-1", "--correct"], "1002");
    assert!(said.contains("is now this patient's from its start"), "{said}");
    ward.receiver.until("nothing of the wrong patient", |it| !patients(it).contains(&wrong)).await;
    let right = ward.next_patient(&[&wrong]).await;
    ward.receiver.until("all of it at the right one", |it| with_value(it, &right, 170) >= before).await;
    gateway.stop();
    assert_eq!(patients(&ward.receiver.resources()), BTreeSet::from([right]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_a_correction_leaves_nothing_in_a_wrong_chart() {
    let ward = Ward::open().await;
    let mut gateway = ward.home.ready("debug");
    ward.begin(&gateway, 1);
    ward.seat(&["seat", "chair-1"], "1001");
    ward.next_patient(&[]).await;
    let random = RandomState::new();
    for round in 0..8_u32 {
        let number = if round % 2 == 0 { "1002" } else { "1001" };
        std::thread::scope(|scope| {
            // It fails where the gateway dies before it answers.
            let asked =
                scope.spawn(|| ward.home.ask(&["seat", "chair-1", "--correct"], &format!("{number}\n")));
            gateway.alive_for(Duration::from_micros(random.hash_one(round) % 60_000));
            gateway.kill();
            asked.join().unwrap();
        });
        gateway = ward.home.ready("debug");
        gateway.until("an answer", |line| line.contains(": kept "));
    }
    // Whoever it was after all that: the last word is a third one's, and nothing stays with anybody else.
    let everybody: Vec<String> =
        ward.receiver.resources().values().filter_map(patient).map(str::to_owned).collect();
    ward.seat(&["seat", "chair-1", "--correct"], "1003");
    let third = ward.next_patient(&everybody.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let alone = BTreeSet::from([third]);
    ward.receiver.until("everything at the third one", |it| patients(it) == alone).await;
    gateway.stop();
}
