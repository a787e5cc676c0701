//! The whole gateway at simulated machines: whose reading is it, and what never leaves the house.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may say what must hold in the shortest way")]

#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/pki.rs"]
mod pki;
#[path = "../support/receiver.rs"]
#[expect(dead_code, reason = "shared with the process tests")]
mod receiver;

mod patients;
mod privacy;
