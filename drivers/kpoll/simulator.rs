//! A simulated K-poll machine: a believable treatment, answered in the words of its model's table.
//!
//! What it shows depends on the seed and on virtual time alone, never on how often it is asked. The screen is made
//! from the simulator's own numbers, not by reading its bytes back.

use crate::kit::decimal::Decimal;
use crate::kit::driver::{ChannelId, ChannelKind, Mark, Reading};
use crate::kit::random::{Random, mix};
use crate::kit::sensitive::Sensitive;
use crate::kit::simulator::{Act, Machine, Screen, Switch, Transmission};
use crate::kit::time::Tick;
use crate::kpoll::ASK;
use crate::kpoll::codec::encode;
use crate::kpoll::table::{Item, Table};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// From the request to the first byte of the answer.
const THINKING: Duration = Duration::from_millis(100);
const MICROS_PER_HOUR: u64 = 3_600_000_000;
const MICROS_PER_MINUTE: u64 = 60_000_000;

/// When the machine sends the CR LF of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminator {
    /// With the answer.
    AtOnce,
    /// Every other time only when the next request comes, as seen on the TR-8000.
    OftenLate,
}

/// One simulated machine.
#[derive(Debug)]
pub(crate) struct Simulator {
    table: &'static Table,
    terminator: Terminator,
    seed: u64,
    settings: Settings,
    now: Tick,
    phase: Phase,
    /// Microseconds of treatment.
    treated: u64,
    cuff: Option<Cuff>,
    venous_alarm: Switch,
    /// Bytes of the request that came so far.
    asked: usize,
    owes_terminator: bool,
    outbox: VecDeque<(Tick, Outgoing)>,
    answers: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Standby,
    Treating,
    Ended,
    Rinsing,
}

#[derive(Clone, Copy, Debug)]
enum Outgoing {
    LateTerminator,
    Answer,
}

/// The last blood pressure, and which measurement it was.
#[derive(Clone, Copy, Debug)]
struct Cuff {
    count: u32,
    at: Tick,
    systolic: u16,
    diastolic: u16,
    pulse: u16,
}

/// What was set at the machine, in thousandths of the unit on the screen.
#[derive(Debug)]
struct Settings {
    uf_goal: i64,
    uf_rate: i64,
    blood_flow: i64,
    syringe_rate: i64,
    temperature: i64,
    conductivity: i64,
    venous_pressure: i64,
    dialysate_pressure: i64,
    substitution_rate: i64,
    substitution_goal: i64,
}

/// A value before it is written: as the screen means it.
enum Shown {
    /// In thousandths of the item's unit.
    Thousandths(i64),
    Digit(u8),
    Token(String),
    Text(String),
    /// The machine has no reading: the item's own example shows the filler.
    Nothing,
}

impl Simulator {
    pub(crate) fn new(table: &'static Table, terminator: Terminator, seed: u64) -> Self {
        Self {
            table,
            terminator,
            seed,
            settings: Settings::draw(seed),
            now: Tick::ZERO,
            phase: Phase::Standby,
            treated: 0,
            cuff: None,
            venous_alarm: Switch::Off,
            asked: 0,
            owes_terminator: false,
            outbox: VecDeque::new(),
            answers: 0,
        }
    }

    fn answer(&mut self) -> Transmission {
        let mut body = Vec::new();
        let mut screen = Screen::new();
        for item in self.table.items {
            let (text, reading) = write(item, self.shown(item));
            body.push(item.tag);
            body.extend_from_slice(text.as_bytes());
            screen.insert(ChannelId::from_static(item.id), reading);
        }
        let mut bytes = encode(self.table.version, &body);
        self.answers += 1;
        if self.terminator == Terminator::OftenLate && mix(self.seed ^ self.answers) & 1 == 1 {
            self.owes_terminator = true;
            bytes.truncate(bytes.len() - b"\r\n".len());
        }
        Transmission { bytes, screen: Some(screen) }
    }

