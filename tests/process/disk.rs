//! The real gateway on a disk that refuses: it goes on or ends with exit 74, and what it had kept arrives.

use crate::delivery::{is_kept, kept, missing};
use crate::gateway::{Home, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use std::collections::BTreeSet;

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
    gateway.stop();
}
