//! Transcripts of a line, `.wire` files: hex left, meaning right, to be checked by eye and by the tests.
//!
//! ```text
//! model kpoll/toray_tr321
//! # a remark
//! > 4B 0D 0A            | the gateway asks
//! < 4B 31 30 37 34      | K, n 1, LEN 074
//! < 41 30 31 2E 39 30   | A = 1.90 (UF goal, L)
//! ! junk leftover
//! ~ 3000 ms
//! = answered
//! ```
//!
//! `>` is what must be sent when a poll is due, `<` what the machine sends, `~` time that passes, `!` a trouble that
//! must have been told and `=` how the poll ended. Right of the bar, `channel = reading` is a sample that the poll must
//! give; anything else is a remark. Readings are a number with its digits, `code 0 HD` (with its name, where it has
//! one), `mark 00004`, `text SN-1` and `absent`; a remark in parentheses may follow.

use crate::kit::decimal::Decimal;
use crate::kit::driver::{ChannelId, FrameFault, Mark, ModelId, Outcome, Reading};
use crate::kit::sensitive::Sensitive;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// A parsed transcript.
#[derive(Debug)]
pub struct Transcript {
    /// The model whose driver reads it.
    pub model: ModelId,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One line of a transcript.
#[derive(Debug)]
pub struct Step {
    /// Its line number in the file, from 1.
    pub line: usize,
    /// What it says.
    pub event: Event,
}

/// What happens in one line of a transcript.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A poll is due and exactly this must be sent.
    Asks(Vec<u8>),
    /// The machine sends this.
    Sends(Vec<u8>),
    /// The poll must give this sample.
    Gives(ChannelId, Expected),
    /// Nothing happens for this long.
    Waits(Duration),
    /// Bytes must have been dropped for this reason.
    Drops(FrameFault),
    /// A whole answer must have come that nobody asked for.
    Unexpected,
    /// The poll must have ended so.
    Ends(Outcome),
}

/// An expected reading. The name of a code is not bound to the program's life time, so it is not a [`Reading`].
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// A number with exactly these digits.
    Number(Decimal),
    /// A code, and its name where it has one.
    Code(u32, Option<String>),
    /// A token.
    Mark(Mark),
    /// A text.
    Text(Sensitive<String>),
    /// No reading.
    Absent,
}

/// What is wrong with a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transcript line {line}: {what}")]
pub struct TranscriptError {
    /// The line, from 1.
    pub line: usize,
    /// What is expected there.
    pub what: &'static str,
}

impl Transcript {
    /// Reads a transcript.
    ///
    /// # Errors
    /// The first line that is none of those above, or a file that names no model.
    pub fn parse(text: &str) -> Result<Self, TranscriptError> {
        let mut model = None;
        let mut steps = Vec::new();
        for (line, written) in (1..).zip(text.lines()) {
            let wrong = |what| TranscriptError { line, what };
            let written = written.trim();
            if written.is_empty() || written.starts_with('#') {
                continue;
            }
            let (sort, rest) = written
                .split_once(' ')
                .ok_or(wrong("one of `model`, `>`, `<`, `~`, `!`, `=` and its text"))?;
            let rest = rest.trim();
            let events = match sort {
                "model" => {
                    model = Some(ModelId::from_owned(String::from(rest)));
                    continue;
                }
                ">" => {
                    (Event::Asks(hex(before_bar(rest)).ok_or(wrong("pairs of hexadecimal digits"))?), None)
                }
                "<" => (
                    Event::Sends(hex(before_bar(rest)).ok_or(wrong("pairs of hexadecimal digits"))?),
                    given(rest, line)?,
                ),
                "~" => (Event::Waits(millis(rest).ok_or(wrong("a time such as `3000 ms`"))?), None),
                "!" => (trouble(rest).ok_or(wrong("`junk <reason>` or `unexpected`"))?, None),
                "=" => (
                    Event::Ends(
                        outcome(rest).ok_or(wrong("`answered`, `silent`, `closed` or `faulty <reason>`"))?,
                    ),
                    None,
                ),
                _ => return Err(wrong("one of `model`, `>`, `<`, `~`, `!`, `=`")),
            };
            steps.push(Step { line, event: events.0 });
            steps.extend(events.1.map(|event| Step { line, event }));
        }
        let model = model.ok_or(TranscriptError { line: 1, what: "a line `model <family>/<model>`" })?;
        Ok(Self { model, steps })
    }
}

