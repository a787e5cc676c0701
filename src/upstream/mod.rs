//! Delivery: what every kind of upstream has in common.

pub mod fhir;
pub mod forward;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod server_table;
pub mod tls;

use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::record::{Correction, Revision, TreatmentId};
use crate::spool::{Sequence, Stored, Verdict};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// One receiver. An implementation encodes and speaks; it has no retry policy and no queue of its own.
pub trait Upstream: Send {
    /// Its name in the configuration.
    fn name(&self) -> &UpstreamName;
    /// Said once, before anything else: records up to this one were there before this process began to deliver, so that
    /// an earlier one may have written them.
    fn begins_behind(&mut self, last: Sequence);
    /// Delivers a batch and says what became of each record. A retry sends the same resources under the same ids.
    fn deliver(&mut self, batch: &[Stored]) -> impl Future<Output = Delivery> + Send;
    /// Rewrites records of a corrected treatment: the old ids become `entered-in-error`, the right ones get new ids.
    /// The records are not leased; the forwarder settles the correction once all of them have a verdict.
    ///
    /// Those in `open` have no verdict of their own yet: they are delivered in their turn, under the binding in force then, so
    /// of them only what may stand under the old one is taken back. All others are written anew, whatever had become of them.
    /// Where a resource cannot be taken back, the upstream pauses and the correction stays open.
    fn correct(
        &mut self,
        correction: Correction,
        batch: &[Stored],
        open: &BTreeSet<Sequence>,
    ) -> impl Future<Output = Delivery> + Send;
    /// The refusals in the last delivery could not be written down: they stand, and are asked for again.
    fn refusals_not_kept(&mut self) {}
    /// What can be done for a batch while the one before it is on its way; `None` where there is nothing to gain.
    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        None
    }
    /// Looks after what it needs besides records, like certificates; asked about once a minute, however little there is to
    /// deliver.
    fn tend(&mut self) -> Wire {
        Wire::default()
    }
}

/// The part of a delivery that needs no receiver.
pub trait Prepare: Send + Sync {
    /// Makes ready what [`Upstream::deliver`] will need for these records. It decides nothing: what has changed until then is
    /// made anew.
    fn prepare(&self, batch: &[Stored]);
}

/// How it stands with the connection, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Resources that go into one request just now.
    pub entries: usize,
    /// Whether requests go out in gzip.
    pub gzip: bool,
    /// When our own certificate ends.
    pub certificate_until: Option<Timestamp>,
    /// What a person should see to before it stops anything.
    pub notices: Vec<Trouble>,
}

/// What became of a batch. A record without a verdict was not tried; it is leased again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Outcomes by record.
    pub verdicts: Vec<(Sequence, Verdict)>,
    /// Resources the receiver took, for `status`.
    pub resources: u64,
    /// Whether to go on.
    pub next: Next,
    /// What keeps some of the records back, while the others go on.
    pub setback: Option<Trouble>,
}

/// What the forwarder does next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    #[default]
    Continue,
    /// The receiver is not ready: back off.
    Wait {
        /// At least this long, where the receiver said so.
        at_least: Option<Duration>,
        /// What it said, or that it said nothing.
        why: Trouble,
    },
    /// A person is needed: pause with an alarm, keep everything, look again now and then.
    Pause(Trouble),
}

/// Why an upstream is paused or waiting. Its text is for clinic IT: what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct Trouble {
    /// A stable word for logs and metrics.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

/// What an encoder may ask about identity; `privacy` answers.
pub trait Identities: Send + Sync {
    /// The binding in force; revision 0 or `None` means that no patient is bound.
    fn revision(&self, treatment: TreatmentId) -> Option<Revision>;
    /// What this recipient sees of the treatment's patient under that binding; `None`: not bound, hold.
    fn subject(
        &self,
        recipient: &UpstreamName,
        treatment: TreatmentId,
        revision: Revision,
    ) -> Option<Pseudonym>;
    /// The treatment's own story, as far as it is known now.
    fn treatment(&self, treatment: TreatmentId) -> Option<crate::privacy::TreatmentStory>;
    /// A resource id for this recipient, derived from what the resource is about.
    fn resource_id(&self, recipient: &UpstreamName, about: &[&[u8]]) -> uuid::Uuid;
}

pub use crate::privacy::Pseudonym;
