//! The machine's end of a cable: a pseudo-terminal with a name in our own folder, so that it can be pulled and plugged in.

use crate::line::descriptor::register;
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An open cable. Dropping it pulls it out.
#[derive(Debug)]
pub struct Terminal {
    machine: AsyncFd<OwnedFd>,
    /// The gateway's end, held open so that the machine does not see the gateway come and go.
    _line: OwnedFd,
    link: PathBuf,
}

impl Terminal {
    /// Plugs a cable in: `link` is the port's name from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn plug(link: &Path) -> io::Result<Self> {
        let machine = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&machine)?;
        unlockpt(&machine)?;
        fcntl_setfl(&machine, OFlags::RDWR | OFlags::NONBLOCK)?;
        let name = ptsname(&machine, Vec::new())?;
        let line = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let mut settings = tcgetattr(&line)?;
        settings.make_raw();
        tcsetattr(&line, OptionalActions::Now, &settings)?;
        // Under another name first: a port is there or not, never half.
        let fresh = link.with_extension("new");
        symlink(name.to_string_lossy().as_ref(), &fresh)?;
        std::fs::rename(&fresh, link)?;
        let machine = register(machine, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { machine, _line: line, link: link.to_owned() })
    }

    /// Reads what the gateway sent: at least one byte.
    ///
    /// # Errors
    /// What the system says.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.machine
            .async_io(Interest::READABLE, |machine| Ok(rustix::io::read(machine, &mut *buffer)?))
            .await
    }

    /// Puts bytes on the wire. A wire keeps nothing for later: what the other end has no room for is lost, and the
    /// number of bytes that arrived says so.
    pub fn write(&self, bytes: &[u8]) -> usize {
        rustix::io::write(self.machine.get_ref(), bytes).unwrap_or(0)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Gone already when its folder is gone.
        let _ = std::fs::remove_file(&self.link);
    }
}
