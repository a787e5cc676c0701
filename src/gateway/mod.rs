//! The wiring: settings become tasks. The only module that knows every other.

mod alarms;
mod chair;
mod desk;
mod error;
mod gaps;
mod notify;
mod seating;
mod steps;
mod upkeep;

pub use error::GatewayError;
pub use notify::Notify;

use crate::audit::{Audit, Entry};
use crate::clock::{Clock, SystemClock, TimeFloor};
use crate::config::settings::{ChairSettings, Environment, Settings, UpstreamKind, UpstreamSettings};
use crate::control::server::ControlSocket;
use crate::disk::Disk;
use crate::model::time::{ClockTrust, Timestamp};
use crate::poll::event::EVENTS;
use crate::poll::{Conversation, Figures, Tty, converse};
use crate::privacy::Pseudonymiser;
use crate::privacy::keyring::{Absent, Keyring};
use crate::privacy::record::TreatmentId;
use crate::privacy::seats::Seats;
use crate::spool::handle::{self, SpoolHandle};
use crate::spool::reserve;
use crate::spool::store::{Options, SledSpool};
use crate::status::{self, Board, GatewayState, Snapshot};
use crate::supervise::{Cause, Failure, Pulse, Wave};
use crate::upstream::fhir::client::FhirUpstream;
use crate::upstream::{Identities, forward};
use chair::{Sealing, Shared};
use desk::FrontDesk;
use rustix::fs::{Access, access};
use seating::SeatRequest;
use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use upkeep::Upkeep;

/// Deadlines of the waves. Together they are shorter than `TimeoutStopSec` of the unit, so that the service manager never
/// has to kill us while we are still saving.
pub mod deadlines {
    use std::time::Duration;

    /// Lines close their ports.
    pub const LINES: Duration = Duration::from_secs(5);
    /// What was read is sealed and durable.
    pub const SEALING: Duration = Duration::from_secs(10);
    /// Forwarders finish the batch in hand.
    pub const FORWARDERS: Duration = Duration::from_secs(15);
    /// The spool is closed.
    pub const SPOOL: Duration = Duration::from_secs(15);
}

/// Readiness does not wait longer than this for a port that hangs.
const TRIED: Duration = Duration::from_secs(20);
/// Seat requests that may wait in front of one chair; a caller beyond that waits.
const SEAT_REQUESTS: usize = 4;

/// What a caller of [`run`] may choose; the daemon takes the default.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// The clock; `None` is the system's, above the time floor kept in the state directory.
    pub clock: Option<Arc<dyn Clock>>,
    /// Where the live state is shown: keep a clone to watch the gateway from inside the process.
    pub board: Arc<Board>,
    /// Whom to tell about readiness and life.
    pub notify: Notify,
}

/// Runs the whole gateway until `shutdown` completes, then stops it in waves: lines, sealing, forwarders, spool.
///
/// `run` and `demo` both come here, so what the demo shows is what the daemon does. Commands reach it through the
/// control socket named in the settings.
///
/// # Errors
/// [`GatewayError`] when it cannot start, or when the spool or the sealing fails; [`GatewayError::exit`] is the exit code.
pub async fn run(
    settings: Settings,
    options: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), GatewayError> {
    let mut shutdown = pin!(shutdown);
    let foundation = patiently(options.notify, Foundation::lay(&settings, &options)).await?;
    let house = House::open(settings, options.notify, foundation).await?;
    house.live(&mut shutdown).await
}

/// A spool that was not closed cleanly is read in full first, which may take longer than a service manager waits.
async fn patiently<T>(notify: Notify, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut reminder = tokio::time::interval(Duration::from_secs(10));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = reminder.tick() => notify.starting(Duration::from_secs(30)),
        }
    }
}

/// What must hold before the first cable is opened.
struct Foundation {
    clock: Arc<dyn Clock>,
    floor: TimeFloor,
    audit: Arc<Audit>,
    keyring: Arc<Keyring>,
    shared: Arc<Shared>,
}

