//! What people ask about the spool, as it stands on the wire and in `--json`. Every question is one page; the answer says where
//! the next one begins.

mod answer;

pub use answer::{answer, answer_looking};

use crate::spool::inspect::{Choice, Line, Summary};
use crate::status::Moment;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A question, or something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// What the spool holds.
    Status,
    /// Records counted, behind this sequence.
    Inspect {
        /// The last sequence of the page before.
        after: u64,
        /// Which records are meant.
        choice: Choice,
        /// Give this many of them on a line each, too.
        lines: usize,
    },
    /// One record with all it says.
    Record {
        /// Which.
        sequence: u64,
    },
    /// What upstreams refused.
    Letters(Wish),
    /// Put refused records back to be sent.
    Replay(Wish),
    /// Throw letters away.
    Discard(Wish),
}

/// Which letters are meant, and where the page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wish {
    /// Of this upstream.
    pub upstream: Option<String>,
    /// About records of this chair.
    pub chair: Option<String>,
    /// About these records.
    pub sequences: Vec<u64>,
    /// Refused before this time.
    pub before: Option<Moment>,
    /// The last letter of the page before.
    pub after: Option<(String, u64)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// What the spool holds.
    Status(Holdings),
    /// Records counted.
    Page {
        /// The counts.
        summary: Summary,
        /// Those that were asked for on a line each.
        lines: Vec<Line>,
        /// The sequence to ask behind for the next page.
        next: Option<u64>,
        /// The highest sequence there is.
        last: u64,
    },
    /// One record; `None`: there is none of this sequence.
    Record(Option<Value>),
    /// What upstreams refused.
    Letters {
        /// The letters of this page.
        letters: Vec<Letter>,
        /// Places in the files of letters that hold nothing that can be read.
        damaged: u64,
        /// The letter to ask behind for the next page.
        next: Option<(String, u64)>,
    },
    /// What was done: counts by their word.
    Counted {
        /// The counts.
        counts: BTreeMap<String, u64>,
        /// The letter to ask behind for the next page.
        next: Option<(String, u64)>,
    },
}

/// What the spool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// The highest sequence.
    pub last: u64,
    /// Records, settled or not.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes it may take.
    pub max_bytes: u64,
    /// How full it is.
    pub percent: u64,
    /// What it does about that: normal, warn, refuse or evict.
    pub level: String,
    /// Volumes in use.
    pub volumes: u32,
    /// Volumes that were not complete.
    pub set_aside: Vec<Incomplete>,
    /// Upstreams in the configuration.
    pub upstreams: Vec<Outbox>,
    /// The last records of a gateway that was cut off are not among them: without the keyring nobody can prove them.
    #[serde(default)]
    pub at_least: bool,
}

/// A volume that was not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// Its folder.
    pub volume: String,
    /// Records it should have held.
    pub expected: u64,
    /// Records that authenticate.
    pub found: u64,
}

/// The records of one upstream by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Its name.
    pub name: String,
    /// It has them.
    pub delivered: u64,
    /// It asked for less than everything.
    pub skipped: u64,
    /// No patient yet.
    pub held: u64,
    /// Still to be sent.
    pub waiting: u64,
    /// Refused for good.
    pub refused: u64,
    /// Removed unsent because the disk was full.
    pub evicted: u64,
    /// Lost in the store.
    pub lost: u64,
    /// Their key was destroyed.
    pub erased: u64,
    /// Single resources it took.
    pub parts_delivered: u64,
    /// Single resources it refused.
    pub parts_refused: u64,
    /// Capture time of the oldest one waiting, where it is known.
    pub oldest_waiting: Option<Moment>,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Who refused.
    pub upstream: String,
    /// Which record.
    pub sequence: u64,
    /// When it was captured; unknown once its key was destroyed.
    pub captured: Option<Moment>,
    /// The chair.
    pub chair: Option<String>,
    /// What the record is.
    pub kind: Option<String>,
    /// When it was refused.
    pub refused: Moment,
    /// Single resources that were taken.
    pub parts_taken: u32,
    /// Single resources that were refused.
    pub parts_refused: u32,
    /// Why.
    pub reasons: Vec<Reason>,
    /// `refused`, `waiting` or `held` once it was put back, `nobody` when the upstream is gone.
    pub state: String,
    /// `whole`, `erased` when its key was destroyed, `lost` when it cannot be proved.
    pub content: String,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    /// The number of the part; `None`: the whole record.
    pub part: Option<u16>,
    /// The status code of the answer.
    pub status: u16,
    /// The coded issue.
    pub issue: Option<String>,
}

