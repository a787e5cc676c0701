//! Where a rehearsal takes place: what it may use, the folder that goes with it, and the work that writes there.

use super::{COMMIT, SMALL, name_of_receiver};
use crate::clock::{Clock, SystemClock};
use crate::config::settings::{
    ChairSettings, Environment, GatewaySettings, SendPolicy, Settings, Subject, UpstreamKind,
};
use crate::model::time::Timestamp;
use crate::sim::outage::rate::{self, Rate};
use crate::sim::outage::report::bytes;
use crate::sim::outage::shadow::Cast;
use crate::sim::outage::{Plan, RehearsalError};
use chairside_drivers::kit::time::Tick;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// More commits than this take too long; an outage that needs more is played with longer ones.
const COMMITS: f64 = 20_000.0;
/// What a record takes on disk where nothing was measured.
const RECORD: f64 = 1_000.0;
/// What a spool takes before its first record.
const EMPTY: f64 = 16.0 * 1024.0 * 1024.0;

/// Where it takes place.
pub(super) struct Stage {
    pub(super) rate: Rate,
    /// Bytes that the live spool may still take.
    pub(super) room: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) chairs: Vec<ChairSettings>,
    pub(super) gateway: GatewaySettings,
    pub(super) send: SendPolicy,
    pub(super) subject: Subject,
    pub(super) work: Work,
    pub(super) folder: TempDir,
}

/// Work that writes into the folder beside the acts, and may outlive them for a moment.
#[derive(Clone, Default)]
pub(super) struct Work {
    /// Held while something works; `true` once nothing may begin any more.
    over: Arc<Mutex<bool>>,
    pub(super) threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Work {
    /// Reads and writes files off the runtime.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RehearsalError> + Send + 'static,
    ) -> Result<T, RehearsalError> {
        let over = Arc::clone(&self.over);
        let guarded = move || {
            let over = over.lock().unwrap_or_else(PoisonError::into_inner);
            if *over { Err(RehearsalError::Interrupted) } else { work() }
        };
        tokio::task::spawn_blocking(guarded).await?
    }

    /// Waits until nothing works any more, and lets nothing begin.
    pub(super) fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // One that panicked has nothing more to write either.
            let _ = thread.join();
        }
    }
}

impl Stage {
    /// Measures, looks whether there is room, and makes the folder.
    pub(super) fn set(settings: &Settings, plan: &Plan) -> Result<Self, RehearsalError> {
        let state = &settings.gateway.state_dir;
        if settings.chairs.is_empty() {
            return Err(RehearsalError::NoChairs(settings.file.clone()));
        }
        if !state.is_dir() {
            return Err(RehearsalError::NoState(state.clone()));
        }
        let rate = Rate::measure(settings)?;
        let failed = |cause| RehearsalError::Folder { path: state.clone(), cause };
        let (space, free) = rate::room(settings).map_err(failed)?;
        let room = space.left();
        let hour = rate.bytes.unwrap_or(rate.records * RECORD);
        let expected = (hour * plan.hours * 1.5 + EMPTY).min(room as f64 + EMPTY) + SMALL as f64 * 1.5;
        // The live spool keeps the larger half of what is free, whatever happens here.
        let usable = free as f64 / 2.0;
        if expected > usable {
            let spare = (usable - EMPTY - SMALL as f64 * 1.5).max(0.0);
            return Err(RehearsalError::NoRoom {
                needed: bytes(expected),
                usable: bytes(usable),
                path: state.clone(),
                hours: spare / (hour * 1.5),
            });
        }
        sweep(state);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(state).map_err(failed)?;
        let first = settings.upstreams.first();
        let gateway = GatewaySettings {
            state_dir: folder.path().to_owned(),
            environment: Environment::Test,
            ..settings.gateway.clone()
        };
        Ok(Self {
            rate,
            room,
            clock: Arc::new(SystemClock::new(Timestamp::from_micros(0))),
            chairs: settings.chairs.clone(),
            gateway,
            send: first.map_or(SendPolicy::EVERYTHING, |upstream| upstream.send),
            subject: first.map_or(Subject::Identifier, |upstream| {
                let UpstreamKind::Fhir(fhir) = &upstream.kind;
                fhir.subject
            }),
            work: Work::default(),
            folder,
        })
    }

    pub(super) fn cast(&self, name: &str, plan: &Plan, max_bytes: u64) -> Result<Cast, RehearsalError> {
        let home = self.folder.path().join(name);
        std::fs::create_dir(&home).map_err(|cause| RehearsalError::Folder { path: home.clone(), cause })?;
        let length = i64::try_from(plan.length().as_micros()).unwrap_or(i64::MAX);
        Ok(Cast {
            home,
            chairs: self.chairs.clone(),
            slowdown: self.rate.slowdown(),
            unseated: self.gateway.unseated,
            upstream: name_of_receiver()?,
            send: self.send,
            start: Timestamp::from_micros(self.clock.now().0.as_micros().saturating_sub(length)),
            commit: COMMIT.mul_f64((plan.length().as_secs_f64() / COMMITS).max(1.0)),
            max_bytes,
        })
    }

    /// Waits for what still works in the folder, and removes it.
    pub(super) async fn clear(self) -> Result<(), RehearsalError> {
        let Self { work, folder, .. } = self;
        let path = folder.path().to_owned();
        let removed = tokio::task::spawn_blocking(move || {
            work.end();
            folder.close()
        });
        removed.await?.map_err(|cause| RehearsalError::Folder { path, cause })
    }

    pub(super) fn seconds_since(&self, earlier: Tick) -> f64 {
        self.clock.tick().since(earlier).as_secs_f64()
    }
}

/// Folders of rehearsals begin with this, and the number of their process.
const PREFIX: &str = "rehearsal-";

/// Removes what a rehearsal left that was killed.
fn sweep(state: &Path) {
    let Ok(entries) = std::fs::read_dir(state) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let is_gone = process.is_some_and(|process| {
            process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()
        });
        if is_gone && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "the folder of a killed rehearsal stays");
        }
    }
}
