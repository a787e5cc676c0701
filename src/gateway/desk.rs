//! Answers what commands ask over the control socket, and keeps the audit record of it.

mod spool;

use super::chair::Shared;
use super::seating::{self, Act, Claim, SeatRequest};
use crate::audit::{Audit, AuditError, Caller, Entry};
use crate::control::server::{Desk, refused};
use crate::control::{Answer, RefusalCode, Request};
use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::privacy::seats::{SeatError, Seated};
use crate::spool::SpoolStatus;
use crate::status::gaps::Gaps;
use chairside_drivers::kit::time::Tick;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A chair that has not come to a seat by then waits for its disk; whoever asked may ask again.
const SEAT: Duration = Duration::from_secs(10);
/// The page with the chairs does not wait longer for the counts of the spool.
const COUNTS: Duration = Duration::from_secs(2);
/// An answer that is nothing without the spool waits so long for it.
const SPOOL: Duration = Duration::from_secs(10);
/// Lines that nobody understands are told at most so often: the audit record is never evicted.
const MALFORMED: Duration = Duration::from_secs(60);

/// The gateway's side of the control socket.
#[derive(Clone)]
pub(super) struct FrontDesk {
    pub(super) shared: Arc<Shared>,
    pub(super) audit: Arc<Audit>,
    pub(super) chairs: BTreeMap<ChairName, mpsc::Sender<SeatRequest>>,
    pub(super) zone: TimeZone,
    pub(super) keep_delivered: Duration,
    pub(super) malformed: Arc<Mutex<Malformed>>,
}

/// Lines that nobody understood.
#[derive(Debug, Default)]
pub(super) struct Malformed {
    told: Option<Tick>,
    /// How many came that the audit record does not tell of yet.
    untold: u64,
}

impl Malformed {
    /// One more. Gives how many are to be told now, if it is time to.
    fn count(&mut self, now: Tick) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.since(told) < MALFORMED) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Desk for FrontDesk {
    async fn answer(&self, caller: Caller, request: Option<Request>) -> Answer {
        let Some(request) = request else {
            let why = "the request cannot be understood";
            return self.deny(caller, "unknown", RefusalCode::Malformed, why).await;
        };
        let act = request.word();
        match request {
            Request::Status => self.status().await,
            Request::Gaps => self.gaps(caller, act).await,
            Request::Seat { chair, record_number, correct } => {
                let keep_delivered = self.keep_delivered;
                self.seat(caller, act, chair, Act::Seat { record_number, correct, keep_delivered }).await
            }
            Request::Unseat { chair } => self.seat(caller, act, chair, Act::Unseat).await,
            Request::Spool(ask) => self.spool(caller, ask).await,
        }
    }
}

impl FrontDesk {
    /// The board, with fresh counts if the spool gives them soon: it is looked at most when the disk hangs.
    async fn status(&self) -> Answer {
        if let Ok(Ok(spool)) = timeout(COUNTS, self.shared.spool.status()).await {
            self.post(&spool);
        }
        let (now, _) = self.shared.clock.now();
        Answer::Status { status: Box::new(self.shared.board.snapshot(now)) }
    }

    async fn gaps(&self, caller: Caller, act: &'static str) -> Answer {
        let why = match timeout(SPOOL, self.shared.spool.status()).await {
            Ok(Ok(spool)) => {
                self.post(&spool);
                let (now, _) = self.shared.clock.now();
                let zone = self.zone.iana_name().unwrap_or("UTC");
                let gaps = Gaps::of(&self.shared.board.snapshot(now), &spool.slots, zone);
                return Answer::Gaps { gaps: Box::new(gaps) };
            }
            Ok(Err(_)) => "the gateway is stopping; ask again once it runs",
            Err(_) => "the spool does not answer, its disk may hang; ask again",
        };
        self.deny(caller, act, RefusalCode::NotNow, why).await
    }

    /// Puts on the board what the spool says now.
    fn post(&self, spool: &SpoolStatus) {
        let (now, _) = self.shared.clock.now();
        self.shared.board.set_spool(spool, now, self.shared.clock.tick());
    }

    /// Whoever asks may hang up; what is done then is in the audit record all the same.
    async fn seat(&self, caller: Caller, act: &'static str, chair: String, what: Act) -> Answer {
        let desk = self.clone();
        let seating = tokio::spawn(async move { desk.seat_at(caller, act, &chair, what).await });
        seating.await.unwrap_or_else(|_| refused(RefusalCode::NotNow, "the gateway is stopping"))
    }

