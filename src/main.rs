//! Parses arguments, runs the subcommand, sets the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chairside::cli::main(std::env::args_os()).into()
}
