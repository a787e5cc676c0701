//! The spool without a disk: the model that the real one is held against, and the one for tests of its users.

mod tools;

use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::Timestamp;
use crate::privacy::record::{Record, TreatmentId, encode};
use crate::spool::frame::MAX_RECORD;
use crate::spool::letter::Refusal;
use crate::spool::slots::{Left, SlotLedger};
use crate::spool::space::Space;
use crate::spool::tools::SpoolTools;
use crate::spool::{
    BatchLimit, Counts, Lane, Pruned, Retention, Sequence, Spool, SpoolError, SpoolStatus, StoreId, Stored,
    Verdict,
};
use chairside_drivers::kit::time::Tick;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Written to be obviously right: one map entry a record and upstream, no index, no ranges, nothing clever.
#[derive(Debug)]
pub struct MemorySpool {
    store: StoreId,
    records: BTreeMap<u64, Record>,
    last: u64,
    volumes: Vec<Volume>,
    volume_records: u64,
    upstreams: BTreeMap<UpstreamName, Outbox>,
    /// Counts releases, so that a lease knows which of them came after it.
    releases: u64,
    released: BTreeMap<TreatmentId, u64>,
    letters: BTreeMap<(UpstreamName, u64), (Refusal, Record)>,
    heard: Timestamp,
    slots: SlotLedger,
    /// The records of each treatment that were removed.
    removed: BTreeMap<TreatmentId, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Volume {
    first: u64,
    last: u64,
    /// This process wrote to it.
    written: bool,
    /// A process died that wrote to it; nothing is added to it any more.
    sealed: bool,
    settled_at: Option<Timestamp>,
}

/// What one upstream has to send.
#[derive(Debug, Default)]
struct Outbox {
    configured: bool,
    states: BTreeMap<u64, State>,
    parts_delivered: u64,
    parts_refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { not_before: Tick },
    Leased { releases_before: u64 },
    Held(TreatmentId),
    Delivered,
    Skipped,
    Refused,
}

impl State {
    const NEW: State = State::Waiting { not_before: Tick::ZERO };

    const fn is_settled(self) -> bool {
        matches!(self, State::Delivered | State::Skipped | State::Refused)
    }
}

impl MemorySpool {
    /// Records a volume holds unless said otherwise.
    pub const VOLUME_RECORDS: u64 = 50_000;

    /// An empty spool with these upstreams.
    #[must_use]
    pub fn new(store: StoreId, upstreams: &[UpstreamName]) -> Self {
        Self::with_volumes_of(Self::VOLUME_RECORDS, store, upstreams)
    }

    /// An empty spool whose volumes hold this many records.
    #[must_use]
    pub fn with_volumes_of(volume_records: u64, store: StoreId, upstreams: &[UpstreamName]) -> Self {
        let mut spool = Self {
            store,
            records: BTreeMap::new(),
            last: 0,
            volumes: Vec::new(),
            volume_records: volume_records.max(1),
            upstreams: BTreeMap::new(),
            releases: 0,
            released: BTreeMap::new(),
            letters: BTreeMap::new(),
            heard: Timestamp::from_micros(0),
            slots: SlotLedger::default(),
            removed: BTreeMap::new(),
        };
        spool.configure(upstreams);
        spool
    }

    /// The process died and a new one starts with these upstreams: leases and delays are gone, holds stay.
    pub fn crash(&mut self, upstreams: &[UpstreamName]) {
        if let Some(volume) = self.volumes.last_mut() {
            volume.sealed |= volume.written;
        }
        self.go_on(upstreams);
    }

    /// The process ended in order and a new one starts with these upstreams.
    pub fn restart(&mut self, upstreams: &[UpstreamName]) {
        self.slots.end();
        self.go_on(upstreams);
    }

    fn go_on(&mut self, upstreams: &[UpstreamName]) {
        self.volumes.iter_mut().for_each(|volume| volume.written = false);
        for outbox in self.upstreams.values_mut() {
            for state in outbox.states.values_mut() {
                if matches!(state, State::Leased { .. } | State::Waiting { .. }) {
                    *state = State::NEW;
                }
            }
        }
        self.configure(upstreams);
    }

