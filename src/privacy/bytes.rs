//! Bytes of the formats that privacy writes: shortest-form integers and length-prefixed text, read without a panic.

/// Why bytes cannot be read. Carries no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes end inside a field.
    #[error("the bytes end inside the {0}")]
    Cut(&'static str),
    /// A number that does not fit, or is not written in its shortest form.
    #[error("the {0} is not a number written in its shortest form")]
    Number(&'static str),
    /// Text that is not UTF-8.
    #[error("the {0} is not UTF-8")]
    Text(&'static str),
    /// Bytes behind the end.
    #[error("{0} bytes behind the end")]
    Trailing(usize),
}

/// Appends fields to a buffer.
pub(super) trait Write {
    /// Seven bits a byte, least significant first, the high bit set on all but the last.
    fn put_varint(&mut self, value: u64);
    /// A signed number, small magnitudes first.
    fn put_zigzag(&mut self, value: i64);
    /// A length and the bytes.
    fn put_text(&mut self, text: &str);
}

impl Write for Vec<u8> {
    fn put_varint(&mut self, value: u64) {
        varint(value, |byte| self.push(byte));
    }

    fn put_zigzag(&mut self, value: i64) {
        self.put_varint(zigzag(value));
    }

    fn put_text(&mut self, text: &str) {
        self.put_varint(text.len() as u64);
        self.extend_from_slice(text.as_bytes());
    }
}

/// The bytes of a varint, one after the other.
pub(super) fn varint(mut value: u64, mut put: impl FnMut(u8)) {
    while value >= 0x80 {
        put((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    put(value as u8);
}

/// A signed number as the varint that stands for it.
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Reads fields from the front of a buffer; every read names its field, so an error says where it is.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], ReadError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(ReadError::Cut(field))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ReadError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadError::Cut(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, ReadError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn varint(&mut self, field: &'static str) -> Result<u64, ReadError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(ReadError::Number(field));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of zero would be a second way to write the same number.
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(ReadError::Number(field)) };
            }
        }
        Err(ReadError::Number(field))
    }

    /// A varint that must fit into a smaller type.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, ReadError> {
        T::try_from(self.varint(field)?).map_err(|_| ReadError::Number(field))
    }

    pub(super) fn zigzag(&mut self, field: &'static str) -> Result<i64, ReadError> {
        let raw = self.varint(field)?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, ReadError> {
        let length = self.number::<usize>(field)?;
        std::str::from_utf8(self.take(length, field)?).map_err(|_| ReadError::Text(field))
    }

    pub(super) const fn end(self) -> Result<(), ReadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ReadError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back_as_written(unsigned: u64, signed: i64) {
            let mut bytes = Vec::new();
            bytes.put_varint(unsigned);
            bytes.put_zigzag(signed);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint("unsigned"), Ok(unsigned));
            prop_assert_eq!(reader.zigzag("signed"), Ok(signed));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(Reader::new(&[0x80, 0x00]).varint("n"), Err(ReadError::Number("n")));
        assert_eq!(Reader::new(&[0xff; 11]).varint("n"), Err(ReadError::Number("n")));
        assert_eq!(Reader::new(&[0x80]).varint("n"), Err(ReadError::Cut("n")));
        assert_eq!(Reader::new(&[0x00]).varint("n"), Ok(0));
    }
}
