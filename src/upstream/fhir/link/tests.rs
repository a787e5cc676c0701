//! Real TLS on loopback: what goes over the wire, and what never does.

use crate::clock::{Clock, SystemClock};
use crate::config::settings::{KeySource, MinTls};
use crate::model::time::{ClockTrust, Timestamp};
use crate::privacy::record::Body;
use crate::sim::pki::{Authority, Files, Role, Validity};
use crate::sim::receiver::Receiver;
use crate::spool::{Stored, Verdict};
use crate::upstream::fhir::client::FhirUpstream;
use crate::upstream::fhir::testing::{Bindings, Site, TREATMENT, number, stored};
use crate::upstream::{Delivery, Next, Upstream};
use chairside_drivers::kit::time::Tick;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A clinic's certificates in a folder of their own, and the settings of a receiver that takes test data.
struct Clinic {
    folder: TempDir,
    ca: Authority,
    ca_file: PathBuf,
    client: Files,
    server: Files,
    site: Site,
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new(Timestamp::from_micros(0)))
}

impl Clinic {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority("clinic");
        let ca_file = folder.path().join("ca.pem");
        ca.write(&ca_file).unwrap();
        let client = ca.issue(folder.path(), "gateway", Role::Client, Validity::Current).unwrap();
        let server = ca.issue(folder.path(), "receiver", Role::Server, Validity::Current).unwrap();
        let mut site = Site::test();
        site.upstream.ca = ca_file.clone();
        site.upstream.certificate = client.certificate.clone();
        site.upstream.key = KeySource::File { path: client.key.clone(), created: false };
        Self { folder, ca, ca_file, client, server, site }
    }

    fn upstream(&self, url: &str) -> FhirUpstream {
        self.upstream_at(url, clock())
    }

    fn upstream_at(&self, url: &str, clock: Arc<dyn Clock>) -> FhirUpstream {
        let mut fhir = self.site.fhir.clone();
        fhir.url = url.to_owned();
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
        FhirUpstream::new(&self.site.gateway, &self.site.upstream, &fhir, bindings, clock)
    }

    /// Our certificate as another authority would have made it.
    fn stranger(&self, name: &str) -> Files {
        authority("elsewhere").issue(self.folder.path(), name, Role::Client, Validity::Current).unwrap()
    }
}

fn authority(name: &str) -> Authority {
    Authority::new(name, clock().now().0).unwrap()
}

fn reading() -> Stored {
    stored(1, Some(TREATMENT), Body::Values(vec![number("venous_pressure", "142")]))
}

/// A server that counts what reaches it and answers every request with the same bytes.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// Bytes that came through TLS.
    bytes: Arc<AtomicUsize>,
}

enum Answer {
    Bytes(Vec<u8>),
    /// Ends the connection after the handshake.
    Nothing,
}

fn http(status: &str, headers: &str, body: &str) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
    Answer::Bytes(head.into_bytes())
}

impl Server {
    async fn start(
        own: &Files,
        clients: Option<&PathBuf>,
        version: &'static SupportedProtocolVersion,
        answer: Answer,
    ) -> Self {
        Self::start_at("127.0.0.1", own, clients, version, answer).await
    }

    async fn start_at(
        address: &str,
        own: &Files,
        clients: Option<&PathBuf>,
        version: &'static SupportedProtocolVersion,
        answer: Answer,
    ) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(own, clients, version)));
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let it = Self { port, connections: connections.clone(), bytes: bytes.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let Answer::Bytes(answer) = &answer else { continue };
                let mut request = Vec::new();
                while !is_whole(&request) {
                    let mut buffer = [0; 4096];
                    let Ok(count @ 1..) = stream.read(&mut buffer).await else { break };
                    bytes.fetch_add(count, Ordering::SeqCst);
                    request.extend_from_slice(&buffer[..count]);
                }
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        it
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/fhir", self.port)
    }

    fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.bytes.load(Ordering::SeqCst))
    }
}

fn server_config(
    own: &Files,
    clients: Option<&PathBuf>,
    version: &'static SupportedProtocolVersion,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(&own.certificate).unwrap().map(Result::unwrap).collect();
    builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap()).unwrap()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    body.len() >= length.unwrap_or(0)
}

