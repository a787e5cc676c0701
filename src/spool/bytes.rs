//! Fixed-width numbers, big-endian, out of bytes that may be damaged.

/// Takes fields off the front; `None` once the bytes end.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A text of at most 255 bytes with its length in front.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(length.into())?).ok()
    }

    /// Everything that was not taken.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Checks the CRC-32 in front of `bytes` and gives what it covers.
pub(crate) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (checksum, covered) = bytes.split_first_chunk::<4>()?;
    (crc32fast::hash(covered).to_be_bytes() == *checksum).then_some(covered)
}

/// Puts the CRC-32 of `covered` in front of it.
pub(crate) fn with_checksum(covered: &[u8]) -> Vec<u8> {
    [crc32fast::hash(covered).to_be_bytes().as_slice(), covered].concat()
}
