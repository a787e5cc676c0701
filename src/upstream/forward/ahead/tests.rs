//! A quick receiver, one that stumbles and a request to stop, with a batch leased ahead.

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::model::value::Value;
use crate::privacy::record::{Body, Correction, Record};
use crate::spool::handle::{SpoolHandle, Urgency, start};
use crate::spool::memory::MemorySpool;
use crate::spool::{Sequence, StoreId, Verdict};
use crate::upstream::fhir::testing::{TREATMENT, number, origin};
use crate::upstream::forward::{State, forward};
use crate::upstream::{Delivery, Prepare, Trouble};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

/// Asks the forwarder to stop, once.
type Stop = Arc<Mutex<Option<oneshot::Sender<()>>>>;

/// A receiver of which everything can be made ready ahead, and what it was asked, in order.
struct Foreseen {
    name: UpstreamName,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The batch, counted from the first, at which it is not ready once.
    stumbles_at: Option<usize>,
    /// At this batch somebody asks the forwarder to stop.
    stops_at: Option<(usize, Stop)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Prepared(Vec<u64>),
    Asked(Vec<u64>),
    Delivered(Vec<u64>),
}

struct Ready(Arc<Mutex<Vec<Seen>>>);

fn numbers(batch: &[Stored]) -> Vec<u64> {
    batch.iter().map(|stored| stored.sequence.0).collect()
}

impl Prepare for Ready {
    fn prepare(&self, batch: &[Stored]) {
        self.0.lock().unwrap().push(Seen::Prepared(numbers(batch)));
    }
}

impl Upstream for Foreseen {
    fn name(&self) -> &UpstreamName {
        &self.name
    }
    fn begins_behind(&mut self, _: Sequence) {}
    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        Some(Arc::new(Ready(Arc::clone(&self.seen))))
    }
    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        let asked = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen::Asked(numbers(batch)));
            seen.iter().filter(|it| matches!(it, Seen::Asked(_))).count()
        };
        sleep(Duration::from_millis(100)).await;
        if let Some((at, stop)) = &self.stops_at
            && *at == asked
        {
            stop.lock().unwrap().take().unwrap().send(()).unwrap();
        }
        if self.stumbles_at == Some(asked) {
            let why = Trouble { code: "away", what: "away".to_owned(), remedy: "wait" };
            return Delivery { next: Next::Wait { at_least: None, why }, ..Delivery::default() };
        }
        self.seen.lock().unwrap().push(Seen::Delivered(numbers(batch)));
        let done = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
        let verdicts = batch.iter().map(|stored| (stored.sequence, done.clone())).collect();
        Delivery { verdicts, resources: 1, ..Delivery::default() }
    }
    async fn correct(&mut self, _: Correction, _: &[Stored], _: &BTreeSet<Sequence>) -> Delivery {
        Delivery::default()
    }
}

const RECORDS: u64 = 500;

struct Ward {
    spool: SpoolHandle,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
    _state: watch::Receiver<State>,
}

impl Ward {
    async fn new(stumbles_at: Option<usize>, stops_at: Option<usize>) -> Self {
        let name = UpstreamName::new("ehr").unwrap();
        let (spool, _) = start(MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name))).unwrap();
        let values = || -> Vec<Value> { vec![number("venous_pressure", "142")] };
        let records = (0..RECORDS).map(|_| Record::sample(origin(), Some(TREATMENT), Body::Values(values())));
        spool.append(records.collect(), Urgency::Now).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let stop = Arc::new(Mutex::new(Some(stop)));
        let stops_at = stops_at.map(|at| (at, Arc::clone(&stop)));
        let upstream = Foreseen { name, seen: Arc::clone(&seen), stumbles_at, stops_at };
        let (sender, state) = watch::channel(State::default());
        let stopped = async move {
            let _stop = stop;
            let _ = stopped.await;
        };
        let task = tokio::spawn(forward(upstream, spool.clone(), clock, sender, stopped));
        Self { spool, seen, task, _state: state }
    }

    async fn until_delivered(&self) {
        for _ in 0..1000 {
            if self.spool.status().await.unwrap().upstreams[0].1.delivered == RECORDS {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        panic!("never delivered: {:?}", self.seen.lock().unwrap());
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn delivered(seen: &[Seen]) -> Vec<u64> {
    let batches = seen.iter().filter_map(|it| match it {
        Seen::Delivered(numbers) => Some(numbers.clone()),
        Seen::Prepared(_) | Seen::Asked(_) => None,
    });
    let mut all: Vec<u64> = batches.flatten().collect();
    all.sort_unstable();
    all
}

#[tokio::test(start_paused = true)]
async fn the_next_batch_is_made_ready_while_a_quick_receiver_has_the_last_one() {
    let ward = Ward::new(None, None).await;
    ward.until_delivered().await;
    let seen = ward.seen();
    assert_eq!(delivered(&seen), (1..=RECORDS).collect::<Vec<_>>(), "each once");
    let mut ahead = 0;
    for (at, batch) in seen.iter().enumerate() {
        let Seen::Prepared(batch) = batch else { continue };
        ahead += usize::from(!batch.is_empty());
        if !batch.is_empty() {
            let next = seen[at..].iter().find(|it| matches!(it, Seen::Asked(_)));
            assert_eq!(next, Some(&Seen::Asked(batch.clone())), "it is the next");
        }
    }
    assert!(ahead >= 3, "{ahead} of {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_leased_ahead_of_a_batch_that_failed_is_handed_back_and_delivered_later() {
    for stumbles_at in 6..10 {
        let ward = Ward::new(Some(stumbles_at), None).await;
        ward.until_delivered().await;
        let seen = ward.seen();
        assert_eq!(delivered(&seen), (1..=RECORDS).collect::<Vec<_>>(), "each once");
        let asked: Vec<_> = seen.iter().filter(|it| matches!(it, Seen::Asked(_))).collect();
        let Seen::Asked(after) = asked[stumbles_at] else { unreachable!() };
        assert_eq!(after.len(), 1, "a single record shows whether it is back");
    }
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_leaves_nothing_leased() {
    let ward = Ward::new(None, Some(7)).await;
    ward.task.await.unwrap();
    let seen = ward.seen.lock().unwrap().clone();
    let asked = seen.iter().filter(|it| matches!(it, Seen::Asked(_))).count();
    assert_eq!(asked, 7, "the batch in hand was the last");
    let name = UpstreamName::new("ehr").unwrap();
    let all = BatchLimit { records: 1000 };
    let mut left = 0;
    loop {
        let leased = ward.spool.lease(&name, all, Lane::Backlog, chairside_drivers::kit::time::Tick::ZERO);
        match leased.await.unwrap().len() {
            0 => break,
            more => left += more,
        }
    }
    assert_eq!(delivered(&seen).len() + left, usize::try_from(RECORDS).unwrap());
}
