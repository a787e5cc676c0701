//! `chairside demo`: everything at once on this machine, then a verdict.

use super::Exit;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// How many simulated machines.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=96))]
    chairs: u32,
    /// How long it runs, in seconds.
    #[arg(long, value_name = "S", default_value_t = 40)]
    seconds: u32,
    /// How much faster than life the machines live.
    #[arg(long, value_name = "X", default_value_t = 20)]
    speed: u32,
    /// For how many seconds the receiver is cut off.
    #[arg(long, value_name = "S", default_value_t = 8)]
    outage: u32,
    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: DemoArgs) -> Exit {
    eprintln!("chairside: demo is not wired yet ({args:?})");
    Exit::Fault
}
