//! The next batch, leased and made ready while the last one is on its way: where a receiver is quick, neither waits for the
//! other. At most two batches are in hand.

use super::{Forwarder, Onward};
use crate::spool::{BatchLimit, Lane, SpoolError, Stored};
use crate::upstream::{Next, Upstream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Records that are leased for the next turn of their lane.
pub(super) struct Ahead {
    lane: Lane,
    records: Vec<Stored>,
}

/// Looking for them, beside the delivery of the batch before; it ends with whoever waits for it, so that nothing is leased for
/// a forwarder that is gone.
pub(super) struct Looking(JoinHandle<Result<Ahead, SpoolError>>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<U: Upstream> Forwarder<U> {
    /// The next records of this lane: what is ready, or else what is due.
    pub(super) async fn next_batch(
        &mut self,
        lane: Lane,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError> {
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.lane == lane) {
            return Ok(ahead.records);
        }
        let name = self.upstream.name().clone();
        self.spool.lease(&name, limit, lane, self.clock.tick()).await
    }

    /// Begins with the next batch, where the receiver takes full ones quickly: fresh records then wait little longer.
    pub(super) fn look_ahead(&self, in_hand: usize, lane: Lane) -> Option<Looking> {
        let limit = self.breaker.lease();
        if !self.breaker.is_at_full_speed() || in_hand < limit.records || self.ahead.is_some() {
            return None;
        }
        let preparation = self.upstream.preparation()?;
        let (spool, name, now) = (self.spool.clone(), self.upstream.name().clone(), self.clock.tick());
        Some(Looking(tokio::spawn(async move {
            let records = Arc::new(spool.lease(&name, limit, lane, now).await?);
            let to_prepare = Arc::clone(&records);
            // What is not made ready now is made in its turn.
            let _ = spawn_blocking(move || preparation.prepare(&to_prepare)).await;
            Ok(Ahead { lane, records: Arc::unwrap_or_clone(records) })
        })))
    }

    /// Takes over what was leased ahead.
    pub(super) async fn found_ahead(&mut self, looking: Option<Looking>) -> Result<(), SpoolError> {
        let Some(mut looking) = looking else { return Ok(()) };
        // A task that ended otherwise holds nothing: the spool takes back what nobody waits for.
        if let Ok(found) = (&mut looking.0).await {
            self.ahead = Some(found?).filter(|ahead| !ahead.records.is_empty());
        }
        Ok(())
    }

    /// What was leased ahead is to be handed back, untried: the batch before it did not go through.
    pub(super) fn give_up_ahead(&mut self) {
        let ahead = self.ahead.take();
        self.stranded.extend(ahead.into_iter().flat_map(|it| it.records).map(|stored| stored.sequence));
    }

    /// Does what the upstream asks for; nothing stays leased meanwhile.
    pub(super) async fn go_on(
        &mut self,
        next: Next,
        stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Onward, SpoolError> {
        if next == Next::Continue {
            return Ok(Onward::Go);
        }
        self.give_up_ahead();
        let handed_back = self.hand_back_stranded().await;
        let onward = self.take_in(next, stop).await;
        handed_back?;
        Ok(onward)
    }
}

#[cfg(test)]
mod tests;
