//! What disks and clocks do to the real gateway: volumes damaged or gone between two runs, a spool that is full, a start in 1970.

use crate::delivery::{VENOUS, is_kept, kept, missing, readings};
use crate::gateway::{Home, Running, Wishes};
use crate::machine::{Machine, Screen};
use crate::pki::Pki;
use crate::receiver::Receiver;
use chairside::clock::{Clock, SystemClock};
use chairside::gateway::RunOptions;
use chairside::model::time::{ClockTrust, Timestamp, TrueTime};
use chairside_drivers::kit::time::Tick;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

const LOG: &str = "info,chairside::gateway=debug";

/// Every frame in a volume's files begins so.
const MAGIC: [u8; 4] = [0xF5, 0xC5, 0x9D, 0xF7];

fn volumes(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.state().join("spool")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("volume-")).collect()
}

/// Changes a byte in every third frame.
fn damage(volume: &Path) {
    for file in fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        let mut bytes = fs::read(&file).unwrap();
        let frames: Vec<usize> =
            bytes.windows(4).enumerate().filter(|(_, word)| *word == MAGIC).map(|(place, _)| place).collect();
        for place in frames.iter().step_by(3) {
            bytes[place + 120] ^= 4;
        }
        fs::write(&file, bytes).unwrap();
    }
}

/// Told to stop, it ends well; gives what it had kept.
fn stop(mut gateway: Running) -> BTreeSet<(String, i64)> {
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.end().code(), Some(0), "{}", gateway.log().join("\n"));
    kept(&gateway)
}

fn status(home: &Home) -> Value {
    let (code, said, why) = home.ask(&["status", "--json"], "");
    assert_eq!(code, Some(0), "{why}");
    serde_json::from_str(&said).unwrap()
}

