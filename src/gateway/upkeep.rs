//! What has to be done now and then: readiness and life signs, the time floor, the board's spool figures, pruning.

mod keys;

use super::chair::Shared;
use super::notify::Notify;
use super::{GatewayState, House, TRIED};
use crate::clock::TimeFloor;
use crate::config::settings::SpoolSettings;
use crate::model::time::ClockTrust;
use crate::privacy::keyring::Keyring;
use crate::spool::Retention;
use crate::spool::space::{Level, Space};
use crate::status::Line;
use crate::supervise::{Cause, Failure, Pulse};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// How often the board learns what the spool holds.
const LOOK: Duration = Duration::from_secs(1);
/// How often the time floor is written down.
const WRITE_DOWN: Duration = Duration::from_secs(10);
/// How often settled records past their retention are removed.
const PRUNE: Duration = Duration::from_secs(10 * 60);
/// A task that has not shown a sign of life for this long makes no progress.
const STALE: Duration = Duration::from_secs(30);

/// Looks after the house while it lives.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    keyring: Arc<Keyring>,
    notify: Notify,
    pulses: Vec<Pulse>,
    floor: Arc<Mutex<TimeFloor>>,
    retention: Retention,
    /// How full the spool was at the last look.
    level: Mutex<Level>,
}

impl Upkeep {
    pub(super) fn new(house: &mut House) -> Self {
        let SpoolSettings { max_bytes, keep_delivered } = house.settings.spool;
        let floor = std::mem::take(&mut house.foundation.floor);
        Self {
            shared: Arc::clone(&house.foundation.shared),
            keyring: Arc::clone(&house.foundation.keyring),
            notify: house.notify,
            pulses: house.pulses.clone(),
            floor: Arc::new(Mutex::new(floor)),
            retention: Retention { keep_delivered, max_bytes },
            level: Mutex::default(),
        }
    }

    /// Works until the spool does not answer any more, which the house cannot do without.
    pub(super) async fn work(&self, tried: Vec<oneshot::Receiver<()>>) -> Failure {
        let watchdog =
            self.notify.watchdog().map_or(LOOK, |every| (every / 3).max(Duration::from_millis(100)));
        let (mut look, mut write_down, mut prune, mut alive) =
            (every(LOOK), every(WRITE_DOWN), every(PRUNE), every(watchdog));
        let mut ready = std::pin::pin!(self.ready(tried));
        let mut is_ready = false;
        loop {
            // Only timers and a future that is kept are waited for here; both are cancel-safe.
            tokio::select! {
                () = &mut ready, if !is_ready => {
                    is_ready = true;
                    self.shared.board.set_state(GatewayState::Ready);
                    let status = self.status();
                    tracing::info!(status, "ready");
                    self.notify.ready(&status);
                }
                _ = look.tick() => {
                    if let Err(cause) = self.look().await {
                        return Failure { task: "spool".to_owned(), cause };
                    }
                }
                _ = write_down.tick() => self.write_down().await,
                _ = prune.tick() => {
                    if let Err(cause) = self.prune().await {
                        return Failure { task: "spool".to_owned(), cause };
                    }
                }
                _ = alive.tick() => self.show_life().await,
            }
        }
    }

    /// The last time floor, once nothing is asked any more.
    pub(super) async fn last_words(&self) {
        self.write_down().await;
        let seats = Arc::clone(&self.shared.seats);
        let closed = tokio::task::spawn_blocking(move || seats.close()).await;
        if let Ok(Err(refusal)) = closed {
            let error = crate::telemetry::chain(&refusal);
            tracing::error!(
                error,
                "write the progress of treatments; after the next start they may count as over"
            );
        }
    }

    /// Each line was tried, or took too long.
    async fn ready(&self, tried: Vec<oneshot::Receiver<()>>) {
        let all = async {
            for line in tried {
                // A sender that is gone has a failure of its own to tell.
                let _ = line.await;
            }
        };
        if timeout(TRIED, all).await.is_err() {
            tracing::warn!("a port takes long to open; ready without it");
        }
    }

