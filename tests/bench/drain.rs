//! How quickly a backlog drains: the real forwarder and spool against a bare client that posts the same bundles, already
//! rendered, over one TLS connection; both to a receiver that reads nothing of a body but how many entries it has.
//!
//! usage: drain [POLLS]. Bytes are counted on TCP, below TLS, in both directions.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may stop where its input is wrong"
)]

use chairside::clock::{Clock, SystemClock};
use chairside::config;
use chairside::config::settings::{Compress, FhirSettings, Settings, UpstreamKind, UpstreamSettings};
use chairside::model::time::{ClockTrust, Timestamp};
use chairside::normalise::{Capture, Finding, Normaliser, Origin, Poll};
use chairside::privacy::Pseudonymiser;
use chairside::privacy::keyring::Keyring;
use chairside::privacy::record::TreatmentId;
use chairside::privacy::seats::Seats;
use chairside::sim::pki::{Authority, Role, Validity};
use chairside::spool::Spool;
use chairside::spool::handle::{SpoolHandle, start};
use chairside::spool::store::{Options, SledSpool};
use chairside::upstream::fhir::client::FhirUpstream;
use chairside::upstream::forward::{State, forward};
use chairside_drivers::kit::driver::{Driver, Output, Sample};
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::simulator::Act;
use chairside_drivers::kit::time::{Slot, Tick};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io::Read as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll as Ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

const EVERY: Duration = Duration::from_secs(10);
/// A receiver that stores what it gets takes about this long over a hundred resources.
const WORKING: Duration = Duration::from_millis(100);
/// How long a receiver that is not there is tried.
const DOWN: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let polls = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(4000);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
    println!(
        "drain of {polls} records; ratio of the forwarder to a bare client that posts the same bundles (target 0.8)"
    );
    for (name, compress, takes) in [
        ("at once, plain", Compress::Never, Duration::ZERO),
        ("at once, gzip", Compress::Auto, Duration::ZERO),
        ("after 100 ms, plain", Compress::Never, WORKING),
    ] {
        let polls = if takes.is_zero() { polls } else { polls / 8 };
        let run = drain(&clock, polls, compress, takes).await;
        println!(
            "  answers {name:<20} {:>7.0} readings/s against {:>7.0}   ratio {:.2}   {:.0} bytes a reading on the wire, {:.0} as JSON",
            run.readings / run.forwarder,
            run.readings / run.bare,
            run.bare / run.forwarder,
            run.wire / run.readings,
            run.json / run.readings,
        );
    }
    let share = down(&clock).await;
    println!("a receiver that is not there costs {:.2} % of one core (target at most 2)", share * 100.0);
}

struct Run {
    readings: f64,
    /// Seconds of each.
    forwarder: f64,
    bare: f64,
    /// Bytes of the forwarder's.
    wire: f64,
    json: f64,
}

async fn drain(clock: &Arc<dyn Clock>, polls: u64, compress: Compress, takes: Duration) -> Run {
    let home = tempfile::tempdir().unwrap();
    let stub = Stub::start(home.path(), clock, takes).await;
    let settings = settings(home.path(), stub.port);
    let (spool, border) = filled(&settings, home.path(), polls);

    let started = clock.tick();
    let forwarding = Forwarding::start(&settings, compress, spool, border, clock);
    forwarding.until_drained().await;
    let forwarder = clock.tick().since(started).as_secs_f64();
    let wire = stub.seen.wire.load(Ordering::SeqCst);
    forwarding.stop().await;

    let bundles = std::mem::take(&mut *stub.seen.bundles.lock().unwrap());
    let json: usize = bundles.iter().map(Vec::len).sum();
    let readings: usize = bundles.iter().map(|it| count(it, b"\"url\":\"Observation/")).sum();
    let upstream = &settings.upstreams[0];
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(upstream, home.path()))
        .build()
        .unwrap();
    let url = format!("https://127.0.0.1:{}/fhir", stub.port);
    // The connection is made before the clock runs, as is the forwarder's way through its first resources.
    client.post(&url).body(bundles[0].clone()).send().await.unwrap().bytes().await.unwrap();
    let started = clock.tick();
    for bundle in bundles {
        let answer = client.post(&url).body(bundle).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
    }
    let bare = clock.tick().since(started).as_secs_f64();
    Run { readings: readings as f64, forwarder, bare, wire: wire as f64, json: json as f64 }
}

