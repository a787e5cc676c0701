//! The privacy border. Identified captures come in, records that name a treatment and never a patient go out.

mod bytes;
mod codec;
pub mod keyring;
pub mod record;

use crate::model::name::{ChairName, MachineName};
use crate::model::time::Timestamp;
use std::fmt;

/// What one recipient sees of a patient: an HMAC under that recipient's key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pseudonym(String);

impl Pseudonym {
    /// The text that goes into a resource for this recipient.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonym(hidden)")
    }
}

/// A treatment as far as it is known now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreatmentStory {
    /// Where.
    pub chair: ChairName,
    /// On which machine.
    pub machine: MachineName,
    /// Since when.
    pub started: Timestamp,
    /// Until when; `None` while it runs.
    pub ended: Option<Timestamp>,
}
