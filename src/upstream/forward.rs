//! Lease, deliver, settle, back off: once, for every kind of upstream. The spool is the only queue and this is the only
//! retry policy.

mod ahead;
mod breaker;
mod correcting;

pub use breaker::Circuit;

use crate::clock::Clock;
use crate::model::time::Timestamp;
use crate::privacy::record::Body;
use crate::spool::handle::SpoolHandle;
use crate::spool::{Lane, Sequence, SpoolError, Stored, Verdict};
use crate::upstream::{Delivery, Next, Trouble, Upstream, Wire};
use ahead::Ahead;
use breaker::{Breaker, LOOK_AGAIN, SHORTEST_WAIT};
use chairside_drivers::kit::time::Tick;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// What keeps some records back is told until it was not met for this long; records kept back are tried more often.
const SETBACK_TOLD: Duration = Duration::from_secs(150);

/// What an upstream is doing, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// How it stands with the receiver.
    pub condition: Condition,
    /// Records delivered since the start.
    pub delivered: u64,
    /// Resources the receiver took since the start; a record is several of them.
    pub resources: u64,
    /// When the receiver last took something.
    pub last_success: Option<Timestamp>,
    /// What keeps some records back while the others go on.
    pub setback: Option<Trouble>,
    /// How it is tried just now.
    pub circuit: Circuit,
    /// Records that go out at a time just now.
    pub records: usize,
    /// How it stands with the connection.
    pub wire: Wire,
}

/// How it stands with the receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing was sent yet.
    #[default]
    Untried,
    /// It took what it was sent last.
    Connected,
    /// It is not ready; tried again with growing waits.
    BackingOff(Trouble),
    /// A person is needed; looked at once a minute.
    Paused(Trouble),
}

impl Condition {
    /// What is wrong, and whether a person is needed.
    #[must_use]
    pub const fn trouble(&self) -> Option<(&Trouble, bool)> {
        match self {
            Self::Untried | Self::Connected => None,
            Self::BackingOff(trouble) => Some((trouble, false)),
            Self::Paused(trouble) => Some((trouble, true)),
        }
    }
}

/// Forwards records to one upstream until `stop` completes, then finishes the batch in hand.
///
/// Ends by itself only when the spool is closed.
pub async fn forward<U: Upstream>(
    upstream: U,
    spool: SpoolHandle,
    clock: Arc<dyn Clock>,
    state: watch::Sender<State>,
    stop: impl Future<Output = ()> + Send,
) {
    let forwarder = Forwarder {
        upstream,
        spool,
        clock,
        state,
        breaker: Breaker::default(),
        tended: None,
        retries: BTreeSet::new(),
        corrected: BTreeMap::new(),
        stranded: Vec::new(),
        ahead: None,
        set_back: None,
    };
    forwarder.run(std::pin::pin!(stop)).await;
}

struct Forwarder<U> {
    upstream: U,
    spool: SpoolHandle,
    clock: Arc<dyn Clock>,
    state: watch::Sender<State>,
    breaker: Breaker,
    /// When the upstream was last looked after.
    tended: Option<Tick>,
    /// When records come back that had to be tried again.
    retries: BTreeSet<Tick>,
    /// How far corrections got that were broken off, by their own sequence.
    corrected: BTreeMap<Sequence, Sequence>,
    /// Leased records whose verdict the spool did not take; they are handed back before anything else is leased.
    stranded: Vec<Sequence>,
    /// The next batch, where it was leased and made ready while the last one was on its way.
    ahead: Option<Ahead>,
    /// When something last kept records back.
    set_back: Option<Tick>,
}

/// Whether the receiver said anything about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contact {
    None,
    Heard,
}

/// Whether to go on forwarding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Onward {
    Go,
    Stop,
}

