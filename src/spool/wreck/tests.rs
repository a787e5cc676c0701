//! Records of a broken disk come back, and nothing else does.

use super::*;
use crate::disk::simulated::under_every_fault;
use crate::spool::store::Options;
use crate::spool::testing::{Keys, at, record, upstream};
use crate::spool::tools::{Look, Wanted};
use crate::spool::volume::files;
use crate::spool::{BatchLimit, Lane, Spool, Stored, Verdict};
use chairside_drivers::kit::time::Tick;
use std::sync::Arc;

struct Ward {
    dir: tempfile::TempDir,
    keys: Arc<Keys>,
}

impl Ward {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), keys: Arc::new(Keys::default()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &str) -> SledSpool {
        let options = Options { volume_records: 40, ..Options::new(1 << 30) };
        SledSpool::open(&self.path(name), self.keys.clone(), &[upstream("ehr")], options, at(0)).unwrap()
    }

    /// 120 records in three volumes, closed in order.
    fn fill(&self, name: &str) {
        let mut spool = self.open(name);
        for first in (1..=120).step_by(10) {
            spool.append(&(first..first + 10).map(record).collect::<Vec<_>>()).unwrap();
        }
        spool.close().unwrap();
    }

    fn search(&self, name: &str) -> Wreck {
        let mut heard = Vec::new();
        let wreck = Wreck::search(&self.path(name), &*self.keys, &mut |done, all| heard.push((done, all)));
        assert!(heard.iter().all(|(done, all)| done <= all));
        wreck.unwrap()
    }
}

fn lease(spool: &mut SledSpool) -> Vec<Stored> {
    spool.lease(&upstream("ehr"), BatchLimit { records: 999 }, Lane::Backlog, Tick::ZERO).unwrap()
}

#[test]
fn a_spool_without_its_manifest_and_with_a_damaged_volume_becomes_a_new_one_with_all_that_is_left() {
    let ward = Ward::new();
    ward.fill("old");
    fs::remove_file(ward.path("old/manifest")).unwrap();
    let db = ward.path("old/volume-00000002/db");
    let mut bytes = fs::read(&db).unwrap();
    let magic = crate::spool::frame::MAGIC;
    let first = bytes.windows(4).position(|window| window == magic).unwrap();
    bytes[first + 110] ^= 1;
    fs::write(&db, &bytes).unwrap();
    let before: Vec<_> =
        files(&ward.path("old")).unwrap().iter().map(|path| fs::read(path).unwrap()).collect();

    let wreck = ward.search("old");
    assert_eq!((wreck.records(), wreck.sealed, wreck.unreadable), (119, 0, 0));
    let stretches = wreck.stretches(&*ward.keys);
    assert_eq!(stretches[0].runs, [(1, 40), (42, 120)]);
    assert_eq!(stretches[0].times, Some((at(1), at(120))));
    assert_eq!(wreck.make_spool(&ward.path("new"), &crate::disk::Disk::default()).unwrap(), 119);
    let mut spool = ward.open("new");
    let again = lease(&mut spool);
    assert_eq!(again.len(), 119);
    for stored in &again {
        assert_eq!((stored.store, &stored.record), (stretches[0].store, &record(stored.sequence.0)));
    }
    assert_ne!(spool.store(), stretches[0].store, "no number is given twice under one store");
    let after: Vec<_> =
        files(&ward.path("old")).unwrap().iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(after, before);
}

#[test]
fn a_spool_made_of_what_was_found_is_whole_once_that_is_said_whatever_the_disk_does() {
    let ward = Ward::new();
    ward.fill("old");
    let wreck = ward.search("old");
    let frame = |wreck: &Wreck, place: &([u8; 16], u64)| {
        wreck.frames.get(place).and_then(|spot| wreck.frame(*spot)).unwrap()
    };
    under_every_fault(
        8,
        |own, home| {
            let made = wreck.make_spool(&home.join("spool"), own).ok();
            let synced = |folder: &Path| {
                let name = folder.file_name().unwrap().to_string_lossy();
                own.acts().iter().any(|act| act.contains(&format!("sync the folder {name}")))
            };
            // The disk of these tests loses no name of a folder, so that it was synced is only seen.
            assert!(made.is_none() || (synced(home) && synced(&home.join("spool"))));
            made
        },
        |home, made| {
            let found = Wreck::search(home, &*ward.keys, &mut |_, _| {}).unwrap();
            for place in found.frames.keys() {
                assert_eq!(frame(&found, place), frame(&wreck, place));
            }
            assert!(made.is_none_or(|made| (made, found.records()) == (120, 120)));
        },
    );
}

