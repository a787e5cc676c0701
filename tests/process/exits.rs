//! How the program ends, and what it leaves untouched.

use crate::gateway::{Home, Wishes};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

#[test]
fn a_default_install_is_ready_says_what_to_do_next_and_stops_when_asked() {
    let home = Home::new(&Wishes::default());
    let mut gateway = home.ready("info");
    let (code, page, _) = home.ask(&["status"], "");
    assert_eq!(code, Some(0));
    assert!(page.contains("No chair yet: add a [[chair]] to the configuration"), "{page}");
    gateway.signal(Signal::INT);
    assert_eq!(gateway.end().code(), Some(0));
    assert!(!home.state().join("control.sock").exists());
}

#[test]
fn a_refused_configuration_exits_78_and_touches_nothing() {
    let home = Home::new(&Wishes::default());
    home.write("gateway.toml", "[gateway]\nname = 7\nstate_dir = \"state\"\n");
    let (code, _, why) = home.ask(&["run"], "");
    assert_eq!(code, Some(78), "{why}");
    assert!(why.contains("gateway.toml:2:8"), "{why}");
    assert!(!home.state().exists());
    assert!(!home.dir.path().join("root.key").exists());
}

#[test]
fn a_missing_root_key_exits_77_and_names_it() {
    let home = Home::new(&Wishes::default());
    home.write(
        "gateway.toml",
        "[gateway]\nname = \"ward-test\"\nstate_dir = \"state\"\n[keys]\nroot = { file = \"absent.key\" }\n",
    );
    let mut gateway = home.start("info");
    assert_eq!(gateway.end().code(), Some(77));
    let log = gateway.log().join("\n");
    assert!(log.contains("absent.key"), "{log}");
    assert!(!home.state().join("spool").exists());
}

#[test]
fn a_second_process_exits_75_and_leaves_the_first_alone() {
    let home = Home::new(&Wishes::default());
    let first = home.ready("info");
    let mut second = home.start("info");
    assert_eq!(second.end().code(), Some(75), "{:?}", second.log());
    assert_eq!(home.ask(&["status"], "").0, Some(0));
    first.stop();
}

/// Every file and folder below a folder: which file it is, when it was last changed, and its bytes.
fn all_of(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let about =
        |path: &Path| fs::metadata(path).map(|about| (about.ino(), about.modified().unwrap())).unwrap();
    let (number, changed) = about(folder);
    all.insert(folder.to_owned(), (number, changed, Vec::new()));
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(all_of(&path));
        } else if path.is_file() {
            let (number, changed) = about(&path);
            all.insert(path.clone(), (number, changed, fs::read(&path).unwrap()));
        }
    }
    all
}

