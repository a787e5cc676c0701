//! One sample and its entry in the device map make one value: unit, name, mark and doubts.

use crate::config::device_map::MapEntry;
use crate::model::parameter::{Kind, Parameter};
use crate::model::unit::Conversion;
use crate::model::value::{Mark, Reading};
use crate::normalise::plausible::Range;
use chairside_drivers::kit::driver;

/// What one channel means: an entry of the device map, worked out for use.
#[derive(Debug)]
pub(super) struct Meaning {
    pub(super) parameter: Parameter,
    pub(super) plausible: Range,
    /// The spot group it belongs to, and its place there.
    pub(super) spot: Option<(usize, usize)>,
    /// `None` where the map's unit cannot be converted; such a map does not pass `check`.
    conversion: Option<Conversion>,
    /// Settings and states: what was last said of the running treatment.
    told: Option<Reading>,
    /// Settings and states: what was last said in the running stretch without one, or in its pause.
    machines: Option<Reading>,
}

/// A sample that is not of the kind its parameter needs, or whose digits do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusable;

impl Meaning {
    pub(super) fn new(entry: &MapEntry, spot: Option<(usize, usize)>) -> Self {
        let conversion = entry.parameter.row().unit.and_then(|unit| {
            let from = entry.machine_unit.unwrap_or(unit);
            from.conversion(unit).ok()
        });
        let plausible = Range(entry.plausible.0, entry.plausible.1);
        Self { parameter: entry.parameter, plausible, spot, conversion, told: None, machines: None }
    }

    /// What a sample reads as this parameter.
    pub(super) fn read(&self, sample: &driver::Reading) -> Result<Reading, Unusable> {
        match (sample, self.parameter.row().kind) {
            (driver::Reading::Absent, _) => Ok(Reading::Absent),
            (driver::Reading::Code { name, .. }, Kind::State(names)) => {
                let known = name.and_then(|name| names.iter().find(|&&known| known == name));
                Ok(known.map_or(Reading::UnknownState, |name| Reading::State(name)))
            }
            (driver::Reading::Number(_), Kind::State(_)) => Err(Unusable),
            (driver::Reading::Number(number), _) => {
                let converted = self.conversion.and_then(|conversion| conversion.apply(*number));
                converted.map(Reading::Number).ok_or(Unusable)
            }
            (driver::Reading::Code { .. } | driver::Reading::Mark(_) | driver::Reading::Text(_), _) => {
                Err(Unusable)
            }
        }
    }

    /// Whether a reading that is no spot value is news to the treatment, or to the machine's own record where it is not
    /// `treating`: what is set in a pause is news when the treatment goes on. A total that falls is a new segment, and news
    /// like any other.
    pub(super) fn mark(&mut self, reading: Reading, treating: bool) -> Mark {
        match self.parameter.row().kind {
            Kind::Measured | Kind::Total | Kind::Spot => Mark::New,
            Kind::Setting | Kind::State(_) => {
                let before = if treating {
                    self.machines = None;
                    self.told.replace(reading)
                } else {
                    self.machines.replace(reading)
                };
                let same = before.is_some_and(|before| is_same(before, reading));
                if same { Mark::Same } else { Mark::New }
            }
        }
    }

    /// A treatment began: what is set is news to it.
    pub(super) const fn forget(&mut self) {
        self.told = None;
        self.machines = None;
    }
}

/// Whether two readings say the same; `250` and `250.0` do.
fn is_same(one: Reading, other: Reading) -> bool {
    match (one, other) {
        (Reading::Number(one), Reading::Number(other)) => one.compare(other).is_eq(),
        (one, other) => one == other,
    }
}
