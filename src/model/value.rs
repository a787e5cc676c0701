//! One normalised value: a parameter, what it reads, whether it is news, and what is doubtful about it.

use crate::model::parameter::Parameter;
use chairside_drivers::kit::decimal::Decimal;

/// One normalised value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// What was measured.
    pub parameter: Parameter,
    /// What it reads, in the parameter's unit.
    pub reading: Reading,
    /// Whether it is news.
    pub mark: Mark,
    /// What is doubtful about it.
    pub doubts: Doubts,
}

/// What a value reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A number in the parameter's unit.
    Number(Decimal),
    /// A state: one of the names in the parameter's row.
    State(&'static str),
    /// A state the driver or the table does not know.
    UnknownState,
    /// The machine said that it has no reading.
    Absent,
}

/// Whether a value is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A new observation: measured values always, settings and states when they changed, spots when measured.
    New,
    /// Repeated by the machine.
    Same,
    /// Stood there before we or this patient came; never the patient's.
    Baseline,
}

/// What is doubtful about a value: a set of flags that travels with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Doubts(u16);

impl Doubts {
    /// Nothing is doubtful.
    pub const NONE: Doubts = Doubts(0);
    /// Outside the plausible range while treating.
    pub const OUTSIDE_PLAUSIBLE: Doubts = Doubts(1);
    /// The machine's own clock disagrees with ours by more than a minute.
    pub const MACHINE_CLOCK_WRONG: Doubts = Doubts(1 << 1);
    /// The first value after a gap.
    pub const AFTER_GAP: Doubts = Doubts(1 << 2);
    /// The gateway's clock was not trusted at capture.
    pub const CLOCK_UNTRUSTED: Doubts = Doubts(1 << 3);

    /// Every flag there is.
    const KNOWN: u16 = 0b1111;

    /// The flags as written to disk.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The flags read from disk; `None` when there is one we do not know.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Doubts) -> Self {
        Self(self.0 | other.0)
    }

    /// All flags but these.
    #[must_use]
    pub const fn without(self, other: Doubts) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Doubts) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is doubtful.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
