//! A correction of a treatment of which records have left the spool.

use super::*;
use crate::spool::Retention;
use crate::spool::letter::RefusedFor;
use crate::spool::tools::{Standing, Wanted};

async fn ward() -> Ward {
    let name = UpstreamName::new("ehr").unwrap();
    let spool = MemorySpool::with_volumes_of(4, StoreId([3; 16]), std::slice::from_ref(&name));
    let ward = Ward::over(spool, readings(4), Script::new()).await;
    ward.spool.append(readings(4), Urgency::Now).await.unwrap();
    ward.spool.append(readings(2), Urgency::Now).await.unwrap();
    ward.until(|counts| counts.delivered == 10).await;
    ward
}

async fn prune(ward: &Ward) {
    let policy = Retention { keep_delivered: Duration::ZERO, max_bytes: u64::MAX };
    assert!(ward.spool.prune(policy, Timestamp::from_micros(0)).await.unwrap().records > 0);
}

#[tokio::test(start_paused = true)]
async fn a_correction_that_cannot_reach_every_record_rewrites_the_rest_and_is_refused_with_a_letter() {
    let ward = ward().await;
    prune(&ward).await;
    ward.spool.append(vec![correction(1, 2)], Urgency::Now).await.unwrap();
    ward.until(|counts| counts.refused == 1).await;
    assert_eq!(*ward.saw.lock().unwrap().last().unwrap(), Saw::Corrected(Revision(1), vec![9, 10]));
    let told = ward.spool.tools(|spool| spool.letters(&Wanted::default(), None, 10)).await.unwrap();
    let [letter] = &told.letters[..] else { panic!("{told:?}") };
    assert_eq!((letter.sequence, letter.standing), (Sequence(11), Some(Standing::Settled)));
    let reason = RefusedFor { part: None, status: 0, issue: Some("incomplete".to_owned()) };
    assert_eq!(letter.refusal.reasons, [reason]);
}

#[tokio::test(start_paused = true)]
async fn a_correction_of_which_nothing_at_all_is_left_is_not_done_in_silence() {
    let ward = ward().await;
    let other = Record::sample(origin(), Some(TreatmentId::from_bytes([9; 16])), Body::TreatmentStarted);
    // The volume of the last readings is full by then, and the next one begins.
    ward.spool.append(vec![other.clone(), other.clone(), other.clone()], Urgency::Now).await.unwrap();
    ward.spool.append(vec![other], Urgency::Now).await.unwrap();
    ward.until(|counts| counts.delivered == 14).await;
    prune(&ward).await;
    ward.spool.append(vec![correction(1, 2)], Urgency::Now).await.unwrap();
    ward.until(|counts| counts.refused == 1).await;
    assert!(!ward.saw.lock().unwrap().iter().any(|saw| matches!(saw, Saw::Corrected(..))));
}

#[tokio::test(start_paused = true)]
async fn what_leaves_behind_a_correction_or_of_other_treatments_costs_it_nothing() {
    let ward = ward().await;
    prune(&ward).await;
    let other = TreatmentId::from_bytes([9; 16]);
    let of_other = |body| Record::sample(origin(), Some(other), body);
    let correction = Correction { treatment: other, old: Revision(1), new: Revision(2) };
    let records = vec![of_other(Body::TreatmentStarted), of_other(Body::Correction(correction))];
    ward.spool.append(records, Urgency::Now).await.unwrap();
    ward.until(|counts| counts.delivered == 12).await;
    assert_eq!(ward.counts().await.refused, 0);
}
