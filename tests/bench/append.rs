//! What it costs to make records durable: the spool as its user calls it, beside the bare disk and a plain sled, in one run.
//!
//! usage: append [speed|volume|nominal|open RECORDS|count RECORDS]. Without a word it prints speed, change of volume and bytes written.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench may stop where its input is wrong")]
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use chairside::config::settings::Unseated;
use chairside::model::name::{ChairName, MachineName, UpstreamName};
use chairside::model::parameter::{Kind, Parameter};
use chairside::model::time::{ClockTrust, Timestamp};
use chairside::model::value::{Doubts, Mark, Reading, Value};
use chairside::normalise::{Capture, Finding, Origin, Phase};
use chairside::privacy::Pseudonymiser;
use chairside::privacy::keyring::Keyring;
use chairside::privacy::record::{Record, TreatmentId};
use chairside::privacy::seats::Seats;
use chairside::spool::Spool;
use chairside::spool::store::{Options, SledSpool};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::{Slot, Tick};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHAIRS: u64 = 30;
/// Values in one record.
const VALUES: usize = 40;
const EVERY: Duration = Duration::from_secs(10);
/// Records of one commit at the nominal rate: 30 chairs, one poll in 10 s, one commit a second.
const NOMINAL: usize = 3;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => {
            speed();
            volume();
            nominal();
        }
        ["speed"] => speed(),
        ["volume"] => volume(),
        ["nominal"] => nominal(),
        ["open", records] => open(records.parse().unwrap()),
        ["count", records] => count(records.parse().unwrap()),
        other => panic!("no such bench: {other:?}"),
    }
}

/// Makes records as the gateway does: 40 values of a chair in treatment.
struct Ward {
    keyring: Arc<Keyring>,
    border: Pseudonymiser,
    treatments: Vec<TreatmentId>,
    polls: u64,
}

impl Ward {
    fn new() -> Self {
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        let seats = Seats::new(Arc::clone(&keyring), Unseated::Hold);
        let treatments = (0..CHAIRS)
            .map(|chair| seats.treatment_started(&name(chair), &machine(chair), at(0)).unwrap())
            .collect();
        Self { border: Pseudonymiser::new(Arc::clone(&keyring)), keyring, treatments, polls: 0 }
    }

    fn record(&mut self) -> Record {
        let (chair, poll) = (self.polls % CHAIRS, self.polls / CHAIRS);
        self.polls += 1;
        let measured: Vec<Parameter> = Parameter::all()
            .filter(|parameter| matches!(parameter.row().kind, Kind::Measured | Kind::Total | Kind::Setting))
            .collect();
        let value = |n: usize| Value {
            parameter: *measured.get(n % measured.len()).unwrap(),
            reading: Reading::Number(
                Decimal::new(i64::try_from(poll % 500).unwrap() + n as i64 * 37, 1).unwrap(),
            ),
            mark: Mark::New,
            doubts: Doubts::NONE,
        };
        let origin = Origin {
            chair: name(chair),
            machine: machine(chair),
            model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
            at: at(poll),
            tick: Tick::ZERO.after(EVERY * u32::try_from(poll).unwrap()),
            clock: ClockTrust::Trusted,
            slot: Some(Slot(poll)),
            previous: None,
            simulated: false,
        };
        let capture = Capture {
            origin,
            phase: Phase::Treating,
            finding: Finding::Values((0..VALUES).map(value).collect()),
            identity: Vec::new(),
        };
        let treatment = self.treatments.get(usize::try_from(chair).unwrap()).copied();
        self.border.seal(capture, treatment)
    }

    fn batch(&mut self, records: usize) -> Vec<Record> {
        (0..records).map(|_| self.record()).collect()
    }

    fn spool(&self, home: &Path, volume_records: u64) -> SledSpool {
        let names = [UpstreamName::new("ehr").unwrap()];
        let options = Options { volume_records, ..Options::new(16 << 30) };
        SledSpool::open(home, self.keyring.clone(), &names, options, at(0)).unwrap()
    }
}

fn name(chair: u64) -> ChairName {
    ChairName::new(&format!("chair-{chair}")).unwrap()
}

fn machine(chair: u64) -> MachineName {
    MachineName::new(&format!("asset-{chair}")).unwrap()
}

