//! Keys and bindings of treatments of which nothing is left are of no use to anybody; kept, they would make the keyring grow for ever.

use crate::model::time::Timestamp;
use crate::privacy::keyring::{Keyring, KeyringError};
use crate::spool::handle::SpoolHandle;
use crate::supervise::Cause;
use std::sync::Arc;
use std::time::Duration;

/// A key outlives its treatment by this much even where the spool holds nothing of it: a disk may still bring back what was taken for
/// lost.
const KEYS_KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Treatments asked about in one turn at the spool.
const TURN: usize = 512;

/// Destroys the keys of treatments that ended long ago and of which neither a record nor a dead letter is left. Gives how many.
pub(super) async fn forget(
    keyring: &Arc<Keyring>,
    spool: &SpoolHandle,
    now: Timestamp,
) -> Result<usize, Cause> {
    let kept = i64::try_from(KEYS_KEPT.as_micros()).unwrap_or(i64::MAX);
    let long_ago = Timestamp::from_micros(now.as_micros().saturating_sub(kept));
    let mut ended = keyring.treatments_ended_before(long_ago);
    ended.truncate(TURN);
    if ended.is_empty() {
        return Ok(0);
    }
    let gone = spool.tools(move |spool| spool.without_trace(&ended)).await?;
    if gone.is_empty() {
        return Ok(0);
    }
    let keyring = Arc::clone(keyring);
    let forgotten = tokio::task::spawn_blocking(move || keyring.forget_treatments(&gone)).await;
    forgotten.map_or(Ok(0), |forgotten: Result<usize, KeyringError>| forgotten.map_err(Cause::Keyring))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Unseated;
    use crate::model::name::{ChairName, MachineName};
    use crate::privacy::keyring::DataKeys;
    use crate::privacy::record::TreatmentId;
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

        assert_eq!(forget(&keyring, &spool, at(13 * DAY)).await.unwrap(), 0, "too early");
        assert_eq!(forget(&keyring, &spool, at(30 * DAY)).await.unwrap(), 1);
        let known = ids.iter().map(|id| keyring.open_key((*id).into()).is_some()).collect::<Vec<_>>();
        assert_eq!(known, [true, true, false]);
        spool.tools(|spool| spool.discard(&Default::default(), None, 9)).await.unwrap();
        assert_eq!(forget(&keyring, &spool, at(30 * DAY)).await.unwrap(), 1);
        assert_eq!(keyring.treatments_ended_before(at(90 * DAY)), [ids[0]]);
    }
}
