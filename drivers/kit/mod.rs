//! What every driver is built from: checked reading, exact numbers, time as an argument.

pub mod bytes;
pub mod checksum;
pub mod decimal;
pub mod driver;
pub mod noise;
pub mod random;
pub mod sensitive;
pub mod simulator;
pub mod time;
pub mod transcript;
