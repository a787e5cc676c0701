//! An outage played ahead of time: a ward that lives faster than any clock, a receiver that only counts, and the
//! rehearsal that leads them through what an outage brings.

pub mod oracle;
pub mod rate;
mod rehearsal;
pub mod report;
mod shadow;
pub mod tally;
pub mod ward;

pub use rehearsal::{rehearse, sweep};

use crate::privacy::keyring::KeyringError;
use crate::sim::pki::PkiError;
use crate::sim::receiver::ReceiverError;
use crate::spool::SpoolError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What is rehearsed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// For how many hours nothing can be delivered.
    pub hours: f64,
    /// How many times faster than life the ward is played; `None` is as fast as this computer can.
    pub speed: Option<f64>,
}

impl Plan {
    /// How long the outage is.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::try_from_secs_f64(self.hours * 3600.0).unwrap_or_default()
    }
}

/// How far the rehearsal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub act: &'static str,
    /// So much of it is done.
    pub done: u64,
    /// All of it.
    pub of: u64,
}

/// Why a rehearsal ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// Nothing to measure or to play.
    #[error("{} has no chair yet, so there is no ward to rehearse with; add a [[chair]], `chairside check` it, and ask again", .0.display())]
    NoChairs(PathBuf),
    /// The gateway never ran.
    #[error("there is no state directory at {}; start the gateway once, and ask again", .0.display())]
    NoState(PathBuf),
    /// The disk is needed for the live spool.
    #[error(
        "the rehearsal may need {needed}, and only {usable} of the disk of {} can be lent without taking it from the live \
         spool; free some space, or rehearse at most {hours:.1} hours", path.display()
    )]
    NoRoom {
        /// What it may need.
        needed: String,
        /// What can be lent.
        usable: String,
        /// Where.
        path: PathBuf,
        /// What fits.
        hours: f64,
    },
    /// Two would lend the same space twice.
    #[error("another rehearsal runs in {}; wait for its end", .0.display())]
    Running(PathBuf),
    /// The marks of what came would take too much memory beside the live gateway.
    #[error(
        "so many readings cannot be told apart in the memory that a rehearsal may take beside the gateway; rehearse at most \
         {hours:.1} hours"
    )]
    NoMemory {
        /// What fits.
        hours: f64,
    },
    /// Others, or the live spool, filled the disk meanwhile.
    #[error("the disk became too full for the live spool, so the rehearsal was ended")]
    Crowded,
    /// The folder, or a file in it.
    #[error("make or remove {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        cause: io::Error,
    },
    /// It was told to stop.
    #[error("the rehearsal was interrupted; nothing of it is left")]
    Interrupted,
    /// The simulated ward.
    #[error("play the ward")]
    Play(#[from] ward::PlayError),
    /// The throw-away keyring.
    #[error("make the keyring of the rehearsal")]
    Keyring(#[from] KeyringError),
    /// The live spool's manifest, or the shadow spool.
    #[error("use the spool")]
    Spool(#[from] SpoolError),
    /// Throw-away certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The local receiver.
    #[error("start the local receiver")]
    Receiver(#[from] ReceiverError),
    /// No thread.
    #[error("start the thread of the shadow spool")]
    Thread(#[source] io::Error),
    /// A task that ended in a panic.
    #[error("a task of the rehearsal broke; report this")]
    Broken(#[from] tokio::task::JoinError),
    /// A name of our own that is not accepted.
    #[error("the name of the rehearsal's receiver is refused; report this")]
    Name,
    /// The forwarder ended by itself.
    #[error("the forwarder ended by itself; report this")]
    Ended,
    /// The expired certificate was not noticed.
    #[error("an expired certificate did not pause the delivery; report this")]
    NotPaused,
    /// Nothing was delivered any more.
    #[error("nothing more was delivered after {delivered} of {of} records; report this")]
    Stalled {
        /// Records that were.
        delivered: u64,
        /// Records of the outage.
        of: u64,
    },
}