impl Foundation {
    async fn lay(settings: &Settings, options: &RunOptions) -> Result<Self, GatewayError> {
        let state_dir = &settings.gateway.state_dir;
        make_state_dir(state_dir)?;
        // What a newer program wrote is not touched, and neither is what another process holds: its lock is the keyring's.
        let spool_home = state_dir.join("spool");
        SledSpool::check_format(&spool_home).map_err(GatewayError::Spool)?;
        let absent = if spool_home.exists() { Absent::Refuse } else { Absent::Create };
        let keyring =
            Arc::new(Keyring::open(state_dir, &settings.root_key, absent).map_err(GatewayError::Keyring)?);
        // What has to be written before the spool is open finds no room otherwise.
        reserve::release_if_short(&spool_home);
        ensure_writable(state_dir)?;
        let floor = TimeFloor::load(state_dir);
        let clock: Arc<dyn Clock> = match &options.clock {
            Some(clock) => Arc::clone(clock),
            None => Arc::new(SystemClock::open(state_dir, &floor, settings.gateway.trust_clock)),
        };
        let (now, trust) = clock.now();
        if trust == ClockTrust::Untrusted {
            tracing::error!(
                now = crate::clock::stamp(now),
                earliest = crate::clock::stamp(floor.earliest()),
                "nobody has set the clock of this computer since it started, or it is behind; set it, or connect it to a \
                 time server. If something keeps it right that cannot be seen from here, say `trust_clock = true` in \
                 [gateway]. Readings are kept, and are sent once the clock is set"
            );
        }
        options.board.fill(first_snapshot(settings, now, trust));

        let ensure = || keyring.ensure_recipients(settings.upstreams.iter().map(|upstream| &upstream.name));
        let ensured = match ensure() {
            Err(refusal) if refusal.is_no_space() && reserve::release(&spool_home) => ensure(),
            ensured => ensured,
        };
        ensured.map_err(GatewayError::Keyring)?;
        let audit = Arc::new(Audit::open(state_dir)?);
        let opened = keyring.opened();
        let key_event = Entry::Keyring {
            version: keyring.version(),
            created: opened.keyring_created,
            root_created: opened.root_created,
        };
        // Machines are asked with or without it.
        audit.keep(now, &key_event);
        audit.keep(now, &started(settings));

        let spool = open_spool(settings, &spool_home, Arc::clone(&keyring), now).await?;
        let chairs: Vec<_> = settings.chairs.iter().map(|chair| (chair.name.clone(), chair.every)).collect();
        let left = match spool.begin_run(chairs.clone()).await {
            Err(refusal) if refusal.is_no_space() && reserve::release(&spool_home) => {
                spool.begin_run(chairs).await
            }
            left => left,
        };
        let left = left.map_err(GatewayError::Spool)?;
        let seats = Arc::new(Seats::new(Arc::clone(&keyring), settings.gateway.unseated));
        let shared = Arc::new(Shared {
            clock: Arc::clone(&clock),
            seats,
            border: Pseudonymiser::new(Arc::clone(&keyring)),
            spool,
            spool_home,
            board: Arc::clone(&options.board),
            left,
            last_alive: floor.last_alive(),
            steps: steps::Steps::default(),
            simulated: settings.gateway.environment == Environment::Test,
        });
        release_bound(settings, &keyring, &shared).await?;
        Ok(Self { clock, floor, audit, keyring, shared })
    }
}

/// Opens what a run before left, reads what it must read, and starts the spool's thread.
async fn open_spool(
    settings: &Settings,
    home: &Path,
    keyring: Arc<Keyring>,
    now: Timestamp,
) -> Result<SpoolHandle, GatewayError> {
    let (home, max_bytes) = (home.to_owned(), settings.spool.max_bytes);
    let upstreams: Vec<_> = settings.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let open = move || SledSpool::open(&home, keyring, &upstreams, Options::new(max_bytes), now);
    let spool = tokio::task::spawn_blocking(open).await.map_err(|_| panicked("spool"))?;
    let (spool, _thread) =
        handle::start(spool.map_err(GatewayError::Spool)?).map_err(GatewayError::Thread)?;
    Ok(spool)
}

