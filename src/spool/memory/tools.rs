//! The questions of people, asked of the spool in memory.

use super::{MemorySpool, State};
use crate::model::name::UpstreamName;
use crate::privacy::record::{Body, Record, TreatmentId};
use crate::spool::letter::Refusal;
use crate::spool::tools::{
    Content, DeadLetter, Discarded, Found, Letters, Look, Page, Place, Replayed, Seen, SpoolTools, Standing,
    Wanted,
};
use crate::spool::whereabouts::Whereabouts;
use crate::spool::{BatchLimit, Sequence, Spool, SpoolError, Stored, Verdict};
use std::collections::BTreeSet;

impl MemorySpool {
    /// What the real spool does with its dead letters when these verdicts are settled.
    pub(super) fn write_letters(&mut self, upstream: &UpstreamName, verdicts: &[(Sequence, Verdict)]) {
        for (sequence, verdict) in verdicts {
            let state = self.upstreams.get(upstream).and_then(|outbox| outbox.states.get(&sequence.0));
            if state.is_none_or(|state| state.is_settled()) {
                continue;
            }
            let place = (upstream.clone(), sequence.0);
            if let Some(refusal) = Refusal::of(verdict, self.heard) {
                if let Some(record) = self.record(*sequence) {
                    self.letters.insert(place, (refusal, record));
                }
            } else if matches!(verdict, Verdict::Delivered { .. } | Verdict::SkippedByPolicy) {
                self.letters.remove(&place);
            }
        }
    }

    /// A record, or the copy in a letter that outlived it.
    pub(super) fn record(&self, sequence: Sequence) -> Option<Record> {
        let copy = || {
            let about = self.letters.iter().find(|((_, number), _)| *number == sequence.0);
            about.map(|(_, (_, record))| record.clone())
        };
        self.records.get(&sequence.0).cloned().or_else(copy)
    }

    fn content(&self, sequence: Sequence) -> Content {
        let stored = |record| Content::Record(Box::new(Stored { store: self.store, sequence, record }));
        self.record(sequence).map_or(Content::Lost, stored)
    }

    fn standings(&self, sequence: Sequence) -> Vec<(UpstreamName, Standing)> {
        let configured = self.upstreams.iter().filter(|(_, outbox)| outbox.configured);
        configured.map(|(name, outbox)| (name.clone(), standing(outbox.states.get(&sequence.0)))).collect()
    }

    fn page(&self, wanted: &Wanted, after: Option<&Place>, limit: usize) -> (Vec<Place>, Option<Place>) {
        let places = self.letters.keys().map(|(name, number)| (name.clone(), Sequence(*number)));
        let behind = places.filter(|place| after.is_none_or(|after| place > after));
        let meant: Vec<Place> = behind.filter(|(name, sequence)| wanted.may_be(name, *sequence)).collect();
        let page: Vec<Place> = meant.iter().take(limit).cloned().collect();
        let next = (meant.len() > limit).then(|| page.last().cloned()).flatten();
        (page, next)
    }
}

impl Look for MemorySpool {
    fn look(&mut self, after: Sequence, limit: usize) -> Result<Page, SpoolError> {
        let behind = self.records.range(after.0.saturating_add(1)..).map(|(number, _)| Sequence(*number));
        let behind: Vec<Sequence> = behind.take(limit.saturating_add(1)).collect();
        let page = behind.get(..limit.min(behind.len())).unwrap_or_default();
        let seen = page.iter().map(|sequence| Seen { sequence: *sequence, content: self.content(*sequence) });
        let next = if behind.len() > limit { page.last().copied() } else { None };
        Ok(Page { seen: seen.collect(), next })
    }

    fn find(&mut self, sequence: Sequence) -> Result<Option<Found>, SpoolError> {
        let content = self.content(sequence);
        if content == Content::Lost {
            return Ok(None);
        }
        let about = self.letters.iter().filter(|((_, number), _)| *number == sequence.0);
        let refusals = about.map(|((name, _), (refusal, _))| (name.clone(), refusal.clone())).collect();
        let only_in_letter = !self.records.contains_key(&sequence.0);
        Ok(Some(Found { content, only_in_letter, standings: self.standings(sequence), refusals }))
    }

