//! What the simulated screens oblige a gateway to deliver: worked out from the ward's own ledger, never from the gateway.

use crate::config::device_map::{DeviceMap, MapEntry, TreatmentRule};
use crate::model::parameter::Kind;
use crate::sim::ward::{Ledger, Patient, Shown};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::{ChannelId, Reading};
use chairside_drivers::kit::simulator::Act;
use std::ops::RangeInclusive;

/// What a screen says of one parameter, in the parameter's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Number(Decimal),
    State(&'static str),
    Absent,
}

/// One treatment as the ward saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Treatment {
    pub(super) patient: Patient,
    /// Its first and last screen.
    pub(super) screens: RangeInclusive<usize>,
    /// At which screens a gateway may begin to see it: the machine's flag is on at once, elapsed time has to advance
    /// first. `None`: it cannot be seen at all.
    pub(super) seen_from: Option<RangeInclusive<usize>>,
}

/// Every treatment of a chair that showed at least one screen, in order.
pub(super) fn treatments(ledger: &Ledger, map: &DeviceMap) -> Vec<Treatment> {
    let mut treatments: Vec<(u32, Treatment)> = Vec::new();
    for (index, shown) in ledger.shown.iter().enumerate() {
        let Some((number, patient)) = shown.treatment else { continue };
        match treatments.last_mut().filter(|(last, _)| *last == number) {
            Some((_, treatment)) => treatment.screens = *treatment.screens.start()..=index,
            None => treatments.push((number, Treatment { patient, screens: index..=index, seen_from: None })),
        }
    }
    let with_start = |(_, treatment): (u32, Treatment)| {
        let seen_from = seen_from(&ledger.shown, &treatment.screens, map);
        Treatment { seen_from, ..treatment }
    };
    treatments.into_iter().map(with_start).collect()
}

fn seen_from(
    shown: &[Shown],
    screens: &RangeInclusive<usize>,
    map: &DeviceMap,
) -> Option<RangeInclusive<usize>> {
    match map.treatment.as_ref()? {
        TreatmentRule::Flag { from, is } => {
            let on = |index: &usize| match reading(shown.get(*index)?, from)? {
                Reading::Code { raw, .. } => is.contains(raw).then_some(()),
                _ => None,
            };
            screens.clone().find(|index| on(index).is_some()).map(|index| index..=index)
        }
        TreatmentRule::Elapsed { elapsed, blood_flow } => {
            let number = |index: usize, channel| match reading(shown.get(index)?, channel)? {
                Reading::Number(number) => Some(*number),
                _ => None,
            };
            let advanced = screens.clone().find(|&index| {
                let before = index.checked_sub(1).and_then(|before| number(before, elapsed));
                let flows = number(index, blood_flow).is_some_and(|flow| flow.mantissa() > 0);
                let advances = |now: Decimal| before.is_some_and(|before| now.compare(before).is_gt());
                flows && number(index, elapsed).is_some_and(advances)
            })?;
            // Two polls running have to agree; whether the second one is the first of the treatment is its own affair.
            (advanced < *screens.end()).then(|| advanced + 1..=advanced + 2)
        }
    }
}

/// The screens of a treatment at which a new blood pressure was first seen.
pub(super) fn measurements(ledger: &Ledger, treatment: &Treatment) -> Vec<usize> {
    let is_cuff = |act| matches!(act, Act::MeasureBloodPressure { .. });
    let measured = ledger.done.iter().filter(|done| is_cuff(done.act));
    let first_seen = measured.map(|done| ledger.shown.partition_point(|shown| shown.at < done.at));
    first_seen.filter(|index| treatment.screens.contains(index)).collect()
}

/// How often an alarm came on, on screens a gateway could read, while it could know of the treatment. One that is on at
/// the first of them came on for this patient, too.
pub(super) fn alarms(ledger: &Ledger, map: &DeviceMap, screens: RangeInclusive<usize>) -> u64 {
    let shown = || ledger.shown.get(screens.clone()).unwrap_or_default();
    let raised = |channel: &ChannelId| {
        let on = shown()
            .iter()
            .map(|shown| matches!(reading(shown, channel), Some(Reading::Code { raw: 1.., .. })));
        let before = std::iter::once(false).chain(on.clone());
        before.zip(on).filter(|(before, now)| !before && *now).count() as u64
    };
    map.alarms.iter().map(|(_, channel)| raised(channel)).sum()
}

/// What a screen says of a parameter; `None` where it says nothing a gateway could use.
pub(super) fn said(shown: &Shown, entry: &MapEntry) -> Option<Said> {
    let row = entry.parameter.row();
    match (reading(shown, &entry.from)?, row.kind) {
        (Reading::Absent, _) => Some(Said::Absent),
        (Reading::Code { name, .. }, Kind::State(names)) => {
            let known = name.and_then(|name| names.iter().find(|known| **known == name));
            Some(Said::State(known.copied().unwrap_or("unknown")))
        }
        (Reading::Number(number), Kind::Measured | Kind::Total | Kind::Setting | Kind::Spot) => {
            let unit = row.unit?;
            entry.machine_unit.unwrap_or(unit).convert(*number, unit).ok().map(Said::Number)
        }
        _ => None,
    }
}

/// Whether two readings say the same; `250` and `250.0` do.
pub(super) fn is_same(one: Option<Said>, other: Option<Said>) -> bool {
    match (one, other) {
        (Some(Said::Number(one)), Some(Said::Number(other))) => one.compare(other).is_eq(),
        (one, other) => one == other,
    }
}

fn reading<'a>(shown: &'a Shown, channel: &ChannelId) -> Option<&'a Reading> {
    let place = shown.screen.binary_search_by(|(known, _)| known.cmp(channel)).ok()?;
    shown.screen.get(place).map(|(_, reading)| reading)
}
