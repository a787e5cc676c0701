//! Records rendered ahead of their turn: the next batch is written down while the last one is on its way.

use super::encode::{Encoded, Encoder, Rendering};
use crate::model::time::ClockTrust;
use crate::privacy::record::{Body, Revision};
use crate::spool::{Sequence, Stored};
use crate::upstream::{Identities, Prepare};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Renders records, some of them ahead.
pub(super) struct Desk {
    pub(super) encoder: Encoder,
    pub(super) identities: Arc<dyn Identities>,
    /// One batch at most.
    ahead: Mutex<HashMap<Sequence, Rendering>>,
}

impl Desk {
    pub(super) fn new(encoder: Encoder, identities: Arc<dyn Identities>) -> Self {
        Self { encoder, identities, ahead: Mutex::default() }
    }

    /// What the record becomes under the binding in force.
    pub(super) fn encode(&self, stored: &Stored) -> Encoded {
        let ahead = self.ahead().remove(&stored.sequence);
        match ahead.filter(|rendering| self.holds(rendering, stored)) {
            Some(rendering) => Encoded::Write(rendering),
            None => self.encoder.encode(stored, &*self.identities),
        }
    }

    /// Whether the binding is still the one under which it was rendered.
    fn holds(&self, rendering: &Rendering, stored: &Stored) -> bool {
        may_be_ahead(stored) && self.in_force(stored) == rendering.revision
    }

    /// The binding in force of what the record is about.
    pub(super) fn in_force(&self, stored: &Stored) -> Revision {
        let treatment = stored.record.treatment();
        treatment.and_then(|treatment| self.identities.revision(treatment)).unwrap_or(Revision(0))
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<Sequence, Rendering>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepare for Desk {
    fn prepare(&self, batch: &[Stored]) {
        let render = |stored: &Stored| match self.encoder.encode(stored, &*self.identities) {
            Encoded::Write(rendering) => Some((stored.sequence, rendering)),
            Encoded::Hold(_) | Encoded::Skip => None,
        };
        let ahead = batch.iter().filter(|stored| may_be_ahead(stored)).filter_map(render).collect();
        *self.ahead() = ahead;
    }
}

/// Readings say the same whenever they are rendered under a binding. A treatment's story grows, and a time that is not
/// trusted may be found.
fn may_be_ahead(stored: &Stored) -> bool {
    matches!(stored.record.body(), Body::Values(_)) && stored.record.origin().clock == ClockTrust::Trusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::record::Record;
    use crate::spool::StoreId;
    use crate::upstream::fhir::testing::{Bindings, Site, TREATMENT, number, origin};

    fn stored() -> Stored {
        let values = Body::Values(vec![number("venous_pressure", "142"), number("arterial_pressure", "-80")]);
        let record = Record::sample(origin(), Some(TREATMENT), values);
        Stored { sequence: Sequence(7), store: StoreId([3; 16]), record }
    }

    fn rendering(desk: &Desk) -> Rendering {
        match desk.encode(&stored()) {
            Encoded::Write(rendering) => rendering,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_rendered_ahead_is_what_would_be_rendered_in_its_turn() {
        let desk = Desk::new(Site::test().encoder(), Arc::new(Bindings::of(TREATMENT, "p-1")));
        let in_turn = rendering(&desk);
        desk.prepare(&[stored()]);
        assert_eq!(desk.ahead().len(), 1);
        assert_eq!(rendering(&desk), in_turn);
        assert!(desk.ahead().is_empty(), "used once");
    }

    #[test]
    fn what_was_rendered_ahead_under_another_binding_is_rendered_anew() {
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
        let desk = Desk::new(Site::test().encoder(), Arc::clone(&bindings) as Arc<dyn Identities>);
        desk.prepare(&[stored()]);
        bindings.bind(TREATMENT, "p-2");
        let anew = rendering(&desk);
        assert_eq!(anew.revision, Revision(2));
        assert_eq!(
            anew,
            match desk.encoder.encode(&stored(), &*bindings) {
                Encoded::Write(rendering) => rendering,
                other => panic!("{other:?}"),
            }
        );
    }
}
