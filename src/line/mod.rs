//! Serial lines: the only place that opens a tty, and the only door through which bytes reach a machine.
//!
//! A [`Line`] reads whatever comes and writes only what its [`Gate`] lets through. It knows no protocol and keeps no
//! time; `poll` owns both.

pub(crate) mod descriptor;
pub mod error;
pub mod gate;
mod holder;
mod listen;
pub mod port;

pub use error::LineError;
pub use gate::{Gate, Refusal};
pub use port::{Port, SerialPort};

use chairside_drivers::kit::driver::{Direction, Request};
use chairside_drivers::kit::time::Tick;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A request is at most a few dozen bytes; a port that does not take them in this time is stuck.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// One open line to one machine.
#[derive(Debug)]
pub struct Line<P> {
    path: PathBuf,
    direction: Direction,
    /// `None` once the line is closed: by a cable pulled out, a stuck port, or the gate.
    port: Option<P>,
}

impl<P: Port> Line<P> {
    /// A line over a port that is already open; [`port::open`] opens the real ones.
    #[must_use]
    pub fn over(path: &Path, direction: Direction, port: P) -> Self {
        Self { path: path.to_owned(), direction, port: Some(port) }
    }

    /// Reads what the machine sent: at least one byte. Losing this future loses no byte.
    ///
    /// # Errors
    /// [`LineError::Gone`] when the cable or the adapter is gone; the line is closed then.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LineError> {
        let Some(port) = self.port.as_mut() else { return Err(LineError::gone(&self.path, None)) };
        match port.read(buffer).await {
            // A tty without its other end answers every read with zero bytes, at once and for ever.
            Ok(0) => Err(self.closed(None)),
            Ok(count) => Ok(count),
            Err(cause) => Err(self.closed(Some(cause))),
        }
    }

    /// Sends one request, if the gate lets it through. To be driven to its end: half a request is noise to a machine.
    ///
    /// # Errors
    /// [`LineError::Forbidden`] when the gate refuses, [`LineError::Stuck`] and [`LineError::Gone`] when the port does
    /// not take it. The line is closed in each case.
    pub async fn send(&mut self, gate: &mut Gate, now: Tick, request: &Request) -> Result<(), LineError> {
        if self.direction == Direction::ListenOnly {
            self.port = None;
            return Err(LineError::forbidden(&self.path, Refusal::ListenOnly));
        }
        if let Err(refusal) = gate.pass(request, now) {
            self.port = None;
            return Err(LineError::forbidden(&self.path, refusal));
        }
        let Some(port) = self.port.as_mut() else { return Err(LineError::gone(&self.path, None)) };
        // No flush: on a tty it would block the whole thread until the last bit has left.
        match tokio::time::timeout(WRITE_LIMIT, port.write_all(request.bytes())).await {
            Ok(Ok(())) => {
                gate.sent(request);
                Ok(())
            }
            Ok(Err(cause)) => Err(self.closed(Some(cause))),
            Err(_) => {
                port.abandon();
                self.port = None;
                Err(LineError::Stuck { port: self.path.clone(), limit: WRITE_LIMIT })
            }
        }
    }

    /// Whether the port is still open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.port.is_some()
    }

    fn closed(&mut self, cause: Option<std::io::Error>) -> LineError {
        self.port = None;
        LineError::gone(&self.path, cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chairside_drivers::kit::driver::{Effect, RequestSpec};
    use std::borrow::Cow;
    use tokio::io::{DuplexStream, duplex};

    fn spec(bytes: &'static [u8]) -> RequestSpec {
        RequestSpec { name: "read", effect: Effect::Read, bytes: Cow::Borrowed(bytes), source: "test" }
    }

    fn line(direction: Direction) -> (Line<DuplexStream>, DuplexStream) {
        let (ours, machine) = duplex(256);
        (Line::over(Path::new("/dev/test"), direction, ours), machine)
    }

    #[tokio::test(start_paused = true)]
    async fn a_listed_request_reaches_the_wire_and_is_counted() {
        let (mut line, mut machine) = line(Direction::Poll);
        let mut gate = Gate::new(&[spec(b"K\r\n")], Duration::from_secs(1));
        line.send(&mut gate, Tick::ZERO, &spec(b"K\r\n").request()).await.unwrap();
        let mut heard = [0; 3];
        machine.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"K\r\n");
        assert_eq!(gate.counts().collect::<Vec<_>>(), [("read", 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unlisted_request_closes_the_line_and_sends_nothing() {
        let (mut line, mut machine) = line(Direction::Poll);
        let mut gate = Gate::new(&[spec(b"K\r\n")], Duration::from_secs(1));
        let refused = line.send(&mut gate, Tick::ZERO, &spec(b"SET\r\n").request()).await.unwrap_err();
        assert!(matches!(refused, LineError::Forbidden { refusal: Refusal::NotListed, .. }));
        assert!(!line.is_open());
        let mut heard = Vec::new();
        machine.read_to_end(&mut heard).await.unwrap();
        assert!(heard.is_empty());
        assert_eq!(gate.counts().collect::<Vec<_>>(), [("read", 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listen_only_line_sends_not_even_a_listed_request() {
        let (mut line, _machine) = line(Direction::ListenOnly);
        let mut gate = Gate::new(&[spec(b"K\r\n")], Duration::from_secs(1));
        let refused = line.send(&mut gate, Tick::ZERO, &spec(b"K\r\n").request()).await.unwrap_err();
        assert!(matches!(refused, LineError::Forbidden { refusal: Refusal::ListenOnly, .. }));
        assert!(!line.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_of_zero_bytes_is_a_cable_out() {
        let (mut line, machine) = line(Direction::Poll);
        drop(machine);
        assert!(matches!(line.read(&mut [0; 8]).await, Err(LineError::Gone { .. })));
        assert!(!line.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_takes_no_bytes_is_stuck_and_not_waited_for_for_ever() {
        let (ours, _machine) = duplex(1);
        let mut line = Line::over(Path::new("/dev/test"), Direction::Poll, ours);
        let mut gate = Gate::new(&[spec(b"K\r\n")], Duration::from_secs(1));
        let stuck = line.send(&mut gate, Tick::ZERO, &spec(b"K\r\n").request()).await.unwrap_err();
        assert!(matches!(stuck, LineError::Stuck { .. }));
        assert!(!line.is_open());
        assert_eq!(gate.counts().collect::<Vec<_>>(), [("read", 0)]);
    }
}
