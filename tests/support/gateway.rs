//! The real binary with a state directory of its own, and what it says while it runs.

use crate::machine::Machine;
use crate::pki::Pki;
use crate::receiver::Receiver;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The longest wait for anything; far above what any step takes, so that only a fault reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration, its keys and a state directory.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
}

/// What a configuration says besides the usual.
pub(crate) struct Wishes<'a> {
    pub(crate) chairs: &'a [&'a Machine],
    pub(crate) receiver: Option<(&'a Receiver, &'a Pki)>,
    pub(crate) every: &'a str,
    pub(crate) unseated: &'a str,
    /// How often the receiver wants a reading.
    pub(crate) send_every: &'a str,
}

impl Default for Wishes<'_> {
    fn default() -> Self {
        Self { chairs: &[], receiver: None, every: "20ms", unseated: "machine", send_every: "poll" }
    }
}

impl Home {
    pub(crate) fn new(wishes: &Wishes<'_>) -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        let mut text = format!(
            "[gateway]\nname = \"ward-test\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\nunseated = \"{}\"\n\
             namespace = \"https://clinic.example/chairside\"\nenvironment = \"test\"\n\n\
             [keys]\nroot = {{ file = \"root.key\", created = true }}\n",
            wishes.unseated
        );
        for (number, machine) in wishes.chairs.iter().enumerate() {
            let number = number + 1;
            write!(
                text,
                "\n[[chair]]\nname = \"chair-{number}\"\nmachine = \"asset-{number}\"\ndriver = \"kpoll/{model}\"\n\
                 port = \"{}\"\nevery = \"{}\"\nmap = \"{model}.toml\"\n",
                machine.port.display(),
                wishes.every,
                model = machine.model
            )
            .unwrap();
        }
        if let Some((receiver, pki)) = wishes.receiver {
            home.write("ca.pem", &pki.ca);
            home.write("gateway.pem", &pki.gateway.certificate);
            home.write("gateway.key", &pki.gateway.key);
            write!(
                text,
                "\n[[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\nurl = \"https://127.0.0.1:{}/fhir\"\nca = \"ca.pem\"\n\
                 certificate = \"gateway.pem\"\nkey = {{ file = \"gateway.key\" }}\nenvironment = \"test\"\n\
                 send = {{ every = \"{}\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n",
                receiver.address.port(),
                wishes.send_every
            )
            .unwrap();
        }
        home.write("gateway.toml", &text);
        let devices = home.dir.path().join("devices");
        std::fs::create_dir(&devices).unwrap();
        let maps = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/devices");
        for map in std::fs::read_dir(maps).unwrap() {
            let map = map.unwrap();
            std::fs::copy(map.path(), devices.join(map.file_name())).unwrap();
        }
        home
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("gateway.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A command of the binary with this configuration.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chairside"));
        command.args(words).arg("--config").arg(self.config());
        command.env_remove("CHAIRSIDE_LOG").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command
    }

    /// Runs a command to its end with `input` on its standard input.
    pub(crate) fn ask(&self, words: &[&str], input: &str) -> (Option<i32>, String, String) {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that refuses its arguments reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Asks for the status page until it is as wanted: what a line told may take a commit to reach the board.
    pub(crate) fn until_page(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut page = String::new();
        for _ in 0..5000 {
            page = self.ask(&["status"], "").1;
            if wanted(&page) {
                return page;
            }
        }
        panic!("not on the page: {what}\n{page}");
    }

    /// Starts the daemon; does not wait for anything.
    pub(crate) fn start(&self, log: &str) -> Running {
        self.start_with(log, &[])
    }

    /// The same, with these variables in its environment.
    pub(crate) fn start_with(&self, log: &str, variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(&["run", "--log", log]);
        command.envs(variables.iter().copied());
        Running::of(command)
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn ready(&self, log: &str) -> Running {
        let running = self.start(log);
        running.until("ready", |line| line.contains(": ready "));
        running
    }
}

#[derive(Default)]
struct Heard {
    inner: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

/// The running daemon; killed when the test is over.
pub(crate) struct Running {
    pub(crate) child: Child,
    heard: Arc<Heard>,
}

impl Running {
    /// Starts this command and hears what it says.
    pub(crate) fn of(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let heard = Arc::new(Heard::default());
        let (lines, stderr) = (Arc::clone(&heard), BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in stderr.lines() {
                lines.inner.lock().unwrap().0.push(line.unwrap());
                lines.changed.notify_all();
            }
            lines.inner.lock().unwrap().1 = true;
            lines.changed.notify_all();
        });
        Running { child, heard }
    }

    /// Waits until `count` lines are as wanted, or until it has ended by itself, which it says.
    pub(crate) fn ended_before(&self, count: usize, wanted: impl Fn(&str) -> bool) -> bool {
        let enough = |lines: &[String]| lines.iter().filter(|line| wanted(line)).count() >= count;
        let guard = self.heard.inner.lock().unwrap();
        let (guard, limit) = self
            .heard
            .changed
            .wait_timeout_while(guard, PATIENCE, |(lines, ended)| !*ended && !enough(lines))
            .unwrap();
        assert!(!limit.timed_out(), "it neither ends nor goes on\n{}", guard.0.join("\n"));
        guard.1
    }

    /// Everything it said so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.heard.inner.lock().unwrap().0.clone()
    }

    /// Waits for a line.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        self.until_count(what, 1, wanted);
    }

    /// Waits until `count` lines are as wanted.
    pub(crate) fn until_count(&self, what: &str, count: usize, wanted: impl Fn(&str) -> bool) {
        self.ended_before(count, &wanted);
        let log = self.log();
        let enough = log.iter().filter(|line| wanted(line)).count() >= count;
        assert!(enough, "not said: {what}\n{}", log.join("\n"));
    }

    /// Lets it live for this long, or until it ends by itself: the instant of its death is what is tested.
    pub(crate) fn alive_for(&self, instant: Duration) {
        let guard = self.heard.inner.lock().unwrap();
        let lived = self.heard.changed.wait_timeout_while(guard, instant, |(_, ended)| !*ended).unwrap();
        assert!(lived.1.timed_out(), "it ended by itself\n{}", lived.0.0.join("\n"));
    }

    /// `kill -9`; returns when everything it said was heard.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and for the last line it said.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let guard = self.heard.inner.lock().unwrap();
        let (guard, limit) =
            self.heard.changed.wait_timeout_while(guard, PATIENCE, |(_, ended)| !*ended).unwrap();
        assert!(!limit.timed_out(), "it does not end\n{}", guard.0.join("\n"));
        drop(guard);
        self.child.wait().unwrap()
    }

    /// Told to stop, it ends well.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        let status = self.end();
        assert_eq!(status.code(), Some(0), "{}", self.log().join("\n"));
        self.log()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
