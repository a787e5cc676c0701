//! What a simulated machine is: the machine's side of the cable, in virtual time, with a screen to compare against.

use crate::kit::driver::{ChannelId, Reading};
use crate::kit::time::Tick;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What a machine's screen shows, channel by channel, in the machine's unit.
pub type Screen = BTreeMap<ChannelId, Reading>;

/// A simulated machine.
pub trait Machine: Send {
    /// Lets the treatment go on until `now`.
    fn advance(&mut self, now: Tick);
    /// Bytes came from the gateway.
    fn handle_bytes(&mut self, now: Tick, bytes: &[u8]);
    /// The next bytes the machine puts on the wire, once their time has come.
    fn transmit(&mut self, now: Tick) -> Option<Transmission>;
    /// When [`Machine::transmit`] should be asked again without new input.
    fn wake(&self) -> Option<Tick>;
    /// What the screen shows now.
    fn screen(&self) -> Screen;
    /// Somebody at the machine does something.
    fn act(&mut self, now: Tick, act: Act);
}

/// Bytes a machine sends, with the screen they were made from where they carry values.
#[derive(Debug)]
pub struct Transmission {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The screen at that moment; `None` for bytes that carry no values.
    pub screen: Option<Screen>,
}

/// What somebody at a simulated machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Connects a patient: totals start at zero, the pumps run.
    StartTreatment,
    /// Ends the treatment: the pumps stop, totals stay on the screen.
    EndTreatment,
    /// Starts a rinse, with the totals back at zero.
    Rinse,
    /// Takes a blood pressure now; the machine repeats it in every answer afterwards.
    MeasureBloodPressure {
        /// mmHg.
        systolic: u16,
        /// mmHg.
        diastolic: u16,
        /// Per minute.
        pulse: u16,
    },
    /// Raises or clears the venous pressure alarm.
    VenousPressureAlarm(Switch),
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}