/// A crash between a seat and its release must not leave records held for ever.
async fn release_bound(settings: &Settings, keyring: &Keyring, shared: &Shared) -> Result<(), GatewayError> {
    let running = settings.chairs.iter().filter_map(|chair| shared.seats.running(&chair.name));
    let running = running.filter(|running| running.seated).map(|running| running.id);
    let ended = keyring.treatments_ended_before(Timestamp::from_micros(i64::MAX));
    let treatments: Vec<TreatmentId> = running.chain(ended).collect();
    for treatment in treatments {
        shared.spool.release(treatment).await.map_err(GatewayError::Spool)?;
    }
    Ok(())
}

/// Everything that runs.
struct House {
    settings: Settings,
    notify: Notify,
    foundation: Foundation,
    lines: Wave,
    sealing: Wave,
    forwarders: Wave,
    pulses: Vec<Pulse>,
    tried: Vec<oneshot::Receiver<()>>,
    control: tokio::task::JoinHandle<()>,
}

impl House {
    async fn open(settings: Settings, notify: Notify, foundation: Foundation) -> Result<Self, GatewayError> {
        let socket = ControlSocket::open(&settings.gateway.control)?;
        let mut house = Self {
            lines: Wave::new("lines", deadlines::LINES),
            sealing: Wave::new("sealing", deadlines::SEALING),
            forwarders: Wave::new("forwarders", deadlines::FORWARDERS),
            pulses: Vec::new(),
            tried: Vec::new(),
            control: tokio::spawn(async {}),
            settings,
            notify,
            foundation,
        };
        let mut requests = BTreeMap::new();
        for chair in house.settings.chairs.clone() {
            let (to_chair, at_chair) = mpsc::channel(SEAT_REQUESTS);
            requests.insert(chair.name.clone(), to_chair);
            house.open_chair(chair, at_chair);
        }
        for upstream in house.settings.upstreams.clone() {
            house.open_upstream(upstream);
        }
        let desk = FrontDesk {
            shared: Arc::clone(&house.foundation.shared),
            audit: Arc::clone(&house.foundation.audit),
            chairs: requests,
            zone: house.settings.gateway.time_zone.clone(),
            keep_delivered: house.settings.spool.keep_delivered,
            malformed: Arc::default(),
        };
        house.control = tokio::spawn(socket.serve(Arc::new(desk)));
        Ok(house)
    }

    fn open_chair(&mut self, chair: ChairSettings, requests: mpsc::Receiver<SeatRequest>) {
        let shared = Arc::clone(&self.foundation.shared);
        let (events, heard) = mpsc::channel(EVENTS);
        let (tried, has_tried) = oneshot::channel();
        let pulse = Pulse::default();
        pulse.beat(shared.clock.tick());
        self.pulses.push(pulse.clone());
        self.tried.push(has_tried);

        let sealing = Sealing::new(Arc::clone(&shared), chair.clone(), pulse);
        // It ends when its line is gone; that is asked of the lines, one wave before.
        self.sealing.must(format!("sealing of {}", chair.name), |_| sealing.run(heard, requests, tried));

        let figures = Arc::new(Figures::default());
        shared.board.count(&chair.name, Arc::clone(&figures));
        let clock = Arc::clone(&shared.clock);
        self.lines.keep(format!("line of {}", chair.name), move |mut stop| {
            let conversation = Conversation {
                chair: chair.name.clone(),
                model: Arc::clone(&chair.model),
                every: chair.every,
                opener: Tty { path: chair.port.clone(), settings: chair.model.line() },
                clock: Arc::clone(&clock),
                events: events.clone(),
                figures: Arc::clone(&figures),
            };
            async move { converse(conversation, stop.asked()).await }
        });
    }

    fn open_upstream(&mut self, upstream: UpstreamSettings) {
        let shared = Arc::clone(&self.foundation.shared);
        let gateway = self.settings.gateway.clone();
        let (state, seen) = watch::channel(forward::State::default());
        shared.board.follow(&upstream.name, seen);
        self.forwarders.keep(format!("upstream {}", upstream.name), move |mut stop| {
            let UpstreamKind::Fhir(fhir) = &upstream.kind;
            let identities: Arc<dyn Identities> = Arc::new(shared.border.clone());
            let client = FhirUpstream::new(&gateway, &upstream, fhir, identities, Arc::clone(&shared.clock));
            let (spool, clock, state) = (shared.spool.clone(), Arc::clone(&shared.clock), state.clone());
            async move { forward::forward(client, spool, clock, state, stop.asked()).await }
        });
    }

