//! What the tests of the spool on disk share: records that follow from their sequence, and keys that follow from their id.

use chairside::model::name::{ChairName, MachineName, UpstreamName};
use chairside::model::time::{ClockTrust, Timestamp};
use chairside::normalise::Origin;
use chairside::privacy::keyring::{DataKey, DataKeys, KeyError, KeyId};
use chairside::privacy::record::{Event, Gap, GapCause, Record};
use chairside::spool::store::{Options, SledSpool};
use chairside::spool::{BatchLimit, Lane, Spool, SpoolError, Stored};
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::{Slot, Tick};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub(crate) const HOME: &str = "CHAIRSIDE_TEST_SPOOL";
pub(crate) const SEED: &str = "CHAIRSIDE_TEST_SEED";

/// Keys that follow from their id.
pub(crate) struct Keys;

impl DataKeys for Keys {
    fn seal_key(&self, id: KeyId) -> Result<DataKey, KeyError> {
        Ok(self.open_key(id).expect("every key can be had"))
    }

    fn open_key(&self, id: KeyId) -> Option<DataKey> {
        let mut bytes = [0xA7; 32];
        bytes[..16].copy_from_slice(&id.0);
        Some(DataKey::from_bytes(bytes))
    }
}

/// The one record that this sequence may hold.
pub(crate) fn record(sequence: u64) -> Record {
    let at = Timestamp::from_micros(1_800_000_000_000_000 + i64::try_from(sequence).unwrap());
    let origin = Origin {
        chair: ChairName::new("chair-1").unwrap(),
        machine: MachineName::new("M-1").unwrap(),
        model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
        at,
        tick: Tick::from_micros(sequence),
        clock: ClockTrust::Trusted,
        slot: Some(Slot(sequence)),
        previous: None,
        simulated: true,
    };
    let slots = u32::try_from(sequence).unwrap();
    Record::event(origin, None, Event::Gap(Gap { from: at, to: at, slots, cause: GapCause::MachineSilent }))
}

pub(crate) fn ehr() -> UpstreamName {
    UpstreamName::new("ehr").unwrap()
}

pub(crate) fn open(home: &Path) -> SledSpool {
    open_with(home, 400)
}

pub(crate) fn open_with(home: &Path, volume_records: u64) -> SledSpool {
    let options = Options { volume_records, ..Options::new(256 * 1024 * 1024) };
    let open = || SledSpool::open(home, Arc::new(Keys), &[ehr()], options.clone(), Timestamp::from_micros(0));
    free(open).expect("open the spool")
}

/// Tries until nobody holds the spool: a child that another test is about to start has our files open for an instant.
pub(crate) fn free<T>(mut act: impl FnMut() -> Result<T, SpoolError>) -> Result<T, SpoolError> {
    for _ in 0..100_000 {
        match act() {
            Err(SpoolError::Busy(_)) => std::thread::yield_now(),
            done => return done,
        }
    }
    act()
}

/// Everything that is waiting, in order.
pub(crate) fn everything(spool: &mut SledSpool) -> Vec<Stored> {
    let mut all = Vec::new();
    loop {
        let late = Tick::from_micros(u64::MAX);
        let leased = spool.lease(&ehr(), BatchLimit { records: 1000 }, Lane::Backlog, late).expect("lease");
        if leased.is_empty() {
            return all;
        }
        all.extend(leased);
    }
}

/// A folder in memory where there is one: what is tested there does not depend on a disk.
pub(crate) fn fast_home() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Tells the oracle. Written at once and in one piece, as the test harness buffers what is printed.
pub(crate) fn tell(line: String) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n@ {line}\n").as_bytes());
    let _ = out.flush();
}
