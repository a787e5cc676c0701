//! A bad cable in virtual time: paced at the line's speed, and by seed it drops, flips, doubles, splits and repeats.

use crate::kit::driver::LineSettings;
use crate::kit::random::Random;
use crate::kit::simulator::Switch;
use crate::kit::time::Tick;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// How bad the cable is. Everything off is a good cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// Bytes lost, of a million.
    pub drops: u32,
    /// Bytes with one flipped bit, of a million.
    pub flips: u32,
    /// Bytes that come twice, of a million.
    pub doubles: u32,
    /// Transmissions with the tail of the one before in front, of a million.
    pub stale: u32,
    /// The longest piece that arrives at once; 0 for whole transmissions.
    pub pieces: u32,
    /// Whether what the gateway sends comes back to it.
    pub echo: Switch,
}

impl Noise {
    /// A good cable.
    pub const NONE: Noise = Noise { drops: 0, flips: 0, doubles: 0, stale: 0, pieces: 0, echo: Switch::Off };
}

/// One fault at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The byte is lost.
    Drop,
    /// The byte comes twice.
    Double,
    /// These bits of the byte are flipped.
    Flip(u8),
    /// The byte is this much larger, modulo 256.
    Add(u8),
}

/// A cable between one gateway port and one machine.
#[derive(Debug)]
pub struct Cable {
    noise: Noise,
    random: Random,
    byte_time: Duration,
    to_machine: Lane,
    to_gateway: Lane,
    /// How many more bytes reach the gateway before the cable comes out; `None` while it holds.
    holds_for: Option<usize>,
    /// The last transmission of the machine, for stale bytes.
    last: Vec<u8>,
    /// Faults at a given byte of the machine, counted by `passed`.
    faults: Vec<(u64, Fault)>,
    /// Bytes that the machine has sent.
    passed: u64,
    damage: u64,
}

/// One direction: pieces on their way, in order.
#[derive(Debug, Default)]
struct Lane {
    pieces: VecDeque<(Tick, Vec<u8>)>,
    free_at: Tick,
}

impl Cable {
    /// A cable at the speed of `line`, as bad as `noise` says, the same for the same seed.
    #[must_use]
    pub fn new(line: LineSettings, noise: Noise, seed: u64) -> Self {
        Self {
            noise,
            random: Random::new(seed),
            byte_time: byte_time(line),
            to_machine: Lane::default(),
            to_gateway: Lane::default(),
            holds_for: None,
            last: Vec::new(),
            faults: Vec::new(),
            passed: 0,
            damage: 0,
        }
    }

    /// Makes the cable better or worse from now on.
    pub const fn set_noise(&mut self, noise: Noise) {
        self.noise = noise;
    }

    /// A fault strikes the byte that the machine sends after `bytes` more.
    pub fn fault_after(&mut self, bytes: u64, fault: Fault) {
        self.faults.push((self.passed.saturating_add(bytes), fault));
    }

    /// Faults that have not struck yet never will.
    pub fn forget_faults(&mut self) {
        self.faults.clear();
    }

    /// How many bytes the machine has sent so far.
    #[must_use]
    pub const fn passed(&self) -> u64 {
        self.passed
    }

    /// The gateway sends.
    pub fn from_gateway(&mut self, now: Tick, bytes: &[u8]) {
        if self.noise.echo == Switch::On {
            self.to_gateway.put(now, bytes.to_vec(), self.byte_time, 0, &mut self.random);
        }
        if self.holds_for != Some(0) {
            let bytes = self.spoil(bytes);
            self.to_machine.put(now, bytes, self.byte_time, self.noise.pieces, &mut self.random);
        }
    }

    /// The machine sends.
    pub fn from_machine(&mut self, now: Tick, bytes: &[u8]) {
        let mut arriving = Vec::new();
        if self.random.happens(self.noise.stale) && !self.last.is_empty() {
            let most = u32::try_from(self.last.len()).unwrap_or(u32::MAX);
            let skipped = usize::try_from(1 + self.random.below(most)).unwrap_or(usize::MAX);
            arriving.extend(self.last.iter().skip(skipped));
            self.damage += 1;
        }
        let struck = self.strike(bytes);
        arriving.extend(self.spoil(&struck));
        self.last = bytes.to_vec();
        if let Some(left) = &mut self.holds_for {
            if arriving.len() > *left {
                arriving.truncate(*left);
                self.damage += 1;
            }
            *left -= arriving.len();
        }
        self.to_gateway.put(now, arriving, self.byte_time, self.noise.pieces, &mut self.random);
    }

    /// What has reached the machine by now.
    pub fn at_machine(&mut self, now: Tick) -> Option<Vec<u8>> {
        self.to_machine.pieces.pop_front_if(|(arrives, _)| *arrives <= now).map(|(_, piece)| piece)
    }

    /// What has reached the gateway by now.
    pub fn at_gateway(&mut self, now: Tick) -> Option<Vec<u8>> {
        self.to_gateway.pieces.pop_front_if(|(arrives, _)| *arrives <= now).map(|(_, piece)| piece)
    }

    /// When the next piece arrives at either end.
    #[must_use]
    pub fn wake(&self) -> Option<Tick> {
        let lanes = [&self.to_machine, &self.to_gateway];
        lanes.into_iter().filter_map(|lane| lane.pieces.front()).map(|(arrives, _)| *arrives).min()
    }

    /// The cable comes out after `bytes` more bytes of the machine; nothing passes in either direction from then on.
    pub const fn pull_after(&mut self, bytes: usize) {
        self.holds_for = Some(bytes);
    }

