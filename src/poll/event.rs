//! What a conversation tells the rest of the house.

use crate::line::LineError;
use crate::model::name::ChairName;
use crate::model::time::{ClockTrust, Timestamp};
use chairside_drivers::kit::driver::{FrameFault, Sample};
use chairside_drivers::kit::time::{Slot, Tick};

/// How many events of one chair may wait for its sealing task.
///
/// When the channel is full the conversation waits for sealing and asks its machine nothing meanwhile; slots that
/// pass by are counted as missed with [`MissCause::GatewayDown`]. Sealing ends in the spool and never waits for an
/// upstream, so only a disk that stands still can fill it.
pub const EVENTS: usize = 256;

/// Something that happened at one chair.
#[derive(Debug)]
pub struct ChairEvent {
    /// Where.
    pub chair: ChairName,
    /// What.
    pub event: LineEvent,
    /// When it happened.
    pub moment: Moment,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Wall-clock time.
    pub at: Timestamp,
    /// Monotonic time.
    pub tick: Tick,
    /// How far `at` can be trusted.
    pub clock: ClockTrust,
}

/// What happened. Each poll slot ends in exactly one `Answered` or one `Missed`.
#[derive(Debug)]
pub enum LineEvent {
    /// The port is open.
    Up,
    /// The machine answered; the event's moment is when its answer was whole.
    Answered {
        /// Which slot it fills.
        slot: Slot,
        /// All it said, in its order.
        samples: Vec<Sample>,
    },
    /// Slots nobody can fill any more; the event's moment is when the first of them was due.
    Missed {
        /// The first one.
        slot: Slot,
        /// How many in a row, one interval apart.
        slots: u32,
        /// Why.
        cause: MissCause,
    },
    /// The port could not be opened, or is gone. Told once for each new reason.
    Down {
        /// What is wrong and what to do.
        why: LineError,
    },
}

/// Why a slot is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MissCause {
    /// The machine did not answer.
    MachineSilent,
    /// The machine answered and the answer did not hold.
    AnswerFaulty(FrameFault),
    /// The cable or the adapter was gone.
    LineDown,
    /// The gateway did not ask: it was held up, or it is stopping.
    GatewayDown,
}

impl MissCause {
    /// A stable word for logs, `status` and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::MachineSilent => "machine silent",
            Self::AnswerFaulty(_) => "answer faulty",
            Self::LineDown => "line down",
            Self::GatewayDown => "gateway down",
        }
    }
}
