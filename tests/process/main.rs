//! The real binary: exit codes, signals, and `kill -9` at any instant.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may say what must hold in the shortest way")]

#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/pki.rs"]
mod pki;
#[path = "../support/receiver.rs"]
mod receiver;

mod damage;
mod delivery;
mod demo;
mod disk;
mod exits;
mod outage;
mod prompt;
mod slots;
mod spool;
mod starts;
mod ward;
