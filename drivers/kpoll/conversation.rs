//! The polling dialogue: one request, one answer, and what to make of everything else. Knows no byte offsets.

use crate::kit::driver::{Codec, Driver, FrameFault, Outcome, Output, Request, Step, Trouble};
use crate::kit::time::{Slot, Tick};
use crate::kpoll::codec::{Frame, Kpoll};
use crate::kpoll::received::Received;
use alloc::collections::VecDeque;
use core::time::Duration;

/// One conversation with one machine.
#[derive(Debug)]
pub(crate) struct Conversation {
    codec: Kpoll,
    ask: Request,
    quiet_time: Duration,
    /// What came and is no whole frame yet.
    received: Received,
    state: State,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The port is closed.
    Shut,
    /// Nothing is asked.
    Idle,
    /// A poll waits for its answer.
    Asked {
        slot: Slot,
        deadline: Tick,
        /// The most telling fault of what came so far.
        heard: Option<FrameFault>,
    },
}

impl Conversation {
    pub(crate) fn new(codec: Kpoll, ask: Request, quiet_time: Duration) -> Self {
        Self {
            codec,
            ask,
            quiet_time,
            received: Received::new(),
            state: State::Shut,
            outputs: VecDeque::new(),
        }
    }

    /// Reads every frame that is whole by now.
    fn digest(&mut self) {
        let mut at = 0;
        loop {
            let rest = self.received.from(at);
            match self.codec.decode(rest) {
                Step::NeedMore => break,
                Step::Junk { used, why } => {
                    at += used.get();
                    note(&mut self.state, &mut self.outputs, why, used.get());
                }
                Step::Frame { frame, used } => {
                    at += used.get();
                    take(&mut self.state, &mut self.outputs, frame, used.get());
                }
            }
        }
        self.received.drop_front(at);
    }

    /// Gives up waiting for the rest of what has begun; a frame that stands behind it is still found.
    fn give_up(&mut self) {
        while let Some((used, why)) = self.codec.give_up(self.received.whole()) {
            note(&mut self.state, &mut self.outputs, why, used.get());
            self.received.drop_front(used.get());
            self.digest();
        }
        self.received.clear();
    }

    /// Ends the poll in progress, if there is one, with what was heard of it.
    fn end_poll(&mut self) {
        if let State::Asked { slot, heard, .. } = self.state {
            self.state = State::Idle;
            self.outputs.push_back(Output::EndOfPoll(slot, heard.map_or(Outcome::Silent, Outcome::Faulty)));
        }
    }

    fn expire(&mut self, now: Tick) {
        if let State::Asked { deadline, .. } = self.state
            && now >= deadline
        {
            self.give_up();
            self.end_poll();
        }
    }
}

impl Driver for Conversation {
    fn handle_open(&mut self, now: Tick) {
        // A port that is opened anew was closed, whether that was told or not: no slot stays open.
        self.handle_close(now);
        self.state = State::Idle;
    }

    fn handle_poll_due(&mut self, now: Tick, slot: Slot) {
        self.expire(now);
        match self.state {
            State::Shut => {
                self.outputs.push_back(Output::EndOfPoll(slot, Outcome::Closed));
                return;
            }
            State::Asked { .. } => {
                self.outputs.push_back(Output::Trouble(Trouble::Overrun));
                self.give_up();
                self.end_poll();
            }
            // An answer counts only when its first byte came after the request.
            State::Idle => self.give_up(),
        }
        self.state = State::Asked { slot, deadline: now.after(self.quiet_time), heard: None };
        self.outputs.push_back(Output::Send(self.ask.clone()));
    }

    fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        self.expire(now);
        if self.state == State::Shut {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.received.take_in(rest);
            self.digest();
            if self.received.is_full() {
                // No frame is as long; whatever it is, it is not waited for.
                self.give_up();
            }
        }
    }

    fn handle_tick(&mut self, now: Tick) {
        self.expire(now);
    }

    fn handle_close(&mut self, _now: Tick) {
        if let State::Asked { slot, .. } = self.state {
            self.outputs.push_back(Output::EndOfPoll(slot, Outcome::Closed));
        }
        self.received.clear();
        self.state = State::Shut;
    }

    fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or(match self.state {
            State::Asked { deadline, .. } => Output::Wait(Some(deadline)),
            State::Idle | State::Shut => Output::Wait(None),
        })
    }
}

/// Gives out the samples of an answer, all or none.
fn take(state: &mut State, outputs: &mut VecDeque<Output>, frame: Frame<'_>, bytes: usize) {
    let State::Asked { slot, .. } = *state else {
        outputs.push_back(Output::Trouble(Trouble::Unexpected));
        return;
    };
    let before = outputs.len();
    for sample in frame.samples() {
        match sample {
            Ok(sample) => outputs.push_back(Output::Sample(sample)),
            Err(why) => {
                outputs.truncate(before);
                note(state, outputs, why, bytes);
                return;
            }
        }
    }
    outputs.push_back(Output::EndOfPoll(slot, Outcome::Answered));
    *state = State::Idle;
}

/// Counts bytes that were dropped. One entry per reason and drain, so that noise cannot grow the queue.
fn note(state: &mut State, outputs: &mut VecDeque<Output>, why: FrameFault, dropped: usize) {
    if let State::Asked { heard, .. } = state
        && heard.is_none_or(|known| telling(known) < telling(why))
    {
        *heard = Some(why);
    }
    let known = outputs.iter_mut().find_map(|output| match output {
        Output::Trouble(Trouble::Junk { why: known, bytes }) if *known == why => Some(bytes),
        _ => None,
    });
    match known {
        Some(bytes) => *bytes = bytes.saturating_add(dropped),
        None => outputs.push_back(Output::Trouble(Trouble::Junk { why, bytes: dropped })),
    }
}

/// How much a fault says about why a poll failed: a frame of the wrong table says more than noise around it.
const fn telling(why: FrameFault) -> u8 {
    match why {
        FrameFault::Leftover => 0,
        FrameFault::Cut => 1,
        FrameFault::Length => 2,
        FrameFault::Check => 3,
        FrameFault::Walk => 4,
        FrameFault::Value => 5,
    }
}
