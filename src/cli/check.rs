//! `chairside check`: every mistake of the configuration, and what each line of a device map means.

use super::{ConfigFile, Exit};
use crate::config::{self, Colours, Settings};
use std::io::Write;

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
    match config::load(&args.config.path) {
        Ok(settings) => {
            let mut text = holds(&settings);
            if args.explain {
                text.push_str(&explained(&settings));
            }
            // A reader that has gone has seen what it wanted; the exit code still says the rest.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Exit::Ok
        }
        Err(report) => {
            let text = report.render(Colours::of_stderr());
            let _ = std::io::stderr().write_all(text.as_bytes());
            Exit::Refused
        }
    }
}

fn holds(settings: &Settings) -> String {
    let count = |number: usize, one: &str| match number {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    };
    let chairs = count(settings.chairs.len(), "chair");
    let upstreams = count(settings.upstreams.len(), "upstream");
    format!("{}: no mistake; {chairs}, {upstreams}\n", settings.file.display())
}

fn explained(settings: &Settings) -> String {
    match config::explain(settings) {
        none if none.is_empty() => String::from("no chair names a device map, so there is none to explain\n"),
        text => format!("\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn check(path: PathBuf) -> Exit {
        run(CheckArgs { config: ConfigFile { path }, explain: true })
    }

    #[test]
    fn the_shipped_configuration_holds_and_a_missing_one_is_refused() {
        let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml"));
        assert_eq!(check(shipped.clone()), Exit::Ok);
        assert_eq!(check(shipped.with_file_name("nothing.toml")), Exit::Refused);
    }
}
