//! What people do with the spool while the daemon runs.

use crate::gateway::{Home, Running, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use serde_json::Value;
use std::collections::BTreeSet;

const VENOUS: &str = "158776";

fn asked(home: &Home, words: &[&str]) -> Value {
    let (code, out, err) = home.ask(&[words, &["--json"]].concat(), "");
    assert_eq!(code, Some(0), "{words:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Asks until the answer is as wanted: it takes a commit and a delivery.
fn until(home: &Home, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..2000 {
        last = asked(home, words);
        if wanted(&last) {
            return last;
        }
    }
    panic!("{words:?}: {last:#}");
}

fn numbers(letters: &Value) -> BTreeSet<u64> {
    letters["letters"].as_array().unwrap().iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_records_are_seen_and_sent_again_without_stopping_the_gateway() {
    let (machine, pki) = (Machine::start(Screen::default()), Pki::new());
    let receiver = Receiver::start(&pki).await;
    receiver.refuse(VENOUS, 3);
    let home =
        Home::new(&Wishes { chairs: &[&machine], receiver: Some((&receiver, &pki)), ..Wishes::default() });
    let gateway = home.ready("debug");
    let letters = until(&home, &["spool", "dead-letters"], |letters| letters["count"] == 3);
    let first = &letters["letters"][0];
    assert_eq!((first["upstream"].as_str(), first["chair"].as_str()), (Some("ehr"), Some("chair-1")));
    assert_eq!(
        (first["reasons"][0]["status"].as_u64(), first["state"].as_str()),
        (Some(422), Some("refused"))
    );
    let refused = numbers(&letters);
    let number = refused.first().unwrap().to_string();
    let record = asked(&home, &["spool", "inspect", &number]);
    let venous =
        record["values"].as_array().unwrap().iter().find(|value| value["parameter"] == "venous_pressure");
    assert_eq!(venous.unwrap()["value"].to_string(), "170");
    assert_eq!(record["upstreams"][0]["state"], "delivered, parts refused");
    let page = home.ask(&["spool", "inspect", &number], "").1;
    assert!(page.contains("\n  venous_pressure: 170 mm[Hg]\n"), "{page}");
    let before = asked(&home, &["spool", "status"]);
    assert_eq!(before["upstreams"][0]["parts_refused"], 3);

    assert_eq!(asked(&home, &["spool", "replay", "--sequence", &number])["put_back"], 1);
    let left = until(&home, &["spool", "dead-letters"], |letters| letters["count"] == 2);
    assert!(!numbers(&left).contains(refused.first().unwrap()));
    assert_eq!(asked(&home, &["spool", "replay"])["put_back"], 2);
    until(&home, &["spool", "dead-letters"], |letters| letters["count"] == 0);
    let after =
        until(&home, &["spool", "status"], |status| status["upstreams"][0]["waiting"].as_u64() < Some(50));
    assert_eq!(after["upstreams"][0]["parts_refused"], 0);

    let counted = asked(&home, &["spool", "inspect"]);
    let kinds = counted["summary"]["kinds"].as_object().unwrap();
    let sum: u64 = kinds.values().map(|kind| kind["count"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), counted["summary"]["records"]["count"].as_u64());
    let (code, _, err) = home.ask(&["spool", "verify"], "");
    assert_eq!((code, err.contains("the gateway is running")), (Some(75), true), "{err}");
    stopped_tells_the_same(&home, gateway);
}

fn stopped_tells_the_same(home: &Home, gateway: Running) {
    gateway.stop();
    let (code, out, err) = home.ask(&["spool", "verify"], "");
    assert_eq!(code, Some(0), "{out}{err}");
    let stopped = asked(home, &["spool", "status"]);
    let page = home.ask(&["spool", "inspect"], "").1;
    assert!(page.contains("By treatment") || page.contains("By kind"), "{page}");
    assert_eq!(asked(home, &["spool", "inspect"])["summary"]["records"]["count"], stopped["records"]);
    let audit = std::fs::read_to_string(home.state().join("audit.jsonl")).unwrap();
    for act in ["spool_inspect", "spool_record", "spool_dead_letters", "spool_replay"] {
        assert!(audit.contains(act), "{act}");
    }
    // Nobody reads records without being in the audit record.
    let audit = home.state().join("audit.jsonl");
    std::fs::remove_file(&audit).unwrap();
    std::os::unix::fs::symlink("/dev/full", &audit).unwrap();
    for words in [&["spool", "inspect"][..], &["spool", "inspect", "1"], &["spool", "dead-letters"]] {
        let (code, out, err) = home.ask(words, "");
        assert_eq!((code, out.as_str()), (Some(74), ""), "{words:?}: {err}");
        assert!(err.contains("write the audit record"), "{err}");
    }
    assert_eq!(home.ask(&["spool", "status"], "").0, Some(0));
    // A bar, a colour or a carriage return would have no place in a pipe.
    assert!(!page.contains('\u{1b}') && !err.contains('\u{1b}'), "{err}");
}
