//! A throw-away certificate authority on the P-256 curve: everything it issues says that it is a simulation.

use crate::model::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a certificate could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The certificate could not be made.
    #[error("make a throw-away certificate")]
    Make(#[from] rcgen::Error),
    /// A file could not be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server on this computer's loopback address, by number and as `localhost`.
    Server,
    /// A client.
    Client,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From a day before until a day after.
    Current,
    /// Until an hour before.
    Expired,
}

/// Where a certificate and its key stand.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM, mode 0600.
    pub key: PathBuf,
}

/// A certificate authority that lives as long as this value.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    now: Duration,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

const DAY: Duration = Duration::from_secs(86_400);
const LATEST: Duration = Duration::from_secs(253_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

impl Authority {
    /// A new authority of that name.
    ///
    /// # Errors
    /// [`PkiError::Make`]
    pub fn new(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        // Certificates cannot tell a time after the year 9999.
        let now = now.since(Timestamp::from_micros(0)).min(LATEST);
        let mut params = named(name, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_span(&mut params, now, Validity::Current);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, key)?, now })
    }

    /// Writes the authority's own certificate: what the other side trusts.
    ///
    /// # Errors
    /// [`PkiError::Write`]
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        write(path, self.issuer.pem().as_bytes())
    }

    /// Issues a certificate and writes `<name>.pem` and `<name>.key` into `folder`.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn issue(
        &self,
        folder: &Path,
        name: &str,
        role: Role,
        validity: Validity,
    ) -> Result<Files, PkiError> {
        let hosts = match role {
            Role::Server => vec!["localhost".to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST).to_string()],
            Role::Client => Vec::new(),
        };
        let mut params = named(name, hosts)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        set_span(&mut params, self.now, validity);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Files {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        write(&files.certificate, certificate.pem().as_bytes())?;
        let pem = zeroize::Zeroizing::new(key.serialize_pem());
        write(&files.key, pem.as_bytes())?;
        Ok(files)
    }
}

fn named(name: &str, hosts: Vec<String>) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::OrganizationName, "chairside simulation HTEST");
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn set_span(params: &mut CertificateParams, now: Duration, validity: Validity) {
    let at = |since_1970: Duration| rcgen::date_time_ymd(1970, 1, 1) + since_1970;
    params.not_before = at(now.saturating_sub(DAY));
    params.not_after = match validity {
        Validity::Current => at(now + DAY),
        Validity::Expired => at(now.saturating_sub(HOUR)),
    };
}

/// A new file that only its owner can read, certificate or key.
fn write(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let create =
        || -> io::Result<File> { OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) };
    let written = create().and_then(|mut file| file.write_all(content));
    written.map_err(|cause| PkiError::Write { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_for_their_owner_alone_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test", Timestamp::from_micros(1_700_000_000_000_000)).unwrap();
        let files = authority.issue(folder.path(), "gateway", Role::Client, Validity::Current).unwrap();
        let mode = std::fs::metadata(&files.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = authority.issue(folder.path(), "gateway", Role::Client, Validity::Current);
        assert!(matches!(again, Err(PkiError::Write { .. })));
    }

    #[test]
    fn a_clock_beyond_all_certificates_makes_no_panic() {
        for micros in [i64::MIN, 0, i64::MAX] {
            assert!(Authority::new("test", Timestamp::from_micros(micros)).is_ok());
        }
    }
}
