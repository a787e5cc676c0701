//! The judge: which phase a chair is in, and when a treatment begins and ends.
//!
//! Waiting is counted in ticks, so a wall clock that jumps ends nothing. Only a restart has to ask the wall clock how long
//! it took; a clock that cannot say makes the judge lose track, and nothing is attributed on a guess.

use crate::model::time::Timestamp;
use crate::normalise::capture::{EndReason, Phase};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::time::Tick;
use std::time::Duration;

/// What was known of the running treatment before a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// When the treatment began.
    pub started: Timestamp,
    /// The machine's elapsed time when it was last seen, in minutes.
    pub elapsed: Option<Decimal>,
    /// When it was last seen.
    pub at: Timestamp,
}

/// What one poll says about the course of a treatment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// The in-treatment flag; `None` where the machine did not say.
    pub(super) flag: Option<bool>,
    /// Elapsed treatment time in minutes.
    pub(super) elapsed: Option<Decimal>,
    /// Whether the blood pump runs.
    pub(super) flow: Option<bool>,
    /// Whether the dialysate is hotter than any patient could stand.
    pub(super) hot: bool,
}

/// Which rule of the device map says that a treatment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// No `[treatment]`: no treatment is ever seen.
    None,
    /// The machine's own flag.
    Flag,
    /// Elapsed time that advances while blood flows.
    Elapsed,
}

/// What one poll changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruling {
    /// The running treatment is over.
    pub(super) ended: Option<EndReason>,
    /// A treatment began; after an end in the same ruling it is the next one.
    pub(super) started: bool,
}

/// Pump stopped and time standing still for this long end a treatment; shorter is a pause.
const HYSTERESIS: Duration = Duration::from_secs(15 * 60);
/// No treatment is longer.
const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// Machines print whole minutes, so time that advances may look still for a minute and a poll.
const COARSE: Duration = Duration::from_secs(90);
/// The machine's time may run ahead of ours by the minute it was rounded down by.
const ROUNDING: Duration = Duration::from_secs(60);
/// Within this long after its flag came on, a machine may still clear the total of the treatment before.
const CLEARING: Duration = Duration::from_secs(5 * 60);
/// Two polls running must agree before time or heat is believed.
const POLLS_TO_BELIEVE: u8 = 2;

/// Judges the phase of one chair, poll after poll.
#[derive(Debug)]
pub(super) struct Judge {
    rule: Rule,
    running: Option<Running>,
    elapsed: Option<Seen>,
    /// When elapsed time was last seen to advance.
    advanced: Option<Tick>,
    /// When blood was last seen to flow.
    flowed: Option<Tick>,
    /// Polls running with elapsed time advancing and blood flow.
    courses: u8,
    /// Polls running with hot dialysate.
    hot: u8,
    phase: Phase,
    last: Option<Tick>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    minutes: Decimal,
    at: Tick,
}

/// The treatment that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    /// Its age at `since`; more than zero only after a restart.
    age: Duration,
    since: Tick,
    /// Whether elapsed time was seen to advance in this treatment.
    advanced: bool,
    /// What a restart left to be confirmed by the machine.
    pending: Option<Resume>,
}

