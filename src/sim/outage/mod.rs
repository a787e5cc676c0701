//! An outage played ahead of time: a ward that lives faster than any clock, a receiver that only counts, and the
//! rehearsal that leads them through what an outage brings.

pub mod oracle;
pub mod tally;
pub mod ward;