    fn shown(&self, item: &Item) -> Shown {
        self.common(item.id).unwrap_or_else(|| match self.table.version {
            b'2' => self.nikkiso(item.id),
            _ => self.toray(item.id),
        })
    }

    /// The items that both makers share; the alarms that nobody raises here are shared too.
    fn common(&self, id: &str) -> Option<Shown> {
        let set = &self.settings;
        let running = self.phase == Phase::Treating;
        let while_running = |value: i64| if running { value } else { 0 };
        let thousandths = match id {
            "A" => set.uf_goal,
            "B" => self.uf_removed(),
            "C" => while_running(if self.uf_removed() < set.uf_goal { set.uf_rate } else { 0 }),
            "D" => while_running(set.blood_flow),
            "E" => while_running(set.syringe_rate),
            "F" if self.phase == Phase::Rinsing => 30_000 + self.wobble(id, 400),
            "F" => set.temperature + self.wobble(id, 100),
            "G" if self.phase == Phase::Rinsing => 200 + self.wobble(id, 100),
            "G" => set.conductivity + self.wobble(id, 100),
            "H" => self.venous_pressure(),
            "I" => while_running(set.dialysate_pressure) + self.wobble(id, 6_000),
            "J" => while_running(self.venous_pressure() - set.dialysate_pressure) + self.wobble(id, 3_000),
            "K" => to_thousandths(self.treated / MICROS_PER_MINUTE),
            "L" if self.phase == Phase::Standby => 0,
            "L" => 500_000 + self.wobble(id, 8_000),
            "c" => return Some(Shown::Digit(u8::from(self.venous_alarm == Switch::On))),
            "a" | "b" | "d" | "e" | "f" | "g" | "h" => return Some(Shown::Digit(0)),
            _ => return None,
        };
        Some(Shown::Thousandths(thousandths))
    }

