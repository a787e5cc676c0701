//! A checked reader over received bytes: every step says whether it fits, so no driver ever indexes a slice.

/// Reads a slice from the front; what is not there is `None`, never a panic.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next byte.
    #[inline]
    pub const fn byte(&mut self) -> Option<u8> {
        let (first, rest) = match self.rest.split_first() {
            Some(split) => split,
            None => return None,
        };
        self.rest = rest;
        Some(*first)
    }

    /// The next `count` bytes; nothing is read when there are fewer.
    #[inline]
    pub const fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = match self.rest.split_at_checked(count) {
            Some(split) => split,
            None => return None,
        };
        self.rest = rest;
        Some(taken)
    }

    /// The next `N` bytes as an array; nothing is read when there are fewer.
    #[inline]
    pub const fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = match self.rest.split_first_chunk::<N>() {
            Some(split) => split,
            None => return None,
        };
        self.rest = rest;
        Some(taken)
    }

    /// What was not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// The value of ASCII decimal digits; `None` for anything else, for nothing, and for more than nine digits.
#[must_use]
pub fn digits(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |value, byte| value * 10 + u32::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_does_not_fit_reads_nothing() {
        let mut reader = Reader::new(b"K143");
        assert_eq!(reader.byte(), Some(b'K'));
        assert_eq!(reader.take(4), None);
        assert_eq!(reader.array::<4>(), None);
        assert_eq!(reader.rest(), b"143");
        assert_eq!(reader.take(3), Some(&b"143"[..]));
        assert_eq!(reader.byte(), None);
        assert!(reader.is_empty());
    }

    #[test]
    fn only_digits_are_a_number() {
        assert_eq!(digits(b"143"), Some(143));
        assert_eq!(digits(b"999999999"), Some(999_999_999));
        for text in [&b""[..], b"1 3", b"-13", b"1234567890", b"1\xb24"] {
            assert_eq!(digits(text), None);
        }
    }
}
