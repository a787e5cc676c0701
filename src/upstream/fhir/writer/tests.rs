//! Delivery against servers that behave, and servers that do not.

mod batches;
mod clock;
mod corrections;
mod fates;
mod moods;
mod needs;
mod refusals;

use super::trouble::not_settled;
use super::*;
use crate::clock::SystemClock;
use crate::config::settings::{Every, Subject, Unseated};
use crate::model::time::Timestamp;
use crate::privacy::record::{Body, TreatmentId};
use crate::spool::{Reason, RefusedPart};
use crate::upstream::fhir::link::Answer;
use crate::upstream::fhir::r4::ResourceType;
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
    /// The same, for any of these urls.
    chokes_on_any: BTreeSet<String>,
    /// Answers 413, as FHIR, to every batch with this url.
    too_large: Option<String>,
    /// How long each answer takes.
    latency: Duration,
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
        if any(&self.too_large) {
            return answer(413, &outcome("too-long", "").to_string());
        }
        if any(&self.stumbles_over) {
            return answer(500, "");
        }
        if any(&self.chokes_on) || entries.iter().any(|it| self.chokes_on_any.contains(&url(it))) {
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
    Answer { status, body: body.as_bytes().to_vec(), ..Answer::default() }
}

impl Post for Server {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        assert_eq!((&bundle["resourceType"], &bundle["type"]), (&json!("Bundle"), &json!("batch")));
        self.requests.push(bundle["entry"].as_array().unwrap().iter().map(url).collect());
        match self.script.pop_front() {
            None => Ok(self.behave(&bundle)),
            Some(Script::Reply(status, retry_after, body)) => {
                let retry_after = retry_after.map(str::to_owned);
                Ok(Answer { status, retry_after, body: body.into_bytes() })
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
        Encoded::Write(rendering) => format!("Observation/{}", rendering.parts[0].draft.id()),
        other => panic!("{other:?}"),
    }
}

const DONE: Verdict = done(1);

const fn done(parts: u32) -> Verdict {
    Verdict::Delivered { parts, refused_parts: Vec::new() }
}

/// What becomes of a batch once its refusals are believed: a hundred good answers later.
async fn believed(writer: &mut Writer<Server>, batch: &[Stored]) -> Delivery {
    let mut delivery = writer.deliver(batch).await;
    assert_eq!(delivery.next, Next::Continue);
    let is_open = |stored: &&Stored| {
        let of_it = delivery.verdicts.iter().filter(|(it, _)| *it == stored.sequence);
        of_it.clone().all(|(_, verdict)| matches!(verdict, Verdict::Retry { .. }))
    };
    let again: Vec<Stored> = batch.iter().filter(is_open).cloned().collect();
    assert!(!again.is_empty(), "no refusal is believed at once");
    let good = writer.deliver(&readings(10_000..10_100)).await;
    assert!(good.verdicts.iter().all(|(_, verdict)| *verdict == DONE), "{good:?}");
    let requests = writer.post.requests.len();
    let second = writer.deliver(&again).await;
    assert_eq!(writer.post.requests.len(), requests, "what is refused is not sent again");
    delivery.verdicts.retain(|(_, verdict)| !matches!(verdict, Verdict::Retry { .. }));
    delivery.verdicts.extend(second.verdicts);
    delivery
}

fn verdicts(delivery: &Delivery) -> BTreeMap<u64, Verdict> {
    delivery.verdicts.iter().map(|(sequence, verdict)| (sequence.0, verdict.clone())).collect()
}
