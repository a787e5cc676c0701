//! What records refer to: machines, their metrics, patients and treatments, written type by type before the records.

use super::Writer;
use super::parts::{GONE, accepted, may_be_there, settled};
use super::trouble::{machine_refused, not_settled, not_taken_back, refused_need};
use super::verdict::CONFLICTS;
use crate::upstream::fhir::courier::{Fate, Parcel, Weight};
use crate::upstream::fhir::draft::Draft;
use crate::upstream::fhir::encode::{Need, Standing};
use crate::upstream::fhir::link::Post;
use crate::upstream::fhir::r4::ResourceType;
use crate::upstream::fhir::status::Outcome;
use crate::upstream::{Next, Trouble};
use std::collections::HashSet;
use uuid::Uuid;

/// What became of the resources that others refer to.
#[derive(Default)]
pub(super) struct Brought {
    /// Refused treatments; what is part of them goes out without them.
    pub(super) without: HashSet<Uuid>,
    /// Not there yet; who needs them waits.
    pub(super) delayed: HashSet<Uuid>,
    /// Something about a patient may have reached the server.
    pub(super) named_a_patient: bool,
    /// Something was not taken for a fault of the server.
    faulty: Option<ResourceType>,
    pub(super) setback: Option<Trouble>,
    pub(super) next: Next,
}

impl<P: Post> Writer<P> {
    /// Sees to it that the server has all of these: what each record needs.
    pub(super) async fn bring_about(&mut self, needs: &[&[Need]], resources: &mut u64) -> Brought {
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
            let render = |need: &&Need| self.desk.encoder.render(need, &*self.desk.identities);
            let rendered: Vec<Draft> = absent.iter().map(render).map(Draft::from).collect();
            let ids: Vec<Uuid> = needs.iter().copied().flatten().map(|need| need.id).collect();
            let parcels: Vec<_> = rendered.iter().map(|draft| Parcel { draft, needs: &ids }).collect();
            let (fates, next) = self.courier.carry(&mut self.post, &parcels, Weight::Apart).await;
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
}
