//! One chair's polls through every layer, or through a bare decode-and-serialise loop; run.sh counts instructions of both.
//!
//! usage: pipeline whole|bare POLLS. Prints how many Observations it made.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may stop where its input is wrong"
)]

use chairside::config;
use chairside::config::settings::{Settings, UpstreamKind};
use chairside::model::parameter::{Kind, Parameter};
use chairside::model::time::{ClockTrust, Timestamp};
use chairside::normalise::{Capture, Finding, Normaliser, Origin, Poll};
use chairside::privacy::Pseudonymiser;
use chairside::privacy::keyring::Keyring;
use chairside::privacy::record::TreatmentId;
use chairside::privacy::seats::Seats;
use chairside::spool::store::{Options, SledSpool};
use chairside::spool::{BatchLimit, Lane, Spool, Verdict};
use chairside::upstream::fhir::encode::{Encoded, Encoder};
use chairside_drivers::kit::driver::{Codec, Driver, Output, Reading, Sample, Step};
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::simulator::Act;
use chairside_drivers::kit::time::{Slot, Tick};
use chairside_drivers::kpoll::codec::Kpoll;
use chairside_drivers::kpoll::table::NIKKISO_DBB27C;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);
/// Polls in one commit of the spool: 30 chairs at one poll in 10 s make three a second.
const BATCH: usize = 16;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (Some(what), Some(polls)) = (words.next(), words.next()) else {
        println!("usage: pipeline whole|bare POLLS (tests/bench/run.sh calls it under callgrind)");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let settings = settings(home.path());
    let answers = answers(&settings, polls.parse().expect("a number of polls"));
    let observations = match what.as_str() {
        "whole" => whole(&settings, home.path(), &answers),
        "bare" => bare(&settings, &answers),
        other => panic!("`whole` or `bare`, not `{other}`"),
    };
    println!("{observations}");
}

fn settings(home: &Path) -> Settings {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/devices/nikkiso_dbb27c.toml");
    std::fs::create_dir(home.join("devices")).unwrap();
    std::fs::copy(map, home.join("devices/nikkiso_dbb27c.toml")).unwrap();
    let text = "[gateway]\nname = \"bench\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\n\
        namespace = \"https://clinic.example/chairside\"\n[keys]\nroot = { file = \"root.key\", created = true }\n\
        [[chair]]\nname = \"chair-1\"\nmachine = \"asset-1\"\ndriver = \"kpoll/nikkiso_dbb27c\"\nport = \"/dev/null\"\n\
        every = \"10s\"\nmap = \"nikkiso_dbb27c.toml\"\n[[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\n\
        url = \"https://ehr.clinic.example/fhir\"\nca = \"ca.pem\"\ncertificate = \"own.pem\"\nkey = { file = \"own.key\" }\n\
        send = { every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }\n";
    let file = home.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&file).unwrap_or_else(|report| panic!("{report}"))
}

/// What a simulated machine answers, poll after poll, in treatment.
fn answers(settings: &Settings, polls: u64) -> Vec<Vec<u8>> {
    let model = &settings.chairs[0].model;
    let ask = model.requests()[0].request();
    let mut machine = model.machine(1);
    machine.act(Tick::ZERO, Act::StartTreatment);
    (1..=polls)
        .map(|poll| {
            let mut now = tick(poll);
            machine.advance(now);
            machine.handle_bytes(now, ask.bytes());
            let mut answer = Vec::new();
            loop {
                while let Some(sent) = machine.transmit(now) {
                    answer.extend_from_slice(&sent.bytes);
                }
                match machine.wake() {
                    Some(wake) if wake < tick(poll + 1) => now = wake,
                    _ => break answer,
                }
            }
        })
        .collect()
}

fn tick(poll: u64) -> Tick {
    Tick::ZERO.after(EVERY * u32::try_from(poll).unwrap())
}

fn at(poll: u64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000).after(EVERY * u32::try_from(poll).unwrap())
}

