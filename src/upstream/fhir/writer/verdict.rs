//! From what became of the parts of a record to the verdict on it.

use super::Writer;
use super::parts::{count, taken};
use crate::spool::{RefusedPart, Sequence, Verdict};
use crate::upstream::fhir::courier::Fate;
use crate::upstream::fhir::encode::Rendering;
use crate::upstream::fhir::link::Post;
use crate::upstream::fhir::status::Outcome;
use std::time::Duration;

/// A record that the server could not take just now is tried again after this time, then after twice as long ...
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// ... and so on, up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// A conflict that comes back this often never ends: nobody else should be writing our ids.
pub(super) const CONFLICTS: u32 = 3;

impl<P: Post> Writer<P> {
    /// The verdict on one record; `None` while any part of it is untried.
    pub(super) fn verdict(
        &mut self,
        sequence: Sequence,
        rendering: &Rendering,
        fates: &[Fate],
    ) -> Option<Verdict> {
        let tried = self.attempts.get(&sequence).copied().unwrap_or(0);
        let revision = rendering.revision;
        let mut refused_parts = Vec::new();
        let mut again = false;
        for (part, fate) in rendering.parts.iter().zip(fates) {
            let number = part.number;
            let conflicts = match fate {
                Fate::Judged(Outcome::Conflict(_)) => {
                    let count = self.conflicts.entry((sequence, revision, number)).or_default();
                    *count += 1;
                    *count
                }
                Fate::Untried => 0,
                Fate::Judged(_) | Fate::Unknown => {
                    self.conflicts.remove(&(sequence, revision, number));
                    0
                }
            };
            match fate {
                Fate::Judged(Outcome::Accepted) => {}
                Fate::Judged(Outcome::Refused(reason)) => {
                    refused_parts.push(RefusedPart { part: number, reason: *reason });
                }
                Fate::Judged(Outcome::Conflict(reason)) if conflicts >= CONFLICTS => {
                    self.courier.refusals.refused(*reason);
                    refused_parts.push(RefusedPart { part: number, reason: *reason });
                }
                Fate::Judged(Outcome::Again | Outcome::Conflict(_)) => again = true,
                Fate::Judged(Outcome::Missing(_) | Outcome::Throttled | Outcome::Pause(_))
                | Fate::Untried
                | Fate::Unknown => {
                    return None;
                }
            }
        }
        if again {
            self.attempts.insert(sequence, tried.saturating_add(1));
            let wait = FIRST_RETRY.saturating_mul(1 << tried.min(12)).min(LONGEST_RETRY);
            return Some(Verdict::Retry { not_before: self.clock.tick().after(wait) });
        }
        self.attempts.remove(&sequence);
        self.conflicts.retain(|(of, ..), _| *of != sequence);
        match refused_parts.first() {
            Some(first) if refused_parts.len() == rendering.parts.len() => {
                Some(Verdict::Refused { parts: count(refused_parts.len()), reason: first.reason })
            }
            _ => Some(Verdict::Delivered { parts: taken(fates), refused_parts }),
        }
    }
}
