//! The daemon's side of the control socket.

use super::{Answer, MAX_REQUEST, RefusalCode, Request};
use crate::audit::Caller;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Owner and group may ask; nobody else.
const MODE: u32 = 0o660;
/// Requests served at once; a caller beyond that waits.
const AT_ONCE: usize = 8;
/// A caller that has not asked, or not taken its answer, by then is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// What has no answer by then is refused; together with the time to ask this is less than a client waits.
const ANSWER: Duration = Duration::from_secs(15);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("open the control socket {}; `[gateway] control` names its place", path.display())]
pub struct ControlError {
    /// Where.
    path: PathBuf,
    /// What the operating system said.
    #[source]
    source: io::Error,
}

impl ControlError {
    /// Whether the operating system did not permit it.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Answers requests.
pub trait Desk: Send + Sync + 'static {
    /// Does what is asked. `None` stands for a request that could not be understood.
    fn answer(&self, caller: Caller, request: Option<Request>) -> impl Future<Output = Answer> + Send;
}

/// The open socket; its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Opens the socket. One that a dead process left behind is replaced; the caller holds the spool, so no living
    /// gateway of this state directory can own it.
    ///
    /// # Errors
    /// [`ControlError`] when the operating system refuses.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError { path: path.to_owned(), source };
        // Bound under another name and renamed, so that nobody can ask before the mode is set.
        let mut next = path.as_os_str().to_owned();
        next.push(".next");
        let next = PathBuf::from(next);
        match std::fs::remove_file(&next) {
            Err(refusal) if refusal.kind() != io::ErrorKind::NotFound => return Err(failed(refusal)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&next).map_err(failed)?;
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
        std::fs::rename(&next, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves callers for ever; to be dropped when the gateway stops.
    pub async fn serve(self, desk: Arc<impl Desk>) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    tokio::spawn(async move {
                        attend(stream, desk.as_ref()).await;
                        drop(place);
                    });
                }
                Err(refusal) => {
                    tracing::warn!(error = %refusal, "accept a caller at the control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Left behind it would be replaced at the next start; gone it says plainly that nobody is there.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn attend(mut stream: UnixStream, desk: &impl Desk) {
    let caller = Caller { uid: stream.peer_cred().ok().map(|cred| cred.uid()) };
    let request = match timeout(PATIENCE, read_line(&mut stream)).await {
        Ok(Ok(line)) => line.and_then(|line| Request::parse(&line)),
        Ok(Err(_)) | Err(_) => return,
    };
    let answer = timeout(ANSWER, desk.answer(caller, request)).await.unwrap_or_else(|_| {
        let why = "the gateway has not finished, its disk may hang; what was asked may still be done, so look at \
                   `chairside status` before you ask again";
        refused(RefusalCode::NotNow, why)
    });
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    // A caller that went away has its answer in the audit record.
    let _ = timeout(PATIENCE, stream.write_all(&line)).await;
}

/// One line of at most [`MAX_REQUEST`] bytes; `None` when there is no end to it.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Never grown, so that no copy of a record number stays behind in freed memory.
    let mut line = Zeroizing::new(vec![0; MAX_REQUEST]);
    let mut filled = 0;
    loop {
        let Some(space) = line.get_mut(filled..).filter(|space| !space.is_empty()) else { return Ok(None) };
        let count = stream.read(space).await?;
        if count == 0 {
            return Ok(None);
        }
        filled += count;
        if let Some(end) = line.iter().take(filled).position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok(Some(line));
        }
    }
}

/// A refusal with its reason.
#[must_use]
pub fn refused(code: RefusalCode, why: impl Into<String>) -> Answer {
    Answer::Refused { code, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Desk for Heard {
        async fn answer(&self, caller: Caller, request: Option<Request>) -> Answer {
            assert!(caller.uid.is_some());
            let word = request.as_ref().map_or("malformed", Request::word);
            self.0.lock().unwrap().push(word.to_owned());
            Answer::Done { said: word.to_owned() }
        }
    }

    async fn ask(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_caller_is_answered_and_nonsense_reaches_the_desk_as_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let desk = Arc::new(Heard::default());
        let socket = ControlSocket::open(&path).unwrap();
        let serving = tokio::spawn(socket.serve(Arc::clone(&desk)));
        assert_eq!(ask(&path, b"{\"do\":\"status\"}\n").await, "{\"done\":{\"said\":\"status\"}}\n");
        let endless = vec![b'x'; MAX_REQUEST];
        assert_eq!(ask(&path, &endless).await, "{\"done\":{\"said\":\"malformed\"}}\n");
        assert_eq!(ask(&path, b"no end").await, "{\"done\":{\"said\":\"malformed\"}}\n");
        assert_eq!(*desk.0.lock().unwrap(), ["status", "malformed", "malformed"]);
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_refused_and_not_left_without_an_answer() {
        struct Hangs;
        impl Desk for Hangs {
            async fn answer(&self, _: Caller, _: Option<Request>) -> Answer {
                std::future::pending().await
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let serving = tokio::spawn(ControlSocket::open(&path).unwrap().serve(Arc::new(Hangs)));
        let answer = ask(&path, b"{\"do\":\"status\"}\n").await;
        assert!(answer.starts_with("{\"refused\":{\"code\":\"not_now\""), "{answer}");
        serving.abort();
    }

    #[tokio::test]
    async fn only_owner_and_group_may_ask_and_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        std::mem::forget(ControlSocket::open(&path).unwrap());
        let again = ControlSocket::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(again);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_is_named_in_the_error() {
        let refused = ControlSocket::open(Path::new("/nowhere/control.sock")).unwrap_err();
        assert!(refused.to_string().contains("/nowhere/control.sock"));
    }
}
