//! The encrypted spool: a record is durable here before any upstream sees it.

mod bytes;
#[cfg(test)]
mod damage_tests;
mod dead;
pub mod disk;
mod doubt;
mod eviction;
pub mod frame;
mod guard;
pub mod handle;
pub mod inspect;
mod ledger;
pub mod letter;
mod lock;
mod look;
mod manifest;
pub mod memory;
mod mending;
#[cfg(test)]
mod model_tests;
mod opening;
pub mod pace;
#[cfg(test)]
mod pressure_tests;
mod reading;
#[cfg(test)]
mod removal_tests;
mod replay;
pub(crate) mod reserve;
mod room;
mod rows;
mod salvage;
mod scan;
mod settlement;
mod shelf;
pub mod slots;
pub mod space;
#[cfg(test)]
mod space_tests;
pub mod stopped;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
mod told;
pub mod tools;
#[cfg(test)]
mod unreadable_tests;
pub mod verify;
mod volume;
pub mod whereabouts;
pub mod wreck;
mod writing;

pub(crate) use room::LEFT_FREE;

use crate::exit::Exit;
use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::Timestamp;
use crate::privacy::record::{Record, TreatmentId};
use crate::spool::space::Space;
use crate::spool::tools::SpoolTools;
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The place of a record in the spool: dense, from 1, never reused within a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// A store: 128 random bits drawn when it was created, and anew where its manifest was lost. One that was put back from a copy has the
/// same, so what must never come twice needs more than it and a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One durable record. (store, sequence) is its identity: resource ids derive from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The store that first held it; a salvaged frame keeps it.
    pub store: StoreId,
    /// Its place there.
    pub sequence: Sequence,
    /// The record.
    pub record: Record,
}

/// Which records a forwarder asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The newest, so that live data stays fresh while a backlog drains.
    Live,
    /// The oldest first.
    Backlog,
}

/// How much one lease may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit {
    /// At most this many records.
    pub records: usize,
}

/// The outcome of one record at one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream has it; single resources of it may have been refused.
    Delivered {
        /// Parts the upstream took.
        parts: u32,
        /// Parts the upstream refused for good.
        refused_parts: Vec<RefusedPart>,
    },
    /// This upstream asked for less than everything.
    SkippedByPolicy,
    /// Not leased again until [`Spool::release`] names this treatment.
    Held(TreatmentId),
    /// The upstream refused all of it for good.
    Refused {
        /// Parts the upstream refused: all that were rendered of this record.
        parts: u32,
        /// Why; that of the first part stands for all.
        reason: Reason,
    },
    /// Try again, not before this tick.
    Retry {
        /// The earliest tick.
        not_before: Tick,
    },
}

/// One resource of a record that the upstream refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedPart {
    /// The number of the part within the record, as the encoder counts.
    pub part: u16,
    /// Why.
    pub reason: Reason,
}

/// Why an upstream refused something: codes only, never its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The status code of the answer; 0 where no upstream said it.
    pub status: u16,
    /// The coded issue of an OperationOutcome, one of FHIR's `issue-type` codes.
    pub issue: Option<&'static str>,
}

impl Reason {
    /// Of a correction: records of the treatment had left the spool, and what an upstream has of them stays as it is.
    pub const RECORDS_GONE: Self = Self { status: 0, issue: Some("incomplete") };
}

/// When delivered records may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Keep settled volumes this long after their last settlement.
    pub keep_delivered: Duration,
    /// The spool may take this many bytes on disk.
    pub max_bytes: u64,
}

/// What a prune removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Volumes removed.
    pub volumes: u32,
    /// Records in them.
    pub records: u64,
}

/// What the spool holds, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SpoolStatus {
    /// Highest durable sequence.
    pub last: u64,
    /// Records in the spool, settled or not.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// How full it is.
    pub space: Space,
    /// Volumes in use.
    pub volumes: u32,
    /// Volumes set aside because they were not complete, with the records missing in them.
    pub set_aside: Vec<SetAside>,
    /// The poll slots of every chair that ever had one.
    pub slots: Vec<(ChairName, slots::ChairSlots)>,
    /// Counts per upstream.
    pub upstreams: Vec<(UpstreamName, Counts)>,
}

/// A volume that was not complete and was set aside untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The name of its folder under the spool.
    pub volume: String,
    /// Records it should have held.
    pub expected: u64,
    /// Records that authenticate.
    pub found: u64,
}

/// Records of one upstream by state; their sum is the highest sequence minus what came before this upstream.
///
/// Parts are single resources of records. They are counted when their record ends, so they sum over delivered and refused
/// records alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// The upstream has them.
    pub delivered: u64,
    /// It asked for less than everything.
    pub skipped: u64,
    /// No seat yet.
    pub held: u64,
    /// Still to be sent.
    pub waiting: u64,
    /// Refused for good.
    pub refused: u64,
    /// Removed unsent because the disk was full; a tombstone tells of them.
    pub evicted: u64,
    /// Lost in the store.
    pub lost: u64,
    /// Their key was destroyed.
    pub erased: u64,
    /// Parts the upstream took.
    pub parts_delivered: u64,
    /// Parts it refused for good.
    pub parts_refused: u64,
    /// Capture time of the oldest one waiting.
    pub oldest_waiting: Option<Timestamp>,
    /// Capture time of the oldest one waiting or held.
    pub oldest_unsent: Option<Timestamp>,
}

