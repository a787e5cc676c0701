//! `chairside check`: every mistake of the configuration.

use super::{ConfigFile, Exit};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print each line of each device map with an example.
    #[arg(long)]
    explain: bool,
}

pub(super) fn run(args: CheckArgs) -> Exit {
    eprintln!("chairside: check is not wired yet ({}, {})", args.config.path.display(), args.explain);
    Exit::Fault
}
