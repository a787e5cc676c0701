//! One TLS client for every kind of upstream: a pinned CA, our own certificate, TLS 1.3 unless the site says 1.2.
//!
//! Whatever is wrong with our own certificate is found here, before any connection: nothing is ever sent without it.

pub mod expiry;
mod validity;

use crate::clock::Clock;
use crate::config::settings::{KeySource, MinTls, UpstreamSettings};
use crate::model::time::{ClockTrust, Timestamp};
use crate::privacy::key_source::{KeySourceError, read_secret};
use crate::upstream::Trouble;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A TLS client that is ready to connect.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its configuration.
    pub config: ClientConfig,
    /// Until when our own certificate can be shown.
    pub valid_until: Timestamp,
    /// Of everything that was read: the same files give the same.
    pub digest: [u8; 32],
}

/// Reads the pinned CA, our certificate and our key, and refuses what no server could accept.
///
/// # Errors
/// A [`Trouble`] that names the file and what to do; the upstream is paused with it.
pub fn client(settings: &UpstreamSettings, clock: &Arc<dyn Clock>) -> Result<Client, Trouble> {
    let (now, trust) = clock.now();
    let roots = roots(&settings.ca)?;
    let chain = chain(&settings.certificate)?;
    let valid_until = usable_until(&chain, &settings.certificate, now, trust)?;
    let key = key(&settings.key).map_err(key_trouble)?;
    let digest = digest(&roots, &chain, &key);
    let versions: &[_] = match settings.min_tls {
        MinTls::V1_3 => &[&rustls::version::TLS13],
        // Every suite that rustls has for TLS 1.2 is AEAD with ephemeral keys.
        MinTls::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    // The provider is named here, so nothing depends on who installed a default one first.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(HouseTime(clock.clone())))
        .with_protocol_versions(versions)
        .map_err(|_| own("tls_versions", "TLS cannot be set up".to_owned(), "report this as a fault"))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|_| {
            own(
                "own_key_unfit",
                format!("the key does not belong to the certificate in {}", settings.certificate.display()),
                "put the certificate and the key that were made together into place",
            )
        })?;
    Ok(Client { config, valid_until, digest })
}

fn digest(roots: &RootCertStore, chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> [u8; 32] {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let roots =
        roots.roots.iter().flat_map(|root| [root.subject.as_ref(), root.subject_public_key_info.as_ref()]);
    for piece in roots.chain(chain.iter().map(AsRef::as_ref)).chain([key.secret_der()]) {
        hash.update(&piece.len().to_be_bytes());
        hash.update(piece);
    }
    let mut digest = [0; 32];
    digest.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

/// What is wrong with our own certificate once it is past its end.
fn own_certificate_expired(file: &Path, until: Timestamp) -> Trouble {
    own(
        "own_certificate_expired",
        format!("our certificate in {} expired on {}", file.display(), expiry::day(until)),
        "renew it; nothing is sent until then, and nothing is lost",
    )
}

fn roots(file: &Path) -> Result<RootCertStore, Trouble> {
    let remedy = "put the certificate of the CA that signs the receiver's certificate there, as PEM";
    let bad = |what: &str| own("ca_unusable", format!("the CA file {} {what}", file.display()), remedy);
    let text = std::fs::read(file).map_err(|error| bad(&unreadable(&error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| bad("is no PEM file"))?;
        roots.add(certificate).map_err(|_| bad("has a certificate that cannot be read"))?;
    }
    if roots.is_empty() { Err(bad("has no certificate in it")) } else { Ok(roots) }
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let remedy = "put our certificate there, as PEM, followed by what it was signed with";
    let bad = |what: &str| {
        own("own_certificate_unusable", format!("our certificate {} {what}", file.display()), remedy)
    };
    let text = std::fs::read(file).map_err(|error| bad(&unreadable(&error)))?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| bad("is no PEM file"))?;
    if chain.is_empty() { Err(bad("has no certificate in it")) } else { Ok(chain) }
}

/// The end of the shortest-lived certificate of the chain.
fn usable_until(
    chain: &[CertificateDer<'_>],
    file: &Path,
    now: Timestamp,
    trust: ClockTrust,
) -> Result<Timestamp, Trouble> {
    let mut until = Timestamp::from_micros(i64::MAX);
    for certificate in chain {
        let Some(validity) = validity::of(certificate) else {
            return Err(own(
                "own_certificate_unusable",
                format!("our certificate {} has no validity that can be read", file.display()),
                "have it made again",
            ));
        };
        // A clock that is not trusted yet stands too early; it cannot say that a certificate is too young.
        if now < validity.from && trust == ClockTrust::Trusted {
            return Err(own(
                "own_certificate_not_yet_valid",
                format!("our certificate in {} is not valid yet", file.display()),
                "check the date of this computer, then the certificate",
            ));
        }
        until = until.min(validity.until);
    }
    if now > until { Err(own_certificate_expired(file, until)) } else { Ok(until) }
}

/// Why there is no key to use.
enum KeyFault {
    Source(KeySourceError),
    NoKey,
}

fn key(source: &KeySource) -> Result<PrivateKeyDer<'static>, KeyFault> {
    let text = read_secret(source).map_err(KeyFault::Source)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| KeyFault::NoKey)
}

fn key_trouble(fault: KeyFault) -> Trouble {
    let (code, what) = match fault {
        KeyFault::NoKey => ("own_key_unusable", "the file of our key has no private key in it".to_owned()),
        KeyFault::Source(error @ KeySourceError::OpenToOthers { .. }) => {
            let remedy = "and have a new one made if somebody may have read it";
            return own("own_key_open", error.to_string(), remedy);
        }
        KeyFault::Source(KeySourceError::Read { path, source }) => {
            ("own_key_unusable", format!("the key {} {}", path.display(), unreadable(&source)))
        }
        KeyFault::Source(error) => ("own_key_unusable", error.to_string()),
    };
    own(
        code,
        what,
        "`key` must name the private key of our certificate, as PEM without a password, mode 0600",
    )
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by us".to_owned(),
        kind => format!("cannot be read: {kind}"),
    }
}

