//! What a chair has sealed goes to the spool, and is waited for until it is durable.

use super::Sealing;
use crate::normalise::Origin;
use crate::privacy::record::{Event, Gap, GapCause, OpenAlarm, Record};
use crate::spool::handle::Urgency;
use crate::spool::{Sequence, SpoolError};
use crate::supervise::Cause;
use std::time::Duration;
use tokio::time::sleep;

/// A full spool is asked again after this.
const FULL_WAIT: Duration = Duration::from_secs(5);

impl Sealing {
    /// Hands everything sealed so far to the spool and waits until it is durable. A full spool is waited for: the line
    /// stops asking meanwhile, and what it misses is counted.
    pub(super) async fn write(&mut self) -> Result<(), Cause> {
        if self.records.is_empty() {
            return Ok(());
        }
        let alarms = self.alarms.before();
        self.note_alarms(alarms).await?;
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
        let alarms = self.alarms.after();
        self.note_alarms(alarms).await
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

    async fn note_alarms(&self, alarms: Option<Vec<OpenAlarm>>) -> Result<(), Cause> {
        let Some(alarms) = alarms else { return Ok(()) };
        let chair = self.chair.name.clone();
        self.seats(move |seats| seats.note_alarms(&chair, alarms)).await
    }
}
