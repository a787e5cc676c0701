//! Writes batches of records: what they need is written first, then the records, and every entry's answer becomes part of
//! a record's verdict.

mod needs;
mod parts;
mod trouble;
mod verdict;

use self::parts::taken;
use super::courier::{Courier, mostly_refused};
use super::desk::Desk;
use super::encode::{Encoded, Encoder, Standing};
use super::history::History;
use super::link::Post;
use super::refusals::Belief;
use crate::clock::Clock;
use crate::model::time::{ClockTrust, TrueTime};
use crate::privacy::record::{Correction, Revision};
use crate::spool::{RefusedPart, Sequence, Stored, Verdict};
use crate::upstream::{Delivery, Identities, Next};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A record of a clock that is not trusted is looked at again after this time.
const CLOCK_RETRY: Duration = Duration::from_secs(60);

/// Writes records through anything that can post.
pub(super) struct Writer<P> {
    pub(super) desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
    pub(super) post: P,
    courier: Courier,
    /// What this process has seen the server take. Forgotten when the server says that something is missing.
    present: HashSet<(Uuid, Standing)>,
    /// How often a record had to be tried again.
    attempts: HashMap<Sequence, u32>,
    /// Conflicts in a row, by part of a record under one binding.
    conflicts: HashMap<(Sequence, Revision, u16), u32>,
    /// How often in a row the server did not take something that others need.
    delays: HashMap<Uuid, u32>,
    pub(super) history: History,
}

impl<P> std::fmt::Debug for Writer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("present", &self.present.len()).finish_non_exhaustive()
    }
}

impl<P: Post> Writer<P> {
    pub(super) fn new(
        encoder: Encoder,
        identities: Arc<dyn Identities>,
        clock: Arc<dyn Clock>,
        post: P,
    ) -> Self {
        let courier = Courier::new(clock.clone());
        Self {
            desk: Arc::new(Desk::new(encoder, identities)),
            clock,
            post,
            courier,
            present: HashSet::new(),
            attempts: HashMap::new(),
            conflicts: HashMap::new(),
            delays: HashMap::new(),
            history: History::default(),
        }
    }

    /// Resources that go into one request just now.
    pub(super) fn entries_of_a_batch(&self) -> usize {
        self.courier.pace.entries()
    }

