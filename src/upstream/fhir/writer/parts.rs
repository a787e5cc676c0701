//! The records themselves: their resources in batches, and what became of each.

use super::Writer;
use super::trouble::not_taken_back;
use crate::spool::{Reason, Sequence};
use crate::upstream::fhir::courier::{Fate, Parcel, Weight, mostly_refused};
use crate::upstream::fhir::draft::Draft;
use crate::upstream::fhir::encode::{Need, Rendering, Standing};
use crate::upstream::fhir::link::Post;
use crate::upstream::fhir::r4::Resource;
use crate::upstream::fhir::status::Outcome;
use crate::upstream::{Next, Trouble};
use std::collections::HashMap;
use uuid::Uuid;

/// Something that is gone need not be taken back.
pub(super) const GONE: u16 = 410;

/// What became of renderings, part by part.
pub(super) struct Written {
    pub(super) fates: Vec<Vec<Fate>>,
    pub(super) resources: u64,
    pub(super) next: Next,
    pub(super) setback: Option<Trouble>,
}

impl<P: Post> Writer<P> {
    /// Writes renderings: what they need, stage by stage, then their parts.
    pub(super) async fn write(
        &mut self,
        renderings: &[(Sequence, Rendering)],
        standing: Standing,
    ) -> Written {
        let mut written = Written {
            fates: renderings.iter().map(|(_, it)| vec![Fate::Untried; it.parts.len()]).collect(),
            resources: 0,
            next: Next::Continue,
            setback: None,
        };
        if renderings.is_empty() {
            return written;
        }
        let all: Vec<usize> = (0..renderings.len()).collect();
        self.write_some(renderings, &all, standing, &mut written).await;
        // What the server says is missing is sent once more with everything it may refer to; after that its word counts.
        let is_missing =
            |fates: &Vec<Fate>| fates.iter().any(|it| matches!(it, Fate::Judged(Outcome::Missing(_))));
        let missing: Vec<usize> = written
            .fates
            .iter()
            .enumerate()
            .filter(|(_, it)| is_missing(it))
            .map(|(index, _)| index)
            .collect();
        if !missing.is_empty() && written.next == Next::Continue {
            for (_, rendering) in missing.iter().filter_map(|index| renderings.get(*index)) {
                self.present.retain(|(id, _)| rendering.needs.iter().all(|need| need.id != *id));
            }
            self.write_some(renderings, &missing, standing, &mut written).await;
        }
        for reason in written.end_the_search_for_missing() {
            self.courier.refusals.refused(reason);
        }
        match standing {
            Standing::Valid => self.stop_at_refusals_of_everything(renderings, &mut written),
            Standing::Withdrawn => self.stop_at_what_cannot_be_taken_back(renderings, &mut written),
        }
        written
    }

    async fn write_some(
        &mut self,
        renderings: &[(Sequence, Rendering)],
        which: &[usize],
        standing: Standing,
        written: &mut Written,
    ) {
        let chosen =
            || which.iter().filter_map(|index| renderings.get(*index).map(|(at, it)| (*index, *at, it)));
        let needs: Vec<&[Need]> = chosen().map(|(_, _, it)| it.needs.as_slice()).collect();
        let brought = self.bring_about(&needs, &mut written.resources).await;
        written.setback = brought.setback.or(written.setback.take());
        if standing == Standing::Valid && brought.named_a_patient {
            chosen().for_each(|(_, sequence, it)| self.history.wrote(sequence, it.revision));
        }
        if brought.next != Next::Continue {
            written.next = brought.next;
            return;
        }
        let ids: Vec<Vec<Uuid>> =
            chosen().map(|(_, _, it)| it.needs.iter().map(|need| need.id).collect()).collect();
        // Of a treatment that the server refuses, the readings go out all the same, just not as part of it.
        let apart: Vec<Vec<Draft>> = chosen()
            .map(|(_, _, it)| match it.needs.iter().any(|need| brought.without.contains(&need.id)) {
                true => it.parts.iter().map(|part| apart(&part.draft)).collect(),
                false => Vec::new(),
            })
            .collect();
        let mut parcels: Vec<Parcel<'_>> = Vec::new();
        let mut by_id: HashMap<&str, usize> =
            HashMap::with_capacity(chosen().map(|(_, _, it)| it.parts.len()).sum());
        let mut sent_as = Vec::new();
        for (((index, sequence, rendering), needs), apart) in chosen().zip(&ids).zip(&apart) {
            let waits = needs.iter().any(|id| brought.delayed.contains(id));
            for (place, part) in rendering.parts.iter().enumerate() {
                if waits {
                    written.set(index, place, Fate::Judged(Outcome::Again));
                    continue;
                }
                let parcel = Parcel { draft: apart.get(place).unwrap_or(&part.draft), needs };
                let at = *by_id.entry(part.draft.id()).or_insert(parcels.len());
                match parcels.get_mut(at) {
                    Some(earlier) => *earlier = parcel,
                    None => parcels.push(parcel),
                }
                sent_as.push((index, place, at, sequence, rendering.revision));
            }
        }
        let weight = match standing {
            Standing::Valid => Weight::Counted,
            Standing::Withdrawn => Weight::Apart,
        };
        let (fates, next) = self.courier.carry(&mut self.post, &parcels, weight).await;
        written.resources += accepted(&fates);
        written.next = next;
        // The parts of a record come one after another: it is noted once.
        let mut noted = None;
        for (index, place, at, sequence, revision) in sent_as {
            if let Some(fate) = fates.get(at) {
                if standing == Standing::Valid && may_be_there(fate) && noted != Some(sequence) {
                    self.history.wrote(sequence, revision);
                    noted = Some(sequence);
                }
                written.set(index, place, fate.clone());
            }
        }
    }

