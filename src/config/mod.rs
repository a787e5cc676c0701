//! What clinic IT edits, read whole or refused whole: raw text, checks, checked settings.

pub mod device_map;
pub mod settings;
