//! Opening a real port: exclusive, every setting explicit, no flow control, and errors that say what to do.

use crate::line::error::LineError;
use crate::line::holder::holder;
use crate::line::listen::{self, ListenError, ListenPort};
use chairside_drivers::kit::driver::{Direction, LineSettings, Parity};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{ClearBuffer, ErrorKind, SerialPort as _, SerialStream};

/// Anything bytes can come from and go to: a tty, and in tests a pipe in virtual time.
pub trait Port: AsyncRead + AsyncWrite + Unpin + Send {
    /// Drops what has not left yet. Closing a tty waits up to 30 s for its last bytes, and a stuck one never sends them.
    fn abandon(&mut self) {}
}

impl Port for tokio::io::DuplexStream {}

impl Port for SerialPort {
    fn abandon(&mut self) {
        if let Self::Poll(port) = self {
            // Where this is refused the port is gone, and with it what it held.
            let _ = port.clear(ClearBuffer::Output);
        }
    }
}

/// An open tty or pseudo-terminal.
#[derive(Debug)]
pub enum SerialPort {
    /// For machines that are asked.
    Poll(Box<SerialStream>),
    /// For machines that speak by themselves.
    Listen(ListenPort),
}

/// Opens a port, locks it (`TIOCEXCL` and `flock`) and sets it.
///
/// # Errors
/// [`LineError`], saying what to do.
pub fn open(path: &Path, settings: LineSettings) -> Result<SerialPort, LineError> {
    look(path)?;
    match settings.direction {
        Direction::Poll => open_for_polling(path, settings),
        Direction::ListenOnly => {
            listen::open(path, settings).map(SerialPort::Listen).map_err(|error| match error {
                ListenError::Open(errno) => from_errno(path, errno),
                ListenError::Set(errno) => refused(path, settings, errno.into()),
                ListenError::Register(cause) => LineError::Open { port: path.to_owned(), cause },
            })
        }
    }
}

/// What can be told without opening anything: opening a serial port already moves its modem lines.
fn look(path: &Path) -> Result<(), LineError> {
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_char_device() => Ok(()),
        Ok(_) => Err(LineError::NotATty { port: path.to_owned() }),
        Err(cause) => Err(match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                LineError::NoPort { port: path.to_owned() }
            }
            io::ErrorKind::PermissionDenied => LineError::Permission { port: path.to_owned() },
            _ => LineError::Open { port: path.to_owned(), cause },
        }),
    }
}

fn open_for_polling(path: &Path, settings: LineSettings) -> Result<SerialPort, LineError> {
    // The builder takes text; a port whose name is no UTF-8 cannot come out of a TOML file either.
    let name = path.to_str().ok_or_else(|| LineError::NoPort { port: path.to_owned() })?;
    let builder = tokio_serial::new(name, settings.baud)
        .exclusive(true)
        .flow_control(tokio_serial::FlowControl::None)
        .data_bits(match settings.data_bits {
            5 => tokio_serial::DataBits::Five,
            6 => tokio_serial::DataBits::Six,
            7 => tokio_serial::DataBits::Seven,
            _ => tokio_serial::DataBits::Eight,
        })
        .parity(match settings.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Even => tokio_serial::Parity::Even,
            Parity::Odd => tokio_serial::Parity::Odd,
        })
        .stop_bits(if settings.stop_bits == 2 {
            tokio_serial::StopBits::Two
        } else {
            tokio_serial::StopBits::One
        });
    let stream = SerialStream::open(&builder).map_err(|error| match error.kind() {
        // The crate's word for both EBUSY and a lock that another program holds.
        ErrorKind::NoDevice => busy(path),
        ErrorKind::Io(io::ErrorKind::PermissionDenied) => LineError::Permission { port: path.to_owned() },
        ErrorKind::Io(io::ErrorKind::NotFound) => LineError::NoPort { port: path.to_owned() },
        ErrorKind::InvalidInput => refused(path, settings, error.into()),
        _ if !is_tty(path) => LineError::NotATty { port: path.to_owned() },
        _ => LineError::Open { port: path.to_owned(), cause: error.into() },
    })?;
    // What lay in the buffer was sent before anybody asked. A pseudo-terminal may refuse this; its buffer is new anyway.
    let _ = stream.clear(ClearBuffer::Input);
    Ok(SerialPort::Poll(Box::new(stream)))
}

fn from_errno(path: &Path, errno: Errno) -> LineError {
    let port = path.to_owned();
    match errno {
        Errno::BUSY => busy(path),
        Errno::ACCESS | Errno::PERM => LineError::Permission { port },
        Errno::NOENT | Errno::NODEV | Errno::NXIO => LineError::NoPort { port },
        Errno::NOTTY => LineError::NotATty { port },
        _ => LineError::Open { port, cause: errno.into() },
    }
}

fn busy(path: &Path) -> LineError {
    LineError::Busy { port: path.to_owned(), holder: holder(path) }
}

fn refused(path: &Path, settings: LineSettings, cause: io::Error) -> LineError {
    let parity = match settings.parity {
        Parity::None => 'N',
        Parity::Even => 'E',
        Parity::Odd => 'O',
    };
    let LineSettings { baud, data_bits, stop_bits, .. } = settings;
    LineError::Settings {
        port: path.to_owned(),
        settings: format!("{baud} {data_bits}{parity}{stop_bits}"),
        cause,
    }
}

