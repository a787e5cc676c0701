//! The board on the wall: where every task writes its own state, and `status` and `demo` read it.

use super::room::Room;
use super::slots::Due;
use super::{Chair, ClockStepped, GatewayState, LineCounts, Moment, Slots, Snapshot, Spool};
use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::{ClockStep, Timestamp};
use crate::poll::Figures;
use crate::spool::SpoolStatus;
use crate::upstream::forward;
use chairside_drivers::kit::time::Tick;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A slot that was due this long ago is in the spool, or something is wrong: a silence is told after five minutes.
const LONG_AGO: Duration = Duration::from_secs(6 * 60);

/// Every task writes its own state here.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Snapshot>,
    figures: Mutex<Vec<(ChairName, Arc<Figures>)>>,
    forwarders: Mutex<Vec<(UpstreamName, watch::Receiver<forward::State>)>>,
}

impl Board {
    /// Writes the first state: everything that the configuration names, nothing tried yet.
    pub fn fill(&self, snapshot: Snapshot) {
        *self.lock() = snapshot;
    }

    /// Everything at this moment.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let mut snapshot = self.lock().clone();
        snapshot.now = now.into();
        for (name, figures) in self.figures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(chair) = snapshot.chairs.iter_mut().find(|chair| chair.name == name.as_str()) {
                chair.figures = LineCounts::of(&figures.now());
            }
        }
        for (name, state) in self.forwarders.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(upstream) = snapshot.upstreams.iter_mut().find(|known| known.name == name.as_str()) {
                upstream.follows(&state.borrow());
            }
        }
        snapshot
    }

    /// From now on this upstream's forwarder tells here how it stands.
    pub fn follow(&self, upstream: &UpstreamName, state: watch::Receiver<forward::State>) {
        self.forwarders.lock().unwrap_or_else(PoisonError::into_inner).push((upstream.clone(), state));
    }

    /// From now on this chair's line is counted here.
    pub fn count(&self, chair: &ChairName, figures: Arc<Figures>) {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).push((chair.clone(), figures));
    }

    /// The gateway goes from one state to the next.
    pub fn set_state(&self, state: GatewayState) {
        self.lock().state = state;
    }

    /// Whether the wall clock can be trusted.
    pub fn set_clock(&self, trusted: bool) {
        self.lock().clock_trusted = trusted;
    }

    /// The wall clock was set.
    pub fn clock_stepped(&self, step: ClockStep) {
        let mut inner = self.lock();
        inner.clock_steps = inner.clock_steps.saturating_add(1);
        inner.last_clock_step =
            Some(ClockStepped { expected: step.expected.into(), found: step.found.into() });
    }

    /// Changes one chair; a chair that the configuration does not name is left out.
    pub fn chair(&self, name: &ChairName, change: impl FnOnce(&mut Chair)) {
        if let Some(chair) = self.lock().chairs.iter_mut().find(|chair| chair.name == name.as_str()) {
            change(chair);
        }
    }

    /// What the spool holds. Both clocks are looked at behind it, so that no slot counts as kept before it counts as due.
    pub fn set_spool(&self, status: &SpoolStatus, now: Timestamp, tick: Tick) {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut inner = self.lock();
        for chair in &mut inner.chairs {
            let figures = figures.iter().find(|(name, _)| name.as_str() == chair.name);
            let due = figures.map_or_else(Due::default, |(_, figures)| Due {
                by_now: figures.due(tick),
                long_ago: figures.due_before(tick, LONG_AGO),
            });
            let kept = status.slots.iter().find(|(name, _)| name.as_str() == chair.name);
            chair.slots = match kept {
                Some((_, kept)) => Slots::of(kept, due, now),
                None => Slots::without_records(due, now),
            };
        }
        inner.slots = Slots::sum(inner.chairs.iter().map(|chair| &chair.slots));
        let polls_per_hour = inner.chairs.iter().map(|chair| 3600.0 / chair.every_s.max(0.001)).sum();
        let room = Room::of(status, polls_per_hour, now);
        inner.spool = Spool {
            last: status.last,
            records: status.records,
            bytes: status.bytes,
            max_bytes: inner.spool.max_bytes,
            percent: status.space.percent(),
            level: status.space.level(),
            room: room.bytes,
            bytes_per_hour: room.per_hour,
            days_left: room.days(),
            set_aside: status.set_aside.iter().map(|aside| aside.volume.clone()).collect(),
        };
        for (name, counts) in &status.upstreams {
            let Some(upstream) = inner.upstreams.iter_mut().find(|known| known.name == name.as_str()) else {
                continue;
            };
            upstream.delivered = counts.delivered;
            upstream.skipped = counts.skipped;
            upstream.waiting = counts.waiting;
            upstream.held = counts.held;
            upstream.refused = counts.refused;
            upstream.evicted = counts.evicted;
            upstream.lost = counts.lost;
            upstream.erased = counts.erased;
            upstream.parts_delivered = counts.parts_delivered;
            upstream.parts_refused = counts.parts_refused;
            upstream.oldest_waiting = counts.oldest_waiting.map(Moment::from);
            upstream.oldest_unsent = counts.oldest_unsent.map(Moment::from);
        }
        inner.counts_of = Some(now.into());
        inner.oldest_waiting = inner.upstreams.iter().filter_map(|upstream| upstream.oldest_waiting).min();
        inner.oldest_unsent = inner.upstreams.iter().filter_map(|upstream| upstream.oldest_unsent).min();
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // A writer that panicked leaves at worst one stale field; the board is only looked at.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
