//! Reads an R4 resource the way a careful server does: what must be there, what may not stand together, and nothing more.

use crate::sim::holdings::{Key, Words};
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// The types the receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A machine.
    Device,
    /// What a machine measures.
    DeviceMetric,
    /// A pseudonym.
    Patient,
    /// A treatment.
    Procedure,
    /// A reading or an event.
    Observation,
}

/// Why an entry is refused: FHIR's issue type, and a sentence without any of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status of the entry.
    pub status: &'static str,
    /// A code of FHIR's `issue-type`.
    pub code: &'static str,
    /// In words.
    pub words: &'static str,
}

/// What a resource says, as far as it can be compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A machine.
    Device {
        /// `modelNumber`.
        model: Arc<str>,
    },
    /// What a machine measures.
    Metric {
        /// Its machine.
        source: Uuid,
        /// Its code.
        code: Codes,
    },
    /// A pseudonym.
    Patient {
        /// Its value.
        pseudonym: Arc<str>,
    },
    /// A treatment.
    Procedure {
        /// `in-progress`, `completed`, `entered-in-error`.
        status: Arc<str>,
        /// Whose.
        subject: Subject,
        /// On which machine.
        device: Option<Key>,
    },
    /// A reading or an event.
    Observation(Box<Observation>),
}

/// One Observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// `final`, `entered-in-error`.
    pub status: Arc<str>,
    /// What was observed.
    pub code: Codes,
    /// Of whom.
    pub subject: Subject,
    /// By what.
    pub device: Option<Key>,
    /// The treatment.
    pub part_of: Option<Uuid>,
    /// `effectiveDateTime` in milliseconds since 1970.
    pub at: Option<i64>,
    /// `effectivePeriod` in milliseconds since 1970.
    pub period: Option<(i64, i64)>,
    /// What was found.
    pub found: Found,
    /// Components: what, and what was found.
    pub components: Box<[(Codes, Found)]>,
}

/// All codings of a concept: `system|code`, separated by spaces.
pub type Codes = Arc<str>;

/// Who or what an Observation or a Procedure is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A patient, by pseudonym.
    Pseudonym(Arc<str>),
    /// Something that is held here.
    Resource(Key),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A number, digit for digit, and its UCUM code.
    Quantity(Box<str>, Arc<str>),
    /// A code.
    Code(Codes),
    /// No value, with the reason.
    Absent(Codes),
    /// Nothing: components say it.
    Nothing,
}

impl Kind {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "Device" => Self::Device,
            "DeviceMetric" => Self::DeviceMetric,
            "Patient" => Self::Patient,
            "Procedure" => Self::Procedure,
            "Observation" => Self::Observation,
            _ => return None,
        })
    }
}

impl Fault {
    const fn unprocessable(code: &'static str, words: &'static str) -> Self {
        Self { status: "422 Unprocessable Entity", code, words }
    }

    pub(super) const fn required(words: &'static str) -> Self {
        Self::unprocessable("required", words)
    }

    pub(super) const fn not_found(words: &'static str) -> Self {
        Self::unprocessable("not-found", words)
    }

    pub(super) const fn unsupported(words: &'static str) -> Self {
        Self { status: "405 Method Not Allowed", code: "not-supported", words }
    }

    const fn invalid(words: &'static str) -> Self {
        Self { status: "400 Bad Request", code: "invalid", words }
    }
}

impl Content {
    /// The resources it refers to.
    pub fn references(&self) -> impl Iterator<Item = Key> {
        let of_subject = |subject: &Subject| match subject {
            Subject::Resource(key) => Some(*key),
            Subject::Pseudonym(_) => None,
        };
        let references = match self {
            Self::Device { .. } | Self::Patient { .. } => [None, None, None],
            Self::Metric { source, .. } => [Some((Kind::Device, *source)), None, None],
            Self::Procedure { subject, device, .. } => [of_subject(subject), *device, None],
            Self::Observation(it) => {
                [of_subject(&it.subject), it.device, it.part_of.map(|id| (Kind::Procedure, id))]
            }
        };
        references.into_iter().flatten()
    }
}

/// The type and id of an entry; URL and resource must agree.
pub(super) fn key(url: &str, body: &Value) -> Result<Key, Fault> {
    let key = literal(url).ok_or(Fault::invalid("the URL is no type and UUID of a resource we take"))?;
    let named = |name: &str| body.get(name).and_then(Value::as_str);
    let (kind, id) = url.split_once('/').unwrap_or_default();
    if named("resourceType") != Some(kind) || named("id") != Some(id) {
        return Err(Fault::invalid("type or id of the resource are not those of the URL"));
    }
    Ok(key)
}

/// What the resource says.
pub(super) fn read(kind: Kind, body: &Value, words: &mut Words) -> Result<Content, Fault> {
    let security = body.pointer("/meta/security").and_then(Value::as_array);
    let is_test = |coding: &Value| coding.get("code").and_then(Value::as_str) == Some("HTEST");
    if !security.is_some_and(|labels| labels.iter().any(is_test)) {
        return Err(Fault::unprocessable(
            "security",
            "this receiver takes nothing that is not labelled HTEST",
        ));
    }
    match kind {
        Kind::Device => {
            body.get("type").ok_or(Fault::required("Device.type"))?;
            let model = text(body, "modelNumber").ok_or(Fault::required("Device.modelNumber"))?;
            Ok(Content::Device { model: words.keep(model) })
        }
        Kind::DeviceMetric => metric(body, words),
        Kind::Patient => {
            let pseudonym = body.pointer("/identifier/0/value").and_then(Value::as_str);
            Ok(Content::Patient {
                pseudonym: words.keep(pseudonym.ok_or(Fault::required("Patient.identifier"))?),
            })
        }
        Kind::Procedure => procedure(body, words),
        Kind::Observation => observation(body, words),
    }
}

