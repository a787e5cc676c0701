//! The demo's verdict, as `--json` prints it.

use serde::Serialize;
use std::collections::BTreeMap;

/// The verdict: what agrees, and what does not.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Whether all agree.
    pub agrees: bool,
    /// Always: nothing of this is anybody's.
    pub simulated: bool,
    /// Machines.
    pub chairs: usize,
    /// How much faster than life they lived.
    pub speed: u32,
    /// Seconds from the first cue to the verdict.
    pub seconds: f64,
    /// Seconds the receiver was cut off.
    pub outage_seconds: f64,
    /// Polls.
    pub polls: Polls,
    /// Records, as the gateway's spool counts them.
    pub records: Records,
    /// Resources, as the receiver counts them.
    pub resources: Resources,
    /// Treatments whose patient was seated.
    pub treatments: u64,
    /// Values whose digits, unit, time and patient were compared with a screen.
    pub values_compared: u64,
    /// Alarm edges compared.
    pub alarm_edges: u64,
    /// Values that are not what the screen showed, or that should not be there.
    pub wrong: u64,
    /// Readings that are not with the patient who sat there.
    pub misattributed: u64,
    /// Readings that say again what another one says.
    pub duplicates: u64,
    /// Readings that should be there and are not.
    pub missing: u64,
    /// Polls the gateway did not get to on this computer, each of them told to the receiver as a gap.
    pub told_as_gaps: u64,
    /// What disagreed, in words; the first ones.
    pub disagreements: Vec<String>,
}

/// Polls of all chairs.
#[derive(Debug, Default, Serialize)]
pub struct Polls {
    /// Screens that left on a wire.
    pub shown: u64,
    /// Polls the gateway counts as answered.
    pub answered: u64,
    /// Polls the gateway counts as missed.
    pub missed: u64,
    /// Polls of which the gateway cannot say what became of them.
    pub unaccounted: u64,
}

/// Records in the spool.
#[derive(Debug, Default, Serialize)]
pub struct Records {
    /// All of them.
    pub total: u64,
    /// Delivered.
    pub delivered: u64,
    /// Not asked for by the receiver: readings of empty chairs.
    pub skipped: u64,
    /// Held: nobody was seated.
    pub held: u64,
    /// Not delivered at the end.
    pub waiting: u64,
    /// Refused by the receiver.
    pub refused: u64,
    /// Lost or evicted.
    pub lost: u64,
    /// The most that waited at once, as far as it was seen.
    pub most_waiting: u64,
}

/// Resources at the receiver.
#[derive(Debug, Default, Serialize)]
pub struct Resources {
    /// All of them.
    pub total: usize,
    /// By type.
    pub by_type: BTreeMap<String, u64>,
    /// Entries that came again word for word, and made no second resource.
    pub repeated: u64,
    /// Entries the receiver refused.
    pub refused: u64,
}
