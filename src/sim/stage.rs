//! Sets the demo's stage: a folder of its own with keys, device maps, ports and a `gateway.toml`, all thrown away later.

use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::model::time::Timestamp;
use crate::sim::pki::{Authority, PkiError, Role, Validity};
use crate::sim::receiver::{Receiver, ReceiverError};
use crate::sim::ward::Bed;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The namespace of everything the demo sends; `.invalid` belongs to nobody.
pub const NAMESPACE: &str = "https://demo.chairside.invalid";

/// Of a machine's life, this long passes between two polls ...
const EVERY: Duration = Duration::from_secs(20);
/// ... but they come at least this often.
const SELDOM: Duration = Duration::from_secs(1);

/// The machines of the demo, in turn, with the device maps that ship.
const MACHINES: &[(&str, &str, &str)] = &[
    ("kpoll/nikkiso_dbb27c", "nikkiso_dbb27c.toml", include_str!("../../config/devices/nikkiso_dbb27c.toml")),
    ("kpoll/toray_tr8000", "toray_tr8000.toml", include_str!("../../config/devices/toray_tr8000.toml")),
    ("kpoll/toray_tr321", "toray_tr321.toml", include_str!("../../config/devices/toray_tr321.toml")),
    ("kpoll/toray_tr3000", "toray_tr3000.toml", include_str!("../../config/devices/toray_tr3000.toml")),
];

/// Why the stage could not be set.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file or folder.
    #[error("write {}; `TMPDIR` names another place", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The receiver.
    #[error("start the simulated receiver")]
    Receiver(#[from] ReceiverError),
    /// A pseudo-terminal.
    #[error("open a pseudo-terminal for a simulated machine; /dev/pts must be there")]
    Terminal(#[source] io::Error),
    /// The configuration we wrote ourselves.
    #[error("the demo's own configuration is refused; report this:\n{0}")]
    Config(String),
}

/// How large and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many machines.
    pub chairs: usize,
    /// How long the scenario takes.
    pub length: Duration,
    /// How much faster than life the machines live.
    pub speed: u32,
    /// For how long the receiver is cut off.
    pub outage: Duration,
}

impl Plan {
    /// The poll interval: scaled like the machines, but never so long that nothing is seen.
    #[must_use]
    pub fn every(&self) -> Duration {
        let every = (EVERY / self.speed.max(1)).min(SELDOM);
        Duration::from_millis(u64::try_from(every.as_millis()).unwrap_or(1_000).max(10))
    }
}

/// The stage. Its folder goes with it.
#[derive(Debug)]
pub struct Stage {
    /// The clock of gateway and ward.
    pub clock: Arc<dyn Clock>,
    /// The gateway's settings, read from the generated file.
    pub settings: Settings,
    /// The receiver.
    pub receiver: Receiver,
    /// The machines, in the order of the chairs.
    pub beds: Vec<Bed>,
    /// Last, so that everything that stands in it is gone before.
    folder: TempDir,
}

impl Stage {
    /// Makes the folder and everything in it, switches the machines on and starts the receiver.
    ///
    /// # Errors
    /// [`StageError`]
    pub async fn set(plan: &Plan) -> Result<Self, StageError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
        // The builder makes it for its owner alone.
        let folder = tempfile::Builder::new().prefix("chairside-demo-HTEST-").tempdir();
        let folder = folder.map_err(|cause| StageError::Write { path: std::env::temp_dir(), cause })?;
        let home = folder.path();
        for name in ["tls", "devices", "ports"] {
            let path = home.join(name);
            std::fs::create_dir(&path).map_err(|cause| StageError::Write { path, cause })?;
        }
        let receiver = receiver(&home.join("tls"), clock.now().0).await?;
        for (_, name, text) in MACHINES {
            write(&home.join("devices").join(name), text)?;
        }
        let file = home.join("gateway.toml");
        write(&file, &config(plan, &receiver.url()))?;
        let settings = crate::config::load(&file)
            .map_err(|report| StageError::Config(report.render(crate::config::Colours::Off)))?;
        let mut beds = Vec::new();
        for (seed, chair) in (1..).zip(&settings.chairs) {
            let bed = Bed::new(chair.model.as_ref(), seed, &chair.port, plan.speed, clock.clone());
            beds.push(bed.map_err(StageError::Terminal)?);
        }
        Ok(Self { clock, settings, receiver, beds, folder })
    }

    /// Where everything stands.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

async fn receiver(folder: &Path, now: Timestamp) -> Result<Receiver, StageError> {
    let authority = Authority::new("throw-away authority", now)?;
    let ca = folder.join("ca.pem");
    authority.write(&ca)?;
    authority.issue(folder, "gateway", Role::Client, Validity::Current)?;
    let own = authority.issue(folder, "receiver", Role::Server, Validity::Current)?;
    Ok(Receiver::start(&own, &ca).await?)
}

fn write(path: &Path, text: &str) -> Result<(), StageError> {
    std::fs::write(path, text).map_err(|cause| StageError::Write { path: path.to_owned(), cause })
}

fn config(plan: &Plan, url: &str) -> String {
    let mut text = format!(
        r#"# Made by `chairside demo`: simulated machines, a simulated receiver, nobody's data.
[gateway]
name = "demo"
state_dir = "state"
control = "control.sock"
time_zone = "UTC"
namespace = "{NAMESPACE}"
environment = "test"

[keys]
root = {{ file = "root.key", created = true }}

[[upstream]]
name = "receiver"
kind = "fhir"
environment = "test"
url = "{url}"
ca = "tls/ca.pem"
certificate = "tls/gateway.pem"
key = {{ file = "tls/gateway.key" }}
send = {{ every = "poll", settings = "on change", spot = "on new", alarms = "on edge" }}
"#
    );
    for (number, (driver, map, _)) in (1..=plan.chairs).zip(MACHINES.iter().cycle()) {
        // Writing to a string cannot go wrong.
        let _ = write!(
            text,
            r#"
[[chair]]
name = "chair-{number}"
machine = "HTEST-{number:02}"
driver = "{driver}"
port = "ports/chair-{number}"
every = "{}ms"
map = "{map}"
"#,
            plan.every().as_millis()
        );
    }
    text
}
