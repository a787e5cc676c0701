//! A driver, a cable and a simulated machine in virtual time, polled as the daemon polls.

use chairside_drivers::Entry;
use chairside_drivers::Options;
use chairside_drivers::kit::driver::{Driver, Model, Outcome, Output, Sample, Trouble};
use chairside_drivers::kit::noise::{Cable, Noise};
use chairside_drivers::kit::simulator::{Act, Machine, Screen};
use chairside_drivers::kit::time::{Slot, Tick};
use std::collections::BTreeMap;
use std::time::Duration;

/// From one poll to the next.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct Bed {
    model: Box<dyn Model>,
    driver: Box<dyn Driver>,
    machine: Box<dyn Machine>,
    pub(crate) cable: Cable,
    now: Tick,
    slot: u64,
    deadline: Option<Tick>,
    requests_sent: usize,
    log: Vec<Output>,
    /// Of the poll in progress.
    samples: Vec<Sample>,
    screens: Vec<Screen>,
    ended: Option<(Outcome, Tick)>,
}

/// One poll: how it ended, and what the machine's screen showed when it answered.
pub(crate) struct Poll {
    pub(crate) outcome: Outcome,
    pub(crate) samples: Vec<Sample>,
    pub(crate) took: Duration,
    screens: Vec<Screen>,
}

impl Bed {
    pub(crate) fn new(entry: &Entry, noise: Noise, seed: u64) -> Self {
        let model = (entry.build)(&Options::new()).unwrap();
        let mut bed = Self {
            driver: model.driver(),
            machine: model.machine(seed),
            cable: Cable::new(model.line(), noise, seed),
            model,
            now: Tick::from_micros(1_000_000),
            slot: 0,
            deadline: None,
            requests_sent: 0,
            log: Vec::new(),
            samples: Vec::new(),
            screens: Vec::new(),
            ended: None,
        };
        bed.driver.handle_open(bed.now);
        bed.pump();
        bed
    }

    /// A machine three quarters of an hour into a treatment, with a blood pressure taken.
    pub(crate) fn treating(entry: &Entry, noise: Noise, seed: u64) -> Self {
        let mut bed = Self::new(entry, noise, seed);
        bed.act(Act::StartTreatment);
        bed.act(Act::MeasureBloodPressure { systolic: 131, diastolic: 76, pulse: 68 });
        bed.now = bed.now.after(Duration::from_secs(45 * 60));
        bed.machine.advance(bed.now);
        bed
    }

    pub(crate) fn act(&mut self, act: Act) {
        self.machine.act(self.now, act);
    }

    /// One whole interval: a poll, its answer and the quiet behind it.
    pub(crate) fn poll(&mut self) -> Poll {
        let start = self.ask();
        self.run_until(start.after(INTERVAL));
        self.end(start)
    }

    /// A poll whose port closes while the answer is on its way.
    pub(crate) fn poll_and_close(&mut self) -> Poll {
        let start = self.ask();
        self.run_until(start.after(Duration::from_millis(110)));
        self.driver.handle_close(self.now);
        self.drain();
        self.run_until(start.after(INTERVAL));
        self.end(start)
    }

    /// A poll whose answer does not come, because the cable is out, and the next one half a second behind it.
    pub(crate) fn poll_too_early(&mut self) -> Poll {
        self.cable.pull_after(0);
        let start = self.ask();
        self.run_until(start.after(Duration::from_millis(500)));
        self.cable.plug();
        assert!(self.ended.is_none());
        self.driver.handle_poll_due(self.now, Slot(self.slot + 1));
        assert_eq!(self.driver.poll(), Output::Trouble(Trouble::Overrun));
        assert_eq!(self.driver.poll(), Output::EndOfPoll(Slot(self.slot), Outcome::Silent));
        self.slot += 1;
        self.run_until(start.after(INTERVAL));
        self.end(start)
    }

    /// The daemon has closed the port and opened it again.
    pub(crate) fn reopen(&mut self) {
        self.driver.handle_close(self.now);
        self.drain();
        self.driver.handle_open(self.now);
        self.drain();
    }

