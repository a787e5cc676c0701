//! The keyring on a real disk: opening, refusing, changing, rotating, forgetting.

use super::state::Treatment;
use super::*;
use crate::disk::simulated::{Fault, under_every_fault};
use crate::model::name::{ChairName, MachineName};
use std::os::unix::fs::MetadataExt;

fn root(folder: &Path) -> KeySource {
    KeySource::File { path: folder.join("root.key"), created: true }
}

fn open(folder: &Path) -> Keyring {
    Keyring::open(folder, &root(folder), Absent::Create).unwrap()
}

fn upstream(name: &str) -> UpstreamName {
    UpstreamName::new(name).unwrap()
}

fn add_treatment(keyring: &Keyring, number: u8, ended: Option<i64>) -> TreatmentId {
    let id = TreatmentId::from_bytes([number; 16]);
    let treatment = Treatment {
        key: Secret::random().unwrap(),
        chair: ChairName::new("chair-1").unwrap(),
        machine: MachineName::new("asset-14").unwrap(),
        started: Timestamp::from_micros(0),
        ended: ended.map(Timestamp::from_micros),
        bindings: Vec::new(),
    };
    let added: Result<(), KeyringError> = keyring.change(|state| {
        state.treatments.insert(id, treatment);
        Ok(())
    });
    added.unwrap();
    id
}

fn bytes(key: &DataKey) -> [u8; 32] {
    *key.as_bytes()
}

#[test]
fn a_first_start_makes_a_keyring_that_the_next_start_opens_with_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    assert_eq!(keyring.opened(), Opened { keyring_created: true, root_created: true });
    assert_eq!(std::fs::metadata(folder.path().join("keyring")).unwrap().mode() & 0o7777, 0o600);
    let treatment = add_treatment(&keyring, 1, None);
    let facility = bytes(&keyring.seal_key(KeyId::FACILITY).unwrap());
    let own = bytes(&keyring.seal_key(treatment.into()).unwrap());
    assert_ne!(facility, own);
    drop(keyring);

    let keyring = Keyring::open(folder.path(), &root(folder.path()), Absent::Refuse).unwrap();
    assert_eq!(keyring.opened(), Opened { keyring_created: false, root_created: false });
    assert_eq!(bytes(&keyring.open_key(KeyId::FACILITY).unwrap()), facility);
    assert_eq!(bytes(&keyring.open_key(treatment.into()).unwrap()), own);
}

#[test]
fn a_wrong_root_key_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let before = std::fs::read(folder.path().join("keyring")).unwrap();
    std::fs::write(folder.path().join("root.key"), [1; 32]).unwrap();
    let why = Keyring::open(folder.path(), &root(folder.path()), Absent::Create).err().unwrap();
    assert!(matches!(why, KeyringError::WrongRoot(_)), "{why}");
    assert_eq!(why.exit(), Exit::Refused);
    assert_eq!(std::fs::read(folder.path().join("keyring")).unwrap(), before);
}

#[test]
fn a_lost_root_key_is_not_replaced_by_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    std::fs::remove_file(folder.path().join("root.key")).unwrap();
    let why = Keyring::open(folder.path(), &root(folder.path()), Absent::Create).err().unwrap();
    assert_eq!(why.exit(), Exit::NotPermitted);
    assert!(!folder.path().join("root.key").exists());
}

#[test]
fn a_lost_keyring_is_not_replaced_while_records_need_it() {
    let folder = tempfile::tempdir().unwrap();
    let why = Keyring::open(folder.path(), &root(folder.path()), Absent::Refuse).err().unwrap();
    assert_eq!(why.exit(), Exit::Refused);
    assert!(!folder.path().join("keyring").exists());
    assert!(!folder.path().join("root.key").exists());
}

#[test]
fn a_second_process_is_told_that_the_keyring_is_held_and_may_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    let why = Keyring::open(folder.path(), &root(folder.path()), Absent::Create).err().unwrap();
    assert_eq!(why.exit(), Exit::NotReady);
    let reader = Keyring::open_for_reading(folder.path(), &root(folder.path())).unwrap();
    assert_eq!(
        bytes(&reader.open_key(KeyId::FACILITY).unwrap()),
        bytes(&keyring.open_key(KeyId::FACILITY).unwrap())
    );
    let why = reader.ensure_recipients([&upstream("ehr")]).err().unwrap();
    assert!(matches!(why, KeyringError::ReadOnly), "{why}");
}

