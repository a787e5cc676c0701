//! Records of a broken disk come back, and nothing else does.

use super::*;
use crate::spool::store::Options;
use crate::spool::testing::{Keys, at, record, upstream};
use crate::spool::tools::{Look, Wanted};
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
    assert_eq!(wreck.make_spool(&ward.path("new")).unwrap(), 119);
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
