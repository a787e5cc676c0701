//! Dead letters over many starts, on disks that damage, refuse and lose power.

use super::*;
use crate::disk::simulated::{Fault, fast_home, under_every_fault};
use crate::spool::letter::{Refusal, RefusedFor};
use crate::spool::testing::{at, upstream};

fn letter(name: &str, sequence: u64) -> Letter {
    let reasons = vec![RefusedFor { part: None, status: 422, issue: None }];
    let refused = Refusal { at: at(sequence), parts_taken: 0, parts_refused: 1, reasons };
    Letter { upstream: upstream(name), sequence: Sequence(sequence), refused, frame: vec![7; 2000] }
}

fn open(home: &Path) -> DeadLetters {
    DeadLetters::open(home, &Disk::default()).unwrap()
}

fn sequences(dead: &DeadLetters, name: &str) -> Vec<u64> {
    let name = upstream(name);
    dead.places(None).filter(|(upstream, _)| **upstream == name).map(|(_, sequence)| sequence.0).collect()
}

#[test]
fn the_last_word_about_a_record_counts_across_starts() {
    let home = fast_home();
    let mut dead = open(home.path());
    dead.keep((1..=5).map(|n| letter("ehr", n)).collect()).unwrap();
    dead.keep(vec![letter("lab", 3)]).unwrap();
    let mut dead = open(home.path());
    dead.strike_out(&upstream("ehr"), &[Sequence(2), Sequence(4), Sequence(9)]).unwrap();
    let mut dead = open(home.path());
    assert_eq!(sequences(&dead, "ehr"), [1, 3, 5]);
    dead.keep(vec![letter("ehr", 4)]).unwrap();
    let dead = open(home.path());
    assert_eq!((sequences(&dead, "ehr"), sequences(&dead, "lab")), (vec![1, 3, 4, 5], vec![3]));
    assert_eq!(dead.letter(&upstream("ehr"), Sequence(5)), Some(letter("ehr", 5)));
    assert_eq!(dead.frame(Sequence(3)), Some(vec![7; 2000]));
    assert_eq!(dead.without_letters(1, 9), [(2, 2), (6, 9)]);
}

#[test]
fn a_flipped_bit_costs_one_letter_and_is_counted() {
    let home = fast_home();
    open(home.path()).keep((1..=9).map(|n| letter("ehr", n)).collect()).unwrap();
    let path = home.path().join("dead/00000001.letters");
    let whole = fs::read(&path).unwrap();
    for place in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[place] ^= 4;
        fs::write(&path, &damaged).unwrap();
        let dead = open(home.path());
        assert_eq!((dead.count(), dead.damaged()), (8, 1), "{place}");
    }
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert_eq!((open(home.path()).count(), open(home.path()).damaged()), (8, 0), "cut in writing");
}

#[test]
fn answered_letters_leave_the_disk_and_the_others_stay() {
    let home = fast_home();
    for first in [1, 301] {
        open(home.path()).keep((first..first + 300).map(|n| letter("ehr", n)).collect()).unwrap();
    }
    let mut dead = open(home.path());
    let answered: Vec<_> = (3..=600).map(Sequence).collect();
    dead.strike_out(&upstream("ehr"), &answered).unwrap();
    dead.tidy().unwrap();
    let bytes: u64 = dead.files.values().sum();
    assert!(bytes < 10_000, "{bytes}");
    assert_eq!(sequences(&open(home.path()), "ehr"), [1, 2]);
    dead.strike_out(&upstream("ehr"), &[Sequence(1), Sequence(2)]).unwrap();
    dead.tidy().unwrap();
    assert_eq!((dead.files.len(), open(home.path()).count()), (0, 0));
}