    /// The cable is put back; what was lost stays lost.
    pub const fn plug(&mut self) {
        self.holds_for = None;
    }

    /// How often the cable has changed what passed. An echo is not counted.
    #[must_use]
    pub const fn damage(&self) -> u64 {
        self.damage
    }

    /// The faults that were asked for by place.
    fn strike(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut struck = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            let here = self.passed;
            self.passed += 1;
            let fault = self.faults.iter().find(|(place, _)| *place == here).map(|(_, fault)| *fault);
            self.damage += u64::from(fault.is_some());
            match fault {
                None => struck.push(*byte),
                Some(Fault::Drop) => {}
                Some(Fault::Double) => struck.extend([*byte, *byte]),
                Some(Fault::Flip(bits)) => struck.push(byte ^ bits),
                Some(Fault::Add(more)) => struck.push(byte.wrapping_add(more)),
            }
        }
        let passed = self.passed;
        self.faults.retain(|(place, _)| *place >= passed);
        struck
    }

    fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut spoiled = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.random.happens(self.noise.drops) {
                self.damage += 1;
                continue;
            }
            if self.random.happens(self.noise.flips) {
                self.damage += 1;
                spoiled.push(byte ^ (1 << self.random.below(8)));
            } else {
                spoiled.push(*byte);
            }
            if self.random.happens(self.noise.doubles) {
                self.damage += 1;
                spoiled.push(*byte);
            }
        }
        spoiled
    }
}

impl Lane {
    /// Puts bytes behind those that are still on their way.
    fn put(&mut self, now: Tick, bytes: Vec<u8>, byte_time: Duration, longest: u32, random: &mut Random) {
        let mut rest = bytes.as_slice();
        let mut at = self.free_at.max(now);
        while !rest.is_empty() {
            let length = match longest {
                0 => rest.len(),
                longest => usize::try_from(1 + random.below(longest)).unwrap_or(1).min(rest.len()),
            };
            let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            at = at.after(byte_time.saturating_mul(u32::try_from(piece.len()).unwrap_or(u32::MAX)));
            self.pieces.push_back((at, piece.to_vec()));
            rest = behind;
        }
        self.free_at = at;
    }
}

/// How long one character takes: a start bit, its data, parity and stop bits.
fn byte_time(line: LineSettings) -> Duration {
    let parity = u64::from(line.parity != crate::kit::driver::Parity::None);
    let bits = 1 + u64::from(line.data_bits) + parity + u64::from(line.stop_bits);
    Duration::from_nanos(bits.saturating_mul(1_000_000_000) / u64::from(line.baud).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::driver::{Direction, Parity};

    const LINE: LineSettings = LineSettings {
        baud: 9600,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        direction: Direction::Poll,
    };
    const LATER: Tick = Tick::from_micros(10_000_000);

    fn arrived(cable: &mut Cable) -> Vec<u8> {
        core::iter::from_fn(|| cable.at_gateway(LATER)).flatten().collect()
    }

    #[test]
    fn a_good_cable_changes_nothing_and_takes_its_time() {
        let mut cable = Cable::new(LINE, Noise::NONE, 1);
        cable.from_machine(Tick::ZERO, &[0x55; 96]);
        assert_eq!(cable.at_gateway(Tick::from_micros(99_000)), None);
        assert_eq!(cable.at_gateway(Tick::from_micros(100_000)), Some([0x55; 96].to_vec()));
        assert_eq!(cable.damage(), 0);
    }

    #[test]
    fn the_same_seed_spoils_the_same_bytes() {
        let bad =
            Noise { drops: 50_000, flips: 50_000, doubles: 50_000, stale: 500_000, pieces: 7, ..Noise::NONE };
        let run = |seed| {
            let mut cable = Cable::new(LINE, bad, seed);
            cable.from_machine(Tick::ZERO, &[0x41; 300]);
            cable.from_machine(Tick::ZERO, &[0x42; 300]);
            (arrived(&mut cable), cable.damage())
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
        assert!(run(5).1 > 0);
    }

    #[test]
    fn a_pulled_cable_passes_what_was_on_the_wire_and_nothing_more() {
        let mut cable = Cable::new(LINE, Noise::NONE, 1);
        cable.pull_after(3);
        cable.from_machine(Tick::ZERO, b"K1074");
        cable.from_gateway(Tick::ZERO, b"K\r\n");
        assert_eq!(arrived(&mut cable), b"K10");
        assert_eq!(cable.at_machine(LATER), None);
        cable.plug();
        cable.from_machine(Tick::ZERO, b"K1");
        assert_eq!(arrived(&mut cable), b"K1");
    }

    #[test]
    fn a_fault_strikes_exactly_its_byte() {
        let mut cable = Cable::new(LINE, Noise::NONE, 1);
        for (place, fault) in
            [(1, Fault::Drop), (2, Fault::Double), (3, Fault::Flip(0x01)), (5, Fault::Add(1))]
        {
            cable.fault_after(place, fault);
        }
        cable.from_machine(Tick::ZERO, b"01234");
        cable.from_machine(Tick::ZERO, b"56");
        assert_eq!(arrived(&mut cable), b"0222466");
        assert_eq!((cable.passed(), cable.damage()), (7, 4));
    }

    #[test]
    fn an_echo_comes_back_to_the_gateway() {
        let mut cable = Cable::new(LINE, Noise { echo: Switch::On, ..Noise::NONE }, 1);
        cable.from_gateway(Tick::ZERO, b"K\r\n");
        assert_eq!(arrived(&mut cable), b"K\r\n");
        assert_eq!(cable.at_machine(LATER), Some(b"K\r\n".to_vec()));
    }
}
