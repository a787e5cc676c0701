//! Batches of a size the server takes, and the entry it stumbles over.

use super::*;

#[tokio::test]
async fn a_batch_is_at_most_a_hundred_entries_and_smaller_where_the_server_says_so() {
    let mut writer = seated_writer(Server { most_entries: Some(30), ..Server::default() });
    let delivery = writer.deliver(&readings(0..250)).await;
    assert_eq!(delivery.verdicts.len(), 250);
    assert_eq!(writer.post.observations(), 250);
    let sizes = |writer: &Writer<Server>| writer.post.requests.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&writer)[3..7], [100, 50, 25, 25], "{:?}", sizes(&writer));
    let before = sizes(&writer).len();
    writer.deliver(&readings(250..300)).await;
    assert_eq!(sizes(&writer)[before..], [25, 25], "it remembers");
}

#[tokio::test]
async fn a_batch_the_server_cannot_read_is_halved_down_to_the_bad_entry() {
    let mut writer = seated_writer(Server { chokes_on: Some(url_of(5)), ..Server::default() });
    let delivery = believed(&mut writer, &readings(0..16)).await;
    let all = verdicts(&delivery);
    let refused = Verdict::Refused { parts: 1, reason: Reason { status: 400, issue: Some("structure") } };
    assert_eq!(all[&5], refused);
    assert_eq!(all.values().filter(|verdict| **verdict == DONE).count(), 15);
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_rest_untried_and_what_was_taken_settled() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.script = VecDeque::from([Script::Short(usize::MAX), Script::Gone]);
    let delivery = writer.deliver(&readings(1..151)).await;
    assert_eq!(delivery.verdicts.len(), 100);
    assert!(matches!(delivery.next, Next::Wait { .. }));
}

#[tokio::test]
async fn entries_without_an_answer_are_tried_again_later() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.script = VecDeque::from([Script::Short(2), Script::Short(1), Script::Short(1)]);
    let delivery = writer.deliver(&readings(1..4)).await;
    let later =
        |seconds: u64| Verdict::Retry { not_before: Tick::from_micros(1_000_000 + seconds * 1_000_000) };
    assert_eq!(verdicts(&delivery), BTreeMap::from([(1, DONE), (2, DONE), (3, later(5))]));
    let delivery = writer.deliver(&[reading(2), reading(3)]).await;
    assert_eq!(verdicts(&delivery), BTreeMap::from([(2, DONE), (3, later(10))]));
}

#[tokio::test]
async fn an_entry_the_server_stumbles_over_is_found_and_the_others_go_on() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.stumbles_over = Some(url_of(9));
    let mut waits = 0;
    let delivery = loop {
        let delivery = writer.deliver(&readings(1..17)).await;
        if delivery.next == Next::Continue {
            break delivery;
        }
        waits += 1;
        assert!(waits < 5, "it is found");
    };
    assert!(waits > 0, "one fault may be any");
    let all = verdicts(&delivery);
    assert!(matches!(all[&9], Verdict::Retry { .. }), "a fault is never a refusal");
    assert_eq!(all.values().filter(|verdict| **verdict == DONE).count(), 15);
}

#[tokio::test]
async fn a_server_that_is_down_is_not_searched_for_ever() {
    let mut writer = seated_writer(Server { stumbles_over: Some("/".to_owned()), ..Server::default() });
    for _ in 0..10 {
        writer.deliver(&readings(0..100)).await;
    }
    writer.post.requests.clear();
    let delivery = writer.deliver(&readings(0..100)).await;
    assert!(matches!(delivery.next, Next::Wait { .. }));
    assert!(writer.post.requests.len() <= 12, "{}", writer.post.requests.len());
}

#[tokio::test]
async fn a_throttling_server_gets_fewer_at_a_time() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.dislikes = vec![("Observation/".to_owned(), 429, "throttled")];
    let delivery = writer.deliver(&readings(1..9)).await;
    assert_eq!(delivery.verdicts, []);
    assert!(matches!(delivery.next, Next::Wait { .. }));
    writer.post.dislikes.clear();
    writer.post.requests.clear();
    assert_eq!(writer.deliver(&readings(1..9)).await.verdicts.len(), 8);
    let sizes = |writer: &Writer<Server>| writer.post.requests.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&writer), [4, 4], "half of what it was sent, however many entries said so");
    writer.post.requests.clear();
    writer.deliver(&readings(100..400)).await;
    assert_eq!(sizes(&writer)[..3], [24, 34, 44], "and more again once it is at ease");
    assert_eq!(sizes(&writer).iter().max(), Some(&74));
}

#[tokio::test(start_paused = true)]
async fn a_refused_entry_costs_at_most_fifteen_requests_and_five_seconds_of_the_others() {
    let latency = Duration::from_millis(300);
    // Servers that refuse the whole batch for one entry, and servers that answer entry by entry.
    for whole_batches in [true, false] {
        for poisons in
            [vec![0], vec![57], vec![99], vec![3, 4], vec![10, 50, 90], (40..48).collect::<Vec<u64>>()]
        {
            let mut writer = seated_writer(Server { latency, ..Server::default() });
            writer.deliver(&readings(500..501)).await;
            if whole_batches {
                writer.post.chokes_on_any = poisons.iter().map(|it| url_of(*it)).collect();
            } else {
                writer.post.dislikes = poisons.iter().map(|it| (url_of(*it), 422, "invariant")).collect();
            }
            let clock = SystemClock::new(Timestamp::from_micros(0));
            let before = writer.post.requests.len();
            let all = verdicts(&writer.deliver(&readings(0..100)).await);
            let extra = writer.post.requests.len() - before - 1;
            assert!(extra <= 15 * poisons.len(), "{extra} for {poisons:?}");
            let good =
                |(sequence, verdict): &(&u64, &Verdict)| !poisons.contains(sequence) && **verdict == DONE;
            assert_eq!(all.iter().filter(good).count(), 100 - poisons.len());
            let delay = clock.tick().since(Tick::ZERO).saturating_sub(latency);
            let bound = Duration::from_secs(5) * u32::try_from(poisons.len()).unwrap();
            assert!(delay <= bound, "{delay:?} for {poisons:?}");
        }
    }
}

#[tokio::test]
async fn an_entry_the_server_stumbles_over_is_looked_for_once_others_went_through() {
    let mut writer = seated_writer(Server::default());
    writer.deliver(&readings(0..1)).await;
    writer.post.stumbles_over = Some(url_of(9));
    assert!(matches!(writer.deliver(&readings(1..17)).await.next, Next::Wait { .. }));
    assert_eq!(writer.deliver(&readings(20..21)).await.verdicts.len(), 1, "the server is up");
    let all = verdicts(&writer.deliver(&readings(1..17)).await);
    assert!(matches!(all[&9], Verdict::Retry { .. }), "a fault is never a refusal");
    assert_eq!(all.values().filter(|verdict| **verdict == DONE).count(), 15);
}

#[tokio::test]
async fn an_entry_that_is_too_large_by_itself_makes_no_batch_smaller() {
    let mut writer = seated_writer(Server { too_large: Some(url_of(5)), ..Server::default() });
    let all = verdicts(&believed(&mut writer, &readings(0..100)).await);
    assert!(matches!(all[&5], Verdict::Refused { .. }), "{all:?}");
    assert_eq!(all.values().filter(|verdict| **verdict == DONE).count(), 99);
    writer.post.requests.clear();
    writer.deliver(&readings(200..300)).await;
    let sizes: Vec<usize> = writer.post.requests.iter().map(Vec::len).collect();
    assert_eq!(sizes, [100]);
}
