//! The live state of chairs, spool and upstreams, for `status`: what a task knows about itself, and never who sits where.

mod board;
pub mod gaps;
mod room;
pub mod slots;

pub use board::Board;
pub use slots::Slots;

use crate::config::settings::ChairSettings;
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::model::value::{Doubts, Reading, Value};
use crate::normalise::Phase;
use crate::poll::LineFigures;
use crate::spool::space::Level;
use crate::upstream::forward;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything on the board at one moment. Its JSON is what `chairside status --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The gateway's name.
    pub gateway: String,
    /// Whether everything is branded as a test.
    pub test: bool,
    /// What the gateway is doing.
    pub state: GatewayState,
    /// Since when it runs.
    pub since: Moment,
    /// When this snapshot was taken.
    pub now: Moment,
    /// Whether the wall clock can be trusted.
    pub clock_trusted: bool,
    /// Steps of the wall clock since the start; one that happened while the gateway was down is among them.
    #[serde(default)]
    pub clock_steps: u64,
    /// The last one.
    #[serde(default)]
    pub last_clock_step: Option<ClockStepped>,
    /// The poll slots of all chairs of the configuration together.
    pub slots: Slots,
    /// Capture time of the oldest record that waits to be sent to any upstream.
    pub oldest_waiting: Option<Moment>,
    /// Capture time of the oldest record that any upstream does not have yet, held ones included.
    #[serde(default)]
    pub oldest_unsent: Option<Moment>,
    /// When the spool last gave its counts: slots, records and what each upstream has.
    #[serde(default)]
    pub counts_of: Option<Moment>,
    /// One per chair of the configuration, in its order.
    pub chairs: Vec<Chair>,
    /// The spool.
    pub spool: Spool,
    /// One per upstream of the configuration, in its order.
    pub upstreams: Vec<UpstreamState>,
}

/// What the gateway is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayState {
    /// Opening the spool and trying the lines.
    #[default]
    Starting,
    /// Everything was tried once.
    Ready,
    /// Told to stop.
    Stopping,
}

/// A UTC time that reads as RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Moment(pub i64);

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Self(at.as_micros())
    }
}

impl From<Moment> for Timestamp {
    fn from(at: Moment) -> Self {
        Self::from_micros(at.0)
    }
}

impl From<Moment> for String {
    fn from(at: Moment) -> Self {
        crate::clock::stamp(at.into())
    }
}

impl TryFrom<String> for Moment {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>().map(|at| Self(at.as_microsecond()))
    }
}

/// A step of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStepped {
    /// What it should have shown.
    pub expected: Moment,
    /// What it showed.
    pub found: Moment,
}

/// One chair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chair {
    /// Its name.
    pub name: String,
    /// The machine's own number.
    pub machine: String,
    /// The model.
    pub model: String,
    /// The port.
    pub port: String,
    /// The poll interval in seconds.
    pub every_s: f64,
    /// What the line says.
    pub line: Line,
    /// What the chair does.
    pub phase: Doing,
    /// Whether a patient is seated on the running treatment.
    pub seat: Seat,
    /// Since when the running treatment runs.
    pub treatment_since: Option<Moment>,
    /// When the machine last answered.
    pub last_answer: Option<Moment>,
    /// Polls answered since the start.
    pub answered: u64,
    /// Polls without an answer that holds, since the start.
    pub missed: u64,
    /// Polls without such an answer since the last one that held.
    pub missed_in_a_row: u32,
    /// Its poll slots, over all runs of the gateway.
    pub slots: Slots,
    /// What the line itself counted.
    pub figures: LineCounts,
    /// The last values, by parameter key.
    pub values: BTreeMap<String, LastValue>,
}

/// What a line counted since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineCounts {
    /// How often the port was opened.
    pub opened: u64,
    /// Slots that were answered.
    pub answered: u64,
    /// Slots that were missed, by cause.
    pub missed: BTreeMap<String, u64>,
    /// Requests that went out, by name.
    pub sent: BTreeMap<String, u64>,
    /// What was wrong on the line, by its word.
    pub troubles: BTreeMap<String, u64>,
}

impl LineCounts {
    fn of(figures: &LineFigures) -> Self {
        let named = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        Self {
            opened: figures.opened,
            answered: figures.answered,
            missed: named(&figures.missed),
            sent: named(&figures.sent),
            troubles: named(&figures.troubles),
        }
    }
}

/// What a chair's line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Line {
    /// Not tried yet, or open and not asked yet.
    Starting,
    /// The machine answers.
    Answering,
    /// The machine does not answer.
    Silent {
        /// Since its first unanswered poll.
        since: Moment,
    },
    /// The machine answers and the answers do not hold.
    Faulty {
        /// Since its first faulty answer.
        since: Moment,
    },
    /// The port is not open.
    Down {
        /// Since when.
        since: Moment,
        /// What is wrong and what to do.
        why: String,
    },
}

/// What a chair does, in words of the ward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Nothing known yet.
    Unknown,
    /// Nothing runs.
    Idle,
    /// Pumps run, no treatment yet.
    Preparing,
    /// A patient is being treated.
    Treating,
    /// The treatment may be over.
    Ending,
    /// Rinse or disinfection.
    Rinsing,
}

impl From<Phase> for Doing {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Idle => Self::Idle,
            Phase::Preparing => Self::Preparing,
            Phase::Treating => Self::Treating,
            Phase::Ending => Self::Ending,
            Phase::Rinsing => Self::Rinsing,
        }
    }
}

/// Whether somebody is seated; never who.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// Nobody.
    Empty,
    /// A patient is seated and waits for the next treatment.
    Waiting,
    /// The running treatment has its patient.
    Seated,
}

/// The last value of one parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastValue {
    /// What it is, for people.
    pub title: String,
    /// What it reads; exact digits, or a state's name.
    pub text: String,
    /// UCUM code of its unit.
    pub unit: Option<String>,
    /// When it was read.
    pub at: Moment,
    /// Whether something is doubtful about it.
    pub doubtful: bool,
}

/// The spool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spool {
    /// Highest durable sequence.
    pub last: u64,
    /// Records in it.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes it may take.
    pub max_bytes: u64,
    /// How full it is, of that or of what its file system has, whichever fills first.
    #[serde(default)]
    pub percent: u64,
    /// What it does about that.
    #[serde(default)]
    pub level: Level,
    /// Bytes it may still take before the oldest records make room for new ones.
    pub room: u64,
    /// Bytes it grows by in an hour at the present rate.
    pub bytes_per_hour: u64,
    /// Days until then, if nothing can be sent meanwhile; `null` where nothing comes in.
    pub days_left: Option<f64>,
    /// Volumes that were not complete and are set aside, by name.
    pub set_aside: Vec<String>,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// Its name.
    pub name: String,
    /// Records it has.
    pub delivered: u64,
    /// Records its `send` policy did not ask for.
    pub skipped: u64,
    /// Records still to be sent.
    pub waiting: u64,
    /// Records that wait for a seat.
    pub held: u64,
    /// Records it refused for good.
    pub refused: u64,
    /// Records removed unsent because the disk was full.
    pub evicted: u64,
    /// Records lost in the store.
    pub lost: u64,
    /// Records whose key was destroyed.
    pub erased: u64,
    /// Single resources of records that it took, ever.
    pub parts_delivered: u64,
    /// Single resources of records that it refused for good.
    pub parts_refused: u64,
    /// Capture time of the oldest record waiting.
    pub oldest_waiting: Option<Moment>,
    /// Capture time of the oldest record waiting or held.
    #[serde(default)]
    pub oldest_unsent: Option<Moment>,
    /// Resources it took since the start; a record is several of them.
    pub resources: u64,
    /// When it last took something.
    pub last_success: Option<Moment>,
    /// What keeps it from taking records, and what to do.
    pub trouble: Option<Stopped>,
    /// How it is sent to just now.
    #[serde(default)]
    pub sending: Sending,
}

/// How an upstream is sent to just now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// Records at a time.
    pub records: usize,
    /// Resources in one request.
    pub resources: usize,
    /// Whether requests go out in gzip.
    pub gzip: bool,
    /// When our own certificate ends.
    pub certificate_until: Option<Moment>,
    /// What a person should see to before it stops anything.
    pub notices: Vec<String>,
}

/// Why an upstream takes nothing just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// A stable word.
    pub code: String,
    /// What is wrong and what to do.
    pub text: String,
    /// Whether a person is needed: nothing goes on by itself.
    pub paused: bool,
}

impl UpstreamState {
    fn follows(&mut self, state: &forward::State) {
        self.resources = state.resources;
        self.last_success = state.last_success.map(Moment::from);
        let setback = state.setback.as_ref().map(|trouble| (trouble, false));
        self.trouble = state.condition.trouble().or(setback).map(|(trouble, paused)| Stopped {
            code: trouble.code.to_owned(),
            text: trouble.to_string(),
            paused,
        });
        self.sending = Sending {
            records: state.records,
            resources: state.wire.entries,
            gzip: state.wire.gzip,
            certificate_until: state.wire.certificate_until.map(Moment::from),
            notices: state.wire.notices.iter().map(ToString::to_string).collect(),
        };
    }
}

impl UpstreamState {
    /// An upstream of the configuration of which nothing is known yet.
    #[must_use]
    pub fn untried(name: &UpstreamName) -> Self {
        Self {
            name: name.as_str().to_owned(),
            delivered: 0,
            skipped: 0,
            waiting: 0,
            held: 0,
            refused: 0,
            evicted: 0,
            lost: 0,
            erased: 0,
            parts_delivered: 0,
            parts_refused: 0,
            oldest_waiting: None,
            oldest_unsent: None,
            resources: 0,
            last_success: None,
            trouble: None,
            sending: Sending::default(),
        }
    }
}

/// What makes a reading doubtful to somebody who looks at it now; that polls before it were missed does not.
const DOUBTS: [Doubts; 3] = [Doubts::OUTSIDE_PLAUSIBLE, Doubts::MACHINE_CLOCK_WRONG, Doubts::CLOCK_UNTRUSTED];

impl Chair {
    /// A chair of the configuration whose line was not tried yet.
    #[must_use]
    pub fn untried(chair: &ChairSettings) -> Self {
        Self {
            name: chair.name.as_str().to_owned(),
            machine: chair.machine.as_str().to_owned(),
            model: chair.model.id().as_str().to_owned(),
            port: chair.port.display().to_string(),
            every_s: chair.every.as_secs_f64(),
            line: Line::Starting,
            phase: Doing::Unknown,
            seat: Seat::Empty,
            treatment_since: None,
            last_answer: None,
            answered: 0,
            missed: 0,
            missed_in_a_row: 0,
            slots: Slots::default(),
            figures: LineCounts::default(),
            values: BTreeMap::new(),
        }
    }

    /// The machine answered.
    pub fn answers(&mut self, at: Timestamp) {
        self.line = Line::Answering;
        self.last_answer = Some(at.into());
        self.answered += 1;
        self.missed_in_a_row = 0;
    }

    /// A poll stayed without an answer that holds. One lost answer is no silence yet where polls are frequent; a slow
    /// chair is called silent at once, so that silence shows within half a minute either way.
    pub fn misses(&mut self, at: Timestamp, faulty: bool) {
        self.missed += 1;
        self.missed_in_a_row = self.missed_in_a_row.saturating_add(1);
        let since = match self.line {
            Line::Silent { since } | Line::Faulty { since } => since,
            Line::Answering if self.missed_in_a_row < 2 && self.every_s < 10.0 => return,
            Line::Starting | Line::Answering | Line::Down { .. } => at.into(),
        };
        self.line = if faulty { Line::Faulty { since } } else { Line::Silent { since } };
    }

    /// The port is not open.
    pub fn loses_line(&mut self, at: Timestamp, why: String) {
        let since = match self.line {
            Line::Down { since, .. } => since,
            Line::Starting | Line::Answering | Line::Silent { .. } | Line::Faulty { .. } => at.into(),
        };
        self.line = Line::Down { since, why };
    }

    /// The port is open.
    pub fn has_line(&mut self) {
        if matches!(self.line, Line::Down { .. }) {
            self.line = Line::Starting;
        }
    }

    /// Shows the values of one poll.
    pub fn shows(&mut self, values: &[Value], at: Timestamp) {
        for value in values {
            let row = value.parameter.row();
            let text = match value.reading {
                Reading::Number(number) => number.to_string(),
                Reading::State(name) => name.to_owned(),
                Reading::UnknownState => "unknown".to_owned(),
                Reading::Absent => continue,
            };
            let last = LastValue {
                title: row.title.to_owned(),
                text,
                unit: row.unit.map(|unit| unit.ucum().to_owned()),
                at: at.into(),
                doubtful: DOUBTS.iter().any(|doubt| value.doubts.contains(*doubt)),
            };
            self.values.insert(row.key.to_owned(), last);
        }
    }
}

#[cfg(test)]
impl Chair {
    /// A chair of which nothing is known, for tests of what shows it.
    pub(crate) fn sample(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            machine: "asset-14".to_owned(),
            model: "kpoll/nikkiso_dbb27c".to_owned(),
            port: "/dev/ttyS0".to_owned(),
            every_s: 10.0,
            line: Line::Starting,
            phase: Doing::Unknown,
            seat: Seat::Empty,
            treatment_since: None,
            last_answer: None,
            answered: 0,
            missed: 0,
            missed_in_a_row: 0,
            slots: Slots::default(),
            figures: LineCounts::default(),
            values: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn a_slow_chair_is_silent_at_its_first_miss_and_a_fast_one_at_its_second() {
        let mut slow = Chair { line: Line::Answering, ..Chair::sample("slow") };
        slow.misses(NOON, false);
        assert_eq!(slow.line, Line::Silent { since: NOON.into() });

        let mut fast = Chair { line: Line::Answering, every_s: 1.0, ..Chair::sample("fast") };
        fast.misses(NOON, false);
        assert_eq!(fast.line, Line::Answering);
        fast.misses(NOON.after(Duration::from_secs(1)), true);
        assert!(matches!(fast.line, Line::Faulty { .. }));
        fast.answers(NOON);
        assert_eq!((fast.line.clone(), fast.missed_in_a_row, fast.missed), (Line::Answering, 0, 2));
    }

    #[test]
    fn a_line_that_stays_down_counts_from_its_first_moment() {
        let mut chair = Chair::sample("chair-1");
        chair.loses_line(NOON, "busy".to_owned());
        chair.loses_line(NOON.after(Duration::from_secs(5)), "no port".to_owned());
        assert_eq!(chair.line, Line::Down { since: NOON.into(), why: "no port".to_owned() });
        chair.has_line();
        assert_eq!(chair.line, Line::Starting);
    }

    #[test]
    fn a_moment_reads_as_rfc_3339() {
        let moment = Moment::from(NOON);
        let json = serde_json::to_string(&moment).unwrap();
        assert_eq!(json, "\"2027-01-15T08:00:00.000Z\"");
        assert_eq!(serde_json::from_str::<Moment>(&json).unwrap(), moment);
    }
}
