//! The other half of the judgement: everything that should be at the receiver is there.

use super::screens::{Treatment, alarms, is_same, measurements, said, treatments};
use super::{Chair, Court, Gap, SYSTOLIC, Thing};
use crate::config::device_map::MapEntry;
use crate::model::parameter::Kind;
use crate::sim::resource::{Content, Subject};
use crate::sim::ward::{Patient, Shown};
use std::collections::{BTreeMap, HashMap, HashSet};

const PULSE: &str = "nibp_pulse_rate";
/// A late answer lies up to the quiet time of its model behind its slot; milliseconds.
const GAP_SLACK: i64 = 4_000;

/// One screen in the course of a treatment.
#[derive(Clone, Copy)]
struct Course<'a> {
    chair: &'a Chair<'a>,
    shown: &'a Shown,
    /// The last screen before it that was not told as missed.
    last: Option<&'a Shown>,
    /// Whether a blood pressure was taken since.
    is_measured: bool,
}

impl Court<'_> {
    /// Everything that should be there is there.
    pub(super) fn completeness(&mut self) {
        for (index, chair) in self.chairs.iter().enumerate() {
            if !chair.seated {
                continue;
            }
            let mut alarms_raised = 0;
            for treatment in treatments(chair.ledger, chair.map) {
                self.comparison.treatments += 1;
                if let Some(start) = self.treatment(index, chair, &treatment) {
                    alarms_raised += alarms(chair.ledger, chair.map, start..=*treatment.screens.end());
                }
            }
            self.alarm_edges(index, chair, alarms_raised);
        }
    }

    /// Holds every screen of a treatment against what came of it. Gives the first screen the gateway saw as one.
    fn treatment(&mut self, place: usize, chair: &Chair<'_>, treatment: &Treatment) -> Option<usize> {
        let name = chair.name;
        let Some(seen_from) = &treatment.seen_from else {
            self.comparison
                .disagree(format!("{name}: a treatment too short to be recognised; make the demo longer"));
            return None;
        };
        let measured: Vec<&MapEntry> = chair
            .map
            .entries
            .iter()
            .filter(|entry| matches!(entry.parameter.row().kind, Kind::Measured | Kind::Total))
            .collect();
        let has = |index: usize, parameter| self.seen.contains(&(place, index, Thing::Parameter(parameter)));
        let is_heard = |index: usize| measured.iter().any(|it| has(index, it.parameter));
        let first = treatment.screens.clone().find(|index| is_heard(*index));
        if first.is_some_and(|first| first < *seen_from.start()) {
            self.comparison.wrong += 1;
            self.comparison
                .disagree(format!("{name}: readings from before the treatment could be recognised"));
        }
        let start = first.unwrap_or(*seen_from.end()).min(*seen_from.end());
        let heard: HashSet<usize> =
            (start..=*treatment.screens.end()).filter(|index| is_heard(*index)).collect();
        let cuffs = measurements(chair.ledger, treatment);
        let mut before: Option<usize> = None;
        for index in start..=*treatment.screens.end() {
            let Some(shown) = chair.ledger.shown.get(index) else { continue };
            if !heard.contains(&index) && self.is_told_as_gap(place, shown) {
                continue;
            }
            let is_measured =
                before.is_some_and(|before| cuffs.iter().any(|first| (before + 1..=index).contains(first)));
            let last = before.and_then(|before| chair.ledger.shown.get(before));
            self.screen(place, index, &Course { chair, shown, last, is_measured });
            before = Some(index);
        }
        Some(start)
    }

    /// Everything one screen obliges to, and nothing more.
    fn screen(&mut self, place: usize, index: usize, course: &Course<'_>) {
        let Course { chair, shown, last, is_measured } = *course;
        let (mut missing, mut no_news) = (Vec::new(), Vec::new());
        let mut hold = |due: bool, there: bool, key: &'static str| match (due, there) {
            (true, false) => missing.push(key),
            (false, true) => no_news.push(key),
            (true, true) | (false, false) => {}
        };
        for entry in &chair.map.entries {
            let now = said(shown, entry);
            let parameter = entry.parameter;
            let due = match parameter.row().kind {
                Kind::Measured | Kind::Total => now.is_some(),
                Kind::Setting | Kind::State(_) => {
                    now.is_some() && !last.is_some_and(|last| is_same(said(last, entry), now))
                }
                Kind::Spot if parameter.key() == PULSE => is_measured,
                // In the panel, below.
                Kind::Spot => continue,
            };
            let there = self.seen.contains(&(place, index, Thing::Parameter(parameter)));
            hold(due, there, parameter.key());
        }
        // Some machines have no cuff.
        let shows_cuff = chair.map.entries.iter().any(|entry| entry.parameter.key() == SYSTOLIC);
        let has_cuff = self.seen.contains(&(place, index, Thing::Cuff));
        hold(is_measured && shows_cuff, has_cuff, "the blood pressure");
        self.comparison.missing += missing.len() as u64;
        self.comparison.wrong += no_news.len() as u64;
        for (keys, words) in [(missing, "missing"), (no_news, "no news and sent all the same")] {
            if !keys.is_empty() {
                let words = format!("{}: of screen {index} {words}: {}", chair.name, keys.join(", "));
                self.comparison.disagree(words);
            }
        }
    }

    /// Whether the gateway has told the receiver that it missed this poll. On a computer that is too busy that happens;
    /// it is no silent loss. Each missed slot excuses one screen.
    fn is_told_as_gap(&mut self, place: usize, shown: &Shown) -> bool {
        let at = shown.at.as_micros().div_euclid(1000);
        let near =
            |gap: &&mut Gap| gap.slots > 0 && (gap.from - GAP_SLACK..=gap.to + GAP_SLACK).contains(&at);
        let Some(gap) = self.gaps.get_mut(&place).and_then(|gaps| gaps.iter_mut().find(near)) else {
            return false;
        };
        gap.slots -= 1;
        self.comparison.told_as_gaps += 1;
        true
    }

    /// Each alarm that came on while a patient was treated is told once, and once that it is over.
    fn alarm_edges(&mut self, place: usize, chair: &Chair<'_>, expected: u64) {
        let (raised, over) = self.alarms.get(&place).copied().unwrap_or_default();
        if (raised, over) != (expected, expected) {
            self.comparison.missing += expected.saturating_sub(raised) + expected.saturating_sub(over);
            let words = format!(
                "{}: alarms came on {expected} times, the receiver has {raised} starts and {over} ends",
                chair.name
            );
            self.comparison.disagree(words);
        }
    }

    /// One treatment of a seated patient is one Procedure of that pseudonym, and it is over.
    pub(super) fn procedures(&mut self) {
        let mut of_pseudonym: HashMap<&str, u64> = HashMap::new();
        let mut open = 0_u64;
        for (_, held) in self.holdings.iter() {
            let Content::Procedure { status, subject: Subject::Pseudonym(pseudonym), .. } = &held.content
            else {
                continue;
            };
            *of_pseudonym.entry(pseudonym).or_default() += 1;
            open += u64::from(&**status != "completed");
        }
        if open > 0 {
            self.comparison
                .disagree(format!("{open} Procedures are not completed although everybody has left"));
        }
        let expected = self.chairs.iter().filter(|chair| chair.seated).flat_map(|chair| {
            treatments(chair.ledger, chair.map).into_iter().map(|treatment| treatment.patient)
        });
        let mut expected_of: BTreeMap<Patient, u64> = BTreeMap::new();
        expected.for_each(|patient| *expected_of.entry(patient).or_default() += 1);
        let found: u64 = of_pseudonym.values().sum();
        if found != expected_of.values().sum::<u64>() {
            self.comparison.missing += expected_of.values().sum::<u64>().saturating_sub(found);
            let words = format!("{} treatments, {found} Procedures", expected_of.values().sum::<u64>());
            self.comparison.disagree(words);
        }
        for (patient, treatments) in expected_of {
            let procedures = self.pseudonyms.get(&patient).and_then(|it| of_pseudonym.get(&**it)).copied();
            if procedures != Some(treatments) {
                let words =
                    format!("patient {}: {treatments} treatments, {procedures:?} Procedures", patient.0);
                self.comparison.disagree(words);
            }
        }
    }
}