    fn nikkiso(&self, id: &str) -> Shown {
        let Some(cuff) = self.cuff else {
            return match id {
                "S" | "T" | "U" | "V" => Shown::Nothing,
                _ => self.nikkiso_treatment(id),
            };
        };
        match id {
            // The format of this time is not public; hours, minutes and seconds fit its six columns.
            "S" => {
                let seconds = cuff.at.as_micros() / 1_000_000 + u64::from(cuff.count);
                Shown::Token(format!("{:02}{:02}{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60))
            }
            "T" => Shown::Thousandths(i64::from(cuff.systolic) * 1000),
            "U" => Shown::Thousandths(i64::from(cuff.diastolic) * 1000),
            "V" => Shown::Thousandths(i64::from(cuff.pulse) * 1000),
            _ => self.nikkiso_treatment(id),
        }
    }

    fn nikkiso_treatment(&self, id: &str) -> Shown {
        let set = &self.settings;
        let online_hdf = set.substitution_rate > 0;
        match id {
            "M" => Shown::Digit(u8::from(self.phase == Phase::Treating)),
            "N" => Shown::Digit(if online_hdf { 4 } else { 0 }),
            "O" => Shown::Thousandths(set.substitution_goal),
            "P" => Shown::Thousandths(self.substituted()),
            "Q" if self.phase == Phase::Treating => Shown::Thousandths(set.substitution_rate),
            "R" if online_hdf => Shown::Thousandths(set.temperature),
            "i" => Shown::Digit(0),
            _ => Shown::Thousandths(0),
        }
    }

    fn toray(&self, id: &str) -> Shown {
        let set = &self.settings;
        let cuff = |part: fn(&Cuff) -> u16| self.cuff.map_or(0, |cuff| i64::from(part(&cuff)) * 1000);
        Shown::Thousandths(match id {
            "M" => return Shown::Token(format!("{:05}", self.cuff.map_or(0, |cuff| cuff.count % 100_000))),
            "N" => cuff(|cuff| cuff.systolic),
            "O" => cuff(|cuff| cuff.diastolic),
            "P" => cuff(|cuff| cuff.pulse),
            "Q" => 250_000,
            "R" => 80_000,
            "S" => 200_000,
            // In tenths of a litre.
            "U" => to_thousandths(self.over_minutes(set.blood_flow) / 100_000),
            "V" => set.venous_pressure + 60_000,
            "W" => set.venous_pressure - 60_000,
            // In tenths of a millilitre.
            "X" => to_thousandths(self.over_hours(set.syringe_rate) / 100),
            "Y" => set.dialysate_pressure + 90_000,
            "Z" => set.dialysate_pressure - 110_000,
            "l" => return Shown::Digit(2),
            "m" => return Shown::Digit(1),
            "j" | "k" | "p" | "x" | "y" | "z" | "!" | "$" => return Shown::Digit(0),
            "n" => return Shown::Text(format!("SIM{:05}", self.seed % 100_000)),
            "o" if self.phase == Phase::Treating => self.wobble(id, 8_000) - 120_000,
            "q" => 60_000,
            "r" => -250_000,
            "s" => 200_000,
            "t" => -50_000,
            "#" => set.temperature,
            _ => 0,
        })
    }

    fn venous_pressure(&self) -> i64 {
        let alarm = if self.venous_alarm == Switch::On { 75_000 } else { 0 };
        let base = if self.phase == Phase::Treating { self.settings.venous_pressure } else { 0 };
        base + alarm + self.wobble("H", 5_000)
    }

    fn uf_removed(&self) -> i64 {
        to_i64(self.over_hours(self.settings.uf_rate)).min(self.settings.uf_goal)
    }

    fn substituted(&self) -> i64 {
        to_i64(self.over_hours(self.settings.substitution_rate)).min(self.settings.substitution_goal)
    }

    /// What a rate per hour has made of the treatment so far.
    fn over_hours(&self, rate: i64) -> u64 {
        self.treated.saturating_mul(rate.unsigned_abs()) / MICROS_PER_HOUR
    }

    /// What a rate per minute has made of the treatment so far.
    fn over_minutes(&self, rate: i64) -> u64 {
        self.treated.saturating_mul(rate.unsigned_abs()) / MICROS_PER_MINUTE
    }

    /// A small variation that changes once a second, at most `reach` to either side.
    fn wobble(&self, id: &str, reach: i64) -> i64 {
        let tag = id.bytes().fold(0, |tag, byte| tag << 8 | u64::from(byte));
        let second = self.now.as_micros() / 1_000_000;
        let draw = mix(mix(self.seed ^ tag << 56) ^ second) >> 33;
        to_i64(draw % (reach.unsigned_abs() * 2 + 1)) - reach
    }
}

impl Machine for Simulator {
    fn advance(&mut self, now: Tick) {
        let passed = u64::try_from(now.since(self.now).as_micros()).unwrap_or(u64::MAX);
        if self.phase == Phase::Treating {
            self.treated = self.treated.saturating_add(passed);
        }
        self.now = self.now.max(now);
    }

    fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        self.advance(now);
        for byte in bytes {
            self.asked = match (ASK.get(self.asked) == Some(byte), ASK.first() == Some(byte)) {
                (true, _) => self.asked + 1,
                (false, true) => 1,
                (false, false) => 0,
            };
            if self.asked < ASK.len() {
                continue;
            }
            self.asked = 0;
            // A machine that is about to answer does not take a second request.
            if self.outbox.is_empty() {
                if self.owes_terminator {
                    self.owes_terminator = false;
                    self.outbox.push_back((now, Outgoing::LateTerminator));
                }
                self.outbox.push_back((now.after(THINKING), Outgoing::Answer));
            }
        }
    }

    fn transmit(&mut self, now: Tick) -> Option<Transmission> {
        self.advance(now);
        let (_, outgoing) = self.outbox.pop_front_if(|(due, _)| *due <= now)?;
        Some(match outgoing {
            Outgoing::LateTerminator => Transmission { bytes: b"\r\n".to_vec(), screen: None },
            Outgoing::Answer => self.answer(),
        })
    }

    fn wake(&self) -> Option<Tick> {
        self.outbox.front().map(|(due, _)| *due)
    }

    fn screen(&self) -> Screen {
        let reading = |item: &Item| (ChannelId::from_static(item.id), write(item, self.shown(item)).1);
        self.table.items.iter().map(reading).collect()
    }

    fn act(&mut self, now: Tick, act: Act) {
        self.advance(now);
        match act {
            Act::StartTreatment => {
                self.phase = Phase::Treating;
                self.treated = 0;
            }
            Act::EndTreatment => self.phase = Phase::Ended,
            Act::Rinse => {
                self.phase = Phase::Rinsing;
                self.treated = 0;
            }
            Act::MeasureBloodPressure { systolic, diastolic, pulse } => {
                let count = self.cuff.map_or(0, |cuff| cuff.count).wrapping_add(1);
                self.cuff = Some(Cuff { count, at: now, systolic, diastolic, pulse });
            }
            Act::VenousPressureAlarm(switch) => self.venous_alarm = switch,
        }
    }
}

impl Settings {
    fn draw(seed: u64) -> Self {
        let mut random = Random::new(mix(seed));
        let mut between =
            |low: u32, high: u32, step: u32| i64::from(low + random.below((high - low) / step + 1) * step);
        let venous_pressure = between(110_000, 170_000, 1_000);
        let substitution_rate = if between(0, 3, 1) == 0 { between(4_000, 6_000, 100) } else { 0 };
        Self {
            uf_goal: between(1_500, 3_500, 100),
            uf_rate: between(400, 900, 10),
            blood_flow: between(200_000, 320_000, 10_000),
            syringe_rate: between(0, 3_000, 500),
            temperature: between(36_000, 37_000, 100),
            conductivity: between(13_800, 14_300, 100),
            venous_pressure,
            dialysate_pressure: between(40_000, 90_000, 1_000),
            substitution_rate,
            substitution_goal: substitution_rate * 4,
        }
    }
}

/// The columns of an item, and what they read as.
fn write(item: &Item, shown: Shown) -> (String, Reading) {
    match shown {
        Shown::Thousandths(thousandths) => number(item, thousandths),
        Shown::Digit(digit) => {
            let raw = u32::from(digit);
            let names = if let ChannelKind::Code(names) = item.kind { names } else { &[] };
            let name = names.iter().find(|(code, _)| *code == raw).map(|(_, name)| *name);
            (format!("{digit}"), Reading::Code { raw, name })
        }
        Shown::Token(token) => {
            let reading = Mark::of_token(token.as_bytes()).map_or(Reading::Absent, Reading::Mark);
            (token, reading)
        }
        Shown::Text(text) => {
            let reading = Reading::Text(Sensitive::new(text.clone()));
            (text, reading)
        }
        Shown::Nothing => (String::from(item.example), Reading::Absent),
    }
}

/// A number in the shape of the item's example: as many decimals, and a sign column where the example has one.
fn number(item: &Item, thousandths: i64) -> (String, Reading) {
    let decimals = match item.example.split_once('.') {
        Some((_, behind)) => behind.len(),
        None => 0,
    };
    let point = usize::from(decimals > 0);
    let sign = match (thousandths < 0, item.example.starts_with(' ')) {
        (true, _) => "-",
        (false, true) => " ",
        (false, false) => "",
    };
    let columns = item.width - point - sign.len();
    let power = |count: usize| (0..count).fold(1_i64, |power, _| power * 10);
    // Rounded towards zero, and never wider than its columns.
    let magnitude = (thousandths.abs() * power(decimals) / 1000).min(power(columns) - 1);
    let (whole, behind) = (magnitude / power(decimals), magnitude % power(decimals));
    let text = match decimals {
        0 => format!("{sign}{whole:0columns$}"),
        _ => format!("{sign}{whole:0wide$}.{behind:0decimals$}", wide = columns - decimals),
    };
    let mantissa = if thousandths < 0 { -magnitude } else { magnitude };
    let scale = u8::try_from(decimals).unwrap_or(0);
    (text, Decimal::new(mantissa, scale).map_or(Reading::Absent, Reading::Number))
}

fn to_thousandths(whole: u64) -> i64 {
    to_i64(whole).saturating_mul(1000)
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
