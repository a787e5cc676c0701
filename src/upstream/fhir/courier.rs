//! Carries resources to the server in batches of a size it takes, and brings back what became of each.

use super::link::Post;
use super::r4::{BatchEntry, Resource, batch};
use super::status::{Asked, Judgement, Outcome, judge};
use crate::clock::Clock;
use crate::upstream::tls::LinkFault;
use crate::upstream::{Next, Trouble};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// What most servers take in one batch.
const MOST_ENTRIES: usize = 100;
const MOST_BYTES: usize = 1 << 20;
/// After this many faults of the server in a row, one entry is suspected and looked for.
const FAULTS_BEFORE_SEARCH: u32 = 5;
/// A search that finds this many faults and nothing that is taken is no search: the server is down.
const FAULTS_OF_A_SEARCH: u32 = 12;
/// After each answer without throttling a batch may be this much larger again.
const RECOVERY: usize = 10;

/// One resource on its way.
#[derive(Debug)]
pub(super) struct Parcel<'a> {
    pub(super) resource: &'a Resource,
    /// The resources it refers to.
    pub(super) needs: &'a [Uuid],
}

/// What became of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server's word for it.
    Judged(Outcome),
    /// The server was not asked.
    Untried,
    /// It was sent, and no answer says what became of it: it may be there.
    Unknown,
}

/// Carries parcels, and learns how large a batch the server takes.
#[derive(Debug)]
pub(super) struct Courier {
    clock: Arc<dyn Clock>,
    /// What the server can read at once. It never grows: a size limit stays.
    most_entries: usize,
    /// What the server can take at once just now. It grows again once the server is at ease.
    pace: usize,
    faults: u32,
}

impl Courier {
    pub(super) const fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, most_entries: MOST_ENTRIES, pace: MOST_ENTRIES, faults: 0 }
    }

    /// Carries them all, unless the server or the way to it makes that pointless; then the rest stays untried.
    pub(super) async fn carry(&mut self, post: &mut impl Post, parcels: &[Parcel<'_>]) -> (Vec<Fate>, Next) {
        let mut round = Round {
            fates: vec![Fate::Untried; parcels.len()],
            entries: Vec::with_capacity(parcels.len()),
            next: Next::Continue,
            faults: 0,
            taken: 0,
        };
        for parcel in parcels {
            match serde_json::to_string(&BatchEntry::put(parcel.resource)) {
                Ok(entry) => round.entries.push(entry),
                Err(_) => return (round.fates, Next::Pause(unwritable())),
            }
        }
        let mut waiting: VecDeque<Range<usize>> = VecDeque::new();
        waiting.push_back(0..parcels.len());
        while let Some(range) = waiting.pop_front() {
            let Some((range, rest)) = self.fitting(&round.entries, range) else { continue };
            if !rest.is_empty() {
                waiting.push_front(rest);
            }
            let (judgement, arrival) = self.ask(post, parcels, &round.entries, range.clone()).await;
            if arrival == Arrival::Possible {
                round.leave_open(range.clone());
            }
            let halved = self.take(judgement, range, &mut round);
            for range in halved.into_iter().flatten().rev() {
                waiting.push_front(range);
            }
            if round.next != Next::Continue {
                break;
            }
        }
        (round.fates, round.next)
    }

    /// The front of the range that fits into one batch, and what remains.
    fn fitting(&self, entries: &[String], range: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
        let mut bytes = 0;
        let most = self.most_entries.min(self.pace);
        let fits = entries.get(range.clone())?.iter().take(most).take_while(|entry| {
            bytes += entry.len() + 1;
            bytes <= MOST_BYTES
        });
        // One that is larger than a batch may be still goes alone.
        let end = range.start + fits.count().max(1).min(range.len());
        (end > range.start).then_some((range.start..end, end..range.end))
    }

    async fn ask(
        &self,
        post: &mut impl Post,
        parcels: &[Parcel<'_>],
        entries: &[String],
        range: Range<usize>,
    ) -> (Judgement, Arrival) {
        let bundle = batch(entries.get(range.clone()).unwrap_or_default());
        match post.post(bundle).await {
            Ok(answer) => {
                let parcels = parcels.get(range).unwrap_or_default();
                let asked = parcels.iter().map(|it| Asked { id: it.resource.id(), needs: it.needs });
                let judgement = judge(answer.reply(), &asked.collect::<Vec<_>>(), self.clock.now().0);
                (judgement, Arrival::Possible)
            }
            Err(LinkFault::Unreached(why)) => (Judgement::Wait { at_least: None, why }, Arrival::Impossible),
            Err(LinkFault::Away(why) | LinkFault::Cut(why)) => {
                (Judgement::Wait { at_least: None, why }, Arrival::Possible)
            }
            Err(LinkFault::Distrust(trouble)) => (Judgement::Pause(trouble), Arrival::Impossible),
        }
    }

    /// Takes a judgement in; gives back the halves that have to be carried again.
    fn take(
        &mut self,
        judgement: Judgement,
        range: Range<usize>,
        round: &mut Round,
    ) -> Option<[Range<usize>; 2]> {
        match judgement {
            Judgement::Entries(outcomes) => {
                self.faults = 0;
                // Once per answer, however many of its entries say so.
                self.pace = if outcomes.contains(&Outcome::Throttled) {
                    (self.pace.min(range.len()) / 2).max(1)
                } else {
                    (self.pace + RECOVERY).min(MOST_ENTRIES)
                };
                for (index, outcome) in range.zip(outcomes) {
                    take_entry(index, outcome, round);
                }
                None
            }
            Judgement::Halve(reason) => halves(range, |lone| round.set(lone, Outcome::Refused(reason))),
            Judgement::TooLarge { lone } => {
                self.most_entries = (range.len() / 2).max(1);
                let alone = halves(range.clone(), |_| ());
                match (alone, lone) {
                    (Some(both), _) => Some(both),
                    (None, Some(reason)) => {
                        round.set(range.start, Outcome::Refused(reason));
                        None
                    }
                    (None, None) => {
                        round.next = Next::Pause(too_small());
                        None
                    }
                }
            }
            Judgement::Fault(why) => self.search(why, range, round),
            Judgement::Wait { at_least, why } => {
                round.next = Next::Wait { at_least, why };
                None
            }
            Judgement::Pause(trouble) => {
                round.next = Next::Pause(trouble);
                None
            }
        }
    }

    /// A server that fails again and again may fail because of one entry: look for it by halving.
    fn search(&mut self, why: Trouble, range: Range<usize>, round: &mut Round) -> Option<[Range<usize>; 2]> {
        self.faults = self.faults.saturating_add(1);
        round.faults += 1;
        let down = round.faults >= FAULTS_OF_A_SEARCH && round.taken == 0;
        if self.faults < FAULTS_BEFORE_SEARCH && round.faults == 1 || down {
            round.next = Next::Wait { at_least: None, why };
            return None;
        }
        // A fault is never a refusal, not even of a lone entry.
        let both = halves(range, |lone| round.set(lone, Outcome::Again));
        // Entries in between may have reset the count; the search goes on all the same.
        self.faults = self.faults.max(FAULTS_BEFORE_SEARCH);
        both
    }
}

/// Whether what was posted may have reached the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Possible,
    Impossible,
}

