//! K-poll bytes to checked frames and their items. No state, no time.

use crate::kit::bytes::Reader;
use crate::kit::checksum::{lower_hex, sum8, to_lower_hex};
use crate::kit::driver::{ChannelId, Codec, FrameFault, Sample, Step};
use crate::kpoll::table::{Item, LONGEST_BODY, Table};
use crate::kpoll::value::read;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

/// The first byte of every answer.
const START: u8 = 0x4B;
/// `K`, the version digit and three digits of LEN.
const HEAD: usize = 5;
/// Two hexadecimal digits of CK.
const CHECK: usize = 2;
/// CR LF, which may come late and then stands in front of the next frame.
const TERMINATOR: usize = 2;

/// The codec of one model: the family's framing with the model's item table.
#[derive(Clone, Copy, Debug)]
pub struct Kpoll {
    table: &'static Table,
}

/// An answer whose LEN, CK and walk hold.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    table: &'static Table,
    body: &'a [u8],
}

/// What the start of a buffer can be.
enum Head {
    /// No frame begins here.
    No,
    /// A frame may begin here; more bytes will tell.
    Partial,
    /// A frame with a body of this many bytes begins here.
    Body(usize),
}

impl Kpoll {
    /// The codec for answers of this table.
    #[must_use]
    pub const fn new(table: &'static Table) -> Self {
        Self { table }
    }

    /// How much to drop of a buffer that waits for bytes which will not come any more; `None` when nothing is lost by
    /// dropping all of it, because only a late terminator stands there.
    #[must_use]
    pub fn give_up(&self, buf: &[u8]) -> Option<(NonZeroUsize, FrameFault)> {
        let (late, rest) = split_late_terminator(buf);
        if rest.is_empty() {
            return None;
        }
        Some((at_least_one(late + self.next_start(rest)), FrameFault::Cut))
    }

    /// Drops what claimed to be a frame, up to where the next one may begin in it. Never looks behind the claim, so
    /// that the verdict is the same however the bytes were split.
    fn junk<F>(&self, late: usize, claimed: &[u8], why: FrameFault) -> Step<F> {
        Step::Junk { used: at_least_one(late + self.next_start(claimed)), why }
    }

    fn head(&self, buf: &[u8]) -> Head {
        let mut reader = Reader::new(buf);
        match reader.byte() {
            None => return Head::Partial,
            Some(START) => {}
            Some(_) => return Head::No,
        }
        match reader.byte() {
            None => return Head::Partial,
            Some(version) if version == self.table.version => {}
            Some(_) => return Head::No,
        }
        match reader.array() {
            Some([hundreds @ b'0'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => {
                let digit = |byte: &u8| usize::from(byte - b'0');
                Head::Body(100 * digit(hundreds) + 10 * digit(tens) + digit(ones))
            }
            Some(_) => Head::No,
            None if reader.rest().iter().all(u8::is_ascii_digit) => Head::Partial,
            None => Head::No,
        }
    }

    /// Where the next frame may begin behind the first byte; the end of the buffer when nowhere.
    fn next_start(&self, buf: &[u8]) -> usize {
        let mut at = 1;
        while let Some(tail) = buf.get(at..) {
            let Some(found) = tail.iter().position(|byte| *byte == START) else { break };
            at += found;
            if !matches!(self.head(buf.get(at..).unwrap_or_default()), Head::No) {
                return at;
            }
            at += 1;
        }
        buf.len()
    }
}

impl Codec for Kpoll {
    type Frame<'a> = Frame<'a>;
    const MAX_FRAME: usize = TERMINATOR + HEAD + LONGEST_BODY + CHECK;

    /// PROTOCOL.md 2: LEN ends the frame; CR LF of the frame before is dropped in front without a word.
    #[inline]
    fn decode<'a>(&self, buf: &'a [u8]) -> Step<Frame<'a>> {
        let (late, rest) = split_late_terminator(buf);
        let length = match self.head(rest) {
            Head::Partial => return Step::NeedMore,
            Head::No => return self.junk(late, rest, FrameFault::Leftover),
            Head::Body(length) => length,
        };
        let mut reader = Reader::new(rest);
        if length == 0 || length > LONGEST_BODY {
            return self.junk(late, reader.take(HEAD).unwrap_or(rest), FrameFault::Length);
        }
        let (Some(summed), Some(check)) = (reader.take(HEAD + length), reader.array::<CHECK>()) else {
            return Step::NeedMore;
        };
        // PROTOCOL.md 2: CK sums K to the last body byte, modulo 256, in lowercase hexadecimal.
        if lower_hex(*check) != Some(sum8(summed)) {
            let claimed = rest.get(..HEAD + length + CHECK).unwrap_or(rest);
            return self.junk(late, claimed, FrameFault::Check);
        }
        let used = at_least_one(late + HEAD + length + CHECK);
        let body = summed.get(HEAD..).unwrap_or_default();
        if self.table.walks(body) {
            Step::Frame { frame: Frame { table: self.table, body }, used }
        } else {
            Step::Junk { used, why: FrameFault::Walk }
        }
    }
}