fn metric(body: &Value, words: &mut Words) -> Result<Content, Fault> {
    text(body, "category").ok_or(Fault::required("DeviceMetric.category"))?;
    let code = codes(body.get("type"), words).ok_or(Fault::required("DeviceMetric.type"))?;
    match reference(body.get("source")) {
        Some((Kind::Device, source)) => Ok(Content::Metric { source, code }),
        _ => Err(Fault::required("DeviceMetric.source")),
    }
}

fn procedure(body: &Value, words: &mut Words) -> Result<Content, Fault> {
    let status = text(body, "status").ok_or(Fault::required("Procedure.status"))?;
    if !["in-progress", "completed", "entered-in-error"].contains(&status) {
        return Err(Fault::unprocessable("code-invalid", "Procedure.status"));
    }
    Ok(Content::Procedure {
        status: words.keep(status),
        subject: subject(body, words).ok_or(Fault::required("Procedure.subject"))?,
        device: reference(body.pointer("/usedReference/0")),
    })
}

fn observation(body: &Value, words: &mut Words) -> Result<Content, Fault> {
    let status = text(body, "status").ok_or(Fault::required("Observation.status"))?;
    if !["final", "entered-in-error"].contains(&status) {
        return Err(Fault::unprocessable("code-invalid", "Observation.status"));
    }
    let at = body.get("effectiveDateTime").map(|at| instant(Some(at))).transpose()?;
    let period = match body.get("effectivePeriod") {
        None => None,
        Some(period) => Some((instant(period.get("start"))?, instant(period.get("end"))?)),
    };
    if at.is_none() && period.is_none() {
        return Err(Fault::required("Observation.effective[x]"));
    }
    let components = match body.get("component") {
        None => Vec::new(),
        Some(list) => components(list, words)?,
    };
    let found = found(body, words)?;
    if found == Found::Nothing && components.is_empty() {
        return Err(Fault::required("Observation.value[x] or dataAbsentReason or component"));
    }
    Ok(Content::Observation(Box::new(Observation {
        status: words.keep(status),
        code: codes(body.get("code"), words).ok_or(Fault::required("Observation.code"))?,
        subject: subject(body, words).ok_or(Fault::required("Observation.subject"))?,
        device: reference(body.get("device")),
        part_of: reference(body.pointer("/partOf/0")).map(|(_, id)| id),
        at,
        period,
        found,
        components: components.into_boxed_slice(),
    })))
}

fn components(list: &Value, words: &mut Words) -> Result<Vec<(Codes, Found)>, Fault> {
    let list = list.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or(Fault::unprocessable("structure", "an empty list is not allowed"))?;
    let component = |component: &Value| {
        let code =
            codes(component.get("code"), words).ok_or(Fault::required("Observation.component.code"))?;
        Ok((code, found(component, words)?))
    };
    list.iter().map(component).collect()
}

fn found(body: &Value, words: &mut Words) -> Result<Found, Fault> {
    let quantity = body.get("valueQuantity");
    let concept = body.get("valueCodeableConcept");
    let absent = body.get("dataAbsentReason");
    match (quantity, concept, absent) {
        (None, None, None) => Ok(Found::Nothing),
        (Some(quantity), None, None) => {
            let digits =
                quantity.get("value").and_then(Value::as_number).ok_or(Fault::required("Quantity.value"))?;
            let unit = text(quantity, "code").ok_or(Fault::required("Quantity.code"))?;
            Ok(Found::Quantity(digits.to_string().into(), words.keep(unit)))
        }
        (None, Some(concept), None) => {
            // A concept may be words alone.
            let said =
                codes(Some(concept), words).or_else(|| text(concept, "text").map(|text| words.keep(text)));
            said.map(Found::Code).ok_or(Fault::required("CodeableConcept.coding or text"))
        }
        (None, None, Some(absent)) => {
            codes(Some(absent), words).map(Found::Absent).ok_or(Fault::required("dataAbsentReason.coding"))
        }
        _ => Err(Fault::unprocessable("invariant", "obs-6: one value, or the reason why there is none")),
    }
}

fn subject(body: &Value, words: &mut Words) -> Option<Subject> {
    let subject = body.get("subject")?;
    if let Some(key) = reference(Some(subject)) {
        return Some(Subject::Resource(key));
    }
    let value = subject.pointer("/identifier/value").and_then(Value::as_str)?;
    (text(subject, "type") == Some("Patient")).then(|| Subject::Pseudonym(words.keep(value)))
}

fn reference(reference: Option<&Value>) -> Option<Key> {
    literal(text(reference?, "reference")?)
}

fn literal(reference: &str) -> Option<Key> {
    let (kind, id) = reference.split_once('/')?;
    Some((Kind::from_name(kind)?, Uuid::parse_str(id).ok()?))
}

fn instant(at: Option<&Value>) -> Result<i64, Fault> {
    let text = at.and_then(Value::as_str).ok_or(Fault::required("a date-time"))?;
    let at: jiff::Timestamp = text.parse().map_err(|_| Fault::invalid("a date-time that is none"))?;
    Ok(at.as_millisecond())
}

fn codes(concept: Option<&Value>, words: &mut Words) -> Option<Codes> {
    let codings = concept?.get("coding")?.as_array()?;
    let coding = |coding: &Value| Some(format!("{}|{}", text(coding, "system")?, text(coding, "code")?));
    let all: Option<Vec<String>> = codings.iter().map(coding).collect();
    all.filter(|all| !all.is_empty()).map(|all| words.keep(&all.join(" ")))
}

fn text<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str)
}
