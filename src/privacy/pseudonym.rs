//! The border itself: captures become records without identity, treatments get a name that one recipient can read.

use super::keyring::Keyring;
use super::keyring::state::RowId;
use super::record::{Body, Record, Revision, TreatmentId};
use super::{Pseudonym, TreatmentStory};
use crate::model::name::UpstreamName;
use crate::normalise::{Capture, Finding, Phase};
use crate::upstream::Identities;
#[cfg(test)]
use chairside_drivers::kit::sensitive::Sensitive;
use std::sync::Arc;
use uuid::Uuid;

/// Seals captures, and answers what a recipient may know of a treatment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pseudonymiser {
    keyring: Arc<Keyring>,
}

impl Pseudonymiser {
    /// Over this keyring. [`Keyring::ensure_recipients`] has to know a recipient before it is asked for here.
    #[must_use]
    pub const fn new(keyring: Arc<Keyring>) -> Self {
        Self { keyring }
    }

    /// Takes the capture by value: afterwards there is nothing identified left to misuse. Readings and alarms taken
    /// while nobody was treated stay the machine's own, whatever treatment is given.
    #[must_use]
    pub fn seal(&self, capture: Capture, treatment: Option<TreatmentId>) -> Record {
        let Capture { origin, phase, finding, identity } = capture;
        // Wiped here: the patient is named by the seat, never by what a machine says.
        drop(identity);
        let of_a_treatment = match &finding {
            Finding::TreatmentStarted | Finding::TreatmentEnded(_) => true,
            Finding::Values(_) | Finding::Alarm(_) => phase == Phase::Treating,
        };
        let body = match finding {
            Finding::Values(values) => Body::Values(values),
            Finding::Alarm(edge) => Body::Alarm(edge),
            Finding::TreatmentStarted => Body::TreatmentStarted,
            Finding::TreatmentEnded(reason) => Body::TreatmentEnded(reason),
        };
        Record::assemble(origin, treatment.filter(|_| of_a_treatment), body)
    }

    /// What this receiver is told of the patient with this record number.
    #[cfg(test)]
    pub(crate) fn name_of(&self, recipient: &UpstreamName, number: &Sensitive<String>) -> Option<Pseudonym> {
        let number = super::record_number::RecordNumber::parse(number).ok()?;
        let state = self.keyring.state();
        let row = *state.patients.get(&number.mac(&state.lookup))?;
        self.pseudonym(recipient, row)
    }

    /// What this recipient sees of a patient.
    pub(super) fn pseudonym(&self, recipient: &UpstreamName, row: RowId) -> Option<Pseudonym> {
        let state = self.keyring.state();
        let mac = state.recipients.get(recipient)?.mac("chairside pseudonym 1", &[&row.0]);
        Some(Pseudonym::from_mac(mac))
    }
}

impl Identities for Pseudonymiser {
    fn revision(&self, treatment: TreatmentId) -> Option<Revision> {
        self.keyring.state().treatments.get(&treatment).map(|treatment| treatment.revision())
    }

    fn subject(
        &self,
        recipient: &UpstreamName,
        treatment: TreatmentId,
        revision: Revision,
    ) -> Option<Pseudonym> {
        let row = self.keyring.state().treatments.get(&treatment)?.patient_of(revision)?;
        self.pseudonym(recipient, row)
    }

    fn treatment(&self, treatment: TreatmentId) -> Option<TreatmentStory> {
        let state = self.keyring.state();
        let known = state.treatments.get(&treatment)?;
        Some(TreatmentStory {
            chair: known.chair.clone(),
            machine: known.machine.clone(),
            started: known.started,
            ended: known.ended,
        })
    }

