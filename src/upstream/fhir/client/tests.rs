//! Delivery against servers that behave, and servers that do not.

use super::*;
use crate::config::settings::{Every, Subject, Unseated};
use crate::model::time::Timestamp;
use crate::privacy::record::{Body, TreatmentId};
use crate::upstream::fhir::link::Answer;
use crate::upstream::fhir::testing::{Bindings, NOON, Site, TREATMENT, number, origin, stored, stored_at};
use crate::upstream::tls::LinkFault;
use chairside_drivers::kit::time::Tick;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A FHIR server that does what the test says.
#[derive(Default)]
struct Server {
    /// Answers to the next requests; when empty, it behaves.
    script: VecDeque<Script>,
    stored: BTreeMap<String, Value>,
    /// The urls of every request.
    requests: Vec<Vec<String>>,
    /// Refuses references to what it does not have.
    checks_references: bool,
    most_entries: Option<usize>,
    /// Part of a url that it answers with this status and issue.
    dislikes: Vec<(String, u16, &'static str)>,
    /// Fails as a whole when a url contains this.
    stumbles_over: Option<String>,
    /// Cannot read a batch in which a url contains this.
    chokes_on: Option<String>,
}

enum Script {
    Reply(u16, Option<&'static str>, String),
    /// Behaves, but answers only the first entries.
    Short(usize),
    Gone,
    /// No connection comes to be.
    Unreached,
}

impl Server {
    fn behave(&mut self, bundle: &Value) -> Answer {
        let entries = bundle["entry"].as_array().unwrap();
        if self.most_entries.is_some_and(|most| entries.len() > most) {
            return answer(413, "too large");
        }
        let any = |part: &Option<String>| {
            part.as_ref().is_some_and(|part| entries.iter().any(|it| url(it).contains(part)))
        };
        if any(&self.stumbles_over) {
            return answer(500, "");
        }
        if any(&self.chokes_on) {
            return answer(400, &outcome("structure", "").to_string());
        }
        let answers: Vec<Value> = entries.iter().map(|entry| json!({"response": self.take(entry)})).collect();
        let reply = json!({"resourceType": "Bundle", "type": "batch-response", "entry": answers});
        answer(200, &reply.to_string())
    }

    fn take(&mut self, entry: &Value) -> Value {
        let url = url(entry);
        if let Some((_, status, issue)) = self.dislikes.iter().find(|(part, ..)| url.contains(part)) {
            return json!({"status": status.to_string(), "outcome": outcome(issue, "")});
        }
        if self.checks_references
            && let Some(missing) =
                references(&entry["resource"]).into_iter().find(|it| !self.stored.contains_key(it))
        {
            let words = format!("Resource {missing} not found");
            return json!({"status": "400 Bad Request", "outcome": outcome("processing", &words)});
        }
        let status =
            if self.stored.insert(url.clone(), entry["resource"].clone()).is_some() { "200" } else { "201" };
        json!({"status": status, "location": format!("{url}/_history/1")})
    }

    fn observations(&self) -> usize {
        self.stored.keys().filter(|url| url.starts_with("Observation/")).count()
    }
}

fn url(entry: &Value) -> String {
    assert_eq!(entry["request"]["method"], "PUT");
    entry["request"]["url"].as_str().unwrap().to_owned()
}

fn references(it: &Value) -> Vec<String> {
    match it {
        Value::Object(all) => {
            let own = all.get("reference").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(all.values().flat_map(references)).collect()
        }
        Value::Array(all) => all.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn outcome(code: &str, words: &str) -> Value {
    json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code, "diagnostics": words}]})
}

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, retry_after: None, body: body.as_bytes().to_vec() }
}

impl Post for Server {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        assert_eq!((&bundle["resourceType"], &bundle["type"]), (&json!("Bundle"), &json!("batch")));
        self.requests.push(bundle["entry"].as_array().unwrap().iter().map(url).collect());
        match self.script.pop_front() {
            None => Ok(self.behave(&bundle)),
            Some(Script::Reply(status, retry_after, body)) => {
                Ok(Answer { status, retry_after: retry_after.map(str::to_owned), body: body.into_bytes() })
            }
            Some(Script::Short(count)) => {
                let mut answer = self.behave(&bundle);
                let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
                body["entry"].as_array_mut().unwrap().truncate(count);
                answer.body = body.to_string().into_bytes();
                Ok(answer)
            }
            Some(Script::Gone) => Err(LinkFault::Away(not_settled(ResourceType::Device))),
            Some(Script::Unreached) => Err(LinkFault::Unreached(not_settled(ResourceType::Device))),
        }
    }
}

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn tick(&self) -> Tick {
        Tick::from_micros(1_000_000)
    }
    fn now(&self) -> (Timestamp, ClockTrust) {
        (NOON, ClockTrust::Trusted)
    }
}