    fn letters(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Letters, SpoolError> {
        let (places, next) = self.page(wanted, after, limit);
        let letter = |(upstream, sequence): Place| {
            let (refusal, _) = self.letters.get(&(upstream.clone(), sequence.0))?.clone();
            let content = self.content(sequence);
            let standing = self.standings(sequence).into_iter().find(|(name, _)| *name == upstream);
            let standing = standing.map(|(_, standing)| standing);
            let letter = DeadLetter { upstream, sequence, refusal, content, standing };
            wanted.fits(&letter.refusal, &letter.content).then_some(letter)
        };
        Ok(Letters { letters: places.into_iter().filter_map(letter).collect(), next, damaged: 0 })
    }
}

impl Whereabouts for MemorySpool {
    fn is_whole(&mut self, treatment: TreatmentId, until: Sequence) -> Result<bool, SpoolError> {
        let first = self.read_treatment(treatment, Sequence(0), BatchLimit { records: 1 })?.pop();
        let begin = first.filter(|stored| matches!(stored.record.body(), Body::TreatmentStarted));
        let since = begin.map_or(0, |stored| stored.sequence.0);
        let removed = self.removed.get(&treatment);
        Ok(removed.is_none_or(|removed| !removed.iter().any(|it| (since..=until.0).contains(it))))
    }

    fn standings_at(
        &mut self,
        upstream: &UpstreamName,
        records: &[Sequence],
    ) -> Result<Vec<Standing>, SpoolError> {
        let states = &self.outbox(upstream)?.states;
        Ok(records.iter().map(|sequence| standing(states.get(&sequence.0))).collect())
    }

    fn reclaim(&mut self, upstream: &UpstreamName) -> Result<usize, SpoolError> {
        let states = self.outbox(upstream)?.states.values_mut();
        let leased = states.filter(|state| matches!(state, State::Leased { .. }));
        Ok(leased.map(|state| *state = State::NEW).count())
    }
}

fn standing(state: Option<&State>) -> Standing {
    match state {
        None => Standing::BeforeItsTime,
        Some(State::Waiting { .. } | State::Leased { .. }) => Standing::Waiting,
        Some(State::Held(treatment)) => Standing::Held(*treatment),
        Some(State::Delivered | State::Skipped | State::Refused) => Standing::Settled,
    }
}

impl SpoolTools for MemorySpool {
    fn replay(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Replayed, SpoolError> {
        let page = self.letters(wanted, after, limit)?;
        let mut replayed = Replayed { next: page.next, ..Replayed::default() };
        for letter in page.letters {
            let outbox = self.upstreams.get_mut(&letter.upstream).filter(|outbox| outbox.configured);
            let Some(outbox) = outbox else {
                replayed.nobody += 1;
                continue;
            };
            match outbox.states.get_mut(&letter.sequence.0) {
                Some(state) if state.is_settled() => {
                    *state = State::NEW;
                    let (taken, refused) = (letter.refusal.parts_taken, letter.refusal.parts_refused);
                    outbox.parts_delivered = outbox.parts_delivered.saturating_sub(u64::from(taken));
                    outbox.parts_refused = outbox.parts_refused.saturating_sub(u64::from(refused));
                    replayed.reopened += 1;
                }
                Some(_) | None => replayed.waiting += 1,
            }
        }
        Ok(replayed)
    }

    fn discard(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Discarded, SpoolError> {
        let page = self.letters(wanted, after, limit)?;
        let mut discarded = Discarded { next: page.next, ..Discarded::default() };
        for letter in page.letters {
            if matches!(letter.standing, Some(Standing::Waiting | Standing::Held(_))) {
                discarded.waiting += 1;
                continue;
            }
            self.letters.remove(&(letter.upstream, letter.sequence.0));
            discarded.letters += 1;
        }
        Ok(discarded)
    }

    fn without_trace(&mut self, treatments: &[TreatmentId]) -> Result<Vec<TreatmentId>, SpoolError> {
        let copies = self.letters.values().map(|(_, record)| record);
        let kept: BTreeSet<_> = self.records.values().chain(copies).filter_map(Record::treatment).collect();
        Ok(treatments.iter().filter(|treatment| !kept.contains(treatment)).copied().collect())
    }
}
