//! `chairside spool`: what is in the spool, what was refused, and what to do about it, beside a running gateway where that can be.

mod check;
mod holdings;
mod letters;
mod look;
mod progress;
mod salvage;
mod source;

use super::{ConfigFile, Exit};
use std::io::Write as _;

/// Arguments of `spool`.
#[derive(Debug, clap::Args)]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SpoolCommand {
    /// What the spool holds, and how much of it each upstream has. Asks the running gateway, or looks itself.
    Status(Asked),
    /// Authenticate every frame and hold it against what the spool must hold. Needs the gateway to be stopped.
    Verify(Asked),
    /// Count records by chair, kind, day and treatment, or show one with all it says. Never shows a patient.
    Inspect(look::InspectArgs),
    /// List what upstreams refused, with their codes, or throw it away.
    DeadLetters(letters::LettersArgs),
    /// Put refused records back to be sent, once the receiver takes what it had refused.
    Replay(letters::ReplayArgs),
    /// Get records off a broken disk: back into this spool, or into a new one. Says first what it would do. Needs the gateway to be
    /// stopped.
    Salvage(salvage::SalvageArgs),
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
type Told = Result<(String, Exit), Trouble>;

/// What to say on standard error, and how to end.
type Trouble = (String, Exit);

pub(super) fn run(args: SpoolArgs) -> Exit {
    let told = match args.command {
        SpoolCommand::Status(asked) => holdings::show(&asked),
        SpoolCommand::Verify(asked) => check::check(&asked),
        SpoolCommand::Inspect(args) => look::inspect(&args),
        SpoolCommand::DeadLetters(args) => letters::letters(&args),
        SpoolCommand::Replay(args) => letters::replay(&args),
        SpoolCommand::Salvage(args) => salvage::salvage(&args),
    };
    match told {
        Ok((text, exit)) => {
            // A reader that has gone has seen what it wanted; the exit code still says the rest.
            let _ = std::io::stdout().write_all(text.as_bytes());
            exit
        }
        // Where the configuration cannot be read, that was said already.
        Err((text, exit)) if text.is_empty() => exit,
        Err((text, exit)) => super::complain(text.trim_end(), exit),
    }
}

/// Something as JSON, for scripts.
fn json(it: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(it).unwrap_or_default() + "\n"
}

/// A number with its thousands apart.
fn spaced(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A time as people read it: UTC, to the second.
fn time(at: crate::status::Moment) -> String {
    let text = String::from(at).replace('T', " ");
    text.split_once('.').map_or_else(|| text.clone(), |(front, _)| format!("{front}Z"))
}

#[cfg(test)]
mod tests;
