//! The K-poll family: the host sends `K`, the machine answers with tagged values of fixed width. PROTOCOL.md has the
//! facts and where each comes from.

pub mod codec;
mod conversation;
mod received;
mod simulator;
pub mod table;
mod value;

use crate::kit::driver::{
    Channel, ChannelId, Direction, Driver, Effect, Evidence, LineSettings, Model, ModelId, Parity,
    RequestSpec,
};
use crate::kit::simulator::Machine;
use crate::{Entry, OptionError, Options};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;
use codec::Kpoll;
use conversation::Conversation;
use core::time::Duration;
use simulator::{Simulator, Terminator};
use table::Table;

/// The one request there is: `K` CR LF.
const ASK: &[u8] = &[0x4B, 0x0D, 0x0A];

/// PROTOCOL.md 1: the one known host implementation waits 3 s for an answer. The longest answer takes 0.3 s at 9600 baud.
const QUIET_TIME: Duration = Duration::from_secs(3);

const PUBLIC_FRAMES: &str =
    "public ward application of 2019 with real frames in its comments; LEN and CK recomputed";
const ONE_PROGRAM: &str = "public ward application of 2019, item list only; no public frame";

/// Nikkiso DBB-27C.
pub const NIKKISO_DBB27C: Entry = Entry {
    id: ModelId::from_static("kpoll/nikkiso_dbb27c"),
    title: "Nikkiso DBB-27C",
    evidence: Evidence::Captured,
    source: PUBLIC_FRAMES,
    default_map: "nikkiso_dbb27c.toml",
    build: |options| build(options, &NIKKISO_DBB27C, &table::NIKKISO_DBB27C, Terminator::AtOnce),
};

/// Toray TR-8000.
pub const TORAY_TR8000: Entry = Entry {
    id: ModelId::from_static("kpoll/toray_tr8000"),
    title: "Toray TR-8000",
    evidence: Evidence::Captured,
    source: PUBLIC_FRAMES,
    default_map: "toray_tr8000.toml",
    build: |options| build(options, &TORAY_TR8000, &table::TORAY_TR8000, Terminator::OftenLate),
};

/// Toray TR-321.
pub const TORAY_TR321: Entry = Entry {
    id: ModelId::from_static("kpoll/toray_tr321"),
    title: "Toray TR-321",
    evidence: Evidence::Captured,
    source: PUBLIC_FRAMES,
    default_map: "toray_tr321.toml",
    build: |options| build(options, &TORAY_TR321, &table::TORAY_TR321, Terminator::AtOnce),
};

/// Toray TR-3000.
pub const TORAY_TR3000: Entry = Entry {
    id: ModelId::from_static("kpoll/toray_tr3000"),
    title: "Toray TR-3000",
    evidence: Evidence::SingleSource,
    source: ONE_PROGRAM,
    default_map: "toray_tr3000.toml",
    build: |options| build(options, &TORAY_TR3000, &table::TORAY_TR3000, Terminator::OftenLate),
};

/// One model of the family.
#[derive(Debug)]
struct KpollModel {
    id: ModelId,
    evidence: Evidence,
    table: &'static Table,
    terminator: Terminator,
    channels: Vec<Channel>,
    requests: [RequestSpec; 1],
}

fn build(
    options: &Options,
    entry: &Entry,
    table: &'static Table,
    terminator: Terminator,
) -> Result<Box<dyn Model>, OptionError> {
    if let Some(key) = options.keys().next() {
        return Err(OptionError::Unknown { key: key.clone(), known: &[] });
    }
    Ok(Box::new(KpollModel {
        id: entry.id.clone(),
        evidence: entry.evidence,
        table,
        terminator,
        channels: channels(table),
        requests: [RequestSpec {
            name: "poll",
            effect: Effect::Read,
            bytes: Cow::Borrowed(ASK),
            source: "PROTOCOL.md 1",
        }],
    }))
}

fn channels(table: &Table) -> Vec<Channel> {
    let channel = |item: &table::Item| Channel {
        id: ChannelId::from_static(item.id),
        kind: item.kind,
        meaning: item.meaning,
        unit: item.unit,
        example: item.example,
        example_reading: value::read(item, item.example.as_bytes()).ok(),
    };
    table.items.iter().map(channel).collect()
}

impl Model for KpollModel {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn evidence(&self) -> Evidence {
        self.evidence
    }

    fn line(&self) -> LineSettings {
        LineSettings {
            baud: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            direction: Direction::Poll,
        }
    }

    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn requests(&self) -> &[RequestSpec] {
        &self.requests
    }

    fn quiet_time(&self) -> Duration {
        QUIET_TIME
    }

    fn driver(&self) -> Box<dyn Driver> {
        let [ask] = &self.requests;
        Box::new(Conversation::new(Kpoll::new(self.table), ask.request(), QUIET_TIME))
    }

    fn machine(&self, seed: u64) -> Box<dyn Machine> {
        Box::new(Simulator::new(self.table, self.terminator, seed))
    }
}