use rustls::version::{TLS12, TLS13};

/// The code of the trouble it is paused with; nothing may be settled.
fn paused(delivery: &Delivery) -> &'static str {
    assert_eq!(delivery.verdicts, [], "nothing is settled, nothing is given up");
    match &delivery.next {
        Next::Pause(trouble) => {
            assert!(!trouble.what.is_empty() && !trouble.remedy.is_empty());
            trouble.code
        }
        other => panic!("not paused: {other:?}"),
    }
}

fn waits(delivery: &Delivery) -> &'static str {
    assert_eq!(delivery.verdicts, []);
    match &delivery.next {
        Next::Wait { why, .. } => why.code,
        other => panic!("does not wait: {other:?}"),
    }
}

#[tokio::test]
async fn resources_arrive_over_mutual_tls_and_a_second_time_changes_nothing() {
    let clinic = Clinic::new();
    let receiver = Receiver::start(&clinic.server, &clinic.ca_file).await.unwrap();
    for round in 0..2 {
        let mut upstream = clinic.upstream(&receiver.url());
        let delivery = upstream.deliver(&[reading()]).await;
        assert_eq!(delivery.next, Next::Continue, "round {round}");
        assert_eq!(delivery.verdicts[0].1, Verdict::Delivered { parts: 1, refused_parts: Vec::new() });
        assert_eq!(delivery.resources, 4);
    }
}

