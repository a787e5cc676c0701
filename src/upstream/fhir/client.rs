//! The FHIR upstream: what a batch of records needs is written first, then the records, and every entry's answer
//! becomes part of a record's verdict.

use super::courier::{Courier, Fate, Parcel};
use super::encode::{Encoded, Encoder, Need, Rendering, Standing};
use super::link::{Link, Post};
use super::r4::{Resource, ResourceType};
use super::status::Outcome;
use crate::clock::Clock;
use crate::config::settings::{FhirSettings, GatewaySettings, UpstreamSettings};
use crate::model::name::UpstreamName;
use crate::privacy::record::{Correction, Revision};
use crate::spool::{Reason, RefusedPart, Sequence, Stored, Verdict};
use crate::upstream::{Delivery, Identities, Next, Trouble, Upstream};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A record that the server could not take just now is tried again after this time, then after twice as long ...
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// ... and so on, up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// A conflict that comes back this often never ends: nobody else should be writing our ids.
const CONFLICTS: u32 = 3;

/// A FHIR server as an upstream.
#[derive(Debug)]
pub struct FhirUpstream {
    name: UpstreamName,
    writer: Writer<Link>,
}

impl FhirUpstream {
    /// An upstream for one configured receiver. Touches neither files nor network: what is wrong there pauses it later.
    #[must_use]
    pub fn new(
        gateway: &GatewaySettings,
        upstream: &UpstreamSettings,
        fhir: &FhirSettings,
        identities: Arc<dyn Identities>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let link = Link::new(upstream.clone(), fhir.url.clone(), clock.clone());
        let encoder = Encoder::new(gateway, upstream, fhir);
        Self { name: upstream.name.clone(), writer: Writer::new(encoder, identities, clock, link) }
    }
}

impl Upstream for FhirUpstream {
    fn name(&self) -> &UpstreamName {
        &self.name
    }

    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        self.writer.deliver(batch).await
    }

    async fn correct(&mut self, correction: Correction, batch: &[Stored]) -> Delivery {
        self.writer.correct(correction, batch).await
    }
}

/// Writes records through anything that can post.
pub(super) struct Writer<P> {
    encoder: Encoder,
    identities: Arc<dyn Identities>,
    clock: Arc<dyn Clock>,
    pub(super) post: P,
    courier: Courier,
    /// What this process has seen the server take. Forgotten when the server says that something is missing.
    present: HashSet<(Uuid, Standing)>,
    /// How often a record had to be tried again.
    attempts: HashMap<Sequence, u32>,
}

impl<P> std::fmt::Debug for Writer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("present", &self.present.len()).finish_non_exhaustive()
    }
}

impl<P: Post> Writer<P> {
    pub(super) fn new(
        encoder: Encoder,
        identities: Arc<dyn Identities>,
        clock: Arc<dyn Clock>,
        post: P,
    ) -> Self {
        let courier = Courier::new(clock.clone());
        let (present, attempts) = (HashSet::new(), HashMap::new());
        Self { encoder, identities, clock, post, courier, present, attempts }
    }

