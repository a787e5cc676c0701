//! The map of the house: how a reading travels from a dialysis machine to the patient's record.
//!
//! ```text
//! machine -- line --> drivers --> poll --> normalise --> privacy --> spool --> upstream --> FHIR server
//!            bytes    samples             captures      records     frames    resources
//! ```
//!
//! Each folder is one step; `gateway` wires them, `config` describes them, `cli` starts them.

pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod disk;
pub mod exit;
pub mod gateway;
pub mod line;
pub mod model;
pub mod normalise;
pub mod poll;
pub mod privacy;
pub mod sim;
pub mod spool;
pub mod status;
pub mod supervise;
pub mod telemetry;
pub mod upstream;
