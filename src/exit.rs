//! Exit codes: what a service manager and a script can learn from how the program ended.

use std::process::ExitCode;

/// How the program ended. The numbers are a promise to systemd units and to scripts (sysexits.h where it has one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: stopped when asked; a check that holds.
    Ok,
    /// 1: a check was made and the answer is no.
    No,
    /// 64: a command line that cannot be understood. Not restarted.
    Usage,
    /// 70: a fault of ours; the spool is consistent. Restarted.
    Fault,
    /// 74: the disk does not keep what it is given. Restarted.
    Disk,
    /// 75: something outside is not ready, or a second process holds the spool. Restarted.
    NotReady,
    /// 77: the root key or the state directory is not permitted to us. Not restarted.
    NotPermitted,
    /// 78: configuration or on-disk format refused. Not restarted.
    Refused,
}

impl Exit {
    /// The number handed to the operating system.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::No => 1,
            Self::Usage => 64,
            Self::Fault => 70,
            Self::Disk => 74,
            Self::NotReady => 75,
            Self::NotPermitted => 77,
            Self::Refused => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
