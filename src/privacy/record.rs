//! The shareable record: the only thing that leaves the privacy border.

use crate::model::alarm::{Alarm, AlarmEdge};
use crate::model::name::MachineName;
use crate::model::time::{ClockStep, ClockTrust, Timestamp};
use crate::model::value::{Doubts, Value};
use crate::normalise::{EndReason, Origin};
use std::fmt;

pub use super::bytes::ReadError;
pub use super::codec::{DecodeError, decode, encode, encode_into};

/// A treatment: 128 random bits drawn at its start. Says nothing about the patient.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreatmentId([u8; 16]);

impl TreatmentId {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for TreatmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which version of a treatment's binding: 0 is "no patient", each seat or correction counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u32);

/// One shareable record. Its fields are private: only `Pseudonymiser::seal`, [`Record::event`] and [`decode`] make one.
///
/// ```compile_fail,E0451
/// use chairside::normalise::Origin;
/// use chairside::privacy::record::{Body, Record};
/// fn forged(origin: Origin) -> Record {
///     Record { origin, treatment: None, body: Body::TreatmentStarted }
/// }
/// ```
/// ```compile_fail,E0624
/// use chairside::normalise::Origin;
/// use chairside::privacy::record::{Body, Record};
/// fn forged(origin: Origin) -> Record {
///     Record::assemble(origin, None, Body::TreatmentStarted)
/// }
/// ```
/// A capture still has identity in it and is not a record:
/// ```compile_fail,E0308
/// use chairside::normalise::Capture;
/// use chairside::spool::Spool;
/// fn leak(spool: &mut dyn Spool, capture: Capture) {
///     let _ = spool.append(&[capture]);
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    origin: Origin,
    treatment: Option<TreatmentId>,
    body: Body,
}

/// What a record can say. Everything the gateway knows travels as one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// One poll.
    Values(Vec<Value>),
    /// An alarm edge.
    Alarm(AlarmEdge),
    /// A treatment began.
    TreatmentStarted,
    /// A treatment is over.
    TreatmentEnded(EndReason),
    /// Poll slots nobody can fill any more.
    Gap(Gap),
    /// The wall clock jumped.
    ClockStep(ClockStep),
    /// Records that left the spool undelivered.
    Evicted(Tombstone),
    /// The treatment was bound to another patient, or to none.
    Correction(Correction),
}

/// Poll slots nobody can fill any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Start of the first missing slot.
    pub from: Timestamp,
    /// End of the last one.
    pub to: Timestamp,
    /// How many slots.
    pub slots: u32,
    /// Why.
    pub cause: GapCause,
}

/// Why slots are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// The machine did not answer.
    MachineSilent,
    /// The machine answered and the answer did not hold.
    AnswerFaulty,
    /// The cable or the adapter was gone.
    LineDown,
    /// The gateway was not running.
    GatewayDown,
    /// The gateway was killed, or lost its power, before what it had heard was kept.
    Unkept,
    /// They were kept, and the store lost them before they could be counted.
    LostInStore,
}

/// Records that left the spool undelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Capture time of the first one; of lost ones, of the record before them.
    pub from: Timestamp,
    /// Capture time of the last one; of lost ones, of the record behind them.
    pub to: Timestamp,
    /// How many.
    pub records: u64,
    /// Sequence of the first one.
    pub first: u64,
    /// Sequence of the last one.
    pub last: u64,
    /// Why.
    pub cause: LossCause,
}

/// Why records left the spool undelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Newer ones needed the room.
    StoreFull,
    /// They could not be read any more.
    StoreDamaged,
}

/// The treatment was bound to another patient, or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Which treatment.
    pub treatment: TreatmentId,
    /// The binding that was wrong.
    pub old: Revision,
    /// The binding that replaces it.
    pub new: Revision,
}

/// An alarm that was told to be on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAlarm {
    /// Which.
    pub alarm: Alarm,
    /// The machine's own code of it.
    pub raw: u32,
    /// The number of its raising.
    pub occurrence: u32,
    /// On which machine.
    pub machine: MachineName,
    /// In which treatment; `None` where it is the machine's alone.
    pub treatment: Option<TreatmentId>,
}

/// The bodies that name no reading: no text fits in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// See [`Body::Gap`].
    Gap(Gap),
    /// See [`Body::ClockStep`].
    ClockStep(ClockStep),
    /// See [`Body::Evicted`].
    Evicted(Tombstone),
    /// See [`Body::Correction`].
    Correction(Correction),
    /// See [`Body::TreatmentEnded`]: ended by a seat change, not by the machine.
    TreatmentEnded(EndReason),
    /// See [`Body::TreatmentStarted`]: started by a seat change, not by the machine.
    TreatmentStarted,
}

impl Record {
    /// A record of something that is no capture.
    #[must_use]
    pub fn event(origin: Origin, treatment: Option<TreatmentId>, event: Event) -> Self {
        let body = match event {
            Event::Gap(gap) => Body::Gap(gap),
            Event::ClockStep(step) => Body::ClockStep(step),
            Event::Evicted(tombstone) => Body::Evicted(tombstone),
            Event::Correction(correction) => Body::Correction(correction),
            Event::TreatmentEnded(reason) => Body::TreatmentEnded(reason),
            Event::TreatmentStarted => Body::TreatmentStarted,
        };
        Self { origin, treatment, body }
    }

    /// For the border alone: sealing and decoding.
    pub(super) const fn assemble(origin: Origin, treatment: Option<TreatmentId>, body: Body) -> Self {
        Self { origin, treatment, body }
    }

    /// The same with the time that was found for it afterwards. All times in it are of one clock, and move together.
    #[must_use]
    pub fn retimed(mut self, at: Timestamp, clock: ClockTrust) -> Self {
        let by = at.micros_since(self.origin.at);
        self.origin.at = at;
        self.origin.clock = clock;
        self.origin.previous = self.origin.previous.map(|previous| previous.shifted(by));
        match &mut self.body {
            Body::Values(values) if clock == ClockTrust::Retimed => {
                for value in values {
                    value.doubts = value.doubts.without(Doubts::CLOCK_UNTRUSTED);
                }
            }
            Body::Gap(Gap { from, to, .. }) | Body::Evicted(Tombstone { from, to, .. }) => {
                (*from, *to) = (from.shifted(by), to.shifted(by));
            }
            Body::Values(_)
            | Body::Alarm(_)
            | Body::TreatmentStarted
            | Body::TreatmentEnded(_)
            | Body::ClockStep(_)
            | Body::Correction(_) => {}
        }
        self
    }

    /// Where and when it was made.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The treatment it belongs to, if it belongs to one.
    #[must_use]
    pub const fn treatment(&self) -> Option<TreatmentId> {
        self.treatment
    }

    /// What it says.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }
}

#[cfg(test)]
impl Record {
    /// A record of any body, for tests of what stands north of the border.
    pub(crate) const fn sample(origin: Origin, treatment: Option<TreatmentId>, body: Body) -> Self {
        Self { origin, treatment, body }
    }
}
