//! Keys and bindings of treatments of which nothing is left are of no use to anybody; kept, they would make the keyring grow for ever.

use crate::model::time::Timestamp;
use crate::privacy::keyring::{Keyring, KeyringError};
use crate::privacy::record::TreatmentId;
use crate::spool::handle::SpoolHandle;
use crate::supervise::Cause;
use std::sync::Arc;
use std::time::Duration;

/// A key outlives its treatment by this much even where the spool holds nothing of it: a disk may still bring back what was taken for
/// lost.
const KEYS_KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Treatments asked about in one turn at the spool.
const TURN: usize = 512;

/// Goes through the treatments, some in each turn.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    /// The last one that was asked about; the next turn goes on behind it.
    asked: Option<TreatmentId>,
}

impl Forgetting {
    /// Destroys the keys of treatments that ended long ago and of which neither a record nor a dead letter is left. Gives how many.
    pub(super) async fn forget(
        &mut self,
        keyring: &Arc<Keyring>,
        spool: &SpoolHandle,
        now: Timestamp,
    ) -> Result<usize, Cause> {
        let kept = i64::try_from(KEYS_KEPT.as_micros()).unwrap_or(i64::MAX);
        let long_ago = Timestamp::from_micros(now.as_micros().saturating_sub(kept));
        let asked = self.turn(&keyring.treatments_ended_before(long_ago), TURN);
        if asked.is_empty() {
            return Ok(0);
        }
        let gone = spool.tools(move |spool| spool.without_trace(&asked)).await?;
        if gone.is_empty() {
            return Ok(0);
        }
        let keyring = Arc::clone(keyring);
        let forgotten = tokio::task::spawn_blocking(move || keyring.forget_treatments(&gone)).await;
        forgotten.map_or(Ok(0), |forgotten: Result<usize, KeyringError>| forgotten.map_err(Cause::Keyring))
    }

    /// The next ones of all, in their order, and from the first again behind the last.
    fn turn(&mut self, all: &[TreatmentId], count: usize) -> Vec<TreatmentId> {
        let behind = all.partition_point(|id| self.asked.is_some_and(|asked| *id <= asked));
        let (before, next) = all.split_at(behind);
        let turn: Vec<_> = next.iter().chain(before).take(count).copied().collect();
        self.asked = turn.last().copied();
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Unseated;
    use crate::model::name::{ChairName, MachineName};
    use crate::privacy::keyring::DataKeys;
    use crate::privacy::seats::Seats;
    use crate::spool::handle::{Urgency, start};
    use crate::spool::memory::MemorySpool;
    use crate::spool::testing::{at, record_of, upstream};
    use crate::spool::{Reason, Retention, Sequence, StoreId, Verdict};

    const DAY: u64 = 24 * 60 * 60;

    /// One treatment after the other, each an hour long.
    fn treatments(keyring: &Arc<Keyring>, count: u64) -> Vec<TreatmentId> {
        let seats = Seats::new(Arc::clone(keyring), Unseated::Hold);
        let (chair, machine) = (ChairName::new("chair-1").unwrap(), MachineName::new("asset-1").unwrap());
        let one = |n: u64| {
            let id = seats.treatment_started(&chair, &machine, at(n * 7200)).unwrap();
            seats.treatment_ended(&chair, at(n * 7200 + 3600)).unwrap();
            id
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn every_treatment_has_its_turn_however_many_there_are() {
        let all: Vec<_> = (0..7).map(|n| TreatmentId::from_bytes([n; 16])).collect();
        let mut forgetting = Forgetting::default();
        let mut turn = |all: &[TreatmentId]| -> Vec<u8> {
            forgetting.turn(all, 3).iter().map(|id| id.as_bytes()[0]).collect()
        };
        assert_eq!((turn(&all), turn(&all), turn(&all)), (vec![0, 1, 2], vec![3, 4, 5], vec![6, 0, 1]));
        // One that was asked about last may be gone by the next turn.
        let left: Vec<_> = all.into_iter().filter(|id| id.as_bytes()[0] != 1).collect();
        assert_eq!((turn(&left), turn(&left[..2]), turn(&[])), (vec![2, 3, 4], vec![0, 2], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_goes_with_the_last_record_and_the_last_dead_letter_of_its_treatment() {
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        let ids = treatments(&keyring, 3);
        let ehr = upstream("ehr");
        let inner = MemorySpool::with_volumes_of(2, StoreId([1; 16]), std::slice::from_ref(&ehr));
        let (spool, _thread) = start(inner).unwrap();
        // The first has a record that is still kept, the second one that was refused and whose volume is gone, the third had one.
        let records = [ids[1], ids[2], ids[0]].into_iter().zip(1..).map(|(id, n)| record_of(id, n));
        for record in records {
            spool.append(vec![record], Urgency::Now).await.unwrap();
        }
        let refused = Verdict::Refused { parts: 1, reason: Reason { status: 422, issue: None } };
        let taken = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
        spool.settle(&ehr, vec![(Sequence(1), refused), (Sequence(2), taken)]).await.unwrap();
        let gone = Retention { keep_delivered: Duration::ZERO, max_bytes: u64::MAX };
        assert_eq!(spool.prune(gone, at(DAY)).await.unwrap().records, 2);

        let mut forgetting = Forgetting::default();
        assert_eq!(forgetting.forget(&keyring, &spool, at(13 * DAY)).await.unwrap(), 0, "too early");
        assert_eq!(forgetting.forget(&keyring, &spool, at(30 * DAY)).await.unwrap(), 1);
        let known = ids.iter().map(|id| keyring.open_key((*id).into()).is_some()).collect::<Vec<_>>();
        assert_eq!(known, [true, true, false]);
        spool.tools(|spool| spool.discard(&Default::default(), None, 9)).await.unwrap();
        assert_eq!(forgetting.forget(&keyring, &spool, at(30 * DAY)).await.unwrap(), 1);
        assert_eq!(keyring.treatments_ended_before(at(90 * DAY)), [ids[0]]);
    }
}
