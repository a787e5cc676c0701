//! What the package installs: it holds, it is whole, and its examples are true.

use super::*;
use crate::model::parameter::Kind;
use chairside_drivers::MODELS;
use chairside_drivers::kit::driver::ChannelKind;

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new("config").join(name)).unwrap()
}

/// The shipped configuration with one chair of each model, each with its shipped map.
fn ward_of_every_model() -> Memory {
    let mut main = shipped("gateway.toml").replace("# time_zone", "time_zone");
    let mut files = Memory::default();
    for (number, entry) in MODELS.iter().enumerate() {
        let (id, map) = (&entry.id, entry.default_map);
        main.push_str(&format!("[[chair]]\nname = \"chair-{number}\"\nmachine = \"asset-{number}\"\n"));
        main.push_str(&format!("driver = \"{id}\"\nport = \"/dev/ttyS{number}\"\nmap = \"{map}\"\n"));
        files = files.with(&format!("/etc/chairside/devices/{map}"), shipped(&format!("devices/{map}")));
    }
    files.with(FILE, main)
}

fn ward() -> Settings {
    load_from(Path::new(FILE), &ward_of_every_model()).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_shipped_configuration_has_no_chair_and_no_upstream_and_holds() {
    let settings = load(Path::new("config/gateway.toml")).unwrap();
    assert!(settings.chairs.is_empty() && settings.upstreams.is_empty());
}

#[test]
fn every_commented_example_of_the_shipped_configuration_holds_too() {
    let text = shipped("gateway.toml");
    let is_example = |line: &str| {
        let word = line.split(' ').next().unwrap_or_default();
        let is_key = word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        line.starts_with('[') || (is_key && line.split(' ').nth(1) == Some("="))
    };
    let uncommented: Vec<&str> = text
        .lines()
        // The root key has two examples, and one of them is the shipped value.
        .filter(|line| !line.starts_with("# root"))
        .map(|line| line.strip_prefix("# ").filter(|rest| is_example(rest)).unwrap_or(line))
        .collect();
    let files = Memory::default()
        .with(FILE, uncommented.join("\n"))
        .with("/etc/chairside/devices/nikkiso_dbb27c.toml", shipped("devices/nikkiso_dbb27c.toml"));
    let settings = load_from(Path::new(FILE), &files).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!((settings.chairs.len(), settings.upstreams.len()), (1, 1));
    assert_eq!(settings.gateway.control, Path::new("/run/chairside/control.sock"));
}

#[test]
fn every_model_ships_a_map_that_leaves_out_only_what_has_no_known_meaning() {
    let settings = ward();
    assert_eq!(settings.chairs.len(), MODELS.len());
    for chair in &settings.chairs {
        assert!(chair.map.treatment.is_some() && chair.map.checked_on.is_empty());
        for channel in chair.model.channels() {
            let mapped = chair.map.entries.iter().any(|entry| entry.from == channel.id)
                || chair.map.alarms.iter().any(|(_, from)| *from == channel.id);
            let wanted = match channel.kind {
                // The pressure in the cuff is not the patient's.
                ChannelKind::Number => channel.unit.is_some() && channel.meaning != "cuff pressure",
                ChannelKind::Alarm => true,
                ChannelKind::Code(names) => !names.is_empty() && channel.meaning != "in treatment",
                ChannelKind::Mark | ChannelKind::Text => false,
            };
            assert_eq!(mapped, wanted, "{} {} ({})", chair.model.id(), channel.id, channel.meaning);
        }
    }
}

#[test]
fn every_shipped_cuff_value_is_new_only_when_its_mark_changes() {
    for chair in ward().chairs {
        for entry in &chair.map.entries {
            let is_spot = entry.parameter.row().kind == Kind::Spot;
            assert_eq!(
                entry.new_when_changes.is_some(),
                is_spot,
                "{} {:?}",
                chair.map.driver,
                entry.parameter
            );
        }
    }
}

#[test]
fn every_state_that_a_shipped_driver_names_is_a_state_of_its_parameter() {
    for chair in ward().chairs {
        for entry in &chair.map.entries {
            let Kind::State(states) = entry.parameter.row().kind else { continue };
            let channel = chair.model.channel(entry.from.as_str()).unwrap();
            let ChannelKind::Code(codes) = channel.kind else { panic!("{}", channel.id) };
            assert!(codes.iter().all(|(_, name)| states.contains(name)), "{} {codes:?}", chair.map.driver);
        }
    }
}

#[test]
fn the_digest_is_of_the_file_and_of_its_maps() {
    let files = ward_of_every_model();
    let digest = |files: &Memory| load_from(Path::new(FILE), files).unwrap().digest;
    let with_a_comment = |path: &str| {
        let mut text = files.0[Path::new(path)].clone();
        text.extend(b"# more\n");
        digest(&files.clone().with(path, text))
    };
    assert_eq!(digest(&files), digest(&files));
    assert_ne!(digest(&files), with_a_comment(FILE));
    assert_ne!(digest(&files), with_a_comment("/etc/chairside/devices/toray_tr321.toml"));
}
