//! The spool as async code sees it: one thread owns the store, one task groups what is appended into commits.

use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::Timestamp;
use crate::privacy::record::{Record, TreatmentId};
use crate::spool::slots::Left;
use crate::spool::space::{Level, Space};
use crate::spool::tools::SpoolTools;
use crate::spool::{
    BatchLimit, Lane, Pruned, Retention, Sequence, Spool, SpoolError, SpoolStatus, Stored, Verdict,
};
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::mpsc as threads;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Sleep, sleep};

/// How long a record may wait for others to share its commit with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Readings: at most 1 s.
    Routine,
    /// Alarms and treatment events: at most 50 ms.
    Prompt,
    /// At once.
    Now,
    /// At once, for a caller who waits for the answer and can come again: refused while the spool is nearly full, so that
    /// the machines keep what is left.
    Answer,
}

impl Urgency {
    const fn patience(self) -> Duration {
        match self {
            Urgency::Routine => Duration::from_secs(1),
            Urgency::Prompt => Duration::from_millis(50),
            Urgency::Now | Urgency::Answer => Duration::ZERO,
        }
    }
}

/// A commit does not wait for more once it holds this many records.
const COMMIT_RECORDS: usize = 512;

/// Appends that may wait in front of the committing task; a caller beyond that waits to hand its records in.
const APPENDS_WAITING: usize = 256;

/// Calls that may wait in front of the thread. A caller beyond that waits.
const CALLS_WAITING: usize = 64;

/// Starts the thread that owns the spool, and the task that groups appends. Needs a tokio runtime around it.
///
/// The thread ends after [`SpoolHandle::close`], or when the last handle is dropped.
///
/// # Errors
/// The operating system's, when it gives no thread.
pub fn start(mut spool: impl Spool + 'static) -> std::io::Result<(SpoolHandle, JoinHandle<()>)> {
    let (calls, waiting) = threads::sync_channel::<Call>(CALLS_WAITING);
    let thread = std::thread::Builder::new().name("spool".into()).spawn(move || {
        while let Ok(call) = waiting.recv() {
            match call {
                Call::Do(act) => act(&mut spool),
                Call::Close(answer) => {
                    let closed = spool.close();
                    // Whoever hears that it is closed may open it again at once.
                    drop(spool);
                    let _ = answer.send(closed);
                    return;
                }
            }
        }
        let _ = spool.close();
    })?;
    let (appends, requests) = mpsc::channel(APPENDS_WAITING);
    let (news, _) = watch::channel(0);
    let thread_calls = Calls(calls);
    tokio::spawn(commit_in_groups(requests, thread_calls.clone(), news.clone()));
    Ok((SpoolHandle { appends, calls: thread_calls, news }, thread))
}

/// The way to the spool for everybody else. Cheap to clone.
#[derive(Clone)]
pub struct SpoolHandle {
    appends: mpsc::Sender<Append>,
    calls: Calls,
    news: watch::Sender<u64>,
}

impl std::fmt::Debug for SpoolHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpoolHandle")
    }
}

