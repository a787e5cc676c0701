//! `chairside spool salvage`: gets records off a broken disk. Says what it would do first; does it with `--yes`.

use super::progress::Progress;
use super::source::{Need, Source, Stopped, home, load, owned_by_us, told};
use super::{Asked, Trouble, spaced};
use crate::audit::{Audit, Caller, Entry};
use crate::cli::Exit;
use crate::clock::stamp;
use crate::config::Settings;
use crate::disk::Disk;
use crate::privacy::keyring::Keyring;
use crate::spool::wreck::{Plan, Site, Stretch, Wreck};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Runs of numbers printed for one store.
const SHOWN: usize = 12;

/// Arguments of `salvage`.
#[derive(Debug, clap::Args)]
pub(super) struct SalvageArgs {
    #[command(flatten)]
    asked: Asked,
    /// Where to look: the state folder or the spool folder of the broken disk, any folder with files of it, or one file.
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Only records of the store whose id begins so.
    #[arg(long, value_name = "ID")]
    store: Option<String>,
    /// Do it. Without this it only says what would be done.
    #[arg(long)]
    yes: bool,
}

pub(super) fn salvage(args: &SalvageArgs) -> super::Told {
    salvage_into(&load(&args.asked.config.path)?, args)
}

pub(super) fn salvage_into(settings: &Settings, args: &SalvageArgs) -> super::Told {
    let found = keyring_of(settings, &args.from)?;
    let keyring = Keyring::open_for_reading(&found, &settings.root_key)
        .map_err(|error| (crate::telemetry::chain(&error), error.exit()))?;
    let progress = Progress::new("bytes");
    let wreck = Wreck::search(&args.from, &keyring, &mut |done, all| progress.set(done, all));
    drop(progress);
    let mut wreck = wreck.map_err(|error| told(&error))?;
    if let Some(store) = &args.store {
        wreck.only(store);
    }
    let stretches = wreck.stretches(&keyring);
    drop(keyring);
    let mut told = Findings { wreck: &wreck, stretches, plan: None, kept: None, left_out: 0 };
    if wreck.records() > 0 {
        match Source::stopped(settings, Need::Records)? {
            Source::Stopped { spool: Stopped::Read(mut spool), .. } => {
                told.plan = Some(spool.compare(&wreck).map_err(|error| super::source::told(&error))?);
                drop(spool);
                if args.yes {
                    told.kept = Some(take_back(settings, &wreck)?);
                }
            }
            Source::Stopped { .. } | Source::Running { .. } | Source::Nothing => {
                one_keyring(settings, &found)?;
                told.left_out = wreck.left_out();
                if args.yes {
                    let kept = make_new(settings, &found, &wreck)?;
                    told.left_out = wreck.records().saturating_sub(kept);
                    told.kept = Some(kept);
                }
            }
        }
    }
    let exit = if wreck.records() == 0 || told.left_out > 0 { Exit::No } else { Exit::Ok };
    let text = if args.asked.json { super::json(&told.json()) } else { told.text(&args.from, args.yes) };
    Ok((text, exit))
}

/// The state folder whose keyring opens these records: that of the broken disk if it has one, else our own.
fn keyring_of(settings: &Settings, from: &Path) -> Result<PathBuf, Trouble> {
    let near = [Some(from), from.parent(), from.parent().and_then(Path::parent)];
    let own = settings.gateway.state_dir.as_path();
    let with_keyring =
        near.into_iter().flatten().chain([own]).find(|folder| folder.join("keyring").is_file());
    with_keyring.map(Path::to_owned).ok_or_else(|| {
        let text = format!(
            "there is no keyring at {} and none at {}; without the one that sealed these records nobody can read them: put \
             it beside the folder that is searched",
            from.display(),
            own.display()
        );
        (text, Exit::Refused)
    })
}

fn take_back(settings: &Settings, wreck: &Wreck) -> Result<u64, Trouble> {
    let Source::Stopped { spool: Stopped::Open(mut spool), .. } = Source::stopped(settings, Need::Change)?
    else {
        return Ok(0);
    };
    note(settings, "spool_salvage", json!({ "into": "this spool", "found": wreck.records() }))?;
    let taken = spool.take_back(wreck);
    let closed = crate::spool::Spool::close(spool.as_mut());
    let taken = taken.map_err(|error| told(&error))?;
    closed.map_err(|error| told(&error))?;
    Ok(taken)
}

fn make_new(settings: &Settings, keyring: &Path, wreck: &Wreck) -> Result<u64, Trouble> {
    let state_dir = &settings.gateway.state_dir;
    let failed = |act: &str, source: std::io::Error| {
        let exit = match source.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Disk,
        };
        (format!("{act} {}: {source}", state_dir.display()), exit)
    };
    if !state_dir.is_dir() {
        // As the gateway makes it: nobody else has to look into it.
        let make = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        make.map_err(|source| failed("make", source))?;
    }
    owned_by_us(state_dir)?;
    let home = home(settings);
    let in_the_way = || (format!("{} is not empty; move it away first", home.display()), Exit::No);
    if std::fs::read_dir(&home).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(in_the_way());
    }
    note(settings, "spool_salvage", json!({ "into": "a new spool", "found": wreck.records() }))?;
    let ours = state_dir.join("keyring");
    if !ours.exists() {
        let bytes = std::fs::read(keyring.join("keyring"))
            .map_err(|source| failed("bring the keyring to", source))?;
        let draft = state_dir.join("keyring.new");
        Disk::default()
            .replace(&ours, &draft, &bytes)
            .map_err(|source| failed("bring the keyring to", source))?;
    }
    // Held to the end: a gateway that starts meanwhile would take what is there so far for all of it.
    let _site = Site::take(&home).map_err(|error| told(&error))?.ok_or_else(in_the_way)?;
    wreck.make_spool(&home, &Disk::default()).map_err(|error| told(&error))
}