fn writer(site: &Site, bindings: Arc<Bindings>, server: Server) -> Writer<Server> {
    Writer::new(site.encoder(), bindings, Arc::new(Fixed), server)
}

fn seated_writer(server: Server) -> Writer<Server> {
    writer(&Site::default(), Arc::new(Bindings::of(TREATMENT, "p-1")), server)
}

fn reading(sequence: u64) -> Stored {
    stored(sequence, Some(TREATMENT), Body::Values(vec![number("venous_pressure", "142")]))
}

fn readings(sequences: std::ops::Range<u64>) -> Vec<Stored> {
    sequences.map(reading).collect()
}

/// The url under which a reading goes out.
fn url_of(sequence: u64) -> String {
    let bindings = Bindings::of(TREATMENT, "p-1");
    match Site::default().encoder().encode(&reading(sequence), &bindings) {
        Encoded::Write(rendering) => format!("Observation/{}", rendering.parts[0].resource.id()),
        other => panic!("{other:?}"),
    }
}

const DONE: Verdict = done(1);

const fn done(parts: u32) -> Verdict {
    Verdict::Delivered { parts, refused_parts: Vec::new() }
}

fn verdicts(delivery: &Delivery) -> BTreeMap<u64, Verdict> {
    delivery.verdicts.iter().map(|(sequence, verdict)| (sequence.0, verdict.clone())).collect()
}

#[tokio::test]
async fn what_records_refer_to_is_written_first_and_once() {
    let mut site = Site::default();
    site.fhir.subject = Subject::Managed;
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = writer(&site, bindings, Server { checks_references: true, ..Server::default() });
    let delivery = writer.deliver(&readings(1..4)).await;
    assert_eq!(delivery.next, Next::Continue);
    assert_eq!(verdicts(&delivery).into_values().collect::<Vec<_>>(), [DONE, DONE, DONE]);
    assert_eq!(delivery.resources, 4 + 3);
    let types: Vec<_> = writer.post.requests.iter().map(|urls| urls[0].split('/').next().unwrap()).collect();
    assert_eq!(types, ["Device", "DeviceMetric", "Patient", "Procedure", "Observation"]);
    writer.deliver(&readings(4..5)).await;
    assert_eq!(writer.post.requests.len(), 6, "only the reading");
}

#[tokio::test]
async fn delivering_again_changes_nothing_at_the_receiver() {
    let mut first = seated_writer(Server::default());
    first.deliver(&readings(1..4)).await;
    let before = first.post.stored.clone();
    let mut after_restart = seated_writer(Server { stored: before.clone(), ..Server::default() });
    let delivery = after_restart.deliver(&readings(1..4)).await;
    assert_eq!(delivery.verdicts.len(), 3);
    assert_eq!(after_restart.post.stored, before);
}

#[tokio::test]
async fn held_and_unwanted_records_reach_no_server() {
    let mut writer = writer(&Site::default(), Arc::new(Bindings::default()), Server::default());
    let unwanted = stored(2, None, Body::Values(vec![number("venous_pressure", "1")]));
    let delivery = writer.deliver(&[reading(1), unwanted]).await;
    assert_eq!(verdicts(&delivery)[&1], Verdict::Held(TREATMENT));
    assert_eq!(verdicts(&delivery)[&2], Verdict::SkippedByPolicy);
    assert!(writer.post.requests.is_empty());
}

#[tokio::test]
async fn one_refused_entry_delays_no_other() {
    let server = Server { dislikes: vec![(url_of(2), 422, "invariant")], ..Server::default() };
    let mut writer = seated_writer(server);
    let two = Body::Values(vec![number("venous_pressure", "1"), number("arterial_pressure", "2")]);
    let batch = [reading(1), reading(2), stored(3, Some(TREATMENT), two)];
    let delivery = writer.deliver(&batch).await;
    let reason = Reason { status: 422, issue: Some("invariant") };
    assert_eq!(
        verdicts(&delivery),
        BTreeMap::from([(1, DONE), (2, Verdict::Refused { parts: 1, reason }), (3, done(2))])
    );
}

