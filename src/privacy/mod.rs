//! The privacy border. Identified captures come in, records that name a treatment and never a patient go out.

mod bytes;
mod codec;
mod crypto;
pub mod key_source;
pub mod keyring;
mod pseudonym;
pub mod record;
mod record_number;
pub mod seats;

use crate::model::name::{ChairName, MachineName};
use crate::model::time::Timestamp;
use std::fmt;

pub use pseudonym::Pseudonymiser;
pub use record_number::RecordNumberError;

/// What one recipient sees of a patient: 128 bits of an HMAC under that recipient's key, 32 hexadecimal digits.
///
/// It goes into a resource for that recipient and nowhere else, so it cannot be printed:
///
/// ```compile_fail,E0277
/// fn show(pseudonym: chairside::privacy::Pseudonym) {
///     println!("{pseudonym}");
/// }
/// ```
/// ```compile_fail,E0277
/// fn serialise<T: serde::Serialize>(_: T) {}
/// fn show(pseudonym: chairside::privacy::Pseudonym) {
///     serialise(pseudonym);
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Pseudonym(String);

impl Pseudonym {
    fn from_mac(mac: [u8; 32]) -> Self {
        use std::fmt::Write;
        let mut text = String::with_capacity(32);
        for byte in mac.iter().take(16) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The text that goes into a resource for this recipient.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A pseudonym of nobody, for tests of what stands north of the border.
    #[cfg(test)]
    pub(crate) fn sample(text: &str) -> Self {
        Self(text.to_owned())
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