    /// A new upstream starts at the present sequence; what a removed one still had to send counts as skipped.
    fn configure(&mut self, upstreams: &[UpstreamName]) {
        for (name, outbox) in &mut self.upstreams {
            let stays = upstreams.contains(name);
            if !stays || !outbox.configured {
                outbox
                    .states
                    .values_mut()
                    .filter(|state| !state.is_settled())
                    .for_each(|s| *s = State::Skipped);
            }
            outbox.configured = stays;
        }
        for name in upstreams {
            self.upstreams.entry(name.clone()).or_default().configured = true;
        }
    }

    fn start_volume(&mut self) {
        self.volumes.push(Volume {
            first: self.last + 1,
            last: self.last,
            written: false,
            sealed: false,
            settled_at: None,
        });
    }

    fn outbox(&mut self, upstream: &UpstreamName) -> Result<&mut Outbox, SpoolError> {
        self.upstreams
            .get_mut(upstream)
            .filter(|outbox| outbox.configured)
            .ok_or_else(|| SpoolError::UnknownUpstream(upstream.clone()))
    }
}

impl Spool for MemorySpool {
    fn append(&mut self, batch: &[Record]) -> Result<Vec<Sequence>, SpoolError> {
        let Some(newest) = batch.last() else { return Ok(Vec::new()) };
        if let Some(length) =
            batch.iter().map(|record| encode(record).len()).find(|length| *length > MAX_RECORD)
        {
            return Err(SpoolError::TooLarge(length));
        }
        self.heard = newest.origin().at;
        let full = |volume: &Volume| volume.sealed || volume.last + 1 - volume.first >= self.volume_records;
        if self.volumes.last().is_none_or(full) {
            self.start_volume();
        }
        let mut sequences = Vec::with_capacity(batch.len());
        for record in batch {
            self.last += 1;
            self.records.insert(self.last, record.clone());
            for outbox in self.upstreams.values_mut() {
                outbox.states.insert(self.last, if outbox.configured { State::NEW } else { State::Skipped });
            }
            self.slots.note(Sequence(self.last), record);
            sequences.push(Sequence(self.last));
        }
        if let Some(volume) = self.volumes.last_mut() {
            volume.last = self.last;
            volume.written = true;
        }
        Ok(sequences)
    }