impl Counts {
    /// All records this upstream has or had to do with.
    #[must_use]
    pub const fn records(&self) -> u64 {
        let Self { delivered, skipped, held, waiting, refused, evicted, lost, erased, .. } = self;
        *delivered + *skipped + *held + *waiting + *refused + *evicted + *lost + *erased
    }
}

/// What went wrong in the spool. The reader decides: a full spool refuses intake, `Disk` stops the gateway.
///
/// It can be cloned, because one failed commit answers everybody who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process holds the spool (exit 75).
    #[error("another process holds the spool at {0}")]
    Busy(std::path::PathBuf),
    /// The format on disk is newer than we are (exit 78).
    #[error("the spool at {path} has format {found}, this program knows up to {known}")]
    Format {
        /// Where.
        path: std::path::PathBuf,
        /// Format found.
        found: u32,
        /// Highest format known.
        known: u32,
    },
    /// The disk does not keep what it is given (exit 74).
    #[error("{act} in the spool")]
    Disk {
        /// What we were doing.
        act: &'static str,
        /// What the operating system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The state directory is not permitted to us (exit 77).
    #[error("{act} in the spool: not permitted")]
    Permission {
        /// What we were doing.
        act: &'static str,
        /// What the operating system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The store engine failed or took too long.
    #[error("{act} in the spool's store: {why}")]
    Engine {
        /// What we were doing.
        act: &'static str,
        /// A word for what happened.
        why: &'static str,
    },
    /// The record is larger than a frame may be.
    #[error("a record of {0} bytes is larger than a frame may be")]
    TooLarge(usize),
    /// The bound on disk space is reached.
    #[error("the spool is full: {used} of {max} bytes")]
    Full {
        /// Bytes used.
        used: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The keyring cannot give the key that is needed.
    #[error("the key of this record is not in the keyring")]
    Key,
    /// No upstream of this name was given when the spool was opened.
    #[error("the spool knows no upstream {0}")]
    UnknownUpstream(UpstreamName),
    /// The spool's thread is gone.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// Whether the disk has no room, which passes; any other failure of it may not.
    pub(crate) fn is_no_space(&self) -> bool {
        use std::io::ErrorKind;
        let Self::Disk { source, .. } = self else { return false };
        matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }

    /// How the program ends because of it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Busy(_) => Exit::NotReady,
            Self::Format { .. } => Exit::Refused,
            Self::Permission { .. } => Exit::NotPermitted,
            Self::Disk { .. } | Self::Full { .. } => Exit::Disk,
            Self::Engine { .. } | Self::TooLarge(_) | Self::Key | Self::UnknownUpstream(_) | Self::Closed => {
                Exit::Fault
            }
        }
    }
}

/// The spool. Synchronous on purpose: one thread owns it, and a test can drive it step by step.
pub trait Spool: Send {
    /// Writes the records; durable when it returns.
    ///
    /// # Errors
    /// [`SpoolError`]; on error none of the batch is acknowledged.
    fn append(&mut self, batch: &[Record]) -> Result<Vec<Sequence>, SpoolError>;
    /// Hands out records that this upstream has not settled and that are in no other lease of it, in sequence
    /// order. Leases die with the process.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    fn lease(
        &mut self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError>;
    /// Takes the outcome of leased records. May lag on disk, never lead.
    ///
    /// The first final verdict of a record stays: one for a record that is settled already, or that this upstream
    /// never had to send, changes nothing. `Retry { not_before: Tick::ZERO }` hands a record back untried. `Held`
    /// of a treatment that was released after the record was leased leaves the record waiting.
    ///
    /// # Errors
    /// [`SpoolError`] when the settlement store cannot be written.
    fn settle(&mut self, upstream: &UpstreamName, verdicts: &[(Sequence, Verdict)])
    -> Result<(), SpoolError>;
    /// The treatment's binding came or changed: its held records may be leased again.
    ///
    /// # Errors
    /// [`SpoolError`] when the settlement store cannot be written.
    fn release(&mut self, treatment: TreatmentId) -> Result<(), SpoolError>;
    /// Records of one treatment after `after`, oldest first, settled or not: what a correction has to rewrite.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    fn read_treatment(
        &mut self,
        treatment: TreatmentId,
        after: Sequence,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError>;
    /// What people ask of it.
    fn tools(&mut self) -> &mut dyn SpoolTools;
    /// Removes volumes that every upstream has settled and that are past their retention.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    fn prune(&mut self, policy: Retention, now: Timestamp) -> Result<Pruned, SpoolError>;
    /// How full it is. Cheap: asked before every append of a caller who waits.
    fn space(&mut self) -> Space;
    /// A run of the gateway begins with these chairs and poll intervals; gives what the run before left of each. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    fn begin_run(
        &mut self,
        chairs: &[(ChairName, Duration)],
    ) -> Result<BTreeMap<ChairName, slots::Left>, SpoolError>;
    /// What the spool holds.
    fn status(&mut self) -> SpoolStatus;
    /// Makes what was settled survive a power cut.
    ///
    /// # Errors
    /// [`SpoolError`] when the settlement store cannot be written.
    fn flush(&mut self) -> Result<(), SpoolError>;
    /// Ends this run, so that the next start has nothing to check. Nothing may be asked of it afterwards.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses; every acknowledged record is durable all the same.
    fn close(&mut self) -> Result<(), SpoolError>;
}
