//! How quickly a backlog drains: the real forwarder and spool against a bare client that posts the same bundles, already
//! rendered, over one TLS connection; both to a receiver that reads nothing of a body but how many entries it has.
//!
//! usage: drain [POLLS]. Bytes are counted on TCP, below TLS, in both directions.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench may stop where its input is wrong")]

mod chair;

use chair::{Chair, answers, at};
use chairside::clock::{Clock, SystemClock};
use chairside::config::settings::{Compress, FhirSettings, Settings, UpstreamKind, UpstreamSettings};
use chairside::model::time::Timestamp;
use chairside::privacy::Pseudonymiser;
use chairside::sim::pki::{Authority, Role, Validity};
use chairside::spool::Spool;
use chairside::spool::handle::{SpoolHandle, start};
use chairside::spool::store::{Options, SledSpool};
use chairside::upstream::fhir::client::FhirUpstream;
use chairside::upstream::forward::{State, forward};
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
    println!(
        "a receiver that is not there costs {:.2} % of one core over {} s (target at most 2)",
        share * 100.0,
        DOWN.as_secs()
    );
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
    let settings = settings_for(home.path(), stub.port);
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

/// Share of one core that the forwarder takes while its receiver is not there and records wait. Nothing else runs in this
/// process meanwhile: the receivers of the runs before are gone.
async fn down(clock: &Arc<dyn Clock>) -> f64 {
    let home = tempfile::tempdir().unwrap();
    let stub = Stub::start(home.path(), clock, Duration::ZERO).await;
    let settings = settings_for(home.path(), 1);
    let (spool, border) = filled(&settings, home.path(), 500);
    drop(stub);
    let forwarding = Forwarding::start(&settings, Compress::Auto, spool, border, clock);
    let (before, started) = (cpu_time(), clock.tick());
    tokio::time::sleep(DOWN).await;
    let share = (cpu_time() - before).as_secs_f64() / clock.tick().since(started).as_secs_f64();
    forwarding.stop().await;
    share
}

/// What this process has used of all cores, in the kernel's ticks of 10 ms; threads that have ended count as well.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program may hold anything; behind its bracket, user time is the twelfth field and system time the next.
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
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

fn settings_for(home: &Path, port: u16) -> Settings {
    chair::settings(home, &format!("https://127.0.0.1:{port}/fhir"))
}

/// A spool with this many polls of a seated patient.
fn filled(settings: &Settings, home: &Path, polls: u64) -> (SledSpool, Pseudonymiser) {
    let mut chair = Chair::new(settings);
    let names = [settings.upstreams[0].name.clone()];
    let keyring = Arc::clone(&chair.keyring);
    let mut spool =
        SledSpool::open(&home.join("spool"), keyring, &names, Options::new(1 << 32), at(0)).unwrap();
    let mut batch = Vec::new();
    for (poll, answer) in (1..).zip(answers(settings, polls)) {
        batch.extend(chair.poll(poll, &answer));
        if batch.len() >= 256 || poll == polls {
            spool.append(&batch).unwrap();
            batch.clear();
        }
    }
    (spool, chair.border)
}
