//! The only place that asks the operating system what time it is.

use crate::model::time::{ClockTrust, Timestamp};
use chairside_drivers::kit::time::Tick;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells time. Everything else in the house takes time as an argument or asks one of these.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic time, for waiting and intervals. Follows tokio's clock, so paused tests own it.
    fn tick(&self) -> Tick;
    /// Wall-clock time and how far it can be trusted.
    fn now(&self) -> (Timestamp, ClockTrust);
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: tokio::time::Instant,
    floor: Timestamp,
}

impl SystemClock {
    /// A clock that trusts no wall time before `floor`.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn new(floor: Timestamp) -> Self {
        Self { started: tokio::time::Instant::now(), floor }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    fn tick(&self) -> Tick {
        Tick::ZERO.after(tokio::time::Instant::now().duration_since(self.started))
    }

    fn now(&self) -> (Timestamp, ClockTrust) {
        let now = wall_clock();
        (now, if now < self.floor { ClockTrust::Untrusted } else { ClockTrust::Trusted })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn wall_clock() -> Timestamp {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    Timestamp::from_micros(micros)
}