    /// A receiver that refuses most of what it gets was set up otherwise; its refusals are not about single records, and no
    /// record is given up for them.
    fn stop_at_refusals_of_everything(
        &mut self,
        renderings: &[(Sequence, Rendering)],
        written: &mut Written,
    ) {
        if let Some(reason) = self.courier.refusals.at_end_of_round() {
            self.courier.refusals.disbelieve();
            written.unjudge_refusals();
            if !matches!(written.next, Next::Pause(_)) {
                written.next = Next::Pause(mostly_refused(reason));
            }
            return;
        }
        for ((_, rendering), fates) in renderings.iter().zip(&written.fates) {
            for (part, fate) in rendering.parts.iter().zip(fates) {
                match fate {
                    Fate::Judged(Outcome::Refused(_)) => self.history.refused(part.draft.id()),
                    Fate::Judged(Outcome::Accepted) => self.history.taken(part.draft.id()),
                    Fate::Judged(_) | Fate::Untried | Fate::Unknown => {}
                }
            }
        }
    }

    /// What stands in a wrong chart has to be taken back. Only what was refused when it was written need not be.
    fn stop_at_what_cannot_be_taken_back(
        &mut self,
        renderings: &[(Sequence, Rendering)],
        written: &mut Written,
    ) {
        let mut stuck = None;
        for ((_, rendering), fates) in renderings.iter().zip(&mut written.fates) {
            for (part, fate) in rendering.parts.iter().zip(fates) {
                if let Fate::Judged(Outcome::Refused(reason)) = fate
                    && reason.status != GONE
                    && !self.history.was_refused(part.draft.id())
                {
                    stuck.get_or_insert(*reason);
                    *fate = Fate::Untried;
                } else if let Fate::Judged(Outcome::Conflict(reason)) = fate {
                    written.setback = Some(not_taken_back(*reason));
                    *fate = Fate::Judged(Outcome::Again);
                }
            }
        }
        if let Some(reason) = stuck {
            written.next = Next::Pause(not_taken_back(reason));
        }
    }
}

impl Written {
    /// Takes every refusal back, as if nothing had been sent.
    fn unjudge_refusals(&mut self) {
        for fate in self.fates.iter_mut().flatten() {
            if let Fate::Judged(Outcome::Refused(_)) = fate {
                *fate = Fate::Untried;
            }
        }
    }

    fn set(&mut self, rendering: usize, part: usize, fate: Fate) {
        if let Some(place) = self.fates.get_mut(rendering).and_then(|fates| fates.get_mut(part)) {
            *place = fate;
        }
    }

    /// The second answer "missing" means what the first one would have meant without the search; gives what was refused so.
    fn end_the_search_for_missing(&mut self) -> Vec<Reason> {
        let mut refused = Vec::new();
        for fate in self.fates.iter_mut().flatten() {
            if let Fate::Judged(Outcome::Missing(_)) = fate {
                // A round that was broken off has not searched yet.
                *fate = match self.next {
                    Next::Continue => settled(std::mem::replace(fate, Fate::Untried), true),
                    Next::Wait { .. } | Next::Pause(_) => Fate::Untried,
                };
                if let Fate::Judged(Outcome::Refused(reason)) = fate {
                    refused.push(*reason);
                }
            }
        }
        let pause = self.fates.iter().flatten().find_map(|fate| match fate {
            Fate::Judged(Outcome::Pause(trouble)) => Some(trouble.clone()),
            _ => None,
        });
        if let Some(trouble) = pause {
            self.next = Next::Pause(trouble);
        }
        refused
    }
}

/// After the search, "missing" is what it stands for.
pub(super) fn settled(fate: Fate, searched: bool) -> Fate {
    match fate {
        Fate::Judged(Outcome::Missing(then)) if searched => Fate::Judged(*then),
        other => other,
    }
}

/// Whether the server has it now, or may have it.
pub(super) const fn may_be_there(fate: &Fate) -> bool {
    matches!(fate, Fate::Unknown | Fate::Judged(Outcome::Accepted | Outcome::Again))
}

/// The same without the treatment it is part of.
fn apart(draft: &Draft) -> Draft {
    let Ok(resource) = draft.resource() else { return draft.clone() };
    let mut resource = resource.into_owned();
    if let Resource::Observation(observation) = &mut resource {
        observation.part_of.clear();
    }
    resource.into()
}

pub(super) fn accepted(fates: &[Fate]) -> u64 {
    u64::from(taken(fates))
}

/// Parts that the server took.
pub(super) fn taken(fates: &[Fate]) -> u32 {
    count(fates.iter().filter(|fate| **fate == Fate::Judged(Outcome::Accepted)).count())
}

pub(super) fn count(parts: usize) -> u32 {
    u32::try_from(parts).unwrap_or(u32::MAX)
}
