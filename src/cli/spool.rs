//! `chairside spool`: looks into the spool of a stopped gateway.

use super::{ConfigFile, Exit};
use crate::config::{self, Colours, Settings};
use crate::privacy::keyring::Keyring;
use crate::spool::verify::{Verification, VolumeCheck, inspect, verify};
use crate::spool::{SetAside, SpoolError, SpoolStatus};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `spool`.
#[derive(Debug, clap::Args)]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SpoolCommand {
    /// What the spool holds.
    Status(Asked),
    /// Authenticate every frame and hold it against what the spool must hold.
    Verify(Asked),
}

#[derive(Debug, clap::Args)]
struct Asked {
    #[command(flatten)]
    config: ConfigFile,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// What to print, and how to end.
type Told = Result<(String, Exit), (String, Exit)>;

type Look = fn(&Settings, bool) -> Told;

pub(super) fn run(args: SpoolArgs) -> Exit {
    let (asked, look): (_, Look) = match args.command {
        SpoolCommand::Status(asked) => (asked, show),
        SpoolCommand::Verify(asked) => (asked, check),
    };
    let settings = match config::load(&asked.config.path) {
        Ok(settings) => settings,
        Err(report) => {
            let _ = std::io::stderr().write_all(report.render(Colours::of_stderr()).as_bytes());
            return Exit::Refused;
        }
    };
    match look(&settings, asked.json) {
        Ok((text, exit)) => {
            // A reader that has gone has seen what it wanted; the exit code still says the rest.
            let _ = std::io::stdout().write_all(text.as_bytes());
            exit
        }
        Err((text, exit)) => {
            eprintln!("chairside: {text}");
            exit
        }
    }
}

fn show(settings: &Settings, json: bool) -> Told {
    let home = home(settings);
    let status = if home.is_dir() {
        inspect(&home, settings.spool.max_bytes).map_err(|error| told(&error))?
    } else {
        SpoolStatus::default()
    };
    let text = if json { format!("{:#}\n", status_json(&status)) } else { status_text(&home, &status) };
    Ok((text, Exit::Ok))
}

fn check(settings: &Settings, json: bool) -> Told {
    let home = home(settings);
    if !home.is_dir() {
        return Err((
            format!("there is no spool at {}: the gateway has not run yet", home.display()),
            Exit::No,
        ));
    }
    let keyring = Keyring::open_for_reading(&settings.gateway.state_dir, &settings.root_key)
        .map_err(|error| (crate::telemetry::chain(&error), error.exit()))?;
    let found = verify(&home, &keyring).map_err(|error| told(&error))?;
    let exit = if found.holds() { Exit::Ok } else { Exit::No };
    let text = if json { format!("{:#}\n", check_json(&found)) } else { check_text(&home, &found) };
    Ok((text, exit))
}

fn home(settings: &Settings) -> PathBuf {
    settings.gateway.state_dir.join("spool")
}

/// What to say of an error, and how to end.
fn told(error: &SpoolError) -> (String, Exit) {
    let text = crate::telemetry::chain(error);
    let text = match error {
        SpoolError::Busy(_) => {
            format!("{text}: the gateway is running; ask it with `chairside status`, or stop it first")
        }
        SpoolError::Permission { .. } => format!("{text}: run this as the gateway's own user"),
        SpoolError::Format { .. } => format!("{text}: install the version that wrote it, or a newer one"),
        _ => text,
    };
    (text, error.exit())
}

fn status_text(home: &Path, status: &SpoolStatus) -> String {
    let SpoolStatus { last, records, bytes, space, volumes, set_aside, slots: _, upstreams } = status;
    let mut text = format!(
        "{}\n  {records} records in {volumes} volumes, {} MB ({} % of its room, level {}); the last one is number {last}\n",
        home.display(),
        bytes.div_ceil(1_000_000),
        space.percent(),
        space.level()
    );
    for SetAside { volume, expected, found } in set_aside {
        let _ = writeln!(text, "  {volume} is incomplete and was set aside: {found} of {expected} records");
    }
    for (name, counts) in upstreams {
        let _ = writeln!(
            text,
            "  {name}: {} delivered, {} not wanted, {} held, {} waiting, {} refused, {} evicted, {} lost, {} erased",
            counts.delivered,
            counts.skipped,
            counts.held,
            counts.waiting,
            counts.refused,
            counts.evicted,
            counts.lost,
            counts.erased
        );
    }
    text
}

fn status_json(status: &SpoolStatus) -> Value {
    let aside = |aside: &SetAside| json!({ "volume": aside.volume, "expected": aside.expected, "found": aside.found });
    let upstreams = status.upstreams.iter().map(|(name, counts)| {
        json!({
            "name": name.as_str(),
            "delivered": counts.delivered,
            "skipped": counts.skipped,
            "held": counts.held,
            "waiting": counts.waiting,
            "refused": counts.refused,
            "evicted": counts.evicted,
            "lost": counts.lost,
            "erased": counts.erased,
            "parts": { "delivered": counts.parts_delivered, "refused": counts.parts_refused },
        })
    });
    json!({
        "last": status.last,
        "records": status.records,
        "bytes": status.bytes,
        "max_bytes": status.space.max,
        "percent": status.space.percent(),
        "level": status.space.level().word(),
        "volumes": status.volumes,
        "set_aside": status.set_aside.iter().map(aside).collect::<Vec<_>>(),
        "upstreams": upstreams.collect::<Vec<_>>(),
    })
}

fn check_text(home: &Path, found: &Verification) -> String {
    let mut text = format!("{}\n", home.display());
    if !found.manifest {
        let _ = writeln!(text, "  the manifest is lost; {} volumes are there", found.unnamed);
        text.push_str("  the next start makes a new one from them, under a new store id\n");
        return text;
    }
    for VolumeCheck { volume, expected, found, behind, set_aside } in &found.volumes {
        let _ = write!(text, "  {volume}: {found} of {expected} records authenticate");
        if *behind > 0 {
            let _ = write!(text, ", {behind} more that nobody was told of");
        }
        text.push_str(if *set_aside { ", set aside\n" } else { "\n" });
    }
    if found.unnamed > 0 {
        let _ = writeln!(text, "  {} folders that the manifest does not name", found.unnamed);
    }
    if !found.closed {
        text.push_str("  the gateway did not stop in order; the next start checks the newest volume\n");
    }
    let missing: u64 = found.volumes.iter().map(|v| v.expected.saturating_sub(v.found)).sum();
    let _ = match missing {
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
        "volumes": found.volumes.iter().map(volume).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::UpstreamName;
    use crate::model::time::Timestamp;
    use crate::privacy::keyring::Absent;
    use crate::spool::Spool;
    use crate::spool::store::{Options, SledSpool};
    use crate::spool::testing::record;
    use std::fs;
    use std::sync::Arc;

    /// A configuration and a state folder with a spool of 20 records, closed in order.
    fn clinic() -> (tempfile::TempDir, Settings) {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        fs::create_dir(&state).unwrap();
        let file = home.path().join("gateway.toml");
        let text = format!(
            "[gateway]\nname = \"test\"\nstate_dir = \"{state}\"\n\
             [spool]\nmax_bytes = \"1 GiB\"\nkeep_delivered = \"3 days\"\n\
             [keys]\nroot = {{ file = \"{state}/root.key\", created = true }}\n",
            state = state.display()
        );
        fs::write(&file, text).unwrap();
        let settings = config::load(&file).unwrap_or_else(|report| panic!("{}", report.render(Colours::Off)));
        let keyring = Keyring::open(&state, &settings.root_key, Absent::Create).unwrap();
        let ehr = [UpstreamName::new("ehr").unwrap()];
        let now = Timestamp::from_micros(0);
        let mut spool =
            SledSpool::open(&state.join("spool"), Arc::new(keyring), &ehr, Options::new(u64::MAX), now)
                .unwrap();
        let records: Vec<_> = (0..20).map(record).collect();
        spool.append(&records).unwrap();
        spool.close().unwrap();
        (home, settings)
    }

    #[test]
    fn a_whole_spool_is_complete_and_a_cut_one_is_not() {
        let (_home, settings) = clinic();
        let (text, exit) = check(&settings, false).unwrap();
        assert_eq!(exit, Exit::Ok);
        assert!(text.contains("volume-00000001: 20 of 20 records authenticate"), "{text}");
        assert!(text.contains("complete up to record 20"), "{text}");
        let db = home(&settings).join("volume-00000001/db");
        let bytes = fs::read(&db).unwrap();
        fs::write(&db, &bytes[..200]).unwrap();
        let (text, exit) = check(&settings, true).unwrap();
        assert_eq!(exit, Exit::No);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["holds"], &json["volumes"][0]["found"]), (&json!(false), &json!(0)));
    }

    #[test]
    fn what_a_stopped_spool_holds_is_told_without_changing_it() {
        let (_home, settings) = clinic();
        let before = fs::read(home(&settings).join("settlement/db")).unwrap();
        let (text, exit) = show(&settings, true).unwrap();
        assert_eq!(exit, Exit::Ok);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["records"], &json["upstreams"][0]["waiting"]), (&json!(20), &json!(20)));
        assert_eq!(fs::read(home(&settings).join("settlement/db")).unwrap(), before);
    }

    #[test]
    fn a_running_gateway_is_named_as_the_reason() {
        let (_home, settings) = clinic();
        let keyring = Keyring::open(&settings.gateway.state_dir, &settings.root_key, Absent::Refuse).unwrap();
        let now = Timestamp::from_micros(0);
        let _running =
            SledSpool::open(&home(&settings), Arc::new(keyring), &[], Options::new(u64::MAX), now).unwrap();
        for refused in [show(&settings, false), check(&settings, false)] {
            let (text, exit) = refused.unwrap_err();
            assert_eq!(exit, Exit::NotReady);
            assert!(text.contains("the gateway is running"), "{text}");
        }
    }
}
