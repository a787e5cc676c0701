//! The table of alarms a machine can raise, and their edges.

use std::fmt;

/// One row of the alarm table.
#[derive(Debug)]
pub struct AlarmRow {
    /// Its number in stored records; never reused.
    pub number: u16,
    /// Our key, as in `[alarm.<key>]` of a device map.
    pub key: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// The event code and REFID; `None` is a code of our own system.
    pub event: Option<(u32, &'static str)>,
    /// The metric or channel that raised it, where it has a public code.
    pub source: Option<(u32, &'static str)>,
}

/// An alarm: a row of [`ALARMS`].
#[derive(Clone, Copy)]
pub struct Alarm(&'static AlarmRow);

/// Every alarm.
pub static ALARMS: &[AlarmRow] = &[AlarmRow {
    number: 1,
    key: "venous_pressure",
    title: "alarm on venous pressure, direction and priority not stated by the machine",
    event: Some((196_616, "MDC_EVT_ALARM")),
    source: Some((158_776, "MDC_HDIALY_BLD_PUMP_PRESS_VEN")),
}];

impl Alarm {
    /// The alarm of a key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        ALARMS.iter().find(|row| row.key == key).map(Self)
    }

    /// The alarm of a stored number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        ALARMS.iter().find(|row| row.number == number).map(Self)
    }

    /// Its row.
    #[must_use]
    pub const fn row(self) -> &'static AlarmRow {
        self.0
    }

    /// Its key.
    #[must_use]
    pub const fn key(self) -> &'static str {
        self.0.key
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for Alarm {}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.key)
    }
}

/// What happened to an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The machine raised it.
    Start,
    /// The machine cleared it.
    End,
    /// The line went away while it was on; the gateway closes it.
    EndConnectionLost,
    /// More than six edges in ten minutes: one record that counts them.
    Chattering {
        /// Edges counted.
        edges: u32,
    },
}

/// One edge of one alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmEdge {
    /// Which alarm.
    pub alarm: Alarm,
    /// What happened.
    pub phase: Phase,
    /// The machine's own code for it, undocumented.
    pub raw: u32,
    /// Counts the raisings of this alarm on this machine, so start and end can be tied.
    pub occurrence: u32,
}
