//! The real gateway on a disk that refuses: it goes on or ends with exit 74, and what it had kept arrives.

use crate::delivery::{is_kept, kept, missing};
use crate::gateway::{Home, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use std::collections::BTreeSet;

/// Whether the trace shows that a sync of a volume had returned before the gateway first called this port.
fn is_synced_first(trace: &str, port: u16) -> bool {
    let called = format!("htons({port})");
    let mut waits = BTreeSet::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if call.contains(&called) {
            return false;
        }
        let begun = call.starts_with("fdatasync(") && call.contains("/volume-");
        if begun && call.contains("unfinished") {
            waits.insert(thread);
        } else if (begun || call.contains("fdatasync resumed") && waits.remove(thread))
            && call.contains("= 0")
        {
            return trace.contains(&called);
        }
    }
    panic!("neither a sync of a volume nor a call to {port}\n{trace}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_before_the_disk_has_confirmed_it() {
    let (machine, pki) = (Machine::start(Screen::default()), Pki::new());
    let receiver = Receiver::start(&pki).await;
    let home =
        Home::new(&Wishes { chairs: &[&machine], receiver: Some((&receiver, &pki)), ..Wishes::default() });
    let trace = home.dir.path().join("trace");
    // Each sync takes a tenth of a second longer: whoever does not wait for it has sent its records long before.
    let words = ["-y", "-o", trace.to_str().unwrap(), "-e", "trace=fdatasync,connect"];
    let words = [&words[..], &["-e", "inject=fdatasync:delay_exit=100000"]].concat();
    let Some(gateway) = home.start_traced(LOG, &words) else { return };
    receiver.until("the first records", |it| !it.is_empty()).await;
    gateway.stop();
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(is_synced_first(&trace, receiver.address.port()), "{trace}");
}

const LOG: &str = "info,chairside::gateway=debug";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_at_any_call_costs_the_gateway_nothing_that_it_had_kept() {
    let (machine, pki) = (Machine::start(Screen::default()), Pki::new());
    let receiver = Receiver::start(&pki).await;
    let home =
        Home::new(&Wishes { chairs: &[&machine], receiver: Some((&receiver, &pki)), ..Wishes::default() });
    home.ready(LOG).stop();
    let mut all_kept = BTreeSet::new();
    let (mut ended, mut went_on) = (0, 0);
    for fault in ["fdatasync:error=EIO", "pwrite64:error=ENOSPC"] {
        // Once, which is survived, and from then on, which is not.
        for when in ["15", "40", "60+", "25+", "7"] {
            let words = [
                format!("trace={}", fault.split(':').next().unwrap()),
                format!("inject={fault}:when={when}"),
            ];
            let words = ["-e", &words[0], "-e", &words[1]];
            let Some(mut gateway) = home.start_traced(LOG, &words) else { return };
            if gateway.ended_before(60, is_kept) {
                let status = gateway.end();
                assert_eq!(status.code(), Some(74), "{words:?}\n{}", gateway.log().join("\n"));
                ended += 1;
            } else {
                gateway.kill();
                went_on += 1;
            }
            all_kept.extend(kept(&gateway));
        }
    }
    assert!(ended > 0 && went_on > 0, "{ended} ended, {went_on} went on");
    assert!(!all_kept.is_empty());
    let gateway = home.ready(LOG);
    receiver.until("everything ever kept", |it| missing(&all_kept, it).is_empty()).await;
    // What was due while it was down, or not kept when it ended, is missing with a cause.
    let (code, page, why) = home.ask(&["gaps"], "");
    assert_eq!(code, Some(0), "{why}");
    assert!(page.starts_with("0 polls unaccounted for; "), "{page}");
    assert!(page.contains("gateway down"), "{page}");
    gateway.stop();
}
