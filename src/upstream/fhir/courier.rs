//! Carries resources to the server in batches of a size it takes, and brings back what became of each.

use super::draft::Draft;
use super::link::Post;
use super::pace::{Limits, Pace};
use super::r4::batch;
use super::refusals::{Refusals, WINDOW};
use super::status::{Asked, Judgement, Outcome, judge};
use crate::clock::Clock;
use crate::spool::Reason;
use crate::upstream::tls::LinkFault;
use crate::upstream::{Next, Trouble};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// After this many faults of the server in a row, one entry is suspected and looked for.
const FAULTS_BEFORE_SEARCH: u32 = 5;
/// A search that finds this many faults and nothing that is taken is no search: the server is down.
const FAULTS_OF_A_SEARCH: u32 = 12;

/// One resource on its way.
#[derive(Debug)]
pub(super) struct Parcel<'a> {
    pub(super) draft: &'a Draft,
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

/// Whether refusals of these parcels tell what the server thinks of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// They are the records.
    Counted,
    /// They are what records refer to, or what is taken back.
    Apart,
}

/// Carries parcels, and learns how large a batch the server takes.
#[derive(Debug)]
pub(super) struct Courier {
    clock: Arc<dyn Clock>,
    pub(super) pace: Pace,
    pub(super) refusals: Refusals,
    /// Faults since a batch as large as the one that failed went through.
    faults: u32,
    /// Entries of the smallest batch that failed so.
    failed_at: usize,
    /// A smaller batch went through since the last fault: the server is up, and one entry is suspected.
    passed_since: bool,
}

