//! Alarm edges out of alarm digits: one edge when an alarm rises, one when it falls, and one count where it chatters.
//!
//! A fall is held back for half a minute: an alarm raised again by then never went away. A fall that stands goes out with
//! the time it was seen at, not the time it was believed at.

use crate::model::alarm::{Alarm, AlarmEdge, Phase as Edge};
use crate::normalise::capture::{Capture, Finding, Origin, Phase};
use chairside_drivers::kit::time::Tick;
use std::collections::VecDeque;
use std::time::Duration;

/// Raised again within this long, it is one alarm.
const SAME_ALARM: Duration = Duration::from_secs(30);
/// More edges than [`EDGES_TOLD`] within this long are told as one count.
const CHATTER: Duration = Duration::from_secs(10 * 60);
const EDGES_TOLD: usize = 6;

/// When and in which phase something was seen.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub(super) origin: Origin,
    pub(super) phase: Phase,
}

/// One alarm of one chair.
#[derive(Debug)]
pub(super) struct Watch {
    alarm: Alarm,
    /// The raising that is on, or whose fall is held back.
    raised: Option<Raised>,
    /// Since when it looks cleared.
    fell: Option<Stamp>,
    /// The raising the outside was told of, and not yet of its end.
    told: Option<Raised>,
    /// When the last edges were told.
    edges: VecDeque<Tick>,
    chatter: Option<Chatter>,
    last_occurrence: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raised {
    occurrence: u32,
    raw: u32,
}

/// A stretch in which edges are counted instead of told.
#[derive(Debug)]
struct Chatter {
    began: Stamp,
    edges: u32,
    /// When the raising that was told before it fell.
    told_fell: Option<Stamp>,
    /// When the raising that is on rose.
    rose: Option<Stamp>,
    raw: u32,
}

impl Watch {
    pub(super) const fn new(alarm: Alarm) -> Self {
        Self {
            alarm,
            raised: None,
            fell: None,
            told: None,
            edges: VecDeque::new(),
            chatter: None,
            last_occurrence: 0,
        }
    }

    /// The machine's digit for this alarm: zero is off.
    pub(super) fn hear(&mut self, raw: u32, origin: &Origin, phase: Phase, out: &mut Vec<Capture>) {
        match (raw, self.raised) {
            (0, None) => {}
            (0, Some(_)) if self.fell.is_some() => {}
            (0, Some(_)) => self.fell = Some(stamp(origin, phase)),
            (_, Some(_)) if self.fallen_for(origin.tick).is_none_or(|wait| wait <= SAME_ALARM) => {
                self.fell = None
            }
            (_, Some(_)) => {
                self.let_fall(out);
                self.rise(raw, origin, phase, out);
            }
            (_, None) => self.rise(raw, origin, phase, out),
        }
    }

    /// Before a poll is heard: a stretch of counting ends after ten minutes.
    pub(super) fn prepare(&mut self, now: Tick, out: &mut Vec<Capture>) {
        if self.chatter.as_ref().is_some_and(|chatter| now.since(chatter.began.origin.tick) >= CHATTER) {
            self.end_chatter(out);
        }
    }

    /// After a poll was heard: a fall that has waited long enough stands.
    pub(super) fn settle(&mut self, now: Tick, out: &mut Vec<Capture>) {
        if self.fallen_for(now).is_some_and(|wait| wait >= SAME_ALARM) {
            self.let_fall(out);
        }
    }

    /// Tells everything that was held back: the treatment it belongs to is over.
    pub(super) fn flush(&mut self, out: &mut Vec<Capture>) {
        if self.fell.is_some() {
            self.let_fall(out);
        }
        self.end_chatter(out);
    }

    /// The line is gone: what is still on is closed by us.
    pub(super) fn line_lost(&mut self, origin: &Origin, phase: Phase, out: &mut Vec<Capture>) {
        self.flush(out);
        if let Some(raised) = self.raised.take() {
            self.told = None;
            self.edges.push_back(origin.tick);
            out.push(capture(self.alarm, stamp(origin, phase), Edge::EndConnectionLost, raised));
        }
    }