#[tokio::test]
async fn a_record_with_one_refused_part_is_delivered_and_says_so() {
    let two = Body::Values(vec![number("venous_pressure", "1"), number("arterial_pressure", "2")]);
    let record = stored(3, Some(TREATMENT), two);
    let Encoded::Write(rendering) =
        Site::default().encoder().encode(&record, &Bindings::of(TREATMENT, "p-1"))
    else {
        panic!()
    };
    let bad = rendering.parts[1].resource.id().to_owned();
    let mut writer = seated_writer(Server { dislikes: vec![(bad, 400, "value")], ..Server::default() });
    let delivery = writer.deliver(&[record]).await;
    let reason = Reason { status: 400, issue: Some("value") };
    let refused_parts = vec![RefusedPart { part: 1, reason }];
    assert_eq!(delivery.verdicts, [(Sequence(3), Verdict::Delivered { parts: 1, refused_parts })]);
}

#[tokio::test]
async fn a_batch_is_at_most_a_hundred_entries_and_smaller_where_the_server_says_so() {
    let mut writer = seated_writer(Server { most_entries: Some(30), ..Server::default() });
    let delivery = writer.deliver(&readings(0..250)).await;
    assert_eq!(delivery.verdicts.len(), 250);
    assert_eq!(writer.post.observations(), 250);
    let sizes = |writer: &Writer<Server>| writer.post.requests.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&writer)[3..7], [100, 50, 25, 25], "{:?}", sizes(&writer));
    let before = sizes(&writer).len();
    writer.deliver(&readings(250..300)).await;
    assert_eq!(sizes(&writer)[before..], [25, 25], "it remembers");
}

#[tokio::test]
async fn a_batch_the_server_cannot_read_is_halved_down_to_the_bad_entry() {
    let mut writer = seated_writer(Server { chokes_on: Some(url_of(5)), ..Server::default() });
    let delivery = writer.deliver(&readings(0..16)).await;
    let all = verdicts(&delivery);
    let refused = Verdict::Refused { parts: 1, reason: Reason { status: 400, issue: Some("structure") } };
    assert_eq!(all[&5], refused);
    assert_eq!(all.values().filter(|verdict| **verdict == DONE).count(), 15);
}

#[tokio::test]
async fn a_refusal_that_is_not_fhir_pauses_and_gives_nothing_up() {
    for body in ["<html>400 No required SSL certificate was sent</html>", "", "{}", "[1]"] {
        let script = VecDeque::from([Script::Reply(400, None, body.to_owned())]);
        let mut writer = seated_writer(Server { script, ..Server::default() });
        let delivery = writer.deliver(&readings(0..3)).await;
        assert_eq!(delivery.verdicts, []);
        assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "refused_without_fhir"));
        assert_eq!(writer.deliver(&readings(0..3)).await.verdicts.len(), 3, "and then it goes on");
    }
}

#[tokio::test]
async fn whatever_is_no_refusal_leaves_every_record_untried() {
    let fhir = outcome("exception", "").to_string();
    for (status, pauses) in [
        (401, true),
        (403, true),
        (404, true),
        (408, false),
        (429, false),
        (500, false),
        (503, false),
        (302, true),
    ] {
        for after in 0..4 {
            let mut writer = seated_writer(Server::default());
            let behaving = (0..after).map(|_| Script::Short(usize::MAX));
            writer.post.script = behaving.chain([Script::Reply(status, Some("7"), fhir.clone())]).collect();
            let delivery = writer.deliver(&readings(0..3)).await;
            assert_eq!(delivery.verdicts, [], "{status} after {after}");
            match delivery.next {
                Next::Pause(_) => assert!(pauses, "{status}"),
                Next::Wait { at_least, .. } => {
                    assert!(!pauses, "{status}");
                    assert_eq!(at_least, Some(Duration::from_secs(7)));
                }
                Next::Continue => panic!("{status}"),
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_rest_untried_and_what_was_taken_settled() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.script = VecDeque::from([Script::Short(usize::MAX), Script::Gone]);
    let delivery = writer.deliver(&readings(1..151)).await;
    assert_eq!(delivery.verdicts.len(), 100);
    assert!(matches!(delivery.next, Next::Wait { .. }));
}

#[tokio::test]
async fn entries_without_an_answer_are_tried_again_later() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.script = VecDeque::from([Script::Short(2), Script::Short(1), Script::Short(1)]);
    let delivery = writer.deliver(&readings(1..4)).await;
    let later =
        |seconds: u64| Verdict::Retry { not_before: Tick::from_micros(1_000_000 + seconds * 1_000_000) };
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, DONE), (2, DONE), (3, later(5))]));
    let delivery = writer.deliver(&[reading(2), reading(3)]).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(2, DONE), (3, later(10))]));
}

