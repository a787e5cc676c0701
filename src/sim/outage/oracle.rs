//! What a receiver must have in the end, counted from the records themselves and not from what an encoder made of them.

use crate::config::settings::{Changes, Every, SendPolicy, Unseated, Wanted};
use crate::model::parameter::Kind;
use crate::model::time::Timestamp;
use crate::model::value::{Mark, Reading, Value};
use crate::privacy::record::{Body, Record};
use crate::sim::outage::tally::Readings;
use std::time::Duration;

const DAY: i64 = 86_400_000_000;
/// One measurement of the cuff is one resource without a value of its own.
const CUFF: [&str; 3] = ["nibp_systolic", "nibp_diastolic", "nibp_mean"];

/// Counts the single numbers that a receiver with this `send` has to get.
#[derive(Clone, Copy, Debug)]
pub struct Oracle {
    send: SendPolicy,
    unseated: Unseated,
    readings: Readings,
}

impl Oracle {
    /// Nothing was played yet.
    #[must_use]
    pub fn new(send: SendPolicy, unseated: Unseated) -> Self {
        Self { send, unseated, readings: Readings::default() }
    }

    /// This record is durable.
    pub fn expect(&mut self, record: &Record) {
        let Body::Values(values) = record.body() else { return };
        // What a machine says between two treatments is nobody's, and is only sent where that is asked for.
        if record.treatment().is_none() && self.unseated == Unseated::Hold {
            return;
        }
        let origin = record.origin();
        let wanted = values.iter().filter(|value| self.wants(value, origin.at, origin.previous)).count();
        (0..wanted).for_each(|_| self.readings.add(origin.at));
    }

    /// All that was expected so far.
    #[must_use]
    pub const fn readings(&self) -> Readings {
        self.readings
    }

    fn wants(&self, value: &Value, at: Timestamp, previous: Option<Timestamp>) -> bool {
        let row = value.parameter.row();
        if !matches!(value.reading, Reading::Number(_)) || row.unit.is_none() || CUFF.contains(&row.key) {
            return false;
        }
        match (row.kind, value.mark) {
            (_, Mark::Baseline) => false,
            (Kind::Measured | Kind::Total, _) => match self.send.every {
                Every::Poll => true,
                Every::Window(length) => previous.is_none_or(|it| window(it, length) != window(at, length)),
            },
            (Kind::Setting, mark) => mark == Mark::New && self.send.settings == Changes::OnChange,
            (Kind::Spot, mark) => mark == Mark::New && self.send.spot == Wanted::Yes,
            (Kind::State(_), _) => false,
        }
    }
}

/// Day and window of that day, counted from UTC midnight.
fn window(at: Timestamp, length: Duration) -> (i64, i64) {
    let length = i64::try_from(length.as_micros()).unwrap_or(DAY).clamp(1, DAY);
    let micros = at.as_micros();
    (micros.div_euclid(DAY), micros.rem_euclid(DAY) / length)
}
