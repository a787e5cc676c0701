//! One chair's polls through every layer, or through a bare decode-and-serialise loop; run.sh counts instructions of both.
//!
//! usage: pipeline whole|bare POLLS. Prints how many Observations it made.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may stop where its input is wrong"
)]

mod chair;

use chair::{Chair, answers, at, tick};
use chairside::config::settings::{Settings, UpstreamKind};
use chairside::model::parameter::{Kind, Parameter};
use chairside::spool::store::{Options, SledSpool};
use chairside::spool::{BatchLimit, Lane, Spool, Verdict};
use chairside::upstream::fhir::encode::{Encoded, Encoder};
use chairside_drivers::kit::driver::{Codec, Reading, Step};
use chairside_drivers::kpoll::codec::Kpoll;
use chairside_drivers::kpoll::table::NIKKISO_DBB27C;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Polls in one commit of the spool: 30 chairs at one poll in 10 s make three a second.
const BATCH: usize = 16;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (Some(what), Some(polls)) = (words.next(), words.next()) else {
        println!("usage: pipeline whole|bare POLLS (tests/bench/run.sh calls it under callgrind)");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let settings = chair::settings(home.path(), "https://ehr.clinic.example/fhir");
    let answers = answers(&settings, polls.parse().expect("a number of polls"));
    let observations = match what.as_str() {
        "whole" => whole(&settings, home.path(), &answers),
        "bare" => bare(&settings, &answers),
        other => panic!("`whole` or `bare`, not `{other}`"),
    };
    println!("{observations}");
}

/// Bytes, samples, values, record, sealed frame on disk, lease, resources, text: everything but the network.
fn whole(settings: &Settings, home: &Path, answers: &[Vec<u8>]) -> usize {
    let upstream = &settings.upstreams[0];
    let UpstreamKind::Fhir(fhir) = &upstream.kind;
    let mut chair = Chair::new(settings);
    let encoder = Encoder::new(&settings.gateway, upstream, fhir);
    let names = [upstream.name.clone()];
    let keyring = Arc::clone(&chair.keyring);
    let mut spool =
        SledSpool::open(&home.join("spool"), keyring, &names, Options::new(1 << 30), at(0)).unwrap();
    let mut batch = Vec::new();
    let mut observations = 0;
    for (poll, answer) in (1..).zip(answers) {
        batch.extend(chair.poll(poll, answer));
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
            let verdict = match encoder.encode(stored, &chair.border) {
                Encoded::Write(rendering) => {
                    for part in &rendering.parts {
                        std::hint::black_box(part.draft.entry().unwrap());
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
