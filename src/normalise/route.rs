//! Which channel goes where: worked out once from the device map, then found by the place a sample has in its answer.

use crate::config::device_map::{DeviceMap, TreatmentRule};
use crate::model::parameter::{Kind, Parameter};
use crate::model::unit::{Conversion, Unit};
use crate::normalise::treatment::Rule;
use chairside_drivers::kit::driver::ChannelId;
use std::collections::BTreeMap;

/// Everything a channel is used for. Most are used once.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// Entries of the map.
    pub(super) meanings: Vec<usize>,
    /// Alarms of the map.
    pub(super) alarms: Vec<usize>,
    /// Spot groups this channel is the mark of.
    pub(super) mark_of: Vec<usize>,
    /// The treatment's flag, and its codes for "running".
    pub(super) flag: Option<Vec<u32>>,
    /// Elapsed treatment time, and the way to minutes.
    pub(super) elapsed: Option<Conversion>,
    /// Blood flow: whether the pump runs.
    pub(super) flow: bool,
}

/// The routes of all channels.
#[derive(Debug)]
pub(super) struct Routes {
    routes: Vec<(ChannelId, Route)>,
    by_channel: BTreeMap<ChannelId, usize>,
    /// The route of each place in an answer, as the last answer had it: drivers keep their order.
    places: Vec<Option<usize>>,
}

impl Routes {
    /// The routes of a map whose spot groups have these marks.
    pub(super) fn new(map: &DeviceMap, marks: &[Option<ChannelId>]) -> Self {
        let mut routes = Self { routes: Vec::new(), by_channel: BTreeMap::new(), places: Vec::new() };
        for (index, entry) in map.entries.iter().enumerate() {
            routes.of(&entry.from).meanings.push(index);
        }
        for (index, (_, channel)) in map.alarms.iter().enumerate() {
            routes.of(channel).alarms.push(index);
        }
        for (index, mark) in marks.iter().enumerate() {
            if let Some(channel) = mark {
                routes.of(channel).mark_of.push(index);
            }
        }
        routes.watch_treatment(map);
        routes
    }

    /// What the channel at this place of an answer is used for; `None` where the map does not name it.
    pub(super) fn find(&mut self, place: usize, channel: &ChannelId) -> Option<&Route> {
        let learned = self.places.get(place).copied().flatten();
        let index = match learned.filter(|&index| self.routes.get(index).is_some_and(|(id, _)| id == channel))
        {
            Some(index) => index,
            None => {
                let index = *self.by_channel.get(channel)?;
                // Only mapped channels are learned, so a place far beyond any real answer costs nothing.
                if place < MOST_PLACES {
                    if self.places.len() <= place {
                        self.places.resize(place + 1, None);
                    }
                    if let Some(learned) = self.places.get_mut(place) {
                        *learned = Some(index);
                    }
                }
                index
            }
        };
        self.routes.get(index).map(|(_, route)| route)
    }

    fn watch_treatment(&mut self, map: &DeviceMap) {
        let mapped = |key: &str| {
            let parameter = Parameter::from_key(key);
            map.entries.iter().find(|entry| Some(entry.parameter) == parameter)
        };
        let elapsed_entry = mapped("treatment_time_elapsed");
        let mut elapsed = elapsed_entry.map(|entry| entry.from.clone());
        let mut flow = mapped("blood_flow_rate").map(|entry| entry.from.clone());
        match &map.treatment {
            Some(TreatmentRule::Flag { from, is }) => self.of(from).flag = Some(is.clone()),
            Some(TreatmentRule::Elapsed { elapsed: time, blood_flow }) => {
                elapsed = Some(time.clone());
                flow = Some(blood_flow.clone());
            }
            None => {}
        }
        if let Some(channel) = flow {
            self.of(&channel).flow = true;
        }
        if let Some(channel) = elapsed {
            // A rule may name a channel that no entry maps; machines count minutes.
            let unit = map
                .entries
                .iter()
                .find(|entry| entry.from == channel)
                .and_then(|entry| entry.machine_unit)
                .unwrap_or(Unit::Minute);
            self.of(&channel).elapsed = unit.conversion(Unit::Minute).ok();
        }
    }

    fn of(&mut self, channel: &ChannelId) -> &mut Route {
        let index = *self.by_channel.entry(channel.clone()).or_insert(self.routes.len());
        if index == self.routes.len() {
            self.routes.push((channel.clone(), Route::default()));
        }
        &mut self.routes[index].1
    }
}

/// Answers are 20 to 60 samples; places beyond this are found by name each time.
const MOST_PLACES: usize = 512;

/// The rule a map judges treatments by.
pub(super) const fn rule(map: &DeviceMap) -> Rule {
    match map.treatment {
        None => Rule::None,
        Some(TreatmentRule::Flag { .. }) => Rule::Flag,
        Some(TreatmentRule::Elapsed { .. }) => Rule::Elapsed,
    }
}

/// The spot groups of a map: the mark of each, and for each entry the group it belongs to.
///
/// Entries with the same mark were measured together. An entry without one joins the first group: every spot value there
/// is comes from the one cuff, and half a blood pressure is none.
pub(super) fn spot_groups(map: &DeviceMap) -> (Vec<Option<ChannelId>>, Vec<Option<usize>>) {
    let is_spot = |parameter: Parameter| parameter.row().kind == Kind::Spot;
    let spots = || map.entries.iter().filter(|entry| is_spot(entry.parameter));
    let mut marks: Vec<Option<ChannelId>> = Vec::new();
    for mark in spots().filter_map(|entry| entry.new_when_changes.as_ref()) {
        if !marks.iter().flatten().any(|known| known == mark) {
            marks.push(Some(mark.clone()));
        }
    }
    if marks.is_empty() && spots().next().is_some() {
        marks.push(None);
    }
    let group = |mark: &Option<ChannelId>| {
        let own = mark.as_ref().and_then(|mark| marks.iter().position(|known| known.as_ref() == Some(mark)));
        own.unwrap_or(0)
    };
    let groups = map
        .entries
        .iter()
        .map(|entry| is_spot(entry.parameter).then(|| group(&entry.new_when_changes)))
        .collect();
    (marks, groups)
}