    async fn seat_at(&self, caller: Caller, act: &'static str, chair: &str, what: Act) -> Answer {
        let known = ChairName::new(chair).ok().and_then(|name| self.chairs.get_key_value(&name));
        let Some((chair, requests)) = known else {
            // What was typed is not repeated: it may be a record number in the wrong place.
            let names: Vec<&str> = self.chairs.keys().map(ChairName::as_str).collect();
            let why = if names.is_empty() {
                "there is no such chair; the configuration names none yet".to_owned()
            } else {
                format!("there is no such chair; there are {}", names.join(", "))
            };
            return self.deny(caller, act, RefusalCode::UnknownChair, why).await;
        };
        let claim = Claim::default();
        let (answer, answered) = oneshot::channel();
        let request = SeatRequest { act: what, claim: claim.clone(), answer };
        let mut acted = pin!(async {
            requests.send(request).await.ok()?;
            answered.await.ok()
        });
        let acted = match timeout(SEAT, &mut acted).await {
            Ok(acted) => acted,
            Err(_) if claim.take() => {
                let why = "the gateway waits for its disk and did not come to it; nothing was changed. `chairside status` \
                           says how full the disk is; ask again";
                return self.deny(caller, act, RefusalCode::NotNow, why).await;
            }
            // The chair is at it.
            Err(_) => acted.await,
        };
        match acted {
            Some(Ok(seated)) => self.seated(caller, act, chair, &seated).await,
            Some(Err(refusal)) => self.not_seated(caller, act, &refusal).await,
            None => {
                let why = "the gateway is stopping and did not take the seat; try again once it runs";
                self.deny(caller, act, RefusalCode::NotNow, why).await
            }
        }
    }

    async fn seated(&self, caller: Caller, act: &'static str, chair: &ChairName, seated: &Seated) -> Answer {
        let outcome = seating::word(seated.outcome);
        let treatment = self.shared.seats.running(chair).map(|running| running.id);
        tracing::info!(chair = chair.as_str(), act, outcome, uid = caller.uid, "seat changed");
        let name = chair.clone();
        self.note(act, move |audit, now| {
            audit.note(now, &Entry::Seat { caller, act, chair: name.as_str(), treatment, outcome })
        })
        .await;
        Answer::Done { said: seating::sentence(chair.as_str(), seated.outcome, &self.zone) }
    }

    async fn not_seated(&self, caller: Caller, act: &'static str, refusal: &SeatError) -> Answer {
        let code = match refusal {
            SeatError::RecordNumber(_) => RefusalCode::RecordNumber,
            SeatError::Unsettled(_)
            | SeatError::NoTreatment(_)
            | SeatError::TooLate { .. }
            | SeatError::LeftEarly { .. } => RefusalCode::NotPossible,
            SeatError::Keyring(_) => RefusalCode::NotNow,
        };
        self.deny(caller, act, code, seating::refusal(refusal, &self.zone)).await
    }

    async fn deny(
        &self,
        caller: Caller,
        act: &'static str,
        code: RefusalCode,
        why: impl Into<String>,
    ) -> Answer {
        let times = match code {
            RefusalCode::Malformed => {
                let tick = self.shared.clock.tick();
                self.malformed.lock().unwrap_or_else(PoisonError::into_inner).count(tick)
            }
            _ => Some(1),
        };
        if let Some(times) = times {
            tracing::warn!(act, why = code.word(), uid = caller.uid, times, "request refused");
            let denied = Entry::Denied { caller, act, why: code.word(), times };
            self.note(act, move |audit, now| audit.note(now, &denied)).await;
        }
        refused(code, why)
    }

    /// Writes an audit entry, away from the threads that ask the machines: it waits for the disk. Gives whether it is written.
    async fn note(
        &self,
        act: &'static str,
        write: impl FnOnce(&Audit, Timestamp) -> Result<(), AuditError> + Send + 'static,
    ) -> bool {
        let (now, _) = self.shared.clock.now();
        let audit = Arc::clone(&self.audit);
        let error = match tokio::task::spawn_blocking(move || write(&audit, now)).await {
            Ok(Ok(())) => return true,
            Ok(Err(refusal)) => crate::telemetry::chain(&refusal),
            Err(_) => "the gateway is stopping".to_owned(),
        };
        tracing::error!(act, error, "the audit record cannot be written; make room on its disk");
        false
    }
}

#[cfg(test)]
mod tests;
