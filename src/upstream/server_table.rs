//! What becomes of records at servers that misbehave: real TLS on loopback, virtual time, the whole forwarder.
//!
//! For every such server: nothing is lost, nothing is given up that was not refused for what it is, nobody is asked more
//! than once a second, and everything arrives once the server is well again.

use crate::clock::{Clock, SystemClock};
use crate::config::settings::KeySource;
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::record::{Body, Correction, Record};
use crate::sim::pki::{Authority, Files, Role, Validity};
use crate::spool::handle::{SpoolHandle, Urgency, start};
use crate::spool::memory::MemorySpool;
use crate::spool::{Counts, Sequence, StoreId, Stored};
use crate::upstream::fhir::testing::{Bindings, Site, TREATMENT, number, origin};
use crate::upstream::fhir::testing::{StilledUpstream, Stillness};
use crate::upstream::forward::{Condition, State, forward};
use crate::upstream::{Delivery, Upstream, Wire};
use chairside_drivers::kit::time::Tick;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Timers go by whole milliseconds.
const A_SECOND: Duration = Duration::from_millis(999);

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// Every request gets this status, with an OperationOutcome of this code.
    Refuses(u16, &'static str),
    /// Every entry of every batch gets this status.
    RefusesEntries(u16),
    /// Reads the request and never answers.
    Hangs,
    /// Answers 200 and no JSON.
    Garbage,
    /// Answers 200 and an OperationOutcome with an error.
    OutcomeFor200,
    /// Announces an answer and hangs up in the middle of it.
    ResetsInMidBody,
    /// Takes a connection and ends it.
    HangsUp,
    /// Is well, but answers this status to what is packed.
    NoGzip(u16),
}

struct Server {
    port: u16,
    seen: Arc<Seen>,
}

/// What the server saw and what it has.
struct Seen {
    clock: Arc<dyn Clock>,
    mood: Mutex<Mood>,
    stillness: Stillness,
    connects: Mutex<Vec<Tick>>,
    stored: Mutex<BTreeMap<String, Value>>,
    /// Writes of the same resource with another content.
    changed: Mutex<Vec<String>>,
    /// Requests that came in gzip.
    packed: Mutex<u32>,
}

impl Server {
    async fn start(own: &Files, ca: &std::path::Path, clock: Arc<dyn Clock>, stillness: Stillness) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(own, ca)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen {
            clock,
            mood: Mutex::new(Mood::Well),
            stillness,
            connects: Mutex::default(),
            stored: Mutex::default(),
            changed: Mutex::default(),
            packed: Mutex::default(),
        });
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                all.connects.lock().unwrap().push(all.clock.tick());
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&all)));
            }
        });
        Self { port, seen }
    }

    fn is(&self, mood: Mood) {
        *self.seen.mood.lock().unwrap() = mood;
    }

    /// The shortest time between the beginnings of two connections.
    fn least_between_connects(&self) -> Duration {
        let connects = self.seen.connects.lock().unwrap();
        let between = |two: &[Tick]| two[1].since(two[0]);
        connects.windows(2).map(between).min().unwrap_or(Duration::MAX)
    }

    fn observations(&self) -> usize {
        self.seen.stored.lock().unwrap().keys().filter(|url| url.starts_with("Observation/")).count()
    }
}

fn server_config(own: &Files, ca: &std::path::Path) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = CertificateDer::pem_file_iter(&own.certificate).unwrap().map(Result::unwrap).collect();
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap())
        .unwrap()
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, seen: Arc<Seen>) {
    let mood = *seen.mood.lock().unwrap();
    if mood == Mood::HangsUp {
        return;
    }
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    while let Some((body, packed)) = request(&mut stream).await {
        *seen.packed.lock().unwrap() += u32::from(packed);
        let mood = *seen.mood.lock().unwrap();
        let outcome = |code: &str| {
            json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]})
                .to_string()
        };
        let (status, text) = match mood {
            Mood::NoGzip(status) if packed => (status, outcome("structure")),
            Mood::Well | Mood::NoGzip(_) => (200, take(&seen, &body, None)),
            Mood::RefusesEntries(status) => (200, take(&seen, &body, Some(status))),
            Mood::Refuses(status, code) => (status, outcome(code)),
            Mood::Garbage => (200, "<html>\u{1f4a5}".to_owned()),
            Mood::OutcomeFor200 => (200, outcome("exception")),
            Mood::HangsUp => return,
            Mood::Hangs => {
                // Time goes on: nothing else will happen.
                seen.stillness.end();
                std::future::pending::<()>().await;
                return;
            }
            Mood::ResetsInMidBody => {
                take(&seen, &body, None);
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"resourceType\":")
                    .await;
                let _ = stream.flush().await;
                return;
            }
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
        let sent = async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await
        };
        if sent.await.is_err() {
            return;
        }
    }
}