    /// The bytes of the longest of a few answers.
    pub(crate) fn longest_answer(&mut self) -> u64 {
        let length = |bed: &mut Self| {
            let before = bed.cable.passed();
            bed.poll();
            bed.cable.passed() - before
        };
        (0..8).map(|_| length(self)).max().unwrap()
    }

    pub(crate) fn requests_sent(&self) -> usize {
        self.requests_sent
    }

    /// Everything the driver has ever said.
    pub(crate) fn into_log(self) -> Vec<Output> {
        self.log
    }

    fn ask(&mut self) -> Tick {
        assert!(self.samples.is_empty() && self.ended.is_none(), "the last poll said more after its end");
        self.screens.clear();
        self.driver.handle_poll_due(self.now, Slot(self.slot));
        self.pump();
        self.now
    }

    fn end(&mut self, start: Tick) -> Poll {
        self.slot += 1;
        self.cable.forget_faults();
        let (outcome, at) = self.ended.take().expect("every poll ends within its interval");
        let samples = std::mem::take(&mut self.samples);
        Poll { outcome, samples, took: at.since(start), screens: std::mem::take(&mut self.screens) }
    }

    fn run_until(&mut self, end: Tick) {
        self.pump();
        loop {
            let wakes = [self.deadline, self.machine.wake(), self.cable.wake()];
            let Some(next) = wakes.into_iter().flatten().min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if self.deadline.is_some_and(|deadline| deadline <= self.now) {
                self.driver.handle_tick(self.now);
                self.drain();
                assert!(
                    self.deadline.is_none_or(|deadline| deadline > self.now),
                    "the driver waits for the past"
                );
            }
            self.pump();
        }
        self.now = end;
        self.machine.advance(end);
    }

    /// Moves bytes until nothing moves at this instant.
    fn pump(&mut self) {
        self.drain();
        loop {
            if let Some(sent) = self.machine.transmit(self.now) {
                self.screens.extend(sent.screen);
                self.cable.from_machine(self.now, &sent.bytes);
            } else if let Some(bytes) = self.cable.at_machine(self.now) {
                self.machine.handle_bytes(self.now, &bytes);
            } else if let Some(bytes) = self.cable.at_gateway(self.now) {
                self.driver.handle_bytes(self.now, &bytes);
                self.drain();
            } else {
                return;
            }
        }
    }

    fn drain(&mut self) {
        for _ in 0..10_000 {
            let output = self.driver.poll();
            match &output {
                Output::Wait(deadline) => {
                    self.deadline = *deadline;
                    return;
                }
                Output::Sample(sample) => self.samples.push(sample.clone()),
                Output::EndOfPoll(slot, outcome) => {
                    assert_eq!(*slot, Slot(self.slot));
                    assert!(self.ended.replace((*outcome, self.now)).is_none(), "a poll ended twice");
                }
                Output::Send(request) => {
                    let listed = self.model.requests().iter().any(|spec| spec.request() == *request);
                    assert!(listed, "a request outside the list was sent");
                    self.requests_sent += 1;
                    self.cable.from_gateway(self.now, request.bytes());
                }
                Output::Trouble(_) => {}
            }
            self.log.push(output);
        }
        panic!("the driver never waits");
    }
}

impl Poll {
    /// Whether the samples are what the screens showed, all of it and nothing else.
    pub(crate) fn is_right(&self) -> bool {
        let samples: BTreeMap<_, _> =
            self.samples.iter().map(|sample| (&sample.channel, &sample.reading)).collect();
        let shown: BTreeMap<_, _> = self.screens.iter().flatten().collect();
        samples.len() == self.samples.len() && samples == shown
    }

    /// How many channels the screens showed.
    pub(crate) fn shown(&self) -> usize {
        self.screens.iter().flatten().collect::<BTreeMap<_, _>>().len()
    }

    #[track_caller]
    pub(crate) fn must_be_right(&self, entry: &Entry) {
        assert_eq!(self.outcome, Outcome::Answered, "{}", entry.id);
        assert!(self.is_right(), "{}: {:?} but the screen showed {:?}", entry.id, self.samples, self.screens);
    }
}