impl<'a> Frame<'a> {
    /// The samples in the order of the wire. One that is no value spoils the whole frame: publish nothing of it.
    #[must_use]
    #[inline]
    pub fn samples(&self) -> Samples<'a> {
        Samples { items: self.table.items.iter(), body: Reader::new(self.body) }
    }
}

/// The samples of a frame, made one by one as they are asked for.
#[derive(Clone, Debug)]
pub struct Samples<'a> {
    items: core::slice::Iter<'static, Item>,
    body: Reader<'a>,
}

impl Iterator for Samples<'_> {
    type Item = Result<Sample, FrameFault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.body.byte()?;
        let item = self.items.next()?;
        let value = self.body.take(item.width)?;
        Some(match read(item, value) {
            Ok(reading) => Ok(Sample { channel: ChannelId::from_static(item.id), reading }),
            Err(why) => Err(why),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.items.len()))
    }
}

/// Puts a body into a frame, CR LF behind it. This is the machine's side, for simulators and tests.
///
/// A body longer than 999 bytes has no LEN; it is written with what three digits can say and no machine will take it.
#[must_use]
pub fn encode(version: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + body.len() + CHECK + TERMINATOR);
    frame.extend_from_slice(&[START, version]);
    for unit in [100, 10, 1] {
        frame.push(b'0' + u8::try_from(body.len() / unit % 10).unwrap_or(0));
    }
    frame.extend_from_slice(body);
    let check = to_lower_hex(sum8(&frame));
    frame.extend_from_slice(&check);
    frame.extend_from_slice(b"\r\n");
    frame
}

/// At most two bytes CR or LF in front: the terminator that the frame before still owed.
#[inline]
fn split_late_terminator(buf: &[u8]) -> (usize, &[u8]) {
    match buf {
        [b'\r' | b'\n', b'\r' | b'\n', rest @ ..] => (2, rest),
        [b'\r' | b'\n', rest @ ..] => (1, rest),
        rest => (0, rest),
    }
}

fn at_least_one(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kpoll::table::{NIKKISO_DBB27C, TORAY_TR321, TORAY_TR3000};

    const TR321: &[u8] = b"K1074A01.90B01.35C00.48D00260E02.00F36.80G13.90H00167I00148K00167a0b0c0d0f0g0h0a2";

    #[test]
    fn len_ends_the_frame_and_the_late_terminator_goes_with_the_next() {
        let codec = Kpoll::new(&TORAY_TR321);
        let Step::Frame { used, .. } = codec.decode(TR321) else { panic!("no frame") };
        assert_eq!(used.get(), TR321.len());
        let late = [b"\r\n", TR321].concat();
        let Step::Frame { used, .. } = codec.decode(&late) else { panic!("no frame") };
        assert_eq!(used.get(), late.len());
        assert!(matches!(codec.decode(b"\r\n"), Step::NeedMore));
        assert_eq!(codec.give_up(b"\r\n"), None);
    }

    #[test]
    fn a_good_frame_of_another_table_fails_the_walk() {
        assert!(matches!(
            Kpoll::new(&TORAY_TR3000).decode(TR321),
            Step::Junk { why: FrameFault::Walk, used } if used.get() == TR321.len()
        ));
        assert!(matches!(
            Kpoll::new(&NIKKISO_DBB27C).decode(TR321),
            Step::Junk { why: FrameFault::Leftover, .. }
        ));
    }

    #[test]
    fn what_the_machine_side_encodes_the_codec_takes() {
        let body = &TR321[HEAD..TR321.len() - CHECK];
        assert_eq!(encode(b'1', body), [TR321, b"\r\n"].concat());
    }
}
