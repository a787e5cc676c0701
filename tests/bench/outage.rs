//! Hours of a whole ward without a network, played ahead of time into a real state directory; then the real daemon starts
//! on that backlog, is killed, starts again, and drains it while its machines are asked as ever.
//!
//! usage: outage [--hours H] [--machines N] [--every SECONDS] [--commit SECONDS]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may stop where its input is wrong"
)]

use chairside::clock::{Clock, SystemClock};
use chairside::config::settings::{SendPolicy, Settings};
use chairside::model::time::Timestamp;
use chairside::privacy::keyring::{Absent, Keyring};
use chairside::privacy::record::Record;
use chairside::sim::outage::oracle::Oracle;
use chairside::sim::outage::tally::{Counter, Tally};
use chairside::sim::outage::ward::{FastWard, Played};
use chairside::sim::pki::{Authority, Role, Validity};
use chairside::sim::ward::{Bed, Patient};
use chairside::spool::Spool as _;
use chairside::spool::store::{Options, SledSpool};
use chairside_drivers::kit::time::Tick;
use std::fmt::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const MODEL: &str = "toray_tr8000";
const MAX_BYTES: u64 = 64 << 30;
/// Without a new reading for this long, the drain has come to a stand.
const STALLED: Duration = Duration::from_secs(120);

struct Plan {
    hours: f64,
    machines: u32,
    every: u32,
    /// Ward time in one commit of the spool; the daemon commits every second.
    commit: u32,
}

fn plan() -> Plan {
    let mut plan = Plan { hours: 0.5, machines: 30, every: 10, commit: 20 };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{word} needs a number"));
        match word.as_str() {
            "--hours" => plan.hours = value.parse().expect("hours"),
            "--machines" => plan.machines = value.parse().expect("a number of machines"),
            "--every" => plan.every = value.parse().expect("seconds"),
            "--commit" => plan.commit = value.parse().expect("seconds"),
            other => panic!("no option {other}"),
        }
    }
    plan
}

#[tokio::main]
async fn main() {
    let plan = plan();
    let home = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
    let authority = Authority::new("bench", clock.now().0).unwrap();
    let ca = home.path().join("ca.pem");
    authority.write(&ca).unwrap();
    let own = authority.issue(home.path(), "receiver", Role::Server, Validity::Current).unwrap();
    authority.issue(home.path(), "gateway", Role::Client, Validity::Current).unwrap();
    let length = Duration::from_secs_f64(plan.hours * 3600.0);
    let now = clock.now().0;
    let start = Timestamp::from_micros(now.as_micros() - i64::try_from(length.as_micros()).unwrap());
    let every = Duration::from_secs(plan.every.into());
    let receiver =
        Counter::start(&own, &ca, Tally::new(start, every, now), Arc::clone(&clock)).await.unwrap();
    let settings = configure(home.path(), &plan, &receiver.url());

    let (oracle, played) = fill(&settings, &plan, start, length, &*clock);
    let state = settings.gateway.state_dir.clone();
    let expected = oracle.readings();
    println!(
        "  {} polls, {} readings off the machines, {} values in records, {} readings to be delivered one by one",
        played.answered, played.readings, played.values, expected.count
    );
    println!("  store {:.1} MB", used(&state.join("spool")) as f64 / 1e6);

    let beds: Vec<Bed> = (0..plan.machines)
        .map(|chair| {
            let port = home.path().join(format!("port-{chair}"));
            let model = &settings.chairs[chair as usize].model;
            Bed::new(&**model, u64::from(chair) + 1, &port, 1, Arc::clone(&clock)).expect("a pseudo-terminal")
        })
        .collect();
    for (number, bed) in (0..).zip(&beds) {
        bed.start(Patient(number));
    }
    let ready = |what: &str| {
        let begun = clock.tick();
        let daemon = Daemon::start(home.path());
        println!("  READY after {what}: {:.2} s (target 2)", clock.tick().since(begun).as_secs_f64());
        daemon
    };
    let first = ready("a clean stop");
    drop(first);
    // Asked at once after it was asked by the one before, a machine would have two readings where the tally has room for one.
    tokio::time::sleep(Duration::from_secs(plan.every.into())).await;
    let mut daemon = ready("a kill");
    drain(&mut daemon, &receiver, &oracle, &*clock, length).await;
    drop(daemon);
}