fn take_entry(index: usize, outcome: Outcome, round: &mut Round) {
    match outcome {
        Outcome::Pause(trouble) => {
            round.not_taken(index);
            round.next = Next::Pause(trouble);
        }
        Outcome::Throttled => {
            round.not_taken(index);
            if round.next == Next::Continue {
                round.next = Next::Wait { at_least: None, why: throttled() };
            }
        }
        outcome => {
            round.taken += u32::from(outcome == Outcome::Accepted);
            round.set(index, outcome);
        }
    }
}

/// One call of [`Courier::carry`].
struct Round {
    fates: Vec<Fate>,
    entries: Vec<String>,
    next: Next,
    faults: u32,
    taken: u32,
}

impl Round {
    fn set(&mut self, index: usize, outcome: Outcome) {
        if let Some(fate) = self.fates.get_mut(index) {
            *fate = Fate::Judged(outcome);
        }
    }

    fn not_taken(&mut self, index: usize) {
        if let Some(fate) = self.fates.get_mut(index) {
            *fate = Fate::Untried;
        }
    }

    fn leave_open(&mut self, range: Range<usize>) {
        self.fates.get_mut(range).unwrap_or_default().fill(Fate::Unknown);
    }
}

/// Two halves, or for a lone entry what becomes of it.
fn halves(range: Range<usize>, lone: impl FnOnce(usize)) -> Option<[Range<usize>; 2]> {
    if range.len() < 2 {
        lone(range.start);
        return None;
    }
    let middle = range.start + range.len() / 2;
    Some([range.start..middle, middle..range.end])
}

fn unwritable() -> Trouble {
    Trouble {
        code: "unwritable",
        what: "a resource cannot be written as JSON".to_owned(),
        remedy: "report this as a fault; nothing is lost",
    }
}

fn too_small() -> Trouble {
    Trouble {
        code: "body_limit",
        what: "something in front of the receiver answers 413 to a single resource".to_owned(),
        remedy: "raise the largest request body of the proxy in front of it to 1 MB",
    }
}

fn throttled() -> Trouble {
    Trouble {
        code: "throttled",
        what: "the receiver wants fewer resources at a time".to_owned(),
        remedy: "nothing to do if it ends; everything is kept until then",
    }
}