const fn own(code: &'static str, what: String, remedy: &'static str) -> Trouble {
    Trouble { code, what, remedy }
}

/// Certificates are judged by the house's clock, like everything else.
#[derive(Debug)]
struct HouseTime(Arc<dyn Clock>);

impl rustls::time_provider::TimeProvider for HouseTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.now().0.as_micros().div_euclid(1_000_000);
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).ok()?)))
    }
}

/// What a failed connection means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// There was no connection: nothing of the request can have arrived.
    Unreached(Trouble),
    /// The network or the receiver is not there now.
    Away(Trouble),
    /// The receiver ended the connection without a word: it went away, or it refuses our certificate.
    Cut(Trouble),
    /// Trust is broken: a person is needed.
    Distrust(Trouble),
}

/// Reads a failed connection down to its cause. Carries no text of the other side.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> LinkFault {
    let mut next = Some(error);
    let mut io_kind = None;
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return tls_fault(tls);
        }
        next = match error.downcast_ref::<io::Error>() {
            // An io::Error hides what it wraps from `source`, and TLS errors come wrapped twice.
            Some(io) => {
                io_kind = Some(io.kind());
                io.get_ref().map(|inner| inner as &(dyn Error + 'static))
            }
            None => error.source(),
        };
    }
    io_fault(io_kind)
}

fn io_fault(kind: Option<io::ErrorKind>) -> LinkFault {
    let remedy = "check the network and whether the receiver runs; everything is kept until it answers";
    let away = |code, what: &str| LinkFault::Away(own(code, what.to_owned(), remedy));
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => {
            away("refused", "nothing listens at the receiver's address")
        }
        Some(io::ErrorKind::TimedOut) => away("timeout", "the receiver does not answer in time"),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            away("unreachable", "there is no way to the receiver's network")
        }
        Some(
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof,
        ) => LinkFault::Cut(own("cut", "the receiver ended the connection".to_owned(), remedy)),
        _ => away("no_connection", "no connection to the receiver"),
    }
}

fn tls_fault(error: &rustls::Error) -> LinkFault {
    LinkFault::Distrust(match error {
        rustls::Error::InvalidCertificate(why) => receiver_certificate(why),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => own(
            "tls_version",
            "the receiver does not speak the TLS version we ask for".to_owned(),
            "raise the receiver to TLS 1.3, or set min_tls = \"1.2\" for it",
        ),
        rustls::Error::AlertReceived(alert) => return alert_fault(*alert),
        _ => own(
            "not_tls",
            "what answers there does not speak TLS as it should".to_owned(),
            "check host and port in `url`, and whether a proxy stands in between",
        ),
    })
}

/// The receiver said in an alert what it does not like.
fn alert_fault(alert: AlertDescription) -> LinkFault {
    use AlertDescription as A;
    match alert {
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::CertificateRequired
        | A::NoCertificate
        | A::UnknownCA
        | A::AccessDenied
        | A::DecryptError
        | A::HandshakeFailure => {
            LinkFault::Distrust(own_certificate_refused(&format!("TLS alert {alert:?}")))
        }
        A::InternalError | A::CloseNotify | A::UserCanceled => io_fault(Some(io::ErrorKind::UnexpectedEof)),
        other => LinkFault::Distrust(own(
            "tls_alert",
            format!("the receiver ended the handshake with the TLS alert {other:?}"),
            "ask whoever runs the receiver what its log says",
        )),
    }
}

/// The receiver does not want our certificate.
#[must_use]
pub fn own_certificate_refused(sign: &str) -> Trouble {
    own(
        "own_certificate_refused",
        format!("the receiver refuses our certificate ({sign})"),
        "have our certificate, or the CA that signed it, admitted at the receiver",
    )
}

fn receiver_certificate(why: &CertificateError) -> Trouble {
    use CertificateError as E;
    match why {
        E::UnknownIssuer | E::BadSignature => own(
            "unknown_ca",
            "the receiver's certificate is not signed by the CA in `ca`".to_owned(),
            "check that `url` leads to the right server; if its CA changed, put the new one into the file of `ca`",
        ),
        E::NotValidForName | E::NotValidForNameContext { .. } => own(
            "wrong_name",
            "the receiver's certificate is for another name".to_owned(),
            "write the name that stands in the certificate into `url`, or have the certificate made for this name",
        ),
        E::Expired | E::ExpiredContext { .. } => own(
            "receiver_certificate_expired",
            "the receiver's certificate has expired".to_owned(),
            "ask whoever runs the receiver to renew it; check the date of this computer",
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => own(
            "receiver_certificate_not_yet_valid",
            "the receiver's certificate is not valid yet".to_owned(),
            "check the date of this computer",
        ),
        E::Revoked => own(
            "receiver_certificate_revoked",
            "the receiver's certificate has been revoked".to_owned(),
            "ask whoever runs the receiver for a new one",
        ),
        _ => own(
            "receiver_certificate_bad",
            "the receiver's certificate does not hold".to_owned(),
            "ask whoever runs the receiver; it must be an X.509 v3 server certificate with this name",
        ),
    }
}

#[cfg(test)]
mod tests;
