//! One finding of one chair: where and when it was made, what was found, and what the chair was doing.

use crate::model::alarm::AlarmEdge;
use crate::model::name::{ChairName, MachineName};
use crate::model::time::{ClockTrust, Timestamp};
use crate::model::value::Value;
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::time::{Slot, Tick};

/// What a chair is doing, judged from its device map's `[treatment]` rule.
///
/// A finding belongs to the running treatment only where its phase is [`Phase::Treating`]; in every other phase it is the
/// machine's own. That holds for [`Phase::Ending`] too: the treatment is not over yet and may go on, but while its time
/// stands still nobody can tell the patient's last blood on its way back from saline for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs.
    Idle,
    /// Pumps run, no treatment yet.
    Preparing,
    /// A patient is being treated.
    Treating,
    /// The treatment may be over; the hysteresis runs.
    Ending,
    /// Rinse or disinfection.
    Rinsing,
}

/// One normalised finding of one chair, still with the identity text the machine sent. Only `privacy` turns it into
/// something that can be shared.
#[derive(Debug)]
pub struct Capture {
    /// Where and when it was made.
    pub origin: Origin,
    /// The chair's phase at that moment; of an alarm edge, the phase the alarm was raised in: an end is whose its start is.
    pub phase: Phase,
    /// What was found.
    pub finding: Finding,
    /// Text off the wire that may identify a patient; dropped at the privacy border.
    pub identity: Vec<Sensitive<String>>,
}

/// Where and when a capture was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The chair.
    pub chair: ChairName,
    /// The machine that stood there.
    pub machine: MachineName,
    /// Its model.
    pub model: ModelId,
    /// The gateway's own time at capture.
    pub at: Timestamp,
    /// The monotonic time at capture, to re-time records of an untrusted clock.
    pub tick: Tick,
    /// How far `at` can be trusted.
    pub clock: ClockTrust,
    /// The poll slot it fills, if it fills one.
    pub slot: Option<Slot>,
    /// Capture time of this chair's previous values of the same treatment; `None` for the first. Lets a send policy
    /// find the first record of a window without keeping state.
    pub previous: Option<Timestamp>,
    /// Whether a simulator or a test environment made it.
    pub simulated: bool,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// All values of one poll.
    Values(Vec<Value>),
    /// An alarm edge.
    Alarm(AlarmEdge),
    /// A treatment began.
    TreatmentStarted,
    /// The treatment is over. Its origin is when that was, not when it was noticed: a machine that stood still or was silent
    /// was last treating a while ago.
    TreatmentEnded(EndReason),
}

/// Why a treatment is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The machine's in-treatment flag went off.
    FlagOff,
    /// Elapsed time stood still and the pump was stopped for the whole hysteresis.
    Frozen,
    /// Elapsed time fell: another treatment runs.
    ElapsedFell,
    /// The machine rinses.
    Rinse,
    /// Twelve hours passed.
    TooLong,
    /// Another patient was seated, or the patient was unseated.
    Reseated,
    /// After a restart or a silence the elapsed time did not agree with the treatment we knew.
    LostTrack,
}
