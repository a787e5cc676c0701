//! Readings of a kind are alike but for a few words. The first one is rendered and cut into a stencil; the ones after it are
//! filled in, so that what a resource looks like is said in one place and still costs no more than copying it.

use super::draft::{Draft, Entry};
use super::encode::{Scene, Standing};
use super::instant;
use super::r4::{BatchEntry, Decimal, Observation, Reference, Resource, ResourceType};
use crate::model::parameter::Parameter;
use crate::model::time::ClockTrust;
use crate::model::value::{Reading, Value};
use chairside_drivers::kit::decimal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The stencils of one receiver. They hold nothing of any machine, patient or time, so there are only as many as there are
/// kinds of readings.
#[derive(Clone, Debug, Default)]
pub(super) struct Stencils(Arc<Mutex<HashMap<Shape, Option<Arc<Stencil>>>>>);

/// All that decides what a reading looks like, besides what is filled in and the settings of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    parameter: Parameter,
    shown: Shown,
    doubts: u16,
    is_seated: bool,
    is_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shown {
    Number,
    State(&'static str),
    UnknownState,
    Absent,
}

/// What the readings of one record have in common, as JSON.
pub(super) struct Common {
    at: String,
    part_of: Option<String>,
    subject: String,
}

impl Scene<'_> {
    /// What the readings of this record have in common; `None` where they are rendered one by one: what is taken back, and
    /// what has a time that needs words.
    pub(super) fn common(&mut self) -> Option<Common> {
        if self.standing != Standing::Valid || self.origin().clock != ClockTrust::Trusted {
            return None;
        }
        let at = instant::date_time(self.at(), &self.encoder.zone)?;
        self.need_patient();
        let part_of = self.need_procedure().map(|id| Reference::literal(ResourceType::Procedure, id));
        let part_of = part_of.as_ref().map(serde_json::to_string).transpose().ok()?;
        Some(Common { at, part_of, subject: serde_json::to_string(&self.subject()).ok()? })
    }

    /// One reading.
    pub(super) fn reading(&mut self, number: u16, value: &Value, common: Option<&Common>) -> Draft {
        let filled_in = common.and_then(|common| self.filled_in(number, value, common));
        filled_in.unwrap_or_else(|| Draft::from(self.single(number, value)))
    }

    fn filled_in(&mut self, number: u16, value: &Value, common: &Common) -> Option<Draft> {
        if matches!(value.reading, Reading::Number(number) if number.mantissa() == NUMBER) {
            return None;
        }
        let device = self.metric_or_machine(value.parameter);
        let filling = Filling {
            id: self.observation_id(number).to_string(),
            common,
            device: device.as_ref().map(serde_json::to_string).transpose().ok()?,
            number: match value.reading {
                Reading::Number(number) => Some(number.to_string()),
                Reading::State(_) | Reading::UnknownState | Reading::Absent => None,
            },
        };
        let shape = Shape {
            parameter: value.parameter,
            shown: match value.reading {
                Reading::Number(_) => Shown::Number,
                Reading::State(name) => Shown::State(name),
                Reading::UnknownState => Shown::UnknownState,
                Reading::Absent => Shown::Absent,
            },
            doubts: value.doubts.bits(),
            is_seated: self.seated.is_some(),
            is_test: self.is_test(),
        };
        let encoder = self.encoder;
        let stencil = encoder.stencils.of(shape, || Stencil::cut(self.single(number, value), &filling))?;
        let text = stencil.fill(&filling);
        Some(Draft::Entry(Entry { id: filling.id, text }))
    }
}

impl Stencils {
    /// The stencil of this shape, cut when it is wanted for the first time; `None` where there can be none.
    fn of(&self, shape: Shape, cut: impl FnOnce() -> Option<Stencil>) -> Option<Arc<Stencil>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(shape).or_insert_with(|| cut().map(Arc::new)).clone()
    }
}

/// An entry of a batch with holes in it.
#[derive(Debug)]
struct Stencil {
    /// Text, each with the hole behind it.
    pieces: Vec<(Box<str>, Hole)>,
    end: Box<str>,
}

