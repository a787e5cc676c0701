//! How long the spool can take everything in while nothing can be sent.

use crate::model::time::Timestamp;
use crate::spool::SpoolStatus;

/// Of its room, the spool takes this much before the oldest records make room for new ones.
const FULL_PERCENT: u64 = 95;

/// Bytes a poll takes on disk, until there are enough records to tell.
const BYTES_A_POLL: f64 = 1_000.0;

/// From this many records on, what they take is what others will take.
const ENOUGH: u64 = 1_000;

const HOUR: i64 = 3_600_000_000;

/// The room that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes.
    pub(super) bytes: u64,
    /// Bytes that come in within an hour.
    pub(super) per_hour: u64,
}

impl Room {
    /// The rate is that of the last day; before there is a full hour of it, that of machines which all answer.
    pub(super) fn of(status: &SpoolStatus, polls_per_hour: f64, now: Timestamp) -> Self {
        let full = status.space.max / 100 * FULL_PERCENT;
        let a_poll =
            if status.records >= ENOUGH { status.bytes as f64 / status.records as f64 } else { BYTES_A_POLL };
        let polls = polls_in_full_hours(status, now).unwrap_or(polls_per_hour);
        Self { bytes: full.saturating_sub(status.bytes), per_hour: (polls * a_poll) as u64 }
    }

    /// Days until it is full; `None` where nothing comes in.
    pub(super) fn days(self) -> Option<f64> {
        (self.per_hour > 0).then(|| self.bytes as f64 / self.per_hour as f64 / 24.0)
    }
}

/// Polls kept in an hour, over the hours that have passed in full since the first one that is known.
fn polls_in_full_hours(status: &SpoolStatus, now: Timestamp) -> Option<f64> {
    let this_hour = now.as_micros().div_euclid(HOUR);
    let hours = || status.slots.iter().flat_map(|(_, chair)| chair.hours());
    let full = |hour: i64, first: i64| (first + 1..this_hour).contains(&hour);
    let first =
        hours().map(|hour| hour.hour).filter(|hour| (this_hour - 25..this_hour).contains(hour)).min()?;
    let count = this_hour - first - 1;
    let polls: u64 = hours().filter(|hour| full(hour.hour, first)).map(|hour| hour.captured).sum();
    (count > 0).then(|| polls as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{ChairName, MachineName};
    use crate::model::time::ClockTrust;
    use crate::normalise::Origin;
    use crate::privacy::record::{Body, Record};
    use crate::spool::memory::MemorySpool;
    use crate::spool::space::Space;
    use crate::spool::{Spool as _, StoreId};
    use chairside_drivers::kit::driver::ModelId;
    use chairside_drivers::kit::time::{Slot, Tick};
    use std::time::Duration;

    /// What a chair leaves that is asked every 10 s and answers every second time, from this hour on for so many seconds.
    fn half_of_the_polls(from: i64, seconds: u64) -> SpoolStatus {
        let mut spool = MemorySpool::new(StoreId([7; 16]), &[]);
        let chair = ChairName::new("chair-1").unwrap();
        spool.begin_run(&[(chair.clone(), Duration::from_secs(10))]).unwrap();
        let answer = |slot: u64| {
            let origin = Origin {
                chair: chair.clone(),
                machine: MachineName::new("asset-14").unwrap(),
                model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
                at: Timestamp::from_micros(from * HOUR).after(Duration::from_secs(slot * 10)),
                tick: Tick::from_micros(slot),
                clock: ClockTrust::Trusted,
                slot: Some(Slot(slot)),
                previous: None,
                simulated: false,
            };
            Record::sample(origin, None, Body::Values(Vec::new()))
        };
        spool.append(&(0..seconds / 10).step_by(2).map(answer).collect::<Vec<_>>()).unwrap();
        let status = spool.status();
        SpoolStatus { records: 0, space: Space { used: 0, max: 100_000_000 }, ..status }
    }

    #[test]
    fn the_rate_is_what_the_full_hours_of_the_last_day_brought_and_not_what_the_configuration_asks_for() {
        // From 6 to ten past 10. The first hour may not be whole; those from 7 to 10 are, with 180 polls each.
        let status = half_of_the_polls(500_006, 4 * 3600 + 600);
        let now = |minutes: i64| Timestamp::from_micros(500_010 * HOUR + minutes * HOUR / 60);
        assert_eq!(Room::of(&status, 360.0, now(10)).per_hour, 180_000);
        // Later on, the hours in which nothing came count as well.
        assert_eq!(Room::of(&status, 360.0, now(10 + 60)).per_hour, (3.0 * 180.0 + 30.0) as u64 * 1_000 / 4);
        // A day later none of it says anything any more.
        assert_eq!(Room::of(&status, 360.0, now(10 + 26 * 60)).per_hour, 360_000);
        // Before the first full hour is over, nothing is measured yet.
        let status = half_of_the_polls(500_010, 600);
        assert_eq!(Room::of(&status, 360.0, now(10)).per_hour, 360_000);
    }

    #[test]
    fn a_new_spool_reckons_with_machines_that_all_answer() {
        let space = Space { used: 0, max: 100_000_000 };
        let status = SpoolStatus { space, ..SpoolStatus::default() };
        // 30 machines, a poll in 10 s: 10,800 polls of 1,000 bytes an hour into 95 MB.
        let room = Room::of(&status, 30.0 * 360.0, Timestamp::from_micros(0));
        assert_eq!((room.bytes, room.per_hour), (95_000_000, 10_800_000));
        assert!((room.days().unwrap() - 0.3665).abs() < 0.001);
    }

    #[test]
    fn where_nothing_comes_in_no_day_is_told() {
        let room = Room::of(&SpoolStatus::default(), 0.0, Timestamp::from_micros(0));
        assert_eq!(room.days(), None);
    }
}
