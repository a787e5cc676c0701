//! Whole configurations: golden reports of bad ones, and what good ones mean.

mod any_text;
mod shipped;

use super::*;
use crate::config::device_map::TreatmentRule;
use crate::config::settings::{
    Changes, Compress, Environment, Every, KeySource, MinTls, ResourceKind, SendPolicy, Subject, Unseated,
    UpstreamKind, Wanted,
};
use crate::model::alarm::Alarm;
use crate::model::unit::Unit;
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::ChannelId;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Files that exist only in a test.
#[derive(Clone, Debug, Default)]
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    fn with(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
        self.0.insert(PathBuf::from(path), text.into());
        self
    }
}

impl Files for Memory {
    fn read(&self, path: &Path, _limit: usize) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let inside = self.0.keys().filter(|path| path.parent() == Some(folder));
        inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }
}

/// Where the file of a test pretends to be.
const FILE: &str = "/etc/chairside/gateway.toml";

fn loaded(text: impl Into<Vec<u8>>) -> Result<Settings, Report> {
    load_from(Path::new(FILE), &Memory::default().with(FILE, text))
}

fn good() -> Settings {
    load(Path::new("fixtures/config/good/gateway.toml")).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn every_bad_configuration_is_refused_with_the_report_that_stands_beside_it() {
    // Tests run at the package's root, so the reports name their files from there.
    let entries = std::fs::read_dir("fixtures/config/bad").unwrap().map(|entry| entry.unwrap().path());
    let mut bad: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    bad.sort();
    assert!(bad.len() > 15);
    for file in bad {
        let report = load(&file).unwrap_err();
        let name = file.file_stem().unwrap().to_str().unwrap();
        insta::with_settings!({
            snapshot_path => "../../fixtures/config/bad/reports",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, report.to_string());
        });
    }
}

#[test]
fn a_gateway_without_chairs_and_upstreams_needs_a_name_and_a_root_key() {
    let settings = loaded("[gateway]\nname = \"ward-3\"\n[keys]\nroot = { file = \"root.key\" }\n").unwrap();
    let gateway = &settings.gateway;
    assert_eq!(gateway.control, Path::new("/var/lib/chairside/control.sock"));
    assert_eq!((gateway.unseated, gateway.environment), (Unseated::Hold, Environment::Production));
    assert!(!gateway.trust_clock);
    assert_eq!((settings.spool.max_bytes, settings.spool.keep_delivered.as_secs()), (16 << 30, 3 * 86_400));
    let path = PathBuf::from("/etc/chairside/root.key");
    assert_eq!(settings.root_key, KeySource::File { path, created: false });
}

