//! Random lives of a spool, held against the one in memory: whatever happens, both must show the same.
//!
//! `CHAIRSIDE_SEEDS` sets how many lives are tried, `CHAIRSIDE_SEED` names one that is tried alone.

mod ending_tests;

use crate::model::name::{ChairName, UpstreamName};
use crate::privacy::record::Record;
use crate::privacy::record::TreatmentId;
use crate::spool::memory::MemorySpool;
use crate::spool::space::Space;
use crate::spool::store::{Options, SledSpool};
use crate::spool::testing::{Keys, at, fast_home, record, record_of, treatment, upstream};
use crate::spool::whereabouts::Whereabouts;
use crate::spool::{
    BatchLimit, Lane, Reason, RefusedPart, Retention, Sequence, Spool, SpoolStatus, Stored, Verdict,
};
use chairside_drivers::kit::time::Tick;
use ending_tests::{BEHIND_LIES, LOST_TO_LIES};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VOLUME: u64 = 30;
/// Far more than a life fills, and little to reserve.
const ROOM: u64 = 64 * 1024 * 1024;
const ACTS: usize = 40;
const EVERY: Duration = Duration::from_secs(1);

/// The gate's share; the whole campaign is 100,000.
const SEEDS: u64 = 2_000;

#[test]
fn the_spool_on_disk_behaves_like_the_one_in_memory() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, last) = match number("CHAIRSIDE_SEED") {
        Some(seed) => (seed, seed),
        None => (1, number("CHAIRSIDE_SEEDS").unwrap_or(SEEDS)),
    };
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let work = || {
        while failed.lock().unwrap().is_empty() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > last {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| Life::new(seed).live())).is_err() {
                failed.lock().unwrap().push(seed);
            }
        }
    };
    // A life waits for threads of its own most of the time.
    let workers = 2 * std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    let replay: Vec<_> =
        failed.iter().map(|seed| format!("CHAIRSIDE_SEED={seed} cargo test --lib model_tests")).collect();
    assert!(failed.is_empty(), "these lives came to a bad end:\n{}", replay.join("\n"));
    let lies = [&LOST_TO_LIES, &BEHIND_LIES].map(|count| count.load(Ordering::Relaxed));
    println!("{} records counted as lost to lies, {} behind all that is known", lies[0], lies[1]);
}

