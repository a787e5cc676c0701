//! What stands in a wrong chart is taken back before it is written anew.

use super::*;

#[tokio::test]
async fn a_correction_takes_back_before_it_writes_anew() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.deliver(&readings(1..4)).await;
    bindings.bind(TREATMENT, "p-right");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    writer.post.requests.clear();
    let delivery = writer.correct(correction, &readings(1..4), &SETTLED).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, done(2)), (2, done(2)), (3, done(2))]));
    let of = |status: &str| {
        let all = writer.post.stored.values().filter(|it| it["resourceType"] == "Observation");
        let all = all.filter(|it| it["status"] == status);
        all.map(|it| it["subject"]["identifier"]["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("entered-in-error"), ["p-wrong"; 3]);
    assert_eq!(of("final"), ["p-right"; 3]);
    let procedures = writer.post.stored.values().filter(|it| it["resourceType"] == "Procedure");
    let mut states: Vec<_> = procedures.map(|it| it["status"].as_str().unwrap()).collect();
    states.sort_unstable();
    assert_eq!(states, ["entered-in-error", "in-progress"]);
}

/// Every record has its verdict.
const SETTLED: BTreeSet<Sequence> = BTreeSet::new();

fn open<const N: usize>(sequences: [u64; N]) -> BTreeSet<Sequence> {
    sequences.into_iter().map(Sequence).collect()
}

const CORRECTION: Correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };

fn statuses(writer: &Writer<Server>, patient: &str) -> Vec<String> {
    let all = writer.post.stored.values().filter(|it| it["resourceType"] == "Observation");
    let all = all.filter(|it| it["subject"]["identifier"]["value"] == patient);
    all.map(|it| it["status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_was_never_written_is_not_taken_back_either() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.history.begins_behind(Sequence(0));
    writer.deliver(&readings(1..2)).await;
    writer.post.script = (0..1).map(|_| Script::Unreached).collect();
    assert_eq!(writer.deliver(&readings(2..7)).await.verdicts, []);
    bindings.bind(TREATMENT, "p-right");
    // Two are delivered under the right binding before the correction comes; three come later.
    writer.deliver(&readings(2..4)).await;
    let delivery = writer.correct(CORRECTION, &readings(1..7), &open([4, 5, 6])).await;
    assert_eq!(delivery.verdicts.len(), 6, "{delivery:?}");
    assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"], "only what stood there");
    assert_eq!(statuses(&writer, "p-right"), ["final"; 3]);
    writer.deliver(&readings(4..7)).await;
    assert_eq!(statuses(&writer, "p-right"), ["final"; 6]);
}

#[tokio::test]
async fn what_was_sent_and_never_answered_is_taken_back() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.history.begins_behind(Sequence(0));
    writer.deliver(&readings(1..2)).await;
    writer.post.script = VecDeque::from([Script::Gone]);
    assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, []);
    bindings.bind(TREATMENT, "p-right");
    writer.correct(CORRECTION, &readings(1..3), &open([2])).await;
    assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"; 2]);
    assert_eq!(statuses(&writer, "p-right"), ["final"], "the other one comes in its turn");
}

#[tokio::test]
async fn what_an_earlier_process_wrote_is_taken_back_whatever_is_to_be_sent_now() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut before = writer(&Site::default(), bindings.clone(), Server::default());
    before.deliver(&readings(1..4)).await;
    bindings.bind(TREATMENT, "p-right");
    let mut site = Site::default();
    site.upstream.send.every = Every::Window(Duration::from_secs(300));
    let stored = before.post.stored.clone();
    let mut after = writer(&site, bindings, Server { stored, ..Server::default() });
    after.history.begins_behind(Sequence(3));
    after.correct(CORRECTION, &readings(1..4), &SETTLED).await;
    assert_eq!(statuses(&after, "p-wrong"), ["entered-in-error"; 3]);
}

#[tokio::test]
async fn a_refused_taking_back_pauses_and_leaves_the_correction_open() {
    for what in ["Observation", "Procedure"] {
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
        let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
        writer.history.begins_behind(Sequence(0));
        writer.deliver(&readings(1..4)).await;
        bindings.bind(TREATMENT, "p-right");
        let url = writer.post.stored.keys().find(|url| url.starts_with(what)).unwrap().clone();
        writer.post.dislikes = vec![(url, 422, "invariant")];
        let delivery = writer.correct(CORRECTION, &readings(1..4), &SETTLED).await;
        assert_eq!(delivery.verdicts, [], "{what}");
        assert!(matches!(&delivery.next, Next::Pause(trouble) if trouble.code == "correction_refused"));
        writer.post.dislikes.clear();
        let delivery = writer.correct(CORRECTION, &readings(1..4), &SETTLED).await;
        assert_eq!((delivery.verdicts.len(), delivery.next), (3, Next::Continue));
        assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"; 3]);
    }
}

#[tokio::test]
async fn what_was_refused_when_it_was_written_need_not_be_taken_back() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-wrong"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.history.begins_behind(Sequence(0));
    let two = Body::Values(vec![number("venous_pressure", "1"), number("arterial_pressure", "2")]);
    let record = stored(1, Some(TREATMENT), two);
    let Encoded::Write(rendering) = Site::default().encoder().encode(&record, &*bindings) else { panic!() };
    writer.post.dislikes = vec![(rendering.parts[1].draft.id().to_owned(), 422, "invariant")];
    writer.deliver(std::slice::from_ref(&record)).await;
    bindings.bind(TREATMENT, "p-right");
    let delivery = writer.correct(CORRECTION, &[record], &SETTLED).await;
    assert_eq!(delivery.next, Next::Continue);
    // Taken back, and two written anew.
    assert_eq!(delivery.verdicts, [(Sequence(1), done(3))]);
    assert_eq!(statuses(&writer, "p-wrong"), ["entered-in-error"]);
}