impl<U: Upstream> Forwarder<U> {
    async fn run(mut self, mut stop: Pin<&mut (impl Future<Output = ()> + Send)>) {
        let mut news = self.spool.subscribe();
        let Ok(status) = self.spool.status().await else { return };
        self.upstream.begins_behind(Sequence(status.last));
        if self.reclaim().await.is_err() {
            return;
        }
        loop {
            news.mark_unchanged();
            self.tend();
            let turn = match self.hand_back_stranded().await {
                Ok(()) => self.both_lanes(stop.as_mut()).await,
                Err(error) => Err(error),
            };
            let idle = match turn {
                Ok(Some(busy)) => !busy,
                Ok(None) | Err(SpoolError::Closed) => return,
                Err(error) => {
                    let (upstream, cause) = (self.upstream.name(), crate::telemetry::chain(&error));
                    tracing::error!(%upstream, cause, "the spool does not give or take records");
                    let wait = self.breaker.failed(None);
                    if self.pause_for(wait, stop.as_mut()).await == Onward::Stop {
                        return;
                    }
                    continue;
                }
            };
            if idle {
                let due = self.retries.first().map_or(LOOK_AGAIN, |tick| tick.since(self.clock.tick()));
                let due = due.min(LOOK_AGAIN);
                // All three can be dropped at any time: nothing is in hand here.
                tokio::select! {
                    () = stop.as_mut() => return,
                    changed = news.changed() => if changed.is_err() { return },
                    () = sleep(due) => {}
                }
            }
            let now = self.clock.tick();
            self.retries.retain(|tick| *tick > now);
        }
    }

    /// A forwarder before this one may have been cut off with records in hand.
    async fn reclaim(&self) -> Result<(), SpoolError> {
        let name = self.upstream.name().clone();
        let reclaimed = self.spool.tools(move |spool| spool.reclaim(&name)).await?;
        if reclaimed > 0 {
            let upstream = self.upstream.name();
            tracing::warn!(%upstream, records = reclaimed, "records that were in hand when forwarding was cut off are tried again");
        }
        Ok(())
    }

