//! How appends are grouped, and what becomes of a call whose caller went away.

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::spool::StoreId;
use crate::spool::memory::MemorySpool;
use crate::spool::testing::{at, record, upstream};
use std::sync::{Arc, Mutex};

/// Notes the size of every commit, fails where told to, and stops in a lease where told to.
struct Watched {
    inner: MemorySpool,
    commits: Arc<Mutex<Vec<usize>>>,
    fail: Option<Fail>,
    in_lease: Option<(threads::Sender<()>, threads::Receiver<()>)>,
}

#[derive(Clone, Copy)]
enum Fail {
    Disk,
    FullForMany,
    NearlyFull,
}

impl Spool for Watched {
    fn append(&mut self, batch: &[Record]) -> Result<Vec<Sequence>, SpoolError> {
        if !batch.is_empty() {
            self.commits.lock().unwrap().push(batch.len());
        }
        match self.fail {
            Some(Fail::Disk) => Err(SpoolError::Engine { act: "append", why: "on purpose" }),
            Some(Fail::FullForMany) if batch.len() > 1 => Err(SpoolError::Full { used: 2, max: 1 }),
            _ => self.inner.append(batch),
        }
    }
    fn lease(
        &mut self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError> {
        if let Some((entered, go_on)) = self.in_lease.take() {
            entered.send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.inner.lease(upstream, limit, lane, now)
    }
    fn settle(&mut self, upstream: &UpstreamName, v: &[(Sequence, Verdict)]) -> Result<(), SpoolError> {
        self.inner.settle(upstream, v)
    }
    fn release(&mut self, treatment: TreatmentId) -> Result<(), SpoolError> {
        self.inner.release(treatment)
    }
    fn read_treatment(
        &mut self,
        treatment: TreatmentId,
        after: Sequence,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError> {
        self.inner.read_treatment(treatment, after, limit)
    }
    fn tools(&mut self) -> &mut dyn SpoolTools {
        self.inner.tools()
    }
    fn prune(&mut self, policy: Retention, now: Timestamp) -> Result<Pruned, SpoolError> {
        self.inner.prune(policy, now)
    }
    fn space(&mut self) -> Space {
        match self.fail {
            Some(Fail::NearlyFull) => Space { used: 91, max: 100 },
            _ => self.inner.space(),
        }
    }
    fn begin_run(
        &mut self,
        chairs: &[(ChairName, Duration)],
    ) -> Result<BTreeMap<ChairName, Left>, SpoolError> {
        self.inner.begin_run(chairs)
    }
    fn status(&mut self) -> SpoolStatus {
        self.inner.status()
    }
    fn flush(&mut self) -> Result<(), SpoolError> {
        self.inner.flush()
    }
    fn close(&mut self) -> Result<(), SpoolError> {
        self.inner.close()
    }
}

fn watched(fail: Option<Fail>) -> (SpoolHandle, Arc<Mutex<Vec<usize>>>) {
    let commits = Arc::new(Mutex::new(Vec::new()));
    let inner = MemorySpool::new(StoreId([7; 16]), &[upstream("ehr")]);
    let (handle, _thread) = start(Watched { inner, commits: commits.clone(), fail, in_lease: None }).unwrap();
    (handle, commits)
}

const ALL: BatchLimit = BatchLimit { records: 100 };

#[tokio::test(start_paused = true)]
async fn routine_records_of_a_second_share_one_commit() {
    let (spool, commits) = watched(None);
    let clock = SystemClock::new(at(0));
    let started = clock.tick();
    let appends: Vec<_> = (0..5)
        .map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.append(vec![record(n), record(n)], Urgency::Routine).await })
        })
        .collect();
    let mut sequences = Vec::new();
    for append in appends {
        sequences.extend(append.await.unwrap().unwrap());
    }
    sequences.sort();
    assert_eq!(sequences, (1..=10).map(Sequence).collect::<Vec<_>>());
    assert_eq!(*commits.lock().unwrap(), [10]);
    assert_eq!(clock.tick().since(started), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_alarm_takes_waiting_readings_along_within_50_ms() {
    let (spool, commits) = watched(None);
    let clock = SystemClock::new(at(0));
    let started = clock.tick();
    let reading = spool.append(vec![record(1)], Urgency::Routine);
    let alarm = spool.append(vec![record(2)], Urgency::Prompt);
    let (reading, alarm) = tokio::join!(reading, alarm);
    assert_eq!((reading.unwrap(), alarm.unwrap()), (vec![Sequence(1)], vec![Sequence(2)]));
    assert_eq!(*commits.lock().unwrap(), [2]);
    assert_eq!(clock.tick().since(started), Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_answers_everybody_who_waited_for_it() {
    let (spool, commits) = watched(Some(Fail::Disk));
    let one = spool.append(vec![record(1)], Urgency::Routine);
    let two = spool.append(vec![record(2)], Urgency::Now);
    let (one, two) = tokio::join!(one, two);
    assert!(matches!(one, Err(SpoolError::Engine { .. })));
    assert!(matches!(two, Err(SpoolError::Engine { .. })));
    assert_eq!(*commits.lock().unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_that_fits_is_not_refused_for_the_readings_beside_it() {
    let (spool, _) = watched(Some(Fail::FullForMany));
    let readings = spool.append(vec![record(1), record(2)], Urgency::Routine);
    let alarm = spool.append(vec![record(3)], Urgency::Prompt);
    let (readings, alarm) = tokio::join!(readings, alarm);
    assert!(matches!(readings, Err(SpoolError::Full { .. })));
    assert_eq!(alarm.unwrap(), [Sequence(1)]);
}

#[tokio::test(start_paused = true)]
async fn who_can_come_again_is_refused_from_90_percent_on_and_machines_are_not() {
    let (spool, commits) = watched(Some(Fail::NearlyFull));
    let caller = spool.append(vec![record(1)], Urgency::Answer);
    let machine = spool.append(vec![record(2)], Urgency::Now);
    let (caller, machine) = tokio::join!(caller, machine);
    assert!(matches!(caller, Err(SpoolError::Full { used: 91, max: 100 })));
    assert_eq!(machine.unwrap(), [Sequence(1)]);
    assert_eq!(*commits.lock().unwrap(), [1]);
    let (spool, _) = watched(None);
    assert_eq!(spool.append(vec![record(1)], Urgency::Answer).await.unwrap(), [Sequence(1)]);
}

#[tokio::test(start_paused = true)]
async fn forwarders_are_woken_by_a_commit_and_by_a_release() {
    let (spool, _) = watched(None);
    let mut news = spool.subscribe();
    spool.append(vec![record(1)], Urgency::Now).await.unwrap();
    news.changed().await.unwrap();
    spool.release(TreatmentId::from_bytes([1; 16])).await.unwrap();
    news.changed().await.unwrap();
    assert!(!news.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_nobody_waits_for_any_more_is_handed_back() {
    let ((entered, has_entered), (go_on, may_go_on)) = (threads::channel(), threads::channel());
    let watched = Watched {
        inner: MemorySpool::new(StoreId([7; 16]), &[upstream("ehr")]),
        commits: Arc::default(),
        fail: None,
        in_lease: Some((entered, may_go_on)),
    };
    let (spool, _thread) = start(watched).unwrap();
    spool.append(vec![record(1)], Urgency::Now).await.unwrap();
    let ehr = upstream("ehr");
    let mut lease = Box::pin(spool.lease(&ehr, ALL, Lane::Backlog, Tick::ZERO));
    assert!(first_poll(&mut lease).await.is_none());
    has_entered.recv().unwrap();
    drop(lease);
    go_on.send(()).unwrap();
    let leased = spool.lease(&ehr, ALL, Lane::Backlog, Tick::ZERO).await.unwrap();
    assert_eq!(leased.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_commits_what_still_waits_and_ends_the_thread() {
    let inner = MemorySpool::new(StoreId([7; 16]), &[upstream("ehr")]);
    let (spool, thread) = start(inner).unwrap();
    let waiting = tokio::spawn({
        let spool = spool.clone();
        async move { spool.append(vec![record(1)], Urgency::Routine).await }
    });
    tokio::task::yield_now().await;
    spool.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [Sequence(1)]);
    thread.join().unwrap();
    assert!(matches!(spool.append(vec![record(2)], Urgency::Now).await, Err(SpoolError::Closed)));
    assert!(matches!(spool.status().await, Err(SpoolError::Closed)));
}

/// `Some` if the future is ready at its first poll.
async fn first_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
