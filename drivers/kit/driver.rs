//! What a driver is: a conversation with one machine, without IO and without a clock.

use crate::kit::decimal::Decimal;
use crate::kit::sensitive::Sensitive;
use crate::kit::simulator::Machine;
use crate::kit::time::{Slot, Tick};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::num::NonZeroUsize;

/// Bytes to frames: a pure function of its input, without state and without time.
pub trait Codec {
    /// One protocol unit, borrowed from the buffer.
    type Frame<'a>;
    /// No frame is longer than this many bytes; a line never buffers more.
    const MAX_FRAME: usize;
    /// Looks at the start of `buf` and says what stands there.
    fn decode<'a>(&self, buf: &'a [u8]) -> Step<Self::Frame<'a>>;
}

/// What stands at the start of a buffer. `used` is never zero, so a decoder cannot loop without progress.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<F> {
    /// A whole, checked frame of `used` bytes.
    Frame {
        /// The frame.
        frame: F,
        /// Bytes to drop from the front.
        used: NonZeroUsize,
    },
    /// Bytes that are no frame.
    Junk {
        /// Bytes to drop from the front.
        used: NonZeroUsize,
        /// What was wrong with them.
        why: FrameFault,
    },
    /// The start of something that is not whole yet.
    NeedMore,
}

/// Why bytes are no frame. Carries no byte of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FrameFault {
    /// Bytes in front of a frame: rest of an earlier one, echo, noise.
    Leftover,
    /// The length field is no number, or no length this protocol can have.
    Length,
    /// The check over the frame does not agree.
    Check,
    /// The items do not end where the frame ends, or are not in the order of the model's table.
    Walk,
    /// A value that is no value: a character that does not belong there.
    Value,
    /// A frame began and did not end in time.
    Cut,
}

impl FrameFault {
    /// Every reason.
    pub const ALL: [FrameFault; 6] =
        [Self::Leftover, Self::Length, Self::Check, Self::Walk, Self::Value, Self::Cut];

    /// A stable word for metrics, logs and `status`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Leftover => "leftover",
            Self::Length => "length",
            Self::Check => "check",
            Self::Walk => "walk",
            Self::Value => "value",
            Self::Cut => "cut",
        }
    }
}

/// A machine model's id, `family/model`: `kpoll/nikkiso_dbb27c`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(Cow<'static, str>);

impl ModelId {
    /// An id known at compile time.
    #[must_use]
    pub const fn from_static(id: &'static str) -> Self {
        Self(Cow::Borrowed(id))
    }

    /// An id made from a device map (`described/<name>`).
    #[must_use]
    pub const fn from_owned(id: String) -> Self {
        Self(Cow::Owned(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What our knowledge of a model's protocol rests on. None of these means that we tested it on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Written from a vendor's or a standard's text.
    Documented,
    /// Public real frames; their integrity checks were recomputed and agree.
    Captured,
    /// One implementation, no public frame.
    SingleSource,
    /// The site's own map.
    SiteDescribed,
}

impl Evidence {
    /// The label shown to users.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Captured => "captured",
            Self::SingleSource => "single-source",
            Self::SiteDescribed => "site-described",
        }
    }
}

/// Parity of a serial character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Even parity.
    Even,
    /// Odd parity.
    Odd,
}

/// Whether the gateway may write to the line at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The machine answers polls: the port is opened for reading and writing.
    Poll,
    /// The machine speaks by itself: the port is opened read-only and the kernel refuses writes.
    ListenOnly,
}

/// How the serial port is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSettings {
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity of each character.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// Whether we ever write.
    pub direction: Direction,
}

/// The name of one thing a machine says, in the words of its protocol: a tag letter, a variable name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(Cow<'static, str>);

impl ChannelId {
    /// A channel known at compile time.
    #[must_use]
    pub const fn from_static(id: &'static str) -> Self {
        Self(Cow::Borrowed(id))
    }

    /// A channel named by a device map.
    #[must_use]
    pub const fn from_owned(id: String) -> Self {
        Self(Cow::Owned(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of reading a channel gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// [`Reading::Number`].
    Number,
    /// [`Reading::Code`] out of the listed `(raw, name)` pairs.
    Code(&'static [(u32, &'static str)]),
    /// [`Reading::Code`] without names: zero is off, anything else is an active alarm.
    Alarm,
    /// [`Reading::Mark`]: changes when a new spot measurement was made.
    Mark,
    /// [`Reading::Text`]: may identify a patient.
    Text,
}

/// One thing a machine says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its name on the wire; device maps point to it with `from`.
    pub id: ChannelId,
    /// What it gives.
    pub kind: ChannelKind,
    /// What it means, in plain words.
    pub meaning: &'static str,
    /// The UCUM code of the unit the machine uses, where a source states it or the format implies it.
    pub unit: Option<&'static str>,
    /// An example as it stands on the wire, used by `check --explain`.
    pub example: &'static str,
    /// What that example reads as.
    pub example_reading: Option<Reading>,
}

