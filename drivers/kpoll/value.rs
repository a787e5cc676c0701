//! The value of one K-poll item: fixed columns to a reading, strictly.

use crate::kit::decimal::Decimal;
use crate::kit::driver::{ChannelKind, FrameFault, Mark, Reading};
use crate::kit::sensitive::Sensitive;
use crate::kpoll::table::{Columns, Item};
use alloc::string::String;

/// A value without a reading has this byte somewhere in it.
const FILLER: u8 = b'/';

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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

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
        let shapes = ["00.00", "000.0", "00000", " 0000"].map(Columns::of);
        for value in 0..10_usize.pow(5) {
            let columns: [u8; 5] =
                core::array::from_fn(|place| characters[value / 10_usize.pow(place as u32) % 10]);
            let plain = padded_number(&columns);
            assert_eq!(number(&columns), plain, "{}", columns.escape_ascii());
            for shape in &shapes {
                if let Some(usual) = usual_number(&columns, shape) {
                    assert_eq!(Ok(usual), plain, "{}", columns.escape_ascii());
                }
            }
        }
        assert_eq!(usual_number(b"12.34", &shapes[0]), Decimal::new(1234, 2).map(Reading::Number));
        assert_eq!(usual_number(b"123.4", &shapes[1]), Decimal::new(1234, 1).map(Reading::Number));
        assert_eq!(usual_number(b"12345", &shapes[2]), Some(Reading::Number(Decimal::whole(12_345))));
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
