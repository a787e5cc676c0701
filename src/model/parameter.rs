//! THE table of what can be measured: one row per parameter. Nothing else in the house lists parameters.
//!
//! Encoders, device maps, `check`, docs and pages read it. `number` is written to disk: never reuse or change one.

use crate::model::unit::Unit;
use chairside_drivers::kit::decimal::Decimal;
use std::fmt;

pub use crate::model::parameter_table::TABLE;

/// How a value may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each poll is a new observation.
    Measured,
    /// Emitted when it changes; never shares a code with a measured value.
    Setting,
    /// Counts up during a treatment; a fall starts a new segment.
    Total,
    /// A code or a switch, emitted when it changes.
    State(&'static [&'static str]),
    /// Emitted once per measurement; machines repeat the last one for hours.
    Spot,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// Its number in stored records; never reused.
    pub number: u16,
    /// Our key, as in device maps.
    pub key: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// The unit every value is stored in; `None` for states.
    pub unit: Option<Unit>,
    /// Code of IEEE 11073-10101 and its REFID, where there is one.
    pub mdc: Option<(u32, &'static str)>,
    /// LOINC code, where there is one.
    pub loinc: Option<&'static str>,
    /// What is plausible while treating, in `unit`, as text; either end may be open.
    pub plausible: (Option<&'static str>, Option<&'static str>),
    /// How it may be used.
    pub kind: Kind,
}

/// A parameter: a row of [`TABLE`].
#[derive(Clone, Copy)]
pub struct Parameter(&'static Row);

impl Parameter {
    /// The parameter of a key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.key == key).map(Self)
    }

    /// The parameter of a stored number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        // The table's numbers count up from one; its test holds it to that.
        TABLE.get(usize::from(number.checked_sub(1)?)).map(Self)
    }

    /// Every parameter, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(Self)
    }

    /// Its row.
    #[must_use]
    pub const fn row(self) -> &'static Row {
        self.0
    }

    /// Its key.
    #[must_use]
    pub const fn key(self) -> &'static str {
        self.0.key
    }

    /// The plausible range while treating, in the stored unit.
    #[must_use]
    pub fn plausible(self) -> (Option<Decimal>, Option<Decimal>) {
        let bound = |text: Option<&str>| text.and_then(|text| Decimal::parse(text.as_bytes()).ok());
        (bound(self.0.plausible.0), bound(self.0.plausible.1))
    }
}

impl PartialEq for Parameter {
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for Parameter {}

impl PartialOrd for Parameter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parameter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.number.cmp(&other.0.number)
    }
}

impl std::hash::Hash for Parameter {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.number.hash(state);
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.key)
    }
}