#[tokio::test]
async fn a_receiver_that_lost_its_devices_gets_them_again() {
    let mut writer = seated_writer(Server { checks_references: true, ..Server::default() });
    writer.deliver(&readings(0..1)).await;
    writer.post.stored.clear();
    let delivery = writer.deliver(&readings(1..4)).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, DONE), (2, DONE), (3, DONE)]));
}

#[tokio::test]
async fn a_receiver_that_never_finds_what_it_was_sent_is_believed_at_the_second_time() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let Encoded::Write(rendering) = Site::default().encoder().encode(&reading(1), &bindings) else {
        panic!()
    };
    let words = format!("Resource Device/{} not found", rendering.needs[0].id);
    let refusing = json!({"resourceType": "Bundle", "type": "batch-response", "entry": [
        {"response": {"status": "422", "outcome": outcome("not-found", &words)}}
    ]});
    let behave = || Script::Short(usize::MAX);
    let refuse = || Script::Reply(200, None, refusing.to_string());
    let script = [behave(), behave(), behave(), refuse(), behave(), behave(), behave(), refuse()];
    let mut writer = seated_writer(Server { script: script.into(), ..Server::default() });
    let delivery = writer.deliver(&readings(1..2)).await;
    let reason = Reason { status: 422, issue: Some("not-found") };
    assert_eq!(delivery.verdicts, [(Sequence(1), Verdict::Refused { parts: 1, reason })]);
    assert_eq!(writer.post.requests.len(), 8);
}

#[tokio::test]
async fn a_receiver_that_takes_no_ids_of_ours_pauses() {
    for status in [404, 405] {
        let server = Server {
            dislikes: vec![("Observation/".to_owned(), status, "not-supported")],
            ..Server::default()
        };
        let mut writer = seated_writer(server);
        let delivery = writer.deliver(&readings(0..3)).await;
        assert_eq!(delivery.verdicts, []);
        assert!(
            matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "no_client_ids"),
            "{delivery:?}"
        );
    }
}

#[tokio::test]
async fn a_refused_machine_pauses_and_a_refused_treatment_costs_only_itself() {
    let server =
        Server { dislikes: vec![("DeviceMetric/".to_owned(), 422, "invariant")], ..Server::default() };
    let delivery = seated_writer(server).deliver(&readings(0..3)).await;
    assert_eq!(delivery.verdicts, []);
    assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "machine_refused"));

    let other = TreatmentId::from_bytes([8; 16]);
    let bindings = Bindings::of(TREATMENT, "p-1");
    bindings.bind(other, "p-2");
    let bad = {
        let Encoded::Write(rendering) = Site::default().encoder().encode(&reading(1), &bindings) else {
            panic!()
        };
        rendering.needs.last().unwrap().id.to_string()
    };
    let server = Server { dislikes: vec![(bad, 422, "invariant")], ..Server::default() };
    let mut writer = writer(&Site::default(), Arc::new(bindings), server);
    let good = stored(2, Some(other), Body::Values(vec![number("venous_pressure", "142")]));
    let started = stored(3, Some(TREATMENT), Body::TreatmentStarted);
    let delivery = writer.deliver(&[reading(1), good, started]).await;
    let reason = Reason { status: 422, issue: Some("invariant") };
    assert_eq!(
        verdicts(&delivery),
        BTreeMap::from([(1, DONE), (2, DONE), (3, Verdict::Refused { parts: 1, reason })]),
        "no reading is given up because its treatment was refused"
    );
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("treatment_refused"));
    let parts = |sequence: u64| writer.post.stored.get(&url_of(sequence)).unwrap().get("partOf").is_some();
    assert!(!parts(1), "it goes out without it");
}

#[tokio::test]
async fn a_refused_patient_gives_no_reading_up() {
    let mut site = Site::default();
    site.fhir.subject = Subject::Managed;
    let server = Server { dislikes: vec![("Patient/".to_owned(), 422, "invariant")], ..Server::default() };
    let mut writer = writer(&site, Arc::new(Bindings::of(TREATMENT, "p-1")), server);
    let delivery = writer.deliver(&readings(1..4)).await;
    assert!(delivery.verdicts.iter().all(|(_, it)| matches!(it, Verdict::Retry { .. })), "{delivery:?}");
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("treatment_refused"));
    writer.post.dislikes.clear();
    assert_eq!(verdicts(&writer.deliver(&readings(1..4)).await).into_values().collect::<Vec<_>>(), [DONE; 3]);
}

