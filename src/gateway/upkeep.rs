//! What has to be done now and then: readiness and life signs, the time floor, the board's spool figures, pruning.

mod keys;

use super::chair::Shared;
use super::notify::Notify;
use super::{GatewayState, House, TRIED};
use crate::audit::{Audit, Entry};
use crate::clock::TimeFloor;
use crate::config::settings::SpoolSettings;
use crate::model::time::ClockTrust;
use crate::privacy::keyring::Keyring;
use crate::spool::Retention;
use crate::spool::space::{Level, Space};
use crate::status::Line;
use crate::supervise::{Cause, Failure, Pulse};
use keys::Forgetting;
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

/// What people are told of a spool that is more or less full than it was at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    RoomAgain,
    MoreRoom,
    FillsUp,
    Full,
}

impl News {
    fn of(before: Level, now: Level) -> Option<Self> {
        match now {
            _ if now == before => None,
            Level::Normal => Some(Self::RoomAgain),
            Level::Warn | Level::Refuse if now < before => Some(Self::MoreRoom),
            Level::Warn | Level::Refuse => Some(Self::FillsUp),
            Level::Evict => Some(Self::Full),
        }
    }
}

/// Looks after the house while it lives.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    keyring: Arc<Keyring>,
    audit: Arc<Audit>,
    forgetting: tokio::sync::Mutex<Forgetting>,
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
            audit: Arc::clone(&house.foundation.audit),
            forgetting: tokio::sync::Mutex::default(),
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
        self.note_steps();
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
        self.note_steps();
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

    /// Notes for people that the clock was set.
    fn note_steps(&self) {
        for step in self.shared.steps.take_unnoted() {
            self.shared.board.clock_stepped(step);
            self.audit.keep(step.found, &Entry::ClockStep(step));
        }
    }

    /// Says once that the spool became fuller, or has room again.
    fn tell_level(&self, space: Space) {
        let level = space.level();
        let before =
            std::mem::replace(&mut *self.level.lock().unwrap_or_else(PoisonError::into_inner), level);
        let (used, max) = (space.used, space.max);
        match News::of(before, level) {
            None => {}
            Some(News::RoomAgain) => tracing::info!(used, max, "the spool has room again"),
            Some(News::MoreRoom) => tracing::info!(%level, used, max, "the spool has more room"),
            Some(News::FillsUp) => tracing::warn!(
                %level, used, max,
                "the spool fills up; look why the upstreams do not take records, or raise [spool] max_bytes"
            ),
            Some(News::Full) => {
                tracing::error!(used, max, "the spool is full; its oldest records leave it from now on")
            }
        }
    }

    async fn write_down(&self) {
        let (now, trust) = self.shared.clock.now();
        let (floor, clock) = (Arc::clone(&self.floor), Arc::clone(&self.shared.clock));
        let written = tokio::task::spawn_blocking(move || {
            // A clock that cannot be trusted raises nothing.
            if trust == ClockTrust::Trusted {
                floor.lock().unwrap_or_else(PoisonError::into_inner).raise(now)?;
            }
            clock.keep()
        })
        .await;
        if let Ok(Err(refusal)) = written {
            tracing::warn!(error = %refusal, "write down the time; a gap at the next start may name another cause");
        }
        let audit = Arc::clone(&self.audit);
        let caught_up = tokio::task::spawn_blocking(move || audit.catch_up(now)).await;
        if let Ok(Err(refusal)) = caught_up {
            let error = crate::telemetry::chain(&refusal);
            tracing::error!(error, "audit entries wait to be written; make room on their disk");
        }
    }

    async fn prune(&self) -> Result<(), Cause> {
        let (now, trust) = self.shared.clock.now();
        // A clock that cannot be trusted says nothing about age.
        if trust == ClockTrust::Untrusted {
            return Ok(());
        }
        match self.shared.spool.prune(self.retention, now).await {
            Ok(pruned) if pruned.records > 0 => {
                tracing::info!(
                    volumes = pruned.volumes,
                    records = pruned.records,
                    "delivered records removed"
                );
            }
            Ok(_) => {}
            Err(refusal) if refusal.is_no_space() => {
                tracing::warn!(
                    error = crate::telemetry::chain(&refusal),
                    "delivered records stay; it is tried again"
                );
            }
            Err(refusal) => return Err(refusal.into()),
        }
        match self.forgetting.lock().await.forget(&self.keyring, &self.shared.spool, now).await {
            Ok(0) => {}
            Ok(treatments) => tracing::info!(treatments, "keys of treatments without records destroyed"),
            Err(cause) => stays(&cause, "keys of treatments without records")?,
        }
        let seats = Arc::clone(&self.shared.seats);
        match tokio::task::spawn_blocking(move || seats.purge(now)).await {
            Ok(Err(refusal)) => stays(&Cause::Keyring(refusal), "seats that waited too long"),
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

/// What could not be cleared away stays until the next turn; only a spool that is broken ends the gateway.
fn stays(cause: &Cause, what: &str) -> Result<(), Cause> {
    if let Cause::Spool(refusal) = cause
        && !refusal.is_no_space()
    {
        return Err(Cause::Spool(refusal.clone()));
    }
    tracing::warn!(error = crate::telemetry::chain(cause), "{what} stay; it is tried again");
    Ok(())
}

fn every(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_told_once_when_it_is_reached_and_when_it_is_left() {
        let levels = [0, 79, 80, 85, 90, 95, 99, 94, 92, 85, 79, 96, 10];
        let mut before = Level::Normal;
        let told: Vec<_> = levels
            .into_iter()
            .filter_map(|used| {
                let level = Space { used, max: 100 }.level();
                let news = News::of(std::mem::replace(&mut before, level), level)?;
                Some((used, news))
            })
            .collect();
        use News::{FillsUp, Full, MoreRoom, RoomAgain};
        let expected = [
            (80, FillsUp),
            (90, FillsUp),
            (95, Full),
            (94, MoreRoom),
            (85, MoreRoom),
            (79, RoomAgain),
            (96, Full),
            (10, RoomAgain),
        ];
        assert_eq!(told, expected);
    }
}
