//! Peak memory of the real daemon with 24 simulated chairs; machines and receiver live in this process, not in its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may stop where its input is wrong"
)]

use chairside::clock::{Clock, SystemClock};
use chairside::model::time::Timestamp;
use chairside::sim::pki::{Authority, Role, Validity};
use chairside::sim::receiver::Receiver;
use chairside::sim::ward::{Bed, Patient};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const CHAIRS: u16 = 24;
const MODELS: [&str; 3] = ["nikkiso_dbb27c", "toray_tr8000", "toray_tr321"];
/// Resources at the receiver before memory is read: about 50 polls of each chair.
const ENOUGH: usize = 20_000;

#[tokio::main]
async fn main() {
    let home = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
    let authority = Authority::new("bench", clock.now().0).unwrap();
    let ca = home.path().join("ca.pem");
    authority.write(&ca).unwrap();
    let server = authority.issue(home.path(), "receiver", Role::Server, Validity::Current).unwrap();
    authority.issue(home.path(), "gateway", Role::Client, Validity::Current).unwrap();
    let receiver = Receiver::start(&server, &ca).await.unwrap();

    std::fs::create_dir(home.path().join("devices")).unwrap();
    for model in MODELS {
        let map = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/devices/{model}.toml"));
        std::fs::copy(map, home.path().join(format!("devices/{model}.toml"))).unwrap();
    }
    let beds: Vec<Bed> = (0..CHAIRS).map(|chair| bed(home.path(), chair, &clock)).collect();
    std::fs::write(home.path().join("gateway.toml"), configuration(&receiver.url())).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_chairside"))
        .args(["run", "--log", "warn", "--config"])
        .arg(home.path().join("gateway.toml"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    for (number, bed) in (0..).zip(&beds) {
        bed.start(Patient(number));
    }
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while receiver.holdings().len() < ENOUGH {
        tick.tick().await;
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
    }
    println!(
        "memory of the daemon with {CHAIRS} simulated chairs, {ENOUGH} resources delivered (target 32 MB)"
    );
    println!("  now {:.1} MB, peak {:.1} MB", memory(&daemon, "VmRSS"), memory(&daemon, "VmHWM"));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

fn bed(home: &Path, chair: u16, clock: &Arc<dyn Clock>) -> Bed {
    let id = format!("kpoll/{}", MODELS[usize::from(chair) % MODELS.len()]);
    let entry = chairside_drivers::find(&id).expect("a model of this version");
    let model = (entry.build)(&chairside_drivers::Options::new()).expect("a model without options");
    let port = home.join(format!("port-{chair}"));
    Bed::new(&*model, u64::from(chair), &port, 20, Arc::clone(clock)).expect("a pseudo-terminal")
}

fn configuration(url: &str) -> String {
    let mut text = format!(
        "[gateway]\nname = \"bench\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\nunseated = \"machine\"\n\
         namespace = \"https://clinic.example/chairside\"\nenvironment = \"test\"\n\
         [keys]\nroot = {{ file = \"root.key\", created = true }}\n\
         [[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\nurl = \"{url}\"\nca = \"ca.pem\"\ncertificate = \"gateway.pem\"\n\
         key = {{ file = \"gateway.key\" }}\nenvironment = \"test\"\n\
         send = {{ every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n"
    );
    for chair in 0..CHAIRS {
        let model = MODELS[usize::from(chair) % MODELS.len()];
        write!(
            text,
            "[[chair]]\nname = \"chair-{chair}\"\nmachine = \"asset-{chair}\"\ndriver = \"kpoll/{model}\"\n\
             port = \"port-{chair}\"\nevery = \"500ms\"\nmap = \"{model}.toml\"\n"
        )
        .unwrap();
    }
    text
}

/// A line of the daemon's own account in /proc, in megabytes.
fn memory(daemon: &Child, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kilobytes =
        found.and_then(|text| text.trim().strip_suffix(" kB")).unwrap_or_else(|| panic!("no {line}"));
    kilobytes.parse::<f64>().unwrap() * 1024.0 / 1e6
}