/// A generator of its own, so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Life {
    seed: u64,
    dice: Dice,
    home: tempfile::TempDir,
    keys: Arc<Keys>,
    model: MemorySpool,
    real: Option<SledSpool>,
    upstreams: Vec<UpstreamName>,
    leased: BTreeMap<UpstreamName, Vec<(Sequence, Option<TreatmentId>)>>,
    /// Every record ever appended, in the order of its sequence.
    written: Vec<Record>,
    now: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let (home, keys) = (fast_home(), Arc::new(Keys::default()));
        let upstreams = vec![upstream("ehr"), upstream("lab")];
        let real = open(home.path(), &keys, &upstreams);
        let model = MemorySpool::with_volumes_of(VOLUME, real.store(), &upstreams);
        Self {
            seed,
            // Seeds that follow each other would roll alike.
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            home,
            keys,
            model,
            real: Some(real),
            upstreams,
            leased: BTreeMap::new(),
            written: Vec::new(),
            now: 0,
        }
    }

    fn live(mut self) {
        for step in 0..ACTS {
            let act = self.dice.roll(100);
            match act {
                0..30 => self.append(),
                30..55 => self.lease(),
                55..75 => self.settle(),
                75..80 => self.release(),
                80..87 => self.prune(),
                87..91 => self.read_treatment(),
                91..95 => self.restart(End::Crash),
                95..98 => self.restart(End::Close),
                _ => self.reconfigure(),
            }
            self.now += self.dice.roll(20);
            let (model, real) = (shown(self.model.status()), shown(self.real().status()));
            assert_eq!(model, real, "seed {}, step {step}, act {act}", self.seed);
        }
        match self.dice.roll(8) {
            0..2 => self.damage(),
            2..5 => self.lose_power(),
            5 => self.be_lied_to(),
            _ => self.drain(),
        }
    }

    fn real(&mut self) -> &mut SledSpool {
        self.real.as_mut().unwrap()
    }

    fn append(&mut self) {
        let count = self.dice.roll(25);
        let records = self.new_records(count);
        let expected = self.model.append(&records).unwrap();
        assert_eq!(self.real().append(&records).unwrap(), expected, "seed {}", self.seed);
        self.written.extend(records);
    }

    fn new_records(&mut self, count: u64) -> Vec<Record> {
        let first = self.written.len() as u64 + 1;
        let kind = |number| match self.dice.roll(4) {
            0 => record(number),
            treated => record_of(treatment(treated as u8), number),
        };
        (first..first + count).map(kind).collect()
    }

    fn lease(&mut self) {
        let name = self.upstream();
        let limit = BatchLimit { records: self.dice.roll(30) as usize };
        let lane = if self.dice.roll(2) == 0 { Lane::Live } else { Lane::Backlog };
        let now = Tick::from_micros(self.now);
        let expected = self.model.lease(&name, limit, lane, now).unwrap();
        let real = self.real().lease(&name, limit, lane, now).unwrap();
        assert!(real == expected, "seed {}: {:?} for {:?}", self.seed, numbers(&real), numbers(&expected));
        let held = expected.iter().map(|stored| (stored.sequence, stored.record.treatment()));
        self.leased.entry(name).or_default().extend(held);
    }

    fn settle(&mut self) {
        let name = self.upstream();
        let leased = self.leased.entry(name.clone()).or_default();
        let mut verdicts = Vec::new();
        let (dice, now) = (&mut self.dice, self.now);
        leased.retain(|(sequence, treatment)| {
            let reason = Reason { status: 422, issue: Some("processing") };
            let verdict = match dice.roll(9) {
                0 => return true,
                1 => Verdict::SkippedByPolicy,
                2 => Verdict::Refused { parts: 1 + dice.roll(4) as u32, reason },
                3 => Verdict::Retry { not_before: Tick::from_micros(now + dice.roll(40)) },
                4 | 5 => treatment.map_or(Verdict::SkippedByPolicy, Verdict::Held),
                6 => Verdict::Delivered {
                    parts: dice.roll(4) as u32,
                    refused_parts: vec![RefusedPart { part: 3, reason }],
                },
                _ => Verdict::Delivered { parts: 2, refused_parts: Vec::new() },
            };
            verdicts.push((*sequence, verdict));
            false
        });
        // Verdicts on records that are not leased, settled long ago, or do not exist.
        for _ in 0..self.dice.roll(3) {
            let sequence = Sequence(self.dice.roll(self.written.len() as u64 + 10));
            verdicts.push((sequence, Verdict::Delivered { parts: 1, refused_parts: Vec::new() }));
        }
        self.model.settle(&name, &verdicts).unwrap();
        self.real().settle(&name, &verdicts).unwrap();
    }

    fn release(&mut self) {
        let released = treatment(self.dice.roll(4) as u8);
        self.model.release(released).unwrap();
        self.real().release(released).unwrap();
    }

    fn prune(&mut self) {
        let keep_delivered = Duration::from_secs(self.dice.roll(60));
        let policy = Retention { keep_delivered, max_bytes: ROOM };
        let now = at(self.now);
        let expected = self.model.prune(policy, now).unwrap();
        assert_eq!(self.real().prune(policy, now).unwrap(), expected, "seed {}", self.seed);
    }

    fn read_treatment(&mut self) {
        let wanted = treatment(self.dice.roll(4) as u8);
        let after = Sequence(self.dice.roll(self.written.len() as u64 + 1));
        let limit = BatchLimit { records: self.dice.roll(40) as usize };
        let expected = self.model.read_treatment(wanted, after, limit).unwrap();
        let real = self.real().read_treatment(wanted, after, limit).unwrap();
        assert!(real == expected, "seed {}: {:?} for {:?}", self.seed, numbers(&real), numbers(&expected));
        // The one on disk says no where it cannot tell, and never yes where a record is gone.
        let until = Sequence(self.dice.roll(self.written.len() as u64 + 1));
        let (expected, real) = (self.model.is_whole(wanted, until), self.real().is_whole(wanted, until));
        assert!(expected.unwrap() || !real.unwrap(), "seed {}: {wanted:?} up to {until:?}", self.seed);
    }

    fn reconfigure(&mut self) {
        let names = ["ehr", "lab", "tele"].map(upstream);
        let chosen = self.dice.roll(8);
        self.upstreams =
            (0..3).zip(names).filter(|(bit, _)| chosen & (1 << bit) != 0).map(|(_, name)| name).collect();
        let end = if self.dice.roll(2) == 0 { End::Crash } else { End::Close };
        self.restart(end);
    }

    fn restart(&mut self, end: End) {
        self.end(end);
        self.real = Some(open(self.home.path(), &self.keys, &self.upstreams));
        if self.dice.roll(3) > 0 {
            let chairs: Vec<_> = (1..=self.dice.roll(3)).map(|number| (chair(number), EVERY)).collect();
            let left = self.model.begin_run(&chairs).unwrap();
            assert_eq!(self.real().begin_run(&chairs).unwrap(), left, "seed {}", self.seed);
        }
    }

    /// Ends both. A crash leaves the files as they are at this instant, and what the process would still have written is lost.
    fn end(&mut self, end: End) {
        let mut real = self.real.take().unwrap();
        self.leased.clear();
        match end {
            End::Crash => {
                let left = fast_home();
                copy(self.home.path(), left.path());
                drop(real);
                self.home = left;
                self.model.crash(&self.upstreams);
            }
            End::Close => {
                real.close().unwrap();
                self.model.restart(&self.upstreams);
            }
        }
    }

    /// In the end everything that is not settled comes out, once and in order.
    fn drain(mut self) {
        for number in 0..4 {
            self.model.release(treatment(number)).unwrap();
            self.real().release(treatment(number)).unwrap();
        }
        for name in self.upstreams.clone() {
            let everything = BatchLimit { records: 900 };
            let late = Tick::from_micros(u64::MAX);
            let expected = self.model.lease(&name, everything, Lane::Backlog, late).unwrap();
            let real = self.real().lease(&name, everything, Lane::Backlog, late).unwrap();
            assert!(
                real == expected,
                "seed {}: {:?} for {:?}",
                self.seed,
                numbers(&real),
                numbers(&expected)
            );
        }
    }

    fn upstream(&mut self) -> UpstreamName {
        match self.upstreams.len() as u64 {
            0 => {
                self.upstreams = vec![upstream("ehr")];
                self.restart(End::Close);
                upstream("ehr")
            }
            count => self.upstreams[self.dice.roll(count) as usize].clone(),
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    Crash,
    Close,
}

fn open(home: &Path, keys: &Arc<Keys>, upstreams: &[UpstreamName]) -> SledSpool {
    let options = Options { volume_records: VOLUME, ..Options::new(ROOM) };
    SledSpool::open(home, keys.clone(), upstreams, options, at(0)).unwrap()
}

fn copy(from: &Path, into: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = into.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn numbers(stored: &[Stored]) -> Vec<u64> {
    stored.iter().map(|stored| stored.sequence.0).collect()
}

/// What both must show: all but the bytes on disk.
fn chair(number: u64) -> ChairName {
    ChairName::new(&format!("chair-{number}")).unwrap()
}

fn shown(status: SpoolStatus) -> SpoolStatus {
    SpoolStatus { bytes: 0, space: Space::default(), ..status }
}
