//! What is refused before any connection, and what a failed one means.