#[tokio::test]
async fn a_receiver_that_refuses_everything_pauses_before_it_costs_the_ward_its_records() {
    let mut writer = seated_writer(Server::default());
    writer.post.dislikes = vec![("Observation/".to_owned(), 422, "invariant")];
    let first = writer.deliver(&readings(0..32)).await;
    assert_eq!(first.verdicts.len(), 32, "these may have been bad");
    for _ in 0..3 {
        let delivery = writer.deliver(&readings(32..64)).await;
        assert_eq!(delivery.verdicts, []);
        assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "everything_refused"));
    }
    writer.post.dislikes.clear();
    assert_eq!(writer.deliver(&readings(32..64)).await.verdicts.len(), 32);
}

#[tokio::test]
async fn a_need_that_is_not_taken_delays_only_who_needs_it() {
    let other = TreatmentId::from_bytes([8; 16]);
    for (status, word) in [(409, "conflict"), (503, "transient"), (412, "conflict")] {
        let bindings = Bindings::of(TREATMENT, "p-1");
        bindings.bind(other, "p-2");
        let Encoded::Write(rendering) = Site::default().encoder().encode(&reading(1), &bindings) else {
            panic!()
        };
        let procedure = rendering.needs.last().unwrap().id.to_string();
        let dislikes = vec![(procedure, status, word)];
        let server = Server { dislikes, checks_references: true, ..Server::default() };
        let mut writer = writer(&Site::default(), Arc::new(bindings), server);
        for times in 1..5 {
            let good = stored(100 + times, Some(other), Body::Values(vec![number("venous_pressure", "142")]));
            let delivery = writer.deliver(&[reading(1), good]).await;
            assert_eq!(delivery.next, Next::Continue, "{status}");
            let all = verdicts(&delivery);
            assert!(matches!(all[&1], Verdict::Retry { .. }), "{status}: {all:?}");
            assert_eq!(all[&(100 + times)], DONE);
            assert_eq!(delivery.setback.is_some(), times >= 3, "{status} after {times}");
        }
        writer.post.dislikes.clear();
        assert_eq!(verdicts(&writer.deliver(&readings(1..2)).await)[&1], DONE);
    }
}

#[tokio::test]
async fn a_machine_that_is_there_and_cannot_be_written_again_stops_nothing() {
    let mut first = seated_writer(Server::default());
    first.deliver(&readings(1..2)).await;
    let stored = first.post.stored.clone();
    let dislikes = vec![("Device/".to_owned(), 412, "conflict")];
    let mut writer = seated_writer(Server { stored, dislikes, checks_references: true, ..Server::default() });
    for _ in 0..2 {
        let delivery = writer.deliver(&readings(2..3)).await;
        assert!(matches!(delivery.verdicts[0].1, Verdict::Retry { .. }), "{delivery:?}");
    }
    assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, [(Sequence(2), DONE)]);
}

#[tokio::test]
async fn a_conflict_counts_only_in_a_row() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    for status in [503, 503, 409, 409, 503, 409, 409] {
        writer.post.dislikes = vec![(url_of(1), status, "conflict")];
        let delivery = writer.deliver(&readings(1..2)).await;
        assert!(matches!(delivery.verdicts[0].1, Verdict::Retry { .. }), "{status}: {delivery:?}");
    }
    let delivery = writer.deliver(&readings(1..2)).await;
    assert!(matches!(delivery.verdicts[0].1, Verdict::Refused { .. }), "{delivery:?}");
}

#[tokio::test]
async fn a_record_of_an_untrusted_clock_is_kept_back_and_said_so() {
    let mut writer = seated_writer(Server::default());
    let mut origin = origin();
    origin.clock = ClockTrust::Untrusted;
    let early = stored_at(1, origin, Some(TREATMENT), Body::Values(vec![number("venous_pressure", "142")]));
    let delivery = writer.deliver(&[early, reading(2)]).await;
    let not_before = Tick::from_micros(61_000_000);
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, Verdict::Retry { not_before }), (2, DONE)]));
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("untrusted_clock"));
    assert_eq!(writer.post.observations(), 1);
}

