//! The one way to write a patient's record number, so that a scanner, a keyboard and a message name the same patient.
//!
//! Version 1: every white space goes, around and inside (`12 34` and `1234` are one patient), and ASCII letters become
//! capitals. What is left has 1 to 64 visible ASCII characters; leading zeros and punctuation count. Other characters
//! are refused: `Ä` has two spellings, and two spellings would be two patients. A second version would find its rows
//! under a label of its own and leave these in place.

use super::crypto::Secret;
use chairside_drivers::kit::sensitive::Sensitive;
use zeroize::Zeroizing;

/// Why text is no record number. Carries nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordNumberError {
    /// Nothing, or only white space.
    #[error("the record number is empty")]
    Empty,
    /// More than 64 characters.
    #[error("a record number has at most 64 characters")]
    TooLong,
    /// A character outside visible ASCII.
    #[error(
        "a record number has only letters from A to Z, digits and punctuation; type it, or check the scanner"
    )]
    Character,
}

/// The longest record number.
const LONGEST: usize = 64;
const LABEL: &str = "chairside record number 1";

/// A record number in its one spelling. It has no `Debug` and is wiped on drop.
pub(super) struct RecordNumber(Zeroizing<Vec<u8>>);

impl RecordNumber {
    pub(super) fn parse(text: &Sensitive<String>) -> Result<Self, RecordNumberError> {
        #[expect(clippy::disallowed_methods, reason = "the border turns the record number into a row here")]
        let text = text.expose();
        // Room from the start: a buffer that grows would leave the number behind in freed memory.
        let mut canonical = Zeroizing::new(Vec::with_capacity(LONGEST));
        for character in text.chars().filter(|character| !character.is_whitespace()) {
            if !character.is_ascii_graphic() {
                return Err(RecordNumberError::Character);
            }
            if canonical.len() == LONGEST {
                return Err(RecordNumberError::TooLong);
            }
            canonical.push(character.to_ascii_uppercase() as u8);
        }
        if canonical.is_empty() { Err(RecordNumberError::Empty) } else { Ok(Self(canonical)) }
    }

    /// What a patient's row is found under. Without the key, all numbers of a clinic could be tried in seconds.
    pub(super) fn mac(&self, lookup: &Secret) -> [u8; 32] {
        lookup.mac(LABEL, &[&self.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Vec<u8>, RecordNumberError> {
        RecordNumber::parse(&Sensitive::new(text.to_owned())).map(|number| number.0.to_vec())
    }

    #[test]
    fn the_test_vectors_of_version_1_hold() {
        for (written, canonical) in [
            ("1234567", "1234567"),
            ("  1234567\r\n", "1234567"),
            ("12 34\t567", "1234567"),
            ("ab-0012/x", "AB-0012/X"),
            ("0012", "0012"),
            ("12", "12"),
            ("\u{a0}77\u{2003}8", "778"),
        ] {
            assert_eq!(parse(written), Ok(canonical.as_bytes().to_vec()), "{written:?}");
        }
    }

    #[test]
    fn what_is_no_record_number_is_refused_without_repeating_it() {
        for (written, why) in [
            ("", RecordNumberError::Empty),
            (" \r\n", RecordNumberError::Empty),
            ("Jürgen", RecordNumberError::Character),
            ("12\u{0}34", RecordNumberError::Character),
            ("12\u{200b}34", RecordNumberError::Character),
            ("\u{ff11}\u{ff12}", RecordNumberError::Character),
        ] {
            assert_eq!(parse(written), Err(why), "{written:?}");
        }
        assert_eq!(parse(&"1".repeat(64)), Ok(vec![b'1'; 64]));
        assert_eq!(parse(&"1".repeat(65)), Err(RecordNumberError::TooLong));
    }

    #[test]
    fn a_row_is_found_under_a_known_mac() {
        let number = RecordNumber::parse(&Sensitive::new("1234567".to_owned())).ok().unwrap();
        let mac = number.mac(&Secret::from_bytes([7; 32]));
        let shown: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        // Computed apart from this program.
        assert_eq!(shown, "67887fd8b7779917ca4687b4f0c1a3ddddceac2f5088a710fc6840fd745f44fd");
    }

    proptest! {
        #[test]
        fn a_canonical_number_is_its_own_canonical_form(text: String) {
            if let Ok(canonical) = parse(&text) {
                prop_assert_eq!(parse(std::str::from_utf8(&canonical).unwrap()), Ok(canonical));
            }
        }
    }
}