impl Courier {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            pace: Pace::default(),
            refusals: Refusals::default(),
            faults: 0,
            failed_at: usize::MAX,
            passed_since: false,
        }
    }

    /// Carries them all, unless the server or the way to it makes that pointless; then the rest stays untried.
    pub(super) async fn carry(
        &mut self,
        post: &mut impl Post,
        parcels: &[Parcel<'_>],
        weight: Weight,
    ) -> (Vec<Fate>, Next) {
        let mut round = Round {
            weight,
            fates: vec![Fate::Untried; parcels.len()],
            entries: Vec::with_capacity(parcels.len()),
            next: Next::Continue,
            limits: self.pace.limits(self.clock.tick()),
            faults: 0,
            taken: 0,
        };
        for parcel in parcels {
            match parcel.draft.entry() {
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
            let answered = self.ask(post, parcels, &round.entries, range.clone()).await;
            if answered.arrival == Arrival::Possible {
                round.leave_open(range.clone());
            }
            let halved = self.take(&answered, range, &mut round);
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
    fn fitting(&self, entries: &[Cow<'_, str>], range: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
        let mut bytes = 0;
        let most = self.pace.entries();
        let fits = entries.get(range.clone())?.iter().take(most).take_while(|entry| {
            bytes += entry.len() + 1;
            bytes <= self.pace.bytes()
        });
        // One that is larger than a batch may be still goes alone.
        let end = range.start + fits.count().max(1).min(range.len());
        (end > range.start).then_some((range.start..end, end..range.end))
    }

    async fn ask(
        &self,
        post: &mut impl Post,
        parcels: &[Parcel<'_>],
        entries: &[Cow<'_, str>],
        range: Range<usize>,
    ) -> Answered {
        let bundle = batch(entries.get(range.clone()).unwrap_or_default());
        let (bytes, asked_at) = (bundle.len(), self.clock.tick());
        let posted = post.post(bundle).await;
        let took = self.clock.tick().since(asked_at);
        let (judgement, arrival) = match posted {
            Ok(answer) => {
                let parcels = parcels.get(range).unwrap_or_default();
                let asked = parcels.iter().map(|it| Asked { id: it.draft.id(), needs: it.needs });
                let judgement = judge(answer.reply(), &asked.collect::<Vec<_>>(), self.clock.now().0);
                (judgement, Arrival::Possible)
            }
            Err(LinkFault::Unreached(why)) => (Judgement::Wait { at_least: None, why }, Arrival::Impossible),
            Err(LinkFault::Away(why) | LinkFault::Cut(why)) => {
                (Judgement::Wait { at_least: None, why }, Arrival::Possible)
            }
            Err(LinkFault::Distrust(trouble)) => (Judgement::Pause(trouble), Arrival::Impossible),
        };
        Answered { judgement, arrival, bytes, took }
    }

    /// Takes an answer in; gives back the halves that have to be carried again.
    fn take(
        &mut self,
        answered: &Answered,
        range: Range<usize>,
        round: &mut Round<'_>,
    ) -> Option<[Range<usize>; 2]> {
        let halved = match &answered.judgement {
            Judgement::Entries(outcomes) => {
                self.went_through(range.len());
                // Once per answer, however many of its entries say so.
                if outcomes.contains(&Outcome::Throttled) {
                    self.pace.slow_down(range.len());
                } else {
                    self.pace.answered(range.len(), answered.took);
                }
                for (index, outcome) in range.zip(outcomes) {
                    self.take_entry(index, outcome, round);
                }
                None
            }
            Judgement::Halve(reason) => {
                let reason = *reason;
                halves(range, |lone| self.take_entry(lone, &Outcome::Refused(reason), round))
            }
            Judgement::TooLarge { lone } => {
                self.pace.too_large(range.len(), answered.bytes, self.clock.tick());
                let alone = halves(range.clone(), |_| self.pace.back_to(round.limits));
                match (alone, lone) {
                    (Some(both), _) => Some(both),
                    (None, Some(reason)) => {
                        self.take_entry(range.start, &Outcome::Refused(*reason), round);
                        None
                    }
                    (None, None) => {
                        round.next = Next::Pause(too_small());
                        None
                    }
                }
            }
            Judgement::Fault(why) => self.search(why.clone(), range, round),
            Judgement::Wait { at_least, why } => {
                self.pace.slow_down(range.len());
                round.next = Next::Wait { at_least: *at_least, why: why.clone() };
                None
            }
            Judgement::Pause(trouble) => {
                round.next = Next::Pause(trouble.clone());
                None
            }
        };
        if let (Weight::Counted, Next::Continue, Some(reason)) =
            (round.weight, &round.next, self.refusals.of_everything())
        {
            round.next = Next::Pause(mostly_refused(reason));
        }
        halved
    }

    fn take_entry(&mut self, index: usize, outcome: &Outcome, round: &mut Round<'_>) {
        match outcome {
            Outcome::Pause(trouble) => {
                round.not_taken(index);
                round.next = Next::Pause(trouble.clone());
                return;
            }
            Outcome::Throttled => {
                round.not_taken(index);
                if round.next == Next::Continue {
                    round.next = Next::Wait { at_least: None, why: throttled() };
                }
                return;
            }
            Outcome::Accepted => {
                round.taken += 1;
                if round.weight == Weight::Counted {
                    self.refusals.took();
                }
            }
            Outcome::Refused(reason) => {
                if round.weight == Weight::Counted {
                    self.refusals.refused(*reason);
                }
            }
            Outcome::Missing(_) | Outcome::Again | Outcome::Conflict(_) => {}
        }
        round.set(index, outcome.clone());
    }

    fn went_through(&mut self, entries: usize) {
        if entries >= self.failed_at {
            (self.faults, self.failed_at, self.passed_since) = (0, usize::MAX, false);
        } else {
            self.passed_since = self.faults > 0;
        }
    }

    /// A server that fails again and again, or takes other batches in between, may fail because of one entry: look for it
    /// by halving.
    fn search(
        &mut self,
        why: Trouble,
        range: Range<usize>,
        round: &mut Round<'_>,
    ) -> Option<[Range<usize>; 2]> {
        let suspected = self.passed_since || self.faults + 1 >= FAULTS_BEFORE_SEARCH || round.faults > 0;
        self.passed_since = false;
        self.faults = self.faults.saturating_add(1);
        self.failed_at = self.failed_at.min(range.len());
        round.faults += 1;
        let down = round.faults >= FAULTS_OF_A_SEARCH && round.taken == 0;
        if !suspected || down {
            self.pace.slow_down(range.len());
            round.next = Next::Wait { at_least: None, why };
            return None;
        }
        // A fault is never a refusal, not even of a lone entry.
        halves(range, |lone| round.set(lone, Outcome::Again))
    }
}

/// What came of one request.
struct Answered {
    judgement: Judgement,
    arrival: Arrival,
    bytes: usize,
    took: Duration,
}

/// Whether what was posted may have reached the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Possible,
    Impossible,
}

/// One call of [`Courier::carry`].
struct Round<'a> {
    weight: Weight,
    fates: Vec<Fate>,
    entries: Vec<Cow<'a, str>>,
    next: Next,
    /// What the receiver could read when the round began.
    limits: Limits,
    faults: u32,
    taken: u32,
}

impl Round<'_> {
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

/// What is wrong with a receiver that refuses more than half of what it gets.
pub(super) fn mostly_refused(reason: Reason) -> Trouble {
    let issue = reason.issue.map(|issue| format!(", {issue}")).unwrap_or_default();
    Trouble {
        code: "mostly_refused",
        what: format!(
            "the receiver refuses more than half of the last {WINDOW} resources ({}{issue})",
            reason.status
        ),
        remedy: "have it accept them, or change `resources` and `send`; everything is kept, and one record is tried once a minute",
    }
}

fn throttled() -> Trouble {
    Trouble {
        code: "throttled",
        what: "the receiver wants fewer resources at a time".to_owned(),
        remedy: "nothing to do if it ends; everything is kept until then",
    }
}
