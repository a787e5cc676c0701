//! The conversation over one open port: from `Up` to the pulled cable or the stop.

use crate::line::{Line, LineError};
use crate::poll::event::{LineEvent, MissCause};
use crate::poll::schedule::Due;
use crate::poll::{Chair, Opener, Stop, Unheard, sleep};
use chairside_drivers::kit::driver::{Driver, Outcome, Output, Request, Sample};
use chairside_drivers::kit::time::{Slot, Tick};
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

/// What comes in at once at most; a longer answer comes in several reads.
const READ: usize = 1024;
/// No machine says this many things in one answer; what exceeds it is a fault of the driver, and dropped.
const MOST_SAMPLES: usize = 4096;
/// No driver has this much to say after one event.
const MOST_OUTPUTS: usize = 2 * MOST_SAMPLES;
/// A driver that asks to be woken in the past is woken after this instead, so it cannot spin.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// How a conversation over one open port ended.
pub(super) enum Ended {
    Stopped,
    Lost(LineError),
}

impl<O: Opener> Chair<O> {
    pub(super) async fn talk(&mut self, port: O::Port, stop: Stop<'_>) -> Result<Ended, Unheard> {
        let line = Line::over(self.opener.path(), self.model.line().direction, port);
        self.told = None;
        self.teller.figures.opened();
        tracing::info!(chair = self.teller.chair.as_str(), port = %self.opener.path().display(), "line up");
        self.teller.tell(LineEvent::Up, self.teller.moment()).await?;
        // A new driver each time: nothing half-read outlives the cable.
        let driver = self.model.driver();
        let talk = Talk {
            chair: self,
            line,
            driver,
            samples: Vec::new(),
            asked: Vec::new(),
            wake: None,
            closing: None,
        };
        talk.run(stop).await
    }
}

struct Talk<'a, O: Opener> {
    chair: &'a mut Chair<O>,
    line: Line<O::Port>,
    driver: Box<dyn Driver>,
    /// The values of the poll in progress.
    samples: Vec<Sample>,
    /// Slots the driver was asked to fill and has not ended yet, with the time they were due: one, or two at a turn.
    asked: Vec<(Slot, Tick)>,
    /// When the driver wants to be woken.
    wake: Option<Tick>,
    /// Once the conversation is ending: why slots that are still open are missed.
    closing: Option<MissCause>,
}

/// Why the loop is left.
enum Break {
    Line(LineError),
    Unheard,
}

impl From<LineError> for Break {
    fn from(error: LineError) -> Self {
        Self::Line(error)
    }
}

impl From<Unheard> for Break {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl<O: Opener> Talk<'_, O> {
    async fn run(mut self, stop: Stop<'_>) -> Result<Ended, Unheard> {
        let ended = match self.until_stopped(stop).await {
            Ok(()) => Ended::Stopped,
            Err(Break::Line(error)) => Ended::Lost(error),
            Err(Break::Unheard) => return Err(Unheard),
        };
        self.close(&ended).await?;
        Ok(ended)
    }

    async fn until_stopped(&mut self, stop: Stop<'_>) -> Result<(), Break> {
        self.driver.handle_open(self.now());
        self.drain().await?;
        // What a machine says may name a patient; nothing of it stays when the conversation is over.
        let mut buffer = Zeroizing::new([0; READ]);
        loop {
            let now = self.now();
            if let Some(due) = self.chair.schedule.take(now) {
                self.ask(now, due).await?;
            }
            if self.wake.is_some_and(|wake| wake <= now) {
                self.wake = None;
                self.driver.handle_tick(now);
                self.drain().await?;
            }
            let now = self.now();
            let due = self.chair.schedule.next_due();
            let wake = self.wake.map_or(due, |wake| due.min(wake.max(now.after(SHORTEST_WAIT))));
            // Every branch is cancel-safe. Bytes go before timers: an answer that is already here must not be given up
            // because the process was held up; timers are looked at after each read, so a babbling line starves none.
            let count = tokio::select! {
                biased;
                () = &mut *stop => return Ok(()),
                read = self.line.read(&mut *buffer) => read?,
                () = sleep(now, wake) => continue,
            };
            self.chair.teller.figures.read(count);
            self.driver.handle_bytes(self.now(), buffer.get(..count).unwrap_or_default());
            buffer.zeroize();
            self.drain().await?;
        }
    }