#[tokio::test]
async fn a_receiver_that_went_away_and_came_back_gets_the_rest() {
    let clinic = Clinic::new();
    let receiver = Receiver::start(&clinic.server, &clinic.ca_file).await.unwrap();
    let mut upstream = clinic.upstream(&receiver.url());
    upstream.deliver(&[reading()]).await;
    receiver.cut();
    let mut cut = upstream.deliver(&[reading()]).await;
    while cut.next == Next::Continue {
        // The cable is pulled by another task; a batch may still slip through.
        tokio::task::yield_now().await;
        cut = upstream.deliver(&[reading()]).await;
    }
    assert!(["refused", "cut", "no_connection"].contains(&waits(&cut)), "{cut:?}");
    receiver.restore();
    for _ in 0..10_000 {
        if upstream.deliver(&[reading()]).await.next == Next::Continue {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came back");
}

#[tokio::test]
async fn a_server_of_a_wrong_ca_gets_not_one_byte() {
    let mut clinic = Clinic::new();
    let server = Server::start(&clinic.server, None, &TLS13, http("200 OK", "", "")).await;
    let wrong = clinic.folder.path().join("other-ca.pem");
    authority("other").write(&wrong).unwrap();
    clinic.site.upstream.ca = wrong;
    assert_eq!(paused(&clinic.upstream(&server.url()).deliver(&[reading()]).await), "unknown_ca");
    assert_eq!(server.seen(), (1, 0));
}

#[tokio::test]
async fn a_server_of_another_name_gets_not_one_byte() {
    let clinic = Clinic::new();
    let server = Server::start_at("127.0.0.2", &clinic.server, None, &TLS13, http("200 OK", "", "")).await;
    let url = format!("https://127.0.0.2:{}/fhir", server.port);
    assert_eq!(paused(&clinic.upstream(&url).deliver(&[reading()]).await), "wrong_name");
    assert_eq!(server.seen(), (1, 0));
}

#[tokio::test]
async fn a_server_with_an_expired_certificate_gets_not_one_byte() {
    let clinic = Clinic::new();
    let old = clinic.ca.issue(clinic.folder.path(), "old", Role::Server, Validity::Expired).unwrap();
    let server = Server::start(&old, None, &TLS13, http("200 OK", "", "")).await;
    let code = paused(&clinic.upstream(&server.url()).deliver(&[reading()]).await);
    assert_eq!(code, "receiver_certificate_expired");
    assert_eq!(server.seen(), (1, 0));
}

#[tokio::test]
async fn without_a_certificate_of_our_own_there_is_not_even_a_connection() {
    let clinic = Clinic::new();
    let server = Server::start(&clinic.server, Some(&clinic.ca_file), &TLS13, http("200 OK", "", "")).await;
    let nowhere = clinic.folder.path().join("nowhere.pem");
    let broken = clinic.folder.path().join("broken.pem");
    std::fs::write(&broken, "no PEM at all").unwrap();
    let expired = clinic.ca.issue(clinic.folder.path(), "expired", Role::Client, Validity::Expired).unwrap();
    let open = clinic.ca.issue(clinic.folder.path(), "open", Role::Client, Validity::Current).unwrap();
    std::fs::set_permissions(&open.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = |path: &PathBuf| KeySource::File { path: path.clone(), created: false };
    let (certificate, key, ca) = (&clinic.client.certificate, &clinic.client.key, &clinic.ca_file);
    for (ca, certificate, key, code) in [
        (ca, &nowhere, file(key), "own_certificate_unusable"),
        (ca, &broken, file(key), "own_certificate_unusable"),
        (ca, &expired.certificate, file(&expired.key), "own_certificate_expired"),
        (ca, certificate, file(&nowhere), "own_key_unusable"),
        (ca, certificate, file(&broken), "own_key_open"),
        (ca, &open.certificate, file(&open.key), "own_key_open"),
        (ca, certificate, file(&clinic.server.key), "own_key_unfit"),
        (ca, certificate, KeySource::Credential("no-such".to_owned()), "own_key_unusable"),
        (&nowhere, certificate, file(key), "ca_unusable"),
        (&broken, certificate, file(key), "ca_unusable"),
    ] {
        let mut site = clinic.site.clone();
        site.upstream.ca = ca.clone();
        site.upstream.certificate = certificate.clone();
        site.upstream.key = key;
        site.fhir.url = server.url();
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
        let mut upstream = FhirUpstream::new(&site.gateway, &site.upstream, &site.fhir, bindings, clock());
        assert_eq!(paused(&upstream.deliver(&[reading()]).await), code);
    }
    assert_eq!(server.seen(), (0, 0));
}

#[tokio::test]
async fn a_url_without_tls_gets_not_even_a_connection() {
    let clinic = Clinic::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/fhir", listener.local_addr().unwrap());
    assert_eq!(paused(&clinic.upstream(&url).deliver(&[reading()]).await), "not_https");
    let accepted = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(accepted.is_err(), "nobody called");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_gets_no_body() {
    let clinic = Clinic::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/fhir", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 65_536];
        let count = stream.read(&mut hello).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        hello.truncate(count);
        hello
    });
    assert_eq!(paused(&clinic.upstream(&url).deliver(&[reading()]).await), "not_tls");
    let hello = server.await.unwrap();
    assert!(!String::from_utf8_lossy(&hello).contains("Bundle"));
}

#[tokio::test]
async fn a_server_that_refuses_our_certificate_pauses_us_and_nothing_is_given_up() {
    for version in [&TLS13, &TLS12] {
        let mut clinic = Clinic::new();
        clinic.site.upstream.min_tls = MinTls::V1_2;
        let stranger = clinic.stranger("stranger");
        clinic.site.upstream.certificate = stranger.certificate;
        clinic.site.upstream.key = KeySource::File { path: stranger.key, created: false };
        let server =
            Server::start(&clinic.server, Some(&clinic.ca_file), version, http("200 OK", "", "")).await;
        let mut upstream = clinic.upstream(&server.url());
        let mut delivery = upstream.deliver(&[reading()]).await;
        if matches!(delivery.next, Next::Wait { .. }) {
            // The alert may lose the race against the end of the connection; twice is no accident.
            delivery = upstream.deliver(&[reading()]).await;
        }
        assert_eq!(paused(&delivery), "own_certificate_refused");
        assert_eq!(server.seen().1, 0);
    }
}

#[tokio::test]
async fn a_server_that_cuts_every_connection_is_waited_for_once_and_then_asked_about_our_certificate() {
    let clinic = Clinic::new();
    let server = Server::start(&clinic.server, None, &TLS13, Answer::Nothing).await;
    let mut upstream = clinic.upstream(&server.url());
    assert_eq!(waits(&upstream.deliver(&[reading()]).await), "cut");
    assert_eq!(paused(&upstream.deliver(&[reading()]).await), "own_certificate_refused");
}

#[tokio::test]
async fn a_proxy_that_answers_400_to_our_certificate_pauses_us() {
    let clinic = Clinic::new();
    let page = "<html><center>No required SSL certificate was sent</center></html>";
    let server = Server::start(&clinic.server, None, &TLS13, http("400 Bad Request", "", page)).await;
    let delivery = clinic.upstream(&server.url()).deliver(&[reading()]).await;
    assert_eq!(paused(&delivery), "refused_without_fhir");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let clinic = Clinic::new();
    let elsewhere = Server::start(&clinic.server, None, &TLS13, http("200 OK", "", "")).await;
    let location = format!("location: {}\r\n", elsewhere.url());
    let server =
        Server::start(&clinic.server, None, &TLS13, http("307 Temporary Redirect", &location, "")).await;
    assert_eq!(paused(&clinic.upstream(&server.url()).deliver(&[reading()]).await), "redirect");
    assert_eq!(elsewhere.seen(), (0, 0));
}

#[tokio::test]
async fn tls_1_2_is_spoken_only_where_the_site_says_so() {
    let mut clinic = Clinic::new();
    let server = Server::start(
        &clinic.server,
        Some(&clinic.ca_file),
        &TLS12,
        http("503 Busy", "retry-after: 9\r\n", ""),
    )
    .await;
    assert_eq!(paused(&clinic.upstream(&server.url()).deliver(&[reading()]).await), "tls_version");
    assert_eq!(server.seen().1, 0);
    clinic.site.upstream.min_tls = MinTls::V1_2;
    let delivery = clinic.upstream(&server.url()).deliver(&[reading()]).await;
    assert_eq!(waits(&delivery), "busy");
    assert!(matches!(delivery.next, Next::Wait { at_least: Some(wait), .. } if wait.as_secs() == 9));
}

#[tokio::test]
async fn a_port_nobody_listens_at_is_waited_for() {
    let clinic = Clinic::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/fhir", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(waits(&clinic.upstream(&url).deliver(&[reading()]).await), "refused");
}

#[tokio::test]
async fn an_answer_that_is_no_http_or_has_no_end_is_waited_out() {
    let clinic = Clinic::new();
    let long = "x".repeat(super::LONGEST_ANSWER + 1);
    for (answer, code) in [
        (Answer::Bytes(b"\x00\x01 hello\r\n\r\n".to_vec()), "no_connection"),
        (http("200 OK", "", &long), "answer_too_long"),
        (http("200 OK", "", "hello"), "garbled"),
        (Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ntoo short".to_vec()), "cut"),
    ] {
        let server = Server::start(&clinic.server, None, &TLS13, answer).await;
        assert_eq!(waits(&clinic.upstream(&server.url()).deliver(&[reading()]).await), code);
    }
}

#[tokio::test]
async fn a_certificate_put_right_is_taken_up_without_a_restart() {
    let mut clinic = Clinic::new();
    let receiver = Receiver::start(&clinic.server, &clinic.ca_file).await.unwrap();
    let here = clinic.folder.path().join("our.pem");
    clinic.site.upstream.certificate = here.clone();
    let mut upstream = clinic.upstream(&receiver.url());
    assert_eq!(paused(&upstream.deliver(&[reading()]).await), "own_certificate_unusable");
    std::fs::copy(&clinic.client.certificate, &here).unwrap();
    assert_eq!(upstream.deliver(&[reading()]).await.next, Next::Continue);
}

/// The true time, and a while added to it.
#[derive(Debug)]
struct Ahead(AtomicUsize);

impl Ahead {
    fn by(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0.load(Ordering::SeqCst) as u64)
    }
}

impl Clock for Ahead {
    fn tick(&self) -> Tick {
        Tick::ZERO.after(self.by())
    }
    fn now(&self) -> (Timestamp, ClockTrust) {
        (clock().now().0.after(self.by()), ClockTrust::Trusted)
    }
}

#[tokio::test]
async fn files_missing_for_a_moment_do_no_harm_while_our_certificate_holds_and_stop_us_once_it_does_not() {
    let clinic = Clinic::new();
    let receiver = Receiver::start(&clinic.server, &clinic.ca_file).await.unwrap();
    let ahead = Arc::new(Ahead(AtomicUsize::new(0)));
    let mut upstream = clinic.upstream_at(&receiver.url(), ahead.clone());
    assert_eq!(upstream.deliver(&[reading()]).await.next, Next::Continue);
    std::fs::remove_file(&clinic.client.certificate).unwrap();
    ahead.0.store(2 * 3600, Ordering::SeqCst);
    assert_eq!(upstream.deliver(&[reading()]).await.next, Next::Continue);
    ahead.0.store(48 * 3600, Ordering::SeqCst);
    assert_eq!(paused(&upstream.deliver(&[reading()]).await), "own_certificate_unusable");
}

#[tokio::test]
async fn a_certificate_that_expires_while_we_run_stops_us_before_the_next_byte() {
    let clinic = Clinic::new();
    let server = Server::start(&clinic.server, None, &TLS13, http("503 Busy", "", "")).await;
    let ahead = Arc::new(Ahead(AtomicUsize::new(0)));
    let mut upstream = clinic.upstream_at(&server.url(), ahead.clone());
    assert_eq!(waits(&upstream.deliver(&[reading()]).await), "busy");
    let before = server.seen();
    ahead.0.store(48 * 3600, Ordering::SeqCst);
    assert_eq!(paused(&upstream.deliver(&[reading()]).await), "own_certificate_expired");
    assert_eq!(server.seen(), before);
}

fn link_of(clinic: &Clinic, ahead: &Arc<Ahead>) -> super::Link {
    let mut fhir = clinic.site.fhir.clone();
    fhir.url = "https://127.0.0.1:1/fhir".to_owned();
    super::Link::new(clinic.site.upstream.clone(), &fhir, ahead.clone())
}

fn codes(wire: &crate::upstream::Wire) -> Vec<&'static str> {
    wire.notices.iter().map(|notice| notice.code).collect()
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_within_a_minute_and_a_broken_one_never() {
    let clinic = Clinic::new();
    let ahead = Arc::new(Ahead(AtomicUsize::new(0)));
    let mut link = link_of(&clinic, &ahead);
    link.tend();
    let first = link.open.as_ref().unwrap().digest;
    let renewed = clinic.ca.issue(clinic.folder.path(), "renewed", Role::Client, Validity::Current).unwrap();
    std::fs::copy(&renewed.certificate, &clinic.client.certificate).unwrap();

    // The certificate is there already, its key not yet: they do not belong together.
    ahead.0.store(61, Ordering::SeqCst);
    assert_eq!(codes(&link.tend()), ["own_key_unfit", "own_certificate_expires"]);
    assert!(link.client().is_ok(), "what was read before goes on");
    assert_eq!(link.open.as_ref().unwrap().digest, first);

    std::fs::copy(&renewed.key, &clinic.client.key).unwrap();
    ahead.0.store(62, Ordering::SeqCst);
    assert!(!codes(&link.tend()).is_empty(), "not looked at all the time");
    ahead.0.store(122, Ordering::SeqCst);
    assert_eq!(codes(&link.tend()), ["own_certificate_expires"]);
    let second = link.open.as_ref().unwrap().digest;
    assert_ne!(second, first, "the new one");
    ahead.0.store(183, Ordering::SeqCst);
    link.tend();
    assert_eq!(link.open.as_ref().unwrap().digest, second);
}

#[tokio::test]
async fn a_certificate_near_its_end_is_told_before_and_after_it() {
    let clinic = Clinic::new();
    let ahead = Arc::new(Ahead(AtomicUsize::new(0)));
    let mut link = link_of(&clinic, &ahead);
    let wire = link.tend();
    let end = super::expiry::day(wire.certificate_until.unwrap());
    assert!(wire.notices[0].what.ends_with(&format!("on {end}")), "{:?}", wire.notices);
    ahead.0.store(48 * 3600, Ordering::SeqCst);
    let wire = link.tend();
    assert_eq!(codes(&wire), ["own_certificate_expired"]);
    assert!(wire.notices[0].what.contains(&end), "{:?}", wire.notices);
}
