//! Volumes whose files the device does not give now. Whether what is missing in them is lost shows later: an adapter that was pulled
//! out comes back, a block that is gone does not.

use crate::spool::SpoolError;
use crate::spool::disk::refusal;
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;
use std::time::Duration;

/// What stays unreadable for so long counts as lost. It is told then.
const PATIENCE: Duration = Duration::from_secs(120);

/// A volume in doubt is not read through again before this: it may be large, and its device slow.
const PAUSE: Duration = Duration::from_secs(5);

/// The volumes in doubt, by number.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    volumes: BTreeMap<u64, Doubt>,
    /// The latest tick that anybody told.
    now: Tick,
}

#[derive(Debug)]
struct Doubt {
    since: Tick,
    next_look: Tick,
}

impl Doubts {
    /// Somebody says how late it is.
    pub(super) fn heard(&mut self, now: Tick) {
        self.now = self.now.max(now);
    }

    /// Whether the volume may be looked at now.
    ///
    /// # Errors
    /// What stands in the way, until the next look is due.
    pub(super) fn may_look(&self, number: u64) -> Result<(), SpoolError> {
        let waits = self.volumes.get(&number).is_some_and(|doubt| self.now < doubt.next_look);
        if waits { Err(unreadable()) } else { Ok(()) }
    }

    /// A look met an unreadable part.
    ///
    /// # Errors
    /// That nothing can be said of the volume yet; `Ok` once it was unreadable for too long.
    pub(super) fn note(&mut self, number: u64) -> Result<(), SpoolError> {
        let doubt = self.volumes.entry(number).or_insert(Doubt { since: self.now, next_look: self.now });
        if self.now.since(doubt.since) >= PATIENCE {
            return Ok(());
        }
        if doubt.since == self.now {
            tracing::error!(volume = number, "the device does not give all of a volume; it is tried again");
        }
        doubt.next_look = self.now.after(PAUSE);
        Err(unreadable())
    }

    /// The volume is whole, or what is missing in it is settled.
    pub(super) fn forget(&mut self, number: u64) {
        if self.volumes.remove(&number).is_some() {
            tracing::warn!(volume = number, "what the device gives of a volume is taken for all of it");
        }
    }
}

fn unreadable() -> SpoolError {
    refusal("read a volume", rustix::io::Errno::IO.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_looked_at_now_and_then_until_patience_ends() {
        let mut doubts = Doubts::default();
        let mut looks = 0;
        for second in 0..=PATIENCE.as_secs() {
            doubts.heard(Tick::from_micros(second * 1_000_000));
            if doubts.may_look(7).is_err() {
                continue;
            }
            looks += 1;
            assert_eq!(doubts.note(7).is_ok(), second == PATIENCE.as_secs(), "{second} s");
        }
        assert_eq!(looks, PATIENCE.as_secs() / PAUSE.as_secs() + 1);
        doubts.forget(7);
        assert!(doubts.may_look(7).is_ok() && doubts.note(7).is_err());
    }
}