    async fn ask(&mut self, now: Tick, due: Due) -> Result<(), Break> {
        self.chair.miss_skipped(due, MissCause::GatewayDown).await?;
        self.asked.push((due.slot, due.at));
        self.chair.teller.figures.asked(due.slot, due.at);
        self.driver.handle_poll_due(now, due.slot);
        self.drain().await?;
        // The driver has had its chance to end the poll before; a slot may not stay open for ever.
        while let Some(&(slot, at)) = self.asked.first().filter(|(slot, _)| *slot != due.slot) {
            self.asked.remove(0);
            self.chair.teller.figures.driver_fault("slot left open");
            self.chair.teller.missed(slot, 1, at, MissCause::MachineSilent).await?;
        }
        Ok(())
    }

    /// Does what the driver wants until it wants to wait.
    async fn drain(&mut self) -> Result<(), Break> {
        for _ in 0..MOST_OUTPUTS {
            match self.driver.poll() {
                Output::Wait(wake) => {
                    self.wake = wake;
                    return Ok(());
                }
                Output::Sample(sample) if self.samples.len() < MOST_SAMPLES => self.samples.push(sample),
                Output::Sample(_) => self.chair.teller.figures.driver_fault("too many samples"),
                Output::Trouble(trouble) => self.chair.teller.figures.trouble(trouble),
                Output::EndOfPoll(slot, outcome) => self.end_of_poll(slot, outcome).await?,
                Output::Send(request) if self.closing.is_some() => self.say_goodbye(&request).await,
                Output::Send(request) => {
                    self.line.send(&mut self.chair.gate, self.chair.teller.clock.tick(), &request).await?;
                    self.chair.teller.figures.sent(&self.chair.gate);
                }
            }
        }
        Err(LineError::Restless { port: self.chair.opener.path().to_owned(), outputs: MOST_OUTPUTS }.into())
    }

    async fn end_of_poll(&mut self, slot: Slot, outcome: Outcome) -> Result<(), Unheard> {
        let samples = std::mem::take(&mut self.samples);
        let teller = &self.chair.teller;
        let Some(place) = self.asked.iter().position(|(asked, _)| *asked == slot) else {
            teller.figures.driver_fault("slot nobody asked for");
            return Ok(());
        };
        let (_, due) = self.asked.remove(place);
        let cause = match outcome {
            Outcome::Answered => {
                self.chair.backoff.reset();
                let teller = &self.chair.teller;
                teller.figures.answered(slot);
                tracing::debug!(
                    chair = teller.chair.as_str(),
                    slot = slot.0,
                    values = samples.len(),
                    "poll answered"
                );
                return teller.tell(LineEvent::Answered { slot, samples }, teller.moment()).await;
            }
            Outcome::Silent => MissCause::MachineSilent,
            Outcome::Faulty(fault) => MissCause::AnswerFaulty(fault),
            Outcome::Closed => self.closing.unwrap_or(MissCause::LineDown),
        };
        teller.missed(slot, 1, due, cause).await
    }

    /// Lets the driver say goodbye where the port is still there, and leaves no slot open.
    async fn close(&mut self, ended: &Ended) -> Result<(), Unheard> {
        let cause = match ended {
            Ended::Stopped => MissCause::GatewayDown,
            Ended::Lost(_) => MissCause::LineDown,
        };
        self.closing = Some(cause);
        self.driver.handle_close(self.now());
        match self.drain().await {
            // A driver that does not come to rest now has been told of, or is told of when the port is opened again.
            Ok(()) | Err(Break::Line(_)) => {}
            Err(Break::Unheard) => return Err(Unheard),
        }
        for (slot, due) in std::mem::take(&mut self.asked) {
            self.chair.teller.missed(slot, 1, due, cause).await?;
        }
        Ok(())
    }

    /// A stop frame; a port that is gone needs none.
    async fn say_goodbye(&mut self, request: &Request) {
        if !self.line.is_open() {
            return;
        }
        let chair = self.chair.teller.chair.as_str();
        match self.line.send(&mut self.chair.gate, self.chair.teller.clock.tick(), request).await {
            Ok(()) => self.chair.teller.figures.sent(&self.chair.gate),
            Err(error) if error.may_pass() => {
                tracing::warn!(chair, reason = error.word(), "the stop frame did not go out: {error}");
            }
            Err(error) => {
                tracing::error!(chair, reason = error.word(), "the stop frame was refused: {error}")
            }
        }
    }

    fn now(&self) -> Tick {
        self.chair.teller.clock.tick()
    }
}
