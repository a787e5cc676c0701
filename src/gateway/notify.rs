//! What the service manager is told: ready, alive, stopping, and one line of status.

use sd_notify::NotifyState;
use std::time::Duration;

/// Whom to tell about readiness and life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notify {
    /// Nobody: `demo` and tests.
    #[default]
    Nobody,
    /// The service manager, where `NOTIFY_SOCKET` names one.
    ServiceManager,
}

impl Notify {
    /// Not ready yet, and it may take this much longer.
    pub(super) fn starting(self, longer: Duration) {
        let micros = u32::try_from(longer.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status("reading the spool")]);
    }

    /// The spool is open and each line was tried.
    pub(super) fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Every wave makes progress.
    pub(super) fn alive(self, status: &str) {
        self.tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
    }

    /// Told to stop.
    pub(super) fn stopping(self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping: the spool is being closed")]);
    }

    /// How often the service manager wants to hear from us at least; `None` where it does not watch.
    pub(super) fn watchdog(self) -> Option<Duration> {
        match self {
            Self::Nobody => None,
            Self::ServiceManager => sd_notify::watchdog_enabled(),
        }
    }

    fn tell(self, state: &[NotifyState<'_>]) {
        if self == Self::ServiceManager
            && let Err(refusal) = sd_notify::notify(state)
        {
            tracing::warn!(error = %refusal, "tell the service manager");
        }
    }
}
