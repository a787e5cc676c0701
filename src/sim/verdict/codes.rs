//! What the codes of an Observation mean, read the way a receiver would: from the published systems and the namespace.

use crate::model::parameter::Parameter;
use std::collections::HashMap;

const MDC: &str = "urn:iso:std:iso:11073:10101";
const BLOOD_PRESSURE: &str = "http://loinc.org|85354-9";

/// What an Observation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Parameter(Parameter),
    /// The panel of one blood pressure.
    Cuff,
    Alarm,
    /// A gap or another event of the gateway.
    Event,
    Unknown,
}

/// Every code there is.
pub(super) struct Meanings {
    parameters: HashMap<String, Parameter>,
    namespace: String,
}

impl Meanings {
    pub(super) fn new(namespace: &str) -> Self {
        let code = |parameter: Parameter| match parameter.row().mdc {
            Some((code, _)) => format!("{MDC}|{code}"),
            None => format!("{namespace}/parameter|{}", parameter.key()),
        };
        let parameters = Parameter::all().map(|parameter| (code(parameter), parameter)).collect();
        Self { parameters, namespace: namespace.to_owned() }
    }

    /// The meaning of a concept, given as all its codings.
    pub(super) fn of(&self, codes: &str) -> Meaning {
        let own = |coding: &str, system: &str| {
            coding.strip_prefix(&self.namespace).is_some_and(|rest| rest.starts_with(system))
        };
        let meanings = codes.split(' ').map(|coding| match self.parameters.get(coding) {
            _ if coding == BLOOD_PRESSURE => Meaning::Cuff,
            _ if own(coding, "/alarm|") => Meaning::Alarm,
            _ if own(coding, "/event|") => Meaning::Event,
            Some(parameter) => Meaning::Parameter(*parameter),
            None => Meaning::Unknown,
        });
        meanings
            .reduce(|one, other| if one == Meaning::Unknown { other } else { one })
            .unwrap_or(Meaning::Unknown)
    }

    /// Whether a code is this name of this state.
    pub(super) fn is_state(&self, code: &str, parameter: Parameter, name: &str) -> bool {
        code == format!("{}/state/{}|{name}", self.namespace, parameter.key())
    }

    /// The phase of an alarm edge, where a code is one.
    pub(super) fn alarm_phase<'a>(&self, code: &'a str) -> Option<&'a str> {
        code.strip_prefix(&self.namespace)?.strip_prefix("/alarm-phase|")
    }
}
