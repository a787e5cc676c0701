//! Append-only record of access, configuration and key events.