    pub(super) async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        let mut delivery = Delivery::default();
        let mut renderings = Vec::with_capacity(batch.len());
        for stored in batch {
            match self.encoder.encode(stored, &*self.identities) {
                Encoded::Write(rendering) => renderings.push((stored.sequence, rendering)),
                Encoded::Hold(treatment) => {
                    delivery.verdicts.push((stored.sequence, Verdict::Held(treatment)))
                }
                Encoded::Skip => delivery.verdicts.push((stored.sequence, Verdict::SkippedByPolicy)),
            }
        }
        // Where two records write the same resource the later one counts.
        renderings.sort_by_key(|(sequence, _)| *sequence);
        let written = self.write(renderings.iter().map(|(_, rendering)| rendering).collect()).await;
        for ((sequence, rendering), fates) in renderings.iter().zip(&written.fates) {
            delivery.verdicts.extend(self.verdict(*sequence, rendering, fates).map(|it| (*sequence, it)));
        }
        delivery.resources = written.resources;
        delivery.next = written.next;
        delivery
    }

    pub(super) async fn correct(&mut self, correction: Correction, batch: &[Stored]) -> Delivery {
        let mut delivery = Delivery::default();
        if correction.old == Revision(0) && self.encoder.holds_unseated() {
            // Nothing was written before there was a patient: the records were held, and their release delivers them.
            delivery.verdicts.extend(batch.iter().map(|stored| (stored.sequence, Verdict::SkippedByPolicy)));
            return delivery;
        }
        // A later correction has its own replacement; this one then only takes back.
        let is_in_force =
            self.identities.revision(correction.treatment).unwrap_or(Revision(0)) == correction.new;
        let (mut back, mut anew) = (Vec::new(), Vec::new());
        for stored in batch {
            if let Encoded::Write(rendering) =
                self.encoder.withdraw(stored, &*self.identities, correction.old)
            {
                back.push((stored.sequence, rendering));
            }
            if is_in_force && let Encoded::Write(it) = self.encoder.replace(stored, &*self.identities) {
                anew.push((stored.sequence, it));
            }
        }
        let mut open: HashSet<Sequence> = HashSet::new();
        let mut refused: HashMap<Sequence, Reason> = HashMap::new();
        // Taken back first: in between a reading is missing, which is better than being another patient's.
        for renderings in [back, anew] {
            let renderings: Vec<_> = renderings.into_iter().filter(|(it, _)| !open.contains(it)).collect();
            let written = self.write(renderings.iter().map(|(_, rendering)| rendering).collect()).await;
            for ((sequence, rendering), fates) in renderings.iter().zip(&written.fates) {
                match self.verdict(*sequence, rendering, fates) {
                    None | Some(Verdict::Retry { .. }) => {
                        open.insert(*sequence);
                    }
                    Some(Verdict::Refused(reason)) => {
                        refused.insert(*sequence, reason);
                    }
                    Some(Verdict::Delivered { refused_parts }) => {
                        refused.extend(refused_parts.first().map(|part| (*sequence, part.reason)));
                    }
                    Some(Verdict::SkippedByPolicy | Verdict::Held(_)) => {}
                }
            }
            delivery.resources += written.resources;
            if written.next != Next::Continue {
                delivery.next = written.next;
                break;
            }
        }
        if delivery.next == Next::Continue {
            let closed = batch.iter().map(|stored| stored.sequence).filter(|it| !open.contains(it));
            delivery.verdicts.extend(closed.map(|sequence| {
                let verdict = match refused.get(&sequence) {
                    Some(reason) => Verdict::Refused(*reason),
                    None => Verdict::Delivered { refused_parts: Vec::new() },
                };
                (sequence, verdict)
            }));
        }
        delivery
    }

    /// Writes renderings: what they need, stage by stage, then their parts.
    async fn write(&mut self, renderings: Vec<&Rendering>) -> Written {
        let mut written = Written {
            fates: renderings.iter().map(|it| vec![Fate::Untried; it.parts.len()]).collect(),
            resources: 0,
            next: Next::Continue,
        };
        if renderings.is_empty() {
            return written;
        }
        let all: Vec<usize> = (0..renderings.len()).collect();
        self.write_some(&renderings, &all, &mut written).await;
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
            for need in missing.iter().filter_map(|index| renderings.get(*index)).flat_map(|it| &it.needs) {
                self.present.retain(|(id, _)| *id != need.id);
            }
            self.write_some(&renderings, &missing, &mut written).await;
        }
        written.end_the_search_for_missing();
        written
    }

    async fn write_some(&mut self, renderings: &[&Rendering], which: &[usize], written: &mut Written) {
        let chosen = || which.iter().filter_map(|index| renderings.get(*index).map(|it| (*index, *it)));
        let needs: Vec<&Need> = chosen().flat_map(|(_, it)| &it.needs).collect();
        let (refused, next) = self.bring_about(&needs, &mut written.resources).await;
        if next != Next::Continue {
            written.next = next;
            return;
        }
        let ids: Vec<Vec<Uuid>> =
            chosen().map(|(_, it)| it.needs.iter().map(|need| need.id).collect()).collect();
        let mut parcels: Vec<Parcel<'_>> = Vec::new();
        let mut by_id: HashMap<&str, usize> = HashMap::new();
        let mut sent_as = Vec::new();
        for ((index, rendering), needs) in chosen().zip(&ids) {
            let in_the_way = needs.iter().find_map(|id| refused.get(id));
            for (place, part) in rendering.parts.iter().enumerate() {
                if let Some(reason) = in_the_way {
                    written.set(index, place, Fate::Judged(Outcome::Refused(*reason)));
                    continue;
                }
                let parcel = Parcel { resource: &part.resource, needs };
                let at = *by_id.entry(part.resource.id()).or_insert(parcels.len());
                match parcels.get_mut(at) {
                    Some(earlier) => *earlier = parcel,
                    None => parcels.push(parcel),
                }
                sent_as.push((index, place, at));
            }
        }
        let (fates, next) = self.courier.carry(&mut self.post, &parcels).await;
        written.resources += accepted(&fates);
        written.next = next;
        for (index, place, at) in sent_as {
            if let Some(fate) = fates.get(at) {
                written.set(index, place, fate.clone());
            }
        }
    }

    /// Sees to it that the server has all of these. Gives back what it refuses for good.
    async fn bring_about(&mut self, needs: &[&Need], resources: &mut u64) -> (HashMap<Uuid, Reason>, Next) {
        let mut refused = HashMap::new();
        let mut started_over = false;
        const STAGES: [ResourceType; 4] = [
            ResourceType::Device,
            ResourceType::DeviceMetric,
            ResourceType::Patient,
            ResourceType::Procedure,
        ];
        let mut stages = STAGES.into_iter();
        while let Some(stage) = stages.next() {
            let absent = self.absent(needs, stage, &refused);
            let rendered: Vec<Resource> =
                absent.iter().map(|need| self.encoder.render(need, &*self.identities)).collect();
            let ids: Vec<Uuid> = needs.iter().map(|need| need.id).collect();
            let parcels: Vec<_> = rendered.iter().map(|resource| Parcel { resource, needs: &ids }).collect();
            let (fates, next) = self.courier.carry(&mut self.post, &parcels).await;
            *resources += accepted(&fates);
            let mut missing = false;
            let mut again = false;
            for (need, fate) in absent.iter().zip(fates) {
                match settled(fate, started_over) {
                    Fate::Judged(Outcome::Accepted) => {
                        self.present.insert((need.id, need.standing()));
                    }
                    Fate::Judged(Outcome::Refused(reason)) => match stage {
                        // Nothing of a treatment may stop the others.
                        ResourceType::Patient | ResourceType::Procedure => {
                            refused.insert(need.id, reason);
                        }
                        // Machines are all written alike: what holds for one holds for all of them.
                        ResourceType::Device | ResourceType::DeviceMetric | ResourceType::Observation => {
                            return (refused, Next::Pause(machine_refused(stage, reason)));
                        }
                    },
                    Fate::Judged(Outcome::Missing(_)) => missing = true,
                    Fate::Judged(Outcome::Pause(trouble)) => return (refused, Next::Pause(trouble)),
                    Fate::Judged(Outcome::Again | Outcome::Conflict(_) | Outcome::Throttled)
                    | Fate::Untried => again = true,
                }
            }
            if next != Next::Continue {
                return (refused, next);
            }
            if missing {
                self.present.clear();
                started_over = true;
                stages = STAGES.into_iter();
            } else if again {
                return (refused, Next::Wait { at_least: None, why: not_settled(stage) });
            }
        }
        (refused, Next::Continue)
    }

    /// The needs of one type that the server is not known to have, each once.
    fn absent<'a>(
        &self,
        needs: &[&'a Need],
        stage: ResourceType,
        refused: &HashMap<Uuid, Reason>,
    ) -> Vec<&'a Need> {
        let mut seen = HashSet::new();
        let wanted = needs.iter().filter(|need| need.kind() == stage && !refused.contains_key(&need.id));
        wanted
            .filter(|need| !self.present.contains(&(need.id, need.standing())) && seen.insert(need.id))
            .copied()
            .collect()
    }

    /// The verdict on one record; `None` while any part of it is untried.
    fn verdict(&mut self, sequence: Sequence, rendering: &Rendering, fates: &[Fate]) -> Option<Verdict> {
        let tried = self.attempts.get(&sequence).copied().unwrap_or(0);
        let mut refused_parts = Vec::new();
        let mut again = false;
        for (part, fate) in rendering.parts.iter().zip(fates) {
            let number = part.number;
            match fate {
                Fate::Judged(Outcome::Accepted) => {}
                Fate::Judged(Outcome::Refused(reason)) => {
                    refused_parts.push(RefusedPart { part: number, reason: *reason });
                }
                Fate::Judged(Outcome::Conflict(reason)) if tried + 1 >= CONFLICTS => {
                    refused_parts.push(RefusedPart { part: number, reason: *reason });
                }
                Fate::Judged(Outcome::Again | Outcome::Conflict(_)) => again = true,
                Fate::Judged(Outcome::Missing(_) | Outcome::Throttled | Outcome::Pause(_))
                | Fate::Untried => {
                    return None;
                }
            }
        }
        if again {
            self.attempts.insert(sequence, tried.saturating_add(1));
            let wait = FIRST_RETRY.saturating_mul(1 << tried.min(12)).min(LONGEST_RETRY);
            return Some(Verdict::Retry { not_before: self.clock.tick().after(wait) });
        }
        self.attempts.remove(&sequence);
        match refused_parts.first() {
            Some(first) if refused_parts.len() == rendering.parts.len() => {
                Some(Verdict::Refused(first.reason))
            }
            _ => Some(Verdict::Delivered { refused_parts }),
        }
    }
}