fn at(poll: u64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000).after(EVERY * u32::try_from(poll).unwrap())
}

/// The sealed frame that a record becomes, as the spool wrote it.
fn sealed_frame() -> Vec<u8> {
    let home = folder();
    let mut ward = Ward::new();
    let mut spool = ward.spool(home.path(), 50_000);
    let batch = ward.batch(1);
    spool.append(&batch).unwrap();
    let bytes = std::fs::read(home.path().join("volume-00000001/db")).unwrap();
    let start = bytes.windows(4).position(|four| four == [0xF5, 0xC5, 0x9D, 0xF7]).unwrap();
    let length = 100 + usize::from(u16::from_be_bytes([bytes[start + 6], bytes[start + 7]]));
    bytes[start..start + length].to_vec()
}

/// On the disk of this checkout: a folder for temporary files is often none.
fn folder() -> tempfile::TempDir {
    let place = std::env::var_os("CHAIRSIDE_BENCH_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    tempfile::tempdir_in(place).unwrap()
}

fn speed() {
    let frame = sealed_frame();
    println!(
        "append of records of {VALUES} values, {} bytes sealed; records a second by the median commit",
        frame.len()
    );
    println!(
        "  batch       spool   raw disk   raw, zeroed first   plain sled   of raw   of zeroed   of sled"
    );
    for batch in [1, 16, 256] {
        let commits = if batch == 256 { 200 } else { 600 };
        let home = folder();
        let mut ward = Ward::new();
        let mut spool = ward.spool(&home.path().join("spool"), u64::MAX);
        let mut reserved = Raw::new(home.path(), "reserved", Blocks::Reserved);
        let mut zeroed = Raw::new(home.path(), "zeroed", Blocks::Zeroed);
        let plain = Plain::new(&home.path().join("plain"));
        let bytes = frame.repeat(batch);
        let mut key = 0_u64;
        let mut times: [Vec<Duration>; 4] = Default::default();
        // One commit of each in turn, so that a slow minute of the disk slows all of them down; the first ones warm up.
        for commit in 0..commits + 20 {
            let records = ward.batch(batch);
            let taken = [
                timed(|| drop(spool.append(&records).unwrap())),
                timed(|| reserved.write(&bytes)),
                timed(|| zeroed.write(&bytes)),
                timed(|| plain.write(&mut key, &frame, batch)),
            ];
            if commit >= 20 {
                times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
            }
        }
        let [ours, reserved, zeroed, plain] = times.map(|times| batch as f64 / middle(times).as_secs_f64());
        println!(
            "  {batch:>5} {ours:>11.0} {reserved:>10.0} {zeroed:>19.0} {plain:>12.0} {:>8.2} {:>11.2} {:>9.2}",
            ours / reserved,
            ours / zeroed,
            ours / plain
        );
    }
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[derive(Clone, Copy, PartialEq)]
enum Blocks {
    /// `fallocate` only: the file system notes at each sync which blocks were written.
    Reserved,
    /// Written once before: nothing but the bytes themselves is left to write.
    Zeroed,
}

/// `write` and `fdatasync` into a file that has its blocks already.
struct Raw {
    file: File,
    offset: u64,
}

impl Raw {
    fn new(home: &Path, name: &str, blocks: Blocks) -> Self {
        const LENGTH: u64 = 32 << 20;
        let file = OpenOptions::new().write(true).create_new(true).open(home.join(name)).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, LENGTH).unwrap();
        if blocks == Blocks::Zeroed {
            let zeros = vec![0; 1 << 20];
            (0..LENGTH >> 20).for_each(|mebibyte| file.write_all_at(&zeros, mebibyte << 20).unwrap());
        }
        file.sync_all().unwrap();
        Self { file, offset: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.offset).unwrap();
        self.file.sync_data().unwrap();
        self.offset += bytes.len() as u64;
    }
}

/// sled by itself, a value a record, with its own sync only.
struct Plain(sled::Db);

impl Plain {
    fn new(home: &Path) -> Self {
        let config = sled::Config::new().path(home).cache_capacity(8 << 20).flush_every_ms(None);
        Self(config.open().unwrap())
    }

    fn write(&self, key: &mut u64, frame: &[u8], count: usize) {
        let mut batch = sled::Batch::default();
        for _ in 0..count {
            batch.insert(&key.to_be_bytes(), frame);
            *key += 1;
        }
        self.0.apply_batch(batch).unwrap();
        self.0.flush().unwrap();
    }
}

/// The longest append, and the longest one that changed the volume.
fn volume() {
    const RECORDS: u64 = 2_000;
    let home = folder();
    let mut ward = Ward::new();
    let mut spool = ward.spool(home.path(), RECORDS);
    let (mut usual, mut changes) = (Vec::new(), Vec::new());
    let mut volumes = 1;
    for _ in 0..6 * RECORDS / 16 {
        let batch = ward.batch(16);
        let time = timed(|| drop(spool.append(&batch).unwrap()));
        let now = spool.status().volumes;
        if now == volumes {
            usual.push(time)
        } else {
            changes.push(time)
        }
        volumes = now;
    }
    println!("append of 16 records, and one that begins a new volume");
    for (name, times) in [("usual", usual), ("new volume", changes)] {
        let longest = times.iter().max().copied().unwrap_or_default();
        println!("  {name}: median {:.1?}, longest {longest:.1?}", middle(times));
    }
}

/// Bytes this process made the kernel write, per sealed byte, at the nominal rate and beside the bare disk.
fn nominal() {
    const COMMITS: u64 = 3_000;
    let frame = sealed_frame();
    let home = folder();
    let mut ward = Ward::new();
    let mut spool = ward.spool(&home.path().join("spool"), 50_000);
    let mut raw = Raw::new(home.path(), "reserved", Blocks::Reserved);
    for records in [NOMINAL, 2 * NOMINAL, 10 * NOMINAL] {
        let sealed = (frame.len() * records) as u64 * COMMITS;
        let batch = ward.batch(records);
        spool.append(&batch).unwrap();
        let before = written();
        for _ in 0..COMMITS {
            let batch = ward.batch(records);
            spool.append(&batch).unwrap();
        }
        let between = written();
        (0..COMMITS).for_each(|_| raw.write(&frame.repeat(records)));
        let after = written();
        println!(
            "bytes written per sealed byte, {records} records of {} bytes a commit ({CHAIRS} chairs, a poll every 10 s: 3; \
            /proc/self/io write_bytes)",
            frame.len()
        );
        let (ours, raw) = ((between - before) as f64, (after - between) as f64);
        println!(
            "  spool {:.2}, raw disk {:.2}: {:.2} times as much",
            ours / sealed as f64,
            raw / sealed as f64,
            ours / raw
        );
    }
    println!("  bytes taken on disk: {}", spool.status().bytes);
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// How long it takes to open a spool with a backlog that nobody has taken yet.
fn open(records: usize) {
    let home = folder();
    let mut ward = Ward::new();
    let mut spool = ward.spool(home.path(), 50_000);
    for _ in 0..records / 256 {
        let batch = ward.batch(256);
        spool.append(&batch).unwrap();
    }
    println!(
        "open with {} records waiting, {} MB (target 2 s)",
        records / 256 * 256,
        spool.status().bytes / 1_000_000
    );
    drop(spool);
    let start = Instant::now();
    let mut spool = ward.spool(home.path(), 50_000);
    println!("  after a crash {:.1?}", start.elapsed());
    let batch = ward.batch(1);
    println!("  first append {:.1?}", timed(|| drop(spool.append(&batch).unwrap())));
    spool.close().unwrap();
    drop(spool);
    let start = Instant::now();
    let mut spool = ward.spool(home.path(), 50_000);
    println!("  after a stop in order {:.1?}", start.elapsed());
    println!("  first append {:.1?}", timed(|| drop(spool.append(&batch).unwrap())));
}

/// Appends and nothing else, for callgrind.
fn count(records: u64) {
    let home = folder();
    let mut ward = Ward::new();
    let mut spool = ward.spool(home.path(), 50_000);
    // Made once and appended again and again: what it costs to make them is not asked.
    let batches: Vec<Vec<Record>> = (0..60).map(|_| ward.batch(16)).collect();
    for batch in batches.iter().cycle().take(usize::try_from(records / 16).unwrap()) {
        spool.append(batch).unwrap();
    }
    println!("{}", records / 16 * 16);
}