    /// One turn over both lanes: fresh data first, then what waits longest. `None` when it is time to stop, else whether
    /// there was anything to do.
    async fn both_lanes(
        &mut self,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Option<bool>, SpoolError> {
        let mut busy = false;
        for (lane, next_lane) in [(Lane::Live, Lane::Backlog), (Lane::Backlog, Lane::Live)] {
            if is_ready(stop.as_mut()) {
                self.give_up_ahead();
                self.hand_back_stranded().await?;
                return Ok(None);
            }
            let leased = self.next_batch(lane, self.breaker.lease()).await?;
            if leased.is_empty() {
                continue;
            }
            busy = true;
            // Whatever fails from here on, no record may stay leased; one that is settled by then stays settled.
            self.stranded = leased.iter().map(|stored| stored.sequence).collect();
            let (records, leased_at) = (leased.len(), self.clock.tick());
            let looking = self.look_ahead(records, next_lane);
            let handled = self.handle(leased).await;
            let took = self.clock.tick().since(leased_at);
            let found = self.found_ahead(looking).await;
            if handled.is_err() {
                self.give_up_ahead();
            }
            let (next, contact) = handled?;
            self.stranded.clear();
            found?;
            // What is only skipped or held says nothing about the receiver.
            let counts = contact == Contact::Heard || self.breaker.circuit() == Circuit::Closed;
            if counts && next == Next::Continue {
                self.breaker.passed(records, took);
            }
            self.show_breaker();
            if self.go_on(next, stop.as_mut()).await? == Onward::Stop {
                return Ok(None);
            }
        }
        Ok(Some(busy))
    }

    /// Hands back what was leased when the spool failed, untried.
    async fn hand_back_stranded(&mut self) -> Result<(), SpoolError> {
        if self.stranded.is_empty() {
            return Ok(());
        }
        let untried = |sequence: &Sequence| (*sequence, Verdict::Retry { not_before: Tick::ZERO });
        let verdicts = self.stranded.iter().map(untried).collect();
        self.spool.settle(&self.upstream.name().clone(), verdicts).await?;
        self.stranded.clear();
        Ok(())
    }

    /// Delivers what was leased and settles every record of it, whatever became of it.
    async fn handle(&mut self, leased: Vec<Stored>) -> Result<(Next, Contact), SpoolError> {
        let (corrections, records): (Vec<_>, Vec<_>) =
            leased.into_iter().partition(|stored| matches!(stored.record.body(), Body::Correction(_)));
        let (mut next, mut contact) = (Next::Continue, Contact::None);
        if !records.is_empty() {
            let delivery = self.upstream.deliver(&records).await;
            (next, contact) = self.settle(&records, delivery).await?;
        }
        for stored in corrections {
            let Body::Correction(correction) = *stored.record.body() else { continue };
            let delivery = match next {
                Next::Continue => self.correct(correction, stored.sequence).await?,
                Next::Wait { .. } | Next::Pause(_) => Delivery::default(),
            };
            let (after, heard) = self.settle(&[stored], delivery).await?;
            contact = contact.max(heard);
            if next == Next::Continue {
                next = after;
            }
        }
        Ok((next, contact))
    }

    /// Settles a verdict for every record; one without is handed back.
    async fn settle(
        &mut self,
        records: &[Stored],
        delivery: Delivery,
    ) -> Result<(Next, Contact), SpoolError> {
        let Delivery { mut verdicts, resources, next, setback } = delivery;
        self.tell(setback);
        let handed_back = match next {
            // Not at once, or an upstream that says nothing would be asked without a pause.
            Next::Continue => self.clock.tick().after(SHORTEST_WAIT),
            Next::Wait { .. } | Next::Pause(_) => Tick::ZERO,
        };
        let named: BTreeSet<Sequence> = verdicts.iter().map(|(sequence, _)| *sequence).collect();
        let untried = records.iter().map(|stored| stored.sequence).filter(|it| !named.contains(it));
        verdicts.extend(untried.map(|it| (it, Verdict::Retry { not_before: handed_back })));
        self.put_down(&mut verdicts).await?;
        let delivered = count(&verdicts, |verdict| matches!(verdict, Verdict::Delivered { .. }));
        let refused = count(&verdicts, is_refusal);
        self.retries.extend(verdicts.iter().filter_map(|(_, verdict)| match verdict {
            Verdict::Retry { not_before } if *not_before > Tick::ZERO => Some(*not_before),
            _ => None,
        }));
        if refused > 0 {
            let (upstream, codes) = (self.upstream.name(), reasons(&verdicts));
            tracing::error!(%upstream, records = refused, codes, "the receiver refused records for good; they are kept");
        }
        let now = self.clock.now().0;
        self.state.send_if_modified(|state| {
            state.delivered += delivered;
            state.resources += resources;
            if delivered + resources > 0 {
                state.last_success = Some(now);
            }
            delivered + resources > 0
        });
        let took_something = delivered + refused + resources > 0;
        if took_something {
            self.breaker.answered();
        }
        if took_something && next == Next::Continue {
            self.enter(Condition::Connected);
        }
        Ok((next, if took_something { Contact::Heard } else { Contact::None }))
    }

    /// Hands the verdicts to the spool. Refusals go apart: one that cannot be written down waits, and costs the others nothing.
    async fn put_down(&mut self, verdicts: &mut [(Sequence, Verdict)]) -> Result<(), SpoolError> {
        let name = self.upstream.name().clone();
        let (refused, others): (Vec<_>, Vec<_>) =
            verdicts.iter().cloned().partition(|(_, verdict)| is_refusal(verdict));
        let settled = self.spool.settle(&name, others).await;
        if refused.is_empty() {
            return settled;
        }
        let (settled, kept) = match settled {
            Ok(()) => (Ok(()), self.spool.settle(&name, refused).await),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        let Err(error) = kept else { return Ok(()) };
        self.upstream.refusals_not_kept();
        settled?;
        if matches!(error, SpoolError::Closed) {
            return Err(error);
        }
        let cause = crate::telemetry::chain(&error);
        tracing::error!(upstream = %name, cause, "refusals cannot be written down");
        let not_before = self.clock.tick().after(LOOK_AGAIN);
        for (_, verdict) in verdicts.iter_mut().filter(|(_, verdict)| is_refusal(verdict)) {
            *verdict = Verdict::Retry { not_before };
        }
        let waiting = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Retry { .. }));
        self.spool.settle(&name, waiting.cloned().collect()).await?;
        self.tell(Some(refusals_not_kept()));
        Ok(())
    }

    /// Tells what keeps records back, and takes it back once it was not met for a while.
    fn tell(&mut self, setback: Option<Trouble>) {
        let now = self.clock.tick();
        let upstream = self.upstream.name().clone();
        match setback {
            Some(trouble) => {
                self.set_back = Some(now);
                self.state.send_if_modified(|state| {
                    let is_new = state.setback.as_ref() != Some(&trouble);
                    if is_new {
                        tracing::error!(%upstream, code = trouble.code, "records are kept back: {trouble}");
                        state.setback = Some(trouble);
                    }
                    is_new
                });
            }
            None if self.set_back.is_some_and(|at| now.since(at) >= SETBACK_TOLD) => {
                self.set_back = None;
                tracing::info!(%upstream, "no more records are kept back");
                self.state.send_modify(|state| state.setback = None);
            }
            None => {}
        }
    }

