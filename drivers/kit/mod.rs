//! What every driver is built from: checked reading, exact numbers, time as an argument.

pub mod decimal;
pub mod driver;
pub mod sensitive;
pub mod simulator;
pub mod time;