/// What the found keyring opens, the gateway must be able to open too: it has one keyring.
fn one_keyring(settings: &Settings, found: &Path) -> Result<(), Trouble> {
    let ours = settings.gateway.state_dir.join("keyring");
    let found = found.join("keyring");
    let read = |path: &Path| std::fs::read(path).map_err(|error| (path.to_owned(), error));
    let differ = match read(&ours) {
        Err((_, error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(refused) => Err(refused),
        Ok(bytes) => read(&found).map(|other| other != bytes),
    };
    match differ {
        Ok(false) => Ok(()),
        Ok(true) => {
            let text = format!(
                "{} is another keyring than {}, which opens these records; the gateway would not open them: name an empty \
                 state folder in a configuration of its own, or move {} away too",
                ours.display(),
                found.display(),
                ours.display()
            );
            Err((text, Exit::No))
        }
        Err((path, error)) => Err((format!("read {}: {error}", path.display()), Exit::Disk)),
    }
}

fn note(settings: &Settings, act: &'static str, about: Value) -> Result<(), Trouble> {
    let state_dir = &settings.gateway.state_dir;
    let caller = Caller { uid: Some(rustix::process::getuid().as_raw()) };
    let now = super::source::now(state_dir);
    Audit::open(state_dir)
        .and_then(|audit| audit.note(now, &Entry::Spool { caller, act, about }))
        .map_err(|refusal| (crate::telemetry::chain(&refusal), Exit::Disk))
}

/// What to tell of it.
struct Findings<'a> {
    wreck: &'a Wreck,
    stretches: Vec<Stretch>,
    /// `None`: there is no spool to hold it against.
    plan: Option<Plan>,
    /// What was taken back, or put into a new spool.
    kept: Option<u64>,
    /// What a new spool does not get.
    left_out: u64,
}

impl Findings<'_> {
    fn text(&self, from: &Path, yes: bool) -> String {
        let mut text = format!("{}: {} records\n", from.display(), spaced(self.wreck.records()));
        for stretch in &self.stretches {
            let runs: Vec<String> = stretch.runs.iter().take(SHOWN).map(|run| span(*run)).collect();
            let more = stretch.runs.len().saturating_sub(SHOWN);
            let and = if more > 0 { format!(" and {more} more runs") } else { String::new() };
            let times = stretch
                .times
                .map_or_else(String::new, |(from, to)| format!(", {} to {}", stamp(from), stamp(to)));
            let records = spaced(stretch.records);
            let _ = writeln!(
                text,
                "  store {:?}: {records}, number {}{and}{times}",
                stretch.store,
                runs.join(", ")
            );
        }
        if self.wreck.sealed > 0 {
            let _ = writeln!(text, "  {} more no key of this keyring opens", spaced(self.wreck.sealed));
        }
        if self.wreck.unreadable > 0 {
            let _ = writeln!(text, "! {} files or folders cannot be read", spaced(self.wreck.unreadable));
        }
        if self.wreck.records() == 0 {
            return text;
        }
        match (&self.plan, self.kept) {
            (Some(plan), kept) => {
                let _ = writeln!(text, "  {} of them are in this spool already", spaced(plan.here));
                if plan.foreign > 0 {
                    let _ = writeln!(
                        text,
                        "  {} are of another store and cannot come into this one: name an empty state folder in a \
                         configuration of its own",
                        spaced(plan.foreign)
                    );
                }
                let _ = match kept {
                    Some(kept) => writeln!(
                        text,
                        "{} were taken back and will be sent when the gateway runs",
                        spaced(kept)
                    ),
                    None => writeln!(
                        text,
                        "{} are missing here and can be taken back",
                        spaced(plan.missing.len() as u64)
                    ),
                };
            }
            (None, Some(kept)) => {
                let _ = writeln!(
                    text,
                    "{} are in a new spool and will be sent when the gateway runs",
                    spaced(kept)
                );
            }
            (None, None) => text.push_str("there is no spool here yet; they can be made into one\n"),
        }
        if self.left_out > 0 {
            let _ = writeln!(
                text,
                "! {} are left out: their numbers belong to records of another store, or they could not be read. Keep this \
                 disk, and put them into a spool of their own: --store ID, with a configuration that names an empty state \
                 folder",
                spaced(self.left_out)
            );
        }
        if !yes {
            text.push_str("nothing was changed; --yes does it. Sending what a receiver already has changes nothing there\n");
        }
        text
    }

    fn json(&self) -> Value {
        let stretch = |stretch: &Stretch| {
            json!({
                "store": format!("{:?}", stretch.store),
                "records": stretch.records,
                "runs": stretch.runs,
                "from": stretch.times.map(|(from, _)| stamp(from)),
                "to": stretch.times.map(|(_, to)| stamp(to)),
            })
        };
        json!({
            "found": self.wreck.records(),
            "sealed": self.wreck.sealed,
            "unreadable_files": self.wreck.unreadable,
            "stores": self.stretches.iter().map(stretch).collect::<Vec<_>>(),
            "here": self.plan.as_ref().map(|plan| plan.here),
            "missing": self.plan.as_ref().map(|plan| plan.missing.len()),
            "foreign": self.plan.as_ref().map(|plan| plan.foreign),
            "kept": self.kept,
            "left_out": self.left_out,
        })
    }
}

fn span((first, last): (u64, u64)) -> String {
    if first == last { spaced(first) } else { format!("{} to {}", spaced(first), spaced(last)) }
}
