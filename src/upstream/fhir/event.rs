//! What happened besides readings: alarm edges, gaps, evictions.

use super::codes::{self, Absent};
use super::encode::{Part, Scene};
use super::instant;
use super::r4::{CodeableConcept, Coding, Observation, ObservationComponent, Quantity, Reference, Resource};
use crate::model::alarm::{AlarmEdge, Phase};
use crate::model::parameter::Parameter;
use crate::model::time::{ClockTrust, Timestamp};
use crate::model::unit::Unit;
use crate::model::value::Doubts;
use crate::privacy::record::{Gap, GapCause, LossCause, Tombstone};
use chairside_drivers::kit::decimal::Decimal;

const ALERT_SOURCE: (u32, &str) = (68_480, "MDC_ATTR_ALERT_SOURCE");
const EVENT_PHASE: (u32, &str) = (68_481, "MDC_ATTR_EVENT_PHASE");
const ALARM_STATE: (u32, &str) = (68_482, "MDC_ATTR_ALARM_STATE");

impl Scene<'_> {
    /// One edge of an alarm. The machine names neither direction nor priority, so neither is written.
    pub(super) fn alarm(&mut self, edge: AlarmEdge) -> Vec<Part> {
        let own = &self.encoder.own;
        let row = edge.alarm.row();
        let mut component = vec![coded(codes::mdc(EVENT_PHASE), phase(own, edge.phase))];
        component.push(match edge.phase {
            Phase::Start => coded(codes::mdc(ALARM_STATE), worded("active")),
            Phase::End => coded(codes::mdc(ALARM_STATE), worded("inactive")),
            Phase::EndConnectionLost
            | Phase::EndTreatmentChanged
            | Phase::EndGatewayDown
            | Phase::Chattering { .. } => unknown(codes::mdc(ALARM_STATE)),
        });
        component.extend(
            row.source
                .map(|source| coded(codes::mdc(ALERT_SOURCE), CodeableConcept::from(codes::mdc(source)))),
        );
        let raw = format!("machine-alarm/{}", self.origin().model.as_str());
        component.push(coded(
            own.code("event", "machine-code").display("the machine's own code of the alarm"),
            own.code(&raw, edge.raw.to_string()).into(),
        ));
        if let Phase::Chattering { edges } = edge.phase {
            component.push(counted(own.code("event", "edges").display("edges counted"), u64::from(edges)));
        }
        let code = own.alarm(edge.alarm);
        let category = own.code("observation-category", "device-alarm").display("alarm of the machine");
        let device = match source_parameter(edge) {
            Some(parameter) => self.metric_or_machine(parameter),
            None => self.machine(),
        };
        let occurrence = self.ids.alarm_occurrence(&self.origin().machine, row.number, edge.occurrence);
        let mut it = self.observation(0, code, Doubts::NONE);
        it.identifier.push(self.encoder.identifier("alarm-occurrence", occurrence));
        it.category = vec![category.into()];
        it.device = device;
        it.component = component;
        only(it)
    }

    /// Poll slots nobody can fill any more: about the machine, never about a patient.
    pub(super) fn gap(&mut self, gap: Gap) -> Vec<Part> {
        let (cause, display, absent) = match gap.cause {
            GapCause::MachineSilent => {
                ("machine-silent", "the machine did not answer", Absent::TemporarilyUnknown)
            }
            GapCause::AnswerFaulty => ("answer-faulty", "the machine's answer did not hold", Absent::Error),
            GapCause::LineDown => ("line-down", "the cable or the adapter was gone", Absent::Error),
            GapCause::GatewayDown => ("gateway-down", "the gateway was not running", Absent::NotPerformed),
            GapCause::Unkept => {
                ("not-kept", "the gateway was cut off before it had kept the answers", Absent::Error)
            }
            GapCause::LostInStore => ("lost-in-store", "the gateway's store lost them", Absent::Error),
        };
        let own = &self.encoder.own;
        let code = own.code("event", "gap").display("readings that nobody can fill any more");
        let component = vec![
            coded(
                own.code("event", "cause").display("cause"),
                own.code("event", cause).display(display).into(),
            ),
            counted(own.code("event", "slots").display("polls missing"), u64::from(gap.slots)),
        ];
        self.loss(code, (gap.from, gap.to), absent, component)
    }

    /// Records that left the spool undelivered.
    pub(super) fn evicted(&mut self, tombstone: Tombstone) -> Vec<Part> {
        let own = &self.encoder.own;
        let (code, cause) = match tombstone.cause {
            LossCause::StoreFull => (
                own.code("event", "evicted").display("records removed before they were delivered"),
                own.code("event", "store-full").display("the gateway's store was full"),
            ),
            LossCause::StoreDamaged => (
                own.code("event", "lost")
                    .display("records lost before they were delivered, of any of the chairs"),
                own.code("event", "store-damaged").display("the gateway's store was damaged"),
            ),
        };
        let component = vec![
            coded(own.code("event", "cause").display("cause"), cause.into()),
            counted(own.code("event", "records").display("records gone"), tombstone.records),
        ];
        self.loss(code, (tombstone.from, tombstone.to), Absent::Error, component)
    }

    fn loss(
        &mut self,
        code: Coding,
        (from, to): (Timestamp, Timestamp),
        absent: Absent,
        component: Vec<ObservationComponent>,
    ) -> Vec<Part> {
        // Whoever was being treated, what is missing is the machine's.
        self.seated = None;
        let text = code.display.clone();
        let device = self.machine();
        let mut it = self.observation(0, CodeableConcept { coding: vec![code], text }, Doubts::NONE);
        let to = match self.origin().clock {
            ClockTrust::Between { until } => until.max(to),
            ClockTrust::Trusted | ClockTrust::Untrusted | ClockTrust::Retimed => to,
        };
        it.effective_date_time = None;
        it.effective_period = instant::period(Some(from), Some(to), &self.encoder.zone);
        it.category = vec![codes::therapy()];
        it.data_absent_reason = Some(codes::absent(absent));
        it.interpretation.clear();
        it.device = device;
        it.component = component;
        only(it)
    }

    fn machine(&mut self) -> Option<Reference> {
        self.need_device();
        self.encoder.device_reference(self.ids, &self.origin().machine)
    }
}

