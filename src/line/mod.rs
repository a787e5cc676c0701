//! Serial ports: open, lock, reopen, gate. The only place that opens a tty.