    /// For how long it looks cleared.
    fn fallen_for(&self, now: Tick) -> Option<Duration> {
        self.fell.as_ref().map(|fell| now.since(fell.origin.tick))
    }

    fn rise(&mut self, raw: u32, origin: &Origin, phase: Phase, out: &mut Vec<Capture>) {
        let raised = Raised { occurrence: self.next_occurrence(origin), raw };
        self.raised = Some(raised);
        let stamp = stamp(origin, phase);
        if self.is_counted(&stamp, raw) {
            if let Some(chatter) = &mut self.chatter {
                chatter.rose = Some(stamp);
            }
            return;
        }
        self.told = Some(raised);
        out.push(capture(self.alarm, stamp, Edge::Start, raised));
    }

    /// The held-back fall stands.
    fn let_fall(&mut self, out: &mut Vec<Capture>) {
        let (Some(raised), Some(stamp)) = (self.raised.take(), self.fell.take()) else { return };
        if self.is_counted(&stamp, raised.raw) {
            if let Some(chatter) = &mut self.chatter {
                chatter.rose = None;
                if self.told == Some(raised) {
                    chatter.told_fell = Some(stamp);
                }
            }
            return;
        }
        self.told = None;
        out.push(capture(self.alarm, stamp, Edge::End, raised));
    }

    /// Whether this edge is counted instead of told.
    fn is_counted(&mut self, stamp: &Stamp, raw: u32) -> bool {
        let now = stamp.origin.tick;
        if let Some(chatter) = &mut self.chatter {
            chatter.edges = chatter.edges.saturating_add(1);
            return true;
        }
        while self.edges.front().is_some_and(|&told| now.since(told) >= CHATTER) {
            self.edges.pop_front();
        }
        if self.edges.len() < EDGES_TOLD {
            self.edges.push_back(now);
            return false;
        }
        self.chatter = Some(Chatter { began: stamp.clone(), edges: 1, told_fell: None, rose: None, raw });
        true
    }

    /// Tells the count, and then what the outside would otherwise not know: that the raising it was told of is over, and
    /// that another one is on.
    fn end_chatter(&mut self, out: &mut Vec<Capture>) {
        let Some(chatter) = self.chatter.take() else { return };
        self.edges.clear();
        let counted = Raised { occurrence: self.last_occurrence, raw: chatter.raw };
        out.push(capture(self.alarm, chatter.began, Edge::Chattering { edges: chatter.edges }, counted));
        if let (Some(told), Some(fell)) = (self.told, chatter.told_fell) {
            self.told = None;
            out.push(capture(self.alarm, fell, Edge::End, told));
        }
        if let (Some(raised), Some(rose)) = (self.raised, chatter.rose) {
            self.told = Some(raised);
            out.push(capture(self.alarm, rose, Edge::Start, raised));
        }
    }

    /// Seconds of its start, so that a restart counts on; one more where the clock did not move on.
    fn next_occurrence(&mut self, origin: &Origin) -> u32 {
        let seconds = u32::try_from(origin.at.as_micros() / 1_000_000).unwrap_or(0);
        self.last_occurrence = seconds.max(self.last_occurrence.saturating_add(1));
        self.last_occurrence
    }
}

fn stamp(origin: &Origin, phase: Phase) -> Stamp {
    // An edge fills no slot and is no value of a window; both belong to the values of the same poll.
    Stamp { origin: Origin { slot: None, previous: None, ..origin.clone() }, phase }
}

fn capture(alarm: Alarm, stamp: Stamp, edge: Edge, raised: Raised) -> Capture {
    let edge = AlarmEdge { alarm, phase: edge, raw: raised.raw, occurrence: raised.occurrence };
    Capture { origin: stamp.origin, phase: stamp.phase, finding: Finding::Alarm(edge), identity: Vec::new() }
}

#[cfg(test)]
mod tests;