#[test]
fn a_change_that_the_disk_refuses_is_not_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    // A folder where the draft should be: the file cannot be written.
    std::fs::create_dir(folder.path().join("keyring.new")).unwrap();
    let why = keyring.ensure_recipients([&upstream("ehr")]).err().unwrap();
    assert_eq!(why.exit(), Exit::Disk);
    assert!(keyring.state().recipients.is_empty());
    std::fs::remove_dir(folder.path().join("keyring.new")).unwrap();
    keyring.ensure_recipients([&upstream("ehr")]).unwrap();
    assert_eq!(keyring.state().recipients.len(), 1);
}

#[test]
fn a_draft_left_by_a_crash_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    std::fs::write(folder.path().join("keyring.new"), b"half a keyr").unwrap();
    open(folder.path()).ensure_recipients([&upstream("ehr")]).unwrap();
    assert_eq!(open(folder.path()).state().recipients.len(), 1);
}

#[test]
fn a_known_recipient_keeps_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    keyring.ensure_recipients([&upstream("ehr")]).unwrap();
    let key = keyring.state().recipients[&upstream("ehr")].clone();
    keyring.ensure_recipients([&upstream("ehr"), &upstream("research")]).unwrap();
    let state = keyring.state();
    assert!(state.recipients[&upstream("ehr")] == key);
    assert!(state.recipients[&upstream("research")] != key);
}

#[test]
fn a_rotation_keeps_every_data_key_and_counts_up() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    let facility = bytes(&keyring.open_key(KeyId::FACILITY).unwrap());
    let before = std::fs::read(folder.path().join("keyring")).unwrap();
    assert_eq!(keyring.version(), 1);
    assert_eq!(keyring.rotate(&root(folder.path())).unwrap(), 2);
    add_treatment(&keyring, 1, None);
    drop(keyring);
    let keyring = open(folder.path());
    assert_eq!(keyring.version(), 2);
    assert_eq!(bytes(&keyring.open_key(KeyId::FACILITY).unwrap()), facility);
    assert_eq!(keyring.state().treatments.len(), 1);
    let after = std::fs::read(folder.path().join("keyring")).unwrap();
    assert_ne!(before[..100], after[..100], "the wrapped key is a new one");
}

#[test]
fn forgetting_destroys_the_keys_of_ended_treatments_alone() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    let (old, recent, running) = (
        add_treatment(&keyring, 1, Some(10)),
        add_treatment(&keyring, 2, Some(20)),
        add_treatment(&keyring, 3, None),
    );
    assert_eq!(keyring.treatments_ended_before(Timestamp::from_micros(20)), vec![old]);
    assert_eq!(keyring.forget_treatments(&[old, running]).unwrap(), 1);
    drop(keyring);
    let keyring = open(folder.path());
    assert!(keyring.open_key(old.into()).is_none());
    assert!(matches!(keyring.seal_key(old.into()), Err(KeyError::Destroyed)));
    assert!(keyring.open_key(recent.into()).is_some());
    assert!(keyring.open_key(running.into()).is_some());
}

#[test]
fn forgetting_a_treatment_takes_what_was_derived_from_its_key_before_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = open(folder.path());
    let (old, running) = (add_treatment(&keyring, 1, Some(10)), add_treatment(&keyring, 2, None));
    let sealing = Sealing { store: [1; 16], salt: [2; 32] };
    let derived =
        |id: TreatmentId| keyring.record_key(id.into(), &sealing).map(|key| std::sync::Arc::downgrade(&key));
    let (of_old, of_running) = (derived(old).unwrap(), derived(running).unwrap());
    keyring.ensure_recipients([&upstream("ehr")]).unwrap();
    assert!(of_old.upgrade().is_some(), "another change takes no key");
    keyring.forget_treatments(&[old, running]).unwrap();
    assert!(of_old.upgrade().is_none());
    assert!(of_running.upgrade().is_some());
    assert!(matches!(derived(old), Err(KeyError::Destroyed)));
    assert!(derived(running).unwrap().ptr_eq(&of_running), "it was not derived again");
}

