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
}
