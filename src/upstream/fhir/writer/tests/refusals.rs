//! What is a refusal, what is none, and what either costs.

use super::*;

#[tokio::test]
async fn held_and_unwanted_records_reach_no_server() {
    let mut writer = writer(&Site::default(), Arc::new(Bindings::default()), Server::default());
    let unwanted = stored(2, None, Body::Values(vec![number("venous_pressure", "1")]));
    let delivery = writer.deliver(&[reading(1), unwanted]).await;
    assert_eq!(verdicts(&delivery)[&1], Verdict::Held(TREATMENT));
    assert_eq!(verdicts(&delivery)[&2], Verdict::SkippedByPolicy);
    assert!(writer.post.requests.is_empty());
}

#[tokio::test]
async fn one_refused_entry_delays_no_other() {
    let server = Server { dislikes: vec![(url_of(2), 422, "invariant")], ..Server::default() };
    let mut writer = seated_writer(server);
    let two = Body::Values(vec![number("venous_pressure", "1"), number("arterial_pressure", "2")]);
    let batch = [reading(1), reading(2), stored(3, Some(TREATMENT), two)];
    let delivery = believed(&mut writer, &batch).await;
    let reason = Reason { status: 422, issue: Some("invariant") };
    assert_eq!(
        verdicts(&delivery),
        BTreeMap::from([(1, DONE), (2, Verdict::Refused { parts: 1, reason }), (3, done(2))])
    );
}

#[tokio::test]
async fn a_record_with_one_refused_part_is_delivered_and_says_so() {
    let two = Body::Values(vec![number("venous_pressure", "1"), number("arterial_pressure", "2")]);
    let record = stored(3, Some(TREATMENT), two);
    let Encoded::Write(rendering) =
        Site::default().encoder().encode(&record, &Bindings::of(TREATMENT, "p-1"))
    else {
        panic!()
    };
    let bad = rendering.parts[1].draft.id().to_owned();
    let mut writer = seated_writer(Server { dislikes: vec![(bad, 400, "value")], ..Server::default() });
    let delivery = believed(&mut writer, &[record]).await;
    let reason = Reason { status: 400, issue: Some("value") };
    let refused_parts = vec![RefusedPart { part: 1, reason }];
    assert_eq!(delivery.verdicts, [(Sequence(3), Verdict::Delivered { parts: 1, refused_parts })]);
}

#[tokio::test]
async fn a_refusal_that_is_not_fhir_pauses_and_gives_nothing_up() {
    for body in ["<html>400 No required SSL certificate was sent</html>", "", "{}", "[1]"] {
        let script = VecDeque::from([Script::Reply(400, None, body.to_owned())]);
        let mut writer = seated_writer(Server { script, ..Server::default() });
        let delivery = writer.deliver(&readings(0..3)).await;
        assert_eq!(delivery.verdicts, []);
        assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "refused_without_fhir"));
        assert_eq!(writer.deliver(&readings(0..3)).await.verdicts.len(), 3, "and then it goes on");
    }
}

#[tokio::test]
async fn whatever_is_no_refusal_leaves_every_record_untried() {
    let fhir = outcome("exception", "").to_string();
    for (status, pauses) in [
        (401, true),
        (403, true),
        (404, true),
        (408, false),
        (429, false),
        (500, false),
        (503, false),
        (302, true),
    ] {
        for after in 0..4 {
            let mut writer = seated_writer(Server::default());
            let behaving = (0..after).map(|_| Script::Short(usize::MAX));
            writer.post.script = behaving.chain([Script::Reply(status, Some("7"), fhir.clone())]).collect();
            let delivery = writer.deliver(&readings(0..3)).await;
            assert_eq!(delivery.verdicts, [], "{status} after {after}");
            match delivery.next {
                Next::Pause(_) => assert!(pauses, "{status}"),
                Next::Wait { at_least, .. } => {
                    assert!(!pauses, "{status}");
                    assert_eq!(at_least, Some(Duration::from_secs(7)));
                }
                Next::Continue => panic!("{status}"),
            }
        }
    }
}