#[test]
fn files_of_many_starts_are_put_together_and_a_removal_cut_short_brings_nothing_back() {
    let home = fast_home();
    for n in 1..=12 {
        open(home.path()).keep(vec![letter("ehr", n)]).unwrap();
    }
    let mut dead = open(home.path());
    dead.strike_out(&upstream("ehr"), &[Sequence(12)]).unwrap();
    let kept: Vec<_> = (1..=13).map(|n| (n, fs::read(dead.path(n)).unwrap())).collect();
    dead.tidy().unwrap();
    assert_eq!(dead.files.len(), 1);
    for removed in 0..kept.len() {
        kept.iter().skip(removed).for_each(|(n, bytes)| fs::write(dead.path(*n), bytes).unwrap());
        assert_eq!(sequences(&open(home.path()), "ehr"), (1..=11).collect::<Vec<_>>(), "{removed}");
        kept.iter().skip(removed).for_each(|(n, _)| fs::remove_file(dead.path(*n)).unwrap());
    }
}

#[test]
fn letters_that_were_kept_or_answered_stay_so_whatever_the_disk_does() {
    let ehr = upstream("ehr");
    under_every_fault(
        6,
        |own, home| {
            // Eight starts before this one, so that the next file is one too many.
            fs::create_dir(home.join(FOLDER)).unwrap();
            for n in 1..=FILES {
                let bytes = Entry::Letter(letter("ehr", n)).bytes();
                fs::write(home.join(FOLDER).join(format!("{n:08}.letters")), bytes).unwrap();
            }
            let mut dead = DeadLetters::open(home, &Disk::new(None, own.clone())).unwrap();
            let kept = dead.keep((9..=11).map(|n| letter("ehr", n)).collect()).is_ok();
            let struck = dead.strike_out(&ehr, &[Sequence(3), Sequence(10)]).is_ok();
            let tidied = dead.tidy().is_ok();
            assert!(!(kept && struck && tidied) || dead.files.len() == 1, "nothing was put together");
            (kept, struck)
        },
        |home, (kept, struck)| {
            let dead = open(home);
            let found = sequences(&dead, "ehr");
            for n in &found {
                assert_eq!(dead.letter(&ehr, Sequence(*n)), Some(letter("ehr", *n)), "never another one");
            }
            let sure = (1..=8).filter(|n| *n != 3).chain([9, 11].into_iter().filter(|_| *kept));
            sure.for_each(|n| assert!(found.contains(&n), "{n} is gone: {found:?}"));
            let answered = [3, 10].into_iter().filter(|n| *struck && (*kept || *n == 3));
            answered.for_each(|n| assert!(!found.contains(&n), "{n} is back: {found:?}"));
            assert!(found.iter().all(|n| *n <= 11));
        },
    );
}

#[test]
fn a_damaged_file_that_could_not_be_moved_aside_is_moved_the_next_time_and_never_removed() {
    let home = fast_home();
    open(home.path()).keep((1..=2).map(|n| letter("ehr", n)).collect()).unwrap();
    let path = home.path().join("dead/00000001.letters");
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let own = crate::disk::Disk::simulated(&[]);
    let mut dead = DeadLetters::open(home.path(), &Disk::new(None, own.clone())).unwrap();
    dead.strike_out(&upstream("ehr"), &[Sequence(2)]).unwrap();
    own.fail_next("rename", Fault::Broken);
    dead.tidy().unwrap_err();
    dead.tidy().unwrap();
    assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), bytes);
}

#[test]
fn a_power_cut_at_any_act_of_tidying_brings_no_answered_letter_back() {
    for turn in 0.. {
        let (home, own) = (fast_home(), crate::disk::Disk::simulated(&[]));
        open(home.path()).keep(vec![letter("ehr", 1)]).unwrap();
        open(home.path()).strike_out(&upstream("ehr"), &[Sequence(1)]).unwrap();
        let mut dead = DeadLetters::open(home.path(), &Disk::new(None, own.clone())).unwrap();
        own.fail_in(turn, Fault::PowerCut);
        let tidied = dead.tidy().is_ok();
        for seed in 0..40 {
            let image = fast_home();
            own.after_power_cut(home.path(), image.path(), seed);
            assert_eq!(open(image.path()).count(), 0, "turn {turn}, seed {seed}: {:?}", own.acts());
        }
        if tidied {
            assert_eq!((dead.files.len(), own.calls() <= turn), (0, true));
            return;
        }
    }
}
