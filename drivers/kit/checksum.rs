//! The checks that machines put behind their frames.

/// The sum of all bytes, modulo 256. Sees every single error; does not see two that balance each other.
#[must_use]
#[inline]
pub fn sum8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The byte that two lowercase hexadecimal digits spell; `None` for anything else, uppercase digits too.
#[must_use]
#[inline]
pub const fn lower_hex(digits: [u8; 2]) -> Option<u8> {
    const fn value(digit: u8) -> Option<u8> {
        match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }
    match (value(digits[0]), value(digits[1])) {
        (Some(high), Some(low)) => Some(high << 4 | low),
        _ => None,
    }
}

/// Two lowercase hexadecimal digits of a byte.
#[must_use]
pub const fn to_lower_hex(byte: u8) -> [u8; 2] {
    const fn digit(value: u8) -> u8 {
        if value < 10 { b'0' + value } else { b'a' + value - 10 }
    }
    [digit(byte >> 4), digit(byte & 0x0F)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_wraps_at_256() {
        assert_eq!(sum8(&[0xFF, 0x02]), 0x01);
        assert_eq!(sum8(&[]), 0x00);
    }

    #[test]
    fn every_byte_survives_hexadecimal_and_only_lowercase_counts() {
        for byte in 0..=u8::MAX {
            assert_eq!(lower_hex(to_lower_hex(byte)), Some(byte));
        }
        assert_eq!(lower_hex(*b"3B"), None);
        assert_eq!(lower_hex(*b"3\r"), None);
    }
}
