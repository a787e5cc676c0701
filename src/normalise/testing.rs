//! What tests of the normaliser share: a chair whose machine answers with public frames, edited item by item.

use super::*;
use crate::config::device_map::{MapEntry, TreatmentRule};
use crate::model::alarm::{Alarm, AlarmEdge};
use crate::model::name::{ChairName, MachineName};
use crate::model::unit::Unit;
use chairside_drivers::kit::driver::{ChannelId, Driver, Model, ModelId, Outcome, Output};
use chairside_drivers::kit::time::Tick;
use std::time::Duration;

/// A Nikkiso DBB-27C in mid-treatment, 54 minutes on its clock, no blood pressure taken yet.
const NIKKISO: &str = "A02.50B00.68C00.80D00250E002.0F036.5G014.4H 0170I 0153J 0061K00054L00500a0b0c0d0e0f0g0h0M1N0\
    O00.00P00.00Q00.00R000.0S000/00T0000/U0000/V0000/i0";
/// A Toray TR-8000 after 194 minutes, with the fourth blood pressure on its screen.
const TORAY: &str = "A03.80B03.08C00.95D00320E002.0F037.0G014.1H00129I00084J00045K00194a0b0c0d0e0f0g0h0L00505M00004\
    N00093O00064P00080Q00250R00100S00200T00000U00661V00187W00067X00065Y00171Z-0029i00000j0k0l2m1n        o00012p0q00073\
    r-0047s00153t-0047u000.0v00.00w00.00x0y0z0!0#036.7$0";

/// A chair, its normaliser and the machine on its line.
pub(crate) struct Chair {
    pub(super) normaliser: Normaliser,
    map: Arc<DeviceMap>,
    driver: Box<dyn Driver>,
    version: char,
    items: Vec<(&'static str, String)>,
    pub(crate) now: Tick,
    pub(crate) slot: u64,
    pub(super) clock: ClockTrust,
}

impl Chair {
    pub(crate) fn nikkiso() -> Self {
        Self::new("kpoll/nikkiso_dbb27c", '2', NIKKISO, nikkiso_map())
    }

    pub(crate) fn toray() -> Self {
        Self::new("kpoll/toray_tr8000", '1', TORAY, toray_map())
    }

    fn new(id: &str, version: char, body: &str, map: DeviceMap) -> Self {
        let model = model(id);
        let mut rest = body;
        let mut items = Vec::new();
        for channel in model.channels() {
            let (item, tail) = rest.split_at(1 + channel.example.len());
            let tag = channel.id.as_str();
            assert_eq!(&item[..1], tag);
            items.push((&*tag.to_owned().leak(), item[1..].to_owned()));
            rest = tail;
        }
        assert_eq!(rest, "");
        let map = Arc::new(map);
        let mut driver = model.driver();
        driver.handle_open(Tick::ZERO);
        let normaliser = Normaliser::new(Arc::clone(&map), None);
        let now = Tick::from_micros(1);
        Self { normaliser, map, driver, version, items, now, slot: 0, clock: ClockTrust::Trusted }
    }

    /// The gateway restarts, as a later process with a monotonic clock of its own.
    pub(super) fn restart(&mut self, resume: Option<Resume>) {
        self.normaliser = Normaliser::new(Arc::clone(&self.map), resume);
        self.slot = 0;
    }

    pub(super) fn is_nikkiso(&self) -> bool {
        self.version == '2'
    }

    /// What the machine shows for an item from now on; padded with zeros to the item's width.
    pub(crate) fn show(&mut self, tag: &str, text: &str) {
        let item = self.items.iter_mut().find(|(id, _)| *id == tag).unwrap();
        let width = item.1.len();
        item.1 = format!("{text:0>width$}");
        assert_eq!(item.1.len(), width);
    }

