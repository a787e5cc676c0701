//! `chairside outage`: what an outage would do to this ward, before it happens.

use super::{ConfigFile, Exit, complain};
use crate::config::{self, Colours};
use crate::sim::outage::report::Report;
use crate::sim::outage::{Plan, Progress, RehearsalError, rehearse};
use crate::telemetry;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write as _;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `outage`.
#[derive(Debug, clap::Args)]
pub(super) struct OutageArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, clap::Subcommand)]
enum Act {
    /// Play an outage of some hours beside the running gateway, and report how it would go.
    ///
    /// Measures how fast the spool fills today, plays so many hours of this ward's machines into a spool of its own in a
    /// temporary folder on the same disk, with a power cut in the middle, an expired certificate at the end and a disk
    /// that fills up, and drains it into a receiver on this computer. The live spool is not touched, and no patient's
    /// data is read.
    Rehearse(RehearseArgs),
}

#[derive(Debug, clap::Args)]
struct RehearseArgs {
    /// For how many hours nothing can be delivered.
    #[arg(long, value_name = "H", value_parser = hours)]
    hours: f64,
    /// At most so many times faster than life; without it, as fast as this computer can.
    #[arg(long, value_name = "X", value_parser = speed)]
    speed: Option<f64>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
    /// Log to standard error: error, warn, info, debug or trace; or a filter.
    #[arg(long, value_name = "FILTER", env = "CHAIRSIDE_LOG")]
    log: Option<String>,
}

fn hours(text: &str) -> Result<f64, String> {
    between(text, 0.1, 2_160.0).ok_or_else(|| "a number of hours from 0.1 to 2160, like 72".to_owned())
}

fn speed(text: &str) -> Result<f64, String> {
    between(text, 1.0, 1e6).ok_or_else(|| "a number from 1 to 1000000, like 600".to_owned())
}

fn between(text: &str, least: f64, most: f64) -> Option<f64> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

pub(super) fn run(args: OutageArgs) -> Exit {
    let Act::Rehearse(args) = args.act;
    if let Some(filter) = &args.log
        && let Err(refusal) = telemetry::start(filter)
    {
        return complain(&telemetry::chain(&refusal), Exit::Usage);
    }
    let settings = match config::load(&args.config.path) {
        Ok(settings) => settings,
        Err(report) => {
            let _ = std::io::stderr().write_all(report.render(Colours::of_stderr()).as_bytes());
            return Exit::Refused;
        }
    };
    let plan = Plan { hours: args.hours, speed: args.speed };
    let bar = Bar::new();
    super::block_on(async move {
        let stop = match told_to_stop() {
            Ok(stop) => stop,
            Err(refusal) => return complain(&format!("listen for signals: {refusal}"), Exit::Fault),
        };
        let mut look = |progress: &Progress| bar.look(progress);
        let ended = rehearse(&settings, &plan, &mut look, stop).await;
        bar.end();
        match ended {
            Ok(report) => tell(&report, args.json),
            Err(error) => complain(&telemetry::chain(&error), exit_of(&error)),
        }
    })
}

fn tell(report: &Report, json: bool) -> Exit {
    let text = if json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => text,
            Err(error) => return complain(&format!("write the report: {error}"), Exit::Fault),
        }
    } else {
        report.text().trim_end().to_owned()
    };
    super::print(&text);
    if report.holds { Exit::Ok } else { Exit::No }
}

const fn exit_of(error: &RehearsalError) -> Exit {
    match error {
        RehearsalError::NoChairs(_)
        | RehearsalError::NoState(_)
        | RehearsalError::NoRoom { .. }
        | RehearsalError::NoMemory { .. }
        | RehearsalError::Running(_)
        | RehearsalError::Crowded
        | RehearsalError::Interrupted => Exit::NotReady,
        RehearsalError::Folder { .. } => Exit::Disk,
        RehearsalError::Spool(refusal) => refusal.exit(),
        RehearsalError::Play(_)
        | RehearsalError::Keyring(_)
        | RehearsalError::Pki(_)
        | RehearsalError::Receiver(_)
        | RehearsalError::Thread(_)
        | RehearsalError::Broken(_)
        | RehearsalError::Name
        | RehearsalError::Ended
        | RehearsalError::NotPaused
        | RehearsalError::Stalled { .. } => Exit::Fault,
    }
}

/// Progress on standard error, where that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        // It draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg:40} [{bar:30}] {percent:>3} % {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    fn look(&self, progress: &Progress) {
        self.0.set_message(progress.act);
        self.0.set_length(progress.of.max(1));
        self.0.set_position(progress.done);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// Completes at the first Ctrl-C or SIGTERM, or when the terminal goes.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_speed_are_numbers_within_reason() {
        assert_eq!(hours("72"), Ok(72.0));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "a day"] {
            assert!(hours(wrong).is_err() && speed(wrong).is_err(), "{wrong}");
        }
        assert_eq!(speed("600"), Ok(600.0));
    }
}
