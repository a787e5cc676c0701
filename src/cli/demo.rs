//! `chairside demo`: everything at once on this machine, then a verdict.

mod show;

use super::{Exit, complain};
use crate::sim::demo::{self, DemoError};
use crate::sim::report::Verdict;
use crate::sim::scenario::SHORTEST;
use crate::sim::stage::{Plan, Stage};
use crate::telemetry;
use show::Show;
use std::io::Write as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// How many simulated machines.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=96))]
    chairs: u16,
    /// How long the scenario takes, in seconds; delivering the rest and the verdict come after it.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(SHORTEST.as_secs() as i64..=86_400))]
    seconds: u32,
    /// How much faster than life the machines live and are asked.
    #[arg(long, value_name = "X", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=60))]
    speed: u32,
    /// For how many seconds the receiver is cut off.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    outage: u32,
    /// Print nothing but the verdict, as JSON.
    #[arg(long)]
    json: bool,
    /// Log to standard error: error, warn, info, debug or trace; or a filter.
    #[arg(long, value_name = "FILTER", env = "CHAIRSIDE_LOG")]
    log: Option<String>,
}

pub(super) fn run(args: DemoArgs) -> Exit {
    if let Some(filter) = &args.log
        && let Err(refusal) = telemetry::start(filter)
    {
        return complain(&telemetry::chain(&refusal), Exit::Usage);
    }
    let plan = Plan {
        chairs: usize::from(args.chairs),
        length: Duration::from_secs(u64::from(args.seconds)),
        speed: args.speed,
        outage: Duration::from_secs(u64::from(args.outage)),
    };
    let json = args.json;
    super::block_on(async move {
        match play(plan, json).await {
            Ok(verdict) => tell(&verdict, json),
            Err(error @ DemoError::Interrupted) => complain(&telemetry::chain(&error), Exit::No),
            Err(error) => complain(&telemetry::chain(&error), Exit::Fault),
        }
    })
}

async fn play(plan: Plan, json: bool) -> Result<Verdict, DemoError> {
    let stage = Stage::set(&plan).await?;
    let mut show = Show::new(json, &plan, &stage);
    let verdict = demo::play(&stage, &plan, |view| show.look(view), told_to_stop()).await;
    show.end();
    verdict
}

fn tell(verdict: &Verdict, json: bool) -> Exit {
    let text = if json {
        match serde_json::to_string_pretty(verdict) {
            Ok(text) => text + "\n",
            Err(error) => return complain(&format!("write the verdict: {error}"), Exit::Fault),
        }
    } else {
        show::verdict(verdict)
    };
    // A closed terminal is no reason to fail louder than the verdict itself.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    if verdict.agrees { Exit::Ok } else { Exit::No }
}

/// Completes at the first Ctrl-C or SIGTERM, so that the stage's folder is removed in each case.
async fn told_to_stop() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        // Without them the demo ends by itself all the same.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
