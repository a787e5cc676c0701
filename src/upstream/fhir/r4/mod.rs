//! The part of FHIR R4 (4.0.1) that chairside writes and reads, typed by ourselves.
//!
//! Own types instead of a general crate: decimals keep their digits, a list without members and a missing member are
//! never written (FHIR forbids empty arrays and nulls), and the whole of it compiles in seconds.

mod bundle;
mod resources;
mod types;

pub use bundle::{
    BatchEntry, BatchRequest, BatchResponse, BatchResponseEntry, EntryResponse, Issue, OperationOutcome,
    batch,
};
pub use resources::{
    CapabilityStatement, Device, DeviceMetric, DeviceName, Observation, ObservationComponent, Patient,
    Procedure, Resource,
};
pub use types::{
    CodeableConcept, Coding, Decimal, Identifier, Meta, Period, Quantity, Reference, ResourceType, Text,
};
