//! `chairside spool`: looks into the spool of a stopped gateway.

use super::{ConfigFile, Exit};

/// Arguments of `spool`.
#[derive(Debug, clap::Args)]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SpoolCommand {
    /// What the spool holds.
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Authenticate every frame.
    Verify {
        #[command(flatten)]
        config: ConfigFile,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: SpoolArgs) -> Exit {
    eprintln!("chairside: spool is not wired yet ({args:?})");
    Exit::Fault
}
