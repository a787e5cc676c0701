//! What the spool holds, for people: records counted by chair, kind, day and treatment, and one record with all it says.
//!
//! A record names a treatment and never a patient; of the treatment's id only the first eight digits are shown.

mod record;

pub use record::shown;

use crate::model::time::Timestamp;
use crate::privacy::record::{Body, TreatmentId};
use crate::spool::tools::{Content, Seen};
use crate::spool::{Sequence, Stored};
use crate::status::Moment;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which records are meant: all that fit every choice that is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Choice {
    /// Of this chair.
    pub chair: Option<String>,
    /// Of this kind, as [`KINDS`] names them.
    pub kind: Option<String>,
    /// Captured on this day in the gateway's time zone, as `2027-01-15`.
    pub day: Option<String>,
    /// Of the treatment whose id begins so.
    pub treatment: Option<String>,
    /// Not before this sequence.
    pub from: Option<u64>,
    /// Not behind this sequence.
    pub to: Option<u64>,
}

/// What a record can be.
pub const KINDS: &[&str] = &[
    "reading",
    "alarm",
    "treatment_started",
    "treatment_ended",
    "gap",
    "clock_step",
    "evicted",
    "correction",
];

/// The word for what a record is.
#[must_use]
pub const fn kind(body: &Body) -> &'static str {
    match body {
        Body::Values(_) => "reading",
        Body::Alarm(_) => "alarm",
        Body::TreatmentStarted => "treatment_started",
        Body::TreatmentEnded(_) => "treatment_ended",
        Body::Gap(_) => "gap",
        Body::ClockStep(_) => "clock_step",
        Body::Evicted(_) => "evicted",
        Body::Correction(_) => "correction",
    }
}

/// A treatment's id as people see it: enough to tell those of a ward apart, too little to be used as one.
#[must_use]
pub fn short(treatment: TreatmentId) -> String {
    treatment.as_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Records counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// All that were meant.
    pub records: Group,
    /// Records whose key was destroyed; nothing else is known of them.
    pub erased: u64,
    /// Records that cannot be proved any more.
    pub lost: u64,
    /// By chair.
    pub chairs: BTreeMap<String, Group>,
    /// By kind.
    pub kinds: BTreeMap<String, Group>,
    /// By day in the gateway's time zone.
    pub days: BTreeMap<String, Group>,
    /// By the first eight digits of the treatment's id.
    pub treatments: BTreeMap<String, Group>,
}

/// Records that have something in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// How many.
    pub count: u64,
    /// The lowest sequence among them.
    pub first: u64,
    /// The highest one.
    pub last: u64,
    /// The earliest capture.
    pub from: Moment,
    /// The latest capture.
    pub to: Moment,
}

impl Group {
    fn of(sequence: Sequence, at: Timestamp) -> Self {
        Self { count: 1, first: sequence.0, last: sequence.0, from: at.into(), to: at.into() }
    }

    fn take_in(&mut self, other: Self) {
        if other.count == 0 {
            return;
        }
        *self = match self.count {
            0 => other,
            count => Self {
                count: count + other.count,
                first: self.first.min(other.first),
                last: self.last.max(other.last),
                from: self.from.min(other.from),
                to: self.to.max(other.to),
            },
        };
    }
}

/// One record on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number.
    pub sequence: u64,
    /// When it was captured.
    pub at: Moment,
    /// The chair.
    pub chair: String,
    /// What it is.
    pub kind: String,
    /// The first eight digits of its treatment's id.
    pub treatment: Option<String>,
}

impl Line {
    fn of(stored: &Stored) -> Self {
        let record = &stored.record;
        Self {
            sequence: stored.sequence.0,
            at: record.origin().at.into(),
            chair: record.origin().chair.as_str().to_owned(),
            kind: kind(record.body()).to_owned(),
            treatment: record.treatment().map(short),
        }
    }
}

impl Choice {
    fn fits(&self, stored: &Stored, day: &str) -> bool {
        let record = &stored.record;
        let fits = |choice: &Option<String>, is: &str| choice.as_ref().is_none_or(|wanted| wanted == is);
        let treatment = |wanted: &String| {
            record.treatment().is_some_and(|id| short(id).starts_with(wanted.get(..8).unwrap_or(wanted)))
        };
        fits(&self.chair, record.origin().chair.as_str())
            && fits(&self.kind, kind(record.body()))
            && fits(&self.day, day)
            && self.treatment.as_ref().is_none_or(treatment)
    }

    fn in_range(&self, sequence: Sequence) -> bool {
        self.from.is_none_or(|from| from <= sequence.0) && self.to.is_none_or(|to| sequence.0 <= to)
    }

    /// Whether it says nothing but where to look.
    const fn is_any(&self) -> bool {
        self.chair.is_none() && self.kind.is_none() && self.day.is_none() && self.treatment.is_none()
    }
}