/// What became of renderings, part by part.
struct Written {
    fates: Vec<Vec<Fate>>,
    resources: u64,
    next: Next,
}

impl Written {
    fn set(&mut self, rendering: usize, part: usize, fate: Fate) {
        if let Some(place) = self.fates.get_mut(rendering).and_then(|fates| fates.get_mut(part)) {
            *place = fate;
        }
    }

    /// The second answer "missing" means what the first one would have meant without the search.
    fn end_the_search_for_missing(&mut self) {
        for fate in self.fates.iter_mut().flatten() {
            if let Fate::Judged(Outcome::Missing(_)) = fate {
                // A round that was broken off has not searched yet.
                *fate = match self.next {
                    Next::Continue => settled(std::mem::replace(fate, Fate::Untried), true),
                    Next::Wait { .. } | Next::Pause(_) => Fate::Untried,
                };
            }
        }
        let pause = self.fates.iter().flatten().find_map(|fate| match fate {
            Fate::Judged(Outcome::Pause(trouble)) => Some(trouble.clone()),
            _ => None,
        });
        if let Some(trouble) = pause {
            self.next = Next::Pause(trouble);
        }
    }
}

/// After the search, "missing" is what it stands for.
fn settled(fate: Fate, searched: bool) -> Fate {
    match fate {
        Fate::Judged(Outcome::Missing(then)) if searched => Fate::Judged(*then),
        other => other,
    }
}

fn accepted(fates: &[Fate]) -> u64 {
    let count = fates.iter().filter(|fate| **fate == Fate::Judged(Outcome::Accepted)).count();
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn machine_refused(stage: ResourceType, reason: Reason) -> Trouble {
    let issue = reason.issue.map(|issue| format!(", {issue}")).unwrap_or_default();
    Trouble {
        code: "machine_refused",
        what: format!("the receiver refuses our {} resources ({}{issue})", stage.as_str(), reason.status),
        remedy: "have the receiver accept them, or leave the type out of `resources`",
    }
}

fn not_settled(stage: ResourceType) -> Trouble {
    Trouble {
        code: "busy",
        what: format!("the receiver has not taken our {} resources yet", stage.as_str()),
        remedy: "nothing to do if it ends; everything is kept until then",
    }
}

#[cfg(test)]
mod tests;
