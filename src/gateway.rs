//! The wiring: settings become tasks. The only file that knows every module.
