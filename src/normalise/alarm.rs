//! Alarm edges out of alarm digits: one edge when an alarm rises, one when it falls, and one count where it chatters.
//!
//! A fall is held back for half a minute: an alarm raised again by then never went away. A fall that stands goes out with
//! the time it was seen at, not the time it was believed at.
//!
//! Every edge of a raising belongs to whoever its start belongs to: to the treatment that ran, or to the machine alone. So
//! where a treatment begins or ends, an alarm that is on is closed for the one and raised anew for the other.
//!
//! Nothing of this outlives the process. An orderly stop closes what is on; after a crash or a power cut the gateway closes
//! at its next start what was told to be on, and what is still on is raised anew under another occurrence.

use crate::model::alarm::{Alarm, AlarmEdge, Phase as Edge};
use crate::normalise::capture::{Capture, Finding, Origin, Phase};
use crate::normalise::own;
use chairside_drivers::kit::time::Tick;
use std::collections::VecDeque;
use std::time::Duration;

/// Raised again within this long, it is one alarm.
const SAME_ALARM: Duration = Duration::from_secs(30);
/// More edges than [`EDGES_TOLD`] within this long are told as one count.
const CHATTER: Duration = Duration::from_secs(10 * 60);
const EDGES_TOLD: usize = 6;

/// One alarm of one chair.
#[derive(Debug)]
pub(super) struct Watch {
    alarm: Alarm,
    /// The raising that is on, or whose fall is held back.
    raised: Option<Raised>,
    /// Since when it looks cleared.
    fell: Option<Origin>,
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
    /// The phase it rose in: whose it is, and all its edges with it.
    phase: Phase,
}

/// A stretch in which edges are counted instead of told.
#[derive(Debug)]
struct Chatter {
    began: Origin,
    /// Whose the count is.
    phase: Phase,
    edges: u32,
    /// When the raising that was told before it fell.
    told_fell: Option<Origin>,
    /// When the raising that is on rose.
    rose: Option<Origin>,
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
            (0, Some(_)) => self.fell = Some(own(origin)),
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

    /// Before a poll is heard: a stretch of counting ends after ten minutes, and what is the machine's alone ends where the
    /// patient's begins.
    pub(super) fn prepare(&mut self, origin: &Origin, phase: Phase, out: &mut Vec<Capture>) {
        let now = origin.tick;
        if self.chatter.as_ref().is_some_and(|chatter| now.since(chatter.began.tick) >= CHATTER) {
            self.end_chatter(out);
        }
        if phase == Phase::Treating && self.owners().any(|phase| phase != Phase::Treating) {
            self.change_treatment(origin, out);
        }
    }

    /// After a poll was heard: a fall that has waited long enough stands.
    pub(super) fn settle(&mut self, now: Tick, out: &mut Vec<Capture>) {
        if self.fallen_for(now).is_some_and(|wait| wait >= SAME_ALARM) {
            self.let_fall(out);
        }
    }

    /// The treatment is over: what is the patient's ends with it. The next poll that shows it on raises it anew.
    pub(super) fn treatment_over(&mut self, origin: &Origin, out: &mut Vec<Capture>) {
        if self.owners().any(|phase| phase == Phase::Treating) {
            self.change_treatment(origin, out);
        }
    }

    /// The phases in which what is on, and what is counted, began.
    fn owners(&self) -> impl Iterator<Item = Phase> {
        let raised = self.raised.map(|raised| raised.phase);
        raised.into_iter().chain(self.chatter.as_ref().map(|chatter| chatter.phase))
    }

    /// Tells what was held back, and closes what is on for whoever it was raised for.
    fn change_treatment(&mut self, origin: &Origin, out: &mut Vec<Capture>) {
        self.close(origin, Edge::EndTreatmentChanged, out);
        // The next to whom it happens is told of all its edges.
        self.edges.clear();
    }

    /// The line is gone: what is still on is closed by us.
    pub(super) fn line_lost(&mut self, origin: &Origin, out: &mut Vec<Capture>) {
        if self.close(origin, Edge::EndConnectionLost, out) {
            self.edges.push_back(origin.tick);
        }
    }

    /// Tells everything that was held back, and closes what is on. Whether it was on.
    fn close(&mut self, origin: &Origin, edge: Edge, out: &mut Vec<Capture>) -> bool {
        self.let_fall(out);
        self.end_chatter(out);
        let Some(raised) = self.raised.take() else { return false };
        self.told = None;
        out.push(self.capture(own(origin), edge, raised));
        true
    }

    /// For how long it looks cleared.
    fn fallen_for(&self, now: Tick) -> Option<Duration> {
        self.fell.as_ref().map(|fell| now.since(fell.tick))
    }

    fn rise(&mut self, raw: u32, origin: &Origin, phase: Phase, out: &mut Vec<Capture>) {
        let raised = Raised { occurrence: self.next_occurrence(origin), raw, phase };
        self.raised = Some(raised);
        let origin = own(origin);
        if self.is_counted(&origin, raised) {
            if let Some(chatter) = &mut self.chatter {
                chatter.rose = Some(origin);
            }
            return;
        }
        self.told = Some(raised);
        out.push(self.capture(origin, Edge::Start, raised));
    }

    /// The held-back fall stands.
    fn let_fall(&mut self, out: &mut Vec<Capture>) {
        let Some(fell) = self.fell.take() else { return };
        let Some(raised) = self.raised.take() else { return };
        if self.is_counted(&fell, raised) {
            if let Some(chatter) = &mut self.chatter {
                chatter.rose = None;
                if self.told == Some(raised) {
                    chatter.told_fell = Some(fell);
                }
            }
            return;
        }
        self.told = None;
        out.push(self.capture(fell, Edge::End, raised));
    }

    /// Whether this edge is counted instead of told.
    fn is_counted(&mut self, origin: &Origin, raised: Raised) -> bool {
        let now = origin.tick;
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
        let Raised { raw, phase, .. } = raised;
        let began = origin.clone();
        self.chatter = Some(Chatter { began, phase, edges: 1, told_fell: None, rose: None, raw });
        true
    }

    /// Tells the count, and then what the outside would otherwise not know: that the raising it was told of is over, and
    /// that another one is on.
    fn end_chatter(&mut self, out: &mut Vec<Capture>) {
        let Some(chatter) = self.chatter.take() else { return };
        self.edges.clear();
        let counted = Raised { occurrence: self.last_occurrence, raw: chatter.raw, phase: chatter.phase };
        out.push(self.capture(chatter.began, Edge::Chattering { edges: chatter.edges }, counted));
        if let (Some(told), Some(fell)) = (self.told, chatter.told_fell) {
            self.told = None;
            out.push(self.capture(fell, Edge::End, told));
        }
        if let (Some(raised), Some(rose)) = (self.raised, chatter.rose) {
            self.told = Some(raised);
            out.push(self.capture(rose, Edge::Start, raised));
        }
    }

    /// Seconds of its start, so that a restart counts on; one more where the clock did not move on.
    fn next_occurrence(&mut self, origin: &Origin) -> u32 {
        let seconds = u32::try_from(origin.at.as_micros() / 1_000_000).unwrap_or(0);
        self.last_occurrence = seconds.max(self.last_occurrence.saturating_add(1));
        self.last_occurrence
    }

    fn capture(&self, origin: Origin, edge: Edge, raised: Raised) -> Capture {
        let Raised { occurrence, raw, phase } = raised;
        let edge = AlarmEdge { alarm: self.alarm, phase: edge, raw, occurrence };
        Capture { origin, phase, finding: Finding::Alarm(edge), identity: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
