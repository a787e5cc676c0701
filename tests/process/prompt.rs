//! The prompt for a record number at a terminal: nothing of it is shown, and the terminal is given back as it was.

use crate::gateway::{Home, Wishes};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::io::{BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Stdio};

struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave =
            open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Self { master, slave }
    }

    fn shows_what_is_typed(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Starts `seat` and waits for its question.
    fn seat(&self, home: &Home) -> (Child, BufReader<ChildStderr>) {
        let mut command = home.command(&["seat", "chair-1"]);
        command.stdin(self.slave.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut question = Vec::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !question.ends_with(b"(not shown): ") {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&question));
            question.push(byte[0]);
        }
        (child, stderr)
    }

    fn type_in(&self, keys: &[u8]) {
        assert_eq!(rustix::io::write(&self.master, keys).unwrap(), keys.len());
    }

    /// What the terminal showed so far.
    fn shown(self) -> Vec<u8> {
        drop(self.slave);
        let mut shown = Vec::new();
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = rustix::io::read(&self.master, &mut bytes) {
            shown.extend_from_slice(&bytes[..count]);
        }
        shown
    }
}

#[test]
fn a_typed_record_number_is_not_shown_and_the_terminal_is_given_back() {
    let (home, terminal) = (Home::new(&Wishes::default()), Terminal::open());
    let (mut child, _stderr) = terminal.seat(&home);
    assert!(!terminal.shows_what_is_typed());
    terminal.type_in(b"4712\x7f1\r");
    // Nobody answers, but the number was read.
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(terminal.shows_what_is_typed());
    let shown = terminal.shown();
    assert!(!shown.contains(&b'4'), "{}", String::from_utf8_lossy(&shown));
}

#[test]
fn ctrl_c_gives_the_terminal_back_and_seats_nobody() {
    let (home, terminal) = (Home::new(&Wishes::default()), Terminal::open());
    let (mut child, _stderr) = terminal.seat(&home);
    terminal.type_in(b"47\x03");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(terminal.shows_what_is_typed());
}