impl Summary {
    /// Counts these records, and gives those that were meant.
    pub fn count<'a>(&mut self, seen: &'a [Seen], choice: &Choice, zone: &TimeZone) -> Vec<&'a Stored> {
        let mut meant = Vec::new();
        for Seen { sequence, content } in seen.iter().filter(|seen| choice.in_range(seen.sequence)) {
            let stored = match content {
                Content::Record(stored) => stored,
                // Whose they were nobody can say, so they are counted where nobody is asked for.
                Content::Erased => {
                    self.erased += u64::from(choice.is_any());
                    continue;
                }
                Content::Lost => {
                    self.lost += u64::from(choice.is_any());
                    continue;
                }
            };
            let record = &stored.record;
            let day = day(record.origin().at, zone);
            if !choice.fits(stored, &day) {
                continue;
            }
            let one = Group::of(*sequence, record.origin().at);
            self.records.take_in(one);
            let chair = record.origin().chair.as_str().to_owned();
            self.chairs.entry(chair).or_default().take_in(one);
            self.kinds.entry(kind(record.body()).to_owned()).or_default().take_in(one);
            self.days.entry(day).or_default().take_in(one);
            if let Some(treatment) = record.treatment() {
                self.treatments.entry(short(treatment)).or_default().take_in(one);
            }
            meant.push(&**stored);
        }
        meant
    }

    /// One line for each of these.
    #[must_use]
    pub fn lines(meant: &[&Stored]) -> Vec<Line> {
        meant.iter().map(|stored| Line::of(stored)).collect()
    }

    /// Adds what another page counted.
    pub fn take_in(&mut self, other: Summary) {
        let Summary { records, erased, lost, chairs, kinds, days, treatments } = other;
        self.records.take_in(records);
        self.erased += erased;
        self.lost += lost;
        for (ours, theirs) in [
            (&mut self.chairs, chairs),
            (&mut self.kinds, kinds),
            (&mut self.days, days),
            (&mut self.treatments, treatments),
        ] {
            theirs.into_iter().for_each(|(name, group)| ours.entry(name).or_default().take_in(group));
        }
    }
}

fn day(at: Timestamp, zone: &TimeZone) -> String {
    let at = jiff::Timestamp::from_microsecond(at.as_micros());
    at.map_or_else(|_| "unknown".to_owned(), |at| at.to_zoned(zone.clone()).date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::StoreId;
    use crate::spool::testing::{at, reading, record, record_of, treatment};

    fn seen() -> Vec<Seen> {
        let stored = |n: u64, record| {
            let stored = Stored { store: StoreId([1; 16]), sequence: Sequence(n), record };
            Seen { sequence: Sequence(n), content: Content::Record(Box::new(stored)) }
        };
        let gone = |n, content| Seen { sequence: Sequence(n), content };
        vec![
            stored(1, record(1)),
            stored(2, record_of(treatment(2), 3)),
            stored(3, reading(86_400)),
            gone(4, Content::Erased),
            gone(5, Content::Lost),
        ]
    }

    fn summary(choice: &Choice) -> Summary {
        let mut summary = Summary::default();
        summary.count(&seen(), choice, &TimeZone::UTC);
        summary
    }

    #[test]
    fn every_record_is_counted_once_under_each_heading() {
        let summary = summary(&Choice::default());
        let whole = Group { count: 3, first: 1, last: 3, from: at(1).into(), to: at(86_400).into() };
        assert_eq!((summary.records, summary.erased, summary.lost), (whole, 1, 1));
        for groups in [&summary.chairs, &summary.kinds, &summary.days] {
            assert_eq!(groups.values().map(|group| group.count).sum::<u64>(), 3, "{groups:?}");
        }
        assert_eq!(summary.days.keys().collect::<Vec<_>>(), ["2027-01-01", "2027-01-02"]);
        assert_eq!(summary.treatments.keys().collect::<Vec<_>>(), ["01010101", "02020202"]);
        assert!(summary.kinds.keys().all(|kind| KINDS.contains(&kind.as_str())));
    }

    #[test]
    fn a_choice_leaves_out_what_does_not_fit_it() {
        let kind = |kind: &str| Choice { kind: Some(kind.to_owned()), ..Choice::default() };
        assert_eq!(summary(&kind("reading")).records.count, 1);
        assert_eq!(summary(&kind("reading")).lost, 0, "what is lost is of no known kind");
        let treatment = Choice { treatment: Some("0202".to_owned()), ..Choice::default() };
        assert_eq!(summary(&treatment).records.first, 2);
        let day = Choice { day: Some("2027-01-02".to_owned()), ..Choice::default() };
        assert_eq!(summary(&day).records.last, 3);
        let range = Choice { from: Some(2), to: Some(4), ..Choice::default() };
        assert_eq!((summary(&range).records.count, summary(&range).erased, summary(&range).lost), (2, 1, 0));
    }

    #[test]
    fn pages_add_up_to_the_whole() {
        let (mut whole, seen) = (Summary::default(), seen());
        for page in seen.chunks(2) {
            let mut part = Summary::default();
            part.count(page, &Choice::default(), &TimeZone::UTC);
            whole.take_in(part);
        }
        assert_eq!(whole, summary(&Choice::default()));
    }
}
