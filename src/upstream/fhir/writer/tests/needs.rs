//! What records refer to: brought about first, once, and no more than needed.

use super::*;

#[tokio::test]
async fn what_records_refer_to_is_written_first_and_once() {
    let mut site = Site::default();
    site.fhir.subject = Subject::Managed;
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = writer(&site, bindings, Server { checks_references: true, ..Server::default() });
    let delivery = writer.deliver(&readings(1..4)).await;
    assert_eq!(delivery.next, Next::Continue);
    assert_eq!(verdicts(&delivery).into_values().collect::<Vec<_>>(), [DONE, DONE, DONE]);
    assert_eq!(delivery.resources, 4 + 3);
    let types: Vec<_> = writer.post.requests.iter().map(|urls| urls[0].split('/').next().unwrap()).collect();
    assert_eq!(types, ["Device", "DeviceMetric", "Patient", "Procedure", "Observation"]);
    writer.deliver(&readings(4..5)).await;
    assert_eq!(writer.post.requests.len(), 6, "only the reading");
}

#[tokio::test]
async fn delivering_again_changes_nothing_at_the_receiver() {
    let mut first = seated_writer(Server::default());
    first.deliver(&readings(1..4)).await;
    let before = first.post.stored.clone();
    let mut after_restart = seated_writer(Server { stored: before.clone(), ..Server::default() });
    let delivery = after_restart.deliver(&readings(1..4)).await;
    assert_eq!(delivery.verdicts.len(), 3);
    assert_eq!(after_restart.post.stored, before);
}

#[tokio::test]
async fn a_receiver_that_lost_its_devices_gets_them_again() {
    let mut writer = seated_writer(Server { checks_references: true, ..Server::default() });
    writer.deliver(&readings(0..1)).await;
    writer.post.stored.clear();
    let delivery = writer.deliver(&readings(1..4)).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, DONE), (2, DONE), (3, DONE)]));
}

#[tokio::test]
async fn a_receiver_that_never_finds_what_it_was_sent_is_believed_at_the_second_time() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let Encoded::Write(rendering) = Site::default().encoder().encode(&reading(1), &bindings) else {
        panic!()
    };
    let words = format!("Resource Device/{} not found", rendering.needs[0].id);
    let refusing = json!({"resourceType": "Bundle", "type": "batch-response", "entry": [
        {"response": {"status": "422", "outcome": outcome("not-found", &words)}}
    ]});
    let behave = || Script::Short(usize::MAX);
    let refuse = || Script::Reply(200, None, refusing.to_string());
    let script = [behave(), behave(), behave(), refuse(), behave(), behave(), behave(), refuse()];
    let mut writer = seated_writer(Server { script: script.into(), ..Server::default() });
    let delivery = believed(&mut writer, &readings(1..2)).await;
    let reason = Reason { status: 422, issue: Some("not-found") };
    assert_eq!(delivery.verdicts, [(Sequence(1), Verdict::Refused { parts: 1, reason })]);
    assert_eq!(writer.post.requests.len(), 8 + 1, "and the good ones after it");
}

#[tokio::test]
async fn a_refused_machine_pauses_and_a_refused_treatment_costs_only_itself() {
    let server =
        Server { dislikes: vec![("DeviceMetric/".to_owned(), 422, "invariant")], ..Server::default() };
    let delivery = seated_writer(server).deliver(&readings(0..3)).await;
    assert_eq!(delivery.verdicts, []);
    assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "machine_refused"));

    let other = TreatmentId::from_bytes([8; 16]);
    let bindings = Bindings::of(TREATMENT, "p-1");
    bindings.bind(other, "p-2");
    let bad = {
        let Encoded::Write(rendering) = Site::default().encoder().encode(&reading(1), &bindings) else {
            panic!()
        };
        rendering.needs.last().unwrap().id.to_string()
    };
    let server = Server { dislikes: vec![(bad, 422, "invariant")], ..Server::default() };
    let mut writer = writer(&Site::default(), Arc::new(bindings), server);
    let good = stored(2, Some(other), Body::Values(vec![number("venous_pressure", "142")]));
    let started = stored(3, Some(TREATMENT), Body::TreatmentStarted);
    let delivery = believed(&mut writer, &[reading(1), good, started]).await;
    let reason = Reason { status: 422, issue: Some("invariant") };
    assert_eq!(
        verdicts(&delivery),
        BTreeMap::from([(1, DONE), (2, DONE), (3, Verdict::Refused { parts: 1, reason })]),
        "no reading is given up because its treatment was refused"
    );
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("treatment_refused"));
    let parts = |sequence: u64| writer.post.stored.get(&url_of(sequence)).unwrap().get("partOf").is_some();
    assert!(!parts(1), "it goes out without it");
}

#[tokio::test]
async fn a_refused_patient_gives_no_reading_up() {
    let mut site = Site::default();
    site.fhir.subject = Subject::Managed;
    let server = Server { dislikes: vec![("Patient/".to_owned(), 422, "invariant")], ..Server::default() };
    let mut writer = writer(&site, Arc::new(Bindings::of(TREATMENT, "p-1")), server);
    let delivery = writer.deliver(&readings(1..4)).await;
    assert!(delivery.verdicts.iter().all(|(_, it)| matches!(it, Verdict::Retry { .. })), "{delivery:?}");
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("treatment_refused"));
    writer.post.dislikes.clear();
    assert_eq!(verdicts(&writer.deliver(&readings(1..4)).await).into_values().collect::<Vec<_>>(), [DONE; 3]);
}

#[tokio::test]
async fn a_need_that_is_not_taken_delays_only_who_needs_it() {
    let other = TreatmentId::from_bytes([8; 16]);
    for (status, word) in [(409, "conflict"), (503, "transient"), (412, "conflict")] {
        let bindings = Bindings::of(TREATMENT, "p-1");
        bindings.bind(other, "p-2");
        let Encoded::Write(rendering) = Site::default().encoder().encode(&reading(1), &bindings) else {
            panic!()
        };
        let procedure = rendering.needs.last().unwrap().id.to_string();
        let dislikes = vec![(procedure, status, word)];
        let server = Server { dislikes, checks_references: true, ..Server::default() };
        let mut writer = writer(&Site::default(), Arc::new(bindings), server);
        for times in 1..5 {
            let good = stored(100 + times, Some(other), Body::Values(vec![number("venous_pressure", "142")]));
            let delivery = writer.deliver(&[reading(1), good]).await;
            assert_eq!(delivery.next, Next::Continue, "{status}");
            let all = verdicts(&delivery);
            assert!(matches!(all[&1], Verdict::Retry { .. }), "{status}: {all:?}");
            assert_eq!(all[&(100 + times)], DONE);
            assert_eq!(delivery.setback.is_some(), times >= 3, "{status} after {times}");
        }
        writer.post.dislikes.clear();
        assert_eq!(verdicts(&writer.deliver(&readings(1..2)).await)[&1], DONE);
    }
}

#[tokio::test]
async fn a_machine_that_is_there_and_cannot_be_written_again_stops_nothing() {
    let mut first = seated_writer(Server::default());
    first.deliver(&readings(1..2)).await;
    let stored = first.post.stored.clone();
    let dislikes = vec![("Device/".to_owned(), 412, "conflict")];
    let mut writer = seated_writer(Server { stored, dislikes, checks_references: true, ..Server::default() });
    for _ in 0..2 {
        let delivery = writer.deliver(&readings(2..3)).await;
        assert!(matches!(delivery.verdicts[0].1, Verdict::Retry { .. }), "{delivery:?}");
    }
    assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, [(Sequence(2), DONE)]);
}
