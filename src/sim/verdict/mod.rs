//! The demo's judge: holds what the receiver has against what the simulated screens showed, and whose it was.
//!
//! It asks the gateway nothing. Which of the receiver's Devices stands at which chair, and which pseudonym is which
//! patient, follows from the values and times alone; both must come out one to one.

mod codes;
mod completeness;
mod screens;

use crate::config::device_map::{DeviceMap, MapEntry};
use crate::model::parameter::Parameter;
use crate::sim::holdings::Holdings;
use crate::sim::resource::{self, Content, Found, Observation, Subject};
use crate::sim::ward::{Ledger, Patient, Shown};
use codes::{Meaning, Meanings};
use screens::{Said, said};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// How many disagreements are told in words; the rest is counted.
const TOLD: usize = 20;
/// How many readings of a Device are looked at to find its chair.
const SAMPLE: usize = 200;
const SYSTOLIC: &str = "nibp_systolic";
const DIASTOLIC: &str = "nibp_diastolic";

/// One chair, as the ward knows it.
#[derive(Debug)]
pub struct Chair<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its machine's model.
    pub model: &'a str,
    /// What its channels mean.
    pub map: &'a DeviceMap,
    /// Whether the nurse ever seats its patients.
    pub seated: bool,
    /// What happened.
    pub ledger: &'a Ledger,
}

/// What came of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Observations at the receiver.
    pub observations: u64,
    /// Values that were compared with a screen: digits, unit, time and patient.
    pub values: u64,
    /// Observations about machines and not about patients: gaps.
    pub gaps: u64,
    /// Alarm edges that were compared with what was raised and cleared.
    pub alarms: u64,
    /// Treatments that should have reached the receiver.
    pub treatments: u64,
    /// Values that are not what the screen showed, or that nobody should have sent.
    pub wrong: u64,
    /// Readings that are not with the patient who sat there.
    pub misattributed: u64,
    /// Readings that should be there and are not.
    pub missing: u64,
    /// Screens the gateway did not get to, and said so to the receiver.
    pub told_as_gaps: u64,
    /// Observations that say again what another one says.
    pub duplicates: u64,
    /// The first disagreements, in words.
    pub disagreements: Vec<String>,
}

impl Comparison {
    /// Whether everything agrees, and there was something to agree on.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.disagreements.is_empty() && self.values > 0
    }

    /// Tells one more disagreement.
    pub fn disagree(&mut self, words: String) {
        if self.disagreements.len() < TOLD {
            self.disagreements.push(words);
        }
    }
}

/// Compares.
#[must_use]
pub fn compare(chairs: &[Chair<'_>], holdings: &Holdings, namespace: &str) -> Comparison {
    let mut court = Court {
        chairs,
        holdings,
        meanings: Meanings::new(namespace),
        pseudonyms: BTreeMap::new(),
        patients: HashMap::new(),
        seen: HashSet::new(),
        alarms: BTreeMap::new(),
        gaps: BTreeMap::new(),
        comparison: Comparison::default(),
    };
    court.observations();
    court.completeness();
    court.procedures();
    court.comparison.duplicates = u64::try_from(holdings.duplicates()).unwrap_or(u64::MAX);
    if court.comparison.duplicates > 0 {
        let words = format!("{} Observations say again what another one says", court.comparison.duplicates);
        court.comparison.disagree(words);
    }
    court.comparison
}

struct Court<'a> {
    chairs: &'a [Chair<'a>],
    holdings: &'a Holdings,
    meanings: Meanings,
    pseudonyms: BTreeMap<Patient, Arc<str>>,
    patients: HashMap<Arc<str>, Patient>,
    /// Which parameter of which screen of which chair is at the receiver.
    seen: HashSet<(usize, usize, Thing)>,
    /// Alarm edges by chair: starts and ends.
    alarms: BTreeMap<usize, (u64, u64)>,
    /// Gaps by chair.
    gaps: BTreeMap<usize, Vec<Gap>>,
    comparison: Comparison,
}

/// Polls the gateway says it missed, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: i64,
    to: i64,
    slots: u64,
}

/// What can be at the receiver once per screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Parameter(Parameter),
    Cuff,
}

