//! What several tests of the spool need: records that can be told apart.

pub(crate) mod small_disk;

pub(crate) use crate::disk::simulated::fast_home;
use crate::model::name::{ChairName, MachineName, UpstreamName};
use crate::model::parameter::Parameter;
use crate::model::time::{ClockTrust, Timestamp};
use crate::model::value::{Doubts, Mark, Reading, Value};
use crate::normalise::{EndReason, Origin};
use crate::privacy::keyring::{DataKey, DataKeys, KeyError, KeyId};
use crate::privacy::record::{Body, Event, Gap, GapCause, Record, TreatmentId};
use crate::spool::Sequence;
use crate::spool::volume::{Packing, Row};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::{Slot, Tick};
use std::collections::HashSet;
use std::sync::Mutex;

/// An upstream's name.
pub(crate) fn upstream(name: &str) -> UpstreamName {
    UpstreamName::new(name).unwrap()
}

/// A treatment that can be told from others.
pub(crate) fn treatment(number: u8) -> TreatmentId {
    TreatmentId::from_bytes([number; 16])
}

/// A record of facility data; two of different numbers differ.
pub(crate) fn record(number: u64) -> Record {
    let gap = Gap { from: at(number), to: at(number + 1), slots: 1, cause: GapCause::MachineSilent };
    Record::event(origin(number), None, Event::Gap(gap))
}

/// A record of a treatment.
pub(crate) fn record_of(treatment: TreatmentId, number: u64) -> Record {
    let event = match number % 3 {
        0 => Event::TreatmentStarted,
        1 => Event::TreatmentEnded(EndReason::FlagOff),
        _ => Event::Gap(Gap { from: at(number), to: at(number), slots: 1, cause: GapCause::LineDown }),
    };
    Record::event(origin(number), Some(treatment), event)
}

/// A poll of 70 values, as much as a talkative machine says.
pub(crate) fn reading(number: u64) -> Record {
    let parameter = Parameter::from_key("venous_pressure").unwrap();
    let value = |n: u64| Value {
        parameter,
        reading: Reading::Number(Decimal::new(i64::try_from(number % 1000 + n).unwrap(), 1).unwrap()),
        mark: Mark::New,
        doubts: Doubts::NONE,
    };
    Record::sample(origin(number), Some(treatment(1)), Body::Values((0..70).map(value).collect()))
}

/// A capture time: one second a number, from 2027 on.
pub(crate) fn at(number: u64) -> Timestamp {
    Timestamp::from_micros(1_798_761_600_000_000 + i64::try_from(number).unwrap() * 1_000_000)
}

fn origin(number: u64) -> Origin {
    Origin {
        chair: ChairName::new("chair-1").unwrap(),
        machine: MachineName::new("M-1").unwrap(),
        model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
        at: at(number),
        tick: Tick::from_micros(number),
        clock: ClockTrust::Trusted,
        slot: Some(Slot(number)),
        previous: None,
        simulated: true,
    }
}

/// Frames as rows of a database.
pub(crate) fn pack(first: Sequence, frames: &[Vec<u8>]) -> Vec<Row> {
    let mut rows = Packing::new(frames.len());
    for (sequence, frame) in (first.0..).zip(frames) {
        let added: Result<(), ()> = rows.add(Sequence(sequence), |row| {
            row.extend_from_slice(frame);
            Ok(())
        });
        added.unwrap();
    }
    let keyed = |(first, row): (Sequence, sled::IVec)| (first.0.to_be_bytes().to_vec(), row.to_vec());
    rows.rows().into_iter().map(keyed).collect()
}

/// Keys that follow from their id, until they are destroyed.
#[derive(Default)]
pub(crate) struct Keys {
    made: Mutex<HashSet<KeyId>>,
    destroyed: Mutex<HashSet<KeyId>>,
}

impl Keys {
    pub(crate) fn destroy(&self, id: KeyId) {
        self.destroyed.lock().unwrap().insert(id);
    }
}

impl DataKeys for Keys {
    fn seal_key(&self, id: KeyId) -> Result<DataKey, KeyError> {
        if self.destroyed.lock().unwrap().contains(&id) {
            return Err(KeyError::Destroyed);
        }
        self.made.lock().unwrap().insert(id);
        Ok(key(id))
    }

    fn open_key(&self, id: KeyId) -> Option<DataKey> {
        let made = self.made.lock().unwrap().contains(&id);
        (made && !self.destroyed.lock().unwrap().contains(&id)).then(|| key(id))
    }
}

fn key(id: KeyId) -> DataKey {
    let mut bytes = [0x5A; 32];
    bytes[..16].copy_from_slice(&id.0);
    DataKey::from_bytes(bytes)
}