/// Asked only after opening went wrong for a reason the serial crate does not name.
fn is_tty(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(device) => rustix::termios::isatty(device),
        Err(_) => true,
    }
}

impl AsyncRead for SerialPort {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Poll(port) => Pin::new(port.as_mut()).poll_read(context, buffer),
            Self::Listen(port) => Pin::new(port).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for SerialPort {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Poll(port) => Pin::new(port.as_mut()).poll_write(context, bytes),
            Self::Listen(port) => Pin::new(port).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Poll(port) => Pin::new(port.as_mut()).poll_flush(context),
            Self::Listen(port) => Pin::new(port).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Poll(port) => Pin::new(port.as_mut()).poll_shutdown(context),
            Self::Listen(port) => Pin::new(port).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Line;
    use rustix::fs::{Access, access};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use tokio::io::AsyncWriteExt;

    const SETTINGS: LineSettings = LineSettings {
        baud: 9600,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        direction: Direction::Poll,
    };

    fn terminal() -> (OwnedFd, PathBuf) {
        let machine = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&machine).unwrap();
        unlockpt(&machine).unwrap();
        let path = PathBuf::from(ptsname(&machine, Vec::new()).unwrap().to_str().unwrap());
        (machine, path)
    }

    fn settings(direction: Direction) -> LineSettings {
        LineSettings { direction, ..SETTINGS }
    }

    #[tokio::test]
    async fn a_missing_port_says_where_to_look() {
        let missing = open(Path::new("/dev/serial/by-path/none"), SETTINGS).unwrap_err();
        assert!(matches!(missing, LineError::NoPort { .. }));
        assert!(missing.to_string().contains("ls /dev/serial/by-path"), "{missing}");
    }

    #[tokio::test]
    async fn a_file_and_a_device_that_is_no_tty_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for direction in [Direction::Poll, Direction::ListenOnly] {
            let error = open(file.path(), settings(direction)).unwrap_err();
            assert!(matches!(error, LineError::NotATty { .. }), "{error:?}");
            let error = open(Path::new("/dev/null"), settings(direction)).unwrap_err();
            assert!(matches!(error, LineError::NotATty { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_busy_and_names_its_holder() {
        for direction in [Direction::Poll, Direction::ListenOnly] {
            let (_machine, path) = terminal();
            let _first = open(&path, settings(direction)).unwrap();
            let Err(LineError::Busy { holder, .. }) = open(&path, settings(direction)) else {
                panic!("opened a port twice");
            };
            assert!(holder.unwrap().ends_with(&format!("process {}", std::process::id())));
        }
    }

    #[tokio::test]
    async fn a_port_without_permission_says_what_to_do() {
        let (_machine, path) = terminal();
        rustix::fs::chmod(&path, Mode::empty()).unwrap();
        if access(&path, Access::READ_OK).is_ok() {
            // Root may do everything; the wording is checked all the same.
            let error = LineError::Permission { port: path };
            assert!(error.to_string().contains("dialout"));
            return;
        }
        let error = open(&path, SETTINGS).unwrap_err();
        assert!(matches!(error, LineError::Permission { .. }));
        assert!(error.to_string().contains("dialout"));
    }

    #[tokio::test]
    async fn every_byte_passes_an_open_port_unchanged() {
        let every: Vec<u8> = (0..=255).collect();
        for direction in [Direction::Poll, Direction::ListenOnly] {
            let (machine, path) = terminal();
            let mut line = Line::over(&path, direction, open(&path, settings(direction)).unwrap());
            rustix::io::write(&machine, &every).unwrap();
            let mut heard = Vec::new();
            let mut buffer = [0; 64];
            while heard.len() < every.len() {
                let count = line.read(&mut buffer).await.unwrap();
                heard.extend_from_slice(&buffer[..count]);
            }
            assert_eq!(heard, every);
        }
    }

    #[tokio::test]
    async fn the_kernel_refuses_a_write_to_a_listening_port() {
        let (_machine, path) = terminal();
        let mut port = open(&path, settings(Direction::ListenOnly)).unwrap();
        assert!(port.write_all(b"K").await.is_err());
        let SerialPort::Listen(port) = port else { panic!("opened for polling") };
        assert_eq!(rustix::io::write(port.descriptor(), b"K"), Err(Errno::BADF));
    }

    #[tokio::test]
    async fn a_closed_terminal_is_a_cable_out() {
        for direction in [Direction::Poll, Direction::ListenOnly] {
            let (machine, path) = terminal();
            let mut line = Line::over(&path, direction, open(&path, settings(direction)).unwrap());
            drop(machine);
            assert!(matches!(line.read(&mut [0; 8]).await, Err(LineError::Gone { .. })));
        }
    }

    #[tokio::test]
    async fn a_dropped_line_can_be_opened_again() {
        for direction in [Direction::Poll, Direction::ListenOnly] {
            let (_machine, path) = terminal();
            drop(open(&path, settings(direction)).unwrap());
            assert!(open(&path, settings(direction)).is_ok());
        }
    }
}
