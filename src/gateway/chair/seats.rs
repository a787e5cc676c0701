//! What a seat does to a chair: the binding, the records that tell of it, and the held ones it lets go.

use super::Sealing;
use crate::gateway::seating::{self, SeatRequest};
use crate::model::time::Timestamp;
use crate::normalise::EndReason;
use crate::poll::Moment;
use crate::privacy::record::{Event, TreatmentId};
use crate::privacy::seats::{SeatError, Seated};
use crate::spool::Sequence;
use crate::spool::handle::Urgency;
use crate::status;
use crate::supervise::Cause;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Sealing {
    /// Does what was asked, unless whoever asked was told meanwhile that it was not done.
    pub(in crate::gateway) async fn seat(&mut self, request: SeatRequest) -> Result<(), Cause> {
        let moment = self.moment();
        self.look_at_clock(moment).await?;
        let (chair, seats) = (self.chair.name.clone(), Arc::clone(&self.shared.seats));
        let SeatRequest { act, claim, answer } = request;
        let incomplete = if act.is_correction() { self.incomplete().await } else { BTreeSet::new() };
        if !claim.take() {
            // Whoever asked was told that nothing was changed. By now another patient may be on the machine.
            return Ok(());
        }
        let acted =
            tokio::task::spawn_blocking(move || seating::act(&seats, &chair, act, moment.at, &incomplete));
        let acted = acted.await;
        let acted = acted.map_err(|_| Cause::Panicked)?;
        match &acted {
            Ok(seated) => self.follow(seated, moment).await?,
            // Whoever asks again finds room.
            Err(SeatError::Keyring(refusal)) if refusal.is_no_space() => drop(self.shared.make_room()),
            Err(_) => {}
        }
        let seat = self.seat_state(moment.at);
        let running = self.shared.seats.running(&self.chair.name);
        self.shared.board.chair(&self.chair.name, |chair| {
            chair.seat = seat;
            chair.treatment_since = running.map(|running| running.started.into());
        });
        // Whoever asked may have gone; what was done stands all the same.
        let _ = answer.send(acted);
        Ok(())
    }

    /// The treatments in reach of a correction of which the spool has not all records any more. Where the spool cannot tell, the
    /// correction finds out when it is delivered.
    async fn incomplete(&self) -> BTreeSet<TreatmentId> {
        let reach = self.shared.seats.correctable(&self.chair.name);
        let asked = self.shared.spool.tools(move |spool| {
            let whole = reach.iter().map(|treatment| spool.is_whole(*treatment, Sequence(u64::MAX)));
            let whole: Vec<bool> = whole.collect::<Result<_, _>>()?;
            let incomplete = reach.iter().zip(whole).filter(|(_, whole)| !whole);
            Ok(incomplete.map(|(treatment, _)| *treatment).collect())
        });
        asked.await.unwrap_or_else(|error| {
            tracing::warn!(chair = self.chair.name.as_str(), %error, "the spool does not say what it has of a treatment");
            BTreeSet::new()
        })
    }

    /// Writes down what a seat changed, then lets held records go.
    pub(super) async fn follow(&mut self, seated: &Seated, moment: Moment) -> Result<(), Cause> {
        if seated.ended.is_some() || seated.started.is_some() {
            let origin = self.origin(moment, None);
            for capture in self.normaliser.treatment_changed(&origin, seated.started.is_some()) {
                // The last of the treatment that ended; in the keyring the next one runs already.
                self.push(capture, seated.ended);
            }
            self.progress = None;
        }
        if let Some(ended) = seated.ended {
            // Without a next one, the treatment was over before: the machine had not been heard of for long.
            let reason = if seated.started.is_some() { EndReason::Reseated } else { EndReason::LostTrack };
            self.tell(moment, Some(ended), Event::TreatmentEnded(reason));
        }
        if let Some(started) = seated.started {
            self.tell(moment, Some(started), Event::TreatmentStarted);
        }
        self.urgency = Urgency::Now;
        self.write().await?;
        for rebound in seated.rebound() {
            if let Some(correction) = rebound.correction {
                self.correct(correction, moment).await?;
            }
            self.shared.spool.release(rebound.treatment).await?;
        }
        Ok(())
    }

    pub(super) fn seat_state(&self, at: Timestamp) -> status::Seat {
        let seats = &self.shared.seats;
        if seats.running(&self.chair.name).is_some_and(|running| running.seated) {
            status::Seat::Seated
        } else if seats.waiting(&self.chair.name, at).is_some() {
            status::Seat::Waiting
        } else {
            status::Seat::Empty
        }
    }
}