#[tokio::test]
async fn an_entry_the_server_stumbles_over_is_found_and_the_others_go_on() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.stumbles_over = Some(url_of(9));
    for _ in 0..4 {
        let delivery = writer.deliver(&readings(1..17)).await;
        assert_eq!(delivery.verdicts, []);
        assert!(matches!(delivery.next, Next::Wait { .. }));
    }
    let delivery = writer.deliver(&readings(1..17)).await;
    let all = verdicts(&delivery);
    assert!(matches!(all[&9], Verdict::Retry { .. }), "a fault is never a refusal");
    assert_eq!(all.values().filter(|verdict| **verdict == DONE).count(), 15);
}

#[tokio::test]
async fn a_server_that_is_down_is_not_searched_for_ever() {
    let mut writer = seated_writer(Server { stumbles_over: Some("/".to_owned()), ..Server::default() });
    for _ in 0..10 {
        writer.deliver(&readings(0..100)).await;
    }
    writer.post.requests.clear();
    let delivery = writer.deliver(&readings(0..100)).await;
    assert!(matches!(delivery.next, Next::Wait { .. }));
    assert!(writer.post.requests.len() <= 12, "{}", writer.post.requests.len());
}

#[tokio::test]
async fn a_conflict_that_never_ends_is_a_refusal_at_the_third_time() {
    let server = Server { dislikes: vec![(url_of(1), 409, "conflict")], ..Server::default() };
    let mut writer = seated_writer(server);
    for _ in 0..2 {
        assert!(matches!(writer.deliver(&readings(1..2)).await.verdicts[0].1, Verdict::Retry { .. }));
    }
    let reason = Reason { status: 409, issue: Some("conflict") };
    assert_eq!(writer.deliver(&readings(1..2)).await.verdicts[0].1, Verdict::Refused { parts: 1, reason });
}

#[tokio::test]
async fn a_throttling_server_gets_fewer_at_a_time() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.dislikes = vec![("Observation/".to_owned(), 429, "throttled")];
    let delivery = writer.deliver(&readings(1..9)).await;
    assert_eq!(delivery.verdicts, []);
    assert!(matches!(delivery.next, Next::Wait { .. }));
    writer.post.dislikes.clear();
    writer.post.requests.clear();
    assert_eq!(writer.deliver(&readings(1..9)).await.verdicts.len(), 8);
    let sizes = |writer: &Writer<Server>| writer.post.requests.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&writer), [4, 4], "half of what it was sent, however many entries said so");
    writer.post.requests.clear();
    writer.deliver(&readings(100..400)).await;
    assert_eq!(sizes(&writer)[..3], [24, 34, 44], "and more again once it is at ease");
    assert_eq!(sizes(&writer).iter().max(), Some(&74));
}

#[tokio::test]
async fn a_correction_takes_back_before_it_writes_anew() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.deliver(&readings(1..4)).await;
    bindings.bind(TREATMENT, "p-right");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    writer.post.requests.clear();
    let delivery = writer.correct(correction, &readings(1..4)).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, done(2)), (2, done(2)), (3, done(2))]));
    let of = |status: &str| {
        let all = writer.post.stored.values().filter(|it| it["resourceType"] == "Observation");
        let all = all.filter(|it| it["status"] == status);
        all.map(|it| it["subject"]["identifier"]["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("entered-in-error"), ["p-wrong"; 3]);
    assert_eq!(of("final"), ["p-right"; 3]);
    let procedures = writer.post.stored.values().filter(|it| it["resourceType"] == "Procedure");
    let mut states: Vec<_> = procedures.map(|it| it["status"].as_str().unwrap()).collect();
    states.sort_unstable();
    assert_eq!(states, ["entered-in-error", "in-progress"]);
}

const CORRECTION: Correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };

fn statuses(writer: &Writer<Server>, patient: &str) -> Vec<String> {
    let all = writer.post.stored.values().filter(|it| it["resourceType"] == "Observation");
    let all = all.filter(|it| it["subject"]["identifier"]["value"] == patient);
    all.map(|it| it["status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_was_never_written_is_not_taken_back_either() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.history.begins_behind(Sequence(0));
    writer.deliver(&readings(1..2)).await;
    writer.post.script = (0..1).map(|_| Script::Unreached).collect();
    assert_eq!(writer.deliver(&readings(2..7)).await.verdicts, []);
    bindings.bind(TREATMENT, "p-right");
    // Two are delivered under the right binding before the correction comes; three come later.
    writer.deliver(&readings(2..4)).await;
    let delivery = writer.correct(CORRECTION, &readings(1..7)).await;
    assert_eq!(delivery.verdicts.len(), 6, "{delivery:?}");
    assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"], "only what stood there");
    assert_eq!(statuses(&writer, "p-right"), ["final"; 3]);
    writer.deliver(&readings(4..7)).await;
    assert_eq!(statuses(&writer, "p-right"), ["final"; 6]);
}

#[tokio::test]
async fn what_was_sent_and_never_answered_is_taken_back() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.history.begins_behind(Sequence(0));
    writer.deliver(&readings(1..2)).await;
    writer.post.script = VecDeque::from([Script::Gone]);
    assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, []);
    bindings.bind(TREATMENT, "p-right");
    writer.correct(CORRECTION, &readings(1..3)).await;
    assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"; 2]);
}

#[tokio::test]
async fn what_an_earlier_process_wrote_is_taken_back_whatever_is_to_be_sent_now() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut before = writer(&Site::default(), bindings.clone(), Server::default());
    before.deliver(&readings(1..4)).await;
    bindings.bind(TREATMENT, "p-right");
    let mut site = Site::default();
    site.upstream.send.every = Every::Window(Duration::from_secs(300));
    let stored = before.post.stored.clone();
    let mut after = writer(&site, bindings, Server { stored, ..Server::default() });
    after.history.begins_behind(Sequence(3));
    after.correct(CORRECTION, &readings(1..4)).await;
    assert_eq!(statuses(&after, "p-wrong"), ["entered-in-error"; 3]);
}