/// Share of one core that this process takes while its receiver is not there and records wait.
async fn down(clock: &Arc<dyn Clock>) -> f64 {
    let home = tempfile::tempdir().unwrap();
    let stub = Stub::start(home.path(), clock, Duration::ZERO).await;
    let settings = settings(home.path(), 1);
    let (spool, border) = filled(&settings, home.path(), 500);
    drop(stub);
    let forwarding = Forwarding::start(&settings, Compress::Auto, spool, border, clock);
    let (before, started) = (cpu_time(), clock.tick());
    tokio::time::sleep(DOWN).await;
    let share = (cpu_time() - before) / clock.tick().since(started).as_secs_f64();
    forwarding.stop().await;
    share
}

/// Seconds that all threads of this process were running, as the kernel counts them.
fn cpu_time() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = tasks.map(|task| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

struct Forwarding {
    spool: SpoolHandle,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    _state: watch::Receiver<State>,
}

impl Forwarding {
    fn start(
        settings: &Settings,
        compress: Compress,
        spool: SledSpool,
        border: Pseudonymiser,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let upstream = &settings.upstreams[0];
        let UpstreamKind::Fhir(fhir) = &upstream.kind;
        let fhir = FhirSettings { compress, ..fhir.clone() };
        let client =
            FhirUpstream::new(&settings.gateway, upstream, &fhir, Arc::new(border), Arc::clone(clock));
        let (spool, _) = start(spool).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (sender, state) = watch::channel(State::default());
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(forward(client, spool.clone(), Arc::clone(clock), sender, stopped));
        Self { spool, stop, task, _state: state }
    }

    async fn until_drained(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tick.tick().await;
            let counts = self.spool.status().await.unwrap().upstreams[0].1;
            if counts.waiting == 0 {
                assert_eq!((counts.refused, counts.held), (0, 0), "{counts:?}");
                return;
            }
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
        self.spool.close().await.unwrap();
    }
}

/// A receiver that answers right and looks at nothing.
struct Stub {
    port: u16,
    seen: Arc<Seen>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    wire: AtomicU64,
    bundles: Mutex<Vec<Vec<u8>>>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Stub {
    async fn start(home: &Path, clock: &Arc<dyn Clock>, takes: Duration) -> Self {
        let authority = Authority::new("bench", clock.now().0).unwrap();
        let ca = home.join("ca.pem");
        authority.write(&ca).unwrap();
        authority.issue(home, "gateway", Role::Client, Validity::Current).unwrap();
        let own = authority.issue(home, "receiver", Role::Server, Validity::Current).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(roots(&ca));
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
        let chain = vec![CertificateDer::from_pem_file(&own.certificate).unwrap()];
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let all = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&all));
                tokio::spawn(async move { serve(stream, acceptor, &seen, takes).await });
            }
        });
        Self { port, seen, serving }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, seen: &Arc<Seen>, takes: Duration) {
    let counted = Counted { stream, seen: Arc::clone(seen) };
    let Ok(stream) = acceptor.accept(counted).await else { return };
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        if head.contains("content-encoding: gzip") {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
            body = plain;
        }
        let entries =
            vec!["{\"response\":{\"status\":\"201\"}}"; count(&body, b"\"method\":\"PUT\"")].join(",");
        seen.bundles.lock().unwrap().push(body);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let answer =
            format!("{{\"resourceType\":\"Bundle\",\"type\":\"batch-response\",\"entry\":[{entries}]}}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
}

fn count(text: &[u8], word: &[u8]) -> usize {
    text.windows(word.len()).filter(|window| *window == word).count()
}

/// Counts what passes below TLS.
struct Counted {
    stream: TcpStream,
    seen: Arc<Seen>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Ready<std::io::Result<()>> {
        let before = into.filled().len();
        let ready = Pin::new(&mut self.stream).poll_read(cx, into);
        self.seen.wire.fetch_add((into.filled().len() - before) as u64, Ordering::SeqCst);
        ready
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Ready<std::io::Result<usize>> {
        let ready = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Ready::Ready(Ok(written)) = &ready {
            self.seen.wire.fetch_add(*written as u64, Ordering::SeqCst);
        }
        ready
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Ready<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Ready<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    roots
}

fn client_config(upstream: &UpstreamSettings, home: &Path) -> ClientConfig {
    let chain = vec![CertificateDer::from_pem_file(&upstream.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(home.join("gateway.key")).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(&upstream.ca))
        .with_client_auth_cert(chain, key)
        .unwrap()
}

fn settings(home: &Path, port: u16) -> Settings {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/devices/nikkiso_dbb27c.toml");
    std::fs::create_dir(home.join("devices")).unwrap();
    std::fs::copy(map, home.join("devices/nikkiso_dbb27c.toml")).unwrap();
    let text = format!(
        "[gateway]\nname = \"bench\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\n\
        namespace = \"https://clinic.example/chairside\"\n[keys]\nroot = {{ file = \"root.key\", created = true }}\n\
        [[chair]]\nname = \"chair-1\"\nmachine = \"asset-1\"\ndriver = \"kpoll/nikkiso_dbb27c\"\nport = \"/dev/null\"\n\
        every = \"10s\"\nmap = \"nikkiso_dbb27c.toml\"\n[[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\n\
        url = \"https://127.0.0.1:{port}/fhir\"\nca = \"ca.pem\"\ncertificate = \"gateway.pem\"\n\
        key = {{ file = \"gateway.key\" }}\n\
        send = {{ every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n"
    );
    let file = home.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&file).unwrap_or_else(|report| panic!("{report}"))
}

/// A spool with this many polls of a seated patient.
fn filled(settings: &Settings, home: &Path, polls: u64) -> (SledSpool, Pseudonymiser) {
    let chair = &settings.chairs[0];
    let keyring = Arc::new(Keyring::in_memory().unwrap());
    let names = [settings.upstreams[0].name.clone()];
    keyring.ensure_recipients(&names).unwrap();
    let seats = Seats::new(Arc::clone(&keyring), settings.gateway.unseated);
    let border = Pseudonymiser::new(Arc::clone(&keyring));
    let mut spool =
        SledSpool::open(&home.join("spool"), keyring, &names, Options::new(1 << 32), at(0)).unwrap();
    let mut driver = chair.model.driver();
    let mut normaliser = Normaliser::new(Arc::clone(&chair.map), None);
    let (mut treatment, mut batch) = (None, Vec::new());
    driver.handle_open(Tick::ZERO);
    for (poll, answer) in (1..).zip(answers(settings, polls)) {
        let samples = converse(&mut *driver, poll, &answer);
        let origin = Origin {
            chair: chair.name.clone(),
            machine: chair.machine.clone(),
            model: chair.model.id().clone(),
            at: at(poll),
            tick: tick(poll),
            clock: ClockTrust::Trusted,
            slot: Some(Slot(poll)),
            previous: None,
            simulated: false,
        };
        for capture in normaliser.answered(Poll { origin, samples }) {
            begin(&capture, &seats, &mut treatment);
            batch.push(border.seal(capture, treatment));
        }
        if batch.len() >= 256 || poll == polls {
            spool.append(&batch).unwrap();
            batch.clear();
        }
    }
    (spool, border)
}

/// What a simulated machine answers, poll after poll, in treatment.
fn answers(settings: &Settings, polls: u64) -> Vec<Vec<u8>> {
    let model = &settings.chairs[0].model;
    let ask = model.requests()[0].request();
    let mut machine = model.machine(1);
    machine.act(Tick::ZERO, Act::StartTreatment);
    (1..=polls)
        .map(|poll| {
            let mut now = tick(poll);
            machine.advance(now);
            machine.handle_bytes(now, ask.bytes());
            let mut answer = Vec::new();
            loop {
                while let Some(sent) = machine.transmit(now) {
                    answer.extend_from_slice(&sent.bytes);
                }
                match machine.wake() {
                    Some(wake) if wake < tick(poll + 1) => now = wake,
                    _ => break answer,
                }
            }
        })
        .collect()
}

fn tick(poll: u64) -> Tick {
    Tick::ZERO.after(EVERY * u32::try_from(poll).expect("polls that fit"))
}

fn at(poll: u64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000).after(EVERY * u32::try_from(poll).expect("polls that fit"))
}

/// Starts the treatment where the machine says so, with a patient on it.
fn begin(capture: &Capture, seats: &Seats, treatment: &mut Option<TreatmentId>) {
    if capture.finding == Finding::TreatmentStarted {
        let Origin { chair, machine, at, .. } = &capture.origin;
        *treatment = Some(seats.treatment_started(chair, machine, *at).unwrap());
        seats.seat(chair, Sensitive::new(String::from("4711")), *at).unwrap();
    }
}

fn converse(driver: &mut dyn Driver, poll: u64, answer: &[u8]) -> Vec<Sample> {
    let now = tick(poll);
    let mut samples = Vec::new();
    let mut drain = |driver: &mut dyn Driver| loop {
        match driver.poll() {
            Output::Sample(sample) => samples.push(sample),
            Output::Wait(_) => break,
            Output::EndOfPoll(..) | Output::Send(_) | Output::Trouble(_) => {}
        }
    };
    driver.handle_poll_due(now, Slot(poll));
    drain(driver);
    driver.handle_bytes(now, answer);
    drain(driver);
    samples
}
