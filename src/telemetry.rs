//! Logs to the journal or to stderr, with fields kept as fields.