    /// Does what the upstream asks for: goes on, or waits.
    async fn take_in(&mut self, next: Next, stop: Pin<&mut (impl Future<Output = ()> + Send)>) -> Onward {
        match next {
            Next::Continue => Onward::Go,
            Next::Wait { at_least, why } => {
                self.enter(Condition::BackingOff(why));
                let wait = self.breaker.failed(at_least);
                self.wait_out(wait, stop).await
            }
            Next::Pause(trouble) => {
                self.enter(Condition::Paused(trouble));
                let wait = self.breaker.paused();
                self.wait_out(wait, stop).await
            }
        }
    }

    /// Sends nothing for this long; after that a single record shows how it stands.
    async fn wait_out(
        &mut self,
        wait: Duration,
        stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Onward {
        self.show_breaker();
        let onward = self.pause_for(wait, stop).await;
        self.breaker.waited();
        self.show_breaker();
        onward
    }

    fn show_breaker(&self) {
        let (circuit, records) = (self.breaker.circuit(), self.breaker.lease().records);
        self.state.send_if_modified(|state| {
            let is_new = (state.circuit, state.records) != (circuit, records);
            (state.circuit, state.records) = (circuit, records);
            is_new
        });
    }

    /// Lets the upstream look after itself, once a minute.
    fn tend(&mut self) {
        let now = self.clock.tick();
        if self.tended.is_some_and(|at| now.since(at) < LOOK_AGAIN) {
            return;
        }
        self.tended = Some(now);
        let wire = self.upstream.tend();
        self.state.send_if_modified(|state| {
            let is_new = state.wire != wire;
            state.wire = wire;
            is_new
        });
    }

    async fn pause_for(&self, wait: Duration, stop: Pin<&mut (impl Future<Output = ()> + Send)>) -> Onward {
        tokio::select! {
            () = stop => Onward::Stop,
            () = sleep(wait) => Onward::Go,
        }
    }

    /// Goes into a condition, and says so once.
    fn enter(&self, condition: Condition) {
        let upstream = self.upstream.name();
        self.state.send_if_modified(|state| {
            if state.condition == condition {
                return false;
            }
            match &condition {
                Condition::Connected => tracing::info!(%upstream, "the receiver takes records"),
                Condition::BackingOff(trouble) => {
                    tracing::warn!(%upstream, code = trouble.code, "{trouble}; trying again");
                }
                Condition::Paused(trouble) => {
                    tracing::error!(%upstream, code = trouble.code, "paused: {trouble}");
                }
                Condition::Untried => {}
            }
            state.condition = condition;
            true
        });
    }
}

/// Whether a dead letter tells of it.
fn is_refusal(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Delivered { refused_parts, .. } => !refused_parts.is_empty(),
        Verdict::Refused { .. } => true,
        Verdict::SkippedByPolicy | Verdict::Held(_) | Verdict::Retry { .. } => false,
    }
}

fn refusals_not_kept() -> Trouble {
    Trouble {
        code: "letters_unwritten",
        what:
            "the receiver refuses records, and the disk does not take the dead letters that would keep them"
                .to_owned(),
        remedy: "make room on the disk of the spool; these records are kept and tried again",
    }
}

fn count(verdicts: &[(Sequence, Verdict)], of: impl Fn(&Verdict) -> bool) -> u64 {
    u64::try_from(verdicts.iter().filter(|(_, verdict)| of(verdict)).count()).unwrap_or(u64::MAX)
}

/// The codes of all refusals, each once: `422 invariant, 413`.
fn reasons(verdicts: &[(Sequence, Verdict)]) -> String {
    let reasons = verdicts.iter().flat_map(|(_, verdict)| match verdict {
        Verdict::Refused { reason, .. } => vec![*reason],
        Verdict::Delivered { refused_parts, .. } => refused_parts.iter().map(|part| part.reason).collect(),
        Verdict::SkippedByPolicy | Verdict::Held(_) | Verdict::Retry { .. } => Vec::new(),
    });
    let words = reasons.map(|reason| match reason.issue {
        Some(issue) => format!("{} {issue}", reason.status),
        None => reason.status.to_string(),
    });
    words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// Whether the future is ready now, without waiting for it.
fn is_ready(future: Pin<&mut impl Future<Output = ()>>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    future.poll(&mut context).is_ready()
}

#[cfg(test)]
mod tests;
