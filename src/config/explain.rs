//! What each line of a device map makes of an example off the wire, for people who compare it with a screen.

use crate::config::device_map::{DeviceMap, MapEntry, TreatmentRule};
use crate::config::settings::{ChairSettings, Settings};
use chairside_drivers::kit::driver::{Channel, ChannelId, ChannelKind, Model, Reading};
use std::fmt::Write;
use std::sync::Arc;

/// Every device map in use, line by line with an example.
#[must_use]
pub fn explain(settings: &Settings) -> String {
    let mut text = String::new();
    let mut told: Vec<&Arc<DeviceMap>> = Vec::new();
    for chair in &settings.chairs {
        if told.iter().any(|map| Arc::ptr_eq(map, &chair.map)) {
            continue;
        }
        told.push(&chair.map);
        let chairs = settings.chairs.iter().filter(|other| Arc::ptr_eq(&other.map, &chair.map));
        let names: Vec<&str> = chairs.map(|chair| chair.name.as_str()).collect();
        explain_map(&mut text, chair, &names.join(", "));
    }
    text
}

fn explain_map(text: &mut String, chair: &ChairSettings, chairs: &str) {
    let (map, model) = (&chair.map, &*chair.model);
    let mut rows: Vec<(String, String)> = Vec::new();
    for entry in &map.entries {
        rows.push((entry.parameter.key().to_owned(), explain_entry(entry, model)));
    }
    for (alarm, from) in &map.alarms {
        let example = model.channel(from.as_str()).map_or("", |channel| channel.example);
        rows.push((
            format!("alarm.{}", alarm.key()),
            format!("{from} {example} -> off; anything but 0 -> active"),
        ));
    }
    if let Some(rule) = &map.treatment {
        rows.push((String::from("treatment"), explain_treatment(rule, model)));
    }
    let unmapped: Vec<&str> = model
        .channels()
        .iter()
        .filter(|channel| channel.kind != ChannelKind::Text && !is_used(map, &channel.id))
        .map(|channel| channel.id.as_str())
        .collect();
    if !unmapped.is_empty() {
        rows.push((String::from("not mapped"), unmapped.join(" ")));
    }
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let checked = match map.checked_on.as_slice() {
        [] => String::from("not yet compared with a screen"),
        some => format!("compared with the screen: {}", some.join("; ")),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{chairs}: {}, map revision {}, {checked}", map.driver, map.revision);
    for (key, value) in rows {
        let _ = writeln!(text, "  {key:width$}  {value}");
    }
}

/// `B 00.68 L -> 680 mL`
fn explain_entry(entry: &MapEntry, model: &dyn Model) -> String {
    let Some(channel) = model.channel(entry.from.as_str()) else {
        return entry.from.to_string();
    };
    let from = match entry.machine_unit {
        Some(unit) => format!("{} {} {}", channel.id, channel.example.trim(), unit.ucum()),
        None => format!("{} {}", channel.id, channel.example.trim()),
    };
    let mut text = format!("{from} -> {}", becomes(entry, channel));
    if let (Some(unit), (low, high)) = (entry.parameter.row().unit, entry.plausible) {
        match (low, high) {
            (Some(low), Some(high)) => text.push_str(&format!("; plausible {low} to {high} {}", unit.ucum())),
            (Some(low), None) => text.push_str(&format!("; plausible from {low} {}", unit.ucum())),
            (None, Some(high)) => text.push_str(&format!("; plausible to {high} {}", unit.ucum())),
            (None, None) => {}
        }
    }
    if let Some(mark) = &entry.new_when_changes {
        text.push_str(&format!("; new when {mark} changes"));
    }
    text
}

fn becomes(entry: &MapEntry, channel: &Channel) -> String {
    match (&channel.example_reading, entry.machine_unit, entry.parameter.row().unit) {
        (Some(Reading::Number(number)), Some(machine_unit), Some(unit)) => machine_unit
            .convert(*number, unit)
            .map_or_else(|why| why.to_string(), |number| format!("{number} {}", unit.ucum())),
        (Some(Reading::Code { name, .. }), _, _) => name.unwrap_or("unknown").to_owned(),
        (Some(Reading::Absent), _, _) => String::from("no reading"),
        (Some(Reading::Number(_) | Reading::Mark(_) | Reading::Text(_)) | None, _, _) => {
            String::from("no example")
        }
    }
}

fn explain_treatment(rule: &TreatmentRule, model: &dyn Model) -> String {
    match rule {
        TreatmentRule::Flag { from, is } => {
            let names = match model.channel(from.as_str()).map(|channel| channel.kind) {
                Some(ChannelKind::Code(names)) => names,
                _ => &[],
            };
            let said = |code: &u32| match names.iter().find(|(known, _)| known == code) {
                Some((_, name)) => format!("{code} ({name})"),
                None => code.to_string(),
            };
            let codes: Vec<String> = is.iter().map(said).collect();
            format!("running while {from} is {}", codes.join(" or "))
        }
        TreatmentRule::Elapsed { elapsed, blood_flow } => {
            format!("running while {elapsed} advances and {blood_flow} is above zero, two polls running")
        }
    }
}

fn is_used(map: &DeviceMap, id: &ChannelId) -> bool {
    let by_entry = |entry: &MapEntry| entry.from == *id || entry.new_when_changes.as_ref() == Some(id);
    let by_rule = match &map.treatment {
        Some(TreatmentRule::Flag { from, .. }) => from == id,
        Some(TreatmentRule::Elapsed { elapsed, blood_flow }) => elapsed == id || blood_flow == id,
        None => false,
    };
    by_rule || map.entries.iter().any(by_entry) || map.alarms.iter().any(|(_, from)| from == id)
}
