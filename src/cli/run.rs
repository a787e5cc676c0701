//! `chairside run`: the daemon.

use super::{ConfigFile, Exit, complain};
use crate::config::Colours;
use crate::gateway::{self, Notify, RunOptions};
use crate::telemetry;
use std::io::Write as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    if let Err(refusal) = telemetry::start(&args.log) {
        return complain(&telemetry::chain(&refusal), Exit::Usage);
    }
    // Before anything is touched: a configuration that is refused changes nothing.
    let settings = match crate::config::load(&args.config.path) {
        Ok(settings) => settings,
        Err(report) => {
            let _ = std::io::stderr().write_all(report.render(Colours::of_stderr()).as_bytes());
            return Exit::Refused;
        }
    };
    super::block_on(async {
        let shutdown = match told_to_stop() {
            Ok(shutdown) => shutdown,
            Err(refusal) => return complain(&format!("listen for signals: {refusal}"), Exit::Fault),
        };
        // What a rehearsal left that was killed takes room from the spool.
        let _ = crate::sim::outage::sweep(&settings.gateway.state_dir);
        let options = RunOptions { notify: Notify::ServiceManager, ..RunOptions::default() };
        match gateway::run(settings, options, shutdown).await {
            Ok(()) => Exit::Ok,
            Err(refusal) => {
                let exit = refusal.exit();
                tracing::error!(exit = exit.code(), error = telemetry::chain(&refusal), "the gateway ended");
                exit
            }
        }
    })
}

/// Completes at the first SIGTERM or SIGINT. A SIGHUP asks for a new configuration, which takes a restart.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                () = came(&mut terminate) => return,
                () = came(&mut interrupt) => return,
                () = came(&mut hangup) => {
                    tracing::warn!("a changed configuration is not read while running; `chairside check` it and restart");
                }
            }
        }
    })
}

async fn came(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