impl<'a> Court<'a> {
    fn observations(&mut self) {
        let mut of_device: BTreeMap<Uuid, Vec<&'a Observation>> = BTreeMap::new();
        for (_, held) in self.holdings.iter() {
            let Content::Observation(it) = &held.content else { continue };
            self.comparison.observations += 1;
            if &*it.status != "final" {
                self.comparison.wrong += 1;
                self.comparison
                    .disagree(format!("an Observation is {} and nobody corrected anything", it.status));
                continue;
            }
            match self.device(it) {
                Some(device) => of_device.entry(device).or_default().push(it),
                None => {
                    self.comparison.wrong += 1;
                    self.comparison.disagree("an Observation names no machine".to_owned());
                }
            }
        }
        let mut taken: HashMap<usize, Uuid> = HashMap::new();
        for (device, observations) in of_device {
            let Some(chair) = self.chair_of(device, &observations) else {
                let only_gaps =
                    observations.iter().all(|it| matches!(self.meanings.of(&it.code), Meaning::Event));
                self.comparison.gaps += observations.len() as u64;
                if !only_gaps {
                    self.comparison.wrong += observations.len() as u64;
                    self.comparison.disagree(format!("Device/{device} fits none of the machines"));
                }
                continue;
            };
            if let Some(other) = taken.insert(chair, device) {
                self.comparison.wrong += observations.len() as u64;
                let name = self.chair(chair).name;
                self.comparison.disagree(format!("{name} has two Devices: {other} and {device}"));
            }
            for it in observations {
                self.observation(chair, it);
            }
        }
    }

    fn device(&self, it: &Observation) -> Option<Uuid> {
        let by_subject = match &it.subject {
            Subject::Resource((resource::Kind::Device, id)) => Some(*id),
            _ => None,
        };
        match it.device {
            None => by_subject,
            Some((resource::Kind::Device, id)) => Some(id),
            Some((kind, id)) => match &self.holdings.get(kind, id)?.content {
                Content::Metric { source, .. } => Some(*source),
                _ => None,
            },
        }
    }

