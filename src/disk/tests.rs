//! Whether the disk that fails does so as a real one would, and whether a file that is replaced outlives it.

use crate::disk::simulated::{Fault, fast_home, flip};
use crate::disk::{Disk, Start};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

/// What the file is after a power cut, for many seeds.
fn left(disk: &Disk, home: &Path, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    let after = |seed| {
        let image = fast_home();
        disk.after_power_cut(home, image.path(), seed);
        fs::read(image.path().join(name)).ok()
    };
    (0..200).map(after).collect()
}

#[test]
fn what_is_not_synced_is_torn_at_sectors_and_comes_in_any_order() {
    let home = fast_home();
    fs::write(home.path().join("file"), [1; 1536]).unwrap();
    let disk = Disk::simulated(&[]);
    let file = disk.open(&home.path().join("file"), Start::Kept).unwrap();
    file.write_all_at(&[2; 1536], 0).unwrap();
    let mixes: BTreeSet<Vec<u8>> = left(&disk, home.path(), "file")
        .into_iter()
        .map(|bytes| bytes.unwrap().chunks(512).map(|sector| sector[0]).collect())
        .collect();
    assert_eq!(mixes.len(), 8, "{mixes:?}");
    file.sync().unwrap();
    assert_eq!(left(&disk, home.path(), "file").len(), 1);
}

#[test]
fn a_name_is_lost_until_its_folder_is_synced() {
    let home = fast_home();
    let disk = Disk::simulated(&[]);
    let mut file = disk.open(&home.path().join("file"), Start::New).unwrap();
    file.write_all(b"here").unwrap();
    file.sync().unwrap();
    assert!(left(&disk, home.path(), "file").contains(&None));
    disk.sync_folder(home.path()).unwrap();
    assert_eq!(left(&disk, home.path(), "file"), BTreeSet::from([Some(b"here".to_vec())]));
}

#[test]
fn a_sync_that_succeeds_after_one_that_failed_proves_nothing() {
    let home = fast_home();
    fs::write(home.path().join("file"), b"old").unwrap();
    let disk = Disk::simulated(&[(2, Fault::Broken)]);
    let file = disk.open(&home.path().join("file"), Start::Kept).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert_eq!(left(&disk, home.path(), "file").len(), 2);
}

#[test]
fn a_disk_that_lies_answers_well_and_keeps_nothing() {
    let home = fast_home();
    fs::write(home.path().join("file"), b"old").unwrap();
    let disk = Disk::simulated(&[(2, Fault::Lies)]);
    let file = disk.open(&home.path().join("file"), Start::Kept).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    file.sync().unwrap();
    disk.rename(&home.path().join("file"), &home.path().join("other")).unwrap();
    disk.sync_folder(home.path()).unwrap();
    assert_eq!(left(&disk, home.path(), "file"), [None, Some(b"new".to_vec()), Some(b"old".to_vec())].into());
    assert!(left(&disk, home.path(), "other").contains(&None));
}

#[test]
fn a_short_write_is_carried_on_and_a_full_disk_says_so() {
    let home = fast_home();
    let disk = Disk::simulated(&[(1, Fault::Short), (5, Fault::Full)]);
    let mut file = disk.open(&home.path().join("file"), Start::New).unwrap();
    file.write_all(b"in two pieces").unwrap();
    file.sync().unwrap();
    assert_eq!(fs::read(home.path().join("file")).unwrap(), b"in two pieces");
    file.write_all(b"!").unwrap();
    assert_eq!(file.write_all(b"?").unwrap_err().raw_os_error(), Some(28));
}

#[test]
fn a_file_that_is_replaced_is_the_old_one_or_the_new_one_and_the_new_one_once_it_is_said() {
    for cut in 0..20 {
        for fault in [Fault::PowerCut, Fault::PowerCutAfter, Fault::Broken, Fault::Full, Fault::Short] {
            let home = fast_home();
            let (path, draft) = (home.path().join("file"), home.path().join("file.next"));
            let (old, new) = (vec![1; 2000], vec![2; 3000]);
            fs::write(&path, &old).unwrap();
            let disk = Disk::simulated(&[(cut, fault)]);
            let said = disk.replace(&path, &draft, &new).is_ok();
            for bytes in left(&disk, home.path(), "file") {
                let bytes = bytes.unwrap();
                assert!(bytes == new || (bytes == old && !said), "{fault:?} at {cut}: {:?}", disk.acts());
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_one_bit() {
    let home = fast_home();
    let path = home.path().join("file");
    fs::write(&path, [0; 4]).unwrap();
    flip(&path, 17);
    assert_eq!(fs::read(&path).unwrap(), [0, 0, 2, 0]);
}
