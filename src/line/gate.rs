//! The transmit gate: what a machine is sent stands in its model's list, byte for byte, and comes no faster than polls do.

use chairside_drivers::kit::driver::{Request, RequestSpec};
use chairside_drivers::kit::time::Tick;
use std::time::Duration;

/// So many of one request may go out in a row: a late poll and a punctual one stand close together.
const BURST: u8 = 4;
/// After a burst, one more each poll interval; where that is long, one more each second.
const SLOWEST: Duration = Duration::from_secs(1);

/// Holds every outgoing frame against the model's list and its rate, and counts what went out, by name.
#[derive(Debug)]
pub struct Gate {
    listed: Vec<Listed>,
    refill: Duration,
}

#[derive(Debug)]
struct Listed {
    request: Request,
    sent: u64,
    /// How many may go out now.
    left: u8,
    /// Since when the next one is on its way.
    refilled: Tick,
}

/// Why the gate did not let a frame through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not in the model's list, by name, effect and bytes.
    #[error("the request is not in the model's list")]
    NotListed,
    /// More often than any dialogue needs.
    #[error("the request came too often")]
    TooOften,
    /// The model only listens.
    #[error("the model only listens")]
    ListenOnly,
}

impl Gate {
    /// A gate for a model's requests, at a chair that is asked once in `every`.
    #[must_use]
    pub fn new(requests: &[RequestSpec], every: Duration) -> Self {
        let listed = |spec: &RequestSpec| Listed {
            request: spec.request(),
            sent: 0,
            left: BURST,
            refilled: Tick::ZERO,
        };
        let refill = every.clamp(Duration::from_millis(1), SLOWEST);
        Self { listed: requests.iter().map(listed).collect(), refill }
    }

    /// Lets a request through, or not. Name and effect count as well as the bytes: a listed frame under another name
    /// would be counted as something it is not.
    ///
    /// # Errors
    /// [`Refusal::NotListed`], [`Refusal::TooOften`]
    pub fn pass(&mut self, request: &Request, now: Tick) -> Result<(), Refusal> {
        let listed = self.listed.iter_mut().find(|listed| listed.request == *request);
        let listed = listed.ok_or(Refusal::NotListed)?;
        listed.refill(self.refill, now);
        listed.left = listed.left.checked_sub(1).ok_or(Refusal::TooOften)?;
        Ok(())
    }

    /// Counts a request that has gone out whole.
    pub fn sent(&mut self, request: &Request) {
        if let Some(listed) = self.listed.iter_mut().find(|listed| listed.request == *request) {
            listed.sent += 1;
        }
    }

    /// How often each listed request was sent, in the list's order.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.listed.iter().map(|listed| (listed.request.name(), listed.sent))
    }
}

impl Listed {
    fn refill(&mut self, every: Duration, now: Tick) {
        while self.left < BURST && now.since(self.refilled) >= every {
            self.left += 1;
            self.refilled = self.refilled.after(every);
        }
        if self.left == BURST {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chairside_drivers::kit::driver::Effect;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn spec(name: &'static str, effect: Effect, bytes: Vec<u8>) -> RequestSpec {
        RequestSpec { name, effect, bytes: Cow::Owned(bytes), source: "test" }
    }

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn a_driver_that_asks_without_end_is_refused_after_a_burst_and_one_that_polls_never_is() {
        let read = spec("read", Effect::Read, b"K".to_vec());
        let mut gate = Gate::new(std::slice::from_ref(&read), Duration::from_millis(500));
        let start = Tick::ZERO.after(Duration::from_secs(60));
        let passed = (0..10).take_while(|_| gate.pass(&read.request(), start).is_ok()).count();
        assert_eq!(passed, usize::from(BURST));
        assert_eq!(gate.pass(&read.request(), start), Err(Refusal::TooOften));
        for slot in 1..1000 {
            let now = start.after(Duration::from_millis(500) * slot);
            assert_eq!(gate.pass(&read.request(), now), Ok(()), "slot {slot}");
        }
    }

    #[test]
    fn listed_bytes_under_another_effect_do_not_pass() {
        let mut gate = Gate::new(&[spec("read", Effect::Read, b"K".to_vec())], EVERY);
        let other = spec("read", Effect::Select, b"K".to_vec()).request();
        assert_eq!(gate.pass(&other, Tick::ZERO), Err(Refusal::NotListed));
    }

    #[test]
    fn a_model_without_requests_lets_nothing_through() {
        let mut gate = Gate::new(&[], EVERY);
        assert_eq!(
            gate.pass(&spec("read", Effect::Read, Vec::new()).request(), Tick::ZERO),
            Err(Refusal::NotListed)
        );
    }

    proptest! {
        #[test]
        fn only_the_listed_bytes_pass(listed in prop::collection::vec(any::<u8>(), 1..8), other in prop::collection::vec(any::<u8>(), 0..10)) {
            let mut gate = Gate::new(&[spec("read", Effect::Read, listed.clone())], EVERY);
            let passed = gate.pass(&spec("read", Effect::Read, other.clone()).request(), Tick::ZERO).is_ok();
            prop_assert_eq!(passed, listed == other);
        }
    }
}
