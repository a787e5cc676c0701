//! A forwarder that panics with records in hand, and the one after it.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_forwarder_had_in_hand_when_it_panicked_is_delivered_by_the_next_one() {
    let take = || -> Act { Box::new(|batch| all(&DONE, batch)) };
    let fall = || -> Act { Box::new(|_| panic!("a test")) };
    for script in [vec![fall()], vec![take(), fall()], vec![take(), take(), take(), fall()]] {
        let first = Ward::with(readings(100), Script::from(script)).await;
        assert!(first.task.await.unwrap_err().is_panic());
        let second = Ward::on(first.spool.clone(), Script::new());
        second.until(|counts| counts.delivered == 100).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_upstream_has_in_hand_stays_in_its_hand() {
    let name = |name| UpstreamName::new(name).unwrap();
    let spool = MemorySpool::new(StoreId([3; 16]), &[name("ehr"), name("lab")]);
    let (spool, _) = start(spool).unwrap();
    spool.append(readings(3), Urgency::Now).await.unwrap();
    let all_of = BatchLimit { records: 9 };
    assert_eq!(spool.lease(&name("lab"), all_of, Lane::Backlog, Tick::ZERO).await.unwrap().len(), 3);
    let ward = Ward::on(spool, Script::new());
    ward.until(|counts| counts.delivered == 3).await;
    assert!(ward.spool.lease(&name("lab"), all_of, Lane::Backlog, Tick::ZERO).await.unwrap().is_empty());
}
