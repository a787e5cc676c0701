//! Time as drivers see it: an argument, never a clock.

use core::time::Duration;

/// A point on the gateway's monotonic clock, in microseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(u64);

impl Tick {
    /// The start of the monotonic clock.
    pub const ZERO: Tick = Tick(0);

    /// A tick from microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start of the monotonic clock.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The tick `wait` later; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        let micros = wait.as_micros();
        let micros = if micros > u64::MAX as u128 { u64::MAX } else { micros as u64 };
        Self(self.0.saturating_add(micros))
    }

    /// The time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Tick) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The number of one poll slot of one chair: slot n is due n intervals after the chair's line was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);