    async fn look(&self) -> Result<(), Cause> {
        let (_, trust) = self.shared.clock.now();
        self.shared.board.set_clock(trust == ClockTrust::Trusted);
        if let Ok(status) = timeout(STALE, self.shared.spool.status()).await {
            let status = status?;
            self.tell_level(status.space);
            let (now, _) = self.shared.clock.now();
            self.shared.board.set_spool(&status, now, self.shared.clock.tick());
        } else {
            tracing::error!("the spool does not answer; its disk may hang");
        }
        Ok(())
    }

    /// Says once that the spool became fuller, or has room again.
    fn tell_level(&self, space: Space) {
        let level = space.level();
        let before =
            std::mem::replace(&mut *self.level.lock().unwrap_or_else(PoisonError::into_inner), level);
        let (used, max) = (space.used, space.max);
        match level {
            _ if level == before => {}
            Level::Normal => tracing::info!(used, max, "the spool has room again"),
            Level::Warn | Level::Refuse if level < before => {
                tracing::info!(%level, used, max, "the spool has more room")
            }
            Level::Warn | Level::Refuse => tracing::warn!(
                %level, used, max,
                "the spool fills up; look why the upstreams do not take records, or raise [spool] max_bytes"
            ),
            Level::Evict => {
                tracing::error!(used, max, "the spool is full; its oldest records leave it from now on")
            }
        }
    }

    async fn write_down(&self) {
        let (now, trust) = self.shared.clock.now();
        if trust == ClockTrust::Untrusted {
            return;
        }
        let (floor, clock) = (Arc::clone(&self.floor), Arc::clone(&self.shared.clock));
        let written = tokio::task::spawn_blocking(move || {
            floor.lock().unwrap_or_else(PoisonError::into_inner).raise(now)?;
            clock.keep()
        })
        .await;
        if let Ok(Err(refusal)) = written {
            tracing::warn!(error = %refusal, "write down the time; a gap at the next start may name another cause");
        }
    }

    async fn prune(&self) -> Result<(), Cause> {
        let (now, trust) = self.shared.clock.now();
        // A clock that cannot be trusted says nothing about age.
        if trust == ClockTrust::Untrusted {
            return Ok(());
        }
        let pruned = self.shared.spool.prune(self.retention, now).await?;
        if pruned.records > 0 {
            tracing::info!(volumes = pruned.volumes, records = pruned.records, "delivered records removed");
        }
        let forgotten = keys::forget(&self.keyring, &self.shared.spool, now).await?;
        if forgotten > 0 {
            tracing::info!(treatments = forgotten, "keys of treatments without records destroyed");
        }
        let seats = Arc::clone(&self.shared.seats);
        match tokio::task::spawn_blocking(move || seats.purge(now)).await {
            Ok(Err(refusal)) => Err(Cause::Keyring(refusal)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Tells the service manager that we live, while sealing and spool make progress. A line that hangs is its own
    /// chair's trouble.
    async fn show_life(&self) {
        let now = self.shared.clock.tick();
        let sealing = self.pulses.iter().all(|pulse| pulse.age(now) < STALE);
        let spool = sealing && timeout(STALE, self.shared.spool.status()).await.is_ok();
        if spool {
            self.notify.alive(&self.status());
        } else {
            tracing::error!(sealing, "no progress; the service manager is not told that we live");
        }
    }

    /// One line for `systemctl status`.
    fn status(&self) -> String {
        let (now, _) = self.shared.clock.now();
        let snapshot = self.shared.board.snapshot(now);
        if snapshot.chairs.is_empty() {
            return "no chair in the configuration yet".to_owned();
        }
        let answering = snapshot.chairs.iter().filter(|chair| chair.line == Line::Answering).count();
        let waiting: u64 = snapshot.upstreams.iter().map(|upstream| upstream.waiting).sum();
        format!("{answering} of {} chairs answering, {waiting} records waiting", snapshot.chairs.len())
    }
}

fn every(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}
