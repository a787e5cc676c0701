//! Other ways to start the gateway, under strace and with a clock on it, and one to halt it.

use crate::gateway::{Home, PATIENCE, Running};
use rustix::process::Signal;
use std::process::{Command, Stdio};
use std::time::Duration;

impl Home {
    /// Starts the daemon under strace with these words; nothing where there is no strace. Signals go to the daemon.
    pub(crate) fn start_traced(&self, log: &str, words: &[&str]) -> Option<Running> {
        let run = self.command(&["run", "--log", log]);
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null"]).args(words).arg("--");
        strace.arg(run.get_program()).args(run.get_args());
        strace.env_remove("CHAIRSIDE_LOG").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        if let Err(error) = Command::new("strace").arg("-V").stdout(Stdio::null()).status() {
            println!("not tested here: strace cannot be run ({error}); packaging/ci.sh installs it");
            assert!(std::env::var_os("CHAIRSIDE_GATE").is_none(), "the gate has strace");
            return None;
        }
        Some(Running::of(strace))
    }

    /// Starts the daemon, waits until it tells the service manager that it is ready, and says how long that took.
    #[expect(clippy::disallowed_methods, reason = "the time from exec to READY=1 is what is measured")]
    pub(crate) fn ready_in(&self, log: &str) -> (Running, Duration) {
        let path = self.dir.path().join("notify.sock");
        let _ = std::fs::remove_file(&path);
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let begun = std::time::Instant::now();
        let running = self.start_with(log, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        let mut told = [0; 4096];
        loop {
            let length = socket.recv(&mut told).unwrap_or_else(|error| {
                panic!("it was not ready: {error}\n{}", running.log().join("\n"));
            });
            if told[..length].windows(7).any(|word| word == b"READY=1") {
                return (running, begun.elapsed());
            }
        }
    }
}

impl Running {
    /// Stops it where it stands, and waits until each of its threads does: one that is in a system call ends that first.
    pub(crate) fn halt(&self) {
        self.signal(Signal::STOP);
        let stands = |thread: std::fs::DirEntry| {
            let about = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            about.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        };
        let threads = format!("/proc/{}/task", self.child.id());
        while !std::fs::read_dir(&threads).unwrap().flatten().all(stands) {
            std::thread::yield_now();
        }
    }
}
