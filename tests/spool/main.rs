//! The spool on a real disk: killed, flipped, cut off, and watched while it makes its system calls.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what must hold in the shortest way"
)]

mod calls;
mod flips;
mod kills;
mod spool;
