//! The board on the wall: where every task writes its own state, and `status` and `demo` read it.

use super::{Chair, GatewayState, LineCounts, Moment, Snapshot, Spool};
use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::Timestamp;
use crate::poll::Figures;
use crate::spool::SpoolStatus;
use crate::upstream::forward;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

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

    /// Changes one chair; a chair that the configuration does not name is left out.
    pub fn chair(&self, name: &ChairName, change: impl FnOnce(&mut Chair)) {
        if let Some(chair) = self.lock().chairs.iter_mut().find(|chair| chair.name == name.as_str()) {
            change(chair);
        }
    }

    /// What the spool holds now.
    pub fn set_spool(&self, status: &SpoolStatus) {
        let mut inner = self.lock();
        inner.spool = Spool {
            last: status.last,
            records: status.records,
            bytes: status.bytes,
            max_bytes: inner.spool.max_bytes,
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
        }
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // A writer that panicked leaves at worst one stale field; the board is only looked at.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
