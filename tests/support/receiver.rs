//! A FHIR receiver behind mutual TLS that shares no code with the gateway: it keeps what it is given and can be cut off.

use crate::pki::Pki;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The running receiver; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// The last body of each resource, by `Type/id`.
    resources: BTreeMap<String, Value>,
    /// Bodies as they came, for searching.
    raw: Vec<u8>,
    cut_off: bool,
    /// A code, and how many resources with it are refused.
    refused: (String, usize),
}

impl Receiver {
    pub(crate) async fn start(pki: &Pki) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::new(Kept::default());
        let acceptor = TlsAcceptor::from(Arc::new(server_config(pki)));
        let router = Router::new().fallback(take).with_state(Arc::clone(&kept));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, kept }
    }

    /// From now on every request is answered with 503, or taken again.
    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.kept.inner.lock().unwrap().cut_off = cut_off;
    }

    /// The next `times` resources with this code are refused.
    pub(crate) fn refuse(&self, code: &str, times: usize) {
        self.kept.inner.lock().unwrap().refused = (code.to_owned(), times);
    }

    /// Everything taken, by `Type/id`.
    pub(crate) fn resources(&self) -> BTreeMap<String, Value> {
        self.kept.inner.lock().unwrap().resources.clone()
    }

    /// Every body ever received.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.kept.inner.lock().unwrap().raw.clone()
    }

    /// Waits until what was taken satisfies `enough`; says what was waited for when a minute has passed.
    pub(crate) async fn until(&self, what: &str, enough: impl Fn(&BTreeMap<String, Value>) -> bool) {
        let mut changed = self.kept.changed.subscribe();
        let waited = async {
            loop {
                changed.borrow_and_update();
                if enough(&self.kept.inner.lock().unwrap().resources) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(60);
        if tokio::time::timeout(limit, waited).await.is_err() {
            panic!("not seen at the receiver: {what}; it has {:?}", self.resources().keys());
        }
    }
}

fn server_config(pki: &Pki) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca.as_bytes()).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pki.receiver.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pki.receiver.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn take(State(kept): State<Arc<Kept>>, body: Bytes) -> Response {
    let answer = {
        let mut inner = kept.inner.lock().unwrap();
        if inner.cut_off {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        inner.raw.extend_from_slice(&body);
        let Ok(bundle) = serde_json::from_slice::<Value>(&body) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        assert_eq!(bundle["type"], "batch", "{bundle}");
        let mut entries = Vec::new();
        for entry in bundle["entry"].as_array().unwrap() {
            assert_eq!(entry["request"]["method"], "PUT", "{entry}");
            let url = entry["request"]["url"].as_str().unwrap().to_owned();
            let resource = entry["resource"].clone();
            let own = format!(
                "{}/{}",
                resource["resourceType"].as_str().unwrap(),
                resource["id"].as_str().unwrap()
            );
            assert_eq!(url, own);
            let (code, times) = &mut inner.refused;
            if *times > 0 && resource["code"]["coding"][0]["code"] == **code {
                *times -= 1;
                let outcome = json!({ "resourceType": "OperationOutcome", "issue": [{ "severity": "error", "code": "value" }] });
                entries.push(
                    json!({ "response": { "status": "422 Unprocessable Entity", "outcome": outcome } }),
                );
                continue;
            }
            let known = inner.resources.insert(url, resource).is_some();
            entries.push(json!({ "response": { "status": if known { "200 OK" } else { "201 Created" } } }));
        }
        json!({ "resourceType": "Bundle", "type": "batch-response", "entry": entries }).to_string()
    };
    kept.changed.send_modify(|count| *count += 1);
    ([("content-type", "application/fhir+json")], answer).into_response()
}
