//! Records, settings and identities for the tests of this folder.

use super::encode::Encoder;
use super::link::{Answer, Link, Post};
use super::r4::Resource;
use super::writer::Writer;
use crate::clock::Clock;
use crate::config::settings::{
    Changes, Compress, Environment, Every, FhirSettings, GatewaySettings, KeySource, MinTls, ResourceKind,
    SendPolicy, Subject, Unseated, UpstreamKind, UpstreamSettings, Wanted,
};
use crate::model::name::{ChairName, MachineName, UpstreamName};
use crate::model::parameter::Parameter;
use crate::model::time::{ClockTrust, Timestamp};
use crate::model::value::{Doubts, Mark, Reading, Value};
use crate::normalise::Origin;
use crate::privacy::record::{Body, Record, Revision, TreatmentId};
use crate::privacy::{Pseudonym, TreatmentStory};
use crate::spool::{Sequence, StoreId, Stored};
use crate::upstream::tls::LinkFault;
use crate::upstream::{Delivery, Identities, Wire};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::Tick;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tokio::time::sleep;

/// The treatment of most tests.
pub(crate) const TREATMENT: TreatmentId = TreatmentId::from_bytes([7; 16]);

/// 2026-03-02T08:14:30Z.
pub(crate) const NOON: Timestamp = Timestamp::from_micros(1_772_439_270_000_000);

/// Bindings as the test says, ids by a plain hash.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    /// By treatment: the revision in force and the patients of all of them.
    bound: Mutex<BTreeMap<TreatmentId, Vec<&'static str>>>,
    ended: Mutex<Option<Timestamp>>,
}

impl Bindings {
    pub(crate) fn of(treatment: TreatmentId, patient: &'static str) -> Self {
        let it = Self::default();
        it.bind(treatment, patient);
        it
    }

    pub(crate) fn bind(&self, treatment: TreatmentId, patient: &'static str) {
        self.bound.lock().unwrap().entry(treatment).or_default().push(patient);
    }

    pub(crate) fn end(&self, at: Timestamp) {
        *self.ended.lock().unwrap() = Some(at);
    }
}

impl Identities for Bindings {
    fn revision(&self, treatment: TreatmentId) -> Option<Revision> {
        let bound = self.bound.lock().unwrap();
        bound.get(&treatment).map(|patients| Revision(u32::try_from(patients.len()).unwrap()))
    }

    fn subject(&self, _: &UpstreamName, treatment: TreatmentId, revision: Revision) -> Option<Pseudonym> {
        let index = usize::try_from(revision.0.checked_sub(1)?).unwrap();
        let bound = self.bound.lock().unwrap();
        bound.get(&treatment)?.get(index).map(|patient| Pseudonym::sample(patient))
    }

    fn treatment(&self, _: TreatmentId) -> Option<TreatmentStory> {
        Some(TreatmentStory {
            chair: ChairName::new("chair-1").unwrap(),
            machine: MachineName::new("asset-14").unwrap(),
            started: Timestamp::from_micros(NOON.as_micros() - 1_170_000_000),
            ended: *self.ended.lock().unwrap(),
        })
    }

    fn resource_id(&self, recipient: &UpstreamName, about: &[&[u8]]) -> uuid::Uuid {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [recipient.as_str().as_bytes()].iter().chain(about) {
            hash.update(&u64::try_from(part.len()).unwrap().to_be_bytes());
            hash.update(part);
        }
        uuid::Builder::from_custom_bytes(hash.finish().as_ref()[..16].try_into().unwrap()).into_uuid()
    }
}

/// Settings that a test bends to its need.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) gateway: GatewaySettings,
    pub(crate) upstream: UpstreamSettings,
    pub(crate) fhir: FhirSettings,
}

impl Default for Site {
    fn default() -> Self {
        let fhir = FhirSettings {
            url: "https://ehr.clinic.example/fhir".to_owned(),
            subject: Subject::Identifier,
            resources: vec![
                ResourceKind::Observation,
                ResourceKind::Device,
                ResourceKind::DeviceMetric,
                ResourceKind::Procedure,
            ],
            environment: Environment::Production,
            compress: Compress::Auto,
        };
        Self {
            gateway: GatewaySettings {
                name: "ward-3".to_owned(),
                state_dir: "/nowhere".into(),
                time_zone: TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(),
                unseated: Unseated::Hold,
                namespace: "https://clinic.example/chairside".to_owned(),
                environment: Environment::Production,
                trust_clock: false,
                control: "/nowhere/control.sock".into(),
            },
            upstream: UpstreamSettings {
                name: UpstreamName::new("ehr").unwrap(),
                kind: UpstreamKind::Fhir(fhir.clone()),
                ca: "/nowhere/ca.pem".into(),
                certificate: "/nowhere/gateway.pem".into(),
                key: KeySource::File { path: "/nowhere/gateway.key".into(), created: false },
                min_tls: MinTls::V1_3,
                send: SendPolicy {
                    every: Every::Poll,
                    settings: Changes::OnChange,
                    spot: Wanted::Yes,
                    alarms: Wanted::Yes,
                },
            },
            fhir,
        }
    }
}