/// Plays the hours through normaliser, border and spool, and closes the spool in order.
fn fill(
    settings: &Settings,
    plan: &Plan,
    start: Timestamp,
    length: Duration,
    clock: &dyn Clock,
) -> (Oracle, Played) {
    let state = &settings.gateway.state_dir;
    std::fs::DirBuilder::new().mode(0o700).create(state).unwrap();
    let keyring = Arc::new(Keyring::open(state, &settings.root_key, Absent::Create).unwrap());
    let names: Vec<_> = settings.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    keyring.ensure_recipients(&names).unwrap();
    let keys = Arc::clone(&keyring);
    let mut spool =
        SledSpool::open(&state.join("spool"), keys, &names, Options::new(MAX_BYTES), start).unwrap();
    let mut ward = FastWard::new(&settings.chairs, 1.0, start, &keyring, settings.gateway.unseated);
    let mut oracle = Oracle::new(SendPolicy::EVERYTHING, settings.gateway.unseated);
    let mut records: Vec<Record> = Vec::new();
    let (begun, step) = (clock.tick(), Duration::from_secs(plan.commit.into()));
    let warm = length / 10;
    let (mut passed, mut first) = (Duration::ZERO, None);
    let (mut committing, mut longest) = (Duration::ZERO, Duration::ZERO);
    while passed < length {
        passed = (passed + step).min(length);
        ward.play_until(Tick::ZERO.after(passed), &mut records).unwrap();
        let before = clock.tick();
        spool.append(&records).unwrap();
        let took = clock.tick().since(before);
        committing += took;
        longest = longest.max(took);
        records.drain(..).for_each(|record| oracle.expect(&record));
        if passed >= warm && first.is_none() {
            first = Some(memory("self", "VmRSS"));
        }
    }
    let (first, last) = (first.unwrap_or_default(), memory("self", "VmRSS"));
    let took = clock.tick().since(begun);
    println!(
        "outage: {} h of {} {MODEL}, one poll in {} s, played in {:.0} s, {} s of it in one commit",
        plan.hours,
        plan.machines,
        plan.every,
        took.as_secs_f64(),
        plan.commit
    );
    println!(
        "  appending {:.0} s in all, {:.0} ms at most",
        committing.as_secs_f64(),
        longest.as_secs_f64() * 1e3
    );
    println!(
        "  memory after a tenth {first:.1} MiB, at the end {last:.1} MiB, growth {:.1} MiB (target 8), with {}",
        last - first,
        match std::env::var("MALLOC_MMAP_THRESHOLD_") {
            Ok(bytes) => format!("MALLOC_MMAP_THRESHOLD_={bytes}"),
            Err(_) => "a threshold of mmap that moves: set MALLOC_MMAP_THRESHOLD_=131072".to_owned(),
        }
    );
    spool.close().unwrap();
    (oracle, ward.played())
}