    /// Lives until it is told to stop, or until something fails that it cannot do without.
    async fn live(
        mut self,
        shutdown: &mut (impl Future<Output = ()> + Send + Unpin),
    ) -> Result<(), GatewayError> {
        let tried = std::mem::take(&mut self.tried);
        let upkeep = Upkeep::new(&mut self);
        let failure = tokio::select! {
            () = shutdown => None,
            failure = self.lines.failed() => Some(failure),
            failure = self.sealing.failed() => Some(failure),
            failure = self.forwarders.failed() => Some(failure),
            failure = upkeep.work(tried) => Some(failure),
        };
        match &failure {
            None => tracing::info!("told to stop"),
            Some(failure) => tracing::error!(error = crate::telemetry::chain(failure), "stopping"),
        }
        self.stop(upkeep, failure).await
    }
}

impl House {
    /// Stops in waves: no machine is asked any more, what was read is sealed and durable, batches in hand are finished, the
    /// spool is closed.
    async fn stop(self, upkeep: Upkeep, mut failure: Option<Failure>) -> Result<(), GatewayError> {
        let Self { notify, foundation, lines, sealing, forwarders, control, .. } = self;
        let Foundation { clock, audit, shared, .. } = foundation;
        let asked = failure.is_none();
        notify.stopping();
        shared.board.set_state(GatewayState::Stopping);
        control.abort();
        sealing.ask();
        for wave in [lines, sealing, forwarders] {
            let late = wave.stop().await;
            failure = failure.or(late);
        }
        upkeep.last_words().await;
        let closed = timeout(deadlines::SPOOL, shared.spool.close()).await;
        let (now, _) = clock.now();
        audit.keep(now, &Entry::Stopped { asked });
        if let Some(failure) = failure {
            return Err(GatewayError::Failed(failure));
        }
        match closed {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Err(refusal)) => Err(GatewayError::Spool(refusal)),
            Err(_) => {
                tracing::error!("the spool was not closed in time; the next start reads it in full");
                Ok(())
            }
        }
    }
}

fn make_state_dir(path: &Path) -> Result<(), GatewayError> {
    let failed = |source| GatewayError::StateDir { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    // What the operating system says without a try, which would change something.
    access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| failed(errno.into()))
}

/// Found out at the start, and not by the first record.
fn ensure_writable(path: &Path) -> Result<(), GatewayError> {
    let failed = |source| GatewayError::StateDir { path: path.to_owned(), source };
    let probe = path.join(".writable");
    let disk = Disk::default();
    disk.write_new(&probe, b"").and_then(|()| disk.remove(&probe)).map_err(failed)
}

fn started(settings: &Settings) -> Entry<'_> {
    Entry::Started {
        version: env!("CARGO_PKG_VERSION"),
        config: &settings.file,
        digest: settings.digest,
        chairs: settings.chairs.len(),
        upstreams: settings.upstreams.len(),
    }
}

fn panicked(task: &str) -> GatewayError {
    GatewayError::Failed(Failure { task: task.to_owned(), cause: Cause::Panicked })
}

fn first_snapshot(settings: &Settings, now: Timestamp, trust: ClockTrust) -> Snapshot {
    Snapshot {
        gateway: settings.gateway.name.clone(),
        test: settings.gateway.environment == Environment::Test,
        state: GatewayState::Starting,
        since: now.into(),
        now: now.into(),
        clock_trusted: trust == ClockTrust::Trusted,
        chairs: settings.chairs.iter().map(status::Chair::untried).collect(),
        spool: status::Spool { max_bytes: settings.spool.max_bytes, ..status::Spool::default() },
        upstreams: settings.upstreams.iter().map(|it| status::UpstreamState::untried(&it.name)).collect(),
        ..Snapshot::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_waves_together_stop_before_the_service_manager_kills() {
        // systemd's own default for TimeoutStopSec; a unit may only raise it.
        let kills_after = Duration::from_secs(90);
        let waves = [deadlines::LINES, deadlines::SEALING, deadlines::FORWARDERS, deadlines::SPOOL];
        assert!(waves.iter().sum::<Duration>() < kills_after / 3 * 2);
    }
}