impl Ask {
    /// The word in audit records.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Status => "spool_status",
            Self::Inspect { .. } => "spool_inspect",
            Self::Record { .. } => "spool_record",
            Self::Letters(_) => "spool_dead_letters",
            Self::Replay(_) => "spool_replay",
            Self::Discard(_) => "spool_discard",
        }
    }

    /// Whether it has to be in the audit record before it is answered: what is counted by number alone is no access to data.
    #[must_use]
    pub const fn is_audited(&self) -> bool {
        !matches!(self, Self::Status)
    }

    /// Whether it begins something, and is not the next page of it.
    #[must_use]
    pub const fn is_first_page(&self) -> bool {
        match self {
            Self::Status | Self::Record { .. } => true,
            Self::Inspect { after, .. } => *after == 0,
            Self::Letters(wish) | Self::Replay(wish) | Self::Discard(wish) => wish.after.is_none(),
        }
    }

    /// What was asked, for the audit record. Only what is a name, a number or a time gets this far: see [`Ask::check`].
    #[must_use]
    pub fn about(&self) -> Value {
        match self {
            Self::Status => json!({}),
            Self::Inspect { after, choice, lines } => {
                json!({ "after": after, "choice": choice, "lines": lines })
            }
            Self::Record { sequence } => json!({ "sequence": sequence }),
            Self::Letters(wish) | Self::Replay(wish) | Self::Discard(wish) => json!(wish),
        }
    }

    /// Whether everything in it is what it should be. What is not is not quoted: it may be a record number in the wrong place.
    ///
    /// # Errors
    /// What is wrong and what it should be.
    pub fn check(&self) -> Result<(), &'static str> {
        use crate::model::name::{ChairName, UpstreamName};
        let chair = |name: &Option<String>| match name {
            Some(name) if ChairName::new(name).is_err() => Err("this is no chair's name"),
            _ => Ok(()),
        };
        match self {
            Self::Status | Self::Record { .. } => Ok(()),
            Self::Inspect { choice, .. } => {
                chair(&choice.chair)?;
                let is_kind = |kind: &String| crate::spool::inspect::KINDS.contains(&kind.as_str());
                if !choice.kind.as_ref().is_none_or(is_kind) {
                    return Err(
                        "there is no such kind; there are reading, alarm, treatment_started, treatment_ended, gap, \
                         clock_step, evicted and correction",
                    );
                }
                if choice.day.as_ref().is_some_and(|day| !is_day(day)) {
                    return Err("this is no day; write it as 2027-01-15");
                }
                let hex = |id: &String| {
                    (1..=8).contains(&id.len())
                        && id.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f'))
                };
                if !choice.treatment.as_ref().is_none_or(hex) {
                    return Err(
                        "a treatment is named by up to eight digits of its id, as `spool inspect` shows them",
                    );
                }
                Ok(())
            }
            Self::Letters(wish) | Self::Replay(wish) | Self::Discard(wish) => {
                let names = wish.upstream.iter().chain(wish.after.iter().map(|(name, _)| name));
                if names.into_iter().any(|name| UpstreamName::new(name).is_err()) {
                    return Err("this is no upstream's name");
                }
                chair(&wish.chair)
            }
        }
    }
}

/// Whether this is a day in the one form that records are compared with; in any other none would fit, and a birthday could pass.
fn is_day(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok_and(|day| day.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_record_number_is_neither_taken_nor_repeated() {
        for choice in [
            Choice { kind: Some("4711".to_owned()), ..Choice::default() },
            Choice { chair: Some("Müster, Anna".to_owned()), ..Choice::default() },
            Choice { day: Some("19430211".to_owned()), ..Choice::default() },
            Choice { day: Some("2027-01-15T08:00".to_owned()), ..Choice::default() },
            Choice { treatment: Some("KV-4711".to_owned()), ..Choice::default() },
        ] {
            let why = Ask::Inspect { after: 0, choice, lines: 0 }.check().unwrap_err();
            assert!(!why.contains("4711") && !why.contains("Anna"), "{why}");
        }
        let wish = Wish { upstream: Some("a b".to_owned()), ..Wish::default() };
        assert!(Ask::Replay(wish).check().is_err());
        let choice = Choice {
            treatment: Some("0a1b".to_owned()),
            kind: Some("alarm".to_owned()),
            ..Choice::default()
        };
        assert_eq!(Ask::Inspect { after: 0, choice, lines: 0 }.check(), Ok(()));
    }

    #[test]
    fn a_question_is_read_back_as_it_was_asked() {
        let wish = Wish { sequences: vec![7, 9], after: Some(("ehr".to_owned(), 3)), ..Wish::default() };
        for ask in [Ask::Status, Ask::Record { sequence: 7 }, Ask::Letters(wish)] {
            let text = serde_json::to_string(&ask).unwrap();
            assert_eq!(serde_json::from_str::<Ask>(&text).unwrap(), ask, "{text}");
        }
    }
}
