//! Why the gateway cannot start or stopped by itself, and what the service manager makes of it.

use crate::audit::AuditError;
use crate::control::server::ControlError;
use crate::exit::Exit;
use crate::privacy::keyring::KeyringError;
use crate::spool::SpoolError;
use crate::supervise::{Cause, Failure};
use std::io;
use std::path::PathBuf;

/// Why the gateway cannot start or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The state directory cannot be had.
    #[error("open the state directory {}; make it writable for this user, or name another as [gateway] state_dir", path.display())]
    StateDir {
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The keyring cannot be opened.
    #[error("open the keyring")]
    Keyring(#[source] KeyringError),
    /// The spool cannot be opened.
    #[error("open the spool")]
    Spool(#[source] SpoolError),
    /// The operating system gives no thread.
    #[error("start the spool's thread")]
    Thread(#[source] io::Error),
    /// The audit record cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Something failed that the gateway cannot do without.
    #[error("the gateway stopped")]
    Failed(#[source] Failure),
}

impl GatewayError {
    /// The exit code that tells the service manager what to do.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::StateDir { source, .. } => exit_of(source),
            Self::Keyring(refusal) => refusal.exit(),
            Self::Spool(refusal) => refusal.exit(),
            Self::Thread(_) => Exit::Fault,
            Self::Audit(refusal) => exit_of(&refusal.source),
            Self::Control(refusal) if refusal.is_permission() => Exit::NotPermitted,
            Self::Control(_) => Exit::NotReady,
            Self::Failed(failure) => match &failure.cause {
                Cause::Spool(refusal) => refusal.exit(),
                Cause::Keyring(refusal) => refusal.exit(),
                Cause::Panicked | Cause::Unasked => Exit::Fault,
            },
        }
    }
}

fn exit_of(refusal: &io::Error) -> Exit {
    match refusal.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::NotPermitted,
        _ => Exit::Disk,
    }
}
