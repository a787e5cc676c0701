//! `chairside seat` and `chairside unseat`: who sits where. The record number comes from standard input, never from the
//! command line, where other users of this computer could read it.

use super::{ConfigFile, Exit, complain, control_socket};
use crate::control::client::AskError;
use crate::control::{Answer, Correct, RefusalCode, client};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Read, Stdin, Write as _};
use zeroize::Zeroizing;

/// No record number is longer than this many bytes.
const LONGEST: usize = 128;

/// Arguments of `seat`.
#[derive(Debug, clap::Args)]
pub(super) struct SeatArgs {
    /// The chair, as the configuration names it.
    chair: String,
    /// The running treatment was seated wrongly: bind it to this patient from its start.
    #[arg(long)]
    correct: bool,
    #[command(flatten)]
    config: ConfigFile,
}

/// Arguments of `unseat`.
#[derive(Debug, clap::Args)]
pub(super) struct UnseatArgs {
    /// The chair, as the configuration names it.
    chair: String,
    #[command(flatten)]
    config: ConfigFile,
}

/// Why no record number could be read. Never quotes what was typed.
#[derive(Debug, thiserror::Error)]
enum NumberError {
    #[error("no record number; type it, scan it, or pipe one line of it in")]
    Missing,
    #[error("a record number has at most {LONGEST} bytes on one line")]
    TooLong,
    #[error("the record number is not UTF-8 text")]
    NotText,
    #[error("given up; nobody was seated")]
    GivenUp,
    #[error("read the record number from standard input")]
    Read(#[from] io::Error),
}

pub(super) fn seat(args: SeatArgs) -> Exit {
    let socket = match control_socket(&args.config) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    let stdin = io::stdin();
    let number = if stdin.is_terminal() { prompted(&stdin) } else { line(&mut Raw(&stdin), Typed::Piped) };
    let number = match number {
        Ok(number) => number,
        Err(refusal) => return complain(&crate::telemetry::chain(&refusal), Exit::No),
    };
    let correct = if args.correct { Correct::Yes } else { Correct::No };
    super::block_on(async { told(client::seat(&socket, &args.chair, number, correct).await) })
}

pub(super) fn unseat(args: UnseatArgs) -> Exit {
    match control_socket(&args.config) {
        Ok(socket) => super::block_on(async { told(client::unseat(&socket, &args.chair).await) }),
        Err(exit) => exit,
    }
}

fn told(answer: Result<Answer, AskError>) -> Exit {
    match answer {
        Ok(Answer::Done { said }) => super::print(&said),
        Ok(Answer::Refused { why, code: RefusalCode::NotNow }) => complain(&why, Exit::NotReady),
        Ok(Answer::Refused { why, .. }) => complain(&why, Exit::No),
        Ok(Answer::Status { .. } | Answer::Spool { .. } | Answer::Gaps { .. }) => {
            complain("the gateway answered something else", Exit::Fault)
        }
        Err(refusal) => complain(&crate::telemetry::chain(&refusal), refusal.exit()),
    }
}

/// How the bytes come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Typed {
    /// Key by key, with the terminal's own editing off: control characters are ours to understand.
    Keys,
    /// As a line.
    Piped,
}

/// Asks on the terminal without showing what is typed. A scanner that types for the user works the same way.
fn prompted(stdin: &Stdin) -> Result<Zeroizing<String>, NumberError> {
    let shown = tcgetattr(stdin).map_err(io::Error::from)?;
    let _restored = Restored(stdin, shown.clone());
    let mut hidden = shown;
    // Signals are off too: a Ctrl-C must give the terminal back its echo first.
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
    hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(stdin, OptionalActions::Flush, &hidden).map_err(io::Error::from)?;
    let _ = write!(io::stderr(), "Record number (not shown): ");
    let number = line(&mut Raw(stdin), Typed::Keys);
    let _ = writeln!(io::stderr());
    number
}

/// Standard input without the library's buffer, which nobody wipes.
struct Raw<'a>(&'a Stdin);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

/// Gives the terminal back as it was found.
struct Restored<'a>(&'a Stdin, Termios);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, OptionalActions::Now, &self.1);
    }
}

/// One line. Read byte by byte, so that nothing of it stays behind in a buffer that is not wiped.
fn line(input: &mut impl Read, typed: Typed) -> Result<Zeroizing<String>, NumberError> {
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        if input.read(byte.as_mut())? == 0 {
            break;
        }
        match (typed, byte[0]) {
            (_, b'\r' | b'\n') => break,
            (Typed::Keys, 0x03 | 0x04) => return Err(NumberError::GivenUp),
            (Typed::Keys, 0x08 | 0x7f) => {
                text.pop();
            }
            (_, other) if text.len() < LONGEST => text.push(other),
            _ => return Err(NumberError::TooLong),
        }
    }
    let text = std::str::from_utf8(&text).map_err(|_| NumberError::NotText)?;
    if text.trim().is_empty() {
        return Err(NumberError::Missing);
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piped(bytes: &[u8]) -> Result<String, String> {
        let read = line(&mut &bytes[..], Typed::Piped);
        read.map(|text| text.as_str().to_owned()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_first_line_is_the_number() {
        assert_eq!(piped(b" 4711 \r\nsecond"), Ok("4711".to_owned()));
        assert_eq!(piped(b"4711"), Ok("4711".to_owned()));
    }

    #[test]
    fn what_is_no_number_is_refused_without_quoting_it() {
        assert!(piped(b"").unwrap_err().contains("no record number"));
        assert!(piped(b"  \n").unwrap_err().contains("no record number"));
        assert!(piped(&[b'7'; LONGEST + 1]).unwrap_err().contains("at most 128"));
        assert!(!piped(b"Mustermann\xff\n").unwrap_err().contains("Muster"));
    }

    #[test]
    fn keys_can_be_taken_back_and_the_question_left() {
        let typed = |bytes: &[u8]| line(&mut &bytes[..], Typed::Keys).map(|text| text.as_str().to_owned());
        assert_eq!(typed(b"472\x7f11\n").unwrap(), "4711");
        assert!(matches!(typed(b"47\x03"), Err(NumberError::GivenUp)));
    }
}
