//! A port for machines that speak by themselves: opened read-only, so the kernel refuses writes too.

use crate::line::descriptor::register;
use chairside_drivers::kit::driver::{LineSettings, Parity};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, ioctl_tiocexcl, ioctl_tiocnxcl,
    tcflush, tcgetattr, tcsetattr,
};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A tty that can only be read.
#[derive(Debug)]
pub struct ListenPort(AsyncFd<OwnedFd>);

/// Opens, locks and sets a tty without the right to write to it.
pub(super) fn open(path: &Path, settings: LineSettings) -> Result<ListenPort, ListenError> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tty = rustix::fs::open(path, flags, Mode::empty()).map_err(ListenError::Open)?;
    ioctl_tiocexcl(&tty).map_err(ListenError::Open)?;
    flock(&tty, FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| ListenError::Open(if errno == Errno::WOULDBLOCK { Errno::BUSY } else { errno }))?;
    let mut termios = tcgetattr(&tty).map_err(ListenError::Open)?;
    set(&mut termios, settings).map_err(ListenError::Set)?;
    tcsetattr(&tty, OptionalActions::Now, &termios).map_err(ListenError::Set)?;
    tcflush(&tty, QueueSelector::IFlush).map_err(ListenError::Set)?;
    register(tty, Interest::READABLE).map(ListenPort).map_err(ListenError::Register)
}

#[cfg(test)]
impl ListenPort {
    /// For the test that tries to write behind our back.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}

/// At which step it went wrong; `port::open` words it.
#[derive(Debug)]
pub(super) enum ListenError {
    Open(Errno),
    Set(Errno),
    Register(io::Error),
}

fn set(termios: &mut Termios, settings: LineSettings) -> Result<(), Errno> {
    termios.make_raw();
    termios.set_speed(settings.baud)?;
    let modes = &mut termios.control_modes;
    modes.insert(ControlModes::CREAD | ControlModes::CLOCAL);
    modes.remove(
        ControlModes::CSIZE
            | ControlModes::CSTOPB
            | ControlModes::PARENB
            | ControlModes::PARODD
            | ControlModes::CRTSCTS,
    );
    modes.insert(match settings.data_bits {
        5 => ControlModes::CS5,
        6 => ControlModes::CS6,
        7 => ControlModes::CS7,
        _ => ControlModes::CS8,
    });
    modes.insert(match settings.parity {
        Parity::None => ControlModes::empty(),
        Parity::Even => ControlModes::PARENB,
        Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
    });
    if settings.stop_bits == 2 {
        modes.insert(ControlModes::CSTOPB);
    }
    // One byte is enough to wake a reader; no timer between bytes.
    termios.special_codes[SpecialCodeIndex::VMIN] = 1;
    termios.special_codes[SpecialCodeIndex::VTIME] = 0;
    Ok(())
}

impl Drop for ListenPort {
    fn drop(&mut self) {
        // A pseudo-terminal stays exclusive as long as its other end lives, also after we have closed ours.
        let _ = ioctl_tiocnxcl(self.0.get_ref());
    }
}

impl AsyncRead for ListenPort {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match ready.try_io(|tty| Ok(rustix::io::read(tty.get_ref(), space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(cause)) => return Poll::Ready(Err(cause)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for ListenPort {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
