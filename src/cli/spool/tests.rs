//! The spool's commands on the folder of a stopped gateway.

use super::letters::{LettersArgs, ReplayArgs};
use super::look::InspectArgs;
use super::salvage::SalvageArgs;
use super::source::{Need, Source, home};
use super::*;
use crate::config::{self, Colours, Settings};
use crate::control::spool::Ask;
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::keyring::{Absent, Keyring};
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::record;
use crate::spool::{Reason, Sequence, Spool, Verdict};
use clap::Parser;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;

/// A stopped gateway: a configuration and a state folder with a spool of 20 records, 5 of them delivered and 2 refused.
struct Clinic {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Clinic {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let text = format!(
            "[gateway]\nname = \"test\"\nstate_dir = \"{state}\"\nnamespace = \"https://clinic.example/chairside\"\n\
             [spool]\nmax_bytes = \"1 GiB\"\nkeep_delivered = \"3 days\"\n\
             [keys]\nroot = {{ file = \"{state}/root.key\", created = true }}\n\
             [[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\nurl = \"https://ehr.example/fhir\"\nca = \"ca.pem\"\n\
             certificate = \"gateway.pem\"\nkey = {{ file = \"gateway.key\" }}\n\
             send = {{ every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n",
            state = state.display()
        );
        let file = dir.path().join("gateway.toml");
        fs::write(&file, text).unwrap();
        let settings = config::load(&file).unwrap_or_else(|report| panic!("{}", report.render(Colours::Off)));
        let clinic = Self { dir, settings };
        let mut spool = clinic.open(Absent::Create);
        spool.append(&(1..=20).map(record).collect::<Vec<_>>()).unwrap();
        let verdict = |n| match n {
            3 | 4 => Verdict::Refused { parts: 2, reason: Reason { status: 422, issue: Some("value") } },
            _ => Verdict::Delivered { parts: 2, refused_parts: Vec::new() },
        };
        let verdicts: Vec<_> = (1..=7).map(|n| (Sequence(n), verdict(n))).collect();
        spool.settle(&UpstreamName::new("ehr").unwrap(), &verdicts).unwrap();
        spool.close().unwrap();
        clinic
    }

    fn open(&self, absent: Absent) -> SledSpool {
        let state = &self.settings.gateway.state_dir;
        let keyring = Keyring::open(state, &self.settings.root_key, absent).unwrap();
        let ehr = [UpstreamName::new("ehr").unwrap()];
        let now = Timestamp::from_micros(0);
        SledSpool::open(&home(&self.settings), Arc::new(keyring), &ehr, Options::new(1 << 30), now).unwrap()
    }

    fn run<T: clap::Args>(&self, words: &str, act: impl FnOnce(&T) -> Told) -> Told {
        #[derive(Debug, clap::Parser)]
        struct Line<T: clap::Args> {
            #[command(flatten)]
            args: T,
        }
        let file = self.dir.path().join("gateway.toml");
        let line = ["x", "--config", file.to_str().unwrap()].into_iter().chain(words.split_whitespace());
        act(&Line::<T>::try_parse_from(line).unwrap().args)
    }