impl Site {
    pub(crate) fn encoder(&self) -> Encoder {
        Encoder::new(&self.gateway, &self.upstream, &self.fhir)
    }

    /// A gateway and a receiver of test data.
    pub(crate) fn test() -> Self {
        let mut site = Self::default();
        site.gateway.environment = Environment::Test;
        site.fhir.environment = Environment::Test;
        site
    }
}

pub(crate) fn origin() -> Origin {
    Origin {
        chair: ChairName::new("chair-1").unwrap(),
        machine: MachineName::new("asset-14").unwrap(),
        model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
        at: NOON,
        tick: Tick::ZERO,
        clock: ClockTrust::Trusted,
        slot: None,
        previous: Some(Timestamp::from_micros(NOON.as_micros() - 10_000_000)),
        simulated: false,
    }
}

pub(crate) fn stored(sequence: u64, treatment: Option<TreatmentId>, body: Body) -> Stored {
    stored_at(sequence, origin(), treatment, body)
}

pub(crate) fn stored_at(sequence: u64, origin: Origin, treatment: Option<TreatmentId>, body: Body) -> Stored {
    let record = Record::sample(origin, treatment, body);
    Stored { store: StoreId([3; 16]), sequence: Sequence(sequence), record }
}

pub(crate) fn value(key: &str, reading: Reading, mark: Mark) -> Value {
    Value { parameter: Parameter::from_key(key).unwrap(), reading, mark, doubts: Doubts::NONE }
}

pub(crate) fn number(key: &str, text: &str) -> Value {
    value(key, Reading::Number(Decimal::parse(text.as_bytes()).unwrap()), Mark::New)
}

pub(crate) fn json(resource: &Resource) -> serde_json::Value {
    serde_json::to_value(resource).unwrap()
}

/// Keeps virtual time where it is while the network works: tokio's paused clock stands while a blocking task runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stillness(Arc<Mutex<Option<std::sync::mpsc::Sender<()>>>>);

impl Stillness {
    fn begin(&self) {
        let (sender, ended) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || {
            let _ = ended.recv();
        });
        *self.0.lock().unwrap() = Some(sender);
    }

    /// Time may go on.
    pub(crate) fn end(&self) {
        self.0.lock().unwrap().take();
    }
}

/// The real link, in virtual time.
#[derive(Debug)]
struct StilledLink {
    link: Link,
    stillness: Stillness,
}

impl Post for StilledLink {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let connects = self.link.connects();
        let (mut is_still, mut turn) = (false, None);
        let mut posted = pin!(self.link.post(bundle));
        let answer = poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = posted.as_mut().poll(cx) {
                    return Poll::Ready(answer);
                }
                // Who waits for a turn to connect waits for time to go on, and for nothing else.
                let wait = connects.until_turn();
                if wait.is_zero() {
                    turn = None;
                    if !is_still {
                        self.stillness.begin();
                        is_still = true;
                    }
                    return Poll::Pending;
                }
                self.stillness.end();
                is_still = false;
                let due = turn.get_or_insert_with(|| Box::pin(sleep(wait)));
                if due.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                turn = None;
            }
        });
        let answer = answer.await;
        self.stillness.end();
        answer
    }
}

/// The FHIR upstream over the real link, in virtual time.
#[derive(Debug)]
pub(crate) struct StilledUpstream {
    pub(crate) name: UpstreamName,
    writer: Writer<StilledLink>,
}

impl StilledUpstream {
    pub(crate) fn new(site: &Site, bindings: Bindings, clock: Arc<dyn Clock>, stillness: Stillness) -> Self {
        let link = Link::new(site.upstream.clone(), &site.fhir, clock.clone());
        let post = StilledLink { link, stillness };
        let writer = Writer::new(site.encoder(), Arc::new(bindings), clock, post);
        Self { name: site.upstream.name.clone(), writer }
    }

    pub(crate) fn tend_stilled(&mut self) -> Wire {
        self.writer.post.link.tend()
    }

    pub(crate) async fn deliver_stilled(&mut self, batch: &[Stored]) -> Delivery {
        self.writer.deliver(batch).await
    }
}