/// Bytes, samples, values, record, sealed frame on disk, lease, resources, text: everything but the network.
fn whole(settings: &Settings, home: &Path, answers: &[Vec<u8>]) -> usize {
    let chair = &settings.chairs[0];
    let upstream = &settings.upstreams[0];
    let UpstreamKind::Fhir(fhir) = &upstream.kind;
    let keyring = Arc::new(Keyring::in_memory().unwrap());
    keyring.ensure_recipients([&upstream.name]).unwrap();
    let seats = Seats::new(Arc::clone(&keyring), settings.gateway.unseated);
    let border = Pseudonymiser::new(Arc::clone(&keyring));
    let encoder = Encoder::new(&settings.gateway, upstream, fhir);
    let names = [upstream.name.clone()];
    let mut spool =
        SledSpool::open(&home.join("spool"), keyring, &names, Options::new(1 << 30), at(0)).unwrap();
    let mut driver = chair.model.driver();
    let mut normaliser = Normaliser::new(Arc::clone(&chair.map), None);
    let mut treatment = None;
    let mut batch = Vec::new();
    let mut observations = 0;
    driver.handle_open(Tick::ZERO);
    for (poll, answer) in (1..).zip(answers) {
        let samples = converse(&mut *driver, poll, answer);
        let origin = Origin {
            chair: chair.name.clone(),
            machine: chair.machine.clone(),
            model: chair.model.id().clone(),
            at: at(poll),
            tick: tick(poll),
            clock: ClockTrust::Trusted,
            slot: Some(Slot(poll)),
            previous: None,
            simulated: false,
        };
        for capture in normaliser.answered(Poll { origin, samples }) {
            begin(&capture, &seats, &mut treatment);
            batch.push(border.seal(capture, treatment));
        }
        if batch.len() < BATCH && poll < answers.len() as u64 {
            continue;
        }
        spool.append(&batch).unwrap();
        batch.clear();
        let leased = spool
            .lease(&upstream.name, BatchLimit { records: 2 * BATCH }, Lane::Backlog, tick(poll))
            .unwrap();
        let mut verdicts = Vec::with_capacity(leased.len());
        for stored in &leased {
            let verdict = match encoder.encode(stored, &border) {
                Encoded::Write(rendering) => {
                    for part in &rendering.parts {
                        std::hint::black_box(serde_json::to_vec(&part.resource).unwrap());
                    }
                    observations += rendering.parts.len();
                    let parts = u32::try_from(rendering.parts.len()).unwrap();
                    Verdict::Delivered { parts, refused_parts: Vec::new() }
                }
                Encoded::Hold(treatment) => Verdict::Held(treatment),
                Encoded::Skip => Verdict::SkippedByPolicy,
            };
            verdicts.push((stored.sequence, verdict));
        }
        spool.settle(&upstream.name, &verdicts).unwrap();
    }
    observations
}

/// Starts the treatment where the machine says so, with a patient on it.
fn begin(capture: &Capture, seats: &Seats, treatment: &mut Option<TreatmentId>) {
    if capture.finding == Finding::TreatmentStarted {
        let Origin { chair, machine, at, .. } = &capture.origin;
        *treatment = Some(seats.treatment_started(chair, machine, *at).unwrap());
        seats.seat(chair, Sensitive::new(String::from("4711")), *at).unwrap();
    }
}

fn converse(driver: &mut dyn Driver, poll: u64, answer: &[u8]) -> Vec<Sample> {
    let now = tick(poll);
    let mut samples = Vec::new();
    let mut drain = |driver: &mut dyn Driver| loop {
        match driver.poll() {
            Output::Sample(sample) => samples.push(sample),
            Output::Wait(_) => break,
            Output::EndOfPoll(..) | Output::Send(_) | Output::Trouble(_) => {}
        }
    };
    driver.handle_poll_due(now, Slot(poll));
    drain(driver);
    driver.handle_bytes(now, answer);
    drain(driver);
    samples
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlainObservation<'a> {
    resource_type: &'a str,
    id: &'a str,
    status: &'a str,
    code: PlainCode<'a>,
    effective_date_time: &'a str,
    value_quantity: PlainQuantity<'a>,
}

#[derive(Serialize)]
struct PlainCode<'a> {
    coding: [PlainCoding<'a>; 1],
}

#[derive(Serialize)]
struct PlainCoding<'a> {
    system: &'a str,
    code: &'a str,
    display: &'a str,
}

#[derive(Serialize)]
struct PlainQuantity<'a> {
    value: serde_json::Number,
    unit: &'a str,
    system: &'a str,
    code: &'a str,
}

/// The least that puts the same readings into the same kind of text: no treatment, no patient, no disk, one fixed id.
fn bare(settings: &Settings, answers: &[Vec<u8>]) -> usize {
    let codec = Kpoll::new(&NIKKISO_DBB27C);
    let wanted: Vec<_> = settings.chairs[0]
        .map
        .entries
        .iter()
        .filter(|entry| matches!(entry.parameter.row().kind, Kind::Measured | Kind::Total))
        .map(|entry| (entry.from.as_str(), entry.parameter))
        .collect();
    let mut observations = 0;
    for answer in answers {
        let Step::Frame { frame, .. } = codec.decode(answer) else { panic!("a simulated answer is a frame") };
        for sample in frame.samples() {
            let sample = sample.unwrap();
            let Some((_, parameter)) = wanted.iter().find(|(from, _)| *from == sample.channel.as_str())
            else {
                continue;
            };
            if let Reading::Number(number) = sample.reading {
                std::hint::black_box(serialise(*parameter, &number.to_string()));
                observations += 1;
            }
        }
    }
    observations
}

fn serialise(parameter: Parameter, number: &str) -> Vec<u8> {
    let row = parameter.row();
    let unit = row.unit.map_or("1", |unit| unit.ucum());
    let code = row.mdc.map_or(0, |(code, _)| code).to_string();
    let observation = PlainObservation {
        resource_type: "Observation",
        id: "be17f136-4e68-8db4-b3ef-ec598e539a93",
        status: "final",
        code: PlainCode {
            coding: [PlainCoding { system: "urn:iso:std:iso:11073:10101", code: &code, display: row.title }],
        },
        effective_date_time: "2026-03-02T09:14:30.000+01:00",
        value_quantity: PlainQuantity {
            value: number.parse().unwrap(),
            unit,
            system: "http://unitsofmeasure.org",
            code: unit,
        },
    };
    serde_json::to_vec(&observation).unwrap()
}
