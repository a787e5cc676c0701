//! K-poll bytes to checked frames, and frames to samples. No state, no time.

use crate::kit::bytes::Reader;
use crate::kit::checksum::{lower_hex, sum8, to_lower_hex};
use crate::kit::decimal::Decimal;
use crate::kit::driver::{ChannelId, ChannelKind, Codec, FrameFault, Mark, Reading, Sample, Step};
use crate::kit::sensitive::Sensitive;
use crate::kpoll::table::{Columns, Item, LONGEST_BODY, Table};
use alloc::string::String;
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
/// A value without a reading has this byte somewhere in it.
const FILLER: u8 = b'/';

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

/// Reads one value of fixed width.
///
/// # Errors
/// [`FrameFault::Value`] when a character does not belong there.
#[inline(always)]
pub(crate) fn read(item: &Item, value: &[u8]) -> Result<Reading, FrameFault> {
    match item.kind {
        ChannelKind::Number => usual_number(value, &item.columns).map_or_else(|| number(value), Ok),
        ChannelKind::Alarm => code(value, &[]),
        ChannelKind::Code(names) => code(value, names),
        ChannelKind::Mark => mark(value),
        ChannelKind::Text => text(value),
    }
}

const ONES: u64 = 0x01_01_01_01_01;
const HIGHS: u64 = ONES * 0x80;

/// A number without sign and with its point where the table's example has it; `None` for any other shape.
#[inline(always)]
fn usual_number(value: &[u8], columns: &Columns) -> Option<Reading> {
    let &[a, b, c, d, e] = value else { return None };
    let word = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]) ^ columns.zeros;
    if (word.wrapping_add(columns.headroom) | word) & HIGHS != 0 {
        return None;
    }
    // The point's column is zero by now; the digits in front of it move into it.
    let digits = ((word & columns.whole) << 8) | (word & !columns.whole);
    Decimal::new(i64::from(five_digits(digits)), columns.decimals).map(Reading::Number)
}

/// `[spaces][sign]digits[.digits]`; PROTOCOL.md 3. Nearly every value is five bytes wide and is read as one word.
fn number(value: &[u8]) -> Result<Reading, FrameFault> {
    let &[column, b, c, d, e] = value else { return padded_number(value) };
    // The first column may hold the sign, or the space that stands for plus.
    let (negative, first) = match column {
        b'-' => (true, b'0'),
        b'+' | b' ' => (false, b'0'),
        other => (false, other),
    };
    // First character in the lowest byte, each digit as its value.
    let word = u64::from_le_bytes([first, b, c, d, e, 0, 0, 0]) ^ (ONES * 0x30);
    let point = word ^ (ONES * (0x2E ^ 0x30));
    let points = point.wrapping_sub(ONES) & !point & HIGHS;
    let (word, scale) = if points == 0 {
        (word, 0)
    } else {
        let place = points.trailing_zeros() / 8;
        let before = word & ((1 << (8 * place)) - 1);
        let behind = word >> (8 * (place + 1)) << (8 * place);
        // Four digits are left; they move up one byte, so that the front is a zero again.
        ((before | behind) << 8, 4 - place)
    };
    let no_digit = (word.wrapping_add(ONES * 0x76) | word) & HIGHS;
    // Digits stand on both sides of a point; a sign or a space in the first column is no digit.
    let lonely_point = points != 0 && (scale == 0 || scale == 4 || (scale == 3 && first != column));
    if no_digit != 0 || lonely_point {
        return padded_number(value);
    }
    let magnitude = i64::from(five_digits(word));
    let mantissa = if negative { -magnitude } else { magnitude };
    // The scale is at most 3.
    Ok(Reading::Number(Decimal::new(mantissa, scale as u8).unwrap_or(Decimal::ZERO)))
}

/// The number that five digit values spell, first digit in the lowest byte: pairs, then pairs of pairs.
#[inline]
const fn five_digits(word: u64) -> u32 {
    let eight = word << 24;
    let pairs = (eight & 0x0F0F_0F0F_0F0F_0F0F).wrapping_mul(2561) >> 8;
    let fours = (pairs & 0x00FF_00FF_00FF_00FF).wrapping_mul(6_553_601) >> 16;
    ((fours & 0x0000_FFFF_0000_FFFF).wrapping_mul(42_949_672_960_001) >> 32) as u32
}

/// The rare shapes: several spaces in front, no reading, no number.
#[cold]
fn padded_number(value: &[u8]) -> Result<Reading, FrameFault> {
    if value.contains(&FILLER) {
        return Ok(Reading::Absent);
    }
    let digits = value.trim_ascii_start();
    let unsigned = digits.strip_prefix(b"-").or(digits.strip_prefix(b"+")).unwrap_or(digits);
    let spaces = value.len() - digits.len();
    let closed =
        unsigned.first().is_some_and(u8::is_ascii_digit) && unsigned.last().is_some_and(u8::is_ascii_digit);
    if !closed || !value.iter().take(spaces).all(|byte| *byte == b' ') {
        return Err(FrameFault::Value);
    }
    Decimal::parse(digits).map(Reading::Number).map_err(|_| FrameFault::Value)
}

