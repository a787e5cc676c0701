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

/// Every alarm a K-poll machine can name. It says neither direction nor priority, so no row does: the event is "an alarm"
/// and the source is what it is about. A new row goes to the end and takes the next number.
pub static ALARMS: &[AlarmRow] = &[
    about(1, "venous_pressure", "alarm on venous pressure", 158_776, "MDC_HDIALY_BLD_PUMP_PRESS_VEN"),
    about(2, "arterial_pressure", "alarm on arterial pressure", 158_744, "MDC_HDIALY_BLD_PRESS_ART"),
    about(
        3,
        "transmembrane_pressure",
        "alarm on transmembrane pressure",
        158_852,
        "MDC_HDIALY_FILTER_TRANSMEMBRANE_PRESS",
    ),
    about(4, "dialysate_temperature", "alarm on dialysate temperature", 158_796, "MDC_HDIALY_DIALYSATE_TEMP"),
    about(
        5,
        "dialysate_conductivity",
        "alarm on dialysate conductivity",
        158_788,
        "MDC_HDIALY_DIALYSATE_COND",
    ),
    about(6, "nibp", "alarm on cuff blood pressure", 150_020, "MDC_PRESS_BLD_NONINV"),
    AlarmRow {
        number: 7,
        key: "blood_leak",
        title: "blood detected in the dialysate",
        event: Some((198_244, "MDC_EVT_HDIALY_BLOOD_LEAK")),
        source: Some((70_951, "MDC_DEV_HDIALY_FLUID_CHAN")),
    },
    own(8, "dialysate_pressure", "alarm on dialysate pressure"),
    // The public codes for air name the arterial or the venous line; these machines do not say which.
    own(9, "air_detected", "air detected in a blood line, which one not stated"),
    own(10, "water_shortage", "water shortage"),
    own(11, "other", "another alarm, not named by the machine"),
];

/// An alarm about something with a public code.
const fn about(
    number: u16,
    key: &'static str,
    title: &'static str,
    source: u32,
    refid: &'static str,
) -> AlarmRow {
    AlarmRow { number, key, title, event: Some((196_616, "MDC_EVT_ALARM")), source: Some((source, refid)) }
}

/// An alarm without a public code.
const fn own(number: u16, key: &'static str, title: &'static str) -> AlarmRow {
    AlarmRow { number, key, title, event: None, source: None }
}

impl Alarm {
    /// The alarm of a key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        ALARMS.iter().find(|row| row.key == key).map(Self)
    }

    /// The alarm of a stored number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        // The table's numbers count up from one; its test holds it to that.
        ALARMS.get(usize::from(number.checked_sub(1)?)).map(Self)
    }

    /// Every alarm, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        ALARMS.iter().map(Self)
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
    /// A treatment began or ended while it was on: the gateway closes it for whoever it was raised for, and where it
    /// stays on it is raised anew for whoever comes next.
    EndTreatmentChanged,
    /// Ended by us at the next start: the gateway was cut off while it was on, and nobody watched it since.
    EndGatewayDown,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameter::Parameter;
    use std::collections::HashSet;

    #[test]
    fn numbers_count_up_from_one_so_that_a_stored_number_finds_its_row() {
        for (index, row) in ALARMS.iter().enumerate() {
            assert_eq!(usize::from(row.number), index + 1, "{}", row.key);
            assert_eq!(Alarm::from_number(row.number).unwrap().key(), row.key);
        }
        assert_eq!(Alarm::from_number(0), None);
        assert_eq!(Alarm::from_number(u16::try_from(ALARMS.len()).unwrap() + 1), None);
    }

    #[test]
    fn no_two_alarms_share_a_key_a_title_or_event_and_source() {
        let mut texts = HashSet::new();
        let mut codes = HashSet::new();
        for row in ALARMS {
            assert!(texts.insert(row.key) && texts.insert(row.title), "{}", row.key);
            assert!(row.event.is_none() || codes.insert((row.event, row.source)), "{}", row.key);
            assert_eq!(row.event.is_some(), row.source.is_some(), "{}", row.key);
        }
    }

    #[test]
    fn an_alarm_about_a_value_points_to_that_value() {
        for alarm in Alarm::all() {
            let Some(parameter) = Parameter::from_key(alarm.key()) else { continue };
            assert_eq!(alarm.row().source, parameter.row().mdc, "{alarm:?}");
        }
    }

    #[test]
    fn no_alarm_invents_a_direction() {
        const HIGH_AND_LOW: [u32; 2] = [196_648, 196_670];
        assert!(ALARMS.iter().filter_map(|row| row.event).all(|(code, _)| !HIGH_AND_LOW.contains(&code)));
    }
}
