//! Holds the spool of a stopped gateway against its manifest, and changes nothing.

use crate::privacy::keyring::DataKeys;
use crate::spool::dead::DeadLetters;
use crate::spool::disk::{Disk, refusal};
use crate::spool::frame::Opener;
use crate::spool::lock::Lock;
use crate::spool::manifest::{Found, read};
use crate::spool::opening::volume_folders;
use crate::spool::scan::{Index, Tail};
use crate::spool::settlement::Settlement;
use crate::spool::stopped::copy_settlements;
use crate::spool::tools::Standing;
use crate::spool::{Sequence, SpoolError};
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// There is a spool with a readable manifest.
    pub manifest: bool,
    /// Whether the last process ended in order.
    pub closed: bool,
    /// Highest sequence that the manifest knows.
    pub last: u64,
    /// Every volume that the manifest names.
    pub volumes: Vec<VolumeCheck>,
    /// Folders of volumes that it does not name.
    pub unnamed: u32,
    /// Dead letters.
    pub letters: u64,
    /// Places in the files of dead letters that hold nothing that can be read.
    pub letters_damaged: u64,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCheck {
    /// The name of its folder.
    pub volume: String,
    /// Records it must hold.
    pub expected: u64,
    /// Records that authenticate, or that no key of this keyring opens.
    pub found: u64,
    /// Those among them that no key of this keyring opens: their patient was forgotten, or it is not the keyring that sealed them.
    pub sealed: u64,
    /// Those among the sealed ones that an upstream still has to get.
    pub unsent: u64,
    /// Records behind the manifest: of a commit that was cut short.
    pub behind: u64,
    /// Set aside at an earlier start.
    pub set_aside: bool,
}

impl Verification {
    /// Whether everything is there that must be.
    #[must_use]
    pub fn holds(&self) -> bool {
        let letters = self.letters_damaged == 0;
        let whole = |volume: &VolumeCheck| volume.found >= volume.expected && volume.unsent == 0;
        self.manifest && letters && self.volumes.iter().all(whole)
    }
}

/// Authenticates every frame of the spool in this folder. `progress` hears how many volumes are done, and of how many.
///
/// # Errors
/// `Busy` while a gateway runs, `Format`, `Permission`, `Disk`.
pub fn verify(
    home: &Path,
    keys: &dyn DataKeys,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verification, SpoolError> {
    let _lock = Lock::take(home)?;
    let folders = volume_folders(home)?;
    let dead = DeadLetters::open(home, &Disk::default())?;
    let (letters, letters_damaged) = (dead.count(), dead.damaged());
    let contents = match read(home)? {
        Found::Manifest(contents, _) => contents,
        Found::Nothing if folders.is_empty() => {
            return Ok(Verification { manifest: true, closed: true, ..Verification::default() });
        }
        Found::Nothing | Found::Damaged => {
            let unnamed = u32::try_from(folders.len()).unwrap_or(u32::MAX);
            return Ok(Verification { unnamed, letters, letters_damaged, ..Verification::default() });
        }
    };
    let act = "look at what was sent";
    let copy = tempfile::tempdir().map_err(|source| refusal(act, source))?;
    copy_settlements(home, copy.path()).map_err(|source| refusal(act, source))?;
    let upstreams: Vec<_> = contents.upstreams.iter().map(|entry| entry.name.clone()).collect();
    let settlement =
        Settlement::open(copy.path(), &Disk::default(), &contents.upstreams, &upstreams, contents.last)?;
    let is_unsent = |sequence: &&Sequence| {
        let unsent = |standing| matches!(standing, Standing::Waiting | Standing::Held(_));
        settlement.standings(**sequence).into_iter().any(|(_, standing)| unsent(standing))
    };
    let newest = contents.volumes.last().map_or(0, |volume| volume.number);
    let mut checks = Vec::with_capacity(contents.volumes.len());
    for (done, volume) in contents.volumes.iter().enumerate() {
        progress(done, contents.volumes.len());
        let in_doubt = volume.number == newest && !contents.closed;
        let tail = if in_doubt { Tail::Adopt } else { Tail::Ignore };
        let mut opener = Opener::new(keys);
        let index = Index::of(home, volume, tail, &mut opener)?;
        let behind = index.last().saturating_sub(volume.last);
        checks.push(VolumeCheck {
            volume: volume.folder(),
            expected: volume.records(),
            found: index.found().saturating_sub(behind),
            sealed: index.sealed().len() as u64,
            unsent: index.sealed().iter().filter(is_unsent).count() as u64,
            behind,
            set_aside: volume.set_aside.is_some(),
        });
    }
    let named = |number: &u64| {
        contents.volumes.iter().any(|volume| volume.number == *number)
            || contents.aside.iter().any(|aside| aside.number == *number)
    };
    let unnamed = folders.iter().filter(|number| !named(number)).count();
    Ok(Verification {
        manifest: true,
        closed: contents.closed,
        last: contents.last,
        volumes: checks,
        unnamed: u32::try_from(unnamed).unwrap_or(u32::MAX),
        letters,
        letters_damaged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::store::{Options, SledSpool};
    use crate::spool::testing::{Keys, at, record, record_of, treatment, upstream};
    use crate::spool::{Spool, Verdict};
    use std::sync::Arc;

    #[test]
    fn records_that_no_key_opens_are_not_called_complete_before_they_are_sent() {
        for sent in [false, true] {
            let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
            let ehr = [upstream("ehr")];
            let mut spool =
                SledSpool::open(home.path(), keys.clone(), &ehr, Options::new(1 << 30), at(0)).unwrap();
            let records: Vec<_> = (2..=4).map(|n| record_of(treatment(3), n)).collect();
            spool.append(&[record(1)]).unwrap();
            spool.append(&records).unwrap();
            if sent {
                let taken = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
                let verdicts: Vec<_> = (1..=4).map(|n| (Sequence(n), taken.clone())).collect();
                spool.settle(&upstream("ehr"), &verdicts).unwrap();
            }
            spool.close().unwrap();
            drop(spool);
            // As with a keyring from a backup of before that treatment.
            keys.destroy(treatment(3).into());
            let check = verify(home.path(), &*keys, &mut |_, _| {}).unwrap();
            let VolumeCheck { expected, found, sealed, unsent, .. } = check.volumes[0];
            assert_eq!((expected, found, sealed, unsent), (4, 4, 3, if sent { 0 } else { 3 }));
            assert_eq!(check.holds(), sent);
        }
    }
}
