//! Resource ids: derived under the recipient's key from what the resource is about, so that a retry is a no-op and two
//! recipients cannot join theirs.

use crate::model::name::{MachineName, UpstreamName};
use crate::model::parameter::Parameter;
use crate::privacy::record::{Revision, TreatmentId};
use crate::spool::Stored;
use crate::upstream::{Identities, Pseudonym};
use uuid::Uuid;

/// Makes the ids of one recipient.
#[derive(Clone, Copy)]
pub(super) struct Ids<'a> {
    pub(super) recipient: &'a UpstreamName,
    pub(super) identities: &'a dyn Identities,
}

impl Ids<'_> {
    /// Over the record, the part of it, and the binding under which it was written. The tick of its capture is in it: a store
    /// that was put back from a copy gives the numbers behind the copy again, to other records.
    pub(super) fn observation(self, stored: &Stored, part: u16, revision: Revision) -> Uuid {
        self.derive(&[
            b"Observation",
            &stored.store.0,
            stored.record.origin().machine.as_str().as_bytes(),
            &stored.sequence.0.to_be_bytes(),
            &stored.record.origin().tick.as_micros().to_be_bytes(),
            &part.to_be_bytes(),
            &revision.0.to_be_bytes(),
        ])
    }

    /// Over the machine.
    pub(super) fn device(self, machine: &MachineName) -> Uuid {
        self.derive(&[b"Device", machine.as_str().as_bytes()])
    }

    /// Over the machine and what it measures.
    pub(super) fn metric(self, machine: &MachineName, parameter: Parameter) -> Uuid {
        let number = parameter.row().number.to_be_bytes();
        self.derive(&[b"DeviceMetric", machine.as_str().as_bytes(), &number])
    }

    /// Over what this recipient sees of the patient.
    pub(super) fn patient(self, pseudonym: &Pseudonym) -> Uuid {
        self.derive(&[b"Patient", pseudonym.as_str().as_bytes()])
    }

    /// Over the treatment and its binding.
    pub(super) fn procedure(self, treatment: TreatmentId, revision: Revision) -> Uuid {
        self.derive(&[b"Procedure", treatment.as_bytes(), &revision.0.to_be_bytes()])
    }

    /// Over the machine, the alarm and its occurrence: ties the start of an alarm to its end.
    pub(super) fn alarm_occurrence(self, machine: &MachineName, alarm: u16, occurrence: u32) -> Uuid {
        let machine = machine.as_str().as_bytes();
        self.derive(&[b"alarm-occurrence", machine, &alarm.to_be_bytes(), &occurrence.to_be_bytes()])
    }

    fn derive(self, about: &[&[u8]]) -> Uuid {
        self.identities.resource_id(self.recipient, about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::{ClockTrust, Timestamp};
    use crate::normalise::Origin;
    use crate::privacy::record::Body;
    use crate::upstream::fhir::testing::{Bindings, origin, stored_at};
    use chairside_drivers::kit::time::Tick;

    fn id(stored: &Stored) -> Uuid {
        let recipient = UpstreamName::new("ehr").unwrap();
        Ids { recipient: &recipient, identities: &Bindings::default() }.observation(stored, 0, Revision(1))
    }

    fn captured(tick: u64) -> Stored {
        stored_at(7, Origin { tick: Tick::from_micros(tick), ..origin() }, None, Body::Values(Vec::new()))
    }

    #[test]
    fn a_number_that_a_store_put_back_from_a_copy_gives_again_leads_to_another_id() {
        assert_eq!(id(&captured(1)), id(&captured(1)));
        assert_ne!(id(&captured(1)), id(&captured(2)));
    }

    #[test]
    fn a_record_that_is_given_its_right_time_keeps_its_id() {
        let (stored, later) = (captured(1), Timestamp::from_micros(1_900_000_000_000_000));
        let record = stored.record.clone().retimed(later, ClockTrust::Retimed);
        assert_eq!(id(&Stored { record, ..stored.clone() }), id(&stored));
    }
}
