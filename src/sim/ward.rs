//! Simulated machines on pseudo-terminals, and the truth about them: every screen that left on a wire, and who sat there.

use crate::clock::Clock;
use crate::model::time::Timestamp;
use crate::sim::terminal::Terminal;
use chairside_drivers::kit::driver::{ChannelId, Model, Reading};
use chairside_drivers::kit::simulator::{Act, Machine, Transmission};
use chairside_drivers::kit::time::Tick;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A machine lives at most this long after it was last asked: a computer that falls behind slows the ward down instead
/// of letting treatments jump.
const LEASH: Duration = Duration::from_secs(30);
/// Where a machine shows whole minutes, the first one would take too long to see.
const HEAD_START: Duration = Duration::from_secs(57);

/// A simulated patient: a number, so that nobody can mistake one for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Patient(pub u16);

impl Patient {
    /// What the nurse types.
    #[must_use]
    pub fn record_number(self) -> String {
        format!("HTEST-{:05}", self.0)
    }
}

/// One screen that left on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Just before its last byte left.
    pub at: Timestamp,
    /// What it showed, in the machine's unit.
    pub screen: Vec<(ChannelId, Reading)>,
    /// Whose treatment it showed: counted per chair from one, with the patient.
    pub treatment: Option<(u32, Patient)>,
}

/// Something that was done at a chair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// When.
    pub at: Timestamp,
    /// What.
    pub act: Act,
    /// In whose treatment.
    pub treatment: Option<(u32, Patient)>,
}

/// The truth about one chair.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Screens, in the order in which they left.
    pub shown: Vec<Shown>,
    /// Acts, in the order in which they were done.
    pub done: Vec<Done>,
    /// Answers that did not reach the wire whole.
    pub torn: u64,
}

/// One machine of the ward.
#[derive(Debug)]
pub struct Bed {
    /// The name of its port.
    pub port: PathBuf,
    ledger: Arc<Mutex<Ledger>>,
    orders: mpsc::UnboundedSender<Order>,
    life: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Act(Act),
    Start(Patient),
    End,
    Pull,
    Plug,
}

impl Bed {
    /// Switches a machine on. It lives `speed` times as fast as the clock.
    ///
    /// # Errors
    /// What the system says about its pseudo-terminal.
    pub fn new(
        model: &dyn Model,
        seed: u64,
        port: &Path,
        speed: u32,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let terminal = Terminal::plug(port)?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        // Orders come from a scenario with a handful of cues.
        let (orders, received) = mpsc::unbounded_channel();
        let life = Life {
            machine: model.machine(seed),
            terminal: Some(terminal),
            port: port.to_owned(),
            time: MachineClock::new(clock.tick(), speed),
            clock,
            ledger: ledger.clone(),
            treatments: 0,
            patient: None,
        };
        let life = tokio::spawn(life.live(received));
        Ok(Self { port: port.to_owned(), ledger, orders, life })
    }

    /// A patient takes the chair and the treatment starts.
    pub fn start(&self, patient: Patient) {
        self.order(Order::Start(patient));
    }

    /// The treatment ends, the machine is rinsed, the patient leaves.
    pub fn end(&self) {
        self.order(Order::End);
    }

    /// Somebody does something at the machine.
    pub fn act(&self, act: Act) {
        self.order(Order::Act(act));
    }

    /// Pulls the cable out.
    pub fn pull(&self) {
        self.order(Order::Pull);
    }

    /// Plugs the cable in again.
    pub fn plug(&self) {
        self.order(Order::Plug);
    }

    /// The truth so far, to be looked at for a moment.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn order(&self, order: Order) {
        // A machine only stops listening when its ward is dropped.
        let _ = self.orders.send(order);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.life.abort();
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One machine's life.
struct Life {
    machine: Box<dyn Machine>,
    /// `None` while the cable is out.
    terminal: Option<Terminal>,
    port: PathBuf,
    time: MachineClock,
    clock: Arc<dyn Clock>,
    ledger: Arc<Mutex<Ledger>>,
    treatments: u32,
    patient: Option<Patient>,
}

impl Life {
    async fn live(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut buffer = [0; 256];
        loop {
            let now = self.time.read(self.clock.tick());
            while let Some(transmission) = self.machine.transmit(now) {
                self.send(transmission);
            }
            let wake = self.machine.wake().map(|wake| self.time.wait(wake));
            let pause = tokio::time::sleep(wake.unwrap_or_default());
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                read = hear(self.terminal.as_ref(), &mut buffer) => {
                    let Ok(count) = read else {
                        self.terminal = None;
                        continue;
                    };
                    let now = self.time.asked(self.clock.tick());
                    self.machine.handle_bytes(now, buffer.get(..count).unwrap_or_default());
                }
                () = pause, if wake.is_some() => {}
            }
        }
    }

    fn send(&mut self, transmission: Transmission) {
        let (at, _) = self.clock.now();
        let Some(terminal) = &self.terminal else { return };
        let written = terminal.write(&transmission.bytes);
        let mut ledger = lock(&self.ledger);
        if written < transmission.bytes.len() {
            ledger.torn += 1;
        } else if let Some(screen) = transmission.screen {
            let screen = screen.into_iter().collect();
            ledger.shown.push(Shown { at, screen, treatment: self.treatment() });
        }
    }