    fn lease(
        &mut self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError> {
        let (store, releases) = (self.store, self.releases);
        let outbox = self.outbox(upstream)?;
        let due = outbox
            .states
            .iter()
            .filter(|(_, state)| matches!(state, State::Waiting { not_before } if *not_before <= now))
            .map(|(sequence, _)| *sequence);
        let mut chosen: Vec<u64> = match lane {
            Lane::Backlog => due.take(limit.records).collect(),
            Lane::Live => due.rev().take(limit.records).collect(),
        };
        chosen.sort_unstable();
        for sequence in &chosen {
            outbox.states.insert(*sequence, State::Leased { releases_before: releases });
        }
        let stored = |sequence: u64| {
            let record = self.record(Sequence(sequence))?;
            Some(Stored { store, sequence: Sequence(sequence), record })
        };
        Ok(chosen.into_iter().filter_map(stored).collect())
    }

    fn settle(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<(), SpoolError> {
        self.write_letters(upstream, verdicts);
        let released = self.released.clone();
        let outbox = self.outbox(upstream)?;
        for (Sequence(sequence), verdict) in verdicts {
            let Some(state) = outbox.states.get_mut(sequence) else { continue };
            if state.is_settled() {
                continue;
            }
            *state = match verdict {
                Verdict::Delivered { parts, refused_parts } => {
                    outbox.parts_delivered += u64::from(*parts);
                    outbox.parts_refused += refused_parts.len() as u64;
                    State::Delivered
                }
                Verdict::SkippedByPolicy => State::Skipped,
                Verdict::Refused { parts, .. } => {
                    outbox.parts_refused += u64::from(*parts);
                    State::Refused
                }
                Verdict::Retry { not_before } => State::Waiting { not_before: *not_before },
                Verdict::Held(treatment) => match (*state, released.get(treatment)) {
                    (State::Leased { releases_before }, Some(at)) if *at > releases_before => State::NEW,
                    _ => State::Held(*treatment),
                },
            };
        }
        Ok(())
    }

    fn release(&mut self, treatment: TreatmentId) -> Result<(), SpoolError> {
        self.releases += 1;
        self.released.insert(treatment, self.releases);
        for outbox in self.upstreams.values_mut() {
            for state in outbox.states.values_mut().filter(|state| **state == State::Held(treatment)) {
                *state = State::NEW;
            }
        }
        Ok(())
    }

    fn read_treatment(
        &mut self,
        treatment: TreatmentId,
        after: Sequence,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError> {
        let store = self.store;
        Ok(self
            .records
            .range(after.0.saturating_add(1)..)
            .filter(|(_, record)| record.treatment() == Some(treatment))
            .take(limit.records)
            .map(|(sequence, record)| Stored { store, sequence: Sequence(*sequence), record: record.clone() })
            .collect())
    }

    fn tools(&mut self) -> &mut dyn SpoolTools {
        self
    }

    fn prune(&mut self, policy: Retention, now: Timestamp) -> Result<Pruned, SpoolError> {
        self.heard = now;
        let mut pruned = Pruned::default();
        let newest = self.volumes.last().map_or(0, |volume| volume.first);
        let (upstreams, records, removed) = (&mut self.upstreams, &mut self.records, &mut self.removed);
        self.volumes.retain_mut(|volume| {
            let range = volume.first..=volume.last;
            let settled = volume.first < newest
                && upstreams
                    .values()
                    .all(|outbox| outbox.states.range(range.clone()).all(|(_, state)| state.is_settled()));
            if !settled {
                return true;
            }
            let settled_at = *volume.settled_at.get_or_insert(now);
            if now.since(settled_at) < policy.keep_delivered {
                return true;
            }
            pruned.volumes += 1;
            pruned.records += volume.last - volume.first + 1;
            for (sequence, record) in records.range(range.clone()) {
                let Some(treatment) = record.treatment() else { continue };
                removed.entry(treatment).or_default().insert(*sequence);
            }
            records.retain(|sequence, _| !range.contains(sequence));
            false
        });
        Ok(pruned)
    }

    fn space(&mut self) -> Space {
        Space::default()
    }

    fn begin_run(
        &mut self,
        chairs: &[(ChairName, Duration)],
    ) -> Result<BTreeMap<ChairName, Left>, SpoolError> {
        Ok(self.slots.begin(chairs))
    }

    fn status(&mut self) -> SpoolStatus {
        let counts = |outbox: &Outbox| {
            let mut counts = Counts {
                parts_delivered: outbox.parts_delivered,
                parts_refused: outbox.parts_refused,
                ..Counts::default()
            };
            for (sequence, state) in &outbox.states {
                if counts.oldest_unsent.is_none() && !state.is_settled() {
                    counts.oldest_unsent = self.record(Sequence(*sequence)).map(|record| record.origin().at);
                }
                match state {
                    State::Waiting { .. } | State::Leased { .. } => {
                        counts.waiting += 1;
                        if counts.oldest_waiting.is_none() {
                            let oldest = self.record(Sequence(*sequence));
                            counts.oldest_waiting = oldest.map(|record| record.origin().at);
                        }
                    }
                    State::Held(_) => counts.held += 1,
                    State::Delivered => counts.delivered += 1,
                    State::Skipped => counts.skipped += 1,
                    State::Refused => counts.refused += 1,
                }
            }
            counts
        };
        SpoolStatus {
            last: self.last,
            records: self.records.len() as u64,
            bytes: 0,
            space: Space::default(),
            volumes: u32::try_from(self.volumes.len()).unwrap_or(u32::MAX),
            set_aside: Vec::new(),
            slots: self.slots.shown(),
            upstreams: self
                .upstreams
                .iter()
                .filter(|(_, outbox)| outbox.configured)
                .map(|(name, outbox)| (name.clone(), counts(outbox)))
                .collect(),
        }
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), SpoolError> {
        self.slots.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::testing::{at, record, record_of, treatment, upstream};
    use std::time::Duration;

    fn spool() -> (MemorySpool, UpstreamName) {
        let ehr = upstream("ehr");
        (MemorySpool::with_volumes_of(4, StoreId([1; 16]), std::slice::from_ref(&ehr)), ehr)
    }

    fn lease(spool: &mut MemorySpool, upstream: &UpstreamName, records: usize, lane: Lane) -> Vec<u64> {
        let leased = spool.lease(upstream, BatchLimit { records }, lane, Tick::ZERO).unwrap();
        leased.iter().map(|stored| stored.sequence.0).collect()
    }

    #[test]
    fn the_live_lane_takes_the_newest_stretch_and_the_backlog_the_oldest() {
        let (mut spool, ehr) = spool();
        spool.append(&(0..10).map(record).collect::<Vec<_>>()).unwrap();
        assert_eq!(lease(&mut spool, &ehr, 3, Lane::Live), [8, 9, 10]);
        assert_eq!(lease(&mut spool, &ehr, 3, Lane::Backlog), [1, 2, 3]);
        assert_eq!(lease(&mut spool, &ehr, 9, Lane::Live), [4, 5, 6, 7]);
        assert_eq!(lease(&mut spool, &ehr, 9, Lane::Backlog), [0; 0]);
    }

    #[test]
    fn a_held_record_waits_for_its_release_also_across_a_restart() {
        let (mut spool, ehr) = spool();
        spool.append(&[record_of(treatment(1), 1), record_of(treatment(2), 2)]).unwrap();
        let held = |number: u8| Verdict::Held(treatment(number));
        lease(&mut spool, &ehr, 2, Lane::Backlog);
        spool.settle(&ehr, &[(Sequence(1), held(1)), (Sequence(2), held(2))]).unwrap();
        spool.crash(std::slice::from_ref(&ehr));
        assert_eq!(lease(&mut spool, &ehr, 2, Lane::Backlog), [0; 0]);
        spool.release(treatment(2)).unwrap();
        assert_eq!(lease(&mut spool, &ehr, 2, Lane::Backlog), [2]);
    }

    #[test]
    fn a_hold_that_comes_after_the_release_does_not_hold() {
        let (mut spool, ehr) = spool();
        spool.append(&[record_of(treatment(1), 1)]).unwrap();
        lease(&mut spool, &ehr, 1, Lane::Backlog);
        spool.release(treatment(1)).unwrap();
        spool.settle(&ehr, &[(Sequence(1), Verdict::Held(treatment(1)))]).unwrap();
        assert_eq!(lease(&mut spool, &ehr, 1, Lane::Backlog), [1]);
    }

    #[test]
    fn a_new_upstream_starts_now_and_a_removed_one_counts_as_skipped() {
        let (mut spool, ehr) = spool();
        let lab = upstream("lab");
        spool.append(&[record(1), record(2)]).unwrap();
        spool.restart(std::slice::from_ref(&lab));
        spool.append(&[record(3)]).unwrap();
        assert_eq!(lease(&mut spool, &lab, 9, Lane::Backlog), [3]);
        assert!(matches!(
            spool.lease(&ehr, BatchLimit { records: 1 }, Lane::Live, Tick::ZERO),
            Err(SpoolError::UnknownUpstream(_))
        ));
        spool.restart(&[ehr.clone(), lab]);
        assert_eq!(spool.status().upstreams[0].1, Counts { skipped: 3, ..Counts::default() });
    }

    #[test]
    fn a_settled_volume_stays_as_long_as_it_is_kept_and_the_newest_always() {
        let (mut spool, ehr) = spool();
        for n in 0..6 {
            spool.append(&[record(n)]).unwrap();
        }
        let all: Vec<_> = (1..=6)
            .map(|n| (Sequence(n), Verdict::Delivered { parts: 1, refused_parts: Vec::new() }))
            .collect();
        spool.settle(&ehr, &all).unwrap();
        let policy = Retention { keep_delivered: Duration::from_secs(10), max_bytes: u64::MAX };
        assert_eq!(spool.prune(policy, at(0)).unwrap(), Pruned::default());
        assert_eq!(spool.prune(policy, at(9)).unwrap(), Pruned::default());
        assert_eq!(spool.prune(policy, at(10)).unwrap(), Pruned { volumes: 1, records: 4 });
        assert_eq!(spool.prune(policy, at(99)).unwrap(), Pruned::default());
        assert_eq!((spool.status().records, spool.status().last), (2, 6));
    }
}
