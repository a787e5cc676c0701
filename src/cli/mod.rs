//! One file per subcommand; this one is the command tree.
//!
//! A subcommand is a file with an argument type and `pub(super) fn run(args) -> Exit`. It prints its own
//! result to standard output, its errors to standard error, and never panics. One that waits for something makes its
//! runtime with `block_on`.

mod check;
mod demo;
mod drivers;
mod gaps;
mod outage;
mod run;
mod seat;
mod spool;
mod status;

pub use crate::exit::Exit;

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;

/// The gateway beside dialysis chairs: what a machine measured reaches the patient's record.
///
/// It only listens: nothing here can change a setting on a machine. It is no alarm system and no patient monitor.
#[derive(Debug, Parser)]
#[command(name = "chairside", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground until it is told to stop.
    Run(run::RunArgs),
    /// Read the configuration and report every mistake by file, line and column.
    Check(check::CheckArgs),
    /// Show everything at once on this machine: simulated chairs, a receiver, and a verdict.
    Demo(demo::DemoArgs),
    /// Show chairs, spool and upstreams of the running gateway.
    Status(status::StatusArgs),
    /// Is any poll missing, and why: one line per range; exit 1 when any is unaccounted for.
    Gaps(gaps::GapsArgs),
    /// Seat a patient on a chair; the record number is read from standard input.
    Seat(seat::SeatArgs),
    /// End the seat of a chair.
    Unseat(seat::UnseatArgs),
    /// The machines this program can read.
    Drivers(drivers::DriversArgs),
    /// Rehearse an outage beside the running gateway.
    Outage(outage::OutageArgs),
    /// Look into the spool of a stopped gateway.
    Spool(spool::SpoolArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file.
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "CHAIRSIDE_CONFIG",
        default_value = "/etc/chairside/gateway.toml"
    )]
    pub(crate) path: PathBuf,
}

/// Understands the command line, runs the subcommand and says how it ended.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let command = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line.command,
        Err(refusal) => {
            let asked_for = !refusal.use_stderr();
            // A closed terminal is no reason to fail louder than the answer itself.
            let _ = refusal.print();
            return if asked_for { Exit::Ok } else { Exit::Usage };
        }
    };
    match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Status(args) => status::run(args),
        Command::Gaps(args) => gaps::run(&args),
        Command::Seat(args) => seat::seat(args),
        Command::Unseat(args) => seat::unseat(args),
        Command::Drivers(args) => drivers::run(args),
        Command::Outage(args) => outage::run(args),
        Command::Spool(args) => spool::run(args),
    }
}

/// The control socket of the gateway that this configuration describes. Only the two keys that name it are read, so a
/// mistake elsewhere in the file does not keep a nurse from asking; where it cannot be found, the reason is printed.
fn control_socket(config: &ConfigFile) -> Result<PathBuf, Exit> {
    let path = &config.path;
    let text = std::fs::read_to_string(path).map_err(|refusal| {
        let exit = match refusal.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Refused,
        };
        complain(
            &format!("read {}: {refusal}; name the gateway's configuration with --config", path.display()),
            exit,
        )
    })?;
    let gateway = text.parse::<toml::Table>().ok().and_then(|mut table| table.remove("gateway"));
    let place = |key: &str| gateway.as_ref()?.get(key)?.as_str().map(PathBuf::from);
    let socket = place("control").or_else(|| Some(place("state_dir")?.join("control.sock")));
    let socket = socket.ok_or_else(|| {
        let why = format!("{} names no [gateway] state_dir; run `chairside check`", path.display());
        complain(&why, Exit::Refused)
    })?;
    // Relative paths start at the configuration's own folder.
    Ok(path.parent().map_or_else(|| socket.clone(), |folder| folder.join(&socket)))
}

/// Prints a result. A reader that went away is no failure of ours.
fn print(text: &str) -> Exit {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Exit::Ok
}

/// Prints what is wrong and what to do.
fn complain(why: &str, exit: Exit) -> Exit {
    let _ = writeln!(std::io::stderr().lock(), "chairside: {why}");
    exit
}

/// Runs `work` to its end on a runtime of its own.
pub(crate) fn block_on(work: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(refusal) => complain(&format!("start the runtime: {refusal}"), Exit::Fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn exit_of(line: &str) -> Exit {
        main(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_tree_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_command_line_that_cannot_be_understood_exits_64() {
        assert_eq!(exit_of("chairside dance"), Exit::Usage);
        assert_eq!(exit_of("chairside seat"), Exit::Usage);
        assert_eq!(exit_of("chairside run --unknown"), Exit::Usage);
    }

    #[test]
    fn help_and_version_are_no_mistakes() {
        assert_eq!(exit_of("chairside --help"), Exit::Ok);
        assert_eq!(exit_of("chairside --version"), Exit::Ok);
    }
}
