//! Time on a record: UTC, and how far it can be trusted.

use std::time::Duration;

/// A point in time, UTC, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// By how many microseconds it lies behind `earlier`; less than zero when it lies before.
    #[must_use]
    pub const fn micros_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point this many microseconds later, or earlier where less than zero.
    #[must_use]
    pub const fn shifted(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The point `wait` later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// How far the wall clock could be trusted when a record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockTrust {
    /// At or after the persisted time floor, and no step since the last look.
    Trusted,
    /// Before the time floor, or not set yet by the time source it waits for: the box has no battery.
    Untrusted,
    /// It was not to be trusted, and the time was found afterwards from the monotonic clock. Made on the way to a receiver,
    /// never stored.
    Retimed,
    /// It was not to be trusted, and the computer was restarted before it was: the true time lies between the time given and
    /// this one. Made on the way to a receiver, never stored.
    Between {
        /// The latest it can have been.
        until: Timestamp,
    },
}

/// What time it was at a tick at which the wall clock was not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrueTime {
    /// Not known yet: no clock was trusted since.
    Unknown,
    /// Found from where the trusted clock met the monotonic one.
    At(Timestamp),
    /// The computer was restarted in between, so only bounds are known.
    Between {
        /// The earliest.
        from: Timestamp,
        /// The latest.
        until: Timestamp,
    },
}

/// The wall clock jumped against the monotonic one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// What the clock should have shown.
    pub expected: Timestamp,
    /// What it showed.
    pub found: Timestamp,
}