/// Names the files that differ, instead of printing them. One that was replaced by its like was touched as well.
fn assert_untouched(before: &BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)>, folder: &Path) {
    let after = all_of(folder);
    let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> = all.into_iter().filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn a_second_process_changes_not_a_byte() {
    let home = Home::new(&Wishes::default());
    let first = home.ready("info");
    // It holds the spool and writes nothing meanwhile.
    first.halt();
    let before = all_of(&home.state());
    assert!(before.len() > 5, "{:?}", before.keys());
    let mut second = home.start("info");
    assert_eq!(second.end().code(), Some(75), "{:?}", second.log());
    assert_untouched(&before, &home.state());
    first.signal(Signal::CONT);
    first.stop();
}

#[test]
fn a_newer_format_exits_78_and_not_a_byte_changes() {
    let home = Home::new(&Wishes::default());
    home.ready("info").stop();
    let spool = home.state().join("spool");
    let manifest = spool.join("manifest");
    let mut bytes = fs::read(&manifest).unwrap();
    for slot in [0, bytes.len() / 2] {
        let length = 20 + u32::from_be_bytes(bytes[slot + 16..slot + 20].try_into().unwrap()) as usize;
        bytes[slot + 4..slot + 8].copy_from_slice(&9_u32.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[slot..slot + length]).to_be_bytes();
        bytes[slot + length..slot + length + 4].copy_from_slice(&checksum);
    }
    fs::write(&manifest, &bytes).unwrap();
    let before = all_of(&home.state());
    let mut gateway = home.start("info");
    assert_eq!(gateway.end().code(), Some(78), "{:?}", gateway.log());
    assert_untouched(&before, &home.state());
}

#[test]
fn a_hangup_stops_nothing() {
    let home = Home::new(&Wishes::default());
    let gateway = home.ready("info");
    gateway.signal(Signal::HUP);
    gateway.until("what a hangup does not do", |line| line.contains("is not read while running"));
    assert_eq!(home.ask(&["status"], "").0, Some(0));
    gateway.stop();
}

#[test]
fn commands_say_that_no_gateway_runs_and_exit_75() {
    let home = Home::new(&Wishes::default());
    for (words, input) in
        [(&["status"][..], ""), (&["seat", "chair-1"], "CANARY-4711\n"), (&["unseat", "chair-1"], "")]
    {
        let (code, _, why) = home.ask(words, input);
        assert_eq!(code, Some(75), "{why}");
        assert!(why.contains("start it with `systemctl start chairside`"), "{why}");
    }
}

#[test]
fn a_chair_that_does_not_exist_is_refused_without_repeating_what_was_typed() {
    let home = Home::new(&Wishes::default());
    let gateway = home.ready("info");
    let (code, _, why) = home.ask(&["seat", "Mustermann"], "CANARY-4711\n");
    assert_eq!(code, Some(1));
    assert!(why.contains("there is no such chair"), "{why}");
    let log = gateway.stop().join("\n");
    assert!(!log.contains("Mustermann") && !log.contains("CANARY"), "{log}");
    let audit = std::fs::read_to_string(home.state().join("audit.jsonl")).unwrap();
    assert!(audit.contains("\"event\":\"denied\"") && audit.contains("unknown_chair"), "{audit}");
    assert!(!audit.contains("Mustermann") && !audit.contains("CANARY"), "{audit}");
}

#[test]
fn the_service_manager_hears_of_readiness_life_and_the_stop() {
    let home = Home::new(&Wishes::default());
    let path = home.dir.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = |wanted: &str| {
        let mut all = Vec::new();
        while !all.iter().any(|line: &String| line.split('\n').any(|part| part == wanted)) {
            let mut datagram = [0; 4096];
            let length =
                socket.recv(&mut datagram).unwrap_or_else(|why| panic!("no {wanted}: {why}; {all:?}"));
            all.push(String::from_utf8(datagram[..length].to_vec()).unwrap());
        }
        all.join("\n")
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "900000")];
    let gateway = home.start_with("info", &variables);
    assert!(heard("READY=1").contains("STATUS=no chair in the configuration yet"));
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    gateway.signal(Signal::TERM);
    heard("STOPPING=1");
    gateway.stop();
}

#[test]
fn a_log_filter_that_cannot_be_understood_exits_64() {
    let home = Home::new(&Wishes::default());
    let (code, _, why) = home.ask(&["run", "--log", "chairside=loud=now"], "");
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("write error, warn, info, debug or trace"), "{why}");
    assert!(!home.state().exists());
}

#[test]
fn a_file_in_place_of_the_state_directory_is_refused_with_what_to_do() {
    let home = Home::new(&Wishes::default());
    home.write("state", "not a folder");
    let mut gateway = home.start("info");
    assert_eq!(gateway.end().code(), Some(74));
    assert!(gateway.log().join("\n").contains("name another as [gateway] state_dir"));
}

#[test]
fn a_missing_keyring_beside_a_spool_is_refused_and_nothing_is_made_anew() {
    let home = Home::new(&Wishes::default());
    home.ready("info").stop();
    let keyring = home.state().join("keyring");
    std::fs::remove_file(&keyring).unwrap();
    let mut gateway = home.start("info");
    assert_eq!(gateway.end().code(), Some(78), "{:?}", gateway.log());
    assert!(gateway.log().join("\n").contains("bring it back from your safe copy"));
    assert!(!keyring.exists());
}
