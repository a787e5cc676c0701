//! Answers what commands ask over the control socket, and keeps the audit record of it.

mod spool;

use super::chair::Shared;
use super::seating::{self, Act, SeatRequest};
use crate::audit::{Audit, Caller, Entry};
use crate::control::server::{Desk, refused};
use crate::control::{Answer, RefusalCode, Request};
use crate::model::name::ChairName;
use crate::privacy::seats::{SeatError, Seated};
use crate::spool::SpoolStatus;
use crate::status::gaps::Gaps;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The gateway's side of the control socket.
pub(super) struct FrontDesk {
    pub(super) shared: Arc<Shared>,
    pub(super) audit: Arc<Audit>,
    pub(super) chairs: BTreeMap<ChairName, mpsc::Sender<SeatRequest>>,
    pub(super) zone: TimeZone,
    pub(super) keep_delivered: Duration,
}

impl Desk for FrontDesk {
    async fn answer(&self, caller: Caller, request: Option<Request>) -> Answer {
        let Some(request) = request else {
            return self.deny(caller, "unknown", RefusalCode::Malformed, "the request cannot be understood");
        };
        let act = request.word();
        match request {
            Request::Status => self.status().await,
            Request::Gaps => self.gaps(caller, act).await,
            Request::Seat { chair, record_number, correct } => {
                let keep_delivered = self.keep_delivered;
                self.seat(caller, act, &chair, Act::Seat { record_number, correct, keep_delivered }).await
            }
            Request::Unseat { chair } => self.seat(caller, act, &chair, Act::Unseat).await,
            Request::Spool(ask) => self.spool(caller, ask).await,
        }
    }
}

impl FrontDesk {
    async fn status(&self) -> Answer {
        if let Ok(spool) = self.shared.spool.status().await {
            self.post(&spool);
        }
        let (now, _) = self.shared.clock.now();
        Answer::Status { status: Box::new(self.shared.board.snapshot(now)) }
    }

    async fn gaps(&self, caller: Caller, act: &'static str) -> Answer {
        let Ok(spool) = self.shared.spool.status().await else {
            let why = "the gateway is stopping; ask again once it runs";
            return self.deny(caller, act, RefusalCode::NotNow, why);
        };
        self.post(&spool);
        let (now, _) = self.shared.clock.now();
        let zone = self.zone.iana_name().unwrap_or("UTC");
        let gaps = Gaps::of(&self.shared.board.snapshot(now), &spool.slots, zone);
        Answer::Gaps { gaps: Box::new(gaps) }
    }

    /// Puts on the board what the spool says now.
    fn post(&self, spool: &SpoolStatus) {
        let (now, _) = self.shared.clock.now();
        self.shared.board.set_spool(spool, now, self.shared.clock.tick());
    }

    async fn seat(&self, caller: Caller, act: &'static str, chair: &str, what: Act) -> Answer {
        let known = ChairName::new(chair).ok().and_then(|name| self.chairs.get_key_value(&name));
        let Some((chair, requests)) = known else {
            // What was typed is not repeated: it may be a record number in the wrong place.
            let names: Vec<&str> = self.chairs.keys().map(ChairName::as_str).collect();
            let why = if names.is_empty() {
                "there is no such chair; the configuration names none yet".to_owned()
            } else {
                format!("there is no such chair; there are {}", names.join(", "))
            };
            return self.deny(caller, act, RefusalCode::UnknownChair, why);
        };
        let (answer, answered) = oneshot::channel();
        let request = SeatRequest { act: what, answer };
        let acted = match requests.send(request).await {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        match acted {
            Some(Ok(seated)) => self.seated(caller, act, chair, &seated),
            Some(Err(refusal)) => self.not_seated(caller, act, &refusal),
            None => {
                let why = "the gateway is stopping and did not take the seat; try again once it runs";
                self.deny(caller, act, RefusalCode::NotNow, why)
            }
        }
    }

    fn seated(&self, caller: Caller, act: &'static str, chair: &ChairName, seated: &Seated) -> Answer {
        let outcome = seating::word(seated.outcome);
        let treatment = self.shared.seats.running(chair).map(|running| running.id);
        tracing::info!(chair = chair.as_str(), act, outcome, uid = caller.uid, "seat changed");
        self.note(&Entry::Seat { caller, act, chair: chair.as_str(), treatment, outcome });
        Answer::Done { said: seating::sentence(chair.as_str(), seated.outcome, &self.zone) }
    }

    fn not_seated(&self, caller: Caller, act: &'static str, refusal: &SeatError) -> Answer {
        let code = match refusal {
            SeatError::RecordNumber(_) => RefusalCode::RecordNumber,
            SeatError::Unsettled(_)
            | SeatError::NoTreatment(_)
            | SeatError::TooLate { .. }
            | SeatError::LeftEarly { .. } => RefusalCode::NotPossible,
            SeatError::Keyring(_) => RefusalCode::NotNow,
        };
        self.deny(caller, act, code, seating::refusal(refusal, &self.zone))
    }

    fn deny(&self, caller: Caller, act: &'static str, code: RefusalCode, why: impl Into<String>) -> Answer {
        tracing::warn!(act, why = code.word(), uid = caller.uid, "request refused");
        self.note(&Entry::Denied { caller, act, why: code.word() });
        refused(code, why)
    }

    fn note(&self, entry: &Entry<'_>) {
        let (now, _) = self.shared.clock.now();
        if let Err(refusal) = self.audit.note(now, entry) {
            let error = crate::telemetry::chain(&refusal);
            tracing::error!(error, "the audit record cannot be written; make room on its disk");
        }
    }
}
