//! Runs the store engine in a thread of its own, where it may panic or hang without taking anybody along.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Longer than any act of a healthy store on a slow disk, shorter than a supervisor's patience.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Why the engine gave no answer. After either of them it is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Panicked,
    TooLong,
    /// It gave no answer before.
    GivenUp,
    /// The operating system gives no thread.
    NoThread,
}

impl Fault {
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Fault::Panicked => "the store engine panicked",
            Fault::TooLong => "the store engine took too long",
            Fault::GivenUp => "the store engine was given up",
            Fault::NoThread => "there is no thread for the store engine",
        }
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// One thread that does what it is given, one act after the other. It ends when the guard is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    acts: Option<SyncSender<Act>>,
    limit: Duration,
}

impl Guard {
    pub(crate) fn new(limit: Duration) -> Result<Self, Fault> {
        let (acts, given): (_, Receiver<Act>) = sync_channel(1);
        std::thread::Builder::new()
            .name("spool-store".into())
            .spawn(move || given.into_iter().for_each(|act| act()))
            .map_err(|_| Fault::NoThread)?;
        Ok(Self { acts: Some(acts), limit })
    }

    /// Runs the act and waits for it, but not for ever.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let acts = self.acts.as_ref().ok_or(Fault::GivenUp)?;
        let (answer, answered) = sync_channel(1);
        let guarded: Act = Box::new(move || {
            // Whatever state the panic left behind is never looked at again.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(act)));
        });
        acts.send(guarded).map_err(|_| Fault::GivenUp)?;
        let fault = match answered.recv_timeout(self.limit) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Fault::Panicked,
            Err(RecvTimeoutError::Timeout) => Fault::TooLong,
        };
        self.acts = None;
        Err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_gives_its_answer() {
        assert_eq!(Guard::new(LIMIT).unwrap().run(|| 7), Ok(7));
    }

    #[test]
    fn a_panic_is_a_fault_and_the_engine_is_not_asked_again() {
        let mut guard = Guard::new(LIMIT).unwrap();
        assert_eq!(guard.run(|| panic!("on purpose")), Err::<(), _>(Fault::Panicked));
        assert_eq!(guard.run(|| 7), Err(Fault::GivenUp));
    }

    #[test]
    fn an_act_that_hangs_is_left_behind() {
        let (release, hang) = sync_channel::<()>(1);
        let mut guard = Guard::new(Duration::from_millis(1)).unwrap();
        assert_eq!(guard.run(move || hang.recv()), Err(Fault::TooLong));
        assert_eq!(guard.run(|| 7), Err(Fault::GivenUp));
        drop(release);
    }
}
