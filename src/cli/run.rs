//! `chairside run`: the daemon.

use super::{ConfigFile, Exit};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// What to log: error, warn, info, debug or trace; or a filter like `info,chairside::poll=debug`.
    #[arg(long, value_name = "FILTER", env = "CHAIRSIDE_LOG", default_value = "info")]
    log: String,
}

pub(super) fn run(args: RunArgs) -> Exit {
    super::block_on(async {
        eprintln!("chairside: run is not wired yet ({}, {})", args.config.path.display(), args.log);
        Exit::Fault
    })
}
