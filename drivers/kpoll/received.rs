//! What came in and is no whole frame yet, in one piece of memory that never moves and keeps nothing that was used.

use crate::kit::driver::Codec;
use crate::kpoll::codec::Kpoll;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use zeroize::{Zeroize, Zeroizing};

/// What is left of one frame and a whole one behind it.
const ROOM: usize = 2 * Kpoll::MAX_FRAME;

/// Bytes off the line. They may hold the text of item `n`, so what leaves is wiped.
pub(super) struct Received {
    /// Always as long as there is room.
    bytes: Zeroizing<Vec<u8>>,
    filled: usize,
}

impl Received {
    pub(super) fn new() -> Self {
        Self { bytes: Zeroizing::new(vec![0; ROOM]), filled: 0 }
    }

    /// What is there.
    pub(super) fn whole(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// What is there from this place on.
    pub(super) fn from(&self, at: usize) -> &[u8] {
        self.whole().get(at..).unwrap_or_default()
    }

    /// Whether nothing more fits in.
    pub(super) const fn is_full(&self) -> bool {
        self.filled == ROOM
    }

    /// Takes in as much as fits; what comes back did not.
    pub(super) fn take_in<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let free = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let (now, later) = bytes.split_at(bytes.len().min(free.len()));
        for (place, byte) in free.iter_mut().zip(now) {
            *place = *byte;
        }
        self.filled += now.len();
        later
    }

    /// Forgets this many from the front.
    pub(super) fn drop_front(&mut self, count: usize) {
        let count = count.min(self.filled);
        if count == 0 {
            return;
        }
        self.bytes.copy_within(count..self.filled, 0);
        let left = self.filled - count;
        if let Some(used) = self.bytes.get_mut(left..self.filled) {
            used.zeroize();
        }
        self.filled = left;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.drop_front(self.filled);
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_wiped_and_what_is_left_moves_to_the_front() {
        let mut received = Received::new();
        assert_eq!(received.take_in(b"nMustermannK1"), b"");
        received.drop_front(11);
        assert_eq!(received.whole(), b"K1");
        assert!(received.bytes.iter().skip(2).all(|byte| *byte == 0));
        received.clear();
        assert_eq!(received.whole(), b"");
        assert!(received.bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn it_takes_two_frames_and_gives_the_rest_back_without_growing() {
        let mut received = Received::new();
        let noise = [b'K'; ROOM + 3];
        assert_eq!(received.take_in(&noise).len(), 3);
        assert!(received.is_full());
        assert_eq!(received.take_in(b"x"), b"x");
        received.drop_front(usize::MAX);
        assert_eq!(received.from(0), b"");
        assert_eq!(received.from(7), b"");
    }
}
