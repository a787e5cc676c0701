//! The command's side of the control socket.

use super::spool::Ask;
use super::{Answer, Correct, Hidden, MAX_ANSWER, Wire};
use crate::exit::Exit;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// A daemon that has not answered by then is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error(
        "no gateway answers at {}; start it with `systemctl start chairside` or `chairside run`, \
         and name the same --config", .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error(
        "the control socket {} is not open to this user; ask as root or as a member of the group that owns it", .0.display()
    )]
    NotPermitted(PathBuf),
    /// The connection broke.
    #[error("ask the gateway at {}", path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It did not answer.
    #[error("the gateway at {} gave no answer; it may be stopping, or its disk may hang: its log says why", .0.display())]
    Silent(PathBuf),
    /// It answered something else.
    #[error("the gateway at {} answered what this program does not understand; are both of one version?", .0.display())]
    Foreign(PathBuf),
}

impl AskError {
    /// The exit code of a command that met it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotRunning(_) | Self::Broken { .. } | Self::Silent(_) => Exit::NotReady,
            Self::NotPermitted(_) => Exit::NotPermitted,
            Self::Foreign(_) => Exit::Fault,
        }
    }
}

/// Asks for everything on the board.
///
/// # Errors
/// [`AskError`] when the daemon cannot be asked.
pub async fn status(socket: &Path) -> Result<Answer, AskError> {
    ask(socket, &Wire::Status).await
}

/// Asks which polls are missing.
///
/// # Errors
/// [`AskError`] when the daemon cannot be asked.
pub async fn gaps(socket: &Path) -> Result<Answer, AskError> {
    ask(socket, &Wire::Gaps).await
}

/// Seats a patient.
///
/// # Errors
/// [`AskError`] when the daemon cannot be asked.
pub async fn seat(
    socket: &Path,
    chair: &str,
    record_number: Zeroizing<String>,
    correct: Correct,
) -> Result<Answer, AskError> {
    let (chair, record_number) = (chair.to_owned(), Hidden(record_number));
    let request = match correct {
        Correct::No => Wire::Seat { chair, record_number },
        Correct::Yes => Wire::Correct { chair, record_number },
    };
    ask(socket, &request).await
}

/// Ends the seat of a chair.
///
/// # Errors
/// [`AskError`] when the daemon cannot be asked.
pub async fn unseat(socket: &Path, chair: &str) -> Result<Answer, AskError> {
    ask(socket, &Wire::Unseat { chair: chair.to_owned() }).await
}

/// Asks something about the spool.
///
/// # Errors
/// [`AskError`] when the daemon cannot be asked.
pub async fn spool(socket: &Path, question: Ask) -> Result<Answer, AskError> {
    ask(socket, &Wire::Spool { ask: question }).await
}

async fn ask(socket: &Path, request: &Wire) -> Result<Answer, AskError> {
    match timeout(PATIENCE, exchange(socket, request)).await {
        // Cut off: it is stopping.
        Ok(Ok(answer)) if answer.is_empty() => Err(AskError::Silent(socket.to_owned())),
        Ok(Ok(answer)) => serde_json::from_slice(&answer).map_err(|_| AskError::Foreign(socket.to_owned())),
        Ok(Err(source)) => Err(match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AskError::NotRunning(socket.to_owned())
            }
            io::ErrorKind::PermissionDenied => AskError::NotPermitted(socket.to_owned()),
            _ => AskError::Broken { path: socket.to_owned(), source },
        }),
        Err(_) => Err(AskError::Silent(socket.to_owned())),
    }
}

async fn exchange(socket: &Path, request: &Wire) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = Zeroizing::new(Vec::with_capacity(super::MAX_REQUEST));
    serde_json::to_writer(&mut *line, request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER as u64).read_to_end(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Caller;
    use crate::control::Request;
    use crate::control::server::{ControlSocket, Desk};
    use std::sync::Arc;

    struct Echo;

    impl Desk for Echo {
        async fn answer(&self, _: Caller, request: Option<Request>) -> Answer {
            Answer::Done { said: format!("{request:?}") }
        }
    }

    #[tokio::test]
    async fn what_the_client_writes_the_daemon_understands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let serving = tokio::spawn(ControlSocket::open(&path).unwrap().serve(Arc::new(Echo)));
        let number = Zeroizing::new("47\"11\n".to_owned());
        let Answer::Done { said } = seat(&path, "chair-1", number, Correct::Yes).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            said,
            r#"Some(Seat { chair: "chair-1", record_number: Sensitive(hidden), correct: Yes })"#
        );
        let Answer::Done { said } = unseat(&path, "chair-2").await.unwrap() else { panic!("not done") };
        assert_eq!(said, r#"Some(Unseat { chair: "chair-2" })"#);
        serving.abort();
    }

    #[tokio::test]
    async fn the_board_comes_back_as_it_was() {
        use crate::status::{Chair, GatewayState, Line, Moment, Snapshot};
        struct Shows(Snapshot);
        impl Desk for Shows {
            async fn answer(&self, _: Caller, _: Option<Request>) -> Answer {
                Answer::Status { status: Box::new(self.0.clone()) }
            }
        }
        let chair = Chair {
            line: Line::Down { since: Moment(1_800_000_000_000_000), why: "no port".to_owned() },
            every_s: 0.05,
            ..Chair::sample("chair-1")
        };
        let board = Snapshot { state: GatewayState::Ready, chairs: vec![chair], ..Snapshot::default() };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let serving = tokio::spawn(ControlSocket::open(&path).unwrap().serve(Arc::new(Shows(board.clone()))));
        let Answer::Status { status: seen } = status(&path).await.unwrap() else { panic!("no board") };
        assert_eq!(*seen, board);
        serving.abort();
    }

    #[tokio::test]
    async fn a_gateway_that_stops_while_it_is_asked_exits_75_and_is_not_taken_for_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let stopping = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 64];
            assert!(stream.read(&mut line).await.unwrap() > 0);
        };
        let (asked, ()) = tokio::join!(status(&path), stopping);
        let refused = asked.unwrap_err();
        assert_eq!(refused.exit(), Exit::NotReady);
        assert!(refused.to_string().contains("gave no answer"), "{refused}");
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_exits_75_and_says_what_to_do() {
        let refused = status(Path::new("/nowhere/control.sock")).await.unwrap_err();
        assert_eq!(refused.exit(), Exit::NotReady);
        assert!(refused.to_string().contains("systemctl start chairside"));
    }
}
