//! The receiver against a real client.

use super::*;
use crate::model::time::Timestamp;
use crate::sim::pki::{Authority, Role, Validity};
use tempfile::TempDir;

/// The TLS libraries ask the system's clock themselves, so certificates have to hold now.
fn now() -> Timestamp {
    use crate::clock::Clock;
    crate::clock::SystemClock::new(Timestamp::from_micros(0)).now().0
}

struct Place {
    folder: TempDir,
    authority: Authority,
    receiver: Receiver,
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test", now()).unwrap();
    let ca = folder.path().join("ca.pem");
    authority.write(&ca).unwrap();
    let own = authority.issue(folder.path(), "receiver", Role::Server, Validity::Current).unwrap();
    let receiver = Receiver::start(&own, &ca).await.unwrap();
    Place { folder, authority, receiver }
}

impl Place {
    /// A client that trusts our authority and shows a certificate of `issuer`, or none.
    fn client(&self, issuer: Option<(&Authority, &str, Validity)>) -> reqwest::Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.folder.path().join("ca.pem")).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match issuer {
            None => config.with_no_client_auth(),
            Some((issuer, name, validity)) => {
                let files = issuer.issue(self.folder.path(), name, Role::Client, validity).unwrap();
                let chain: Vec<_> =
                    CertificateDer::pem_file_iter(files.certificate).unwrap().map(Result::unwrap).collect();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(files.key).unwrap()).unwrap()
            }
        };
        reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().unwrap()
    }

    fn welcome(&self) -> reqwest::Client {
        self.client(Some((&self.authority, "gateway", Validity::Current)))
    }
}

async fn posted(client: &reqwest::Client, url: String, body: &Value) -> (u16, Value) {
    let answer = client.post(url).body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

fn device() -> Value {
    let id = "00000000-0000-4000-8000-000000000001";
    json!({"request": {"method": "PUT", "url": format!("Device/{id}")}, "resource": {
        "resourceType": "Device", "id": id, "modelNumber": "kpoll/toray_tr321", "type": {"text": "machine"},
        "meta": {"security": [{"system": "s", "code": "HTEST"}]}}})
}

#[tokio::test]
async fn a_batch_is_answered_entry_by_entry() {
    let place = place().await;
    let client = place.welcome();
    let bad = json!({"request": {"method": "DELETE", "url": "Device/1"}});
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": [device(), bad]});
    let (status, answer) = posted(&client, place.receiver.url(), &bundle).await;
    assert_eq!(status, 200);
    assert_eq!(answer["entry"][0]["response"]["status"], "201 Created");
    assert_eq!(answer["entry"][1]["response"]["status"], "405 Method Not Allowed");
    assert_eq!(answer["entry"][1]["response"]["outcome"]["issue"][0]["code"], "not-supported");
    let (_, answer) = posted(&client, place.receiver.url(), &bundle).await;
    assert_eq!(answer["entry"][0]["response"]["status"], "200 OK");
    assert_eq!(place.receiver.holdings().len(), 1);
}

#[tokio::test]
async fn what_is_no_batch_is_refused_with_an_outcome() {
    let place = place().await;
    let client = place.welcome();
    for body in [
        json!(17),
        json!({"resourceType": "Bundle", "type": "transaction"}),
        json!({"resourceType": "Bundle", "type": "batch"}),
    ] {
        let (status, answer) = posted(&client, place.receiver.url(), &body).await;
        assert_eq!((status, &answer["resourceType"]), (400, &json!("OperationOutcome")));
    }
}

#[tokio::test]
async fn nobody_without_a_certificate_of_our_authority_gets_in() {
    let place = place().await;
    let stranger = Authority::new("stranger", now()).unwrap();
    let shown = [
        None,
        Some((&stranger, "stranger", Validity::Current)),
        Some((&place.authority, "expired", Validity::Expired)),
    ];
    for certificate in shown {
        let sent = place.client(certificate).post(place.receiver.url()).body("{}").send().await;
        assert!(sent.is_err());
    }
    assert_eq!(place.receiver.holdings().counts().batches, 0);
}

#[tokio::test]
async fn a_cut_receiver_is_gone_and_comes_back_at_the_same_address_with_what_it_held() {
    let place = place().await;
    let client = place.welcome();
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": [device()]});
    posted(&client, place.receiver.url(), &bundle).await;
    place.receiver.cut();
    assert!(!place.receiver.is_reachable());
    // The cut reaches the connections a moment later; a request may slip through before.
    while client.post(place.receiver.url()).body("{}").send().await.is_ok() {}
    place.receiver.restore();
    while client.get(place.receiver.url() + "/metadata").send().await.is_err() {}
    assert_eq!(place.receiver.holdings().len(), 1);
}