impl Expected {
    /// Whether a driver's reading is this one, to the last digit.
    #[must_use]
    pub fn matches(&self, reading: &Reading) -> bool {
        match (self, reading) {
            (Self::Number(expected), Reading::Number(given)) => expected == given,
            (Self::Code(expected, expected_name), Reading::Code { raw, name }) => {
                expected == raw && expected_name.as_deref() == *name
            }
            (Self::Mark(expected), Reading::Mark(given)) => expected == given,
            (Self::Text(expected), Reading::Text(given)) => expected == given,
            (Self::Absent, Reading::Absent) => true,
            _ => false,
        }
    }
}

fn before_bar(rest: &str) -> &str {
    rest.split_once('|').map_or(rest, |(bytes, _)| bytes)
}

/// The bytes of `4B 0D 0A`.
fn hex(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> = text
        .split_ascii_whitespace()
        .map(|pair| if pair.len() == 2 { u8::from_str_radix(pair, 16).ok() } else { None })
        .collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

/// The sample right of the bar, where one stands there.
fn given(rest: &str, line: usize) -> Result<Option<Event>, TranscriptError> {
    let Some((channel, reading)) = rest.split_once('|').and_then(|(_, meaning)| meaning.split_once(" = "))
    else {
        return Ok(None);
    };
    let (channel, reading) = (channel.trim(), reading.split(" (").next().unwrap_or_default().trim());
    let what =
        "`channel = reading` with one word for the channel and a number, `code`, `mark`, `text` or `absent`";
    if channel.contains(' ') {
        return Err(TranscriptError { line, what });
    }
    let reading = expected(reading).ok_or(TranscriptError { line, what })?;
    Ok(Some(Event::Gives(ChannelId::from_owned(String::from(channel)), reading)))
}

fn expected(text: &str) -> Option<Expected> {
    let (sort, value) = text.split_once(' ').unwrap_or((text, ""));
    match (sort, value) {
        ("absent", "") => Some(Expected::Absent),
        ("mark", token) => Mark::of_token(token.as_bytes()).map(Expected::Mark),
        ("text", text) => Some(Expected::Text(Sensitive::new(String::from(text)))),
        ("code", code) => {
            let (raw, name) = code.split_once(' ').map_or((code, None), |(raw, name)| (raw, Some(name)));
            Some(Expected::Code(raw.parse().ok()?, name.map(String::from)))
        }
        (number, "") => Decimal::parse(number.as_bytes()).ok().map(Expected::Number),
        _ => None,
    }
}

fn millis(text: &str) -> Option<Duration> {
    text.strip_suffix(" ms")?.trim().parse().ok().map(Duration::from_millis)
}

fn trouble(text: &str) -> Option<Event> {
    match text.split_once(' ') {
        Some(("junk", reason)) => fault(reason).map(Event::Drops),
        None if text == "unexpected" => Some(Event::Unexpected),
        _ => None,
    }
}

fn outcome(text: &str) -> Option<Outcome> {
    match text.split_once(' ') {
        Some(("faulty", reason)) => fault(reason).map(Outcome::Faulty),
        None if text == "answered" => Some(Outcome::Answered),
        None if text == "silent" => Some(Outcome::Silent),
        None if text == "closed" => Some(Outcome::Closed),
        _ => None,
    }
}

fn fault(reason: &str) -> Option<FrameFault> {
    FrameFault::ALL.into_iter().find(|fault| fault.word() == reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn bytes_and_their_meaning_are_read_from_one_line() {
        let text = "model kpoll/toray_tr321\n> 4B 0D 0A | asks\n< 41 30 31 2E 39 30 | A = 1.90 (UF goal, L)\n= answered\n";
        let transcript = Transcript::parse(text).unwrap();
        let events: Vec<Event> = transcript.steps.into_iter().map(|step| step.event).collect();
        assert_eq!(
            events,
            [
                Event::Asks(b"K\r\n".to_vec()),
                Event::Sends(b"A01.90".to_vec()),
                Event::Gives(ChannelId::from_static("A"), Expected::Number(Decimal::new(190, 2).unwrap())),
                Event::Ends(Outcome::Answered),
            ]
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, line) in [
            ("", 1),
            ("> 4B", 1),
            ("model a/b\n< 4", 2),
            ("model a/b\n< 4B XX", 2),
            ("model a/b\n<", 2),
            ("model a/b\n\n# x\n= perhaps", 4),
            ("model a/b\n< 41 | A = 1,9", 2),
            ("model a/b\n< 41 | UF goal = 1.9", 2),
            ("model a/b\n~ 3 s", 2),
        ] {
            assert_eq!(Transcript::parse(text).unwrap_err().line, line, "{text}");
        }
        let error = Transcript::parse("model a/b\n~ 3 s").unwrap_err();
        assert_eq!(error.to_string(), "transcript line 2: a time such as `3000 ms`");
    }
}
