//! Which alarms of a chair receivers believe to be on. It is durable before they are told, so that a run that is cut off
//! leaves no start without an end: the next one closes it.

use crate::model::alarm::{AlarmEdge, Phase};
use crate::model::name::MachineName;
use crate::privacy::record::{OpenAlarm, TreatmentId};

/// The alarms of one chair that were told to be on.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    on: Vec<OpenAlarm>,
    durable: Vec<OpenAlarm>,
}

impl Alarms {
    /// What a run before left on.
    pub(super) fn left(left: Vec<OpenAlarm>) -> Self {
        Self { on: left.clone(), durable: left }
    }

    /// Takes everything that is on, to be closed.
    pub(super) fn take(&mut self) -> Vec<OpenAlarm> {
        std::mem::take(&mut self.on)
    }

    /// This edge is about to be told.
    pub(super) fn note(&mut self, edge: AlarmEdge, machine: &MachineName, treatment: Option<TreatmentId>) {
        let AlarmEdge { alarm, phase, raw, occurrence } = edge;
        match phase {
            Phase::Start => {
                self.on.push(OpenAlarm { alarm, raw, occurrence, machine: machine.clone(), treatment });
            }
            Phase::End | Phase::EndConnectionLost | Phase::EndTreatmentChanged | Phase::EndGatewayDown => {
                self.on.retain(|open| (open.alarm, open.occurrence) != (alarm, occurrence));
            }
            Phase::Chattering { .. } => {}
        }
    }

    /// What has to be durable before the edges are: all that may be on afterwards. `None` where it is.
    pub(super) fn before(&self) -> Option<Vec<OpenAlarm>> {
        let new: Vec<_> = self.on.iter().filter(|open| !self.durable.contains(open)).cloned().collect();
        (!new.is_empty()).then(|| [self.durable.clone(), new].concat())
    }

    /// What has to be durable once the edges are. `None` where it is.
    pub(super) fn after(&self) -> Option<Vec<OpenAlarm>> {
        (self.durable != self.on).then(|| self.on.clone())
    }

    /// This is durable now.
    pub(super) fn are_durable(&mut self, durable: Vec<OpenAlarm>) {
        self.durable = durable;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::alarm::Alarm;

    fn edge(phase: Phase, occurrence: u32) -> AlarmEdge {
        AlarmEdge { alarm: Alarm::from_key("blood_leak").unwrap(), phase, raw: 1, occurrence }
    }

    fn occurrences(open: &Option<Vec<OpenAlarm>>) -> Option<Vec<u32>> {
        open.as_ref().map(|open| open.iter().map(|open| open.occurrence).collect())
    }

    impl Alarms {
        /// Writes what has to be durable, and says what that is.
        fn written(&mut self, due: impl FnOnce(&Self) -> Option<Vec<OpenAlarm>>) -> Option<Vec<u32>> {
            let due = due(self);
            let told = occurrences(&due);
            due.into_iter().for_each(|due| self.are_durable(due));
            told
        }
    }

    #[test]
    fn a_start_is_durable_before_it_is_told_and_forgotten_only_after_its_end_was() {
        let machine = MachineName::new("asset-14").unwrap();
        let mut alarms = Alarms::default();
        alarms.note(edge(Phase::Start, 7), &machine, None);
        assert_eq!(occurrences(&alarms.before()), Some(vec![7]), "not written");
        assert_eq!(alarms.written(Alarms::before), Some(vec![7]));
        assert_eq!(alarms.written(Alarms::after), None);

        alarms.note(edge(Phase::EndTreatmentChanged, 7), &machine, None);
        alarms.note(edge(Phase::Start, 8), &machine, None);
        assert_eq!(alarms.written(Alarms::before), Some(vec![7, 8]));
        assert_eq!(alarms.written(Alarms::after), Some(vec![8]));
        assert_eq!((alarms.before(), alarms.after()), (None, None));
    }

    #[test]
    fn what_is_taken_to_be_closed_is_forgotten_only_afterwards() {
        let machine = MachineName::new("asset-14").unwrap();
        let mut alarms = Alarms::default();
        alarms.note(edge(Phase::Start, 7), &machine, None);
        let mut alarms = Alarms::left(alarms.before().unwrap());
        assert_eq!(alarms.take().len(), 1);
        assert_eq!(alarms.before(), None);
        assert_eq!(occurrences(&alarms.after()), Some(vec![]));
    }
}