fn only(it: Observation) -> Vec<Part> {
    vec![Part { number: 0, draft: Resource::Observation(Box::new(it)).into() }]
}

fn phase(own: &codes::Own, phase: Phase) -> CodeableConcept {
    let (code, text) = match phase {
        Phase::Start => ("start", "start"),
        Phase::End => ("end", "end"),
        Phase::EndConnectionLost => ("end-connection-lost", "ended by the gateway: connection lost"),
        Phase::EndTreatmentChanged => {
            ("end-treatment-changed", "ended by the gateway: a treatment began or ended")
        }
        Phase::EndGatewayDown => ("end-gateway-down", "ended by the gateway: it was not running"),
        Phase::Chattering { .. } => ("chattering", "more than six edges in ten minutes"),
    };
    CodeableConcept::from(own.code("alarm-phase", code)).text(text)
}

fn worded(text: &'static str) -> CodeableConcept {
    CodeableConcept { coding: Vec::new(), text: Some(text.into()) }
}

/// The parameter an alarm is about, where it is about one that machines measure.
fn source_parameter(edge: AlarmEdge) -> Option<Parameter> {
    let (source, _) = edge.alarm.row().source?;
    Parameter::all().find(|parameter| parameter.row().mdc.is_some_and(|(code, _)| code == source))
}

fn coded(code: Coding, value: CodeableConcept) -> ObservationComponent {
    ObservationComponent {
        code: code.into(),
        value_quantity: None,
        value_codeable_concept: Some(value),
        data_absent_reason: None,
    }
}

fn unknown(code: Coding) -> ObservationComponent {
    ObservationComponent {
        code: code.into(),
        value_quantity: None,
        value_codeable_concept: None,
        data_absent_reason: Some(codes::absent(Absent::TemporarilyUnknown)),
    }
}

fn counted(code: Coding, count: u64) -> ObservationComponent {
    let count = Decimal::whole(i64::try_from(count).unwrap_or(i64::MAX));
    ObservationComponent {
        code: code.into(),
        value_quantity: Some(Quantity::ucum(count, Unit::One.ucum())),
        value_codeable_concept: None,
        data_absent_reason: None,
    }
}