#[tokio::test]
async fn a_correction_overtaken_by_another_only_takes_back() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.deliver(&readings(1..2)).await;
    bindings.bind(TREATMENT, "p-2");
    bindings.bind(TREATMENT, "p-3");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    writer.correct(correction, &readings(1..2), &SETTLED).await;
    assert!(!format!("{:?}", writer.post.stored).contains("p-2"));
    assert!(!format!("{:?}", writer.post.stored).contains("p-3"));
}

#[tokio::test]
async fn a_first_seat_rewrites_nothing_that_was_held() {
    let correction = Correction { treatment: TREATMENT, old: Revision(0), new: Revision(1) };
    let mut held = seated_writer(Server::default());
    held.correct(correction, &readings(1..4), &SETTLED).await;
    assert!(held.post.requests.is_empty(), "the release delivers them");

    let mut site = Site::default();
    site.gateway.unseated = Unseated::Machine;
    let bindings = Arc::new(Bindings::default());
    let mut sent = writer(&site, bindings.clone(), Server::default());
    sent.deliver(&readings(1..2)).await;
    bindings.bind(TREATMENT, "p-1");
    sent.correct(correction, &readings(1..2), &SETTLED).await;
    let mut states: Vec<_> =
        sent.post.stored.values().filter(|it| it["resourceType"] == "Observation").collect();
    states.sort_by_key(|it| it["status"].to_string());
    assert_eq!((&states[0]["status"], &states[1]["status"]), (&json!("entered-in-error"), &json!("final")));
    assert!(states[0]["subject"]["reference"].as_str().unwrap().starts_with("Device/"));
    assert_eq!(states[1]["subject"]["identifier"]["value"], "p-1");
}

#[tokio::test]
async fn a_correction_that_is_cut_off_settles_nothing() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let mut writer = writer(&Site::default(), bindings.clone(), Server::default());
    writer.deliver(&readings(1..2)).await;
    bindings.bind(TREATMENT, "p-2");
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    for cut_at in 0..4 {
        writer.post.script = (0..cut_at).map(|_| Script::Short(usize::MAX)).chain([Script::Gone]).collect();
        let delivery = writer.correct(correction, &readings(1..2), &SETTLED).await;
        if delivery.next == Next::Continue {
            assert!(cut_at > 0);
            assert_eq!(delivery.verdicts.len(), 1);
        } else {
            assert_eq!(delivery.verdicts, []);
        }
        writer.post.script.clear();
    }
}

#[tokio::test]
async fn what_was_refused_for_good_under_the_wrong_binding_is_written_under_the_right_one() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let server = Server { dislikes: vec![(url_of(2), 422, "invariant")], ..Server::default() };
    let mut writer = writer(&Site::default(), bindings.clone(), server);
    writer.history.begins_behind(Sequence(0));
    let all = verdicts(&believed(&mut writer, &readings(1..4)).await);
    assert!(matches!(all[&2], Verdict::Refused { .. }), "{all:?}");
    bindings.bind(TREATMENT, "p-2");
    let delivery = writer.correct(CORRECTION, &readings(1..4), &SETTLED).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, done(2)), (2, DONE), (3, done(2))]));
    let of_them = |status: &str, patient: &str| {
        let all = statuses(&writer, patient);
        all.iter().filter(|it| *it == status).count()
    };
    assert_eq!((of_them("entered-in-error", "p-1"), of_them("final", "p-2")), (2, 3));
}

#[tokio::test]
async fn a_refusal_in_doubt_under_the_wrong_binding_is_none_under_the_right_one() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    let server = Server { dislikes: vec![(url_of(2), 422, "invariant")], ..Server::default() };
    let mut writer = writer(&Site::default(), bindings.clone(), server);
    writer.history.begins_behind(Sequence(0));
    let first = verdicts(&writer.deliver(&readings(1..4)).await);
    assert!(matches!(first[&2], Verdict::Retry { .. }), "{first:?}");
    bindings.bind(TREATMENT, "p-2");
    writer.correct(CORRECTION, &readings(1..4), &open([2])).await;
    writer.deliver(&readings(10_000..10_100)).await;
    assert_eq!(writer.deliver(&readings(2..3)).await.verdicts, [(Sequence(2), DONE)]);
    assert_eq!(statuses(&writer, "p-2").len(), 103);
}

#[tokio::test]
async fn a_correction_waits_for_the_time_of_what_was_sent_with_a_time_that_was_found() {
    let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
    bindings.bind(TREATMENT, "p-2");
    let mut origin = origin();
    origin.clock = ClockTrust::Untrusted;
    let early = stored_at(1, origin, Some(TREATMENT), Body::Values(vec![number("venous_pressure", "142")]));
    let mut writer = writer(&Site::default(), bindings, Server::default());
    writer.history.begins_behind(Sequence(9));
    let batch = [early, reading(2)];
    let delivery = writer.correct(CORRECTION, &batch, &SETTLED).await;
    let not_before = Tick::from_micros(61_000_000);
    assert_eq!(delivery.verdicts, [(Sequence(1), Verdict::Retry { not_before })]);
    assert_eq!(delivery.setback.map(|trouble| trouble.code), Some("untrusted_clock"));
    let delivery = writer.correct(CORRECTION, &batch, &open([1])).await;
    assert_eq!(delivery.verdicts.len(), 2, "what is open waits for itself");
}