    pub(crate) fn show_all(&mut self, items: &[(&str, &str)]) {
        for (tag, text) in items {
            self.show(tag, text);
        }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin {
            chair: ChairName::new("chair-1").unwrap(),
            machine: MachineName::new("asset-14").unwrap(),
            model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
            at: self.at(),
            tick: self.now,
            clock: self.clock,
            slot: Some(Slot(self.slot)),
            // Whatever stands here must not be believed.
            previous: Some(Timestamp::from_micros(7)),
            simulated: false,
        }
    }

    pub(super) fn at(&self) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000).after(self.now.since(Tick::ZERO))
    }

    /// Ten seconds on, the machine is asked and answers.
    pub(super) fn poll(&mut self) -> Vec<Capture> {
        self.poll_after(Duration::from_secs(10))
    }

    pub(super) fn poll_after(&mut self, wait: Duration) -> Vec<Capture> {
        self.now = self.now.after(wait);
        self.slot += 1;
        let origin = self.origin();
        let samples = self.samples();
        self.normaliser.answered(Poll { origin, samples })
    }

    /// Polls for this long.
    pub(super) fn poll_for(&mut self, seconds: u64) -> Vec<Capture> {
        (0..seconds / 10).flat_map(|_| self.poll()).collect()
    }

    /// The cable is pulled.
    pub(super) fn lose_line(&mut self) -> Vec<Capture> {
        self.now = self.now.after(Duration::from_secs(10));
        let origin = Origin { slot: None, ..self.origin() };
        self.normaliser.line_lost(origin)
    }

    /// The samples of the machine's answer, as its driver reads them off the wire.
    pub(crate) fn samples(&mut self) -> Vec<Sample> {
        self.driver.handle_poll_due(self.now, Slot(self.slot));
        assert!(matches!(self.driver.poll(), Output::Send(_)));
        let frame = self.frame();
        self.driver.handle_bytes(self.now, frame.as_bytes());
        let mut samples = Vec::new();
        loop {
            match self.driver.poll() {
                Output::Sample(sample) => samples.push(sample),
                Output::EndOfPoll(_, outcome) => assert_eq!(outcome, Outcome::Answered),
                Output::Wait(_) => return samples,
                other => panic!("{other:?}"),
            }
        }
    }

    fn frame(&self) -> String {
        let body: String = self.items.iter().flat_map(|(tag, value)| [*tag, value.as_str()]).collect();
        let summed = format!("K{}{:03}{body}", self.version, body.len());
        let check = summed.bytes().fold(0, u8::wrapping_add);
        format!("{summed}{check:02x}\r\n")
    }
}

pub(crate) fn model(id: &str) -> Box<dyn Model> {
    (chairside_drivers::find(id).unwrap().build)(&chairside_drivers::Options::new()).unwrap()
}

/// The values of a poll: `(key, reading, mark)`, for those with this key.
pub(super) fn value(captures: &[Capture], key: &str) -> Value {
    values(captures).into_iter().find(|value| value.parameter.key() == key).unwrap()
}

/// All values of the last poll in these captures.
pub(super) fn values(captures: &[Capture]) -> Vec<Value> {
    let values = captures.iter().rev().find_map(|capture| match &capture.finding {
        Finding::Values(values) => Some(values.clone()),
        _ => None,
    });
    values.unwrap()
}

/// What happened besides values, in order, in few words.
pub(super) fn events(captures: &[Capture]) -> Vec<String> {
    let word = |capture: &Capture| match &capture.finding {
        Finding::Values(_) => None,
        Finding::Alarm(edge) => Some(format!("{:?} {}", edge.phase, edge.alarm.key())),
        Finding::TreatmentStarted => Some(String::from("started")),
        Finding::TreatmentEnded(reason) => Some(format!("ended {reason:?}")),
    };
    captures.iter().filter_map(word).collect()
}

/// The alarm edges in these captures, each with its origin and phase.
pub(super) fn edges(captures: &[Capture]) -> Vec<(AlarmEdge, Tick, Phase)> {
    let edge = |capture: &Capture| match capture.finding {
        Finding::Alarm(edge) => Some((edge, capture.origin.tick, capture.phase)),
        _ => None,
    };
    captures.iter().filter_map(edge).collect()
}

