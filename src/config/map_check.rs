//! Holds a device map against its machine's channels and the table of parameters.

use crate::config::blot::names_a_secret;
use crate::config::check::known_driver;
use crate::config::device_map::{DeviceMap, MapEntry, TreatmentRule};
use crate::config::map_fit::{fits, machine_unit_of, plausible_range, unit_hint};
use crate::config::problem::Problem;
use crate::config::raw::{Document, Findings, Item, Table, listed, nearest, unknown_key};
use crate::model::alarm::{ALARMS, Alarm};
use crate::model::parameter::{Kind, Parameter};
use crate::model::unit::{Dimension, Unit};
use chairside_drivers::kit::driver::{Channel, ChannelId, ChannelKind, Model};
use chairside_drivers::{OptionError, OptionValue, Options};
use std::sync::Arc;

/// A map that holds, and the model built with its options.
#[derive(Clone, Debug)]
pub(super) struct CheckedMap {
    pub(super) model: Arc<dyn Model>,
    pub(super) map: Arc<DeviceMap>,
}

/// What a map says; `None` when the findings say why not.
pub(super) fn device_map(document: &Document<'_>, findings: &mut Findings) -> Option<CheckedMap> {
    let mut root = document.table();
    let driver = root.need("driver", "the model it is for, like driver = \"kpoll/nikkiso_dbb27c\"", findings);
    let revision = root.need("revision", "revision = 1, counted up with each change", findings);
    let revision = revision.and_then(|item| item.whole(1..=i64::from(u32::MAX), findings));
    let checked_on = root.take("checked_on").map_or(Some(Vec::new()), |item| checked_on(&item, findings));
    let options = root.take("options");
    let alarms = root.take("alarm");
    let treatment = root.take("treatment");
    let (parameters, others): (Vec<_>, Vec<_>) =
        root.take_rest().into_iter().partition(|item| Parameter::from_key(item.key()).is_some());
    if parameters.is_empty() && others.is_empty() {
        let hint =
            "a map names what the machine's channels mean: [venous_pressure], with `from` and `machine_unit`";
        findings.add_missing(Problem::new(root.place(), "this map names no parameter").hint(hint));
    }
    let known: Vec<_> = root.known().iter().copied().chain(Parameter::all().map(Parameter::key)).collect();
    for item in others {
        findings.add(unknown_parameter(&item, &known));
    }

    let model = driver.and_then(|item| {
        let id = item.text(findings)?;
        known_driver(&item, id, findings).then_some(())?;
        build(id, &item, options, findings)
    })?;
    let mut uses = Uses { model: &*model, parameters: Vec::new(), alarms: Vec::new() };
    let entries: Vec<_> = parameters.iter().filter_map(|item| uses.parameter(item, findings)).collect();
    let alarms = alarms.map_or(Vec::new(), |item| uses.alarms(&item, findings));
    let treatment = match treatment {
        Some(item) => Some(item.table(findings).and_then(|table| uses.treatment(table, findings))?),
        None => None,
    };
    let map = DeviceMap {
        driver: model.id().clone(),
        revision: u32::try_from(revision?).ok()?,
        checked_on: checked_on?,
        entries,
        alarms,
        treatment,
    };
    Some(CheckedMap { map: Arc::new(map), model: Arc::clone(&model) })
}

fn unknown_parameter(item: &Item<'_>, known: &[&str]) -> Problem {
    if nearest(item.key(), known.iter().copied()).is_none() && !names_a_secret(item.key()) {
        let problem = Problem::new(item.key_place(), format!("there is no parameter `{}`", item.key()));
        return problem
            .label("unknown key")
            .hint("`chairside drivers show MODEL` lists what a machine says; a map names parameters");
    }
    unknown_key(item, "a device map", known)
}

fn checked_on(item: &Item<'_>, findings: &mut Findings) -> Option<Vec<String>> {
    let elements = item.list(findings)?;
    Some(elements.iter().filter_map(|element| element.text(findings)).map(str::to_owned).collect())
}

