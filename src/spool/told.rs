//! Records that tell of lost ones and were durable before a crash could be told of them: they are not written a second time, and what
//! they say is not taken back.

use crate::model::name::ChairName;
use crate::privacy::record::{Body, LossCause, Record, Tombstone};
use crate::spool::manifest::VolumeEntry;

/// What the newest records said of lost ones when the spool was opened.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<(ChairName, Tombstone)>);

impl Told {
    /// One of the newest records.
    pub(super) fn note(&mut self, record: &Record) {
        if let Body::Evicted(tombstone) = record.body() {
            self.0.push((record.origin().chair.clone(), *tombstone));
        }
    }

    /// Whether a record says what was said: of the same chair, for the same cause, of the same records. A volume has one such record a
    /// chair, so it is the same one even where some of the others were settled meanwhile.
    pub(super) fn has(&self, record: &Record) -> bool {
        let Body::Evicted(new) = record.body() else { return false };
        self.0.iter().any(|(chair, old)| {
            *chair == record.origin().chair
                && old.cause == new.cause
                && old.first <= new.last
                && new.first <= old.last
        })
    }

    /// Whether the volume was said to be leaving.
    pub(super) fn is_leaving(&self, volume: &VolumeEntry) -> bool {
        let of = |told: &Tombstone| volume.first <= told.first && told.last <= volume.last;
        !volume.kept && self.0.iter().any(|(_, told)| told.cause == LossCause::StoreFull && of(told))
    }
}