/// The body of the next request on this connection, unpacked, and whether it was packed.
async fn request(stream: &mut TlsStream<TcpStream>) -> Option<(Vec<u8>, bool)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    if head.contains("content-encoding: gzip") {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body.as_slice()), &mut plain).ok()?;
        return Some((plain, true));
    }
    Some((body, false))
}

/// Keeps every entry of the batch, or refuses every one.
fn take(seen: &Seen, body: &[u8], refused: Option<u16>) -> String {
    let bundle: Value = serde_json::from_slice(body).unwrap();
    let entry = |entry: &Value| {
        let url = entry["request"]["url"].as_str().unwrap().to_owned();
        if let Some(status) = refused.filter(|_| url.starts_with("Observation/")) {
            let issue = json!([{"severity": "error", "code": "invariant"}]);
            let outcome = json!({"resourceType": "OperationOutcome", "issue": issue});
            return json!({"response": {"status": status.to_string(), "outcome": outcome}});
        }
        let resource = entry["resource"].clone();
        let before = seen.stored.lock().unwrap().insert(url.clone(), resource.clone());
        if before.is_some_and(|before| before != resource) {
            seen.changed.lock().unwrap().push(url);
        }
        json!({"response": {"status": "201"}})
    };
    let entries: Vec<Value> = bundle["entry"].as_array().unwrap().iter().map(entry).collect();
    json!({"resourceType": "Bundle", "type": "batch-response", "entry": entries}).to_string()
}

/// A spool, the forwarder and a server.
struct Ward {
    spool: SpoolHandle,
    state: watch::Receiver<State>,
    server: Server,
    _folder: TempDir,
}

impl Ward {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::new("clinic", clock.now().0).unwrap();
        let ca_file = folder.path().join("ca.pem");
        ca.write(&ca_file).unwrap();
        let client = ca.issue(folder.path(), "gateway", Role::Client, Validity::Current).unwrap();
        let own = ca.issue(folder.path(), "receiver", Role::Server, Validity::Current).unwrap();
        let stillness = Stillness::default();
        let server = Server::start(&own, &ca_file, clock.clone(), stillness.clone()).await;

        let mut site = Site::test();
        site.upstream.ca = ca_file;
        site.upstream.certificate = client.certificate;
        site.upstream.key = KeySource::File { path: client.key, created: false };
        site.fhir.url = format!("https://127.0.0.1:{}/fhir", server.port);
        let name = UpstreamName::new("ehr").unwrap();
        let spool = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
        let (spool, _) = start(spool).unwrap();
        let upstream = StilledUpstream::new(&site, Bindings::of(TREATMENT, "p-1"), clock.clone(), stillness);
        let (sender, state) = watch::channel(State::default());
        tokio::spawn(forward(upstream, spool.clone(), clock, sender, std::future::pending()));
        Self { spool, state, server, _folder: folder }
    }

    async fn append(&self, readings: u32) {
        let values =
            || Body::Values(vec![number("venous_pressure", "142"), number("arterial_pressure", "-80")]);
        let reading = |_| Record::sample(origin(), Some(TREATMENT), values());
        self.spool.append((0..readings).map(reading).collect(), Urgency::Now).await.unwrap();
    }

    async fn counts(&self) -> Counts {
        self.spool.status().await.unwrap().upstreams[0].1
    }

    /// Lets an hour pass at most.
    async fn until_delivered(&self, records: u64) {
        for _ in 0..1440 {
            if self.counts().await.delivered == records {
                return;
            }
            sleep(Duration::from_millis(2500)).await;
        }
        panic!("never delivered: {:?}, {:?}", self.counts().await, *self.state.borrow());
    }
}

impl Upstream for StilledUpstream {
    fn name(&self) -> &UpstreamName {
        &self.name
    }
    fn begins_behind(&mut self, _: Sequence) {}
    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        self.deliver_stilled(batch).await
    }
    async fn correct(&mut self, _: Correction, _: &[Stored], _: &BTreeSet<Sequence>) -> Delivery {
        Delivery::default()
    }
    fn tend(&mut self) -> Wire {
        self.tend_stilled()
    }
}

