//! A Nikkiso DBB-27C at the end of a pseudo-terminal, built from the public frame and from nothing of the drivers.

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The body of the public frame: in treatment, before its first blood pressure.
pub(crate) const PUBLIC_BODY: &str = "A02.50B00.68C00.80D00250E002.0F036.5G014.4H 0170I 0153J 0061K00054L00500a0b0c0d0e0f0g0h0\
                               M1N0O00.00P00.00Q00.00R000.0S000/00T0000/U0000/V0000/i0";

/// What the machine shows.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    pub(crate) in_treatment: bool,
    pub(crate) elapsed_min: u16,
    pub(crate) venous: u16,
    /// Time digits, systolic, diastolic, pulse.
    pub(crate) pressure: Option<(u32, u16, u16, u16)>,
    /// The dialysate flow counts the answers, so that each is like no other.
    pub(crate) counts: Option<u32>,
    /// Its alarm on the venous pressure is on.
    pub(crate) alarm: bool,
    /// It does not answer.
    pub(crate) mute: bool,
    /// It is another model, which answers with this body and this format digit.
    pub(crate) other: Option<(char, String)>,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            in_treatment: true,
            elapsed_min: 54,
            venous: 170,
            pressure: None,
            counts: None,
            alarm: false,
            mute: false,
            other: None,
        }
    }
}

impl Screen {
    /// One answer, with its length and its check.
    pub(crate) fn frame(&self) -> Vec<u8> {
        if let Some((format, body)) = &self.other {
            return framed(*format, body);
        }
        let mut body = PUBLIC_BODY
            .replace("K00054", &format!("K{:05}", self.elapsed_min))
            .replace("H 0170", &format!("H {:04}", self.venous))
            .replace("M1", if self.in_treatment { "M1" } else { "M0" });
        if self.alarm {
            body = body.replace("b0c0", "b0c1");
        }
        if let Some(count) = self.counts {
            body = body.replace("L00500", &format!("L{count:05}"));
        }
        if let Some((time, systolic, diastolic, pulse)) = self.pressure {
            body = body
                .replace("S000/00", &format!("S{time:06}"))
                .replace("T0000/", &format!("T{systolic:05}"))
                .replace("U0000/", &format!("U{diastolic:05}"))
                .replace("V0000/", &format!("V{pulse:05}"));
        }
        framed('2', &body)
    }
}

fn framed(format: char, body: &str) -> Vec<u8> {
    let mut frame = format!("K{format}{:03}{body}", body.len());
    let check = frame.bytes().fold(0_u8, u8::wrapping_add);
    frame.push_str(&format!("{check:02x}\r\n"));
    frame.into_bytes()
}

/// The machine; dropping it pulls the cable.
pub(crate) struct Machine {
    pub(crate) port: PathBuf,
    pub(crate) model: &'static str,
    screen: Arc<Mutex<Screen>>,
    _cable: mpsc::Sender<()>,
}

impl Machine {
    pub(crate) fn start(screen: Screen) -> Self {
        Self::of_model("nikkiso_dbb27c", screen)
    }

    /// A machine of this K-poll model.
    pub(crate) fn of_model(model: &'static str, screen: Screen) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let port = PathBuf::from(ptsname(&master, Vec::new()).unwrap().into_string().unwrap());
        let mut raw = tcgetattr(&master).unwrap();
        raw.make_raw();
        tcsetattr(&master, OptionalActions::Now, &raw).unwrap();
        let flags = rustix::fs::fcntl_getfl(&master).unwrap();
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).unwrap();
        let screen = Arc::new(Mutex::new(screen));
        let (cable, pulled) = mpsc::channel();
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || answer(&master, &shown, &pulled));
        Self { port, model, screen, _cable: cable }
    }

    /// Changes what the machine shows.
    pub(crate) fn show(&self, change: impl FnOnce(&mut Screen)) {
        change(&mut self.screen.lock().unwrap());
    }
}

fn answer(master: &OwnedFd, screen: &Mutex<Screen>, pulled: &mpsc::Receiver<()>) {
    let mut asked = Vec::new();
    // The channel's only message is its end: the test dropped the machine.
    while pulled.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
        let mut bytes = [0; 64];
        match rustix::io::read(master, &mut bytes) {
            Ok(count) => asked.extend_from_slice(&bytes[..count]),
            // Nothing asked, or nobody has the other end open: the machine stands there and waits.
            Err(Errno::AGAIN | Errno::IO) => {}
            Err(other) => panic!("read the pseudo-terminal: {other}"),
        }
        while let Some(end) = asked.windows(3).position(|window| window == b"K\r\n") {
            asked.drain(..end + 3);
            let mut screen = screen.lock().unwrap();
            screen.counts = screen.counts.map(|count| count + 1);
            if !screen.mute {
                // A gateway that died in the middle leaves the rest unread.
                let _ = rustix::io::write(master, &screen.frame());
            }
        }
    }
}

/// Holds the frame builder against the public frame: LEN 143, CK 3b.
#[test]
fn the_public_frame_is_built_byte_for_byte() {
    let frame = String::from_utf8(Screen::default().frame()).unwrap();
    assert_eq!(frame, format!("K2143{PUBLIC_BODY}3b\r\n"));
}