impl SpoolHandle {
    /// Writes the records together with those of others; durable when it returns.
    ///
    /// The records are written even if the caller stops waiting.
    ///
    /// # Errors
    /// [`SpoolError`]; on error none of these records is acknowledged.
    pub async fn append(&self, records: Vec<Record>, urgency: Urgency) -> Result<Vec<Sequence>, SpoolError> {
        let (answer, answered) = oneshot::channel();
        let append = Append { records, urgency, answer };
        self.appends.send(append).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    /// See [`Spool::lease`]. Records leased for a caller that stopped waiting are handed back.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    pub async fn lease(
        &self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError> {
        let upstream = upstream.clone();
        let (answer, answered) = oneshot::channel();
        self.calls.hand_over(move |spool| {
            let leased = spool.lease(&upstream, limit, lane, now);
            let Err(Ok(unwanted)) = answer.send(leased) else { return };
            let untried = Verdict::Retry { not_before: Tick::ZERO };
            let back: Vec<_> = unwanted.iter().map(|stored| (stored.sequence, untried.clone())).collect();
            let _ = spool.settle(&upstream, &back);
        });
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    /// See [`Spool::settle`]. The verdicts are taken even if the caller stops waiting.
    ///
    /// # Errors
    /// [`SpoolError`] when the settlement store cannot be written.
    pub async fn settle(
        &self,
        upstream: &UpstreamName,
        verdicts: Vec<(Sequence, Verdict)>,
    ) -> Result<(), SpoolError> {
        let upstream = upstream.clone();
        self.calls.call(move |spool| spool.settle(&upstream, &verdicts)).await
    }

    /// See [`Spool::release`]; wakes the forwarders.
    ///
    /// # Errors
    /// [`SpoolError`] when the settlement store cannot be written.
    pub async fn release(&self, treatment: TreatmentId) -> Result<(), SpoolError> {
        let news = self.news.clone();
        self.calls
            .call(move |spool| {
                spool.release(treatment)?;
                news.send_modify(|count| *count += 1);
                Ok(())
            })
            .await
    }

    /// See [`Spool::read_treatment`].
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    pub async fn read_treatment(
        &self,
        treatment: TreatmentId,
        after: Sequence,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError> {
        self.calls.call(move |spool| spool.read_treatment(treatment, after, limit)).await
    }

    /// Asks or does something of [`SpoolTools`], in the spool's thread.
    ///
    /// # Errors
    /// [`SpoolError`] of the act.
    pub async fn tools<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut dyn SpoolTools) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        self.calls.call(|spool| act(spool.tools())).await
    }

    /// Says that something can be leased again.
    pub fn wake(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// See [`Spool::prune`].
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    pub async fn prune(&self, policy: Retention, now: Timestamp) -> Result<Pruned, SpoolError> {
        self.calls.call(move |spool| spool.prune(policy, now)).await
    }

    /// See [`Spool::begin_run`].
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    pub async fn begin_run(
        &self,
        chairs: Vec<(ChairName, Duration)>,
    ) -> Result<BTreeMap<ChairName, Left>, SpoolError> {
        self.calls.call(move |spool| spool.begin_run(&chairs)).await
    }

    /// See [`Spool::status`].
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when the spool's thread is gone.
    pub async fn status(&self) -> Result<SpoolStatus, SpoolError> {
        self.calls.call(|spool| Ok(spool.status())).await
    }

    /// Commits what waits to be appended and makes what was settled survive a power cut.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        self.append(Vec::new(), Urgency::Now).await?;
        self.calls.call(|spool| spool.flush()).await
    }

    /// Commits what waits to be appended, then ends the spool and its thread. Every later call finds it closed.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    pub async fn close(&self) -> Result<(), SpoolError> {
        self.append(Vec::new(), Urgency::Now).await?;
        let (answer, answered) = oneshot::channel();
        let calls = self.calls.clone();
        tokio::task::spawn_blocking(move || calls.0.send(Call::Close(answer)));
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    /// Changes whenever something new can be leased: after each commit and each release.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

struct Append {
    records: Vec<Record>,
    urgency: Urgency,
    answer: oneshot::Sender<Result<Vec<Sequence>, SpoolError>>,
}

/// Collects appends until the most urgent one may wait no longer, and commits them as one.
///
/// While a commit runs the next one gathers in the channel, so a slow disk makes larger commits, not a longer queue.
async fn commit_in_groups(mut requests: mpsc::Receiver<Append>, calls: Calls, news: watch::Sender<u64>) {
    while let Some(first) = requests.recv().await {
        let mut due = Box::pin(sleep(first.urgency.patience()));
        let mut count = first.records.len();
        let mut group = vec![first];
        while count < COMMIT_RECORDS {
            // Taking an append off the channel is cancel-safe; the delay is only polled.
            let next = tokio::select! {
                biased;
                next = requests.recv() => next,
                () = &mut due => None,
            };
            let Some(append) = next else { break };
            count += append.records.len();
            hasten(&mut due, append.urgency);
            group.push(append);
        }
        commit(group, &calls, &news).await;
    }
}

/// Brings the end of the wait forward if this urgency has less patience left.
fn hasten(due: &mut Pin<Box<Sleep>>, urgency: Urgency) {
    let sooner = sleep(urgency.patience());
    if sooner.deadline() < due.deadline() {
        due.set(sooner);
    }
}

async fn commit(mut group: Vec<Append>, calls: &Calls, news: &watch::Sender<u64>) {
    let appends = group.len();
    let take = |append: &mut Append| (std::mem::take(&mut append.records), append.urgency);
    let parts: Vec<(Vec<Record>, Urgency)> = group.iter_mut().map(take).collect();
    let appended = calls.call(move |spool| Ok(append_what_may(spool, parts))).await;
    let answers = appended.unwrap_or_else(|error| vec![Err(error); appends]);
    let any = |answer: &Result<Vec<Sequence>, SpoolError>| answer.as_ref().is_ok_and(|all| !all.is_empty());
    if answers.iter().any(any) {
        news.send_modify(|count| *count += 1);
    }
    for (append, answer) in group.into_iter().zip(answers) {
        let _ = append.answer.send(answer);
    }
}

/// Refuses who can come again while the spool is nearly full, and commits the rest.
fn append_what_may(
    spool: &mut dyn Spool,
    parts: Vec<(Vec<Record>, Urgency)>,
) -> Vec<Result<Vec<Sequence>, SpoolError>> {
    let patient =
        |(records, urgency): &(Vec<Record>, Urgency)| *urgency == Urgency::Answer && !records.is_empty();
    let space = if parts.iter().any(patient) { spool.space() } else { Space::default() };
    let refused: Vec<bool> =
        parts.iter().map(|part| patient(part) && space.level() >= Level::Refuse).collect();
    let taken = parts.into_iter().zip(&refused).filter(|(_, refused)| !**refused);
    let taken: Vec<_> = taken.map(|((records, _), _)| records).collect();
    let mut answers = append_together(spool, &taken).into_iter();
    let full = SpoolError::Full { used: space.used, max: space.max };
    let answer = |refused: bool| {
        if refused { Err(full.clone()) } else { answers.next().unwrap_or(Err(SpoolError::Closed)) }
    };
    refused.into_iter().map(answer).collect()
}

/// One commit for all, or one for each where a single record would cost the others theirs: an alarm still fits where a
/// reading does not.
fn append_together(spool: &mut dyn Spool, parts: &[Vec<Record>]) -> Vec<Result<Vec<Sequence>, SpoolError>> {
    let together = parts.concat();
    match spool.append(&together) {
        Ok(sequences) => {
            let mut sequences = sequences.into_iter();
            parts.iter().map(|part| Ok(sequences.by_ref().take(part.len()).collect())).collect()
        }
        Err(SpoolError::Full { .. } | SpoolError::TooLarge(_) | SpoolError::Key) if parts.len() > 1 => {
            parts.iter().map(|part| spool.append(part)).collect()
        }
        Err(error) => parts.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// The way into the spool's thread.
#[derive(Clone)]
struct Calls(threads::SyncSender<Call>);

type Act = Box<dyn FnOnce(&mut dyn Spool) + Send>;

enum Call {
    Do(Act),
    Close(oneshot::Sender<Result<(), SpoolError>>),
}

impl Calls {
    async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut dyn Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        self.hand_over(move |spool| {
            let _ = answer.send(act(spool));
        });
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    /// Hands an act to the thread. A blocking task waits beside it until it is done: it takes the wait for a full
    /// channel off the runtime, and tokio's paused clock stands still while a blocking task runs, so that
    /// virtual time cannot run away while the disk works.
    fn hand_over(&self, act: impl FnOnce(&mut dyn Spool) + Send + 'static) {
        let calls = self.0.clone();
        let (done, ended) = threads::channel::<()>();
        let act: Act = Box::new(move |spool| {
            act(spool);
            drop(done);
        });
        tokio::task::spawn_blocking(move || {
            if calls.send(Call::Do(act)).is_ok() {
                let _ = ended.recv();
            }
        });
    }
}

#[cfg(test)]
mod tests;