/// Builds the model from `[options]`.
fn build(
    id: &str,
    driver: &Item<'_>,
    options: Option<Item<'_>>,
    findings: &mut Findings,
) -> Option<Arc<dyn Model>> {
    let entry = chairside_drivers::find(id)?;
    let items = match options {
        Some(options) => options.table(findings)?.take_rest(),
        None => Vec::new(),
    };
    let mut values = Options::new();
    for item in &items {
        if let Some(value) = option_value(item, findings) {
            values.insert(item.key().to_owned(), value);
        }
    }
    let mut holds = values.len() == items.len();
    // A driver names one wrong option at a time: without it, it names the next.
    loop {
        match (entry.build)(&values) {
            Ok(model) => return holds.then(|| Arc::from(model)),
            Err(why) => {
                holds = false;
                let (OptionError::Unknown { key, .. } | OptionError::Wrong { key, .. }) = &why;
                let Some(item) = items.iter().find(|item| item.key() == key) else {
                    let hint = format!("add `{key}` under [options]");
                    findings.add(driver.problem(why.to_string()).hint(hint));
                    return None;
                };
                values.remove(key)?;
                findings.add(match &why {
                    OptionError::Unknown { known: [], .. } => {
                        Problem::new(item.key_place(), why.to_string()).hint("it has no options at all")
                    }
                    OptionError::Unknown { known, .. } => unknown_key(item, "this model's [options]", known),
                    OptionError::Wrong { .. } => item.problem(why.to_string()),
                });
            }
        }
    }
}

fn option_value(item: &Item<'_>, findings: &mut Findings) -> Option<OptionValue> {
    if item.value().is_integer() {
        return item.whole(i64::MIN..=i64::MAX, findings).map(OptionValue::Integer);
    }
    match (item.value().as_bool(), item.value().as_str()) {
        (Some(switch), _) => Some(OptionValue::Switch(switch)),
        (None, Some(text)) => Some(OptionValue::Text(text.to_owned())),
        (None, None) => {
            findings.add(item.problem("an option is a whole number, a text, true or false"));
            None
        }
    }
}