/// Waits until every reading of the backlog has come, and says how that went.
async fn drain(
    daemon: &mut Daemon,
    receiver: &Counter,
    oracle: &Oracle,
    clock: &dyn Clock,
    length: Duration,
) {
    let expected = oracle.readings();
    let (begun, already) = (clock.tick(), receiver.tally().backlog().count);
    let started_with = memory(&daemon.id(), "VmRSS");
    let mut look = tokio::time::interval(Duration::from_millis(200));
    let (mut last, mut progress) = (already, begun);
    while receiver.tally().backlog().count < expected.count {
        look.tick().await;
        let count = receiver.tally().backlog().count;
        if count > last {
            (last, progress) = (count, clock.tick());
        }
        let standing = clock.tick().since(progress);
        assert!(standing < STALLED, "the drain stands at {count} of {} readings", expected.count);
        assert!(daemon.process.try_wait().unwrap().is_none(), "the daemon ended");
    }
    let took = clock.tick().since(begun).as_secs_f64();
    let share = (expected.count - already) as f64 / expected.count as f64;
    let tally = receiver.tally();
    let counts = tally.counts();
    println!(
        "  drained in {took:.0} s: {:.1} times the nominal rate (target 10), {:.0} readings/s, {:.0} bytes a resource",
        length.as_secs_f64() * share / took,
        (expected.count - already) as f64 / took,
        counts.bytes as f64 / counts.entries as f64,
    );
    println!(
        "  meanwhile {} live readings, p50 {} p95 {} max {} ms old at the receiver (target p95 5,000)",
        tally.live().count,
        tally.live_age(50).unwrap_or_default(),
        tally.live_age(95).unwrap_or_default(),
        tally.live_age(100).unwrap_or_default(),
    );
    println!(
        "  daemon's memory: {started_with:.1} MiB when ready, {:.1} MiB at the end, peak {:.1} MiB",
        memory(&daemon.id(), "VmRSS"),
        memory(&daemon.id(), "VmHWM")
    );
    println!(
        "  {} resources, {} written again, {} doubled, {} strange; backlog {}",
        counts.resources,
        counts.repeated,
        counts.doubled,
        counts.strange,
        if tally.backlog() == expected { "exactly what was played" } else { "NOT WHAT WAS PLAYED" }
    );
    let is_once = tally.backlog() == expected && counts.doubled == 0 && counts.strange == 0;
    drop(tally);
    if !is_once {
        std::process::exit(1);
    }
}

fn configure(home: &Path, plan: &Plan, url: &str) -> Settings {
    std::fs::create_dir(home.join("devices")).unwrap();
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/devices/{MODEL}.toml"));
    std::fs::copy(map, home.join(format!("devices/{MODEL}.toml"))).unwrap();
    let mut text = format!(
        "[gateway]\nname = \"bench\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\nunseated = \"machine\"\n\
         namespace = \"https://clinic.example/chairside\"\nenvironment = \"test\"\n\
         [spool]\nmax_bytes = \"64 GiB\"\n[keys]\nroot = {{ file = \"root.key\", created = true }}\n\
         [[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\nurl = \"{url}\"\nca = \"ca.pem\"\ncertificate = \"gateway.pem\"\n\
         key = {{ file = \"gateway.key\" }}\nenvironment = \"test\"\n\
         send = {{ every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n"
    );
    for chair in 0..plan.machines {
        write!(
            text,
            "[[chair]]\nname = \"chair-{chair}\"\nmachine = \"asset-{chair}\"\ndriver = \"kpoll/{MODEL}\"\n\
             port = \"port-{chair}\"\nevery = \"{}s\"\nmap = \"{MODEL}.toml\"\n",
            plan.every
        )
        .unwrap();
    }
    std::fs::write(home.join("gateway.toml"), text).unwrap();
    chairside::config::load(&home.join("gateway.toml")).unwrap_or_else(|report| panic!("{report}"))
}

/// The real daemon; killed when this is dropped.
struct Daemon {
    process: Child,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    fn start(home: &Path) -> Self {
        let socket: PathBuf = home.join("notify.sock");
        let _ = std::fs::remove_file(&socket);
        let heard = UnixDatagram::bind(&socket).unwrap();
        heard.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_chairside"))
            .args(["run", "--log", "warn", "--config"])
            .arg(home.join("gateway.toml"))
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { process };
        let mut message = [0; 4096];
        loop {
            let length = heard.recv(&mut message).expect("the daemon does not become ready");
            if message[..length].starts_with(b"READY=1")
                || message[..length].windows(8).any(|it| it == b"\nREADY=1")
            {
                return daemon;
            }
        }
    }

    fn id(&self) -> String {
        self.process.id().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A line of a process's own account in /proc, in MiB.
fn memory(process: &str, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kilobytes =
        found.and_then(|text| text.trim().strip_suffix(" kB")).unwrap_or_else(|| panic!("no {line}"));
    kilobytes.parse::<f64>().unwrap() / 1024.0
}

fn used(path: &Path) -> u64 {
    let about = std::fs::symlink_metadata(path).unwrap();
    if !about.is_dir() {
        return about.blocks() * 512;
    }
    std::fs::read_dir(path).unwrap().map(|entry| used(&entry.unwrap().path())).sum()
}
