//! The FHIR upstream: what a batch of records needs is written first, then the records, and every entry's answer
//! becomes part of a record's verdict.

use super::courier::{Courier, Fate, Parcel};
use super::encode::{Encoded, Encoder, Need, Rendering, Standing};
use super::history::History;
use super::link::{Link, Post};
use super::r4::{Resource, ResourceType};
use super::status::Outcome;
use crate::clock::Clock;
use crate::config::settings::{FhirSettings, GatewaySettings, UpstreamSettings};
use crate::model::name::UpstreamName;
use crate::model::time::ClockTrust;
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
/// So many resources refused in a row, and none taken, are no bad resources: the receiver has been set up otherwise.
const REFUSALS: usize = 50;
/// Something that is gone need not be taken back.
const GONE: u16 = 410;
/// A record of a clock that is not trusted is looked at again after this time.
const CLOCK_RETRY: Duration = Duration::from_secs(60);

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

    fn begins_behind(&mut self, last: Sequence) {
        self.writer.history.begins_behind(last);
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
    /// Conflicts in a row, by part of a record.
    conflicts: HashMap<(Sequence, u16), u32>,
    /// How often in a row the server did not take something that others need.
    delays: HashMap<Uuid, u32>,
    /// Resources refused since the last one that was taken.
    refusals: usize,
    pub(super) history: History,
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
        Self {
            encoder,
            identities,
            clock,
            post,
            courier,
            present: HashSet::new(),
            attempts: HashMap::new(),
            conflicts: HashMap::new(),
            delays: HashMap::new(),
            refusals: 0,
            history: History::default(),
        }
    }

    /// Delivers records. One of a clock that is not trusted is held back, because its time would be wrong in a chart;
    /// it goes out once records can be given the right time from where the trusted clock met the monotonic one.
    pub(super) async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        let mut delivery = Delivery::default();
        let mut renderings = Vec::with_capacity(batch.len());
        for stored in batch {
            match self.encoder.encode(stored, &*self.identities) {
                Encoded::Write(_) if is_untimed(stored) => {
                    let not_before = self.clock.tick().after(CLOCK_RETRY);
                    delivery.verdicts.push((stored.sequence, Verdict::Retry { not_before }));
                    delivery.setback = Some(untimed());
                }
                Encoded::Write(rendering) => renderings.push((stored.sequence, rendering)),
                Encoded::Hold(treatment) => {
                    delivery.verdicts.push((stored.sequence, Verdict::Held(treatment)))
                }
                Encoded::Skip => delivery.verdicts.push((stored.sequence, Verdict::SkippedByPolicy)),
            }
        }
        // Where two records write the same resource the later one counts.
        renderings.sort_by_key(|(sequence, _)| *sequence);
        let written = self.write(&renderings, Standing::Valid).await;
        for ((sequence, rendering), fates) in renderings.iter().zip(&written.fates) {
            delivery.verdicts.extend(self.verdict(*sequence, rendering, fates).map(|it| (*sequence, it)));
        }
        delivery.resources = written.resources;
        delivery.next = written.next;
        delivery.setback = written.setback.or(delivery.setback);
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
        for stored in batch.iter().filter(|stored| !is_untimed(stored)) {
            // What was never written is delivered in its turn, under the binding in force then.
            if self.history.was_never_written(stored.sequence) {
                continue;
            }
            if let Some(then) = self.history.written_under(stored.sequence, correction.old)
                && let Encoded::Write(rendering) =
                    self.encoder.withdraw(stored, &*self.identities, correction.old, then)
            {
                back.push((stored.sequence, rendering));
            }
            if is_in_force && let Encoded::Write(it) = self.encoder.replace(stored, &*self.identities) {
                anew.push((stored.sequence, it));
            }
        }
        let mut open: HashSet<Sequence> = HashSet::new();
        let mut parts: HashMap<Sequence, u32> = HashMap::new();
        let mut refused: HashMap<Sequence, Vec<RefusedPart>> = HashMap::new();
        // Taken back first: in between a reading is missing, which is better than being another patient's.
        for (standing, renderings) in [(Standing::Withdrawn, back), (Standing::Valid, anew)] {
            let renderings: Vec<_> = renderings.into_iter().filter(|(it, _)| !open.contains(it)).collect();
            let written = self.write(&renderings, standing).await;
            delivery.setback = written.setback.clone().or(delivery.setback);
            for ((sequence, rendering), fates) in renderings.iter().zip(&written.fates) {
                *parts.entry(*sequence).or_default() += taken(fates);
                match self.verdict(*sequence, rendering, fates) {
                    None | Some(Verdict::Retry { .. }) => {
                        open.insert(*sequence);
                    }
                    Some(Verdict::Refused { reason, .. }) if standing == Standing::Valid => {
                        let all = rendering.parts.iter();
                        let all = all.map(|part| RefusedPart { part: part.number, reason });
                        refused.insert(*sequence, all.collect());
                    }
                    Some(Verdict::Delivered { refused_parts, .. }) if standing == Standing::Valid => {
                        refused.insert(*sequence, refused_parts);
                    }
                    // Of what is taken back, `write` lets only refusals through of what never was there.
                    Some(Verdict::Refused { .. } | Verdict::Delivered { .. }) => {}
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
                let refused_parts = refused.remove(&sequence).unwrap_or_default();
                let parts = parts.get(&sequence).copied().unwrap_or(0);
                (sequence, Verdict::Delivered { parts, refused_parts })
            }));
        }
        delivery
    }

    /// Writes renderings: what they need, stage by stage, then their parts.
    async fn write(&mut self, renderings: &[(Sequence, Rendering)], standing: Standing) -> Written {
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
        written.end_the_search_for_missing();
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
        let apart: Vec<Vec<Resource>> = chosen()
            .map(|(_, _, it)| match it.needs.iter().any(|need| brought.without.contains(&need.id)) {
                true => it.parts.iter().map(|part| apart(&part.resource)).collect(),
                false => Vec::new(),
            })
            .collect();
        let mut parcels: Vec<Parcel<'_>> = Vec::new();
        let mut by_id: HashMap<&str, usize> = HashMap::new();
        let mut sent_as = Vec::new();
        for (((index, sequence, rendering), needs), apart) in chosen().zip(&ids).zip(&apart) {
            let waits = needs.iter().any(|id| brought.delayed.contains(id));
            for (place, part) in rendering.parts.iter().enumerate() {
                if waits {
                    written.set(index, place, Fate::Judged(Outcome::Again));
                    continue;
                }
                let parcel = Parcel { resource: apart.get(place).unwrap_or(&part.resource), needs };
                let at = *by_id.entry(part.resource.id()).or_insert(parcels.len());
                match parcels.get_mut(at) {
                    Some(earlier) => *earlier = parcel,
                    None => parcels.push(parcel),
                }
                sent_as.push((index, place, at, sequence, rendering.revision));
            }
        }
        let (fates, next) = self.courier.carry(&mut self.post, &parcels).await;
        written.resources += accepted(&fates);
        written.next = next;
        for (index, place, at, sequence, revision) in sent_as {
            if let Some(fate) = fates.get(at) {
                if standing == Standing::Valid && may_be_there(fate) {
                    self.history.wrote(sequence, revision);
                }
                written.set(index, place, fate.clone());
            }
        }
    }

    /// A server that takes nothing at all any more was set up otherwise; its refusals are not about single records, and
    /// no record is given up for them.
    fn stop_at_refusals_of_everything(
        &mut self,
        renderings: &[(Sequence, Rendering)],
        written: &mut Written,
    ) {
        let refused =
            written.fates.iter().flatten().filter(|it| matches!(it, Fate::Judged(Outcome::Refused(_))));
        let refused = refused.count();
        let taken = written.fates.iter().flatten().any(|it| *it == Fate::Judged(Outcome::Accepted));
        self.refusals = if taken { 0 } else { self.refusals.saturating_add(refused) };
        if self.refusals >= REFUSALS && refused > 0 {
            let reason = written.unjudge_refusals();
            if written.next == Next::Continue {
                written.next = Next::Pause(everything_refused(reason));
            }
            return;
        }
        for ((_, rendering), fates) in renderings.iter().zip(&written.fates) {
            for (part, fate) in rendering.parts.iter().zip(fates) {
                match fate {
                    Fate::Judged(Outcome::Refused(_)) => self.history.refused(part.resource.id()),
                    Fate::Judged(Outcome::Accepted) => self.history.taken(part.resource.id()),
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
                    && !self.history.was_refused(part.resource.id())
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

    /// Sees to it that the server has all of these: what each record needs.
    async fn bring_about(&mut self, needs: &[&[Need]], resources: &mut u64) -> Brought {
        let mut brought = Brought::default();
        let mut started_over = false;
        const STAGES: [ResourceType; 4] = [
            ResourceType::Device,
            ResourceType::DeviceMetric,
            ResourceType::Patient,
            ResourceType::Procedure,
        ];
        let mut stages = STAGES.into_iter();
        while let Some(stage) = stages.next() {
            let absent = self.absent(needs, stage, &brought);
            let rendered: Vec<Resource> =
                absent.iter().map(|need| self.encoder.render(need, &*self.identities)).collect();
            let ids: Vec<Uuid> = needs.iter().copied().flatten().map(|need| need.id).collect();
            let parcels: Vec<_> = rendered.iter().map(|resource| Parcel { resource, needs: &ids }).collect();
            let (fates, next) = self.courier.carry(&mut self.post, &parcels).await;
            *resources += accepted(&fates);
            if matches!(stage, ResourceType::Patient | ResourceType::Procedure) {
                brought.named_a_patient |= fates.iter().any(may_be_there);
            }
            let mut missing = false;
            for (need, fate) in absent.iter().zip(fates) {
                match settled(fate, started_over) {
                    Fate::Judged(Outcome::Accepted) => {
                        self.delays.remove(&need.id);
                        self.history.taken(&need.id.to_string());
                        self.present.insert((need.id, need.standing()));
                    }
                    Fate::Judged(Outcome::Refused(reason)) => match (stage, need.standing()) {
                        // Machines are all written alike: what holds for one holds for all of them.
                        (
                            ResourceType::Device | ResourceType::DeviceMetric | ResourceType::Observation,
                            _,
                        ) => {
                            brought.next = Next::Pause(machine_refused(stage, reason));
                            return brought;
                        }
                        (_, Standing::Withdrawn) => {
                            if reason.status != GONE && !self.history.was_refused(&need.id.to_string()) {
                                brought.next = Next::Pause(not_taken_back(reason));
                                return brought;
                            }
                            brought.without.insert(need.id);
                        }
                        // Nothing of a treatment may stop the others.
                        (ResourceType::Procedure, Standing::Valid) => {
                            self.history.refused(&need.id.to_string());
                            brought.without.insert(need.id);
                            brought.setback = Some(refused_need(stage, reason));
                        }
                        (ResourceType::Patient, Standing::Valid) => {
                            brought.delayed.insert(need.id);
                            brought.setback = Some(refused_need(stage, reason));
                        }
                    },
                    Fate::Judged(Outcome::Missing(_)) => missing = true,
                    Fate::Judged(Outcome::Pause(trouble)) => {
                        brought.next = Next::Pause(trouble);
                        return brought;
                    }
                    fate @ (Fate::Judged(Outcome::Again | Outcome::Conflict(_) | Outcome::Throttled)
                    | Fate::Untried
                    | Fate::Unknown) => {
                        if next == Next::Continue {
                            self.delay(need, &fate, &mut brought);
                        }
                    }
                }
            }
            if next != Next::Continue {
                brought.next = next;
                return brought;
            }
            if missing {
                self.present.clear();
                started_over = true;
                stages = STAGES.into_iter();
            }
        }
        let waits = |all: &&[Need]| all.iter().any(|need| brought.delayed.contains(&need.id));
        if let Some(stage) = brought.faulty
            && needs.iter().all(waits)
        {
            // Nothing can go on: that is the server's state, and no record's.
            brought.next = Next::Wait { at_least: None, why: not_settled(stage) };
        }
        brought
    }

    /// The server did not take this just now: whoever needs it waits, all others go on.
    fn delay(&mut self, need: &Need, fate: &Fate, brought: &mut Brought) {
        let times = self.delays.entry(need.id).or_default();
        *times = times.saturating_add(1);
        let is_machine = matches!(need.kind(), ResourceType::Device | ResourceType::DeviceMetric);
        if *times >= CONFLICTS && is_machine && matches!(fate, Fate::Judged(Outcome::Conflict(_))) {
            // A conflict is about something that is there, and a machine is written the same every time.
            self.present.insert((need.id, need.standing()));
            return;
        }
        if !matches!(fate, Fate::Judged(Outcome::Conflict(_))) {
            brought.faulty = Some(need.kind());
        }
        if *times >= CONFLICTS {
            brought.setback = Some(not_settled(need.kind()));
        }
        brought.delayed.insert(need.id);
    }

    /// The needs of one type that the server is not known to have, each once.
    fn absent<'a>(&self, needs: &[&'a [Need]], stage: ResourceType, brought: &Brought) -> Vec<&'a Need> {
        let mut seen = HashSet::new();
        // What waits for one of its needs may need nothing further yet: the rest could refer to what is not there.
        let ready = needs.iter().filter(|all| all.iter().all(|need| !brought.delayed.contains(&need.id)));
        let wanted = ready.copied().flatten();
        let wanted = wanted.filter(|need| need.kind() == stage && !brought.without.contains(&need.id));
        wanted
            .filter(|need| !self.present.contains(&(need.id, need.standing())) && seen.insert(need.id))
            .collect()
    }

    /// The verdict on one record; `None` while any part of it is untried.
    fn verdict(&mut self, sequence: Sequence, rendering: &Rendering, fates: &[Fate]) -> Option<Verdict> {
        let tried = self.attempts.get(&sequence).copied().unwrap_or(0);
        let mut refused_parts = Vec::new();
        let mut again = false;
        for (part, fate) in rendering.parts.iter().zip(fates) {
            let number = part.number;
            let conflicts = match fate {
                Fate::Judged(Outcome::Conflict(_)) => {
                    let count = self.conflicts.entry((sequence, number)).or_default();
                    *count += 1;
                    *count
                }
                Fate::Untried => 0,
                Fate::Judged(_) | Fate::Unknown => {
                    self.conflicts.remove(&(sequence, number));
                    0
                }
            };
            match fate {
                Fate::Judged(Outcome::Accepted) => {}
                Fate::Judged(Outcome::Refused(reason)) => {
                    refused_parts.push(RefusedPart { part: number, reason: *reason });
                }
                Fate::Judged(Outcome::Conflict(reason)) if conflicts >= CONFLICTS => {
                    refused_parts.push(RefusedPart { part: number, reason: *reason });
                }
                Fate::Judged(Outcome::Again | Outcome::Conflict(_)) => again = true,
                Fate::Judged(Outcome::Missing(_) | Outcome::Throttled | Outcome::Pause(_))
                | Fate::Untried
                | Fate::Unknown => {
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
        self.conflicts.retain(|(of, _), _| *of != sequence);
        match refused_parts.first() {
            Some(first) if refused_parts.len() == rendering.parts.len() => {
                Some(Verdict::Refused { parts: count(refused_parts.len()), reason: first.reason })
            }
            _ => Some(Verdict::Delivered { parts: taken(fates), refused_parts }),
        }
    }
}

/// What became of renderings, part by part.
struct Written {
    fates: Vec<Vec<Fate>>,
    resources: u64,
    next: Next,
    setback: Option<Trouble>,
}

/// What became of the resources that others refer to.
#[derive(Default)]
struct Brought {
    /// Refused treatments; what is part of them goes out without them.
    without: HashSet<Uuid>,
    /// Not there yet; who needs them waits.
    delayed: HashSet<Uuid>,
    /// Something about a patient may have reached the server.
    named_a_patient: bool,
    /// Something was not taken for a fault of the server.
    faulty: Option<ResourceType>,
    setback: Option<Trouble>,
    next: Next,
}

impl Written {
    /// Takes every refusal back, as if nothing had been sent; gives the first one.
    fn unjudge_refusals(&mut self) -> Option<Reason> {
        let mut first = None;
        for fate in self.fates.iter_mut().flatten() {
            if let Fate::Judged(Outcome::Refused(reason)) = fate {
                first.get_or_insert(*reason);
                *fate = Fate::Untried;
            }
        }
        first
    }

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

/// Whether the server has it now, or may have it.
const fn may_be_there(fate: &Fate) -> bool {
    matches!(fate, Fate::Unknown | Fate::Judged(Outcome::Accepted | Outcome::Again))
}

/// The same without the treatment it is part of.
fn apart(resource: &Resource) -> Resource {
    let mut resource = resource.clone();
    if let Resource::Observation(observation) = &mut resource {
        observation.part_of.clear();
    }
    resource
}

fn is_untimed(stored: &Stored) -> bool {
    stored.record.origin().clock == ClockTrust::Untrusted
}

fn accepted(fates: &[Fate]) -> u64 {
    u64::from(taken(fates))
}

/// Parts that the server took.
fn taken(fates: &[Fate]) -> u32 {
    count(fates.iter().filter(|fate| **fate == Fate::Judged(Outcome::Accepted)).count())
}

fn count(parts: usize) -> u32 {
    u32::try_from(parts).unwrap_or(u32::MAX)
}

fn untimed() -> Trouble {
    Trouble {
        code: "untrusted_clock",
        what: "records were read while the date of this computer was not to be trusted".to_owned(),
        remedy: "set its clock and see to its time server; these records are kept and not sent with a wrong time",
    }
}

fn not_taken_back(reason: Reason) -> Trouble {
    Trouble {
        code: "correction_refused",
        what: format!("the receiver refuses to have a wrong chart corrected ({})", words(reason)),
        remedy: "have it accept `entered-in-error` under the same id; the wrong chart stays wrong until then",
    }
}

fn everything_refused(reason: Option<Reason>) -> Trouble {
    let words = reason.map_or_else(String::new, |reason| format!(" ({})", words(reason)));
    Trouble {
        code: "everything_refused",
        what: format!("the receiver has refused the last {REFUSALS} resources and more{words}"),
        remedy: "have it accept them, or change `resources` and `send`; everything is kept until then",
    }
}

fn refused_need(stage: ResourceType, reason: Reason) -> Trouble {
    Trouble {
        code: "treatment_refused",
        what: format!("the receiver refuses a {} of ours ({})", stage.as_str(), words(reason)),
        remedy: "have the receiver accept it, or leave the type out of `resources`",
    }
}

fn words(reason: Reason) -> String {
    let issue = reason.issue.map(|issue| format!(", {issue}")).unwrap_or_default();
    format!("{}{issue}", reason.status)
}

fn machine_refused(stage: ResourceType, reason: Reason) -> Trouble {
    Trouble {
        code: "machine_refused",
        what: format!("the receiver refuses our {} resources ({})", stage.as_str(), words(reason)),
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
