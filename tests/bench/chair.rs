//! One chair with a simulated machine, for the benches that need records as they are made.

use chairside::config;
use chairside::config::settings::Settings;
use chairside::model::time::{ClockTrust, Timestamp};
use chairside::normalise::{Capture, Finding, Normaliser, Origin, Poll};
use chairside::privacy::Pseudonymiser;
use chairside::privacy::keyring::Keyring;
use chairside::privacy::record::{Record, TreatmentId};
use chairside::privacy::seats::Seats;
use chairside_drivers::kit::driver::{Driver, Output, Sample};
use chairside_drivers::kit::sensitive::Sensitive;
use chairside_drivers::kit::simulator::Act;
use chairside_drivers::kit::time::{Slot, Tick};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);

/// A gateway with one chair and one FHIR server at this address.
pub(crate) fn settings(home: &Path, url: &str) -> Settings {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/devices/nikkiso_dbb27c.toml");
    std::fs::create_dir(home.join("devices")).unwrap();
    std::fs::copy(map, home.join("devices/nikkiso_dbb27c.toml")).unwrap();
    let text = format!(
        "[gateway]\nname = \"bench\"\nstate_dir = \"state\"\ntime_zone = \"UTC\"\n\
        namespace = \"https://clinic.example/chairside\"\n[keys]\nroot = {{ file = \"root.key\", created = true }}\n\
        [[chair]]\nname = \"chair-1\"\nmachine = \"asset-1\"\ndriver = \"kpoll/nikkiso_dbb27c\"\nport = \"/dev/null\"\n\
        every = \"10s\"\nmap = \"nikkiso_dbb27c.toml\"\n[[upstream]]\nname = \"ehr\"\nkind = \"fhir\"\n\
        url = \"{url}\"\nca = \"ca.pem\"\ncertificate = \"gateway.pem\"\nkey = {{ file = \"gateway.key\" }}\n\
        send = {{ every = \"poll\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }}\n"
    );
    let file = home.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&file).unwrap_or_else(|report| panic!("{report}"))
}

/// What a simulated machine answers, poll after poll, in treatment.
pub(crate) fn answers(settings: &Settings, polls: u64) -> Vec<Vec<u8>> {
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

pub(crate) fn tick(poll: u64) -> Tick {
    Tick::ZERO.after(EVERY * u32::try_from(poll).unwrap())
}

pub(crate) fn at(poll: u64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000).after(EVERY * u32::try_from(poll).unwrap())
}

/// The chair, from bytes to sealed records; a patient sits down as soon as the machine treats.
pub(crate) struct Chair<'a> {
    settings: &'a Settings,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) border: Pseudonymiser,
    seats: Seats,
    driver: Box<dyn Driver>,
    normaliser: Normaliser,
    treatment: Option<TreatmentId>,
}

impl<'a> Chair<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        let chair = &settings.chairs[0];
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        keyring.ensure_recipients([&settings.upstreams[0].name]).unwrap();
        let mut driver = chair.model.driver();
        driver.handle_open(Tick::ZERO);
        Self {
            settings,
            border: Pseudonymiser::new(Arc::clone(&keyring)),
            seats: Seats::new(Arc::clone(&keyring), settings.gateway.unseated),
            keyring,
            driver,
            normaliser: Normaliser::new(Arc::clone(&chair.map), None),
            treatment: None,
        }
    }

    /// What becomes of one poll.
    pub(crate) fn poll(&mut self, poll: u64, answer: &[u8]) -> Vec<Record> {
        let chair = &self.settings.chairs[0];
        let samples = converse(&mut *self.driver, poll, answer);
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
        let mut records = Vec::new();
        for capture in self.normaliser.answered(Poll { origin, samples }) {
            self.begin(&capture);
            records.push(self.border.seal(capture, self.treatment));
        }
        records
    }

    fn begin(&mut self, capture: &Capture) {
        if capture.finding == Finding::TreatmentStarted {
            let Origin { chair, machine, at, .. } = &capture.origin;
            self.treatment = Some(self.seats.treatment_started(chair, machine, *at).unwrap());
            self.seats.seat(chair, Sensitive::new(String::from("4711")), *at).unwrap();
        }
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
