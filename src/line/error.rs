//! What can go wrong with a serial port, and what to do about it. No error carries a byte of the wire.

use crate::line::gate::Refusal;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line that cannot be opened, or is not open any more.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Nothing is there.
    #[error("open {}: there is no such port; `ls /dev/serial/by-path` shows what is plugged in", port.display())]
    NoPort {
        /// The port.
        port: PathBuf,
    },
    /// We may not.
    #[error(
        "open {}: permission denied; add the user of this process to the group that owns the port (`ls -l {}`, \
         on Debian `usermod -aG dialout USER`) and start it again", port.display(), port.display()
    )]
    Permission {
        /// The port.
        port: PathBuf,
    },
    /// Somebody else has it.
    #[error("open {}: another program holds it ({}); stop that program or unplug it from this chair", port.display(), holder.as_deref().unwrap_or("`fuser` as root tells which"))]
    Busy {
        /// The port.
        port: PathBuf,
        /// Which program and process, where we are allowed to see it.
        holder: Option<String>,
    },
    /// A file, a folder, a device that is no serial port.
    #[error("open {}: this is no serial port; `ls /dev/serial/by-path` shows those there are", port.display())]
    NotATty {
        /// The port.
        port: PathBuf,
    },
    /// The port does not take the speed or the framing.
    #[error("set {} to {settings}: the adapter does not take it", port.display())]
    Settings {
        /// The port.
        port: PathBuf,
        /// `9600 8N1`.
        settings: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Anything else the system says on opening.
    #[error("open {}", port.display())]
    Open {
        /// The port.
        port: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It was open and is gone: the cable or the adapter was pulled out.
    #[error("{}: the port is gone; check cable and adapter", port.display())]
    Gone {
        /// The port.
        port: PathBuf,
        /// What the system said; nothing for a read of zero bytes.
        #[source]
        cause: Option<io::Error>,
    },
    /// It took no bytes in time.
    #[error("{}: the port took no bytes for {} s; unplug the adapter and plug it in again", port.display(), limit.as_secs())]
    Stuck {
        /// The port.
        port: PathBuf,
        /// How long we waited.
        limit: Duration,
    },
    /// The transmit gate closed the port.
    #[error("{}: closed by the transmit gate; this is a fault of the driver, report it", port.display())]
    Forbidden {
        /// The port.
        port: PathBuf,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The driver never came to rest.
    #[error("{}: the driver gave more than {outputs} outputs in a row; this is a fault of the driver, report it", port.display())]
    Restless {
        /// The port.
        port: PathBuf,
        /// The limit.
        outputs: usize,
    },
}

impl LineError {
    /// A stable word for logs, `status` and metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoPort { .. } => "no port",
            Self::Permission { .. } => "permission denied",
            Self::Busy { .. } => "busy",
            Self::NotATty { .. } => "not a serial port",
            Self::Settings { .. } => "settings refused",
            Self::Open { .. } => "cannot be opened",
            Self::Gone { .. } => "gone",
            Self::Stuck { .. } => "stuck",
            Self::Forbidden { .. } => "closed by the transmit gate",
            Self::Restless { .. } => "driver fault",
        }
    }

    /// Whether opening the port again can help. A fault of the driver is still there after that.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        !matches!(self, Self::Forbidden { .. } | Self::Restless { .. })
    }

    pub(crate) fn gone(port: &Path, cause: Option<io::Error>) -> Self {
        Self::Gone { port: port.to_owned(), cause }
    }

    pub(crate) fn forbidden(port: &Path, refusal: Refusal) -> Self {
        Self::Forbidden { port: port.to_owned(), refusal }
    }
}