impl Judge {
    pub(super) fn new(rule: Rule, resume: Option<Resume>) -> Self {
        let running = resume.map(|_| Running {
            age: Duration::ZERO,
            since: Tick::ZERO,
            advanced: false,
            pending: resume,
        });
        let phase = if running.is_some() { Phase::Ending } else { Phase::Idle };
        Self {
            rule,
            running,
            elapsed: None,
            advanced: None,
            flowed: None,
            courses: 0,
            hot: 0,
            phase,
            last: None,
        }
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// The elapsed time last seen, in minutes; after a restart the one known before, until the machine says more.
    pub(super) fn elapsed(&self) -> Option<Decimal> {
        let pending = self.running.and_then(|running| running.pending);
        self.elapsed.map(|seen| seen.minutes).or_else(|| pending.and_then(|resume| resume.elapsed))
    }

    /// One treatment was ended and another begun by hand: its twelve hours start now.
    pub(super) fn restarted(&mut self, at: Timestamp) {
        let Some(running) = &mut self.running else { return };
        running.age = Duration::ZERO;
        if let Some(last) = self.last {
            running.since = last;
        }
        if let Some(resume) = &mut running.pending {
            resume.started = at;
        }
    }

    /// The wall clock was set by this many microseconds: what a restart left is told in times of the clock of now.
    pub(super) fn clock_stepped(&mut self, micros: i64) {
        if let Some(resume) = self.running.as_mut().and_then(|running| running.pending.as_mut()) {
            resume.started = resume.started.shifted(micros);
            resume.at = resume.at.shifted(micros);
        }
    }

    /// The treatment was ended by hand and no other begun: what the machine still shows begins one like any other.
    pub(super) const fn ended(&mut self) {
        if self.running.take().is_some() {
            self.courses = 0;
            self.phase = Phase::Idle;
        }
    }

    pub(super) fn step(&mut self, now: Tick, at: Timestamp, signals: Signals) -> Ruling {
        self.hot = if signals.hot { self.hot.saturating_add(1) } else { 0 };
        let ended = self.end(now, at, signals);
        if ended.is_some() {
            self.running = None;
            self.courses = 0;
        }
        self.watch(now, signals);
        let started = self.running.is_none() && self.starts(signals);
        if started {
            self.running = Some(Running {
                age: Duration::ZERO,
                since: now,
                advanced: self.rule == Rule::Elapsed,
                pending: None,
            });
        }
        self.phase = self.judged(now, signals);
        self.last = Some(now);
        Ruling { ended, started }
    }

    /// Why the running treatment is over, if it is.
    fn end(&mut self, now: Tick, at: Timestamp, signals: Signals) -> Option<EndReason> {
        let running = self.running?;
        if let Some(resume) = running.pending {
            return self.take_up(resume, now, at, signals);
        }
        if self.rule == Rule::Flag && signals.flag == Some(false) {
            return Some(EndReason::FlagOff);
        }
        if self.hot >= POLLS_TO_BELIEVE {
            return Some(EndReason::Rinse);
        }
        let age = running.age + now.since(running.since);
        if age >= LONGEST {
            return Some(EndReason::TooLong);
        }
        if let Some(reason) = self.lost(now, age, signals) {
            return Some(reason);
        }
        let still = |since: Option<Tick>| since.is_none_or(|since| now.since(since) >= HYSTERESIS);
        let stopped = signals.flow != Some(true) && still(self.flowed);
        let frozen = !self.advances(signals) && still(self.advanced);
        (self.rule == Rule::Elapsed && stopped && frozen).then_some(EndReason::Frozen)
    }

    /// Goes on with the treatment known before a restart, where the machine's elapsed time agrees with it.
    fn take_up(&mut self, resume: Resume, now: Tick, at: Timestamp, signals: Signals) -> Option<EndReason> {
        if self.rule == Rule::None {
            return Some(EndReason::LostTrack);
        }
        if self.rule == Rule::Flag && signals.flag == Some(false) {
            return Some(EndReason::FlagOff);
        }
        if at.since(resume.started) >= LONGEST {
            return Some(EndReason::TooLong);
        }
        let Some(before) = resume.elapsed else { return Some(EndReason::LostTrack) };
        // Without a word on the elapsed time the question stays open, and nothing is the patient's.
        let minutes = signals.elapsed?;
        let passed = at.since(resume.at);
        if !agrees(before, minutes, passed) {
            return Some(EndReason::LostTrack);
        }
        let advanced = minutes.compare(before).is_gt();
        self.running =
            Some(Running { age: at.since(resume.started), since: now, advanced: true, pending: None });
        self.elapsed = Some(Seen { minutes, at: now });
        let is_going_on = advanced && signals.flow == Some(true);
        self.advanced = (is_going_on || passed <= COARSE).then_some(now);
        // How long the pump has stood is not known; the hysteresis starts anew.
        self.flowed = Some(now);
        None
    }

    /// Whether what the machine says cannot be the treatment we knew at the last poll.
    fn lost(&mut self, now: Tick, age: Duration, signals: Signals) -> Option<EndReason> {
        let (Some(minutes), Some(seen)) = (signals.elapsed, self.elapsed) else {
            let silence = self.last.map_or(Duration::ZERO, |last| now.since(last));
            return (silence >= HYSTERESIS).then_some(EndReason::LostTrack);
        };
        if minutes.compare(seen.minutes).is_lt() {
            let clearing = self.running.is_some_and(|running| !running.advanced) && age <= CLEARING;
            return (!clearing).then_some(EndReason::ElapsedFell);
        }
        // Only over a silence can one treatment end and another get as far; from poll to poll a fall says it all.
        let silence = now.since(seen.at);
        (silence > COARSE && !agrees(seen.minutes, minutes, silence)).then_some(EndReason::LostTrack)
    }

    /// Remembers what this poll says about time and flow.
    fn watch(&mut self, now: Tick, signals: Signals) {
        if signals.flow == Some(true) {
            self.flowed = Some(now);
        }
        if self.advances(signals) {
            // Over a silence it may have advanced and stopped again; then the pump stands too.
            let is_seen = self.elapsed.is_some_and(|seen| now.since(seen.at) <= COARSE);
            if is_seen || signals.flow == Some(true) {
                self.advanced = Some(now);
            }
            if let Some(running) = &mut self.running {
                running.advanced = true;
            }
        } else if self
            .elapsed
            .zip(signals.elapsed)
            .is_some_and(|(seen, now)| now.compare(seen.minutes).is_lt())
        {
            self.advanced = None;
        }
        if let Some(minutes) = signals.elapsed {
            self.elapsed = Some(Seen { minutes, at: now });
        }
        let course = signals.flow == Some(true) && self.is_advancing(now);
        self.courses = if course { self.courses.saturating_add(1) } else { 0 };
    }

    fn starts(&self, signals: Signals) -> bool {
        if self.hot >= POLLS_TO_BELIEVE {
            return false;
        }
        match self.rule {
            Rule::None => false,
            Rule::Flag => signals.flag == Some(true),
            Rule::Elapsed => self.courses >= POLLS_TO_BELIEVE,
        }
    }

    fn judged(&self, now: Tick, signals: Signals) -> Phase {
        match self.running {
            Some(running) if running.pending.is_some() => Phase::Ending,
            Some(_) if self.rule == Rule::Flag || self.is_advancing(now) => Phase::Treating,
            Some(_) => Phase::Ending,
            None if self.hot >= POLLS_TO_BELIEVE => Phase::Rinsing,
            None if signals.flow == Some(true) => Phase::Preparing,
            None => Phase::Idle,
        }
    }

    /// Whether this very poll shows more elapsed time than the one before.
    fn advances(&self, signals: Signals) -> bool {
        self.elapsed.zip(signals.elapsed).is_some_and(|(seen, now)| now.compare(seen.minutes).is_gt())
    }

    /// Whether elapsed time advanced so recently that it may be taken to go on.
    fn is_advancing(&self, now: Tick) -> bool {
        self.advanced.is_some_and(|advanced| now.since(advanced) <= COARSE)
    }
}

/// Whether `minutes` can be the same treatment that showed `before` when `passed` had not passed yet: not less, not faster
/// than time, and no pause longer than the hysteresis.
fn agrees(before: Decimal, minutes: Decimal, passed: Duration) -> bool {
    let (Some(before), Some(now)) = (micros(before), micros(minutes)) else { return false };
    let micros = |duration: Duration| i128::try_from(duration.as_micros()).unwrap_or(i128::MAX);
    let ran = now - before;
    ran >= 0 && ran <= micros(passed + ROUNDING) && ran + micros(HYSTERESIS) >= micros(passed)
}

/// Minutes in microseconds.
fn micros(minutes: Decimal) -> Option<i128> {
    let unit = 10_i128.checked_pow(u32::from(minutes.scale()))?;
    Some(i128::from(minutes.mantissa()).checked_mul(60_000_000)? / unit)
}

#[cfg(test)]
mod tests;
