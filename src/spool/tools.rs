//! What people ask of the spool: which records it holds, where one stands, which were refused, and to send those again.
//!
//! Every question is answered a page at a time, so that no answer keeps the spool from its work for long.

use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::Timestamp;
use crate::privacy::record::TreatmentId;
use crate::spool::letter::Refusal;
use crate::spool::whereabouts::Whereabouts;
use crate::spool::{Sequence, SpoolError, Stored};
use std::collections::BTreeSet;

/// The questions that change nothing.
pub trait Look {
    /// The records behind `after`, oldest first. Looks at not more than `limit` of them.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    fn look(&mut self, after: Sequence, limit: usize) -> Result<Page, SpoolError>;
    /// One record, and where it stands at each upstream. `None`: it is in no volume and in no dead letter.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    fn find(&mut self, sequence: Sequence) -> Result<Option<Found>, SpoolError>;
    /// Dead letters behind `after`, in order of upstream and sequence. Looks at not more than `limit` of them.
    ///
    /// # Errors
    /// [`SpoolError`] when they cannot be read.
    fn letters(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Letters, SpoolError>;
}

/// The acts.
pub trait SpoolTools: Look + Whereabouts {
    /// Puts refused records back to be sent. Their letters stay until the records are taken. Looks at not more than `limit` letters.
    ///
    /// # Errors
    /// [`SpoolError`] when the settlement store cannot be written.
    fn replay(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Replayed, SpoolError>;
    /// Throws letters away; they count as refused for good. Looks at not more than `limit` of them.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    fn discard(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Discarded, SpoolError>;
    /// Those of these treatments of which neither a record nor a dead letter is left.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    fn without_trace(&mut self, treatments: &[TreatmentId]) -> Result<Vec<TreatmentId>, SpoolError>;
}

/// A dead letter's place in the order of all of them.
pub type Place = (UpstreamName, Sequence);

/// Records as they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of their numbers.
    pub seen: Vec<Seen>,
    /// The number to look behind for more; `None`: there are no more.
    pub next: Option<Sequence>,
}

/// One record as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub sequence: Sequence,
    /// What there is of it.
    pub content: Content,
}

/// What there is of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it.
    Record(Box<Stored>),
    /// Its key was destroyed.
    Erased,
    /// Nothing that can be proved to be it.
    Lost,
}

/// One record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What there is of it.
    pub content: Content,
    /// Whether its volume is gone and only a dead letter holds it.
    pub only_in_letter: bool,
    /// By upstream of the configuration.
    pub standings: Vec<(UpstreamName, Standing)>,
    /// What upstreams refused of it.
    pub refusals: Vec<(UpstreamName, Refusal)>,
}

/// Where a record stands at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Older than this upstream in the configuration.
    BeforeItsTime,
    /// Still to be sent.
    Waiting,
    /// Not sent before this treatment has a patient.
    Held(TreatmentId),
    /// Nothing is left to do.
    Settled,
}

/// Which letters are meant: all that fit every choice that is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this upstream.
    pub upstream: Option<UpstreamName>,
    /// About records of this chair.
    pub chair: Option<ChairName>,
    /// About these records; none named means any.
    pub sequences: BTreeSet<Sequence>,
    /// Refused before this time.
    pub before: Option<Timestamp>,
}

impl Wanted {
    pub(crate) fn may_be(&self, upstream: &UpstreamName, sequence: Sequence) -> bool {
        self.upstream.as_ref().is_none_or(|wanted| wanted == upstream)
            && (self.sequences.is_empty() || self.sequences.contains(&sequence))
    }

    pub(crate) fn fits(&self, refusal: &Refusal, content: &Content) -> bool {
        let chair = |wanted: &ChairName| match content {
            Content::Record(stored) => stored.record.origin().chair == *wanted,
            Content::Erased | Content::Lost => false,
        };
        self.before.is_none_or(|before| refusal.at < before) && self.chair.as_ref().is_none_or(chair)
    }
}

/// A page of dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letters {
    /// Those that were wanted.
    pub letters: Vec<DeadLetter>,
    /// Where the next page begins; `None` when this was the last one.
    pub next: Option<Place>,
    /// Places in the files of letters that hold nothing that can be read.
    pub damaged: u64,
}

/// A record that an upstream refused, or refused parts of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Who refused.
    pub upstream: UpstreamName,
    /// Which record.
    pub sequence: Sequence,
    /// What was said.
    pub refusal: Refusal,
    /// The record.
    pub content: Content,
    /// Where it stands there now; `None`: the upstream is not in the configuration any more.
    pub standing: Option<Standing>,
}

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Put back to be sent.
    pub reopened: u64,
    /// Were waiting already.
    pub waiting: u64,
    /// Of an upstream that is not in the configuration any more.
    pub nobody: u64,
    /// The key of the record was destroyed.
    pub erased: u64,
    /// The letter cannot be read any more, or its number belongs to another record now.
    pub lost: u64,
    /// Where the next page begins.
    pub next: Option<Place>,
}

/// What was thrown away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Letters.
    pub letters: u64,
    /// Not thrown away: the record waits to be sent again.
    pub waiting: u64,
    /// Where the next page begins.
    pub next: Option<Place>,
}