#[tokio::test]
async fn a_receiver_that_takes_no_ids_of_ours_pauses() {
    for status in [404, 405] {
        let server = Server {
            dislikes: vec![("Observation/".to_owned(), status, "not-supported")],
            ..Server::default()
        };
        let mut writer = seated_writer(server);
        let delivery = writer.deliver(&readings(0..3)).await;
        assert_eq!(delivery.verdicts, []);
        assert!(
            matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "no_client_ids"),
            "{delivery:?}"
        );
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_everything_pauses_and_costs_the_ward_no_record() {
    for whole_batches in [false, true] {
        let mut writer = seated_writer(Server::default());
        if whole_batches {
            writer.deliver(&readings(500..501)).await;
            writer.post.chokes_on = Some("Observation/".to_owned());
        } else {
            writer.post.dislikes = vec![("Observation/".to_owned(), 422, "invariant")];
        }
        let mut costs = Vec::new();
        // A record at a time, a few, and many: whatever is leased, nothing is given up.
        for batch in [0..1, 0..1, 0..20, 20..40, 40..64, 0..64, 64..65, 64..65, 65..66] {
            let before = writer.post.requests.len();
            let delivery = writer.deliver(&readings(batch)).await;
            let given_up = |it: &Verdict| !matches!(it, Verdict::Retry { .. });
            assert!(!delivery.verdicts.iter().any(|(_, it)| given_up(it)), "{delivery:?}");
            costs.push(writer.post.requests.len() - before);
            if let Next::Pause(trouble) = &delivery.next {
                assert_eq!(trouble.code, "mostly_refused");
            }
        }
        let delivery = writer.deliver(&readings(66..67)).await;
        assert!(matches!(delivery.next, Next::Pause(_)), "one more record shows that nothing has changed");
        assert!(costs.last() == Some(&1), "and costs one request: {costs:?}");
        (writer.post.dislikes, writer.post.chokes_on) = (Vec::new(), None);
        assert_eq!(verdicts(&writer.deliver(&readings(66..67)).await), BTreeMap::from([(66, DONE)]));
        let all = verdicts(&writer.deliver(&readings(0..66)).await);
        assert!(all.len() == 66 && all.values().all(|it| *it == DONE), "it is mended, and gets everything");
    }
}

#[tokio::test]
async fn a_receiver_that_is_mended_for_most_but_not_all_gets_most_and_refuses_the_rest() {
    let mut writer = seated_writer(Server::default());
    writer.post.dislikes = vec![("Observation/".to_owned(), 422, "invariant")];
    assert!(matches!(writer.deliver(&readings(0..64)).await.next, Next::Pause(_)));
    writer.post.dislikes = vec![(url_of(7), 422, "invariant")];
    let delivery = believed(&mut writer, &readings(0..64)).await;
    let all = verdicts(&delivery);
    assert!(matches!(all[&7], Verdict::Refused { .. }));
    assert_eq!(all.values().filter(|it| **it == DONE).count(), 63);
}

#[tokio::test]
async fn conflicts_that_never_end_everywhere_cost_no_record_either() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(500..501)).await;
    writer.post.dislikes = vec![("Observation/".to_owned(), 409, "conflict")];
    let mut paused = 0;
    for _ in 0..12 {
        let delivery = writer.deliver(&readings(0..64)).await;
        assert!(delivery.verdicts.iter().all(|(_, it)| matches!(it, Verdict::Retry { .. })), "{delivery:?}");
        paused += u32::from(matches!(delivery.next, Next::Pause(_)));
    }
    assert!(paused > 0);
}

#[tokio::test]
async fn a_conflict_counts_only_in_a_row() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    for status in [503, 503, 409, 409, 503, 409, 409] {
        writer.post.dislikes = vec![(url_of(1), status, "conflict")];
        let delivery = writer.deliver(&readings(1..2)).await;
        assert!(matches!(delivery.verdicts[0].1, Verdict::Retry { .. }), "{status}: {delivery:?}");
    }
    let delivery = believed(&mut writer, &readings(1..2)).await;
    assert!(matches!(delivery.verdicts[0].1, Verdict::Refused { .. }), "{delivery:?}");
}

#[tokio::test]
async fn a_record_of_an_untrusted_clock_is_kept_back_and_said_so() {
    let mut writer = seated_writer(Server::default());
    let mut origin = origin();
    origin.clock = ClockTrust::Untrusted;
    let early = stored_at(1, origin, Some(TREATMENT), Body::Values(vec![number("venous_pressure", "142")]));
    let delivery = writer.deliver(&[early, reading(2)]).await;
    let not_before = Tick::from_micros(61_000_000);
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, Verdict::Retry { not_before }), (2, DONE)]));
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("untrusted_clock"));
    assert_eq!(writer.post.observations(), 1);
}

#[tokio::test]
async fn a_conflict_that_never_ends_is_a_refusal_at_the_third_time() {
    let server = Server { dislikes: vec![(url_of(1), 409, "conflict")], ..Server::default() };
    let mut writer = seated_writer(server);
    for _ in 0..2 {
        assert!(matches!(writer.deliver(&readings(1..2)).await.verdicts[0].1, Verdict::Retry { .. }));
    }
    let reason = Reason { status: 409, issue: Some("conflict") };
    let refused = believed(&mut writer, &readings(1..2)).await;
    assert_eq!(refused.verdicts[0].1, Verdict::Refused { parts: 1, reason });
}

#[tokio::test]
async fn a_refusal_that_could_not_be_kept_is_told_again_without_a_request_and_a_settled_one_is_asked_anew() {
    let mut writer =
        seated_writer(Server { dislikes: vec![(url_of(2), 422, "invariant")], ..Server::default() });
    let refused = believed(&mut writer, &readings(2..3)).await.verdicts;
    assert!(matches!(refused[0].1, Verdict::Refused { .. }));
    let requests = writer.post.requests.len();
    for _ in 0..3 {
        writer.refusals_not_kept();
        assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, refused);
    }
    assert_eq!(writer.post.requests.len(), requests);
    // Settled now; a person mends the server and has it sent again.
    writer.post.dislikes.clear();
    assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, [(Sequence(2), DONE)]);
}