    /// The chair whose screens agree best with a Device's readings.
    fn chair_of(&self, device: Uuid, observations: &[&Observation]) -> Option<usize> {
        let Content::Device { model } = &self.holdings.get(resource::Kind::Device, device)?.content else {
            return None;
        };
        let agreements = |chair: &Chair<'_>| {
            let agrees = |it: &&&Observation| {
                let Meaning::Parameter(parameter) = self.meanings.of(&it.code) else { return false };
                let entry = chair.map.entries.iter().find(|entry| entry.parameter == parameter);
                let (Some(entry), Some((_, shown))) = (entry, screen_at(chair.ledger, it)) else {
                    return false;
                };
                said(shown, entry).is_some_and(|said| is(&it.found, said, entry, &self.meanings))
            };
            observations.iter().take(SAMPLE).filter(agrees).count()
        };
        let candidates = self.chairs.iter().enumerate().filter(|(_, chair)| chair.model == &**model);
        let scored = candidates.map(|(index, chair)| (agreements(chair), index));
        scored.max().filter(|(agreements, _)| *agreements > 0).map(|(_, index)| index)
    }

    fn observation(&mut self, chair: usize, it: &'a Observation) {
        let meaning = self.meanings.of(&it.code);
        if let Meaning::Event = meaning {
            self.gap(chair, it);
            return;
        }
        let name = self.chair(chair).name;
        let Some((index, shown)) = screen_at(self.chair(chair).ledger, it) else {
            self.comparison.wrong += 1;
            self.comparison.disagree(format!("{name}: a reading from before the first screen"));
            return;
        };
        self.attribution(chair, shown, it);
        match meaning {
            Meaning::Parameter(parameter) => self.value(chair, index, shown, parameter, it),
            Meaning::Cuff => self.cuff(chair, index, shown, it),
            Meaning::Alarm => self.alarm(chair, it),
            Meaning::Event | Meaning::Unknown => {
                self.comparison.wrong += 1;
                self.comparison
                    .disagree(format!("{name}: an Observation with a code nobody knows: {}", it.code));
            }
        }
    }

    fn gap(&mut self, chair: usize, it: &Observation) {
        self.comparison.gaps += 1;
        let count = it.components.iter().find_map(|(_, found)| match found {
            Found::Quantity(digits, _) => digits.parse().ok(),
            _ => None,
        });
        if let (Some((from, to)), Some(slots)) = (it.period, count) {
            self.gaps.entry(chair).or_default().push(Gap { from, to, slots });
        }
    }

    /// The patient who sat there, and no other, by one pseudonym.
    fn attribution(&mut self, chair: usize, shown: &Shown, it: &Observation) {
        let at_chair = self.chair(chair);
        let (name, seated) = (at_chair.name, at_chair.seated);
        let words = match (&it.subject, shown.treatment) {
            (Subject::Resource(_), _) => {
                format!("{name}: a reading of a treatment has a machine as its subject")
            }
            (Subject::Pseudonym(_), None) => format!("{name}: a reading of an empty chair has a patient"),
            (Subject::Pseudonym(_), Some((_, patient))) if !seated => {
                format!("{name}: a reading of patient {} left although nobody was seated", patient.0)
            }
            (Subject::Pseudonym(pseudonym), Some((_, patient))) => {
                let known = self.pseudonyms.entry(patient).or_insert_with(|| pseudonym.clone());
                let whose = *self.patients.entry(pseudonym.clone()).or_insert(patient);
                if known == pseudonym && whose == patient && self.belongs(it) {
                    return;
                }
                let whose = whose.0;
                format!("{name}: a reading of patient {} is with the pseudonym of patient {whose}", patient.0)
            }
        };
        self.comparison.misattributed += 1;
        self.comparison.disagree(words);
    }

    /// Whether the treatment it is part of is the same patient's.
    fn belongs(&self, it: &Observation) -> bool {
        let procedure = it.part_of.and_then(|id| self.holdings.get(resource::Kind::Procedure, id));
        procedure.is_some_and(|held| match &held.content {
            Content::Procedure { subject, .. } => *subject == it.subject,
            _ => false,
        })
    }

    fn value(&mut self, chair: usize, index: usize, shown: &Shown, parameter: Parameter, it: &Observation) {
        self.comparison.values += 1;
        self.seen.insert((chair, index, Thing::Parameter(parameter)));
        let expected = self.entry(chair, parameter).and_then(|entry| Some((entry, said(shown, entry)?)));
        if expected.is_some_and(|(entry, said)| is(&it.found, said, entry, &self.meanings)) {
            return;
        }
        self.comparison.wrong += 1;
        let name = self.chair(chair).name;
        let words = format!(
            "{name}: {} is {:?}, the screen showed {:?}",
            parameter.key(),
            it.found,
            expected.map(|it| it.1)
        );
        self.comparison.disagree(words);
    }

    fn cuff(&mut self, chair: usize, index: usize, shown: &Shown, it: &Observation) {
        self.seen.insert((chair, index, Thing::Cuff));
        for key in [SYSTOLIC, DIASTOLIC] {
            let component = it.components.iter().find(|(code, _)| {
                matches!(self.meanings.of(code), Meaning::Parameter(parameter) if parameter.key() == key)
            });
            let entry = Parameter::from_key(key).and_then(|parameter| self.entry(chair, parameter));
            let agrees = component.zip(entry).is_some_and(|((_, found), entry)| {
                said(shown, entry).is_some_and(|said| is(found, said, entry, &self.meanings))
            });
            self.comparison.values += 1;
            if !agrees {
                self.comparison.wrong += 1;
                let name = self.chair(chair).name;
                self.comparison.disagree(format!("{name}: {key} is not what the screen showed"));
            }
        }
    }

    fn alarm(&mut self, chair: usize, it: &Observation) {
        self.comparison.alarms += 1;
        let phase = it.components.iter().find_map(|(_, found)| match found {
            Found::Code(code) => self.meanings.alarm_phase(code),
            _ => None,
        });
        let (starts, ends) = self.alarms.entry(chair).or_default();
        match phase {
            Some("start") => *starts += 1,
            // By the machine, or by the gateway at the end of the treatment.
            Some(phase) if phase.starts_with("end") => *ends += 1,
            other => {
                self.comparison.wrong += 1;
                let name = self.chair(chair).name;
                self.comparison.disagree(format!("{name}: an alarm edge of the phase {other:?}"));
            }
        }
    }

    fn chair(&self, index: usize) -> &'a Chair<'a> {
        // Indices come from enumerating this very list.
        &self.chairs[index]
    }

    fn entry(&self, chair: usize, parameter: Parameter) -> Option<&'a MapEntry> {
        self.chair(chair).map.entries.iter().find(|entry| entry.parameter == parameter)
    }
}

/// The screen an Observation was made from: the last one that had left by its time.
fn screen_at<'a>(ledger: &'a Ledger, it: &Observation) -> Option<(usize, &'a Shown)> {
    let at = it.at?;
    let after = ledger.shown.partition_point(|shown| shown.at.as_micros().div_euclid(1000) <= at);
    let index = after.checked_sub(1)?;
    ledger.shown.get(index).map(|shown| (index, shown))
}

/// Whether the receiver's value is what the screen said: the same digits in the stored unit, the same code, the same gap.
fn is(found: &Found, said: Said, entry: &MapEntry, meanings: &Meanings) -> bool {
    match (found, said) {
        (Found::Quantity(digits, unit), Said::Number(number)) => {
            number.to_string() == **digits
                && entry.parameter.row().unit.is_some_and(|it| it.ucum() == &**unit)
        }
        (Found::Code(code), Said::State(name)) => meanings.is_state(code, entry.parameter, name),
        (Found::Absent(_), Said::Absent) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
