//! Procedure and Patient: a treatment of a seated patient, and where the receiver wants it, the patient as a pseudonym.

use super::codes;
use super::encode::{Encoder, Seated, Standing};
use super::ids::Ids;
use super::instant;
use super::r4::{Coding, Identifier, Meta, Patient, Procedure, Reference, Resource, ResourceType};
use crate::config::settings::Subject;
use crate::model::name::MachineName;
use crate::model::time::Timestamp;
use crate::upstream::Pseudonym;

/// The year 2000: a treatment before it began or ended by a clock that nobody had set.
const FIRST: Timestamp = Timestamp::from_micros(946_684_800_000_000);

/// What the record at hand knows of a treatment's times, for when the treatment's own story is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Hint {
    pub(super) started: Option<Timestamp>,
    pub(super) ended: Option<Timestamp>,
}

impl Encoder {
    /// The treatment in its latest state: once it has an end it never goes back to `in-progress`.
    pub(super) fn procedure(
        &self,
        ids: Ids<'_>,
        seated: &Seated,
        machine: &MachineName,
        hint: Hint,
        standing: Standing,
        meta: Meta,
    ) -> Resource {
        let id = ids.procedure(seated.treatment, seated.revision);
        let story = ids.identities.treatment(seated.treatment);
        let is_over = story.as_ref().and_then(|story| story.ended).or(hint.ended).is_some();
        let told = |at: Option<Timestamp>| at.filter(|at| *at >= FIRST);
        let started = told(story.as_ref().map(|story| story.started)).or(hint.started);
        let ended = told(story.as_ref().and_then(|story| story.ended)).or(hint.ended);
        let machine = story.as_ref().map_or(machine, |story| &story.machine);
        Resource::Procedure(Procedure {
            resource_type: ResourceType::Procedure,
            id: id.to_string(),
            meta,
            identifier: vec![self.identifier("treatment", id)],
            status: match (standing, is_over) {
                (Standing::Withdrawn, _) => "entered-in-error",
                (Standing::Valid, true) => "completed",
                (Standing::Valid, false) => "in-progress",
            }
            .into(),
            category: Some(codes::snomed("265764009", "Renal dialysis").into()),
            // The kind of treatment can change from minute to minute; the modality readings that are part of it say it.
            code: None,
            subject: self.patient_reference(ids, &seated.pseudonym),
            performed_period: instant::period(started, ended, &self.zone),
            used_reference: self.device_reference(ids, machine).into_iter().collect(),
        })
    }

    /// A Patient that is nothing but a pseudonym.
    pub(super) fn patient(&self, ids: Ids<'_>, pseudonym: &Pseudonym, labels: Vec<Coding>) -> Resource {
        Resource::Patient(Patient {
            resource_type: ResourceType::Patient,
            id: ids.patient(pseudonym).to_string(),
            meta: Meta { profile: Vec::new(), security: labels },
            identifier: vec![self.pseudonym_identifier(pseudonym)],
        })
    }

    /// The patient by pseudonym: as an identifier the receiver may look up, or as the Patient we write.
    pub(super) fn patient_reference(&self, ids: Ids<'_>, pseudonym: &Pseudonym) -> Reference {
        match self.subject {
            Subject::Identifier => {
                Reference::logical(ResourceType::Patient, self.pseudonym_identifier(pseudonym))
            }
            Subject::Managed => Reference::literal(ResourceType::Patient, ids.patient(pseudonym)),
        }
    }

    fn pseudonym_identifier(&self, pseudonym: &Pseudonym) -> Identifier {
        Identifier { system: self.own.system("pseudonym"), value: pseudonym.as_str().to_owned().into() }
    }
}
