//! The control socket: how commands speak to the running daemon. One request a connection, one line of JSON each way.
//!
//! The operating system says who asks: the socket's mode lets in its owner and its group, and the peer's user id goes
//! into the audit record. A record number exists only in the body of a request and is [`Sensitive`] as soon as it is
//! read.

pub mod client;
pub mod server;
pub mod spool;

use crate::status::Snapshot;
use crate::status::gaps::Gaps;
use chairside_drivers::kit::sensitive::Sensitive;
use serde::{Deserialize, Serialize};
use spool::{Ask, Told};
use zeroize::Zeroizing;

/// No request is longer than this many bytes.
pub const MAX_REQUEST: usize = 4096;

/// No answer is longer than this many bytes: a status of a hundred chairs is about 1 MB.
pub const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// What a command asks of the daemon.
#[derive(Debug)]
pub enum Request {
    /// Everything on the board.
    Status,
    /// Which polls are missing, and why.
    Gaps,
    /// Seats a patient.
    Seat {
        /// The chair as the caller wrote it; it may not exist.
        chair: String,
        /// Who.
        record_number: Sensitive<String>,
        /// Whether the running treatment was seated wrongly.
        correct: Correct,
    },
    /// Ends the seat of a chair.
    Unseat {
        /// The chair as the caller wrote it; it may not exist.
        chair: String,
    },
    /// Something about the spool.
    Spool(Ask),
}

/// Whether a seat replaces a wrong one from the treatment's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correct {
    /// A patient takes the chair.
    No,
    /// The patient of the running treatment was another one all along.
    Yes,
}

/// The daemon's answer.
// Tagged from outside: a tag among the fields does not go together with numbers that keep their digits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done; `said` is a plain sentence for whoever asked.
    Done {
        /// What happened.
        said: String,
    },
    /// Everything on the board.
    Status {
        /// The board.
        status: Box<Snapshot>,
    },
    /// What was asked about the spool.
    Spool {
        /// The answer.
        told: Box<Told>,
    },
    /// Which polls are missing, and why.
    Gaps {
        /// By chair.
        gaps: Box<Gaps>,
    },
    /// It is not done.
    Refused {
        /// A stable word.
        code: RefusalCode,
        /// Why, and what to do.
        why: String,
    },
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request cannot be understood.
    Malformed,
    /// No chair of that name.
    UnknownChair,
    /// The record number is none.
    RecordNumber,
    /// It cannot be done now.
    NotPossible,
    /// The daemon is stopping, or its keyring cannot be written.
    NotNow,
}

impl RefusalCode {
    /// The word in audit records and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownChair => "unknown_chair",
            Self::RecordNumber => "record_number",
            Self::NotPossible => "not_possible",
            Self::NotNow => "not_now",
        }
    }
}

/// A request as it stands on the wire.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
    Status,
    Gaps,
    Seat { chair: String, record_number: Hidden },
    Correct { chair: String, record_number: Hidden },
    Unseat { chair: String },
    Spool { ask: Ask },
}

/// Text that is wiped when it is dropped, on its way through JSON.
struct Hidden(Zeroizing<String>);

impl Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Request {
    /// Reads one line. What cannot be read is not quoted: it may hold a record number.
    fn parse(line: &[u8]) -> Option<Self> {
        let seat = |chair, hidden: Hidden, correct| {
            let record_number = Sensitive::new(String::clone(&hidden.0));
            Self::Seat { chair, record_number, correct }
        };
        Some(match serde_json::from_slice(line).ok()? {
            Wire::Status => Self::Status,
            Wire::Gaps => Self::Gaps,
            Wire::Seat { chair, record_number } => seat(chair, record_number, Correct::No),
            Wire::Correct { chair, record_number } => seat(chair, record_number, Correct::Yes),
            Wire::Unseat { chair } => Self::Unseat { chair },
            Wire::Spool { ask } => Self::Spool(ask),
        })
    }

    /// The word in audit records.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Gaps => "gaps",
            Self::Seat { correct: Correct::No, .. } => "seat",
            Self::Seat { correct: Correct::Yes, .. } => "correct",
            Self::Unseat { .. } => "unseat",
            Self::Spool(ask) => ask.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_seat_request_hides_its_record_number_from_debug() {
        let line = br#"{"do":"seat","chair":"chair-1","record_number":"M\u00fcstermann 4711"}"#;
        let request = Request::parse(line).unwrap();
        assert_eq!(
            format!("{request:?}"),
            r#"Seat { chair: "chair-1", record_number: Sensitive(hidden), correct: No }"#
        );
        assert_eq!(request.word(), "seat");
    }

    #[test]
    fn an_unknown_field_or_a_missing_number_is_no_request() {
        for line in [
            &br#"{"do":"seat","chair":"chair-1"}"#[..],
            br#"{"do":"unseat","chair":"chair-1","record_number":"1"}"#,
            br#"{"do":"dance"}"#,
            br#"{"do":"seat","chair":"chair-1","record_number":4711}"#,
            b"",
            b"\xff\xfe",
        ] {
            assert!(Request::parse(line).is_none(), "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused_without_a_panic(line: Vec<u8>) {
            let _ = Request::parse(&line);
        }
    }
}