#[tokio::test]
async fn a_refused_taking_back_pauses_and_leaves_the_correction_open() {
    for what in ["Observation", "Procedure"] {
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
        let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
        writer.history.begins_behind(Sequence(0));
        writer.deliver(&readings(1..4)).await;
        bindings.bind(TREATMENT, "p-right");
        let url = writer.post.stored.keys().find(|url| url.starts_with(what)).unwrap().clone();
        writer.post.dislikes = vec![(url, 422, "invariant")];
        let delivery = writer.correct(CORRECTION, &readings(1..4)).await;
        assert_eq!(delivery.verdicts, [], "{what}");
        assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "correction_refused"));
        writer.post.dislikes.clear();
        let delivery = writer.correct(CORRECTION, &readings(1..4)).await;
        assert_eq!((delivery.verdicts.len(), delivery.next), (3, Next::Continue));
        assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"; 3]);
    }
}

#[tokio::test]
async fn what_was_refused_when_it_was_written_need_not_be_taken_back() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.history.begins_behind(Sequence(0));
    let two = Body::Values(vec![number("venous_pressure", "1"), number("arterial_pressure", "2")]);
    let record = stored(1, Some(TREATMENT), two);
    let Encoded::Write(rendering) = Site::default().encoder().encode(&record, &*bindings) else { panic!() };
    writer.post.dislikes = vec![(rendering.parts[1].resource.id().to_owned(), 422, "invariant")];
    writer.deliver(std::slice::from_ref(&record)).await;
    bindings.bind(TREATMENT, "p-right");
    let delivery = writer.correct(CORRECTION, &[record]).await;
    assert_eq!(delivery.next, Next::Continue);
    // Taken back, and two written anew.
    assert_eq!(delivery.verdicts, [(Sequence(1), done(3))]);
    assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"]);
}

#[tokio::test]
async fn a_correction_overtaken_by_another_only_takes_back() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.deliver(&readings(1..2)).await;
    bindings.bind(TREATMENT, "p-2");
    bindings.bind(TREATMENT, "p-3");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    writer.correct(correction, &readings(1..2)).await;
    assert!(!format!("{:?}", writer.post.stored).contains("p-2"));
    assert!(!format!("{:?}", writer.post.stored).contains("p-3"));
}

#[tokio::test]
async fn a_first_seat_rewrites_nothing_that_was_held() {
    let correction = Correction { treatment: TREATMENT, old: Revision(0), new: Revision(1) };
    let mut held = seated_writer(Server::default());
    held.correct(correction, &readings(1..4)).await;
    assert!(held.post.requests.is_empty(), "the release delivers them");

    let mut site = Site::default();
    site.gateway.unseated = Unseated::Machine;
    let bindings = Arc::new(Bindings::default());
    let mut sent = writer(&site, bindings.clone(), Server::default());
    sent.deliver(&readings(1..2)).await;
    bindings.bind(TREATMENT, "p-1");
    sent.correct(correction, &readings(1..2)).await;
    let mut states: Vec<_> =
        sent.post.stored.values().filter(|it| it["resourceType"] == "Observation").collect();
    states.sort_by_key(|it| it["status"].to_string());
    assert_eq!((&states[0]["status"], &states[1]["status"]), (&json!("entered-in-error"), &json!("final")));
    assert!(states[0]["subject"]["reference"].as_str().unwrap().starts_with("Device/"));
    assert_eq!(states[1]["subject"]["identifier"]["value"], "p-1");
}

