//! `chairside spool verify`: holds the spool of a stopped gateway against what it must hold.

use super::progress::Progress;
use super::source::{home, is_there, load, nothing_at, told};
use super::{Asked, Told};
use crate::cli::Exit;
use crate::config::Settings;
use crate::privacy::keyring::Keyring;
use crate::spool::verify::{Verification, VolumeCheck, verify};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

pub(super) fn check(asked: &Asked) -> Told {
    check_spool(&load(&asked.config.path)?, asked.json)
}

pub(super) fn check_spool(settings: &Settings, json: bool) -> Told {
    let home = home(settings);
    if !is_there(&home)? {
        return Err(nothing_at(&home));
    }
    let keyring = Keyring::open_for_reading(&settings.gateway.state_dir, &settings.root_key)
        .map_err(|error| (crate::telemetry::chain(&error), error.exit()))?;
    let progress = Progress::new("volumes");
    let found = verify(&home, &keyring, &mut |done, all| progress.set(done as u64, all as u64));
    drop(progress);
    let found = found.map_err(|error| told(&error))?;
    let exit = if found.holds() { Exit::Ok } else { Exit::No };
    let text = if json { super::json(&check_json(&found)) } else { check_text(&home, &found) };
    Ok((text, exit))
}

fn check_text(home: &Path, found: &Verification) -> String {
    let mut text = format!("{}\n", home.display());
    if !found.manifest {
        let _ = writeln!(text, "  the manifest is lost; {} volumes are there", found.unnamed);
        text.push_str("  the next start makes a new one from them, under a new store id\n");
        return text;
    }
    for VolumeCheck { volume, expected, found, sealed, behind, set_aside, .. } in &found.volumes {
        let authentic = found.saturating_sub(*sealed);
        let _ = write!(text, "  {volume}: {authentic} of {expected} records authenticate");
        if *sealed > 0 {
            let _ = write!(text, ", {sealed} cannot be opened by this keyring");
        }
        if *behind > 0 {
            let _ = write!(text, ", {behind} more that nobody was told of");
        }
        text.push_str(if *set_aside { ", set aside\n" } else { "\n" });
    }
    if found.letters_damaged > 0 {
        let damaged = found.letters_damaged;
        let _ = writeln!(
            text,
            "  {} dead letters can be read, {damaged} places in their files cannot",
            found.letters
        );
    }
    if found.unnamed > 0 {
        let _ = writeln!(text, "  {} folders that the manifest does not name", found.unnamed);
    }
    if !found.closed {
        text.push_str("  the gateway did not stop in order; the next start checks the newest volume\n");
    }
    let missing: u64 = found.volumes.iter().map(|v| v.expected.saturating_sub(v.found)).sum();
    let unsent: u64 = found.volumes.iter().map(|volume| volume.unsent).sum();
    if unsent > 0 {
        let _ = writeln!(
            text,
            "  {unsent} records that no key opens are not sent yet: if no patient was forgotten, this keyring is older than \
             they are; bring the right one before the gateway starts, which gives them up"
        );
    }
    let _ = match missing {
        0 if unsent > 0 => writeln!(text, "  all are there up to record {}", found.last),
        0 => writeln!(text, "  complete up to record {}", found.last),
        missing => writeln!(text, "  {missing} records are missing or damaged; keep a copy of this folder"),
    };
    text
}

fn check_json(found: &Verification) -> Value {
    let volume = |check: &VolumeCheck| {
        json!({
            "volume": check.volume,
            "expected": check.expected,
            "found": check.found,
            "sealed": check.sealed,
            "sealed_unsent": check.unsent,
            "behind": check.behind,
            "set_aside": check.set_aside,
        })
    };
    json!({
        "holds": found.holds(),
        "manifest": found.manifest,
        "closed": found.closed,
        "last": found.last,
        "unnamed": found.unnamed,
        "letters": found.letters,
        "letters_damaged": found.letters_damaged,
        "volumes": found.volumes.iter().map(volume).collect::<Vec<_>>(),
    })
}