/// What a map has used of its machine so far.
struct Uses<'m> {
    model: &'m dyn Model,
    parameters: Vec<(ChannelId, &'static str)>,
    alarms: Vec<(ChannelId, &'static str)>,
}

impl<'m> Uses<'m> {
    fn parameter(&mut self, item: &Item<'_>, findings: &mut Findings) -> Option<MapEntry> {
        let parameter = Parameter::from_key(item.key())?;
        let mut table = item.table(findings)?;
        let from = table.need("from", "the channel on the wire, like from = \"H\"", findings);
        let machine_unit = table.take("machine_unit");
        let plausible = table.take("plausible");
        let new_when_changes = table.take("new_when_changes");
        let unit_missing = match (&machine_unit, parameter.row().unit) {
            (None, Some(unit)) => Some(table.missing("machine_unit", &unit_hint(unit))),
            _ => None,
        };
        table.finish(findings);

        let channel = from.and_then(|item| {
            let channel = self.channel(&item, findings)?;
            fits(&item, channel, parameter, findings)?;
            match self.parameters.iter().find(|(id, _)| *id == channel.id) {
                Some((_, first)) => {
                    let problem = item.problem(format!("channel {} gives `{first}` already", channel.id));
                    findings.add(
                        problem.hint("one channel says one thing; compare both with the machine's screen"),
                    );
                    return None;
                }
                None => self.parameters.push((channel.id.clone(), parameter.key())),
            }
            Some(channel)
        });
        if let Some(missing) = unit_missing {
            findings.add_missing(missing);
            return None;
        }
        let unit = match machine_unit {
            Some(item) => Some(machine_unit_of(&item, parameter, channel, findings)?),
            None => None,
        };
        let plausible = match plausible {
            Some(item) => plausible_range(&item, parameter, unit?, findings)?,
            None => parameter.plausible(),
        };
        let new_when_changes = match new_when_changes {
            Some(item) => Some(self.mark(&item, parameter, findings)?),
            None => None,
        };
        Some(MapEntry {
            parameter,
            from: channel?.id.clone(),
            machine_unit: unit,
            plausible,
            new_when_changes,
        })
    }

    /// The channel a text names.
    fn channel(&self, item: &Item<'_>, findings: &mut Findings) -> Option<&'m Channel> {
        let text = item.text(findings)?;
        let found = self.model.channel(text);
        if found.is_none() {
            let ids = || self.model.channels().iter().map(|channel| channel.id.as_str());
            let problem =
                item.problem(format!("{} has no such channel", self.model.id())).label("not on its wire");
            let near = nearest(text, ids().filter(|id| id.len() > 2 || id.eq_ignore_ascii_case(text)));
            findings.add(match near {
                Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                None => problem.hint(format!("it has {}", listed(ids()))),
            });
        }
        found
    }

    /// The channel that changes with each spot measurement.
    fn mark(&self, item: &Item<'_>, parameter: Parameter, findings: &mut Findings) -> Option<ChannelId> {
        if parameter.row().kind != Kind::Spot {
            let message = format!("`{}` is no spot measurement, so nothing marks a new one", parameter.key());
            findings.add(Problem::new(item.key_place(), message).hint("take this line out"));
            return None;
        }
        let channel = self.channel(item, findings)?;
        if channel.kind != ChannelKind::Mark {
            let marks = self.model.channels().iter().filter(|channel| channel.kind == ChannelKind::Mark);
            let problem =
                item.problem(format!("channel {} ({}) marks no measurement", channel.id, channel.meaning));
            findings.add(match listed(marks.map(|channel| channel.id.as_str())) {
                none if none.is_empty() => {
                    problem.hint("this machine has no such channel; take this line out")
                }
                some => problem.hint(format!("this machine marks one with {some}")),
            });
            return None;
        }
        Some(channel.id.clone())
    }

    fn alarms(&mut self, item: &Item<'_>, findings: &mut Findings) -> Vec<(Alarm, ChannelId)> {
        let Some(mut table) = item.table(findings) else { return Vec::new() };
        let items = table.take_rest();
        items.iter().filter_map(|item| self.alarm(item, findings)).collect()
    }

    fn alarm(&mut self, item: &Item<'_>, findings: &mut Findings) -> Option<(Alarm, ChannelId)> {
        let alarm = Alarm::from_key(item.key());
        if alarm.is_none() {
            let keys: Vec<_> = ALARMS.iter().map(|row| row.key).collect();
            findings.add(unknown_key(item, "the table of alarms", &keys));
        }
        let mut table = item.table(findings)?;
        let from = table.need("from", "the channel on the wire, like from = \"c\"", findings);
        table.finish(findings);
        let (alarm, from) = (alarm?, from?);
        let channel = self.channel(&from, findings)?;
        if channel.kind != ChannelKind::Alarm {
            let alarms = self.model.channels().iter().filter(|channel| channel.kind == ChannelKind::Alarm);
            let hint = format!("its alarms are {}", listed(alarms.map(|channel| channel.id.as_str())));
            findings.add(
                from.problem(format!("channel {} ({}) is no alarm", channel.id, channel.meaning)).hint(hint),
            );
            return None;
        }
        if let Some((_, first)) = self.alarms.iter().find(|(id, _)| *id == channel.id) {
            findings.add(from.problem(format!("channel {} raises `{first}` already", channel.id)));
            return None;
        }
        self.alarms.push((channel.id.clone(), alarm.key()));
        Some((alarm, channel.id.clone()))
    }

    fn treatment(&self, mut table: Table<'_>, findings: &mut Findings) -> Option<TreatmentRule> {
        let running_when = table.take("running_when");
        let elapsed = table.take("elapsed");
        let blood_flow = table.take("blood_flow");
        let hint = "running_when = { from = \"M\", is = \"1\" }, or elapsed = \"K\" and blood_flow = \"D\"";
        let nothing = table.missing("running_when", hint);
        table.finish(findings);
        match (running_when, elapsed, blood_flow) {
            (Some(flag), None, None) => self.flag(&flag, findings),
            (None, Some(elapsed), Some(blood_flow)) => {
                let elapsed = self.number_of(&elapsed, Dimension::Time, findings);
                let blood_flow = self.number_of(&blood_flow, Dimension::Flow, findings);
                Some(TreatmentRule::Elapsed { elapsed: elapsed?, blood_flow: blood_flow? })
            }
            (None, None, None) => {
                findings.add_missing(nothing);
                None
            }
            (None, Some(one), None) | (None, None, Some(one)) => {
                let problem =
                    Problem::new(one.key_place(), "elapsed time and blood flow judge a treatment together");
                findings.add(problem.hint(hint));
                None
            }
            (Some(_), Some(other), _) | (Some(_), None, Some(other)) => {
                let problem = Problem::new(other.key_place(), "a treatment is judged by one rule");
                findings.add(
                    problem.hint("keep `running_when` where the machine has such a flag: take this line out"),
                );
                None
            }
        }
    }

    fn flag(&self, item: &Item<'_>, findings: &mut Findings) -> Option<TreatmentRule> {
        let mut table = item.table(findings)?;
        let from = table.need("from", "the channel of the flag, like from = \"M\"", findings);
        let is = table.need(
            "is",
            "the code that means \"in treatment\", like is = \"1\", or a list of codes",
            findings,
        );
        table.finish(findings);
        let (from, is) = (from?, is?);
        let channel = self.channel(&from, findings)?;
        let names = match channel.kind {
            ChannelKind::Code(names) => names,
            ChannelKind::Number | ChannelKind::Alarm | ChannelKind::Mark | ChannelKind::Text => {
                let codes = self
                    .model
                    .channels()
                    .iter()
                    .filter(|c| matches!(c.kind, ChannelKind::Code(names) if !names.is_empty()));
                let problem =
                    from.problem(format!("channel {} ({}) is no flag", channel.id, channel.meaning));
                findings.add(match listed(codes.map(|channel| channel.id.as_str())) {
                    none if none.is_empty() => {
                        problem.hint("this machine has none: use elapsed = \"..\" and blood_flow = \"..\"")
                    }
                    some => problem.hint(format!("its flags and codes are {some}")),
                });
                return None;
            }
        };
        let codes: Vec<Option<u32>> =
            is.one_or_more(findings)?.iter().map(|item| raw_code(item, names, findings)).collect();
        let codes = codes.into_iter().collect::<Option<Vec<u32>>>()?;
        if codes.is_empty() {
            findings.add(is.problem("no code at all would never be a treatment"));
            return None;
        }
        Some(TreatmentRule::Flag { from: channel.id.clone(), is: codes })
    }

    fn number_of(&self, item: &Item<'_>, dimension: Dimension, findings: &mut Findings) -> Option<ChannelId> {
        let channel = self.channel(item, findings)?;
        let unit = channel.unit.and_then(Unit::from_ucum);
        if channel.kind == ChannelKind::Number && unit.is_some_and(|unit| unit.dimension() == dimension) {
            return Some(channel.id.clone());
        }
        let fits = self.model.channels().iter().filter(|channel| {
            channel.unit.and_then(Unit::from_ucum).is_some_and(|unit| unit.dimension() == dimension)
        });
        let hint = format!("it could be {}", listed(fits.map(|channel| channel.id.as_str())));
        let message = format!("channel {} ({}) cannot be `{}`", channel.id, channel.meaning, item.key());
        findings.add(item.problem(message).hint(hint));
        None
    }
}

fn raw_code(item: &Item<'_>, names: &[(u32, &str)], findings: &mut Findings) -> Option<u32> {
    let code = match (item.value().as_integer(), item.value().as_str()) {
        (Some(_), _) => {
            item.whole(0..=i64::from(u32::MAX), findings).and_then(|code| u32::try_from(code).ok())
        }
        (None, Some(text)) => text.parse().ok(),
        (None, None) => None,
    };
    if let Some(code) = code.filter(|code| names.is_empty() || names.iter().any(|(known, _)| known == code)) {
        return Some(code);
    }
    let known: Vec<String> = names.iter().map(|(code, name)| format!("\"{code}\" ({name})")).collect();
    findings.add(
        item.problem("the machine has no such code").hint(format!("its codes are {}", known.join(", "))),
    );
    None
}
