//! `chairside status`: chairs, spool and upstreams on one page.

use super::{ConfigFile, Exit};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: StatusArgs) -> Exit {
    eprintln!("chairside: status is not wired yet ({}, {})", args.config.path.display(), args.json);
    Exit::Fault
}
