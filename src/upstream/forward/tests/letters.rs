//! Refusals whose dead letters cannot be written.

use super::*;

const REFUSED: Verdict = Verdict::Refused { parts: 1, reason: Reason { status: 422, issue: None } };

/// Refuses the first record of a batch and takes the others.
fn refuse_first() -> Act {
    Box::new(|batch| {
        let mut delivery = all(&DONE, batch);
        delivery.verdicts[0].1 = REFUSED;
        delivery
    })
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_cannot_be_written_down_waits_alone_and_is_kept_in_the_end() {
    let name = UpstreamName::new("ehr").unwrap();
    let inner = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
    let spool = Sulking { inner, refusals: 2, only_letters: true };
    let script = (0..3).map(|_| refuse_first()).collect();
    let mut ward = Ward::over(spool, readings(4), script).await;
    ward.state.wait_for(|state| state.setback.is_some()).await.unwrap();
    let (counts, setback) = (ward.counts().await, ward.state.borrow().setback.clone());
    assert_eq!((counts.delivered, counts.waiting, counts.refused), (3, 1, 0), "the others are settled");
    assert_eq!(setback.map(|trouble| trouble.code), Some("letters_unwritten"));
    ward.until(|counts| counts.refused == 1).await;
    assert_eq!(ward.seconds(), [0, 60, 120], "once a minute, and no other record waits for it");
    assert_eq!(ward.delivered_batches(), [vec![1, 2, 3, 4], vec![1], vec![1]]);
    let not_kept = ward.saw.lock().unwrap().iter().filter(|saw| **saw == Saw::NotKept).count();
    assert_eq!(not_kept, 2, "each time the upstream is told to stand by it");
    assert_eq!(ward.state.borrow().delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_takes_nothing_forgets_no_refusal() {
    let name = UpstreamName::new("ehr").unwrap();
    let inner = MemorySpool::new(StoreId([3; 16]), std::slice::from_ref(&name));
    let spool = Sulking { inner, refusals: 1, only_letters: false };
    let ward = Ward::over(spool, readings(1), Script::from([refuse_first(), refuse_first()])).await;
    ward.until(|counts| counts.refused == 1).await;
    assert_eq!(ward.saw.lock().unwrap().iter().filter(|saw| **saw == Saw::NotKept).count(), 1);
}
