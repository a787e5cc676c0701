//! Data types of FHIR R4, each with the members that chairside uses.

use chairside_drivers::kit::decimal;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// Text of a resource: mostly constants, so it is not copied.
pub type Text = Cow<'static, str>;

/// The types of resource that chairside writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResourceType {
    /// A machine.
    Device,
    /// One thing a machine measures.
    DeviceMetric,
    /// A patient, known by pseudonym only.
    Patient,
    /// A treatment.
    Procedure,
    /// A reading, an alarm edge, a gap.
    Observation,
}

impl ResourceType {
    /// The name in URLs and in `resourceType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "Device",
            Self::DeviceMetric => "DeviceMetric",
            Self::Patient => "Patient",
            Self::Procedure => "Procedure",
            Self::Observation => "Observation",
        }
    }
}

/// A number whose digits are the ones that were measured: `7.40` stays `7.40`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal(pub decimal::Decimal);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.scale() == 0 {
            return to.serialize_i64(self.0.mantissa());
        }
        let number: serde_json::Number = self.0.to_string().parse().map_err(S::Error::custom)?;
        number.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        decimal::Decimal::parse(number.as_str().as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

/// `Meta`: profiles claimed and labels carried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Profiles this resource claims to follow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Text>,
    /// Labels: pseudonymised, uncertain, test.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security: Vec<Coding>,
}

impl Meta {
    /// Whether it says nothing and is left out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.profile.is_empty() && self.security.is_empty()
    }
}

/// `Coding`: one code of one system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coding {
    /// Whose code it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Text>,
    /// The code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Text>,
    /// What it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display: Option<Text>,
}

impl Coding {
    /// A code of a system.
    #[must_use]
    pub fn new(system: impl Into<Text>, code: impl Into<Text>) -> Self {
        Self { system: Some(system.into()), code: Some(code.into()), display: None }
    }

    /// The same with its meaning in words.
    #[must_use]
    pub fn display(self, display: impl Into<Text>) -> Self {
        Self { display: Some(display.into()), ..self }
    }
}

/// `CodeableConcept`: codes for one meaning, and words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CodeableConcept {
    /// The codes, the most specific first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coding: Vec<Coding>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
}

impl From<Coding> for CodeableConcept {
    fn from(coding: Coding) -> Self {
        Self { coding: vec![coding], text: None }
    }
}

impl CodeableConcept {
    /// The same with words for people.
    #[must_use]
    pub fn text(self, text: impl Into<Text>) -> Self {
        Self { text: Some(text.into()), ..self }
    }
}

/// `Identifier`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identifier {
    /// Whose identifier it is.
    pub system: Text,
    /// The identifier.
    pub value: Text,
}

/// `Reference`: literal, or logical by identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// `Type/id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Text>,
    /// The type, where only an identifier is given.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub of: Option<ResourceType>,
    /// The identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<Identifier>,
}

impl Reference {
    /// `Type/id`.
    #[must_use]
    pub fn literal(of: ResourceType, id: uuid::Uuid) -> Self {
        Self { reference: Some(format!("{}/{id}", of.as_str()).into()), ..Self::default() }
    }

    /// By identifier: the receiver may know it, no resource is promised.
    #[must_use]
    pub fn logical(of: ResourceType, identifier: Identifier) -> Self {
        Self { reference: None, of: Some(of), identifier: Some(identifier) }
    }
}

/// `Quantity` in a UCUM unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantity {
    /// The number.
    pub value: Decimal,
    /// The unit for people.
    pub unit: Text,
    /// UCUM.
    pub system: Text,
    /// The UCUM code.
    pub code: Text,
}

impl Quantity {
    /// A number with a UCUM code.
    #[must_use]
    pub fn ucum(value: decimal::Decimal, code: &'static str) -> Self {
        let system = Text::Borrowed("http://unitsofmeasure.org");
        Self { value: Decimal(value), unit: code.into(), system, code: code.into() }
    }
}

/// `Period`; either end may be open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Period {
    /// Start, with zone offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// End, with zone offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_a_decimal_survive_both_ways() {
        for text in ["7.40", "142", "-0.05", "0.0", "9223372036854775807", "0.000000000000000001"] {
            let value = Decimal(decimal::Decimal::parse(text.as_bytes()).unwrap());
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_str::<Decimal>(&json).unwrap(), value);
        }
    }

    #[test]
    fn what_is_not_there_is_not_written() {
        assert_eq!(serde_json::to_string(&Meta::default()).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&CodeableConcept::default()).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&Reference::default()).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&Period::default()).unwrap(), "{}");
    }
}