#[test]
fn what_a_spool_has_lost_it_takes_back_and_sends_once() {
    let ward = Ward::new();
    ward.fill("old");
    fs::rename(ward.path("old/volume-00000002"), ward.path("found")).unwrap();
    let mut spool = ward.open("old");
    let counts = |spool: &mut SledSpool| spool.status().upstreams[0].1;
    assert_eq!(lease(&mut spool).len(), 80);
    assert_eq!((counts(&mut spool).lost, counts(&mut spool).waiting), (40, 80));
    let wreck = ward.search("found");
    let plan = wreck.compare(&mut spool).unwrap();
    assert_eq!((plan.here, plan.missing.len(), plan.foreign), (0, 40, 0));
    assert_eq!(spool.take_back(&wreck).unwrap(), 40);
    assert_eq!((counts(&mut spool).lost, counts(&mut spool).waiting), (0, 120));
    drop(spool);
    let mut spool = ward.open("old");
    let again = lease(&mut spool);
    assert_eq!(
        again.iter().map(|stored| stored.sequence.0).collect::<Vec<_>>(),
        (1..=120).collect::<Vec<_>>()
    );
    let taken = Verdict::Delivered { parts: 1, refused_parts: Vec::new() };
    let verdicts: Vec<_> = again.iter().map(|stored| (stored.sequence, taken.clone())).collect();
    spool.settle(&upstream("ehr"), &verdicts).unwrap();
    assert_eq!((counts(&mut spool).delivered, counts(&mut spool).records()), (120, 120));
    assert!(spool.letters(&Wanted::default(), None, 99).unwrap().letters.is_empty());
}

#[test]
fn records_of_another_store_do_not_get_into_this_one() {
    let ward = Ward::new();
    ward.fill("ours");
    ward.fill("theirs");
    let mut spool = ward.open("ours");
    let wreck = ward.search("theirs");
    let plan = wreck.compare(&mut spool).unwrap();
    assert_eq!((plan.here, plan.missing.len(), plan.foreign), (0, 0, 120));
    assert_eq!(spool.take_back(&wreck).unwrap(), 0);
    let ours = ward.search("ours");
    assert_eq!(ours.compare(&mut spool).unwrap().here, 120);
}

#[test]
fn a_single_file_is_searched_like_a_folder_and_what_is_not_there_is_named() {
    let ward = Ward::new();
    ward.fill("old");
    assert_eq!(ward.search("old/volume-00000001/db").records(), 40);
    let gone = Wreck::search(&ward.path("gone"), &*ward.keys, &mut |_, _| {});
    assert!(matches!(gone, Err(SpoolError::Disk { act: "look for records", .. })));
}

#[test]
fn of_two_stores_that_gave_out_the_same_numbers_only_what_is_really_taken_is_left_out_and_counted() {
    let ward = Ward::new();
    ward.fill("both/one");
    ward.fill("both/two");
    // What the first one lacks in its middle is the second one's.
    fs::remove_dir_all(ward.path("both/one/volume-00000002")).unwrap();
    let one = ward.search("both/one").stretches(&*ward.keys)[0].store;
    let mut wreck = ward.search("both");
    assert_eq!(wreck.records(), 200);
    let first = wreck.stretches(&*ward.keys)[0].store;
    let (left_out, of_one) = if first == one { (80, 80) } else { (80, 0) };
    assert_eq!(wreck.left_out(), left_out);
    assert_eq!(wreck.make_spool(&ward.path("new"), &crate::disk::Disk::default()).unwrap(), 120);
    let mut spool = ward.open("new");
    let again = lease(&mut spool);
    assert_eq!(again.len(), 120);
    assert_eq!(again.iter().filter(|stored| stored.store == one).count(), of_one);
    wreck.only(&format!("{one:?}"));
    assert_eq!((wreck.records(), wreck.left_out()), (80, 0));
}

#[test]
fn a_folder_that_cannot_be_read_is_counted_and_hides_nothing_beside_it() {
    let ward = Ward::new();
    ward.fill("disk/spool");
    // Deeper than any path may be long; made in two halves, as one alone cannot be.
    let half = |name: &str| (0..12).fold(ward.path(name), |path, _| path.join("x".repeat(200)));
    fs::create_dir_all(half("disk/above")).unwrap();
    fs::create_dir_all(half("below")).unwrap();
    fs::rename(ward.path("below"), half("disk/above").join("below")).unwrap();
    let wreck = ward.search("disk");
    assert_eq!((wreck.records(), wreck.unreadable), (120, 1));
}

#[test]
fn no_gateway_starts_where_a_new_spool_is_being_made() {
    let ward = Ward::new();
    let site = Site::take(&ward.path("new")).unwrap();
    assert!(site.is_some());
    let options = Options::new(1 << 30);
    let started = SledSpool::open(&ward.path("new"), ward.keys.clone(), &[], options, at(0));
    assert!(matches!(started, Err(SpoolError::Busy(_))));
    drop(site);
    ward.fill("new");
    assert!(Site::take(&ward.path("new")).unwrap().is_none());
}

#[test]
fn a_record_whose_key_this_spool_destroyed_is_here_and_not_missing() {
    use crate::spool::testing::{record_of, treatment};
    let ward = Ward::new();
    let mut spool = ward.open("ours");
    spool.append(&[record(1), record_of(treatment(3), 2)]).unwrap();
    let wreck = ward.search("ours");
    ward.keys.destroy(treatment(3).into());
    let plan = wreck.compare(&mut spool).unwrap();
    assert_eq!((plan.here, plan.missing, plan.foreign), (2, Vec::new(), 0));
}
