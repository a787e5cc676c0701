//! A FHIR R4 receiver on loopback: mutual TLS 1.3, batches of PUT entries, and a cable that can be pulled.

use crate::sim::holdings::{Holdings, Taken};
use crate::sim::pki::Files;
use crate::sim::resource::Fault;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A batch is at most one megabyte of entries; this leaves room for another server's habits.
pub(super) const LARGEST_BODY: usize = 4 << 20;
/// A client that has not finished its handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why the receiver cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// Certificates or key cannot be used.
    #[error("read the receiver's certificates")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The client check cannot be set up.
    #[error("set up the check of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// No port.
    #[error("listen on loopback")]
    Listen(#[from] io::Error),
}

/// A running receiver; it stops when this is dropped.
#[derive(Debug)]
pub struct Receiver {
    door: Door,
    holdings: Arc<Mutex<Holdings>>,
}

/// The network's side of a receiver: a port on loopback, mutual TLS 1.3, and a cable.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    cable: watch::Sender<Cable>,
    serving: JoinHandle<()>,
}

/// Whether anybody can reach the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cable {
    In,
    Out,
}

impl Receiver {
    /// Starts a receiver on a free port. It shows `own` and takes clients whose certificate comes from `ca`.
    ///
    /// # Errors
    /// [`ReceiverError`]
    pub async fn start(own: &Files, ca: &Path) -> Result<Self, ReceiverError> {
        let holdings = Arc::new(Mutex::new(Holdings::default()));
        let door = Door::open(own, ca, service(holdings.clone())).await?;
        Ok(Self { door, holdings })
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.door.url()
    }

    /// Cuts every connection and refuses new ones.
    pub fn cut(&self) {
        self.door.cable.send_replace(Cable::Out);
    }

    /// Can be reached again, at the same address.
    pub fn restore(&self) {
        self.door.cable.send_replace(Cable::In);
    }

    /// Whether it can be reached.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        *self.door.cable.borrow() == Cable::In
    }

    /// What it holds, to be looked at for a moment: nothing is taken meanwhile.
    pub fn holdings(&self) -> MutexGuard<'_, Holdings> {
        lock(&self.holdings)
    }
}

impl Door {
    /// Opens a free port for this service.
    pub(super) async fn open(own: &Files, ca: &Path, service: axum::Router) -> Result<Self, ReceiverError> {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(own, ca)?));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (cable, plugged) = watch::channel(Cable::In);
        let serving = tokio::spawn(serve(listener, address, acceptor, service, plugged));
        Ok(Self { address, cable, serving })
    }

    /// The base URL.
    pub(super) fn url(&self) -> String {
        format!("https://{}/fhir", self.address)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn server_config(own: &Files, ca: &Path) -> Result<ServerConfig, ReceiverError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = CertificateDer::pem_file_iter(&own.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&own.key)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    service: axum::Router,
    mut cable: watch::Receiver<Cable>,
) {
    let mut listener = Some(listener);
    loop {
        let open = match listener.take() {
            Some(open) => open,
            // The port may be taken for a moment by what is left of the old connections.
            None => match TcpListener::bind(address).await {
                Ok(open) => open,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                cut = cable.wait_for(|cable| *cable == Cable::Out) => match cut {
                    Ok(_) => break,
                    Err(_) => return,
                },
                accepted = open.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(attend(stream, acceptor.clone(), service.clone()));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(open);
        connections.shutdown().await;
        if cable.wait_for(|cable| *cable == Cable::In).await.is_err() {
            return;
        }
    }
}

async fn attend(stream: TcpStream, acceptor: TlsAcceptor, service: axum::Router) {
    // A client that is not welcome learns it from TLS; there is nobody here to tell.
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let service = TowerToHyperService::new(service);
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn service(holdings: Arc<Mutex<Holdings>>) -> axum::Router {
    axum::Router::new()
        .route("/fhir", post(batch))
        .route("/fhir/metadata", get(metadata))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(holdings)
}

pub(super) async fn metadata() -> Response {
    let interaction = json!({"fhirVersion": "4.0.1", "resourceType": "CapabilityStatement", "status": "active",
        "kind": "instance", "format": ["json"], "rest": [{"mode": "server", "interaction": [{"code": "batch"}]}]});
    fhir(StatusCode::OK, &interaction)
}

async fn batch(State(holdings): State<Arc<Mutex<Holdings>>>, body: Bytes) -> Response {
    let Ok(mut bundle) = serde_json::from_slice::<Value>(&body) else {
        return fhir(StatusCode::BAD_REQUEST, &outcome("structure", "this is no JSON"));
    };
    let is = |name: &str, value: &str| bundle.get(name).and_then(Value::as_str) == Some(value);
    if !is("resourceType", "Bundle") || !is("type", "batch") {
        return fhir(StatusCode::BAD_REQUEST, &outcome("value", "this is no Bundle of type batch"));
    }
    let Some(Value::Array(entries)) = bundle.get_mut("entry").map(Value::take) else {
        return fhir(StatusCode::BAD_REQUEST, &outcome("required", "Bundle.entry"));
    };
    let taken = lock(&holdings).take(&entries);
    let answers: Vec<Value> =
        taken.iter().map(|(url, taken)| json!({"response": answer(url, taken)})).collect();
    fhir(StatusCode::OK, &json!({"resourceType": "Bundle", "type": "batch-response", "entry": answers}))
}

fn answer(url: &str, taken: &Result<Taken, Fault>) -> Value {
    match taken {
        Ok(Taken::Created) => json!({"status": "201 Created", "location": url}),
        Ok(Taken::Updated) => json!({"status": "200 OK", "location": url}),
        Err(fault) => json!({"status": fault.status, "outcome": outcome(fault.code, fault.words)}),
    }
}

pub(super) fn outcome(code: &str, words: &str) -> Value {
    let issue = json!({"severity": "error", "code": code, "diagnostics": words});
    json!({"resourceType": "OperationOutcome", "issue": [issue]})
}

pub(super) fn fhir(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/fhir+json")], body.to_string()).into_response()
}

fn lock(holdings: &Mutex<Holdings>) -> MutexGuard<'_, Holdings> {
    // A batch that ended in a panic was not answered; what it wrote before that is what a server may do, too.
    holdings.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
