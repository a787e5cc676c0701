//! Checked settings: what the rest of the house sees of `gateway.toml`.

use crate::config::device_map::DeviceMap;
use crate::model::name::{ChairName, MachineName, UpstreamName};
use chairside_drivers::kit::driver::Model;
use jiff::tz::TimeZone;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything `gateway.toml` and its device maps say, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file it came from.
    pub file: PathBuf,
    /// SHA-256 over the file and its maps, for the audit record.
    pub digest: [u8; 32],
    /// `[gateway]`
    pub gateway: GatewaySettings,
    /// `[spool]`
    pub spool: SpoolSettings,
    /// `[keys]`
    pub root_key: KeySource,
    /// `[[chair]]`
    pub chairs: Vec<ChairSettings>,
    /// `[[upstream]]`
    pub upstreams: Vec<UpstreamSettings>,
}

/// `[gateway]`
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// The gateway's name.
    pub name: String,
    /// Spool, keyring, audit, time floor.
    pub state_dir: PathBuf,
    /// What the machines' own clocks mean.
    pub time_zone: TimeZone,
    /// What happens to readings without a patient.
    pub unseated: Unseated,
    /// The base of our own identifiers and codes, a URL without trailing slash.
    pub namespace: String,
    /// Whether all of it is a test.
    pub environment: Environment,
    /// Whether somebody answers for the clock of this computer, so that nothing has to tell that it was set.
    pub trust_clock: bool,
    /// The control socket.
    pub control: PathBuf,
}

/// What happens to readings without a patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseated {
    /// Held until a seat comes.
    Hold,
    /// Sent with the machine as their subject.
    Machine,
}

/// Whether all of it is a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// Real patients.
    Production,
    /// Everything is branded `HTEST`.
    Test,
}

/// `[spool]`
#[derive(Clone, Copy, Debug)]
pub struct SpoolSettings {
    /// The spool may take this many bytes on disk.
    pub max_bytes: u64,
    /// Keep delivered records this long, so that a correction can rewrite them.
    pub keep_delivered: Duration,
}

/// Where a secret comes from; never from the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A systemd credential: `$CREDENTIALS_DIRECTORY/<name>`.
    Credential(String),
    /// A file of mode 0600.
    File {
        /// Where.
        path: PathBuf,
        /// Whether a missing file is made at the first start (root key only).
        created: bool,
    },
}

/// `[[chair]]`
#[derive(Clone, Debug)]
pub struct ChairSettings {
    /// The place in the ward.
    pub name: ChairName,
    /// The machine's own number.
    pub machine: MachineName,
    /// The serial port.
    pub port: PathBuf,
    /// The poll interval.
    pub every: Duration,
    /// The model, built with the map's options.
    pub model: Arc<dyn Model>,
    /// What its channels mean.
    pub map: Arc<DeviceMap>,
}

/// `[[upstream]]`
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Its name.
    pub name: UpstreamName,
    /// Its kind and what only that kind has.
    pub kind: UpstreamKind,
    /// The trust anchor: a PEM file of our own choosing, never the system's.
    pub ca: PathBuf,
    /// Our certificate chain, PEM.
    pub certificate: PathBuf,
    /// Our private key, PEM.
    pub key: KeySource,
    /// The lowest TLS version.
    pub min_tls: MinTls,
    /// What is sent.
    pub send: SendPolicy,
}

/// The kind of an upstream.
#[derive(Clone, Debug)]
pub enum UpstreamKind {
    /// FHIR R4.
    Fhir(FhirSettings),
}

/// What a FHIR upstream has of its own.
#[derive(Clone, Debug)]
pub struct FhirSettings {
    /// The base URL, `https`, without trailing slash.
    pub url: String,
    /// How the patient is named.
    pub subject: Subject,
    /// What this receiver takes.
    pub resources: Vec<ResourceKind>,
    /// Whether the receiver takes test data.
    pub environment: Environment,
    /// Whether requests may go out in gzip.
    pub compress: Compress,
}

/// Whether requests go out in gzip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// Where the receiver takes it.
    Auto,
    /// Never.
    Never,
}

/// How the patient is named at a FHIR receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A logical reference by pseudonym; no Patient is written.
    Identifier,
    /// `Patient/<id>` is written by us, with the pseudonym as its only content.
    Managed,
}

/// The resource types a FHIR receiver may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    /// Readings, alarms, gaps.
    Observation,
    /// Machines.
    Device,
    /// What a machine measures.
    DeviceMetric,
    /// Treatments of seated patients.
    Procedure,
}

/// The lowest TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinTls {
    /// TLS 1.3 alone.
    V1_3,
    /// TLS 1.2 with AEAD suites, and 1.3.
    V1_2,
}

/// `send = { ... }`: what an upstream is sent. The spool keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendPolicy {
    /// Measured values and totals: every poll, or the first record of each aligned window.
    pub every: Every,
    /// Settings and states.
    pub settings: Changes,
    /// Spot values; they only ever go out once per measurement.
    pub spot: Wanted,
    /// Alarm edges.
    pub alarms: Wanted,
}

impl SendPolicy {
    /// All that can be asked for.
    pub const EVERYTHING: SendPolicy = SendPolicy {
        every: Every::Poll,
        settings: Changes::OnChange,
        spot: Wanted::Yes,
        alarms: Wanted::Yes,
    };
}

/// How often measured values are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Each poll.
    Poll,
    /// The first record of each window, windows aligned to UTC midnight.
    Window(Duration),
}

/// When settings and states are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// When they change.
    OnChange,
    /// Never.
    Never,
}

/// Whether something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Sent as it happens.
    Yes,
    /// Never.
    No,
}