#[tokio::test(start_paused = true)]
async fn no_server_whatever_it_does_costs_a_record_or_sees_more_than_a_connection_a_second() {
    let table = [
        (Mood::Refuses(422, "invariant"), Some("mostly_refused")),
        (Mood::RefusesEntries(422), Some("mostly_refused")),
        (Mood::Refuses(400, "structure"), Some("mostly_refused")),
        (Mood::Refuses(401, "login"), Some("not_admitted")),
        (Mood::Refuses(403, "forbidden"), Some("not_admitted")),
        (Mood::Refuses(408, "timeout"), None),
        (Mood::Refuses(409, "conflict"), None),
        (Mood::Refuses(425, "transient"), None),
        (Mood::Refuses(429, "throttled"), None),
        (Mood::Refuses(500, "exception"), None),
        (Mood::Refuses(503, "transient"), None),
        (Mood::Hangs, None),
        (Mood::Garbage, None),
        (Mood::OutcomeFor200, None),
        (Mood::ResetsInMidBody, None),
        (Mood::HangsUp, None),
    ];
    for (mood, pauses) in table {
        let ward = Ward::new().await;
        // Once from the very first request on, once in mid-flight.
        for well_before in [0, 20] {
            if well_before > 0 {
                ward.append(well_before).await;
                ward.until_delivered(u64::from(well_before) + 70).await;
            }
            ward.server.is(mood);
            ward.append(70).await;
            for _ in 0..60 {
                sleep(Duration::from_secs(10)).await;
                let counts = ward.counts().await;
                assert_eq!((counts.refused, counts.lost, counts.skipped), (0, 0, 0), "{mood:?}");
                assert!(counts.waiting >= 70, "{mood:?}: {counts:?}");
            }
            let condition = ward.state.borrow().condition.clone();
            match (&condition, pauses) {
                // A server of which nobody knows whether it wants our certificate pauses us as well.
                (Condition::Paused(trouble), Some(code)) => {
                    // The first thing it ever sees is a machine.
                    let is_first = well_before == 0 && trouble.code == "machine_refused";
                    assert!(trouble.code == code || is_first, "{mood:?}: {trouble}");
                }
                (Condition::BackingOff(_), None) => {}
                // Nobody can tell these from a server that ends the handshake because of our certificate.
                (Condition::Paused(trouble), None)
                    if matches!(mood, Mood::HangsUp | Mood::ResetsInMidBody) =>
                {
                    assert_eq!(trouble.code, "own_certificate_refused", "{mood:?}");
                }
                other => panic!("{mood:?}: {other:?}"),
            }
            ward.server.is(Mood::Well);
            ward.until_delivered(70 * u64::from(1 + well_before / 20) + u64::from(well_before)).await;
        }
        let (counts, server) = (ward.counts().await, &ward.server);
        assert_eq!((counts.delivered, counts.refused), (160, 0), "{mood:?}");
        assert_eq!(server.observations(), 2 * 160, "{mood:?}: each once");
        assert_eq!(*server.seen.changed.lock().unwrap(), Vec::<String>::new(), "{mood:?}");
        let between = server.least_between_connects();
        assert!(between >= A_SECOND, "{mood:?}: {between:?} between two connections");
        // Long enough for another try of gzip, and for a look at how that went.
        sleep(Duration::from_secs(700)).await;
        ward.append(1).await;
        ward.until_delivered(161).await;
        sleep(Duration::from_secs(61)).await;
        assert!(ward.state.borrow().wire.gzip, "{mood:?}: it takes gzip whenever it is well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_and_goes_fifty_times_gets_everything_once() {
    let ward = Ward::new().await;
    for flap in 0..50_u64 {
        ward.append(6).await;
        let bad = [Mood::HangsUp, Mood::ResetsInMidBody, Mood::Refuses(503, "transient"), Mood::Garbage];
        ward.server.is(bad[usize::try_from(flap).unwrap() % bad.len()]);
        sleep(Duration::from_secs(3 + flap % 7)).await;
        ward.server.is(Mood::Well);
        sleep(Duration::from_secs(2 + flap % 5)).await;
    }
    ward.until_delivered(300).await;
    assert_eq!(ward.counts().await.refused, 0);
    assert_eq!(ward.server.observations(), 600);
    let between = ward.server.least_between_connects();
    assert!(between >= A_SECOND, "{between:?} between two connections");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_read_gzip_gets_everything_plain() {
    for status in [400, 415, 501] {
        let ward = Ward::new().await;
        ward.server.is(Mood::NoGzip(status));
        ward.append(200).await;
        ward.until_delivered(200).await;
        sleep(Duration::from_secs(120)).await;
        assert_eq!(ward.counts().await.refused, 0);
        assert_eq!(ward.server.observations(), 400);
        assert!(!ward.state.borrow().wire.gzip);
        assert_eq!(*ward.server.seen.packed.lock().unwrap(), 1, "tried once");
    }
}