    fn resource_id(&self, recipient: &UpstreamName, about: &[&[u8]]) -> Uuid {
        let state = self.keyring.state();
        let mac = match state.recipients.get(recipient) {
            Some(key) => key.mac("chairside resource 1", about),
            // Not reached for a configured upstream. An id must still be unlike every other recipient's.
            None => {
                let parts: Vec<&[u8]> =
                    [recipient.as_str().as_bytes()].into_iter().chain(about.iter().copied()).collect();
                state.lookup.mac("chairside resource of a stranger 1", &parts)
            }
        };
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        Uuid::new_v8(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{ChairName, MachineName};
    use crate::model::time::{ClockTrust, Timestamp};
    use crate::normalise::{EndReason, Origin};
    use crate::privacy::crypto::Secret;
    use crate::privacy::keyring::KeyringError;
    use crate::privacy::keyring::state::Treatment;
    use chairside_drivers::kit::driver::ModelId;
    use chairside_drivers::kit::time::Tick;

    const TREATMENT: TreatmentId = TreatmentId::from_bytes([1; 16]);
    const OTHER: TreatmentId = TreatmentId::from_bytes([2; 16]);

    fn upstream(name: &str) -> UpstreamName {
        UpstreamName::new(name).unwrap()
    }

    /// Two recipients; a treatment of patient 9 that was patient 8's before a correction, and one of nobody.
    fn pseudonymiser() -> Pseudonymiser {
        let keyring = Keyring::in_memory().unwrap();
        let filled: Result<(), KeyringError> = keyring.change(|state| {
            for (id, bindings) in [(TREATMENT, vec![RowId([8; 16]), RowId([9; 16])]), (OTHER, vec![])] {
                let treatment = Treatment {
                    key: Secret::from_bytes([3; 32]),
                    chair: ChairName::new("chair-1").unwrap(),
                    machine: MachineName::new("asset-14").unwrap(),
                    started: Timestamp::from_micros(7),
                    ended: None,
                    bindings,
                };
                state.treatments.insert(id, treatment);
            }
            state.recipients.insert(upstream("ehr"), Secret::from_bytes([5; 32]));
            state.recipients.insert(upstream("research"), Secret::from_bytes([6; 32]));
            Ok(())
        });
        filled.unwrap();
        Pseudonymiser::new(Arc::new(keyring))
    }

    fn capture(finding: Finding, phase: Phase) -> Capture {
        let origin = Origin {
            chair: ChairName::new("chair-1").unwrap(),
            machine: MachineName::new("asset-14").unwrap(),
            model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
            at: Timestamp::from_micros(1),
            tick: Tick::ZERO,
            clock: ClockTrust::Trusted,
            slot: None,
            previous: None,
            simulated: false,
        };
        Capture { origin, phase, finding, identity: vec![Sensitive::new("Mustermann".to_owned())] }
    }

    #[test]
    fn a_sealed_record_names_its_treatment_and_holds_no_identity() {
        let record = pseudonymiser().seal(capture(Finding::Values(vec![]), Phase::Treating), Some(TREATMENT));
        assert_eq!(record.treatment(), Some(TREATMENT));
        assert_eq!(record.body(), &Body::Values(vec![]));
        let bytes = super::super::record::encode(&record);
        assert!(!bytes.windows(10).any(|window| window == b"Mustermann"));
    }

    #[test]
    fn readings_outside_treating_are_the_machines_own_whatever_treatment_is_given() {
        let border = pseudonymiser();
        for phase in [Phase::Idle, Phase::Preparing, Phase::Ending, Phase::Rinsing] {
            let record = border.seal(capture(Finding::Values(vec![]), phase), Some(TREATMENT));
            assert_eq!(record.treatment(), None, "{phase:?}");
        }
        let ended = capture(Finding::TreatmentEnded(EndReason::Rinse), Phase::Rinsing);
        assert_eq!(border.seal(ended, Some(TREATMENT)).treatment(), Some(TREATMENT));
    }

    #[test]
    fn a_pseudonym_is_the_mac_of_the_row_under_the_key_of_the_recipient() {
        let border = pseudonymiser();
        let seen = border.subject(&upstream("ehr"), TREATMENT, Revision(2)).unwrap();
        // Computed apart from this program.
        assert_eq!(seen.as_str(), "9c0e64d6dcac5a6a320767cb482e1c9b");
        assert_eq!(format!("{seen:?}"), "Pseudonym(hidden)");
    }

    #[test]
    fn two_recipients_cannot_join_what_they_see() {
        let border = pseudonymiser();
        let seen = |recipient| border.subject(&upstream(recipient), TREATMENT, Revision(2)).unwrap();
        assert_ne!(seen("ehr").as_str(), seen("research").as_str());
        let id = |recipient| border.resource_id(&upstream(recipient), &[b"Observation", b"x"]);
        assert_ne!(id("ehr"), id("research"));
        assert_ne!(id("stranger"), id("other stranger".replace(' ', "-").as_str()));
    }

    #[test]
    fn each_revision_keeps_its_patient_and_revision_0_has_none() {
        let border = pseudonymiser();
        let subject = |revision| border.subject(&upstream("ehr"), TREATMENT, Revision(revision));
        assert_eq!(border.revision(TREATMENT), Some(Revision(2)));
        assert!(subject(1).is_some() && subject(1) != subject(2));
        assert_eq!(subject(0), None);
        assert_eq!(subject(3), None);
        assert_eq!(border.revision(OTHER), Some(Revision(0)));
        assert_eq!(border.subject(&upstream("ehr"), OTHER, Revision(1)), None);
        assert_eq!(border.revision(TreatmentId::from_bytes([3; 16])), None);
        assert_eq!(border.subject(&upstream("stranger"), TREATMENT, Revision(1)), None);
    }

    #[test]
    fn a_resource_id_is_a_uuid_derived_from_what_it_is_about() {
        let border = pseudonymiser();
        let id = |about: &[&[u8]]| border.resource_id(&upstream("ehr"), about);
        // Computed apart from this program.
        assert_eq!(id(&[b"Observation", b"x"]).to_string(), "81dda5a5-8a8b-8a60-84d1-22fd46165556");
        assert_ne!(id(&[b"Observation", b"x"]), id(&[b"Observatio", b"nx"]));
        assert_ne!(id(&[b"Observation"]), id(&[b"Observation", b""]));
    }

    #[test]
    fn a_treatment_tells_its_story_without_its_patient() {
        let story = pseudonymiser().treatment(TREATMENT).unwrap();
        assert_eq!(story.chair.as_str(), "chair-1");
        assert_eq!(story.started, Timestamp::from_micros(7));
        assert_eq!(story.ended, None);
    }
}
