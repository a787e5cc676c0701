//! A checked device map: what each channel of a model means at this site.

use crate::model::alarm::Alarm;
use crate::model::parameter::Parameter;
use crate::model::unit::Unit;
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::{ChannelId, ModelId};

/// A checked device map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMap {
    /// The model it is for.
    pub driver: ModelId,
    /// Its revision, counted by whoever edits it.
    pub revision: u32,
    /// Who compared it with the screen, and on which software.
    pub checked_on: Vec<String>,
    /// What channels mean.
    pub entries: Vec<MapEntry>,
    /// Which channels raise alarms.
    pub alarms: Vec<(Alarm, ChannelId)>,
    /// How a treatment is recognised; `None` where the map has no `[treatment]`.
    pub treatment: Option<TreatmentRule>,
}

/// One parameter of a device map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// What it is.
    pub parameter: Parameter,
    /// Where it stands on the wire.
    pub from: ChannelId,
    /// The unit on the machine's screen; `None` for states.
    pub machine_unit: Option<Unit>,
    /// What is plausible while treating, in the parameter's unit; the table's range where the map has none.
    pub plausible: (Option<Decimal>, Option<Decimal>),
    /// Spot values: the channel that changes with each measurement.
    pub new_when_changes: Option<ChannelId>,
}

/// How a treatment is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreatmentRule {
    /// An in-treatment flag: running while this channel's raw code is one of these.
    Flag {
        /// The channel.
        from: ChannelId,
        /// The raw codes that mean "in treatment".
        is: Vec<u32>,
    },
    /// No flag: elapsed time advances with blood flow above zero, two polls running.
    /// (TOML: `[treatment] elapsed = "K", blood_flow = "D"`.)
    Elapsed {
        /// The channel of the elapsed time.
        elapsed: ChannelId,
        /// The channel of the blood flow.
        blood_flow: ChannelId,
    },
}
