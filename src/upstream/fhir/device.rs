//! Device and DeviceMetric: the machine and what it measures. The machine's serial number is a quasi-identifier once
//! joined with a shift plan, so the keyed id is all that names it.

use super::codes;
use super::encode::Encoder;
use super::ids::Ids;
use super::r4::{Device, DeviceMetric, DeviceName, Identifier, Meta, Reference, Resource, ResourceType};
use crate::config::settings::ResourceKind;
use crate::model::name::MachineName;
use crate::model::parameter::Parameter;
use chairside_drivers::kit::driver::ModelId;

const MACHINE: (u32, &str) = (70_929, "MDC_DEV_HDIALY_MACHINE_MDS");

impl Encoder {
    pub(super) fn device(
        &self,
        ids: Ids<'_>,
        machine: &MachineName,
        model: &ModelId,
        meta: Meta,
    ) -> Resource {
        let id = ids.device(machine);
        let maker = chairside_drivers::find(model.as_str());
        Resource::Device(Device {
            resource_type: ResourceType::Device,
            id: id.to_string(),
            meta,
            identifier: vec![self.device_identifier(ids, machine)],
            status: "active".into(),
            device_name: maker
                .map(|entry| DeviceName { name: entry.title.into(), of: "model-name".into() })
                .into_iter()
                .collect(),
            model_number: Some(model.as_str().to_owned().into()),
            of: super::r4::CodeableConcept {
                coding: vec![codes::mdc(MACHINE), codes::snomed("36965003", "Hemodialysis machine")],
                text: Some("dialysis machine".into()),
            },
        })
    }

    pub(super) fn metric(
        &self,
        ids: Ids<'_>,
        machine: &MachineName,
        parameter: Parameter,
        meta: Meta,
    ) -> Resource {
        let id = ids.metric(machine, parameter);
        let source = self.device_reference(ids, machine);
        Resource::DeviceMetric(DeviceMetric {
            resource_type: ResourceType::DeviceMetric,
            id: id.to_string(),
            meta,
            identifier: vec![self.identifier("metric", id)],
            of: self.own.parameter(parameter),
            unit: parameter.row().unit.map(|unit| codes::unit(unit).into()),
            source: source.clone(),
            parent: source,
            operational_status: "on".into(),
            category: codes::metric_category(parameter).into(),
        })
    }

    /// The machine as a reference; left out where the receiver takes no Device.
    pub(super) fn device_reference(&self, ids: Ids<'_>, machine: &MachineName) -> Option<Reference> {
        let written = self.writes(ResourceKind::Device);
        written.then(|| Reference::literal(ResourceType::Device, ids.device(machine)))
    }

    /// The machine's keyed identifier.
    pub(super) fn device_identifier(&self, ids: Ids<'_>, machine: &MachineName) -> Identifier {
        self.identifier("device", ids.device(machine))
    }
}
