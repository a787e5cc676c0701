//! One line, one driver and one clock in one loop. Knows no protocol.