/// Records that the receiver was told are gone, by this code.
fn told(resources: &BTreeMap<String, Value>, code: &str) -> u64 {
    let gone = resources.values().filter(|it| it["code"]["coding"][0]["code"] == code);
    let records = |it: &Value| {
        let parts = it["component"].as_array().unwrap();
        let records = parts.iter().find(|part| part["code"]["coding"][0]["code"] == "records").unwrap();
        records["valueQuantity"]["value"].as_u64().unwrap()
    };
    gone.map(records).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_damaged_or_gone_at_the_next_start_is_told_and_costs_nothing_else() {
    let (machine, pki) = (Machine::start(Screen::default()), Pki::new());
    let receiver = Receiver::start(&pki).await;
    let home =
        Home::new(&Wishes { chairs: &[&machine], receiver: Some((&receiver, &pki)), ..Wishes::default() });
    let (mut all_kept, mut lost_before) = (BTreeSet::new(), 0);
    let acts: [fn(&Path); 2] = [damage, |volume| fs::remove_dir_all(volume).unwrap()];
    for act in acts {
        receiver.cut_off(true);
        machine.show(|screen| screen.mute = false);
        let gateway = home.ready(LOG);
        gateway.until_count("readings kept", 90, is_kept);
        let kept = stop(gateway);
        all_kept.extend(kept.iter().cloned());
        volumes(&home).iter().for_each(|volume| act(volume));

        // Nothing new comes, so that the counts stand still.
        machine.show(|screen| screen.mute = true);
        receiver.cut_off(false);
        let gateway = home.ready(LOG);
        home.until_page("an empty queue", |page| page.contains("Nothing waits to be sent."));
        let status = status(&home);
        let lost = status["upstreams"][0]["lost"].as_u64().unwrap();
        assert!(lost > lost_before, "{status:#}");
        assert_eq!(told(&receiver.resources(), "lost"), lost, "{status:#}");
        assert_eq!(status["slots"]["unaccounted"], 0, "{status:#}");
        let gone = missing(&all_kept, &receiver.resources()).len();
        assert!(gone as u64 <= lost, "{gone} readings did not come, {lost} records are told as lost");
        if lost_before == 0 {
            assert!(gone < kept.len() / 2, "of {} readings {gone} are gone", kept.len());
        }
        lost_before = lost;
        stop(gateway);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_lets_its_oldest_readings_go_and_the_receiver_is_told_how_many() {
    let (machine, pki) = (Machine::start(Screen::default()), Pki::new());
    let receiver = Receiver::start(&pki).await;
    receiver.cut_off(true);
    let home =
        Home::new(&Wishes { chairs: &[&machine], receiver: Some((&receiver, &pki)), ..Wishes::default() });
    let config = fs::read_to_string(home.config()).unwrap();
    home.write("gateway.toml", &format!("{config}\n[spool]\nmax_bytes = \"64 MiB\"\n"));
    // Cut off, so that the next run begins another volume and this one can go.
    let mut gateway = home.ready(LOG);
    gateway.until_count("readings kept", 60, is_kept);
    gateway.kill();
    let mut all_kept = kept(&gateway);

    // What a person leaves in the spool's folder takes its space as well.
    let gateway = home.ready(LOG);
    let bytes = status(&home)["spool"]["bytes"].as_u64().unwrap();
    let aside = home.state().join("spool/aside");
    fs::create_dir_all(&aside).unwrap();
    let filler = fs::File::create(aside.join("left-behind")).unwrap();
    let room = (64_u64 << 20) / 100 * 95 - bytes;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, room).unwrap();
    gateway.until("a full spool", |line| line.contains("the spool is full; its oldest records leave it"));
    home.until_page("records that left", |page| page.contains("EVICTED"));
    filler.set_len(0).unwrap();
    machine.show(|screen| screen.mute = true);
    receiver.cut_off(false);
    home.until_page("an empty queue", |page| page.contains("Nothing waits to be sent."));
    let status = status(&home);
    let evicted = status["upstreams"][0]["evicted"].as_u64().unwrap();
    assert!(evicted > 0, "{status:#}");
    assert_eq!(told(&receiver.resources(), "evicted"), evicted, "{status:#}");
    assert_eq!(status["slots"]["unaccounted"], 0, "{status:#}");
    all_kept.extend(stop(gateway));
    let gone = missing(&all_kept, &receiver.resources()).len();
    assert!(gone as u64 <= evicted, "{gone} readings did not come, {evicted} records are told as evicted");
}

/// The clock of a computer without a battery, until somebody sets it.
#[derive(Debug)]
struct NoBattery {
    running: SystemClock,
    started: Timestamp,
    is_set: AtomicBool,
}

impl NoBattery {
    fn right(&self, tick: Tick) -> Timestamp {
        self.started.after(tick.since(Tick::ZERO))
    }
}

impl Clock for NoBattery {
    fn tick(&self) -> Tick {
        self.running.tick()
    }

    fn now(&self) -> (Timestamp, ClockTrust) {
        let tick = self.tick();
        if self.is_set.load(Ordering::SeqCst) {
            return (self.right(tick), ClockTrust::Trusted);
        }
        (Timestamp::from_micros(0).after(tick.since(Tick::ZERO)), ClockTrust::Untrusted)
    }

    fn true_time(&self, tick: Tick) -> TrueTime {
        if self.is_set.load(Ordering::SeqCst) { TrueTime::At(self.right(tick)) } else { TrueTime::Unknown }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_in_1970_captures_holds_everything_and_delivers_it_with_the_right_times() {
    let (machine, pki) = (Machine::start(Screen { counts: Some(0), ..Screen::default() }), Pki::new());
    let receiver = Receiver::start(&pki).await;
    let home =
        Home::new(&Wishes { chairs: &[&machine], receiver: Some((&receiver, &pki)), ..Wishes::default() });
    let settings =
        chairside::config::load(&home.config()).map_err(|_| "the configuration is refused").unwrap();
    let running = SystemClock::new(Timestamp::from_micros(0));
    let started = running.now().0;
    let clock = Arc::new(NoBattery { running, started, is_set: AtomicBool::new(false) });
    let run = || {
        let options =
            RunOptions { clock: Some(Arc::clone(&clock) as Arc<dyn Clock>), ..RunOptions::default() };
        let (stop, stopping) = oneshot::channel::<()>();
        let stopping = async move {
            let _ = stopping.await;
        };
        (tokio::spawn(chairside::gateway::run(settings.clone(), options, stopping)), stop)
    };

    let (gateway, stop) = run();
    home.until_page("captured polls", |page| {
        if page.is_empty() {
            return false;
        }
        let status = status(&home);
        let captured = status["chairs"][0]["slots"]["captured"].as_u64();
        status["clock_trusted"] == false && captured >= Some(40)
    });
    stop.send(()).unwrap();
    gateway.await.unwrap().unwrap();
    assert_eq!(receiver.resources(), BTreeMap::new(), "something was sent with a time of 1970");

    let set = clock.right(clock.tick()).as_micros() / 1000;
    clock.is_set.store(true, Ordering::SeqCst);
    let (gateway, stop) = run();
    let venous = |resources: &BTreeMap<String, Value>| -> BTreeSet<i64> {
        let all = readings(resources).into_iter();
        all.filter(|(code, ..)| code == VENOUS).map(|(_, _, at, _)| at).collect()
    };
    receiver
        .until("what was captured before the clock was set, and after", |it| {
            let before = venous(it).range(..set).count();
            before >= 40 && venous(it).range(set..).count() > 0
        })
        .await;
    stop.send(()).unwrap();
    gateway.await.unwrap().unwrap();
    let times = venous(&receiver.resources());
    let (first, last) = (*times.first().unwrap(), *times.last().unwrap());
    let now = clock.right(clock.tick()).as_micros() / 1000;
    assert!(started.as_micros() / 1000 <= first && last <= now, "{first} to {last}");
}
