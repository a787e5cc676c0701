//! `chairside drivers`: the machines this program can read.

use super::Exit;

/// Arguments of `drivers`.
#[derive(Debug, clap::Args)]
pub(super) struct DriversArgs {
    #[command(subcommand)]
    command: DriversCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DriversCommand {
    /// Every model with its evidence.
    List {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// What one model says, and how.
    Show {
        /// The model, `family/model`.
        model: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Every byte this driver can ever send to a machine.
    Proof {
        /// The model, `family/model`.
        model: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: DriversArgs) -> Exit {
    eprintln!("chairside: drivers is not wired yet ({args:?})");
    Exit::Fault
}
