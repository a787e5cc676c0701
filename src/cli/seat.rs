//! `chairside seat` and `chairside unseat`: who sits where. The record number comes from standard input, never from the
//! command line, where other users of this computer could read it.

use super::{ConfigFile, Exit};

/// Arguments of `seat`.
#[derive(Debug, clap::Args)]
pub(super) struct SeatArgs {
    /// The chair, as the configuration names it.
    chair: String,
    /// The running treatment was seated wrongly: bind it to this patient from its start.
    #[arg(long)]
    correct: bool,
    #[command(flatten)]
    config: ConfigFile,
}

/// Arguments of `unseat`.
#[derive(Debug, clap::Args)]
pub(super) struct UnseatArgs {
    /// The chair, as the configuration names it.
    chair: String,
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn seat(args: SeatArgs) -> Exit {
    eprintln!("chairside: seat is not wired yet ({}, {:?}, {})", args.chair, args.config, args.correct);
    Exit::Fault
}

pub(super) fn unseat(args: UnseatArgs) -> Exit {
    eprintln!("chairside: unseat is not wired yet ({}, {:?})", args.chair, args.config);
    Exit::Fault
}