    /// Delivers records. One of a clock that is not trusted is held back, because its time would be wrong in a chart;
    /// it goes out once records can be given the right time from where the trusted clock met the monotonic one.
    pub(super) async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        let mut delivery = Delivery::default();
        let mut renderings = Vec::with_capacity(batch.len());
        self.courier.refusals.begin_round();
        for stored in &self.timed(batch) {
            let in_force = || self.desk.in_force(stored);
            match self.courier.refusals.look_at(stored.sequence, in_force, self.clock.tick()) {
                Belief::Unknown => {}
                Belief::Believed(verdict) => {
                    delivery.verdicts.push((stored.sequence, verdict));
                    continue;
                }
                Belief::Doubted { not_before, told } => {
                    delivery.verdicts.push((stored.sequence, Verdict::Retry { not_before }));
                    delivery.setback = told.then(trouble::refusal_in_doubt).or(delivery.setback);
                    continue;
                }
            }
            match self.desk.encode(stored) {
                Encoded::Write(_) if is_untimed(stored) => {
                    let not_before = self.clock.tick().after(CLOCK_RETRY);
                    delivery.verdicts.push((stored.sequence, Verdict::Retry { not_before }));
                    delivery.setback = Some(trouble::untimed());
                }
                Encoded::Write(rendering) => renderings.push((stored.sequence, rendering)),
                Encoded::Hold(treatment) => {
                    delivery.verdicts.push((stored.sequence, Verdict::Held(treatment)))
                }
                Encoded::Skip => delivery.verdicts.push((stored.sequence, Verdict::SkippedByPolicy)),
            }
        }
        // Where two records write the same resource the later one counts.
        renderings.sort_by_key(|(sequence, _)| *sequence);
        let written = self.write(&renderings, Standing::Valid).await;
        for ((sequence, rendering), fates) in renderings.iter().zip(&written.fates) {
            let Some(verdict) = self.verdict(*sequence, rendering, fates) else { continue };
            let is_refusal = match &verdict {
                Verdict::Refused { .. } => true,
                Verdict::Delivered { refused_parts, .. } => !refused_parts.is_empty(),
                Verdict::SkippedByPolicy | Verdict::Held(_) | Verdict::Retry { .. } => false,
            };
            let verdict = match is_refusal {
                true => {
                    let now = self.clock.tick();
                    self.courier.refusals.doubt(*sequence, rendering.revision, verdict, now)
                }
                false => verdict,
            };
            delivery.verdicts.push((*sequence, verdict));
        }
        delivery.resources = written.resources;
        delivery.next = written.next;
        // Conflicts that never end are refusals as well.
        if let Some(reason) = self.courier.refusals.of_everything() {
            self.courier.refusals.disbelieve();
            delivery.next = Next::Pause(mostly_refused(reason));
        }
        delivery.setback = written.setback.or(delivery.setback);
        delivery
    }

    /// The refusals in the last delivery could not be settled.
    pub(super) fn refusals_not_kept(&mut self) {
        self.courier.refusals.keep_told();
    }

    /// Records of a clock that was not to be trusted get the time that was found for them, where there is one by now.
    fn timed<'a>(&self, batch: &'a [Stored]) -> Vec<Cow<'a, Stored>> {
        let timed = |stored: &'a Stored| {
            if !is_untimed(stored) {
                return Cow::Borrowed(stored);
            }
            let (at, clock) = match self.clock.true_time(stored.record.origin().tick) {
                TrueTime::Unknown => return Cow::Borrowed(stored),
                TrueTime::At(at) => (at, ClockTrust::Retimed),
                TrueTime::Between { from, until } => (from, ClockTrust::Between { until }),
            };
            Cow::Owned(Stored { record: stored.record.clone().retimed(at, clock), ..stored.clone() })
        };
        batch.iter().map(timed).collect()
    }

    pub(super) async fn correct(
        &mut self,
        correction: Correction,
        batch: &[Stored],
        open: &BTreeSet<Sequence>,
    ) -> Delivery {
        let mut delivery = Delivery::default();
        if correction.old == Revision(0) && self.desk.encoder.holds_unseated() {
            // Nothing was written before there was a patient: the records were held, and their release delivers them.
            delivery.verdicts.extend(batch.iter().map(|stored| (stored.sequence, Verdict::SkippedByPolicy)));
            return delivery;
        }
        // A later correction has its own replacement; this one then only takes back.
        let is_in_force =
            self.desk.identities.revision(correction.treatment).unwrap_or(Revision(0)) == correction.new;
        let timed = self.timed(batch);
        let is_undated = |stored: &&Cow<'_, Stored>| {
            let is_settled = is_untimed(stored) && !open.contains(&stored.sequence);
            is_settled
                && matches!(self.desk.encoder.replace(stored, &*self.desk.identities), Encoded::Write(_))
        };
        let undated: Vec<Sequence> = timed.iter().filter(is_undated).map(|stored| stored.sequence).collect();
        if !undated.is_empty() {
            // They went out with the time that was found for them, and after a restart it has to be found again.
            let not_before = self.clock.tick().after(CLOCK_RETRY);
            delivery.verdicts = undated.into_iter().map(|it| (it, Verdict::Retry { not_before })).collect();
            delivery.setback = Some(trouble::untimed());
            return delivery;
        }
        let (mut back, mut anew) = (Vec::new(), Vec::new());
        for stored in timed.iter().filter(|stored| !is_untimed(stored)) {
            if let Some(then) = self.history.written_under(stored.sequence, correction.old)
                && let Encoded::Write(rendering) =
                    self.desk.encoder.withdraw(stored, &*self.desk.identities, correction.old, then)
            {
                back.push((stored.sequence, rendering));
            }
            // What is open is delivered in its turn. All else is settled for good and must come now, refused or not: under
            // another patient the server has not been asked yet.
            if is_in_force
                && !open.contains(&stored.sequence)
                && let Encoded::Write(it) = self.desk.encoder.replace(stored, &*self.desk.identities)
            {
                anew.push((stored.sequence, it));
            }
        }
        let mut unfinished: HashSet<Sequence> = HashSet::new();
        let mut parts: HashMap<Sequence, u32> = HashMap::new();
        let mut refused: HashMap<Sequence, Vec<RefusedPart>> = HashMap::new();
        // Taken back first: in between a reading is missing, which is better than being another patient's.
        for (standing, renderings) in [(Standing::Withdrawn, back), (Standing::Valid, anew)] {
            let renderings: Vec<_> =
                renderings.into_iter().filter(|(it, _)| !unfinished.contains(it)).collect();
            let written = self.write(&renderings, standing).await;
            delivery.setback = written.setback.clone().or(delivery.setback);
            for ((sequence, rendering), fates) in renderings.iter().zip(&written.fates) {
                *parts.entry(*sequence).or_default() += taken(fates);
                match self.verdict(*sequence, rendering, fates) {
                    None | Some(Verdict::Retry { .. }) => {
                        unfinished.insert(*sequence);
                    }
                    Some(Verdict::Refused { reason, .. }) if standing == Standing::Valid => {
                        let all = rendering.parts.iter();
                        let all = all.map(|part| RefusedPart { part: part.number, reason });
                        refused.insert(*sequence, all.collect());
                    }
                    Some(Verdict::Delivered { refused_parts, .. }) if standing == Standing::Valid => {
                        refused.insert(*sequence, refused_parts);
                    }
                    // Of what is taken back, `write` lets only refusals through of what never was there.
                    Some(Verdict::Refused { .. } | Verdict::Delivered { .. }) => {}
                    Some(Verdict::SkippedByPolicy | Verdict::Held(_)) => {}
                }
            }
            delivery.resources += written.resources;
            if written.next != Next::Continue {
                delivery.next = written.next;
                break;
            }
        }
        if delivery.next == Next::Continue {
            let closed = batch.iter().map(|stored| stored.sequence).filter(|it| !unfinished.contains(it));
            delivery.verdicts.extend(closed.map(|sequence| {
                let refused_parts = refused.remove(&sequence).unwrap_or_default();
                let parts = parts.get(&sequence).copied().unwrap_or(0);
                (sequence, Verdict::Delivered { parts, refused_parts })
            }));
        }
        delivery
    }
}

fn is_untimed(stored: &Stored) -> bool {
    stored.record.origin().clock == ClockTrust::Untrusted
}

#[cfg(test)]
mod tests;
