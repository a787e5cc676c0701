//! How long to wait before a port is tried again: longer each time, never in step with other chairs.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Waits of 1, 2, 4 ... 30 seconds, each stretched by up to a half and never beyond 30 seconds.
#[derive(Debug)]
pub struct BackOff {
    next: Duration,
}

impl BackOff {
    /// Starts with the shortest wait.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next wait. `random` decides how far it is stretched; all its values are equally good.
    pub fn wait(&mut self, random: u16) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(LONGEST);
        let stretch = base / 2 * u32::from(random) / u32::from(u16::MAX);
        (base + stretch).min(LONGEST)
    }

    /// Back to the shortest wait: the line has proved that it works.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new()
    }
}

/// A random number for [`BackOff::wait`]; the middle where the system has none, which only costs the jitter.
#[must_use]
pub fn random() -> u16 {
    let mut bytes = [0; 2];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u16::from_ne_bytes(bytes),
        Err(_) => u16::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_from_one_second_to_thirty_and_start_again_after_a_reset() {
        let mut backoff = BackOff::new();
        let waits: Vec<u64> = (0..7).map(|_| backoff.wait(0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.wait(0), FIRST);
    }

    proptest! {
        #[test]
        fn every_wait_is_between_one_and_thirty_seconds(randoms in prop::collection::vec(any::<u16>(), 1..40)) {
            let mut backoff = BackOff::new();
            for random in randoms {
                let wait = backoff.wait(random);
                prop_assert!(wait >= FIRST && wait <= LONGEST);
            }
        }
    }
}
