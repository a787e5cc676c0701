//! The front desk on a disk that does not take the audit record.

use super::*;
use crate::control::Correct;
use crate::control::spool::{Ask, Told, Wish};
use crate::gateway::chair::tests::House;
use crate::privacy::record::Body;
use crate::spool::inspect::Choice;
use chairside_drivers::kit::sensitive::Sensitive;

const CALLER: Caller = Caller { uid: Some(1000) };

#[tokio::test(start_paused = true)]
async fn without_an_audit_record_nobody_reads_records_and_intake_and_seats_go_on() {
    let house = House::open();
    let home = tempfile::tempdir().unwrap();
    // Always full.
    std::os::unix::fs::symlink("/dev/full", home.path().join("audit.jsonl")).unwrap();
    let (to_chair, mut at_chair) = mpsc::channel(1);
    let desk = FrontDesk {
        shared: Arc::clone(&house.shared),
        audit: Arc::new(Audit::open(home.path()).unwrap()),
        chairs: [(ChairName::new("chair-1").unwrap(), to_chair)].into(),
        zone: TimeZone::UTC,
        keep_delivered: Duration::from_secs(3 * 24 * 3600),
        malformed: Arc::default(),
    };
    let mut place = house.place("chair-1");
    place.poll(&house).await;

    let asks = [
        Ask::Inspect { after: 0, choice: Choice::default(), lines: 5 },
        Ask::Record { sequence: 1 },
        Ask::Letters(Wish::default()),
        Ask::Replay(Wish::default()),
        Ask::Discard(Wish::default()),
    ];
    for ask in asks {
        let act = ask.word();
        match desk.answer(CALLER, Some(Request::Spool(ask))).await {
            Answer::Refused { code: RefusalCode::NotNow, why } => {
                assert!(why.contains("the audit record cannot be written"), "{act}: {why}");
            }
            other => panic!("{act}: {other:?}"),
        }
    }
    // What is counted by number alone is no access to data.
    let status = desk.answer(CALLER, Some(Request::Spool(Ask::Status))).await;
    assert!(matches!(&status, Answer::Spool { told } if matches!(**told, Told::Status(_))), "{status:?}");
    assert!(matches!(desk.answer(CALLER, Some(Request::Status)).await, Answer::Status { .. }));

    let record_number = Sensitive::new("4711".to_owned());
    let seat = Request::Seat { chair: "chair-1".to_owned(), record_number, correct: Correct::No };
    let asked = desk.answer(CALLER, Some(seat));
    let (answer, ()) = tokio::join!(asked, async {
        place.sealing.seat(at_chair.recv().await.unwrap()).await.unwrap();
    });
    assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    place.poll(&house).await;
    let readings = house.records().await.into_iter().filter(|it| matches!(it.record.body(), Body::Values(_)));
    assert_eq!(readings.count(), 2);
}
