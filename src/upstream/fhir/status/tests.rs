//! The status table, line by line.

use super::*;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_micros(784_111_777_000_000); // Sun, 06 Nov 1994 08:49:37 GMT

fn outcome(code: &str) -> String {
    format!(
        r#"{{"resourceType":"OperationOutcome","issue":[{{"severity":"error","code":"{code}","diagnostics":"x"}}]}}"#
    )
}

/// The name of what is decided, for the table.
fn decided(status: u16, body: &str) -> &'static str {
    let id = Uuid::nil().to_string();
    match judge(
        Reply { status, retry_after: None, body: body.as_bytes() },
        &[Asked { id: &id, needs: &[] }],
        NOW,
    ) {
        Judgement::Entries(_) => "entries",
        Judgement::Halve(_) => "halve",
        Judgement::TooLarge { lone: Some(_) } => "too large",
        Judgement::TooLarge { lone: None } => "too large, says a proxy",
        Judgement::Fault(_) => "fault",
        Judgement::Wait { .. } => "wait",
        Judgement::Pause(trouble) => trouble.code,
    }
}

#[test]
fn the_status_of_the_whole_answer_decides_like_this() {
    let fhir = outcome("invariant");
    for (status, body, expected) in [
        (200, r#"{"resourceType":"Bundle","type":"batch-response"}"#, "entries"),
        (200, &*fhir, "wait"),
        (200, "hello", "wait"),
        (200, r#"{"resourceType":"Bundle","type":"batch","entry":[]}"#, "wait"),
        (202, "", "wait"),
        (204, "", "wait"),
        (301, "", "redirect"),
        (308, "", "redirect"),
        (400, &fhir, "halve"),
        (400, "<html>400 The SSL certificate error</html>", "refused_without_fhir"),
        (400, "", "refused_without_fhir"),
        (400, &outcome("throttled"), "wait"),
        (400, &outcome("login"), "not_admitted"),
        (401, &fhir, "not_admitted"),
        (403, &fhir, "not_admitted"),
        (404, &fhir, "no_fhir_there"),
        (405, "", "no_fhir_there"),
        (406, "", "no_fhir_there"),
        (408, "", "wait"),
        (409, &fhir, "wait"),
        (410, "", "no_fhir_there"),
        (413, "", "too large, says a proxy"),
        (413, &outcome("too-costly"), "too large"),
        (415, "", "no_fhir_there"),
        (418, "", "refused_without_fhir"),
        (422, &fhir, "halve"),
        (422, "", "refused_without_fhir"),
        (429, &fhir, "wait"),
        (500, &fhir, "fault"),
        (501, "", "no_fhir_there"),
        (502, "", "wait"),
        (503, "", "wait"),
        (504, "", "wait"),
        (599, "", "wait"),
        (999, "", "wait"),
        (0, "", "wait"),
    ] {
        assert_eq!(decided(status, body), expected, "{status} {body}");
    }
}

/// The outcome of one entry with this status and outcome.
fn of_entry(status: &str, outcome: &str, needs: &[Uuid]) -> Outcome {
    let id = Uuid::from_u128(7).to_string();
    let body = format!(
        r#"{{"resourceType":"Bundle","type":"batch-response","entry":[{{"response":{{"status":"{status}","outcome":{outcome}}}}}]}}"#
    );
    match judge(
        Reply { status: 200, retry_after: None, body: body.as_bytes() },
        &[Asked { id: &id, needs }],
        NOW,
    ) {
        Judgement::Entries(mut outcomes) => outcomes.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_status_of_an_entry_decides_like_this() {
    let named = |status: &str, outcome: &str| match of_entry(status, outcome, &[]) {
        Outcome::Accepted => "accepted",
        Outcome::Refused(_) => "refused",
        Outcome::Missing(then) if matches!(*then, Outcome::Refused(_)) => "missing, then refused",
        Outcome::Missing(_) => "missing, then paused",
        Outcome::Again => "again",
        Outcome::Conflict(_) => "conflict",
        Outcome::Throttled => "throttled",
        Outcome::Pause(trouble) => trouble.code,
    };
    let invalid = outcome("invariant");
    for (status, outcome, expected) in [
        ("200", "null", "accepted"),
        ("201 Created", "null", "accepted"),
        ("204", "null", "accepted"),
        ("304 Not Modified", "null", "accepted"),
        ("202 Accepted", "null", "again"),
        ("301", "null", "again"),
        ("400 Bad Request", &*invalid, "refused"),
        ("400", "null", "refused"),
        ("422", &invalid, "refused"),
        ("422", &outcome("transient"), "again"),
        ("400", &outcome("forbidden"), "not_admitted"),
        ("401", "null", "not_admitted"),
        ("403", &invalid, "not_admitted"),
        ("404", &invalid, "missing, then paused"),
        ("405", "null", "no_client_ids"),
        ("407", "null", "not_admitted"),
        ("408", "null", "again"),
        ("421", "null", "again"),
        ("423", &outcome("lock-error"), "again"),
        ("424", "null", "again"),
        ("428", &outcome("transient"), "again"),
        ("451", &outcome("forbidden"), "not_admitted"),
        ("428", &invalid, "refused"),
        ("409", "null", "conflict"),
        ("410", "null", "missing, then refused"),
        ("412", "null", "conflict"),
        ("413", "null", "refused"),
        ("429", "null", "throttled"),
        ("500", &invalid, "again"),
        ("501", "null", "no_client_ids"),
        ("503", "null", "again"),
        ("", "null", "again"),
        ("OK", "null", "again"),
        ("2000", "null", "again"),
        ("+20", "null", "again"),
    ] {
        assert_eq!(named(status, outcome), expected, "{status} {outcome}");
    }
}

#[test]
fn a_refusal_keeps_codes_and_no_words() {
    let reason = Reason { status: 422, issue: Some("invariant") };
    assert_eq!(of_entry("422", &outcome("invariant"), &[]), Outcome::Refused(reason));
    let own_word = Reason { status: 422, issue: None };
    assert_eq!(of_entry("422", &outcome("Mustermann"), &[]), Outcome::Refused(own_word));
}

#[test]
fn a_refusal_that_names_what_an_entry_refers_to_asks_for_that_first() {
    let needed = Uuid::from_u128(99);
    let text = outcome("processing").replace('x', &format!("Resource Device/{needed} not found"));
    assert!(matches!(of_entry("400", &text, &[needed]), Outcome::Missing(_)));
    assert!(matches!(of_entry("400", &text, &[Uuid::from_u128(98)]), Outcome::Refused(_)));
}

#[test]
fn missing_answers_are_unknown_and_too_many_are_garbled() {
    let ids: Vec<_> = (0..3).map(|n| Uuid::from_u128(n).to_string()).collect();
    let asked: Vec<_> = ids.iter().map(|id| Asked { id, needs: &[] }).collect();
    let answer = |count: usize| {
        let entries = vec![r#"{"response":{"status":"201"}}"#; count].join(",");
        let body = format!(r#"{{"resourceType":"Bundle","type":"batch-response","entry":[{entries}]}}"#);
        judge(Reply { status: 200, retry_after: None, body: body.as_bytes() }, &asked, NOW)
    };
    use Outcome::{Accepted, Again};
    assert_eq!(answer(3), Judgement::Entries(vec![Accepted, Accepted, Accepted]));
    assert_eq!(answer(2), Judgement::Entries(vec![Accepted, Accepted, Again]));
    assert_eq!(answer(0), Judgement::Entries(vec![Again, Again, Again]));
    assert!(matches!(answer(4), Judgement::Wait { .. }));
}

#[test]
fn an_answer_about_another_resource_is_no_answer() {
    let ours = Uuid::from_u128(7).to_string();
    let at = |location: &str| {
        let body = format!(
            r#"{{"resourceType":"Bundle","type":"batch-response","entry":[{{"response":{{"status":"201","location":"{location}"}}}}]}}"#
        );
        judge(
            Reply { status: 200, retry_after: None, body: body.as_bytes() },
            &[Asked { id: &ours, needs: &[] }],
            NOW,
        )
    };
    let url = format!("https://ehr/fhir/Observation/{ours}/_history/1");
    assert_eq!(at(&url), Judgement::Entries(vec![Outcome::Accepted]));
    assert_eq!(at("Observation/123"), Judgement::Entries(vec![Outcome::Again]));
}

#[test]
fn retry_after_is_read_as_seconds_or_as_a_date_and_never_longer_than_an_hour() {
    for (text, expected) in [
        ("120", Some(120)),
        (" 7 ", Some(7)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("Thu, 31 Dec 2099 23:59:59 GMT", Some(3600)),
        ("99999999999", Some(3600)),
        ("soon", None),
        ("-1", None),
        ("", None),
    ] {
        assert_eq!(patience(text, NOW), expected.map(Duration::from_secs), "{text}");
    }
}

proptest! {
    #[test]
    fn any_answer_is_judged_without_harm_and_accepts_nothing_it_did_not_name(
        status in any::<u16>(),
        retry_after in prop::option::of(".{0,40}"),
        body in prop::collection::vec(any::<u8>(), 0..300),
        asked in 0_usize..5,
    ) {
        let ids: Vec<_> = (0..asked).map(|n| Uuid::from_u128(n as u128).to_string()).collect();
        let asked: Vec<_> = ids.iter().map(|id| Asked { id, needs: &[] }).collect();
        let reply = Reply { status, retry_after: retry_after.as_deref(), body: &body };
        if let Judgement::Entries(outcomes) = judge(reply, &asked, NOW) {
            prop_assert_eq!(outcomes.len(), asked.len());
            prop_assert!(!outcomes.contains(&Outcome::Accepted), "random bytes accept nothing");
        }
    }
}
