//! Where a rehearsal takes place: what it may use, the folder that goes with it, and the work that writes there.

use super::{COMMIT, SMALL, name_of_receiver};
use crate::clock::{Clock, SystemClock};
use crate::config::settings::{
    ChairSettings, Environment, GatewaySettings, SendPolicy, Settings, Subject, UpstreamKind,
};
use crate::model::time::Timestamp;
use crate::sim::outage::rate::{Disk, Rate};
use crate::sim::outage::report::bytes;
use crate::sim::outage::shadow::Cast;
use crate::sim::outage::{Plan, RehearsalError};
use crate::spool::space::Level;
use chairside_drivers::kit::time::Tick;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// More commits than this take too long; an outage that needs more is played with longer ones.
const COMMITS: f64 = 20_000.0;
/// What a record takes on disk where nothing was measured.
const RECORD: f64 = 1_000.0;
/// What a spool takes before its first record.
const EMPTY: f64 = 16.0 * 1024.0 * 1024.0;
/// Memory for marks; the live gateway beside it must not begin to swap.
const MEMORY: f64 = 512.0 * 1024.0 * 1024.0;
/// Bytes of a mark.
const MARK: f64 = 2.0;

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
    /// How full the live spool was.
    level: Level,
    /// What the live gateway is.
    live: Settings,
    pub(super) folder: TempDir,
    /// Tells other rehearsals, and starts of the gateway, that the folder is in use; goes with the process, however that ends.
    _lock: File,
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
        if let Some(running) = sweep(state) {
            return Err(RehearsalError::Running(running));
        }
        let rate = Rate::measure(settings)?;
        let failed = |cause| RehearsalError::Folder { path: state.clone(), cause };
        let disk = Disk::look(settings).map_err(failed)?;
        let room = disk.space().left();
        let fits = hours_in_memory(settings, &rate);
        if plan.hours > fits {
            return Err(RehearsalError::NoMemory { hours: fits });
        }
        let hour = rate.bytes.unwrap_or(rate.records * RECORD);
        let expected = (hour * plan.hours * 1.5 + EMPTY).min(room as f64 + EMPTY) + SMALL as f64 * 1.5;
        let usable = disk.lendable() as f64;
        if expected > usable {
            let spare = (usable - EMPTY - SMALL as f64 * 1.5).max(0.0);
            return Err(RehearsalError::NoRoom {
                needed: bytes(expected),
                usable: bytes(usable),
                path: state.clone(),
                hours: spare / (hour * 1.5),
            });
        }
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(state).map_err(failed)?;
        let lock = File::open(folder.path()).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
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
            level: disk.space().level(),
            live: settings.clone(),
            folder,
            _lock: lock,
        })
    }

    /// Looks whether the live spool still does what it did before the rehearsal began.
    pub(super) fn look_at_live_spool(&self) -> Result<(), RehearsalError> {
        let path = &self.live.gateway.state_dir;
        let failed = |cause| RehearsalError::Folder { path: path.clone(), cause };
        let level = Disk::look(&self.live).map_err(failed)?.space().level();
        if level > self.level { Err(RehearsalError::Crowded) } else { Ok(()) }
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

/// Removes what a rehearsal left that was killed: it counts against the room of the live spool. Gives the folder of one that runs.
pub fn sweep(state: &Path) -> Option<PathBuf> {
    let mut running = None;
    for entry in std::fs::read_dir(state).ok()?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        let Ok(folder) = File::open(&path) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            running = Some(path);
        } else if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "the folder of a killed rehearsal stays");
        }
    }
    running
}

/// For how many hours the marks of all readings fit into what a rehearsal may take.
fn hours_in_memory(settings: &Settings, rate: &Rate) -> f64 {
    let numbers: usize = settings.chairs.iter().map(|chair| chair.map.entries.len()).sum();
    let closest = settings.chairs.iter().map(|chair| chair.every.as_secs_f64()).fold(f64::INFINITY, f64::min);
    // A mark for each half interval of the chair that is asked most often, in rows that double as they grow.
    let marks_per_hour = 2.0 * 3600.0 / (closest * rate.slowdown()).max(0.001);
    let bytes_per_hour = marks_per_hour * MARK * 2.0 * numbers.max(1) as f64;
    MEMORY / bytes_per_hour
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_a_killed_rehearsal_left_goes_and_one_in_use_stays_and_is_named() {
        let state = tempfile::tempdir().unwrap();
        // The number of a process that lives: after a reboot it is any process's.
        let left = state.path().join(format!("rehearsal-{}-left", std::process::id()));
        let used = state.path().join("rehearsal-1-used");
        let other = state.path().join("spool");
        for folder in [&left, &used, &other] {
            std::fs::create_dir_all(folder.join("below")).unwrap();
        }
        let lock = File::open(&used).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(sweep(state.path()), Some(used.clone()));
        assert!(!left.exists() && used.exists() && other.exists());
        drop(lock);
        assert_eq!(sweep(state.path()), None);
        assert!(!used.exists() && other.exists());
    }
}