    fn audit(&self) -> String {
        fs::read_to_string(self.settings.gateway.state_dir.join("audit.jsonl")).unwrap_or_default()
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_whole_spool_is_complete_and_a_cut_one_is_not() {
    let clinic = Clinic::new();
    let (text, exit) = check::check_spool(&clinic.settings, false).unwrap();
    assert_eq!(exit, Exit::Ok);
    assert!(text.contains("volume-00000001: 20 of 20 records authenticate"), "{text}");
    assert!(text.contains("complete up to record 20"), "{text}");
    let db = home(&clinic.settings).join("volume-00000001/db");
    let bytes = fs::read(&db).unwrap();
    fs::write(&db, &bytes[..200]).unwrap();
    let (text, exit) = check::check_spool(&clinic.settings, true).unwrap();
    assert_eq!(exit, Exit::No);
    let json = parsed(&text);
    assert_eq!((&json["holds"], &json["volumes"][0]["found"]), (&json!(false), &json!(0)));
}

#[test]
fn what_a_stopped_spool_holds_is_told_without_changing_it() {
    let clinic = Clinic::new();
    let store = home(&clinic.settings).join("settlement/db");
    let before = fs::read(&store).unwrap();
    let (text, exit) = clinic.run("--json", holdings::show).unwrap();
    assert_eq!(exit, Exit::Ok);
    let json = parsed(&text);
    let ehr = &json["upstreams"][0];
    assert_eq!((&json["records"], &ehr["waiting"], &ehr["refused"]), (&json!(20), &json!(13), &json!(2)));
    let (text, _) = clinic.run("", holdings::show).unwrap();
    assert!(
        text.starts_with("20 records in 1 volumes; the last one is number 20 (the gateway is stopped)"),
        "{text}"
    );
    assert!(text.contains("ehr: 5 delivered, 0 not wanted, 0 held, 13 waiting, 2 refused"), "{text}");
    assert_eq!(fs::read(&store).unwrap(), before);
    assert_eq!(clinic.audit(), "", "numbers alone are no access to records");
}

#[test]
fn records_are_counted_and_one_is_shown_and_both_are_in_the_audit_record() {
    let clinic = Clinic::new();
    let (text, _) = clinic.run::<InspectArgs>("", look::inspect).unwrap();
    assert!(
        text.starts_with("20 records, number 1 to 20, captured 2027-01-01 00:00:01Z to 2027-01-01 00:00:20Z"),
        "{text}"
    );
    assert!(text.contains("By chair\n  chair-1") && text.contains("By kind\n  gap"), "{text}");
    let (text, _) = clinic.run::<InspectArgs>("--json --from 3 --to 9 --list 4", look::inspect).unwrap();
    let json = parsed(&text);
    assert_eq!(
        (&json["summary"]["records"]["count"], json["records"].as_array().unwrap().len()),
        (&json!(7), 4)
    );
    let (text, _) = clinic.run::<InspectArgs>("3 --json", look::inspect).unwrap();
    let json = parsed(&text);
    assert_eq!((&json["kind"], &json["upstreams"][0]["state"]), (&json!("gap"), &json!("refused")));
    assert_eq!(json["upstreams"][0]["refusal"]["reasons"][0]["issue"], json!("value"));
    let (_, exit) = clinic.run::<InspectArgs>("21", look::inspect).unwrap_err();
    assert_eq!(exit, Exit::No);
    let audit = clinic.audit();
    assert!(audit.contains(r#""about":{"sequence":3},"at":"#) && audit.contains("spool_record"), "{audit}");
    assert_eq!(audit.matches("spool_inspect").count(), 2, "{audit}");
}

#[test]
fn a_choice_that_is_none_is_a_usage_error_and_is_not_repeated() {
    let clinic = Clinic::new();
    for words in ["--kind 4711", "--day 4711", "--treatment KV-4711", "--chair 47/11"] {
        let (text, exit) = clinic.run::<InspectArgs>(words, look::inspect).unwrap_err();
        assert_eq!(exit, Exit::Usage);
        assert!(!text.contains("47"), "{text}");
    }
    assert!(!clinic.audit().contains("4711"));
}

#[test]
fn dead_letters_are_listed_put_back_and_thrown_away() {
    let clinic = Clinic::new();
    let (text, _) = clinic.run::<LettersArgs>("", letters::letters).unwrap();
    assert!(text.starts_with("2 dead letters\n  ehr: 2 refused, 422 value: the whole record\n"), "{text}");
    let (text, exit) = clinic.run::<ReplayArgs>("--sequence 3 --upstream ehr", letters::replay).unwrap();
    assert_eq!(
        (exit, text.starts_with("1 records will be sent again when the gateway runs")),
        (Exit::Ok, true),
        "{text}"
    );
    let (text, _) = clinic.run("--json", holdings::show).unwrap();
    let ehr = &parsed(&text)["upstreams"][0];
    assert_eq!((&ehr["waiting"], &ehr["refused"], &ehr["parts_refused"]), (&json!(14), &json!(1), &json!(2)));
    let (text, _) = clinic.run::<LettersArgs>("--json", letters::letters).unwrap();
    assert_eq!(parsed(&text)["letters"][0]["state"], json!("waiting"));
    let (_, exit) = clinic.run::<LettersArgs>("--discard", letters::letters).unwrap_err();
    assert_eq!(exit, Exit::Usage);
    let (text, _) = clinic.run::<LettersArgs>("--discard --all --json", letters::letters).unwrap();
    assert_eq!(parsed(&text), json!({ "thrown_away": 1, "kept_waiting": 1 }));
    let (text, exit) = clinic.run::<ReplayArgs>("--sequence 4", letters::replay).unwrap();
    assert_eq!((exit, text.as_str()), (Exit::No, "no record was put back to be sent\n"));
    for act in ["spool_dead_letters", "spool_replay", "spool_discard"] {
        assert!(clinic.audit().contains(act), "{act}");
    }
}

#[test]
fn a_gateway_that_holds_the_spool_and_does_not_answer_is_named_as_the_reason() {
    let clinic = Clinic::new();
    let _running = clinic.open(Absent::Refuse);
    for need in [Need::Numbers, Need::Records] {
        let (text, exit) = Source::stopped(&clinic.settings, need).err().unwrap();
        assert_eq!(exit, Exit::NotReady);
        assert!(text.contains("the gateway is running"), "{text}");
    }
    let (_, exit) = check::check_spool(&clinic.settings, false).unwrap_err();
    assert_eq!(exit, Exit::NotReady);
}

#[test]
fn without_a_spool_there_is_nothing_and_no_file_is_made() {
    let clinic = Clinic::new();
    fs::remove_dir_all(home(&clinic.settings)).unwrap();
    let mut source = Source::stopped(&clinic.settings, Need::Change).unwrap();
    assert!(source.ask(&Ask::Status).unwrap().is_none());
    assert!(!home(&clinic.settings).exists());
}

#[test]
fn a_broken_disk_becomes_a_new_spool_and_nothing_is_done_without_yes() {
    let (old, new) = (Clinic::new(), Clinic::new());
    let state = &new.settings.gateway.state_dir;
    fs::remove_dir_all(home(&new.settings)).unwrap();
    fs::remove_file(state.join("keyring")).unwrap();
    fs::copy(old.settings.gateway.state_dir.join("root.key"), state.join("root.key")).unwrap();
    fs::remove_file(home(&old.settings).join("manifest")).unwrap();
    let from = format!("--from {}", old.settings.gateway.state_dir.display());
    let (text, exit) = new.run::<SalvageArgs>(&from, salvage::salvage).unwrap();
    assert_eq!(exit, Exit::Ok);
    assert!(text.contains(": 20 records\n") && text.contains(": 20, number 1 to 20, 2027-01-01"), "{text}");
    assert!(text.contains("they can be made into one\nnothing was changed"), "{text}");
    assert!(!home(&new.settings).exists() && !state.join("keyring").exists());
    let (text, _) = new.run::<SalvageArgs>(&format!("{from} --yes --json"), salvage::salvage).unwrap();
    assert_eq!(parsed(&text)["kept"], json!(20));
    assert!(new.audit().contains("spool_salvage"));
    let mut spool = new.open(Absent::Refuse);
    assert_eq!(spool.status().upstreams[0].1.waiting, 20);
    spool.close().unwrap();
    drop(spool);
    // Once more: now there is a spool, and it has all of them.
    let (text, _) = new.run::<SalvageArgs>(&format!("{from} --json"), salvage::salvage).unwrap();
    let json = parsed(&text);
    assert_eq!((&json["here"], &json["missing"], &json["foreign"]), (&json!(20), &json!(0), &json!(0)));
}

#[test]
fn what_this_spool_has_lost_comes_back_from_another_disk() {
    let clinic = Clinic::new();
    let away = clinic.dir.path().join("away");
    fs::rename(home(&clinic.settings).join("volume-00000001"), &away).unwrap();
    let mut spool = clinic.open(Absent::Refuse);
    // The two that were refused are in their dead letters still.
    assert_eq!(spool.status().upstreams[0].1.lost, 13);
    spool.close().unwrap();
    drop(spool);
    let words = format!("--from {} --yes", away.display());
    let (text, _) = clinic.run::<SalvageArgs>(&words, salvage::salvage).unwrap();
    assert!(text.contains("were taken back and will be sent when the gateway runs"), "{text}");
    let mut spool = clinic.open(Absent::Refuse);
    let counts = spool.status().upstreams[0].1;
    assert_eq!((counts.lost, counts.records()), (0, 20));
    assert!(counts.waiting >= 13, "{counts:?}");
}

#[test]
fn what_is_not_there_and_what_may_not_be_looked_at_are_not_told_as_an_empty_spool() {
    let clinic = Clinic::new();
    let ask = |clinic: &Clinic| {
        [
            clinic.run("", holdings::show),
            clinic.run("--json", holdings::show),
            clinic.run::<InspectArgs>("", look::inspect),
            clinic.run::<LettersArgs>("", letters::letters),
            clinic.run::<ReplayArgs>("", letters::replay),
            check::check_spool(&clinic.settings, false),
        ]
    };
    fs::remove_dir_all(home(&clinic.settings)).unwrap();
    for told in ask(&clinic) {
        let (text, exit) = told.unwrap_err();
        assert_eq!(exit, Exit::No, "{text}");
        assert!(text.contains("there is no spool at"), "{text}");
    }
    // A file in the place of the state folder: no way to look whether there is a spool.
    let state = &clinic.settings.gateway.state_dir;
    fs::remove_dir_all(state).unwrap();
    fs::write(state, "").unwrap();
    let asked = Source::stopped(&clinic.settings, Need::Numbers).err();
    for (text, exit) in [asked.unwrap(), check::check_spool(&clinic.settings, false).unwrap_err()] {
        assert_eq!(exit, Exit::Disk, "{text}");
        assert!(text.contains("look at the spool in"), "{text}");
    }
}

#[test]
fn another_keyring_in_the_way_is_named_before_anything_is_made_that_it_does_not_open() {
    let (old, new) = (Clinic::new(), Clinic::new());
    let state = &new.settings.gateway.state_dir;
    fs::remove_dir_all(home(&new.settings)).unwrap();
    fs::copy(old.settings.gateway.state_dir.join("root.key"), state.join("root.key")).unwrap();
    for yes in ["", " --yes"] {
        let words = format!("--from {}{yes}", old.settings.gateway.state_dir.display());
        let (text, exit) = new.run::<SalvageArgs>(&words, salvage::salvage).unwrap_err();
        assert_eq!(exit, Exit::No, "{text}");
        assert!(text.contains("is another keyring than"), "{text}");
    }
    assert!(!home(&new.settings).exists());
}

#[test]
fn what_another_keyring_sealed_is_left_alone_however_often_the_gateway_starts() {
    let (old, new) = (Clinic::new(), Clinic::new());
    let copy = home(&new.settings).join("volume-00000009");
    fs::rename(home(&old.settings).join("volume-00000001"), &copy).unwrap();
    for lost in [true, false, false] {
        if lost {
            fs::remove_file(home(&new.settings).join("manifest")).unwrap();
        }
        let mut spool = new.open(Absent::Refuse);
        spool.append(&[record(99)]).unwrap();
        spool.close().unwrap();
        assert!(copy.join("db").exists(), "the only copy of what was salvaged was removed");
    }
}

#[test]
fn pages_of_one_question_are_one_entry_of_the_audit_record() {
    let clinic = Clinic::new();
    let mut spool = clinic.open(Absent::Refuse);
    spool.append(&(21..=600).map(record).collect::<Vec<_>>()).unwrap();
    spool.close().unwrap();
    drop(spool);
    let (text, _) = clinic.run::<InspectArgs>("", look::inspect).unwrap();
    assert!(text.starts_with("600 records"), "{text}");
    assert_eq!(clinic.audit().matches("spool_inspect").count(), 1);
}

#[test]
fn the_last_records_of_a_gateway_that_was_cut_off_are_counted_or_told_as_at_least() {
    let clinic = Clinic::new();
    let mut spool = clinic.open(Absent::Refuse);
    // Told to the manifest at once is the first of a volume; the ones behind it only later.
    spool.append(&[record(21)]).unwrap();
    let manifest = fs::read(home(&clinic.settings).join("manifest")).unwrap();
    spool.append(&(22..=30).map(record).collect::<Vec<_>>()).unwrap();
    drop(spool);
    fs::write(home(&clinic.settings).join("manifest"), manifest).unwrap();
    let (text, _) = clinic.run("", holdings::show).unwrap();
    assert!(text.starts_with("30 records") && !text.contains("at least"), "{text}");
    fs::rename(
        clinic.settings.gateway.state_dir.join("keyring"),
        clinic.settings.gateway.state_dir.join("away"),
    )
    .unwrap();
    let (text, _) = clinic.run("", holdings::show).unwrap();
    assert!(
        !text.starts_with("30 records") && text.contains("! at least: the gateway was cut off"),
        "{text}"
    );
    let (text, _) = clinic.run("--json", holdings::show).unwrap();
    assert_eq!(parsed(&text)["at_least"], json!(true));
}