#[test]
fn a_state_directory_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    let why = Keyring::open(&gone, &root(folder.path()), Absent::Create).err().unwrap();
    assert_eq!(why.exit(), Exit::Disk);
    assert!(why.to_string().contains("gone"), "{why}");
}

#[test]
fn after_a_rename_that_may_not_be_durable_nothing_more_is_written_or_sealed_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::simulated(&[]);
    let keyring = Keyring::open_on(&disk, folder.path(), &root(folder.path()), Absent::Create).unwrap();
    let sealing = Sealing { store: [1; 16], salt: [2; 32] };
    assert!(keyring.record_key(KeyId::FACILITY, &sealing).is_ok());
    disk.fail_next("sync the folder", Fault::Broken);
    let why = keyring.ensure_recipients([&upstream("ehr")]).unwrap_err();
    assert!(matches!(why, KeyringError::Unsure { .. }), "{why}");
    assert_eq!(why.exit(), Exit::Disk);
    let shown = keyring.state();
    assert!(shown.recipients.contains_key(&upstream("ehr")), "what the file says is in force");

    let why = keyring.ensure_recipients([&upstream("warehouse")]).unwrap_err();
    assert!(matches!(why, KeyringError::Unsure { .. }), "{why}");
    assert!(keyring.rotate(&root(folder.path())).is_err());
    assert!(matches!(keyring.seal_key(KeyId::FACILITY), Err(KeyError::Write(_))));
    assert!(matches!(keyring.record_key(KeyId::FACILITY, &sealing), Err(KeyError::Write(_))));
    assert!(keyring.open_key(KeyId::FACILITY).is_some());
    drop(keyring);
    let keyring = open(folder.path());
    assert!(*keyring.state() == *shown);
    assert!(keyring.seal_key(KeyId::FACILITY).is_ok());
}

#[test]
fn a_key_that_was_given_out_opens_after_any_power_cut_and_no_half_keyring_is_ever_found() {
    let treatments = || (1..=3).map(|number| TreatmentId::from_bytes([number; 16]));
    let add = |keyring: &Keyring, id: TreatmentId| {
        let treatment = Treatment {
            key: Secret::from_bytes([id.as_bytes()[0]; 32]),
            chair: ChairName::new("chair-1").unwrap(),
            machine: MachineName::new("asset-14").unwrap(),
            started: Timestamp::from_micros(0),
            ended: None,
            bindings: Vec::new(),
        };
        let added: Result<(), KeyringError> = keyring.change(|state| {
            state.treatments.insert(id, treatment);
            Ok(())
        });
        added.is_ok()
    };
    under_every_fault(
        12,
        |disk, home| {
            let Ok(keyring) = Keyring::open_on(disk, home, &root(home), Absent::Create) else { return None };
            let facility = bytes(&keyring.seal_key(KeyId::FACILITY).unwrap());
            let mut sealed = Vec::new();
            for id in treatments() {
                add(&keyring, id);
                // What matters is not whether the change was acknowledged, but whether a frame is sealed under it.
                sealed.extend(keyring.seal_key(id.into()).ok().map(|_| id));
                let _ = keyring.rotate(&root(home));
            }
            Some((facility, sealed))
        },
        |home, given| {
            let keyring = match Keyring::open(home, &root(home), Absent::Create) {
                Ok(keyring) => keyring,
                // The root key was durable and the keyring was not: nothing was sealed under either.
                Err(error) => panic!("{error}"),
            };
            let Some((facility, sealed)) = given else { return };
            assert_eq!(bytes(&keyring.open_key(KeyId::FACILITY).unwrap()), *facility);
            for id in sealed {
                assert_eq!(bytes(&keyring.open_key((*id).into()).unwrap()), [id.as_bytes()[0]; 32]);
            }
        },
    );
}
