//! Exact decimal numbers: a mantissa and a scale, so that `12.10` leaves as `12.10`.

use core::cmp::Ordering;
use core::fmt;

/// The most digits after the point that a [`Decimal`] may have.
pub const MAX_SCALE: u8 = 18;

/// An exact decimal number, `mantissa / 10^scale`. Equality compares the value *and* the digits: `1.0 != 1.00`;
/// use [`Decimal::compare`] to compare values alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i64,
    scale: u8,
}

/// Why text is not a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// No digit at all.
    #[error("no digit")]
    Empty,
    /// A character that is neither digit, leading sign nor the one decimal point.
    #[error("a character that does not belong to a number")]
    Character,
    /// More digits than the number type can hold.
    #[error("too many digits")]
    TooLong,
}

impl Decimal {
    /// Zero without decimals.
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };

    /// `mantissa / 10^scale`; `None` when the scale is above [`MAX_SCALE`].
    #[must_use]
    pub const fn new(mantissa: i64, scale: u8) -> Option<Self> {
        if scale > MAX_SCALE { None } else { Some(Self { mantissa, scale }) }
    }

    /// A whole number.
    #[must_use]
    pub const fn whole(value: i64) -> Self {
        Self { mantissa: value, scale: 0 }
    }

    /// The digits without the point.
    #[must_use]
    pub const fn mantissa(self) -> i64 {
        self.mantissa
    }

    /// How many digits stand behind the point.
    #[must_use]
    pub const fn scale(self) -> u8 {
        self.scale
    }

    /// Reads `[+-]digits[.digits]`, ASCII, nothing around it. Leading zeros are dropped, trailing ones kept.
    ///
    /// # Errors
    /// [`DecimalError`] says what does not belong to a number; the text itself is never part of the error.
    pub fn parse(text: &[u8]) -> Result<Self, DecimalError> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            all => (false, all),
        };
        let mut mantissa: i64 = 0;
        let mut scale: u8 = 0;
        let mut after_point = false;
        let mut any_digit = false;
        for &byte in digits {
            match byte {
                b'0'..=b'9' => {
                    any_digit = true;
                    mantissa = mantissa
                        .checked_mul(10)
                        .and_then(|m| m.checked_add(i64::from(byte - b'0')))
                        .ok_or(DecimalError::TooLong)?;
                    if after_point {
                        scale += 1;
                        if scale > MAX_SCALE {
                            return Err(DecimalError::TooLong);
                        }
                    }
                }
                b'.' if !after_point => after_point = true,
                _ => return Err(DecimalError::Character),
            }
        }
        if !any_digit {
            return Err(DecimalError::Empty);
        }
        Ok(Self { mantissa: if negative { -mantissa } else { mantissa }, scale })
    }

    /// Multiplied by `10^power`, exactly: `0.68` by 3 is `680`, `15` by -1 is `1.5`. `None` when it does not fit.
    #[must_use]
    pub fn times_power_of_ten(self, power: i8) -> Option<Self> {
        let scale = i16::from(self.scale) - i16::from(power);
        if scale >= 0 {
            return Self::new(self.mantissa, u8::try_from(scale).ok()?);
        }
        let factor = 10_i64.checked_pow(u32::from(scale.unsigned_abs()))?;
        Some(Self { mantissa: self.mantissa.checked_mul(factor)?, scale: 0 })
    }

    /// The difference `self - other`, exactly, with the larger scale of the two; `None` when it does not fit.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let widen = |d: Self| d.mantissa.checked_mul(10_i64.checked_pow(u32::from(scale - d.scale))?);
        Some(Self { mantissa: widen(self)?.checked_sub(widen(other)?)?, scale })
    }

    /// Compares the values, whatever their digits: `1.0` and `1.00` are equal here.
    #[must_use]
    pub fn compare(self, other: Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        let widen = |d: Self| i128::from(d.mantissa) * 10_i128.pow(u32::from(scale - d.scale));
        widen(self).cmp(&widen(other))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale == 0 {
            return write!(f, "{}", self.mantissa);
        }
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let unit = 10_u64.pow(u32::from(self.scale));
        let magnitude = self.mantissa.unsigned_abs();
        write!(f, "{sign}{}.{:0width$}", magnitude / unit, magnitude % unit, width = usize::from(self.scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn digits_behind_the_point_are_kept() {
        assert_eq!(decimal("012.10").to_string(), "12.10");
        assert_eq!(decimal("-0029").to_string(), "-29");
        assert_eq!(decimal("-0.05").to_string(), "-0.05");
        assert_eq!(decimal("000.0").to_string(), "0.0");
    }

    #[test]
    fn a_power_of_ten_moves_the_point_and_nothing_else() {
        assert_eq!(decimal("00.68").times_power_of_ten(3).unwrap().to_string(), "680");
        assert_eq!(decimal("15").times_power_of_ten(-1).unwrap().to_string(), "1.5");
        assert_eq!(decimal("9223372036854775807").times_power_of_ten(1), None);
    }

    #[test]
    fn values_compare_without_regard_to_their_digits() {
        assert_eq!(decimal("1.0").compare(decimal("1.00")), Ordering::Equal);
        assert_eq!(decimal("-2").compare(decimal("-1.99")), Ordering::Less);
        assert_eq!(decimal("2.5").checked_sub(decimal("0.75")).unwrap().to_string(), "1.75");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for (text, why) in [
            ("", DecimalError::Empty),
            ("-", DecimalError::Empty),
            (".", DecimalError::Empty),
            ("1.2.3", DecimalError::Character),
            ("0000/", DecimalError::Character),
            (" 1", DecimalError::Character),
            ("99999999999999999999", DecimalError::TooLong),
        ] {
            assert_eq!(Decimal::parse(text.as_bytes()), Err(why), "{text}");
        }
    }
}