    fn obey(&mut self, order: Order) {
        let now = self.time.read(self.clock.tick());
        match order {
            Order::Act(act) => self.act(now, act),
            Order::Start(patient) => {
                self.treatments += 1;
                self.patient = Some(patient);
                self.act(now, Act::StartTreatment);
                self.machine.advance(self.time.skip(HEAD_START));
            }
            Order::End => {
                self.act(now, Act::EndTreatment);
                self.act(now, Act::Rinse);
                self.patient = None;
            }
            Order::Pull => self.terminal = None,
            Order::Plug => match Terminal::plug(&self.port) {
                Ok(terminal) => self.terminal = Some(terminal),
                Err(error) => tracing::warn!(%error, "the simulated cable could not be plugged in"),
            },
        }
    }

    fn act(&mut self, now: Tick, act: Act) {
        let (at, _) = self.clock.now();
        self.machine.act(now, act);
        lock(&self.ledger).done.push(Done { at, act, treatment: self.treatment() });
    }

    fn treatment(&self) -> Option<(u32, Patient)> {
        self.patient.map(|patient| (self.treatments, patient))
    }
}

async fn hear(terminal: Option<&Terminal>, buffer: &mut [u8]) -> io::Result<usize> {
    match terminal {
        Some(terminal) => terminal.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// A machine's own time: the clock's, times the speed, on a leash.
#[derive(Debug)]
struct MachineClock {
    speed: u32,
    now: Tick,
    read: Tick,
    leash: Tick,
}

impl MachineClock {
    fn new(read: Tick, speed: u32) -> Self {
        Self { speed: speed.max(1), now: Tick::ZERO, read, leash: Tick::ZERO.after(LEASH) }
    }

    fn read(&mut self, real: Tick) -> Tick {
        let passed = real.since(self.read).saturating_mul(self.speed);
        self.read = real;
        self.now = self.now.after(passed).min(self.leash).max(self.now);
        self.now
    }

    /// The machine was asked, so it may live on.
    fn asked(&mut self, real: Tick) -> Tick {
        let now = self.read(real);
        self.leash = now.after(LEASH);
        now
    }

    fn skip(&mut self, ahead: Duration) -> Tick {
        self.now = self.now.after(ahead);
        self.leash = self.leash.after(ahead);
        self.now
    }

    /// How long to wait for the machine's `wake`.
    fn wait(&self, wake: Tick) -> Duration {
        wake.since(self.now) / self.speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::model::name::ChairName;
    use crate::poll::{ChairEvent, Conversation, Figures, LineEvent, Tty, converse, event};

    fn seconds(seconds: u64) -> Tick {
        Tick::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_machine_that_is_not_asked_lives_no_longer_than_its_leash() {
        let mut time = MachineClock::new(seconds(100), 20);
        assert_eq!(time.read(seconds(101)), seconds(20));
        assert_eq!(time.read(seconds(500)), seconds(30));
        assert_eq!(time.asked(seconds(500)), seconds(30));
        assert_eq!(time.read(seconds(501)), seconds(50));
        assert_eq!(time.wait(seconds(60)), Duration::from_millis(500));
    }

    /// Every model on a real pseudo-terminal, asked by the daemon's own conversation, its cable pulled once.
    #[tokio::test]
    async fn what_the_screens_showed_is_what_the_conversation_tells_before_and_after_a_pulled_cable() {
        let mut models = tokio::task::JoinSet::new();
        for entry in chairside_drivers::MODELS {
            models.spawn(tells_what_it_shows((entry.build)(&Default::default()).unwrap().into()));
        }
        while let Some(told) = models.join_next().await {
            told.unwrap();
        }
    }

    async fn tells_what_it_shows(model: Arc<dyn Model>) {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
        let port = folder.path().join("port");
        let bed = Bed::new(model.as_ref(), 7, &port, 500, clock.clone()).unwrap();
        bed.start(Patient(1));
        let (events, mut told) = mpsc::channel(event::EVENTS);
        let opener = Tty { path: port, settings: model.line() };
        let conversation = tokio::spawn(converse(
            Conversation {
                chair: ChairName::new("chair-1").unwrap(),
                model: model.clone(),
                every: Duration::from_millis(5),
                opener,
                clock,
                events,
                figures: Arc::new(Figures::default()),
            },
            std::future::pending(),
        ));
        let mut answers = answers(&mut told, 20).await;
        bed.pull();
        while !matches!(told.recv().await.unwrap().event, LineEvent::Down { .. }) {}
        bed.plug();
        answers.extend(self::answers(&mut told, 20).await);
        conversation.abort();
        let ledger = bed.ledger();
        let screens: Vec<_> = ledger.shown.iter().map(|shown| &shown.screen).collect();
        for answer in &answers {
            assert!(screens.contains(&answer), "{}: a screen that was never shown", model.id());
        }
    }

    /// The samples of the next polls, in the order of a screen.
    async fn answers(told: &mut mpsc::Receiver<ChairEvent>, count: usize) -> Vec<Vec<(ChannelId, Reading)>> {
        let mut answers = Vec::new();
        while answers.len() < count {
            if let LineEvent::Answered { samples, .. } = told.recv().await.unwrap().event {
                let mut answer: Vec<_> =
                    samples.into_iter().map(|sample| (sample.channel, sample.reading)).collect();
                answer.sort_by(|one, other| one.0.cmp(&other.0));
                answers.push(answer);
            }
        }
        answers
    }
}
