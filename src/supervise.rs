//! Starts, restarts and stops tasks in waves.