/// One value as the machine gave it, in the machine's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// An exact number.
    Number(Decimal),
    /// A code or flag: the raw number, and its name where the driver knows it.
    Code {
        /// The number on the wire.
        raw: u32,
        /// The driver's name for it; `None` is "unknown".
        name: Option<&'static str>,
    },
    /// Stands for "this spot measurement"; only good for asking whether it changed.
    Mark(Mark),
    /// Free text off the wire.
    Text(Sensitive<String>),
    /// The machine said that it has no reading.
    Absent,
}

/// An opaque token of a spot measurement (its time or count on the machine). It cannot be printed or sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// A mark from the digits on the wire.
    #[must_use]
    pub const fn new(digits: u64) -> Self {
        Self(digits)
    }

    /// A mark from a token as it stands on the wire, whatever its format; `None` when it is longer than eight bytes.
    #[must_use]
    pub fn of_token(token: &[u8]) -> Option<Self> {
        if token.len() > 8 {
            return None;
        }
        Some(Self(token.iter().fold(0, |packed, byte| packed << 8 | u64::from(*byte))))
    }

    /// The token, for keeping it over a restart in the encrypted store.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark(hidden)")
    }
}

/// One raw value of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where it comes from.
    pub channel: ChannelId,
    /// What it says.
    pub reading: Reading,
}

/// What a request does to the machine. There is no variant for changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Says "received".
    Acknowledge,
    /// Asks which machine this is.
    Identify,
    /// Keeps the link up.
    KeepAlive,
    /// Tells the machine after which silence to drop the link.
    LinkTimeout,
    /// Asks for values.
    Read,
    /// Chooses which values to stream.
    Select,
    /// Ends the stream.
    StopStreaming,
}

/// One frame a driver can ever send; reviewed as a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSpec {
    /// A short name for logs, `status` and `drivers proof`.
    pub name: &'static str,
    /// What it does to the machine.
    pub effect: Effect,
    /// The exact bytes.
    pub bytes: Cow<'static, [u8]>,
    /// Where the public record shows it.
    pub source: &'static str,
}

impl RequestSpec {
    /// The request of this specification. There is no other way to make one.
    #[must_use]
    pub fn request(&self) -> Request {
        Request { name: self.name, effect: self.effect, bytes: self.bytes.clone() }
    }
}

/// Bytes to send to a machine. Only [`RequestSpec::request`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    name: &'static str,
    effect: Effect,
    bytes: Cow<'static, [u8]>,
}

impl Request {
    /// The name of its specification.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it does to the machine.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Everything known about a machine before a cable is plugged in.
pub trait Model: Send + Sync + fmt::Debug {
    /// `family/model`.
    fn id(&self) -> &ModelId;
    /// What our knowledge rests on.
    fn evidence(&self) -> Evidence;
    /// How the port is set.
    fn line(&self) -> LineSettings;
    /// Everything the machine says that this driver reads.
    fn channels(&self) -> &[Channel];
    /// Every frame this driver can ever send.
    fn requests(&self) -> &[RequestSpec];
    /// After this long without a whole answer a poll has failed and the line is quiet again.
    fn quiet_time(&self) -> core::time::Duration;
    /// A new conversation.
    fn driver(&self) -> Box<dyn Driver>;
    /// A simulated machine: always compiled, because `demo` ships.
    fn machine(&self, seed: u64) -> Box<dyn Machine>;

    /// The channel of that name.
    fn channel(&self, id: &str) -> Option<&Channel> {
        self.channels().iter().find(|channel| channel.id.as_str() == id)
    }
}

/// One conversation with one machine. After any `handle_*`, call [`Driver::poll`] until it returns [`Output::Wait`].
pub trait Driver: Send {
    /// The port is open.
    fn handle_open(&mut self, now: Tick);
    /// It is time to ask; `poll` owns the schedule, the driver the dialogue.
    fn handle_poll_due(&mut self, now: Tick, slot: Slot);
    /// Bytes came, split anywhere.
    fn handle_bytes(&mut self, now: Tick, bytes: &[u8]);
    /// The tick asked for by [`Output::Wait`] has come.
    fn handle_tick(&mut self, now: Tick);
    /// The port is about to close, or is gone; stop frames go out before it does.
    fn handle_close(&mut self, now: Tick);
    /// The next thing to do.
    fn poll(&mut self) -> Output;
}

/// What a driver wants done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// A value of the poll in progress; it counts once `EndOfPoll` says [`Outcome::Answered`].
    Sample(Sample),
    /// The poll of this slot is over.
    EndOfPoll(Slot, Outcome),
    /// Send this.
    Send(Request),
    /// Something was wrong on the line; counted, never fatal.
    Trouble(Trouble),
    /// Nothing to do until bytes come or this tick is reached.
    Wait(Option<Tick>),
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The machine answered and every check holds; the samples count.
    Answered,
    /// Nothing came.
    Silent,
    /// Something came, and it was no valid answer.
    Faulty(FrameFault),
    /// The port closed before the answer was whole.
    Closed,
}

/// Something wrong on the line. Carries no byte of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Bytes were dropped.
    Junk {
        /// What was wrong with them.
        why: FrameFault,
        /// How many bytes.
        bytes: usize,
    },
    /// A whole answer came that nobody was waiting for; dropped.
    Unexpected,
    /// The next poll was due before the last one had ended; the last one was given up.
    Overrun,
}
