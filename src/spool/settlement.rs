//! Remembers across restarts what each upstream has settled, in a small database of its own.
//!
//! It may lag behind what was settled and never leads it. Losing all of it means sending again, which changes nothing at a receiver,
//! because the same record carries the same ids.

mod remembered;

use self::remembered::{chunk_key, highest_known, remembered, summary_key};
use crate::model::name::UpstreamName;
use crate::privacy::record::TreatmentId;
use crate::spool::bytes::{checked, with_checksum};
use crate::spool::disk::{Disk, free, refusal};
use crate::spool::ledger::{End, Ledger};
use crate::spool::letter::Refusal;
use crate::spool::manifest::UpstreamEntry;
use crate::spool::salvage::Runs;
use crate::spool::store::remove_folder;
use crate::spool::tools::Standing;
use crate::spool::volume::{Database, Row};
use crate::spool::{Sequence, SpoolError, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FOLDER: &str = "settlement";
const ASIDE: &str = "settlement-damaged";

/// With less than this on the file system no database is made anew: it would be cut short.
const ROOM: u64 = 4 * 1024 * 1024;

/// The ledgers of all upstreams, and the database behind them.
pub(crate) struct Settlement {
    home: PathBuf,
    disk: Disk,
    database: Option<Database>,
    /// The database met a disk without room. What it has on disk is sound, its engine is not asked again.
    is_stuck: bool,
    /// The highest sequence that was ever given, as far as any upstream knows.
    last: u64,
    ledgers: BTreeMap<UpstreamName, Ledger>,
    configured: BTreeSet<UpstreamName>,
    /// Upstreams whose settlements were lost.
    forgotten: BTreeSet<UpstreamName>,
    /// Upstreams whose start and counts the database does not have yet.
    unwritten: BTreeSet<UpstreamName>,
    releases: u64,
    /// Treatments released while something was leased, with the count of releases then.
    released: BTreeMap<TreatmentId, u64>,
}

impl Settlement {
    /// Opens what is remembered of the upstreams in `known`, and makes ledgers for those of `configured`.
    ///
    /// A new upstream starts behind `last`. What a removed one still had to send is skipped.
    pub(crate) fn open(
        home: &Path,
        disk: &Disk,
        known: &[UpstreamEntry],
        configured: &[UpstreamName],
        last: u64,
    ) -> Result<Self, SpoolError> {
        let mut settlement = Self {
            home: home.into(),
            disk: disk.clone(),
            database: None,
            is_stuck: false,
            last,
            ledgers: BTreeMap::new(),
            configured: configured.iter().cloned().collect(),
            forgotten: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            releases: 0,
            released: BTreeMap::new(),
        };
        let rows = match settlement.open_database() {
            Ok(rows) => rows,
            Err(error @ SpoolError::Permission { .. }) => return Err(error),
            // A disk without room says nothing about what the store holds.
            Err(error) if error.is_no_space() || !settlement.has_room() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the settlement store is lost, everything kept is sent again");
                settlement.start_over()?;
                Vec::new()
            }
        };
        let rows: BTreeMap<&[u8], &[u8]> =
            rows.iter().filter_map(|(key, value)| Some((key.as_slice(), checked(value)?))).collect();
        let last = last.max(highest_known(&rows, known, last));
        settlement.last = last;
        for entry in known {
            let remembered = remembered(&rows, entry, last);
            if remembered.is_none() {
                settlement.forgotten.insert(entry.name.clone());
            }
            // Without a summary nothing is known to be settled, so all of it is sent again.
            let (ledger, was_configured) =
                remembered.unwrap_or_else(|| (Ledger::new(entry.start, last), true));
            settlement.ledgers.insert(entry.name.clone(), ledger);
            if !was_configured || !settlement.configured.contains(&entry.name) {
                settlement.end_all(&entry.name, 1, last, End::Skipped);
            }
        }
        for name in configured {
            settlement.ledgers.entry(name.clone()).or_insert_with(|| Ledger::new(last + 1, last));
        }
        // The summary also says who is configured, and that may just have changed.
        settlement.unwritten = settlement.ledgers.keys().cloned().collect();
        settlement.write()?;
        Ok(settlement)
    }

    /// The highest sequence that was ever given: what an upstream has settled was there, whatever became of the records.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    fn has_room(&self) -> bool {
        free(&self.home).is_ok_and(|free| free >= ROOM)
    }

    fn open_database(&mut self) -> Result<Vec<Row>, SpoolError> {
        let mut database = Database::open(&self.home.join(FOLDER), &self.disk)?;
        let rows = database.rows()?;
        self.database = Some(database);
        Ok(rows)
    }

    /// Puts the database aside for whoever wants to look at it, and starts a new one.
    fn start_over(&mut self) -> Result<(), SpoolError> {
        if let Some(given_up) = self.database.take() {
            given_up.abandon();
        }
        let (old, aside) = (self.home.join(FOLDER), self.home.join(ASIDE));
        if old.exists() {
            self.disk.act("put the settlement store aside", || {
                if aside.exists() {
                    fs::remove_dir_all(&aside)?;
                }
                fs::rename(&old, &aside)
            })?;
            self.disk.sync_folder("put the settlement store aside", &self.home)?;
        }
        self.database = Some(Database::open(&old, &self.disk)?);
        Ok(())
    }

    /// The ledger of a configured upstream.
    pub(crate) fn ledger(&mut self, upstream: &UpstreamName) -> Result<&mut Ledger, SpoolError> {
        if !self.configured.contains(upstream) {
            return Err(SpoolError::UnknownUpstream(upstream.clone()));
        }
        self.ledgers.get_mut(upstream).ok_or_else(|| SpoolError::UnknownUpstream(upstream.clone()))
    }

    /// The ledgers of the configured upstreams.
    pub(crate) fn ledgers(&self) -> impl Iterator<Item = (&UpstreamName, &Ledger)> {
        self.ledgers.iter().filter(|(name, _)| self.configured.contains(*name))
    }

    /// Leases records to an upstream.
    pub(crate) fn lease(&mut self, upstream: &UpstreamName, records: &[Sequence]) -> Result<(), SpoolError> {
        let releases = self.releases;
        self.ledger(upstream)?.lease(records.iter().copied(), releases);
        Ok(())
    }

    /// Records up to `last` exist now.
    pub(crate) fn appended(&mut self, last: u64) {
        let configured = &self.configured;
        let ledgers = self.ledgers.iter_mut().filter(|(name, _)| configured.contains(*name));
        ledgers.for_each(|(_, ledger)| ledger.appended(last));
    }

    /// Takes verdicts into the ledger. They are on disk after [`Settlement::write`].
    pub(crate) fn settle(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<(), SpoolError> {
        let released = std::mem::take(&mut self.released);
        let ledger = self.ledger(upstream)?;
        for (sequence, verdict) in verdicts {
            match verdict {
                Verdict::Delivered { parts, refused_parts } => {
                    let refused = refused_parts.len() as u64;
                    ledger.end_in_parts(*sequence, End::Delivered, u64::from(*parts), refused);
                }
                Verdict::SkippedByPolicy => ledger.end(*sequence, End::Skipped),
                Verdict::Refused { parts, .. } => {
                    ledger.end_in_parts(*sequence, End::Refused, 0, u64::from(*parts));
                }
                Verdict::Retry { not_before } => ledger.delay(*sequence, *not_before),
                Verdict::Held(treatment) => match (ledger.leased_at(*sequence), released.get(treatment)) {
                    // The binding came while the record was on its way to the upstream and back.
                    (Some(leased), Some(release)) if *release > leased => {
                        ledger.delay(*sequence, chairside_drivers::kit::time::Tick::ZERO);
                    }
                    _ => ledger.hold(*sequence, *treatment),
                },
            }
        }
        if self.ledgers.values().any(Ledger::any_leased) {
            self.released = released;
        }
        Ok(())
    }

    /// Opens a refused record again; false when it waits already.
    pub(crate) fn reopen(
        &mut self,
        upstream: &UpstreamName,
        sequence: Sequence,
        refusal: &Refusal,
    ) -> Result<bool, SpoolError> {
        let ended = match refusal.reasons.is_empty() {
            true => End::Lost,
            false if refusal.is_whole() => End::Refused,
            false => End::Delivered,
        };
        let (taken, refused) = (u64::from(refusal.parts_taken), u64::from(refusal.parts_refused));
        Ok(self.ledger(upstream)?.reopen(sequence, ended, taken, refused))
    }

    /// Where a record stands at each upstream of the configuration.
    pub(crate) fn standings(&self, sequence: Sequence) -> Vec<(UpstreamName, Standing)> {
        self.ledgers().map(|(name, ledger)| (name.clone(), ledger.standing(sequence))).collect()
    }

    /// What was held for this treatment may be leased again.
    pub(crate) fn release(&mut self, treatment: TreatmentId) {
        self.releases += 1;
        if self.ledgers.values().any(Ledger::any_leased) {
            self.released.insert(treatment, self.releases);
        }
        self.ledgers.values_mut().for_each(|ledger| ledger.release(treatment));
    }

    /// Ends a record at every upstream that has not settled it and has not leased it.
    /// Says whether there was any.
    pub(crate) fn lose(&mut self, sequence: Sequence) -> bool {
        let mut any = false;
        for ledger in self.ledgers.values_mut() {
            if ledger.leased_at(sequence).is_none() {
                any |= !ledger.is_settled(sequence);
                ledger.end(sequence, End::Lost);
            }
        }
        any
    }

    /// Ends what is not settled of a volume that has to leave, but for what stays in a copy. Durable after [`Settlement::sync`].
    pub(crate) fn evict(&mut self, first: u64, last: u64, kept: &Runs, erased: &Runs) {
        for ledger in self.ledgers.values_mut() {
            erased.sequences().for_each(|sequence| ledger.end(Sequence(sequence), End::Erased));
            let gone = (first..=last).filter(|sequence| !kept.contains(*sequence));
            gone.for_each(|sequence| ledger.end(Sequence(sequence), End::Evicted));
        }
    }

    /// Ends what one upstream has not settled of a range.
    fn end_all(&mut self, upstream: &UpstreamName, first: u64, last: u64, end: End) {
        if let Some(ledger) = self.ledgers.get_mut(upstream) {
            ledger.end_all(first, last, end);
        }
    }

    /// Ends what any upstream has not settled of a range that no volume holds. A volume is removed once all have settled it and
    /// that is durable: what a ledger still has open there was lost, unless the ledger itself was. Gives what was lost.
    pub(crate) fn without_volume(&mut self, first: u64, last: u64) -> BTreeSet<u64> {
        let mut lost = BTreeSet::new();
        for (name, ledger) in &mut self.ledgers {
            if self.forgotten.contains(name) {
                ledger.end_all(first, last, End::Delivered);
            } else {
                lost.extend(ledger.unsettled(first, last));
                ledger.end_all(first, last, End::Lost);
            }
        }
        lost
    }

    /// Ends what the copy of an evicted volume does not hold, for upstreams whose settlements were lost.
    pub(crate) fn not_in_copy(&mut self, first: u64, last: u64, kept: &Runs) {
        for (_, ledger) in self.ledgers.iter_mut().filter(|(name, _)| self.forgotten.contains(*name)) {
            let gone = (first..=last).filter(|sequence| !kept.contains(*sequence));
            gone.for_each(|sequence| ledger.end(Sequence(sequence), End::Evicted));
        }
    }

    /// Whether the settlements of any upstream were lost.
    pub(crate) fn any_forgotten(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// Whether any upstream has a record of a range in hand.
    pub(crate) fn any_leased(&self, first: u64, last: u64) -> bool {
        self.ledgers.values().any(|ledger| ledger.any_leased_of(first, last))
    }

    /// Whether every upstream has settled a range.
    pub(crate) fn all_settled(&self, first: u64, last: u64) -> bool {
        self.ledgers.values().all(|ledger| ledger.all_settled(first, last))
    }

    /// Writes what changed, so that it survives the end of this process. What finds no room on the disk is written later:
    /// it may lag.
    pub(crate) fn write(&mut self) -> Result<(), SpoolError> {
        match self.write_now() {
            Err(error) if error.is_no_space() => {
                tracing::warn!(%error, "settlements wait for room on the disk");
                Ok(())
            }
            written => written,
        }
    }

    fn write_now(&mut self) -> Result<(), SpoolError> {
        if self.is_stuck {
            return if self.has_room() { self.make_anew() } else { Err(no_room()) };
        }
        let Err(error) = self.write_changes() else { return Ok(()) };
        self.write_all_later();
        if error.is_no_space() {
            self.is_stuck = true;
            return Err(error);
        }
        tracing::warn!(%error, "the settlement store cannot be written, it is made anew");
        self.make_anew()
    }

    /// Writes all of it into a new database. Where that finds no room, the old one stays.
    fn make_anew(&mut self) -> Result<(), SpoolError> {
        let made = self.start_over().and_then(|()| {
            self.write_all_later();
            self.write_changes()
        });
        self.is_stuck = made.as_ref().is_err_and(SpoolError::is_no_space);
        if self.is_stuck {
            self.write_all_later();
            self.take_back()?;
        }
        made
    }

    /// Puts the database that was put aside back in its place.
    fn take_back(&mut self) -> Result<(), SpoolError> {
        if let Some(given_up) = self.database.take() {
            given_up.abandon();
        }
        let (new, old) = (self.home.join(FOLDER), self.home.join(ASIDE));
        if !old.exists() {
            return Ok(());
        }
        let act = "put the settlement store back";
        self.disk.act(act, || {
            remove_folder(&new)?;
            fs::rename(&old, &new)
        })?;
        self.disk.sync_folder(act, &self.home)
    }

    /// All of every ledger has to be written.
    fn write_all_later(&mut self) {
        self.unwritten = self.ledgers.keys().cloned().collect();
        self.ledgers.values_mut().for_each(Ledger::change_all);
    }

    fn write_changes(&mut self) -> Result<(), SpoolError> {
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        for (name, ledger) in &mut self.ledgers {
            let changes = ledger.take_changes();
            if changes.is_empty() && !self.unwritten.remove(name) {
                continue;
            }
            for (number, chunk) in changes {
                let key = chunk_key(name, number);
                match chunk {
                    Some(bytes) => rows.push((key, with_checksum(&bytes))),
                    None => gone.push(key),
                }
            }
            let summary = [&[u8::from(self.configured.contains(name))], ledger.summary().as_slice()].concat();
            rows.push((summary_key(name), with_checksum(&summary)));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let lost = SpoolError::Engine { act: "write settlements", why: "their store could not be made anew" };
        self.database.as_mut().ok_or(lost)?.write(rows, gone)
    }

    /// Makes what was written survive a power cut.
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        self.write_now()?;
        let act = "sync the settlement store";
        let Some(Err(error)) = self.database.as_mut().map(|database| database.sync(act)) else {
            return Ok(());
        };
        self.write_all_later();
        if error.is_no_space() {
            self.is_stuck = true;
            return Err(error);
        }
        tracing::warn!(%error, "the settlement store cannot be synced, it is made anew");
        self.make_anew()?;
        self.database.as_mut().map_or(Ok(()), |database| database.sync(act))
    }

    /// Writes everything out and lets go of the database.
    pub(crate) fn close(&mut self) -> Result<(), SpoolError> {
        match self.sync() {
            Err(error) if error.is_no_space() => {
                tracing::warn!(%error, "what was settled last finds no room on the disk and is sent again");
                if let Some(stuck) = self.database.take() {
                    stuck.abandon();
                }
            }
            synced => synced?,
        }
        self.database.take().map_or(Ok(()), Database::close)
    }
}

fn no_room() -> SpoolError {
    refusal("write settlements", rustix::io::Errno::NOSPC.into())
}
