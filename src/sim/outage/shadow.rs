//! The shadow of a gateway: a spool and a keyring of its own in a folder that is thrown away, fed by a ward that is played.

use crate::config::settings::{ChairSettings, KeySource, SendPolicy, Unseated};
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::keyring::{Absent, Keyring};
use crate::privacy::record::{Body, Record};
use crate::sim::outage::RehearsalError;
use crate::sim::outage::oracle::Oracle;
use crate::sim::outage::ward::FastWard;
use crate::spool::store::{Options, SledSpool};
use crate::spool::{Spool as _, SpoolError};
use chairside_drivers::kit::time::Tick;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a shadow is made from.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    /// Its state directory.
    pub(super) home: PathBuf,
    /// Who sits where, and how often each is asked.
    pub(super) chairs: Vec<ChairSettings>,
    pub(super) slowdown: f64,
    pub(super) unseated: Unseated,
    pub(super) upstream: UpstreamName,
    pub(super) send: SendPolicy,
    /// When the outage begins.
    pub(super) start: Timestamp,
    /// Ward time in one commit.
    pub(super) commit: Duration,
    /// What its spool may take.
    pub(super) max_bytes: u64,
}

/// A gateway without lines and without a network.
#[derive(Debug)]
pub(super) struct Shadow {
    pub(super) cast: Cast,
    pub(super) ward: FastWard,
    pub(super) keyring: Arc<Keyring>,
    pub(super) spool: SledSpool,
    pub(super) oracle: Oracle,
    /// Ward time that was played.
    pub(super) passed: Duration,
    /// Readings that a full spool refused.
    pub(super) refused: u64,
    records: Vec<Record>,
}

/// What a power cut cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// Records that were sealed and not durable.
    pub(super) lost: u64,
    /// Slots that the records written afterwards say are missing.
    pub(super) told: u64,
    /// Durable records before, and after.
    pub(super) durable: (u64, u64),
}

impl Shadow {
    /// Makes keyring and spool, and the ward in front of them.
    pub(super) fn new(cast: Cast) -> Result<Self, RehearsalError> {
        let (keyring, spool) = open(&cast)?;
        Ok(Self {
            ward: FastWard::new(&cast.chairs, cast.slowdown, cast.start, &keyring, cast.unseated),
            oracle: Oracle::new(cast.send, cast.unseated),
            keyring,
            spool,
            passed: Duration::ZERO,
            refused: 0,
            records: Vec::new(),
            cast,
        })
    }

    /// Plays until so much ward time has passed in all, commit by commit.
    pub(super) fn play(&mut self, until: Duration) -> Result<(), RehearsalError> {
        while self.passed < until {
            self.passed = (self.passed + self.cast.commit).min(until);
            self.ward.play_until(Tick::ZERO.after(self.passed), &mut self.records)?;
            self.commit()?;
        }
        Ok(())
    }

    /// The power goes in the middle of a commit and comes back: what was not durable is gone, and is told.
    pub(super) fn lose_power(mut self) -> Result<(Self, Cut), RehearsalError> {
        let now = self.passed + self.cast.commit;
        self.ward.play_until(Tick::ZERO.after(now), &mut self.records)?;
        let lost = std::mem::take(&mut self.records);
        let before = self.spool.status().last;
        // Let go of as they are: a spool that is dropped writes nothing more.
        drop(self.spool);
        drop(self.keyring);
        self.ward.lose_power();
        let (keyring, spool) = open(&self.cast)?;
        let tick = Tick::ZERO.after(now);
        let told = self.ward.restart(&keyring, self.cast.unseated, &lost, tick);
        let slots = told.iter().map(|record| match record.body() {
            Body::Gap(gap) => u64::from(gap.slots),
            _ => 0,
        });
        let mut cut = Cut { lost: lost.len() as u64, told: slots.sum(), durable: (before, 0) };
        let mut shadow = Self { keyring, spool, passed: now, records: told, ..self };
        cut.durable.1 = shadow.spool.status().last;
        shadow.commit()?;
        Ok((shadow, cut))
    }

    fn commit(&mut self) -> Result<(), RehearsalError> {
        match self.spool.append(&self.records) {
            Ok(_) => self.records.iter().for_each(|record| self.oracle.expect(record)),
            // The gateway waits and asks again; here the outage goes on.
            Err(SpoolError::Full { .. }) => self.refused += self.records.len() as u64,
            Err(refusal) => return Err(refusal.into()),
        }
        self.records.clear();
        Ok(())
    }
}

fn open(cast: &Cast) -> Result<(Arc<Keyring>, SledSpool), RehearsalError> {
    let root = root_key(&cast.home);
    let spool = cast.home.join("spool");
    let absent = if spool.exists() { Absent::Refuse } else { Absent::Create };
    let keyring = Arc::new(Keyring::open(&cast.home, &root, absent)?);
    keyring.ensure_recipients([&cast.upstream])?;
    let keys = Arc::clone(&keyring);
    let options = Options::new(cast.max_bytes);
    let spool = SledSpool::open(&spool, keys, std::slice::from_ref(&cast.upstream), options, cast.start)?;
    Ok((keyring, spool))
}

fn root_key(home: &Path) -> KeySource {
    KeySource::File { path: home.join("root.key"), created: true }
}
