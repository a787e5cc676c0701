//! The control socket: how commands speak to the running daemon.