/// Every spot value that is news, as text.
pub(super) fn news_of_spots(captures: &[Capture]) -> Vec<String> {
    let mut news = Vec::new();
    for capture in captures {
        let Finding::Values(values) = &capture.finding else { continue };
        for value in values {
            let key = value.parameter.key();
            if let (Some(short), Mark::New, Reading::Number(number)) =
                (key.strip_prefix("nibp_"), value.mark, value.reading)
            {
                news.push(format!("{short} {number}"));
            }
        }
    }
    news
}

pub(crate) fn nikkiso_map() -> DeviceMap {
    let flag = TreatmentRule::Flag { from: ChannelId::from_static("M"), is: vec![1] };
    let own = &[
        ("J", "transmembrane_pressure", "mm[Hg]"),
        ("N", "treatment_modality", ""),
        ("O", "substitution_target_volume", "L"),
        ("P", "substitution_volume", "L"),
        ("Q", "substitution_rate", "L/h"),
        ("R", "substitution_temperature", "Cel"),
        ("T", "nibp_systolic", "mm[Hg]"),
        ("U", "nibp_diastolic", "mm[Hg]"),
        ("V", "nibp_pulse_rate", "/min"),
    ];
    map(own, "S", flag)
}

pub(crate) fn toray_map() -> DeviceMap {
    let rule = TreatmentRule::Elapsed {
        elapsed: ChannelId::from_static("K"),
        blood_flow: ChannelId::from_static("D"),
    };
    let own = &[
        ("J", "transmembrane_pressure", "mm[Hg]"),
        ("N", "nibp_systolic", "mm[Hg]"),
        ("O", "nibp_diastolic", "mm[Hg]"),
        ("P", "nibp_pulse_rate", "/min"),
        ("U", "blood_volume_processed", "dL"),
        ("V", "venous_pressure_limit_high", "mm[Hg]"),
        ("Z", "dialysate_pressure_limit_low", "mm[Hg]"),
        ("o", "arterial_pressure", "mm[Hg]"),
        ("#", "dialysate_temperature_setting", "Cel"),
    ];
    map(own, "M", rule)
}

/// Channel, key, unit on the screen.
type Line = (&'static str, &'static str, &'static str);

fn map(own: &[Line], mark: &'static str, treatment: TreatmentRule) -> DeviceMap {
    let shared: &[Line] = &[
        ("A", "uf_target_volume", "L"),
        ("B", "uf_removed_volume", "L"),
        ("C", "uf_rate", "L/h"),
        ("D", "blood_flow_rate", "mL/min"),
        ("E", "anticoagulant_rate", "mL/h"),
        ("F", "dialysate_temperature", "Cel"),
        ("G", "dialysate_conductivity", "mS/cm"),
        ("H", "venous_pressure", "mm[Hg]"),
        ("I", "dialysate_pressure", "mm[Hg]"),
        ("K", "treatment_time_elapsed", "min"),
        ("L", "dialysate_flow_rate", "mL/min"),
    ];
    let alarms = [("c", "venous_pressure"), ("g", "blood_leak"), ("f", "air_detected")];
    DeviceMap {
        driver: ModelId::from_static("kpoll/test"),
        revision: 1,
        checked_on: Vec::new(),
        entries: shared.iter().chain(own).map(|line| entry(*line, mark)).collect(),
        alarms: alarms
            .iter()
            .map(|(from, key)| (Alarm::from_key(key).unwrap(), ChannelId::from_static(from)))
            .collect(),
        treatment: Some(treatment),
    }
}

fn entry((from, key, unit): Line, mark: &'static str) -> MapEntry {
    let parameter = Parameter::from_key(key).unwrap();
    MapEntry {
        parameter,
        from: ChannelId::from_static(from),
        machine_unit: Unit::from_ucum(unit),
        plausible: parameter.plausible(),
        new_when_changes: key.starts_with("nibp_").then(|| ChannelId::from_static(mark)),
    }
}
