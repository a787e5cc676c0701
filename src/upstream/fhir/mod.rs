//! FHIR R4 over mutual TLS: pure encoders, and the client that writes what they render.

pub mod client;
mod codes;
mod courier;
mod desk;
mod device;
pub mod draft;
pub mod encode;
mod event;
mod gzip;
mod history;
mod ids;
mod instant;
mod link;
mod observation;
mod pace;
mod procedure;
pub mod r4;
mod refusals;
pub mod status;
mod stencil;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
