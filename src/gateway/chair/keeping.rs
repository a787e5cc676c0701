//! What a chair has sealed goes to the spool, and what it knows of treatments to the keyring; either is waited for until it is
//! durable.

use super::Sealing;
use crate::normalise::Origin;
use crate::privacy::keyring::KeyringError;
use crate::privacy::record::{Event, Gap, GapCause, OpenAlarm, Record};
use crate::privacy::seats::Seats;
use crate::spool::handle::Urgency;
use crate::spool::{Sequence, SpoolError};
use crate::supervise::Cause;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A full spool or disk is asked again after this.
const FULL_WAIT: Duration = Duration::from_secs(5);

impl Sealing {
    /// Hands everything sealed so far to the spool and waits until it is durable. A full spool is waited for: the line
    /// stops asking meanwhile, and what it misses is counted.
    pub(super) async fn write(&mut self) -> Result<(), Cause> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.note_alarms(self.alarms.before()).await?;
        let records = std::mem::take(&mut self.records);
        let readings = std::mem::take(&mut self.readings);
        let urgency = std::mem::replace(&mut self.urgency, Urgency::Routine);
        let sequences = self.keep(records, urgency).await?;
        for (place, slot, at) in readings {
            if let Some(sequence) = sequences.get(place).copied().flatten() {
                tracing::debug!(
                    chair = self.chair.name.as_str(),
                    seq = sequence.0,
                    slot = slot.map(|slot| slot.0),
                    at = crate::clock::stamp(at),
                    "kept"
                );
            }
        }
        self.note_alarms(self.alarms.after()).await
    }

    /// The records are durable when this returns. One that is larger than a record may be becomes a gap in its place; it is
    /// not in the answer, and costs the others nothing.
    async fn keep(&self, records: Vec<Record>, urgency: Urgency) -> Result<Vec<Option<Sequence>>, Cause> {
        match self.append(&records, urgency).await {
            Err(SpoolError::TooLarge(_)) => {}
            kept => return Ok(kept?.into_iter().map(Some).collect()),
        }
        let mut all = Vec::with_capacity(records.len());
        for record in &records {
            let kept = match self.append(std::slice::from_ref(record), Urgency::Now).await {
                Err(SpoolError::TooLarge(bytes)) => {
                    let instead = self.gap_instead_of(record, bytes);
                    self.append(&[instead], Urgency::Now).await?;
                    None
                }
                kept => kept?.first().copied(),
            };
            all.push(kept);
        }
        Ok(all)
    }

    /// What stands for an answer that cannot be kept.
    fn gap_instead_of(&self, record: &Record, bytes: usize) -> Record {
        let origin = Origin { previous: None, ..record.origin().clone() };
        tracing::error!(
            chair = self.chair.name.as_str(),
            slot = origin.slot.map(|slot| slot.0),
            bytes,
            "an answer is larger than a record may be and cannot be kept; it is told as a gap. Fewer entries in the map of \
             the machine make it smaller"
        );
        // Without a slot it was no poll, and no poll is missing.
        let slots = u32::from(origin.slot.is_some());
        let to = origin.at.after(self.chair.every);
        let gap = Gap { from: origin.at, to, slots, cause: GapCause::AnswerFaulty };
        Record::event(origin, record.treatment(), Event::Gap(gap))
    }

    async fn append(&self, records: &[Record], urgency: Urgency) -> Result<Vec<Sequence>, SpoolError> {
        let mut told = false;
        loop {
            match self.shared.spool.append(records.to_vec(), urgency).await {
                Err(SpoolError::Full { used, max }) => {
                    if !told {
                        tracing::error!(
                            chair = self.chair.name.as_str(),
                            used,
                            max,
                            "the spool is full and takes nothing; look why the upstreams do not take records, or raise \
                             [spool] max_bytes"
                        );
                    }
                    told = true;
                    // Waiting for room is no hang; a new start would find the spool just as full.
                    self.pulse.beat(self.shared.clock.tick());
                    sleep(FULL_WAIT).await;
                }
                done => return done,
            }
        }
    }

    async fn note_alarms(&mut self, alarms: Option<Vec<OpenAlarm>>) -> Result<(), Cause> {
        let Some(alarms) = alarms else { return Ok(()) };
        let (chair, all) = (self.chair.name.clone(), alarms.clone());
        // Where it is not written, a run that is cut off leaves an alarm without an end; that is no reason to lose readings.
        if self.seats_later(move |seats| seats.note_alarms(&chair, all.clone())).await?.is_some() {
            self.alarms.are_durable(alarms);
        }
        Ok(())
    }

    /// What the gateway cannot do without. A full disk is waited for, as a full spool is: the line stops asking meanwhile, and
    /// what it misses is counted.
    pub(super) async fn seats<T: Send + 'static>(
        &mut self,
        act: impl Fn(&Seats) -> Result<T, KeyringError> + Send + Sync + 'static,
    ) -> Result<T, Cause> {
        let act = Arc::new(act);
        let mut made_room = false;
        loop {
            match self.try_seats(Arc::clone(&act)).await? {
                Ok(done) => return Ok(done),
                Err(refusal) if !refusal.is_no_space() => return Err(Cause::Keyring(refusal)),
                Err(_) if !std::mem::replace(&mut made_room, true) && self.shared.make_room() => {}
                Err(refusal) => {
                    self.tell_refusal(&refusal);
                    self.pulse.beat(self.shared.clock.tick());
                    sleep(FULL_WAIT).await;
                }
            }
        }
    }

    /// What can be written later as well: `None` where the keyring refuses. It is asked again with the next word of the machine.
    pub(super) async fn seats_later<T: Send + 'static>(
        &mut self,
        act: impl Fn(&Seats) -> Result<T, KeyringError> + Send + Sync + 'static,
    ) -> Result<Option<T>, Cause> {
        let act = Arc::new(act);
        let mut acted = self.try_seats(Arc::clone(&act)).await?;
        if acted.as_ref().is_err_and(KeyringError::is_no_space) && self.shared.make_room() {
            acted = self.try_seats(act).await?;
        }
        if let Err(refusal) = &acted {
            self.tell_refusal(refusal);
        }
        Ok(acted.ok())
    }

    async fn try_seats<T: Send + 'static>(
        &mut self,
        act: Arc<impl Fn(&Seats) -> Result<T, KeyringError> + Send + Sync + 'static>,
    ) -> Result<Result<T, KeyringError>, Cause> {
        // The keyring waits for the disk.
        let seats = Arc::clone(&self.shared.seats);
        let acted = tokio::task::spawn_blocking(move || act(&seats)).await.map_err(|_| Cause::Panicked)?;
        if acted.is_ok() && std::mem::take(&mut self.keyring_refuses) {
            tracing::info!(chair = self.chair.name.as_str(), "the keyring can be written again");
        }
        Ok(acted)
    }

    /// Says once that the keyring cannot be written.
    fn tell_refusal(&mut self, refusal: &KeyringError) {
        if !std::mem::replace(&mut self.keyring_refuses, true) {
            let error = crate::telemetry::chain(refusal);
            tracing::error!(
                chair = self.chair.name.as_str(),
                error,
                "the keyring cannot be written; it is tried again"
            );
        }
    }
}
