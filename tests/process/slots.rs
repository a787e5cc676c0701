//! Is any poll missing, and why: what the gateway counts, against what the machines answered and what a receiver was told.

use crate::delivery::{COUNTED, VENOUS, is_kept, readings};
use crate::gateway::{Home, Running, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::time::Duration;

const CHAIRS: [&str; 3] = ["chair-1", "chair-2", "chair-3"];
const EVERY_MS: i64 = 20;
/// What is shown as venous pressure says which chair it is: this much more than the number of the chair.
const VENOUS_OF_FIRST: u16 = 171;
const LOG: &str = "info,chairside::gateway=debug,chairside::poll=debug";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_poll_is_captured_or_missing_by_a_cause_and_the_receiver_was_told_the_same() {
    let cables = tempfile::tempdir().unwrap();
    let plug = |number: u16, counts: u32| {
        let venous = VENOUS_OF_FIRST + number;
        let mut machine = Machine::start(Screen { venous, counts: Some(counts), ..Screen::default() });
        let port = cables.path().join(format!("port-{number}"));
        symlink(&machine.port, &port).unwrap();
        machine.port = port;
        machine
    };
    let (first, second, third, pki) = (plug(0, 0), plug(1, 0), plug(2, 0), Pki::new());
    let receiver = Receiver::start(&pki).await;
    let home = Home::new(&Wishes {
        chairs: &[&first, &second, &third],
        receiver: Some((&receiver, &pki)),
        ..Wishes::default()
    });

    let mut gateway = home.ready(LOG);
    gateway.until_count("readings kept", 60, is_kept);
    second.show(|screen| screen.mute = true);
    gateway.until_count("missed polls", 5, |line| line.contains("poll missed") && line.contains("chair-2"));
    second.show(|screen| screen.mute = false);
    gateway.until("the silence", is_gap("chair-2", "MachineSilent"));
    std::fs::remove_file(&third.port).unwrap();
    drop(third);
    gateway.until("the cable", |line| line.contains("line down") && line.contains("chair-3"));
    let third = plug(2, 40_000);
    gateway.until("the cable's gap", is_gap("chair-3", "LineDown"));
    // A kill before the commit would take the gap with it, and make it one of the gateway's own.
    receiver
        .until("both gaps with their causes", |resources| {
            let causes =
                || resources.values().filter(|it| it["code"]["coding"][0]["code"] == "gap").map(cause_of);
            causes().any(|cause| cause == "machine silent") && causes().any(|cause| cause == "line down")
        })
        .await;
    // The page and the answer agree with the receiver later; here only that both are asked under load.
    assert_eq!(home.ask(&["gaps", "--chair", "chair-2"], "").0, Some(0));
    kill_under_load(&mut gateway, Duration::from_micros(313_131));

    let mut gateway = home.ready(LOG);
    receiver.cut_off(true);
    kill_under_load(&mut gateway, Duration::from_micros(71_717));
    let gateway = home.ready(LOG);
    gateway.until_count("readings kept", 60, is_kept);
    receiver.cut_off(false);
    gateway.stop();

    // From here on nothing is captured any more, and a silence is told only after five minutes: the counts stand still.
    let gateway = home.ready(LOG);
    gateway.until_count("readings kept", 30, is_kept);
    for machine in [&first, &second, &third] {
        machine.show(|screen| screen.mute = true);
    }
    for chair in CHAIRS {
        gateway.until("a silence", |line| line.contains("poll missed") && line.contains(chair));
    }
    gateway.stop();
    let asked = [("chair-1", &first), ("chair-2", &second)].map(|(chair, machine)| (chair, asked(machine)));
    let gateway = home.ready(LOG);
    home.until_page("an empty queue", |page| page.contains("Nothing waits to be sent."));

    let (code, said, why) = home.ask(&["status", "--json"], "");
    assert_eq!(code, Some(0), "{why}");
    let status: Value = serde_json::from_str(&said).unwrap();
    let told = Told::of(&receiver.resources());
    assert_eq!(status["slots"]["unaccounted"], 0, "{said}");
    for (place, chair) in CHAIRS.into_iter().enumerate() {
        let slots = &status["chairs"][place]["slots"];
        assert_eq!(status["chairs"][place]["name"], chair);
        let missing: BTreeMap<String, u64> = serde_json::from_value(slots["missing"].clone()).unwrap();
        assert_eq!(slots["unaccounted"], 0, "{chair}: {slots}");
        assert_eq!(slots["captured"], told.captured[chair].len() as u64, "{chair}: {slots}");
        assert_eq!(missing, told.missing[chair], "{chair}: {slots}");
        told.nothing_is_between(chair, slots["captured"].as_u64().unwrap() + missing.values().sum::<u64>());
    }
    for (chair, cause) in
        [("chair-2", "machine silent"), ("chair-3", "line down"), ("chair-1", "gateway down")]
    {
        assert!(told.missing[chair].contains_key(cause), "{chair}: {:?}", told.missing[chair]);
    }
    assert_gaps_say_the_same(&home, &told);
    gateway.stop();
    asked
        .into_iter()
        .for_each(|(chair, asked)| told.what_was_asked_and_did_not_arrive_is_missing(chair, asked));
}

/// How often the machine was asked.
fn asked(machine: &Machine) -> u32 {
    let mut asked = 0;
    machine.show(|screen| asked = screen.counts.unwrap_or_default());
    asked
}

fn is_gap(chair: &'static str, cause: &'static str) -> impl Fn(&str) -> bool {
    move |line| line.contains("polls missed") && line.contains(chair) && line.contains(cause)
}

fn kill_under_load(gateway: &mut Running, instant: Duration) {
    gateway.until_count("readings kept", 30, is_kept);
    gateway.alive_for(instant);
    gateway.kill();
}

/// `chairside gaps`: the ranges add up to what the receiver was told, and the first line says that nothing is unaccounted for.
fn assert_gaps_say_the_same(home: &Home, told: &Told) {
    let (code, said, why) = home.ask(&["gaps", "--json"], "");
    assert_eq!(code, Some(0), "{why}");
    let gaps: Value = serde_json::from_str(&said).unwrap();
    for (place, chair) in CHAIRS.into_iter().enumerate() {
        let of_chair = &gaps["chairs"][place];
        assert_eq!(of_chair["name"], chair);
        assert_eq!(of_chair["older"], 0, "{said}");
        let mut missing: BTreeMap<String, u64> = BTreeMap::new();
        for range in of_chair["ranges"].as_array().unwrap() {
            let cause = range["cause"].as_str().unwrap().to_owned();
            *missing.entry(cause).or_default() += range["polls"].as_u64().unwrap();
        }
        assert_eq!(missing, told.missing[chair], "{chair}: {said}");
    }
    let (code, page, _) = home.ask(&["gaps"], "");
    assert_eq!(code, Some(0));
    assert!(page.starts_with("0 polls unaccounted for; "), "{page}");
    for words in ["chair-2", "machine silent", "chair-3", "line down", "gateway down"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let (code, page, _) = home.ask(&["gaps", "--chair", "chair-1"], "");
    assert_eq!((code, page.contains("chair-3")), (Some(0), false), "{page}");
    let (code, _, why) = home.ask(&["gaps", "--chair", "chair-9"], "");
    assert_eq!(code, Some(1));
    assert!(why.contains("there are chair-1, chair-2, chair-3"), "{why}");
}

/// What the receiver knows of the polls of each chair.
struct Told {
    /// The machine's own count of each answer, with its time in milliseconds.
    captured: BTreeMap<&'static str, BTreeMap<u32, i64>>,
    missing: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// From the first start of a reading or a gap to the last end.
    span: BTreeMap<&'static str, (i64, i64)>,
}

impl Told {
    fn of(resources: &BTreeMap<String, Value>) -> Self {
        let machine =
            |id: &str| resources[id]["subject"]["reference"].as_str().unwrap_or_default().to_owned();
        let all = readings(resources);
        let chairs: BTreeMap<String, &'static str> = all
            .iter()
            .filter(|(code, ..)| code == VENOUS)
            .map(|(_, value, _, id)| {
                let number = value.parse::<u16>().unwrap() - VENOUS_OF_FIRST;
                (machine(id), CHAIRS[usize::from(number)])
            })
            .collect();
        assert_eq!(chairs.values().collect::<BTreeSet<_>>().len(), CHAIRS.len(), "{chairs:?}");
        let mut told = Self {
            captured: CHAIRS.map(|chair| (chair, BTreeMap::new())).into(),
            missing: CHAIRS.map(|chair| (chair, BTreeMap::new())).into(),
            span: BTreeMap::new(),
        };
        for (_, count, at, id) in all.iter().filter(|(code, ..)| code == COUNTED) {
            let chair = chairs[&machine(id)];
            let again = told.captured.get_mut(chair).unwrap().insert(count.parse().unwrap(), *at);
            assert_eq!(again, None, "{chair}: answer {count} twice");
            told.reach(chair, *at, *at + EVERY_MS);
        }
        for (id, gap) in resources.iter().filter(|(_, it)| it["code"]["coding"][0]["code"] == "gap") {
            let chair = chairs[&machine(id)];
            let cause = cause_of(gap);
            let slots = part(gap, "slots")["valueQuantity"]["value"].as_u64().unwrap();
            *told.missing.get_mut(chair).unwrap().entry(cause.to_owned()).or_default() += slots;
            let time = |end: &str| -> i64 {
                gap["effectivePeriod"][end]
                    .as_str()
                    .unwrap()
                    .parse::<jiff::Timestamp>()
                    .unwrap()
                    .as_millisecond()
            };
            told.reach(chair, time("start"), time("end"));
        }
        told
    }

    fn reach(&mut self, chair: &'static str, from: i64, to: i64) {
        let span = self.span.entry(chair).or_insert((from, to));
        *span = (span.0.min(from), span.1.max(to));
    }

    /// By the clock alone: from the first poll to the last, one every interval. An answer is late by what the machine and the
    /// computer take, and each of the five starts counts from its own instant.
    fn nothing_is_between(&self, chair: &str, polls: u64) {
        let (from, to) = self.span[chair];
        let due = (to - from) / EVERY_MS;
        let polls = i64::try_from(polls).unwrap();
        assert!((due - polls).abs() <= 15, "{chair}: {due} polls were due by the clock, {polls} are told of");
    }

    /// By the machine alone: what it was asked and no receiver has is not more than what is missing.
    fn what_was_asked_and_did_not_arrive_is_missing(&self, chair: &str, asked: u32) {
        let arrived = &self.captured[chair];
        let gone = (1..=asked).filter(|count| !arrived.contains_key(count)).count() as u64;
        assert!(arrived.keys().all(|count| *count <= asked), "{chair}: never answered {arrived:?}");
        let missing: u64 = self.missing[chair].values().sum();
        assert!(gone > 0, "{chair}: nothing was lost, so nothing was tested");
        assert!(gone <= missing, "{chair}: {gone} answers never arrived, {missing} polls are missing");
    }
}

fn part<'a>(observation: &'a Value, code: &str) -> &'a Value {
    let parts = observation["component"].as_array().unwrap();
    parts.iter().find(|part| part["code"]["coding"][0]["code"] == code).unwrap()
}

fn cause_of(gap: &Value) -> &'static str {
    words(part(gap, "cause")["valueCodeableConcept"]["coding"][0]["code"].as_str().unwrap())
}

/// The receiver's code of a cause, as `status` says it.
fn words(code: &str) -> &'static str {
    match code {
        "machine-silent" => "machine silent",
        "answer-faulty" => "answer faulty",
        "line-down" => "line down",
        "gateway-down" => "gateway down",
        "not-kept" => "not kept in time",
        "lost-in-store" => "lost in store",
        other => panic!("a cause nobody knows: {other}"),
    }
}
