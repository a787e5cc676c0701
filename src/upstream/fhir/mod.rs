//! FHIR R4 over mutual TLS: pure encoders, and the client that writes what they render.

mod codes;
mod device;
pub mod encode;
mod event;
mod ids;
mod instant;
mod observation;
mod procedure;
pub mod r4;

#[cfg(test)]
pub(crate) mod testing;
