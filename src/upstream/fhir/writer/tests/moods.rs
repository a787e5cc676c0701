//! Any server at all: whatever it answers, nothing is settled that it did not say.

use super::*;

/// What a server can come up with, one request at a time.
fn any_script() -> impl Strategy<Value = Vec<Whim>> {
    let entry = prop_oneof![
        5 => Just("201".to_owned()),
        1 => "[0-9]{3}",
        1 => "\\PC{0,5}",
    ];
    let whim = prop_oneof![
        4 => Just(Whim::Behave),
        2 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(status, body)| Whim::Bytes(status, body)),
        2 => prop::sample::select(vec![200_u16, 400, 401, 404, 409, 413, 422, 429, 500, 503]).prop_map(Whim::Outcome),
        4 => prop::collection::vec(entry, 0..8).prop_map(Whim::Entries),
        1 => Just(Whim::Gone),
    ];
    prop::collection::vec(whim, 0..30)
}

#[derive(Clone, Debug)]
enum Whim {
    Behave,
    Bytes(u16, Vec<u8>),
    Outcome(u16),
    Entries(Vec<String>),
    Gone,
}

/// Notes which urls it said yes to.
struct Moody {
    whims: VecDeque<Whim>,
    said_yes: BTreeSet<String>,
}

impl Post for Moody {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        let urls: Vec<String> = bundle["entry"].as_array().unwrap().iter().map(url).collect();
        let respond = |statuses: &mut dyn Iterator<Item = String>| {
            let entries: Vec<_> = statuses.map(|status| json!({"response": {"status": status}})).collect();
            answer(
                200,
                &json!({"resourceType": "Bundle", "type": "batch-response", "entry": entries}).to_string(),
            )
        };
        match self.whims.pop_front().unwrap_or(Whim::Outcome(503)) {
            Whim::Behave => {
                self.said_yes.extend(urls.iter().cloned());
                Ok(respond(&mut urls.iter().map(|_| "200".to_owned())))
            }
            Whim::Bytes(status, body) => Ok(Answer { status, body, ..Answer::default() }),
            Whim::Outcome(status) => Ok(answer(status, &outcome("processing", "").to_string())),
            Whim::Entries(statuses) => {
                let yes = |status: &String| {
                    matches!(status.split_whitespace().next(), Some("200" | "201" | "204" | "304"))
                };
                if statuses.len() <= urls.len() {
                    let said = urls.iter().zip(&statuses).filter(|(_, status)| yes(status));
                    self.said_yes.extend(said.map(|(url, _)| url.clone()));
                }
                Ok(respond(&mut statuses.into_iter()))
            }
            Whim::Gone => Err(LinkFault::Cut(not_settled(ResourceType::Device))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_a_server_answers_nothing_is_settled_that_it_did_not_take(whims in any_script()) {
        let bindings = Arc::new(Bindings::of(TREATMENT, "p-1"));
        let moody = Moody { whims: whims.into(), said_yes: BTreeSet::new() };
        let mut writer = Writer::new(Site::default().encoder(), bindings, Arc::new(Fixed), moody);
        let batch = readings(0..6);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..6 {
            let delivery = runtime.block_on(writer.deliver(&batch));
            let mut seen = BTreeSet::new();
            for (sequence, verdict) in delivery.verdicts {
                prop_assert!(seen.insert(sequence), "two verdicts on one record");
                if verdict == DONE {
                    prop_assert!(writer.post.said_yes.contains(&url_of(sequence.0)));
                }
                let never = matches!(verdict, Verdict::Held(_) | Verdict::SkippedByPolicy);
                prop_assert!(!never, "the server decides neither of these");
                if let Verdict::Refused { reason, .. } = verdict {
                    prop_assert!(!matches!(reason.status, 401 | 403 | 408 | 429 | 500..), "{reason:?}");
                }
            }
        }
    }
}
