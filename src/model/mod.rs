//! What a dialysis machine can say, in one vocabulary: parameters, values, alarms. Pure data and pure functions.

pub mod alarm;
pub mod name;
pub mod parameter;
mod parameter_table;
pub mod time;
pub mod unit;
pub mod value;
