//! A simulated clinic for `demo` and tests: machines on pseudo-terminals, a receiver with mutual TLS, throw-away keys.
//!
//! Nothing here is used by the daemon, and everything it makes says that it is a test.

pub mod demo;
pub mod holdings;
pub mod outage;
pub mod pki;
pub mod receiver;
pub mod report;
pub mod resource;
pub mod scenario;
pub mod stage;
pub mod terminal;
pub mod verdict;
pub mod ward;
