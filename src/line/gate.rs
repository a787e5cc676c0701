//! The transmit gate: what a machine is sent stands in its model's list, byte for byte, or it is not sent.

use chairside_drivers::kit::driver::{Request, RequestSpec};

/// Holds every outgoing frame against the model's list and counts what went out, by name.
#[derive(Debug)]
pub struct Gate {
    listed: Vec<Listed>,
}

#[derive(Debug)]
struct Listed {
    request: Request,
    sent: u64,
}

/// Why the gate did not let a frame through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not in the model's list, by name, effect and bytes.
    #[error("the request is not in the model's list")]
    NotListed,
    /// The model only listens.
    #[error("the model only listens")]
    ListenOnly,
}

impl Gate {
    /// A gate for a model's requests.
    #[must_use]
    pub fn new(requests: &[RequestSpec]) -> Self {
        Self { listed: requests.iter().map(|spec| Listed { request: spec.request(), sent: 0 }).collect() }
    }

    /// Lets a request through, or not. Name and effect count as well as the bytes: a listed frame under another name
    /// would be counted as something it is not.
    ///
    /// # Errors
    /// [`Refusal::NotListed`]
    pub fn pass(&self, request: &Request) -> Result<(), Refusal> {
        if self.listed.iter().any(|listed| listed.request == *request) {
            Ok(())
        } else {
            Err(Refusal::NotListed)
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use chairside_drivers::kit::driver::Effect;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn spec(name: &'static str, effect: Effect, bytes: Vec<u8>) -> RequestSpec {
        RequestSpec { name, effect, bytes: Cow::Owned(bytes), source: "test" }
    }

    #[test]
    fn listed_bytes_under_another_effect_do_not_pass() {
        let gate = Gate::new(&[spec("read", Effect::Read, b"K".to_vec())]);
        let other = spec("read", Effect::Select, b"K".to_vec()).request();
        assert_eq!(gate.pass(&other), Err(Refusal::NotListed));
    }

    #[test]
    fn a_model_without_requests_lets_nothing_through() {
        let gate = Gate::new(&[]);
        assert_eq!(gate.pass(&spec("read", Effect::Read, Vec::new()).request()), Err(Refusal::NotListed));
    }

    proptest! {
        #[test]
        fn only_the_listed_bytes_pass(listed in prop::collection::vec(any::<u8>(), 1..8), other in prop::collection::vec(any::<u8>(), 0..10)) {
            let gate = Gate::new(&[spec("read", Effect::Read, listed.clone())]);
            let passed = gate.pass(&spec("read", Effect::Read, other.clone()).request()).is_ok();
            prop_assert_eq!(passed, listed == other);
        }
    }
}
