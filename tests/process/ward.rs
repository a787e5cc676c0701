//! A chair as a nurse meets it: status and seats from the command line, at a machine that answers.

use crate::gateway::{Home, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_what_the_machine_shows_and_never_who_sits_there() {
    let (machine, pki) = (Machine::start(Screen::default()), Pki::new());
    let receiver = Receiver::start(&pki).await;
    let home = Home::new(&Wishes {
        chairs: &[&machine],
        receiver: Some((&receiver, &pki)),
        unseated: "hold",
        ..Wishes::default()
    });
    let gateway = home.ready("debug");
    gateway.until("the treatment", |line| line.contains("treatment started"));

    let (code, said, why) = home.ask(&["seat", "chair-1"], "MRN-4711-CANARY\n");
    assert_eq!(code, Some(0), "{why}");
    assert!(said.starts_with("chair-1: patient seated on the treatment running since "), "{said}");
    let (_, again, _) = home.ask(&["seat", "chair-1"], "MRN-4711-CANARY\n");
    assert!(again.contains("seated already"), "{again}");

    let page = home.until_page("the treatment", |page| page.contains("chair-1  answering, treating"));
    assert!(page.contains("patient seated"), "{page}");
    assert!(page.contains("170 mmHg"), "{page}");
    assert!(!page.contains("CANARY"), "{page}");

    receiver
        .until("readings of a patient", |resources| {
            resources.values().any(|it| it["subject"]["identifier"]["value"].is_string())
        })
        .await;

    let (_, said, _) = home.ask(&["unseat", "chair-1"], "");
    assert!(said.contains("patient unseated"), "{said}");
    let log = gateway.stop().join("\n");
    assert!(!log.contains("CANARY"), "{log}");
    assert!(!String::from_utf8_lossy(&receiver.raw()).contains("CANARY"));
    let audit = std::fs::read_to_string(home.state().join("audit.jsonl")).unwrap();
    let acts: Vec<&str> =
        ["\"outcome\":\"bound\"", "\"outcome\":\"already_seated\"", "\"outcome\":\"unseated\""]
            .into_iter()
            .filter(|act| audit.contains(act))
            .collect();
    assert_eq!(acts.len(), 3, "{audit}");
    assert!(!audit.contains("CANARY"), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_machine_and_a_pulled_cable_are_plain_to_see() {
    let machine = Machine::start(Screen { mute: true, ..Screen::default() });
    let home = Home::new(&Wishes { chairs: &[&machine], ..Wishes::default() });
    let gateway = home.ready("debug");
    gateway.until("a missed poll", |line| line.contains("poll missed"));
    gateway.until_count("missed polls", 2, |line| line.contains("poll missed"));
    let page = home.until_page("the silence", |page| page.contains("! chair-1  SILENT for"));
    assert!(page.contains("look whether the machine is on"), "{page}");

    machine.show(|screen| screen.mute = false);
    gateway.until("the gap", |line| line.contains("polls missed") && line.contains("MachineSilent"));
    drop(machine);
    gateway.until("the cable", |line| line.contains("line down"));
    let page = home.until_page("the missing line", |page| page.contains("! chair-1  NO LINE for"));
    assert!(page.contains("there is no such port") || page.contains("the port is gone"), "{page}");
    gateway.stop();
}

#[tokio::test]
async fn a_restart_goes_on_with_the_treatment_of_the_same_machine_and_with_no_other_machines() {
    let machine = Machine::start(Screen::default());
    let home = Home::new(&Wishes { chairs: &[&machine], ..Wishes::default() });
    let gateway = home.ready("debug");
    gateway.until("the treatment", |line| line.contains("treatment started"));
    gateway.until("a reading", |line| line.contains("kept"));
    gateway.stop();

    let gateway = home.ready("debug");
    gateway.until("a reading", |line| line.contains("kept"));
    let log = gateway.stop();
    assert!(!log.iter().any(|line| line.contains("treatment started")), "{log:?}");

    // The elapsed time agrees as well as before; only the machine's name says that it is another one.
    let config = std::fs::read_to_string(home.config()).unwrap();
    home.write("gateway.toml", &config.replace("asset-1", "asset-15"));
    let gateway = home.ready("debug");
    gateway.until("the other machine", |line| line.contains("the chair has another machine"));
    gateway.until("the next treatment", |line| line.contains("treatment started"));
    gateway.stop();
}