/// A single digit: a code or an alarm. The digits other than 0 are not documented for alarms; they are kept raw.
#[inline(always)]
fn code(value: &[u8], names: &[(u32, &'static str)]) -> Result<Reading, FrameFault> {
    match value {
        [digit @ b'0'..=b'9'] => {
            let raw = u32::from(digit - b'0');
            let name = names.iter().find(|(code, _)| *code == raw).map(|(_, name)| *name);
            Ok(Reading::Code { raw, name })
        }
        [FILLER] => Ok(Reading::Absent),
        _ => Err(FrameFault::Value),
    }
}

/// The token of a spot measurement. Its format is not documented, so any printable one is taken as it stands.
fn mark(value: &[u8]) -> Result<Reading, FrameFault> {
    if !value.iter().all(|byte| matches!(byte, 0x20..=0x7E)) {
        return Err(FrameFault::Value);
    }
    if value.contains(&FILLER) || value.iter().all(|byte| *byte == b' ') {
        return Ok(Reading::Absent);
    }
    Mark::of_token(value).map(Reading::Mark).ok_or(FrameFault::Value)
}

/// Text that may identify somebody. Its character set is not documented; bytes above ASCII become their Latin-1
/// characters, which is enough for text that stops at the privacy border.
fn text(value: &[u8]) -> Result<Reading, FrameFault> {
    if value.iter().any(u8::is_ascii_control) {
        return Err(FrameFault::Value);
    }
    let trimmed = value.trim_ascii();
    if trimmed.is_empty() {
        return Ok(Reading::Absent);
    }
    // Room for every character at once: growing would leave unwiped copies behind.
    let mut text = String::with_capacity(2 * trimmed.len());
    text.extend(trimmed.iter().map(|byte| char::from(*byte)));
    Ok(Reading::Text(Sensitive::new(text)))
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
    use alloc::format;
    use alloc::string::ToString;

    const TR321: &[u8] = b"K1074A01.90B01.35C00.48D00260E02.00F36.80G13.90H00167I00148K00167a0b0c0d0f0g0h0a2";

    fn number_text(value: &str) -> Option<String> {
        match number(value.as_bytes()) {
            Ok(Reading::Number(decimal)) => Some(decimal.to_string()),
            _ => None,
        }
    }

    #[test]
    fn numbers_keep_their_digits_whatever_stands_in_front() {
        for (value, digits) in [
            ("00.68", "0.68"),
            ("036.5", "36.5"),
            ("0.123", "0.123"),
            ("00250", "250"),
            (" 0170", "170"),
            ("-0029", "-29"),
            ("+0029", "29"),
            ("   -5", "-5"),
            ("  1.5", "1.5"),
            ("-0.50", "-0.50"),
            ("00000", "0"),
            ("99999", "99999"),
            ("   12", "12"),
        ] {
            assert_eq!(number_text(value).as_deref(), Some(digits), "{value:?}");
        }
    }

    #[test]
    fn a_value_with_a_filler_is_no_reading() {
        for value in ["0000/", "/////", "00/00", "/0000"] {
            assert_eq!(number(value.as_bytes()), Ok(Reading::Absent), "{value:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [
            "     ", "0 170", "1-029", "00.6.", ".0680", "0068.", "0.6.8", "--029", "- 029", "0x1F0",
            "00O68", " .068", "-.068", "00\x000", "0:000", "\t0170", "+-029",
        ] {
            assert_eq!(number(value.as_bytes()), Err(FrameFault::Value), "{value:?}");
        }
    }

    #[test]
    fn the_fast_reading_of_five_columns_agrees_with_the_plain_one() {
        let characters = b"059.-+ /:x";
        for value in 0..10_usize.pow(5) {
            let columns: [u8; 5] =
                core::array::from_fn(|place| characters[value / 10_usize.pow(place as u32) % 10]);
            assert_eq!(number(&columns), padded_number(&columns), "{}", columns.escape_ascii());
        }
    }

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

    #[test]
    fn text_is_hidden_and_a_blank_field_is_no_reading() {
        assert_eq!(text(b"        "), Ok(Reading::Absent));
        let reading = text(b"  AB-12 ").unwrap();
        assert_eq!(reading, Reading::Text(Sensitive::new(String::from("AB-12"))));
        assert!(!format!("{reading:?}").contains("AB-12"));
        assert_eq!(text(b"AB\x0012"), Err(FrameFault::Value));
    }
}
