//! One line, one driver and one clock in one loop: the only place where a driver meets the world.
//!
//! [`converse`] owns the schedule, the opening and the reopening; the driver owns the dialogue. Nothing here knows a
//! protocol, and nothing here can send a byte that is not in the model's list.

pub mod backoff;
pub mod event;
pub mod figures;
pub mod schedule;
mod talk;

pub use event::{ChairEvent, LineEvent, MissCause, Moment};
pub use figures::{Figures, LineFigures};

use crate::clock::Clock;
use crate::line::{Gate, LineError, Port, SerialPort, port};
use crate::model::name::ChairName;
use crate::poll::backoff::BackOff;
use crate::poll::figures::Resumed;
use crate::poll::schedule::{Due, Schedule};
use chairside_drivers::kit::driver::{LineSettings, Model};
use chairside_drivers::kit::time::{Slot, Tick};
use std::future::Future;
use std::mem::Discriminant;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use talk::Ended;
use tokio::sync::mpsc;

/// Opens a chair's port, as often as it is asked to.
pub trait Opener: Send {
    /// What it opens.
    type Port: Port;
    /// The port's name, for errors.
    fn path(&self) -> &Path;
    /// Opens it.
    ///
    /// # Errors
    /// [`LineError`], saying what to do.
    fn open(&mut self) -> Result<Self::Port, LineError>;
}

/// Opens a tty or pseudo-terminal by its path; found again under the same path after a cable was out.
#[derive(Clone, Debug)]
pub struct Tty {
    /// Where.
    pub path: PathBuf,
    /// How it is set.
    pub settings: LineSettings,
}

impl Opener for Tty {
    type Port = SerialPort;

    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&mut self) -> Result<SerialPort, LineError> {
        port::open(&self.path, self.settings)
    }
}

/// One chair's conversation, before it starts.
#[derive(Debug)]
pub struct Conversation<O> {
    /// The chair.
    pub chair: ChairName,
    /// Its machine's model.
    pub model: Arc<dyn Model>,
    /// The poll interval.
    pub every: Duration,
    /// How to get at its port.
    pub opener: O,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where events go, [`event::EVENTS`] deep; `converse` ends when its other end is gone.
    pub events: mpsc::Sender<ChairEvent>,
    /// Where figures are counted.
    pub figures: Arc<Figures>,
}

/// Talks to one machine until `stop` completes: opens, asks, listens, opens again. Slots are counted from the first
/// moment on, whether the port is there or not; a second call with the same figures goes on with the slots of the first.
pub async fn converse<O: Opener>(conversation: Conversation<O>, stop: impl Future<Output = ()> + Send) {
    let stop: Stop<'_> = &mut std::pin::pin!(stop);
    let Conversation { chair, model, every, opener, clock, events, figures } = conversation;
    let Resumed { schedule, open } = figures.resume(clock.tick(), every);
    let gate = Gate::new(model.requests(), every);
    let teller = Teller { chair, clock, events, figures };
    let mut chair = Chair { model, opener, schedule, gate, teller, backoff: BackOff::new(), told: None };
    for (slot, due) in open {
        if chair.teller.missed(slot, 1, due, MissCause::GatewayDown).await.is_err() {
            return;
        }
    }
    // An error here only says that nobody listens to the events any more: the gateway is stopping.
    let _ = chair.converse(stop).await;
}

type Stop<'a> = &'a mut (dyn Future<Output = ()> + Send + Unpin);

/// Nobody listens to the events any more.
#[derive(Debug)]
struct Unheard;

struct Chair<O> {
    model: Arc<dyn Model>,
    opener: O,
    schedule: Schedule,
    gate: Gate,
    teller: Teller,
    backoff: BackOff,
    /// The reason of the last `Down`, so that a port that stays away is told once and not at each try.
    told: Option<Discriminant<LineError>>,
}

