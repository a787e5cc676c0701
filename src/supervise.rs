//! Starts, restarts and stops tasks in waves: what asks machines stops first, what keeps records stops last.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use chairside_drivers::kit::time::Tick;

/// The first wait before a task is started again.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait before a task is started again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Tells a task that it is time to finish. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Completes when the task shall finish. Cancel-safe.
    pub async fn asked(&mut self) {
        // A wave that is gone asks nobody to go on.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether the task shall finish.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}

/// Tasks that stop together.
#[derive(Debug)]
pub struct Wave {
    name: &'static str,
    deadline: Duration,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Ended>,
}

/// How a task of a wave ended.
#[derive(Debug)]
enum Ended {
    Well,
    Wrongly(Failure),
}

/// A task that must not end has ended; the process stops for it.
#[derive(Debug, thiserror::Error)]
#[error("{task} ended")]
pub struct Failure {
    /// Which task.
    pub task: String,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why a task ended that must not.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The spool took no records any more.
    #[error("the spool takes no records")]
    Spool(#[from] crate::spool::SpoolError),
    /// The keyring could not be written: a treatment or a seat would be lost.
    #[error("the keyring cannot be written")]
    Keyring(#[source] crate::privacy::keyring::KeyringError),
    /// The task panicked; the place is in the log.
    #[error("it panicked")]
    Panicked,
    /// The task ended although nobody asked it to.
    #[error("it ended by itself")]
    Unasked,
}

impl Wave {
    /// An empty wave whose tasks get `deadline` to finish once they are asked.
    #[must_use]
    pub fn new(name: &'static str, deadline: Duration) -> Self {
        Self { name, deadline, stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    /// What tells the tasks of this wave to finish.
    #[must_use]
    pub fn stop_signal(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Runs a task that must not end before it is asked to; if it does, [`Wave::failed`] says so.
    pub fn must<F>(&mut self, task: impl Into<String>, work: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = Result<(), Cause>> + Send + 'static,
    {
        let (task, stop) = (task.into(), self.stop_signal());
        let work = work(self.stop_signal());
        self.tasks.spawn(async move {
            let mut running = Guarded::spawn(work);
            match running.end().await {
                Ok(Ok(())) if stop.is_asked() => Ended::Well,
                Ok(Ok(())) => Ended::Wrongly(Failure { task, cause: Cause::Unasked }),
                Ok(Err(cause)) => Ended::Wrongly(Failure { task, cause }),
                Err(_) => Ended::Wrongly(Failure { task, cause: Cause::Panicked }),
            }
        });
    }

    /// Runs a task that is started again, after a jittered wait, whenever it ends or panics.
    pub fn keep<F>(&mut self, task: impl Into<String>, mut work: impl FnMut(Stop) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (task, mut stop) = (task.into(), self.stop_signal());
        self.tasks.spawn(async move {
            let mut backoff = Backoff::default();
            loop {
                let mut running = Guarded::spawn(work(stop.clone()));
                let ended = running.end().await;
                if stop.is_asked() {
                    return Ended::Well;
                }
                let wait = backoff.wait();
                match ended {
                    Ok(()) => {
                        tracing::warn!(task, wait_ms = millis(wait), "a task ended; it is started again")
                    }
                    Err(_) => {
                        tracing::error!(task, wait_ms = millis(wait), "a task panicked; it is started again")
                    }
                }
                tokio::select! {
                    () = sleep(wait) => {}
                    () = stop.asked() => return Ended::Well,
                }
            }
        });
    }

    /// Waits until a task of this wave ends that must not; for ever while none does. Cancel-safe.
    pub async fn failed(&mut self) -> Failure {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ended::Wrongly(failure))) => return failure,
                Some(_) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// Asks every task to finish, without waiting: for a wave that ends by itself once the wave before it is gone.
    pub fn ask(&self) {
        self.stop.send_replace(true);
    }

    /// Asks every task to finish and waits for them, but not longer than the wave's deadline. Returns what failed while
    /// stopping, if something did.
    pub async fn stop(mut self) -> Option<Failure> {
        self.stop.send_replace(true);
        let mut failure = None;
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(Ended::Wrongly(wrong)) = ended {
                    failure = failure.take().or(Some(wrong));
                }
            }
        };
        if timeout(self.deadline, all).await.is_err() {
            tracing::warn!(
                wave = self.name,
                left = self.tasks.len(),
                "tasks did not finish in time and are cut off"
            );
        }
        failure
    }
}

/// A spawned task that dies with its guard, so that cutting off a wave cuts off everything in it.
struct Guarded<T> {
    running: tokio::task::JoinHandle<T>,
    abort: AbortHandle,
}

impl<T: Send + 'static> Guarded<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        let running = tokio::spawn(work);
        let abort = running.abort_handle();
        Self { running, abort }
    }

    async fn end(&mut self) -> Result<T, JoinError> {
        (&mut self.running).await
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// Waits that double up to half a minute, each shortened by a random part so that chairs do not come back in step.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    random: RandomState,
    drawn: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_WAIT, random: RandomState::new(), drawn: 0 }
    }
}

impl Backoff {
    /// The next wait: between half of the step and the whole step.
    pub fn wait(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST_WAIT);
        self.drawn += 1;
        let half = millis(step) / 2;
        Duration::from_millis(half + self.random.hash_one(self.drawn) % half.max(1))
    }

    /// It went well: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.next = FIRST_WAIT;
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// The last sign of life of one task. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The task is alive and makes progress.
    pub fn beat(&self, now: Tick) {
        self.0.store(now.as_micros(), Ordering::Relaxed);
    }

    /// Time since the last beat.
    #[must_use]
    pub fn age(&self, now: Tick) -> Duration {
        now.since(Tick::from_micros(self.0.load(Ordering::Relaxed)))
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulse({})", self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_the_wave_lives_on() {
        let (started, mut starts) = mpsc::unbounded_channel();
        let mut wave = Wave::new("lines", Duration::from_secs(1));
        let mut count = 0;
        wave.keep("chair-1", move |mut stop| {
            count += 1;
            started.send(count).unwrap();
            let doomed = count < 3;
            async move {
                assert!(!doomed, "a fault of ours");
                stop.asked().await;
            }
        });
        for expected in 1..=3 {
            assert_eq!(starts.recv().await, Some(expected));
        }
        assert!(wave.stop().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_must_not_end_is_told_with_its_cause() {
        let mut wave = Wave::new("sealing", Duration::from_secs(1));
        wave.must("chair-1", |mut stop| async move {
            stop.asked().await;
            Ok(())
        });
        wave.must("chair-2", |_| async { Err(Cause::Spool(crate::spool::SpoolError::Closed)) });
        let failure = wave.failed().await;
        assert_eq!(
            crate::telemetry::chain(&failure),
            "chair-2 ended: the spool takes no records: the spool is closed"
        );
        assert!(wave.stop().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_task_that_must_not_end_is_a_failure() {
        let mut wave = Wave::new("sealing", Duration::from_secs(1));
        wave.must("chair-1", |_| async { panic!("a fault of ours") });
        assert!(matches!(wave.failed().await.cause, Cause::Panicked));
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_waits_for_the_work_in_hand_and_cuts_off_what_hangs() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut wave = Wave::new("forwarders", Duration::from_secs(5));
        let finished = Arc::clone(&done);
        wave.must("quick", move |mut stop| async move {
            stop.asked().await;
            sleep(Duration::from_secs(4)).await;
            finished.lock().unwrap().push("quick");
            Ok(())
        });
        let finished = Arc::clone(&done);
        wave.must("stuck", move |_| async move {
            sleep(Duration::from_secs(3600)).await;
            finished.lock().unwrap().push("stuck");
            Ok(())
        });
        assert!(wave.stop().await.is_none());
        sleep(Duration::from_secs(7200)).await;
        assert_eq!(*done.lock().unwrap(), ["quick"]);
    }

    #[test]
    fn waits_double_up_to_half_a_minute_and_are_jittered() {
        let mut backoff = Backoff::default();
        let mut step = FIRST_WAIT;
        for _ in 0..12 {
            let wait = backoff.wait();
            assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
            step = (step * 2).min(LONGEST_WAIT);
        }
        backoff.reset();
        assert!(backoff.wait() <= FIRST_WAIT);
    }
}