#[tokio::test]
async fn a_correction_that_is_cut_off_settles_nothing() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.deliver(&readings(1..2)).await;
    bindings.bind(TREATMENT, "p-2");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    for cut_at in 0..4 {
        writer.post.script = (0..cut_at).map(|_| Script::Short(usize::MAX)).chain([Script::Gone]).collect();
        let delivery = writer.correct(correction, &readings(1..2)).await;
        if delivery.next == Next::Continue {
            assert!(cut_at > 0);
            assert_eq!(delivery.verdicts.len(), 1);
        } else {
            assert_eq!(delivery.verdicts, []);
        }
        writer.post.script.clear();
    }
}

/// What a server can come up with, one request at a time.
fn any_script() -> impl Strategy<Value = Vec<Whim>> {
    let entry = prop_oneof![
        5 => Just("201".to_owned()),
        1 => "[0-9]{3}",
        1 => "\\PC{0,5}",
    ];
    let whim = prop_oneof![
        4 => Just(Whim::Behave),
        2 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(status, body)| Whim::Bytes(status, body)),
        2 => prop::sample::select(vec![200_u16, 400, 401, 404, 409, 413, 422, 429, 500, 503]).prop_map(Whim::Outcome),
        4 => prop::collection::vec(entry, 0..8).prop_map(Whim::Entries),
        1 => Just(Whim::Gone),
    ];
    prop::collection::vec(whim, 0..30)
}

#[derive(Clone, Debug)]
enum Whim {
    Behave,
    Bytes(u16, Vec<u8>),
    Outcome(u16),
    Entries(Vec<String>),
    Gone,
}

/// Notes which urls it said yes to.
struct Moody {
    whims: VecDeque<Whim>,
    said_yes: BTreeSet<String>,
}

impl Post for Moody {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        let urls: Vec<String> = bundle["entry"].as_array().unwrap().iter().map(url).collect();
        let respond = |statuses: &mut dyn Iterator<Item = String>| {
            let entries: Vec<_> = statuses.map(|status| json!({"response": {"status": status}})).collect();
            answer(
                200,
                &json!({"resourceType": "Bundle", "type": "batch-response", "entry": entries}).to_string(),
            )
        };
        match self.whims.pop_front().unwrap_or(Whim::Outcome(503)) {
            Whim::Behave => {
                self.said_yes.extend(urls.iter().cloned());
                Ok(respond(&mut urls.iter().map(|_| "200".to_owned())))
            }
            Whim::Bytes(status, body) => Ok(Answer { status, retry_after: None, body }),
            Whim::Outcome(status) => Ok(answer(status, &outcome("processing", "").to_string())),
            Whim::Entries(statuses) => {
                let yes = |status: &String| {
                    matches!(status.split_whitespace().next(), Some("200" | "201" | "204" | "304"))
                };
                if statuses.len() <= urls.len() {
                    let said = urls.iter().zip(&statuses).filter(|(_, status)| yes(status));
                    self.said_yes.extend(said.map(|(url, _)| url.clone()));
                }
                Ok(respond(&mut statuses.into_iter()))
            }
            Whim::Gone => Err(LinkFault::Cut(not_settled(ResourceType::Device))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_a_server_answers_nothing_is_settled_that_it_did_not_take(whims in any_script()) {
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
        let moody = Moody { whims: whims.into(), said_yes: BTreeSet::new() };
        let mut writer = Writer::new(Site::default().encoder(), bindings, Arc::new(Fixed), moody);
        let batch = readings(0..6);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..6 {
            let delivery = runtime.block_on(writer.deliver(&batch));
            let mut seen = BTreeSet::new();
            for (sequence, verdict) in delivery.verdicts {
                prop_assert!(seen.insert(sequence), "two verdicts on one record");
                if verdict == DONE {
                    prop_assert!(writer.post.said_yes.contains(&url_of(sequence.0)));
                }
                let never = matches!(verdict, Verdict::Held(_) | Verdict::SkippedByPolicy);
                prop_assert!(!never, "the server decides neither of these");
                if let Verdict::Refused { reason, .. } = verdict {
                    prop_assert!(!matches!(reason.status, 401 | 403 | 408 | 429 | 500..), "{reason:?}");
                }
            }
        }
    }
}
