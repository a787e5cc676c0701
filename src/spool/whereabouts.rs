//! What became of records, for whoever has to take back what was sent, or to go on where another one was cut off.

use crate::model::name::UpstreamName;
use crate::privacy::record::{Body, TreatmentId};
use crate::spool::manifest::VolumeEntry;
use crate::spool::salvage::listed;
use crate::spool::store::SledSpool;
use crate::spool::tools::Standing;
use crate::spool::{BatchLimit, Sequence, Spool, SpoolError};

/// Where records are, and where they stand.
pub trait Whereabouts {
    /// Whether the spool still has every record of a treatment up to `until` that it ever had. Where it cannot tell, it says no.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    fn is_whole(&mut self, treatment: TreatmentId, until: Sequence) -> Result<bool, SpoolError>;
    /// Where each of these records stands at an upstream of the configuration, in their order.
    ///
    /// # Errors
    /// [`SpoolError::UnknownUpstream`].
    fn standings_at(
        &mut self,
        upstream: &UpstreamName,
        records: &[Sequence],
    ) -> Result<Vec<Standing>, SpoolError>;
    /// Whoever had leased records for this upstream is gone: all of them may be leased again. Gives how many they were.
    ///
    /// # Errors
    /// [`SpoolError::UnknownUpstream`].
    fn reclaim(&mut self, upstream: &UpstreamName) -> Result<usize, SpoolError>;
}

impl Whereabouts for SledSpool {
    fn is_whole(&mut self, treatment: TreatmentId, until: Sequence) -> Result<bool, SpoolError> {
        let first = self.read_treatment(treatment, Sequence(0), BatchLimit { records: 1 })?.pop();
        // A treatment begins with a record that says so. Where another one comes first, that one may be gone, and more with it.
        let begin = first.filter(|stored| matches!(stored.record.body(), Body::TreatmentStarted));
        self.has_all(begin.map_or(1, |stored| stored.sequence.0), until.0)
    }

    fn standings_at(
        &mut self,
        upstream: &UpstreamName,
        records: &[Sequence],
    ) -> Result<Vec<Standing>, SpoolError> {
        let ledger = self.settlement.ledger(upstream)?;
        Ok(records.iter().map(|sequence| ledger.standing(*sequence)).collect())
    }

    fn reclaim(&mut self, upstream: &UpstreamName) -> Result<usize, SpoolError> {
        Ok(self.settlement.ledger(upstream)?.reclaim())
    }
}

impl SledSpool {
    /// Whether no record of this range was pruned, evicted or lost.
    fn has_all(&mut self, first: u64, last: u64) -> Result<bool, SpoolError> {
        let last = last.min(self.contents.last);
        let mut next = first;
        for volume in self.contents.volumes.clone() {
            if volume.last < next || next > last {
                continue;
            }
            if volume.first > next || !self.holds_all(&volume, next, last.min(volume.last))? {
                return Ok(false);
            }
            next = volume.last.saturating_add(1);
        }
        Ok(next > last)
    }

    /// Whether a volume has all of a part of its range.
    fn holds_all(&mut self, volume: &VolumeEntry, first: u64, last: u64) -> Result<bool, SpoolError> {
        if volume.set_aside.is_some() {
            let Some(index) = self.index(volume.number)? else { return Ok(false) };
            return Ok(!index.missing().any(|sequence| (first..=last).contains(&sequence.0)));
        }
        if volume.copied.is_none() {
            return Ok(true);
        }
        let kept = listed(&self.home.join(volume.folder()));
        Ok(kept.is_some_and(|kept| (first..=last).all(|sequence| kept.contains(sequence))))
    }
}

#[cfg(test)]
mod tests;
