//! Up to when each chair's polls are accounted for, kept over a restart, so that the time in between becomes a gap.

use crate::disk::Disk;
use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// No chair list is longer than this; a longer file is not ours.
const MAX_BYTES: u64 = 1024 * 1024;

/// One line a chair in a file of the state directory: its name and microseconds since 1970.
#[derive(Debug)]
pub(super) struct LastSlots {
    file: PathBuf,
    disk: Disk,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    chairs: BTreeMap<ChairName, Timestamp>,
    changed: bool,
}

impl LastSlots {
    /// Reads what the run before left. A missing or damaged file means that nothing is known, and no gap is claimed.
    pub(super) fn load(state_dir: &Path) -> Self {
        Self::load_on(Disk::default(), state_dir)
    }

    /// Reads it on this disk.
    pub(super) fn load_on(disk: Disk, state_dir: &Path) -> Self {
        let file = state_dir.join("last-slots");
        let small = std::fs::metadata(&file).is_ok_and(|meta| meta.len() <= MAX_BYTES);
        let text = if small { std::fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        let line = |line: &str| {
            let (chair, micros) = line.split_once(' ')?;
            Some((ChairName::new(chair).ok()?, Timestamp::from_micros(micros.parse().ok()?)))
        };
        let known = Known { chairs: text.lines().filter_map(line).collect(), changed: false };
        Self { file, disk, known: Mutex::new(known) }
    }

    /// Up to when this chair's polls are accounted for.
    pub(super) fn get(&self, chair: &ChairName) -> Option<Timestamp> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).chairs.get(chair).copied()
    }

    /// Everything of this chair up to `at` is in the spool.
    pub(super) fn set(&self, chair: &ChairName, at: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.chairs.insert(chair.clone(), at);
        known.changed = true;
    }

    /// Writes it down, where something changed.
    ///
    /// # Errors
    /// What the operating system said; the file stays as it was.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.changed {
            return Ok(());
        }
        let mut text = String::new();
        for (chair, at) in &known.chairs {
            let _ = writeln!(text, "{chair} {}", at.as_micros());
        }
        let next = self.file.with_extension("next");
        self.disk.replace(&self.file, &next, text.as_bytes())?;
        known.changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::under_every_fault;

    #[test]
    fn what_was_accounted_for_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let chair = ChairName::new("chair-1").unwrap();
        let slots = LastSlots::load(dir.path());
        assert_eq!(slots.get(&chair), None);
        slots.set(&chair, Timestamp::from_micros(42));
        slots.save().unwrap();
        assert_eq!(LastSlots::load(dir.path()).get(&chair), Some(Timestamp::from_micros(42)));
    }

    #[test]
    fn what_was_said_to_be_saved_is_saved_whatever_the_disk_does() {
        let chair = ChairName::new("chair-1").unwrap();
        under_every_fault(
            20,
            |disk, home| {
                let slots = LastSlots::load_on(disk.clone(), home);
                let save = |micros: &i64| {
                    slots.set(&chair, Timestamp::from_micros(*micros));
                    slots.save().is_ok()
                };
                (1..=3).filter(save).last()
            },
            |home, saved| {
                let kept = LastSlots::load(home).get(&chair).map(Timestamp::as_micros);
                assert!(kept >= *saved && kept <= Some(3), "{kept:?}");
            },
        );
    }

    #[test]
    fn a_damaged_file_claims_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("last-slots"), b"chair-1 \xff\nchair 2\n").unwrap();
        let slots = LastSlots::load(dir.path());
        assert_eq!(slots.get(&ChairName::new("chair-1").unwrap()), None);
    }
}
