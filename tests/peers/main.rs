//! Servers nobody here wrote: nginx asks for our certificate, and a receiver in another language judges every resource.
//!
//! Needs nginx and a Python with `fhir.resources`; packaging/ci.sh installs both and turns the feature `peers` on.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may say what must hold in the shortest way"
)]

#[expect(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/machine.rs"]
mod machine;
mod peer;
#[path = "../support/pki.rs"]
mod pki;
#[expect(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../support/receiver.rs"]
mod receiver;

use gateway::{Home, Wishes};
use machine::{Machine, Screen};
use peer::Peer;
use pki::{Identity, Pki};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What the public frame of the DBB-27C says, in our units: MDC code, value as written, UCUM unit.
const PUBLIC_READINGS: [(&str, &str, &str); 11] = [
    ("159028", "2500", "mL"),
    ("159032", "680", "mL"),
    ("159036", "800", "mL/h"),
    ("158740", "250", "mL/min"),
    ("158736", "2.0", "mL/h"),
    ("158796", "36.5", "Cel"),
    ("158788", "14.4", "mS/cm"),
    ("158776", "170", "mm[Hg]"),
    ("158852", "61", "mm[Hg]"),
    ("158720", "54", "min"),
    ("158792", "500", "mL/min"),
];

fn home(machine: &Machine, peer: &Peer, pki: &Pki, identity: &Identity) -> Home {
    let home = Home::new(&Wishes { chairs: &[machine], unseated: "hold", ..Wishes::default() });
    home.write("ca.pem", &pki.ca);
    present(&home, identity);
    let mut text = std::fs::read_to_string(home.config()).unwrap();
    write!(
        text,
        "\n[[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\nurl = \"https://127.0.0.1:{}/fhir\"\nca = \"ca.pem\"\n\
         certificate = \"gateway.pem\"\nkey = {{ file = \"gateway.key\" }}\nenvironment = \"test\"\n\
         send = {{ every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n",
        peer.port
    )
    .unwrap();
    home.write("gateway.toml", &text);
    home
}

/// Puts a certificate and its key where the configuration names them.
fn present(home: &Home, identity: &Identity) {
    home.write("gateway.pem", &identity.certificate);
    home.write("gateway.key", &identity.key);
}

#[test]
fn the_public_frame_arrives_through_nginx_and_a_resend_after_a_restart_makes_no_second_resource() {
    let pki = Pki::new();
    let peer = Peer::start(&pki);
    let machine = Machine::start(Screen::default());
    let home = home(&machine, &peer, &pki, &pki.gateway);

    let gateway = home.ready("info");
    gateway.until("the treatment", |line| line.contains("treatment started"));
    assert_eq!(home.ask(&["seat", "chair-1"], "MRN-4711-CANARY\n").0, Some(0));
    let first = peer.until("every reading of the public frame", |held| {
        PUBLIC_READINGS.iter().all(|(code, _, _)| held.observations(code).next().is_some())
    });
    for (code, value, unit) in PUBLIC_READINGS {
        for quantity in first.observations(code).map(|observation| &observation["valueQuantity"]) {
            assert_eq!(quantity["value"].to_string(), value, "{code}");
            assert_eq!(quantity["code"], unit, "{code}");
        }
    }
    let subjects = first.subjects();
    assert_eq!(subjects.len(), 1, "one patient, one pseudonym: {subjects:?}");
    machine.show(|screen| screen.mute = true);
    gateway.stop();

    // Losing the settlement store means sending everything again.
    let before = peer.held();
    std::fs::remove_dir_all(home.state().join("spool/settlement")).unwrap();
    let gateway = home.ready("info");
    let after = peer.until("everything a second time", |held| {
        before
            .versions
            .keys()
            .filter(|key| key.starts_with("Observation/"))
            .all(|key| held.versions.get(key).is_some_and(|versions| *versions > before.versions[key]))
    });
    gateway.stop();
    for (key, resource) in before.resources.iter().filter(|(key, _)| key.starts_with("Observation/")) {
        assert_eq!(after.resources.get(key), Some(resource), "{key} came back as something else");
    }
    // The stop may have left some waiting, so there can be more of them now, but none a second time.
    let mut seen = BTreeSet::new();
    for (code, observation) in
        PUBLIC_READINGS.iter().flat_map(|(code, _, _)| after.observations(code).map(move |it| (code, it)))
    {
        let at = observation["effectiveDateTime"].to_string();
        assert!(seen.insert((code, at.clone())), "a reading came twice: {code} of {at}");
    }
    assert!(after.wrong.is_empty(), "{:?}", after.wrong);
    assert!(!format!("{:?}", after.resources).contains("CANARY"));
}

#[test]
fn nginx_refusing_our_certificate_pauses_delivery_and_loses_nothing() {
    let pki = Pki::new();
    let stranger = Pki::new();
    let peer = Peer::start(&pki);
    let machine = Machine::start(Screen::default());
    let home = home(&machine, &peer, &pki, &stranger.gateway);

    let gateway = home.ready("info");
    gateway.until("the treatment", |line| line.contains("treatment started"));
    assert_eq!(home.ask(&["seat", "chair-1"], "4711\n").0, Some(0));
    let page = home.until_page("the pause", |page| page.contains("PAUSED"));
    assert!(page.contains("certificate"), "{page}");
    assert!(peer.held().resources.is_empty());
    gateway.stop();

    present(&home, &pki.gateway);
    let gateway = home.ready("info");
    peer.until("what was kept meanwhile", |held| held.observations("158776").count() > 1);
    gateway.stop();
    let (code, status, _) = home.ask(&["spool", "status", "--json"], "");
    assert_eq!(code, Some(0));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let refused =
        status.pointer("/upstreams/0/refused").unwrap_or_else(|| panic!("no count of refusals: {status}"));
    assert_eq!(refused, 0, "a refused certificate is no reason to refuse a record");
}