#[derive(Clone, Copy, Debug)]
enum Hole {
    Id,
    At,
    PartOf,
    Subject,
    Device,
    Number,
}

/// What stands in the holes while a stencil is cut: no reading has the like of it.
const ID: &str = "\u{e000}";
const AT: &str = "\u{e001}";
const PART_OF: &str = "\u{e002}";
const SUBJECT: &str = "\u{e003}";
const DEVICE: &str = "\u{e004}";
const NUMBER: i64 = i64::MIN;

/// Each hole, and its mark as JSON.
const HOLES: [(Hole, &str); 6] = [
    (Hole::Id, ID),
    (Hole::At, AT),
    (Hole::PartOf, "{\"reference\":\"\u{e002}\"}"),
    (Hole::Subject, "{\"reference\":\"\u{e003}\"}"),
    (Hole::Device, "{\"reference\":\"\u{e004}\"}"),
    (Hole::Number, "-9223372036854775808"),
];

/// What goes into the holes of one reading.
struct Filling<'a> {
    id: String,
    common: &'a Common,
    device: Option<String>,
    number: Option<String>,
}

impl Filling<'_> {
    fn of(&self, hole: Hole) -> &str {
        match hole {
            Hole::Id => &self.id,
            Hole::At => &self.common.at,
            Hole::PartOf => self.common.part_of.as_deref().unwrap_or_default(),
            Hole::Subject => &self.common.subject,
            Hole::Device => self.device.as_deref().unwrap_or_default(),
            Hole::Number => self.number.as_deref().unwrap_or_default(),
        }
    }
}

impl Stencil {
    /// Out of a resource and what was filled into it. One that does not give back what it was cut from is none.
    fn cut(resource: Resource, filling: &Filling<'_>) -> Option<Self> {
        let whole = serde_json::to_string(&BatchEntry::put(&resource)).ok()?;
        let Resource::Observation(observation) = resource else { return None };
        let marked = Resource::Observation(Box::new(marked(*observation)));
        let stencil = Self::at_marks(&serde_json::to_string(&BatchEntry::put(&marked)).ok()?);
        (stencil.fill(filling) == whole).then_some(stencil)
    }

    fn at_marks(mut text: &str) -> Self {
        let mut pieces = Vec::new();
        while let Some((before, hole, behind)) = first_hole(text) {
            pieces.push((before.into(), hole));
            text = behind;
        }
        Self { pieces, end: text.into() }
    }

    fn fill(&self, filling: &Filling<'_>) -> String {
        let filled = self.pieces.iter().map(|(before, hole)| before.len() + filling.of(*hole).len());
        let mut text = String::with_capacity(filled.sum::<usize>() + self.end.len());
        for (before, hole) in &self.pieces {
            text.push_str(before);
            text.push_str(filling.of(*hole));
        }
        text.push_str(&self.end);
        text
    }
}

/// What is before the first hole, and what behind it.
fn first_hole(text: &str) -> Option<(&str, Hole, &str)> {
    let found = HOLES.iter().filter_map(|(hole, mark)| {
        let (before, behind) = text.split_once(mark)?;
        Some((before, *hole, behind))
    });
    found.min_by_key(|(before, ..)| before.len())
}

/// The same with a mark wherever something is filled in.
fn marked(it: Observation) -> Observation {
    let mark = |mark: &'static str| Reference { reference: Some(mark.into()), ..Reference::default() };
    let mut it = Observation {
        id: ID.to_owned(),
        effective_date_time: it.effective_date_time.map(|_| AT.to_owned()),
        part_of: it.part_of.iter().map(|_| mark(PART_OF)).collect(),
        subject: it.subject.map(|_| mark(SUBJECT)),
        device: it.device.map(|_| mark(DEVICE)),
        ..it
    };
    for identifier in &mut it.identifier {
        identifier.value = ID.into();
    }
    if let Some(quantity) = &mut it.value_quantity {
        quantity.value = Decimal(decimal::Decimal::whole(NUMBER));
    }
    it
}

#[cfg(test)]
mod tests;