#[test]
fn a_good_configuration_means_what_it_says() {
    let settings = good();
    let folder = std::path::absolute("fixtures/config/good").unwrap();
    let gateway = &settings.gateway;
    assert_eq!(gateway.name, "ward-3");
    assert_eq!(gateway.namespace, "https://clinic.example/chairside");
    assert_eq!(gateway.state_dir, folder.join("state"));
    assert_eq!(gateway.control, Path::new("/run/chairside/control.sock"));
    assert_eq!(gateway.time_zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!((gateway.unseated, gateway.environment), (Unseated::Machine, Environment::Test));
    assert!(gateway.trust_clock);
    assert_eq!((settings.spool.max_bytes, settings.spool.keep_delivered.as_secs()), (2 << 40, 36 * 3600));
    assert_eq!(settings.root_key, KeySource::File { path: folder.join("root.key"), created: true });

    let [first, second, third] = settings.chairs.as_slice() else { panic!("three chairs") };
    assert_eq!((first.every.as_millis(), second.every.as_secs()), (250, 10));
    assert_eq!(second.port, folder.join("ports/two"));
    assert!(Arc::ptr_eq(&first.map, &second.map), "one map is read once");
    assert_eq!(third.model.id().as_str(), "kpoll/toray_tr8000");
}

#[test]
fn a_good_upstream_means_what_it_says() {
    let settings = good();
    let folder = std::path::absolute("fixtures/config/good").unwrap();
    let [upstream] = settings.upstreams.as_slice() else { panic!("one upstream") };
    assert_eq!(upstream.ca, folder.join("tls/ehr-ca.pem"));
    assert_eq!(upstream.certificate, Path::new("/etc/ssl/gateway.pem"));
    assert_eq!(upstream.key, KeySource::Credential(String::from("ehr-client-key")));
    assert_eq!(upstream.min_tls, MinTls::V1_2);
    let every = Every::Window(Duration::from_secs(300));
    let send = SendPolicy { every, settings: Changes::Never, spot: Wanted::Yes, alarms: Wanted::No };
    assert_eq!(upstream.send, send);
    let UpstreamKind::Fhir(fhir) = &upstream.kind;
    assert_eq!(fhir.url, "https://ehr.clinic.example:8443/fhir");
    assert_eq!((fhir.subject, fhir.environment), (Subject::Managed, Environment::Test));
    assert_eq!(fhir.resources, [ResourceKind::Observation, ResourceKind::Device]);
    assert_eq!(fhir.compress, Compress::Never);
}

#[test]
fn a_good_device_map_means_what_it_says() {
    let settings = good();
    let map = &settings.chairs[0].map;
    assert_eq!((map.revision, map.checked_on.join("; ").as_str()), (7, "software 2.1, 2027-01-14, AB"));
    let keys: Vec<_> = map.entries.iter().map(|entry| (entry.parameter.key(), entry.from.as_str())).collect();
    let expected = [
        ("uf_removed_volume", "B"),
        ("venous_pressure", "H"),
        ("treatment_modality", "N"),
        ("nibp_systolic", "T"),
    ];
    assert_eq!(keys, expected);
    let said = |bound: Option<Decimal>| bound.map(|bound| bound.to_string());
    let range = |index: usize| (said(map.entries[index].plausible.0), said(map.entries[index].plausible.1));
    assert_eq!(range(0), (Some(String::from("0")), Some(String::from("8500"))), "written in L, kept in mL");
    assert_eq!(range(1), (None, Some(String::from("450"))), "the table's own, where the map has none");
    assert_eq!(map.entries[0].machine_unit, Some(Unit::Litre));
    assert_eq!(map.entries[2].machine_unit, None);
    assert_eq!(map.entries[3].new_when_changes, Some(ChannelId::from_static("S")));
    assert_eq!(map.alarms, [(Alarm::from_key("venous_pressure").unwrap(), ChannelId::from_static("c"))]);
    assert_eq!(map.treatment, Some(TreatmentRule::Flag { from: ChannelId::from_static("M"), is: vec![1] }));
    let [elapsed, blood_flow] = ["K", "D"].map(ChannelId::from_static);
    assert_eq!(settings.chairs[2].map.treatment, Some(TreatmentRule::Elapsed { elapsed, blood_flow }));
}

#[test]
fn an_example_shows_what_each_line_of_a_map_makes_of_it() {
    insta::assert_snapshot!(explain(&good()), @r"
    chair-1, chair-2: kpoll/nikkiso_dbb27c, map revision 7, compared with the screen: software 2.1, 2027-01-14, AB
      uf_removed_volume      B 00.68 L -> 680 mL; plausible 0 to 8500 mL
      venous_pressure        H 0170 mm[Hg] -> 170 mm[Hg]; plausible to 450 mm[Hg]
      treatment_modality     N 0 -> HD
      nibp_systolic          T 0000/ mm[Hg] -> no reading; plausible 0 to 400 mm[Hg]; new when S changes
      alarm.venous_pressure  c 0 -> off; anything but 0 -> active
      treatment              running while M is 1 (on)
      not mapped             A C D E F G I J K L a b d e f g h O P Q R U V i
    chair-3: kpoll/toray_tr8000, map revision 1, not yet compared with a screen
      blood_flow_rate  D 00320 mL/min -> 320 mL/min; plausible 0 to 600 mL/min
      treatment        running while K advances and D is above zero, two polls running
      not mapped       A B C E F G H I J a b c d e f g h L M N O P Q R S T U V W X Y Z i j k l m o p q r s t u v w x y z ! # $
    ");
}

#[test]
fn a_file_that_is_no_text_is_told_where() {
    let report = loaded(b"[gateway]\nname = \"Z\xfcrich\"\n".to_vec()).unwrap_err();
    let first = report.problems()[0].one_line();
    assert_eq!(first, "/etc/chairside/gateway.toml:2:10: this byte is no UTF-8 text");
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_like_any_other() {
    let report = load(Path::new("fixtures/config/nothing.toml")).unwrap_err();
    insta::assert_snapshot!(report, @r"
      × this file cannot be read: there is no such file
       ╭─[fixtures/config/nothing.toml:1:1]
       ╰────
      help: name the file with --config FILE

    fixtures/config/nothing.toml:1:1: this file cannot be read: there is no such file
    1 mistake; nothing of fixtures/config/nothing.toml is used until all are mended
    ");
}

#[test]
fn a_file_larger_than_any_configuration_is_not_even_parsed() {
    let report = loaded("#".repeat(600 * 1024)).unwrap_err();
    assert_eq!(report.problems().len(), 1);
    assert!(report.problems()[0].message().contains("512 KiB"));
}

#[test]
fn colours_are_for_terminals_alone() {
    let report = loaded("").unwrap_err();
    assert!(!report.to_string().contains('\x1b'));
    assert!(report.render(Colours::On).contains('\x1b'));
}