impl<O: Opener> Chair<O> {
    async fn converse(&mut self, stop: Stop<'_>) -> Result<(), Unheard> {
        loop {
            let error = match self.opener.open() {
                Ok(port) => match self.talk(port, stop).await? {
                    Ended::Stopped => return Ok(()),
                    Ended::Lost(error) => error,
                },
                Err(error) => error,
            };
            let wait = error.may_pass().then(|| self.backoff.wait(backoff::random()));
            self.tell_down(error).await?;
            let until = wait.map(|wait| self.teller.clock.tick().after(wait));
            if let Next::Stop = self.sit_out(until, stop).await? {
                return Ok(());
            }
        }
    }

    /// Waits until the port is tried again (for ever, where that cannot help) and counts the slots that pass.
    async fn sit_out(&mut self, until: Option<Tick>, stop: Stop<'_>) -> Result<Next, Unheard> {
        loop {
            let now = self.teller.clock.tick();
            if let Some(due) = self.schedule.take(now) {
                self.miss_skipped(due, MissCause::LineDown).await?;
                self.teller.missed(due.slot, 1, due.at, MissCause::LineDown).await?;
            }
            if until.is_some_and(|until| until <= now) {
                return Ok(Next::Open);
            }
            let wake = until.map_or(self.schedule.next_due(), |until| until.min(self.schedule.next_due()));
            tokio::select! {
                biased;
                () = &mut *stop => return Ok(Next::Stop),
                () = sleep(now, wake) => {}
            }
        }
    }

    async fn miss_skipped(&self, due: Due, cause: MissCause) -> Result<(), Unheard> {
        match due.skipped {
            Some(skipped) => self.teller.missed(skipped.first, skipped.slots, skipped.at, cause).await,
            None => Ok(()),
        }
    }

    async fn tell_down(&mut self, why: LineError) -> Result<(), Unheard> {
        let reason = std::mem::discriminant(&why);
        if self.told == Some(reason) {
            return Ok(());
        }
        self.told = Some(reason);
        let chair = self.teller.chair.as_str();
        if why.may_pass() {
            tracing::warn!(chair, reason = why.word(), "line down: {why}");
        } else {
            tracing::error!(chair, reason = why.word(), "line closed for good: {why}");
        }
        self.teller.tell(LineEvent::Down { why }, self.teller.moment()).await
    }
}

enum Next {
    Open,
    Stop,
}

/// Tells and counts.
#[derive(Debug)]
struct Teller {
    chair: ChairName,
    clock: Arc<dyn Clock>,
    events: mpsc::Sender<ChairEvent>,
    figures: Arc<Figures>,
}

impl Teller {
    fn moment(&self) -> Moment {
        let (at, clock) = self.clock.now();
        Moment { at, tick: self.clock.tick(), clock }
    }

    /// The moment `tick` was, told from now.
    fn moment_of(&self, tick: Tick) -> Moment {
        let now = self.moment();
        let ago = i64::try_from(now.tick.since(tick).as_micros()).unwrap_or(i64::MAX);
        let at = crate::model::time::Timestamp::from_micros(now.at.as_micros().saturating_sub(ago));
        Moment { at, tick, clock: now.clock }
    }

    async fn missed(&self, slot: Slot, slots: u32, due: Tick, cause: MissCause) -> Result<(), Unheard> {
        self.figures.missed(cause, slot, slots);
        tracing::debug!(
            chair = self.chair.as_str(),
            slot = slot.0,
            slots,
            cause = cause.word(),
            "poll missed"
        );
        self.tell(LineEvent::Missed { slot, slots, cause }, self.moment_of(due)).await
    }

    async fn tell(&self, event: LineEvent, moment: Moment) -> Result<(), Unheard> {
        let event = ChairEvent { chair: self.chair.clone(), event, moment };
        self.events.send(event).await.map_err(|_| Unheard)
    }
}

fn sleep(now: Tick, until: Tick) -> tokio::time::Sleep {
    tokio::time::sleep(until.since(now))
}

#[cfg(test)]
mod tests;
