//! Spot values: a cuff pressure is an observation once, when it was measured, although the machine repeats it for hours.
//!
//! All spot values of one measurement form a group with one token: the mark the map names in `new_when_changes`, else the
//! values themselves. What stands there when we come, when the line comes back, when somebody is seated or when a
//! treatment starts is the *baseline*: it may be the last patient's, so it is never news.

use crate::model::value::{self, Reading};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::Mark;

/// The spot values of one measurement and what is known of the last one.
#[derive(Debug, Default)]
pub(super) struct SpotGroup {
    /// This poll's numbers, by place in the group; `None` where the machine shows nothing.
    seen: Vec<Option<Decimal>>,
    seen_mark: Option<Mark>,
    known: Vec<Option<Decimal>>,
    known_mark: Option<Mark>,
    /// A mark that moved without its values: they may be a poll behind it.
    ahead: Option<Mark>,
    standing: Standing,
}

/// Whose the standing values are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Nothing was looked at yet: the next poll is the baseline.
    #[default]
    Unseen,
    /// They stood there before.
    Baseline,
    /// They were measured since the poll before.
    New,
    /// They were measured while we looked, and told.
    Told,
}

impl SpotGroup {
    /// Room for one more value; returns its place.
    pub(super) fn join(&mut self) -> usize {
        self.seen.push(None);
        self.known.push(None);
        self.seen.len() - 1
    }

    /// Forgets this poll's values before the next poll's come.
    pub(super) fn clear(&mut self) {
        self.seen.fill(None);
        self.seen_mark = None;
    }

    /// The value at a place reads `number`. A cuff that measured nothing reads zero; that is no measurement.
    pub(super) fn see(&mut self, place: usize, number: Decimal) {
        if number.mantissa() > 0
            && let Some(seen) = self.seen.get_mut(place)
        {
            *seen = Some(number);
        }
    }

    /// The mark of the standing measurement.
    pub(super) const fn see_mark(&mut self, mark: Mark) {
        self.seen_mark = Some(mark);
    }

    /// What stands there at the next poll is baseline.
    pub(super) const fn start_over(&mut self) {
        self.standing = Standing::Unseen;
    }

    /// The mark of one value of this poll.
    pub(super) const fn mark(&self, reading: Reading) -> value::Mark {
        let measured = matches!(reading, Reading::Number(number) if number.mantissa() > 0);
        match self.standing {
            Standing::New if measured => value::Mark::New,
            Standing::New | Standing::Told => value::Mark::Same,
            Standing::Unseen | Standing::Baseline => value::Mark::Baseline,
        }
    }

    /// Judges this poll's values, once they are all seen.
    pub(super) fn judge(&mut self) {
        match self.standing {
            Standing::Unseen => self.keep_as_baseline(),
            _ if self.is_new() => {
                self.known.clone_from(&self.seen);
                self.known_mark = self.seen_mark;
                self.standing = Standing::New;
            }
            Standing::New => {
                self.standing = Standing::Told;
                self.fill_in();
            }
            Standing::Baseline | Standing::Told => self.fill_in(),
        }
        if let (Some(seen), Some(known)) = (self.seen_mark, self.known_mark) {
            self.ahead = (seen != known).then_some(seen);
        }
    }

    /// Whether this poll shows a measurement that no poll before has shown.
    fn is_new(&self) -> bool {
        if self.seen.iter().all(Option::is_none) {
            // Nothing to show, or a measurement in progress: the token is taken up when its values come.
            return false;
        }
        let changed = self.values_changed();
        match (self.seen_mark, self.known_mark) {
            // A mark that moves over unmoved values may be a poll ahead of them: the same numbers are believed to be
            // measured again only when they still stand a poll later. Over a baseline they are never believed: the last
            // patient's values would be this patient's.
            (Some(seen), Some(known)) => {
                let repeats = self.standing != Standing::Baseline && self.ahead == Some(seen);
                seen != known && (changed || repeats)
            }
            _ => changed,
        }
    }

    fn keep_as_baseline(&mut self) {
        // What the machine hides at this moment it may show again: values seen before stay part of the baseline.
        for (known, seen) in self.known.iter_mut().zip(&self.seen) {
            *known = seen.or(*known);
        }
        self.known_mark = self.seen_mark.or(self.known_mark);
        self.standing = Standing::Baseline;
        self.ahead = None;
    }

    fn fill_in(&mut self) {
        for (known, seen) in self.known.iter_mut().zip(&self.seen) {
            *known = known.or(*seen);
        }
        self.known_mark = self.known_mark.or(self.seen_mark);
    }

    /// Whether a value that is shown differs from the one known; a value that comes back from hiding is not a change,
    /// unless nothing was known at all.
    fn values_changed(&self) -> bool {
        let nothing_known = self.known.iter().all(Option::is_none);
        nothing_known
            || self
                .seen
                .iter()
                .zip(&self.known)
                .any(|pair| matches!(pair, (Some(seen), Some(known)) if seen.compare(*known).is_ne()))
    }
}

#[cfg(test)]
mod tests;
