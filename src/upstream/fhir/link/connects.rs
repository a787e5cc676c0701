//! Paces connections: whatever became of one, and whichever client wants it, the next begins no sooner than a second later.

use crate::clock::Clock;
use chairside_drivers::kit::time::Tick;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::sleep;
use tower::{Layer, Service};

/// From the beginning of one connection to that of the next.
const APART: Duration = Duration::from_secs(1);

/// The connections to one server. Clones count together.
#[derive(Clone, Debug)]
pub(in crate::upstream::fhir) struct Connects {
    clock: Arc<dyn Clock>,
    /// When the latest one begins or began.
    latest: Arc<Mutex<Option<Tick>>>,
}

impl Connects {
    pub(in crate::upstream::fhir) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, latest: Arc::default() }
    }

    /// Takes the next turn, and says how long it is until then.
    fn take_turn(&self) -> Duration {
        let now = self.clock.tick();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = latest.map_or(now, |latest| latest.after(APART).max(now));
        *latest = Some(turn);
        turn.since(now)
    }

    /// How long it is until the latest turn that was taken.
    #[cfg(test)]
    pub(in crate::upstream::fhir) fn until_turn(&self) -> Duration {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.map_or(Duration::ZERO, |latest| latest.since(self.clock.tick()))
    }
}

impl<S> Layer<S> for Connects {
    type Service = Paced<S>;

    fn layer(&self, connector: S) -> Paced<S> {
        Paced { connects: self.clone(), connector }
    }
}

/// A connector that waits for its turn.
#[derive(Clone, Debug)]
pub(in crate::upstream::fhir) struct Paced<S> {
    connects: Connects,
    connector: S,
}

impl<S, R> Service<R> for Paced<S>
where
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, to: R) -> Self::Future {
        // The one that was found ready is the one that is called.
        let spare = self.connector.clone();
        let mut connector = std::mem::replace(&mut self.connector, spare);
        let connects = self.connects.clone();
        Box::pin(async move {
            let wait = connects.take_turn();
            if !wait.is_zero() {
                sleep(wait).await;
            }
            connector.call(to).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::model::time::Timestamp;
    use std::convert::Infallible;
    use tower::ServiceExt;

    #[tokio::test(start_paused = true)]
    async fn connections_that_are_wanted_at_once_begin_a_second_apart_whichever_client_wants_them() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(Timestamp::from_micros(0)));
        let connects = Connects::new(clock.clone());
        let begun = Arc::new(Mutex::new(Vec::new()));
        let client = || {
            let (clock, begun) = (clock.clone(), begun.clone());
            connects.layer(tower::service_fn(move |()| {
                begun.lock().unwrap().push(clock.tick());
                std::future::ready(Ok::<_, Infallible>(()))
            }))
        };
        let (one, other) = (client(), client());
        let wanted = [one.clone(), other, one.clone()].map(|it| tokio::spawn(it.oneshot(())));
        for connected in wanted {
            connected.await.unwrap().unwrap();
        }
        sleep(APART * 5).await;
        one.oneshot(()).await.unwrap();
        let begun = begun.lock().unwrap();
        let apart: Vec<_> = begun.windows(2).map(|two| two[1].since(two[0]).as_millis()).collect();
        assert_eq!(begun.len(), 4);
        assert!(apart.iter().all(|it| *it >= 999) && apart[..2].iter().all(|it| *it <= 1002), "{apart:?}");
    }
}
