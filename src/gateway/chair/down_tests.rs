//! What one chair's sealing makes of the time that the gateway was down, and of a disk that takes nothing.

use super::tests::House;
use super::*;
use crate::config::settings::KeySource;
use crate::disk::Disk;
use crate::disk::simulated::Fault;
use crate::privacy::keyring::{Absent, Keyring};
use crate::privacy::record::Body;
use std::path::Path;
use std::sync::atomic::Ordering;

const MINUTE: u64 = 60;

/// The gateway is down for so many minutes, while its clock is set by so many and the machine comes to show this elapsed time.
async fn after_down(house: &mut House, minutes: u64, set: i64, elapsed: &str) -> super::tests::Place {
    house.shared.seats.close().unwrap();
    house.pass(minutes * MINUTE);
    house.clock.ahead.fetch_add(set * 60_000_000, Ordering::Relaxed);
    house.restart();
    let mut place = house.place("chair-1");
    place.sealing.take_up().await.unwrap();
    place.machine.show_all(&[("M", "1"), ("D", "200"), ("K", elapsed)]);
    place.poll(house).await;
    place
}

/// A treatment of an hour with a patient.
async fn an_hour(house: &mut House) -> TreatmentId {
    let mut place = house.place("chair-1");
    place.sealing.take_up().await.unwrap();
    place.machine.show_all(&[("M", "1"), ("D", "200"), ("K", "60")]);
    place.poll(house).await;
    place.seat("11").await;
    place.running().unwrap()
}

fn ends(records: &[crate::spool::Stored]) -> Vec<EndReason> {
    let end = |stored: &crate::spool::Stored| match stored.record.body() {
        Body::TreatmentEnded(reason) => Some(*reason),
        _ => None,
    };
    records.iter().filter_map(end).collect()
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_while_the_gateway_is_down_gives_nobody_the_treatment_of_the_patient_before() {
    let mut house = House::open();
    let before = an_hour(&mut house).await;
    // Three hours later the next one is treated for as long; by the clock only two minutes have passed.
    let place = after_down(&mut house, 180, -178, "62").await;
    let now = place.running().unwrap();
    assert_ne!(now, before);
    assert!(!house.shared.seats.running(&place.sealing.chair.name).unwrap().seated);
    assert_eq!(ends(&house.records().await), [EndReason::LostTrack]);
}

#[tokio::test(start_paused = true)]
async fn a_treatment_goes_on_however_the_clock_is_set_while_the_gateway_is_down() {
    for set in [-600, -7, 7, 600, 30 * 24 * 60] {
        let mut house = House::open();
        let before = an_hour(&mut house).await;
        let mut place = after_down(&mut house, 10, set, "70").await;
        assert_eq!(place.running(), Some(before), "set by {set} min");
        // Once is enough, also where a crash comes behind it.
        place = after_down(&mut house, 2, 0, "72").await;
        assert_eq!(place.running(), Some(before), "set by {set} min");
        let steps =
            house.records().await.iter().filter(|it| matches!(it.record.body(), Body::ClockStep(_))).count();
        assert_eq!(steps, 1, "set by {set} min");
        assert!(house.shared.steps.take_unnoted().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_the_clock_was_set_is_counted_by_the_clock_of_before() {
    let mut house = House::open();
    an_hour(&mut house).await;
    let through = house.shared.clock.now().0;
    house.pass(5 * MINUTE);
    house.clock.ahead.fetch_add(600 * 60_000_000, Ordering::Relaxed);
    house.restart();
    let mut place = house.place("chair-1");
    place.sealing.left = Some(Left {
        through: Some(through),
        every: Duration::from_secs(10),
        holes: Vec::new(),
        cut_off: false,
    });
    place.sealing.take_up().await.unwrap();
    let records = house.records().await;
    let slots: u32 =
        records.iter().map(|it| if let Body::Gap(gap) = it.record.body() { gap.slots } else { 0 }).sum();
    assert_eq!(slots, 30);
}

#[tokio::test(start_paused = true)]
async fn a_computer_that_does_not_know_how_long_it_was_off_goes_on_with_no_treatment() {
    for (trusted, goes_on) in [(true, true), (false, false)] {
        let mut house = House::open();
        let before = an_hour(&mut house).await;
        // Another boot: its ticks say nothing of the time between.
        house.clock.tick.store((1 << 48) + 1_000_000, Ordering::Relaxed);
        house.clock.ahead.fetch_sub(1 << 48, Ordering::Relaxed);
        house.clock.trusted.store(trusted, Ordering::Relaxed);
        let place = after_down(&mut house, 2, 0, "62").await;
        assert_eq!(place.running() == Some(before), goes_on, "trusted: {trusted}");
        assert_eq!(ends(&house.records().await).len(), usize::from(!goes_on));
    }
}

/// A house whose keyring is on a disk that fails when told to, and whose spool has something in reserve.
fn house_on(disk: &Disk, folder: &Path) -> House {
    let root = KeySource::File { path: folder.join("root.key"), created: true };
    let keyring = Keyring::open_on(disk, folder, &root, Absent::Create).unwrap();
    std::fs::write(folder.join("reserve"), b"reserved").unwrap();
    House::with_keyring(keyring, folder)
}

fn fill(disk: &Disk, writes: usize) {
    (0..writes).for_each(|_| disk.fail_next("append", Fault::Full));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_no_sealing_and_what_the_keyring_did_not_take_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::simulated(&[]);
    let house = house_on(&disk, folder.path());
    let mut place = house.place("chair-1");
    place.sealing.take_up().await.unwrap();
    // The treatment cannot begin without the keyring: the reserve goes, and then there is a wait.
    fill(&disk, 3);
    place.poll(&house).await;
    let treatment = place.running().unwrap();
    assert!(!folder.path().join("reserve").exists());

    // An alarm and the progress can.
    fill(&disk, 10);
    place.machine.show("c", "1");
    house.pass(600);
    place.poll(&house).await;
    let chair = place.sealing.chair.name.clone();
    assert_eq!(house.shared.seats.open_alarms(&chair), []);
    while place.sealing.keyring_refuses {
        house.pass(600);
        place.poll(&house).await;
    }
    assert_eq!(house.shared.seats.open_alarms(&chair).len(), 1);
    assert_eq!(place.running(), Some(treatment));
    let slots = house.records().await.iter().filter(|it| matches!(it.record.body(), Body::Values(_))).count();
    assert_eq!(slots as u64, place.machine.slot);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_broken_where_a_treatment_begins_ends_the_gateway_as_a_matter_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::simulated(&[]);
    let house = house_on(&disk, folder.path());
    let mut place = house.place("chair-1");
    place.sealing.take_up().await.unwrap();
    disk.fail_next("append", Fault::Broken);
    let cause = place.sealing.begin(house.shared.clock.now().0).await.unwrap_err();
    let refusal = match cause {
        Cause::Keyring(refusal) => refusal,
        other => panic!("{other}"),
    };
    assert_eq!(refusal.exit(), crate::exit::Exit::Disk);
}
