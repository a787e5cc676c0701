//! The live state of chairs, spool and upstreams, for `status`.

/// The board on the wall: every task writes its own state here, `status` and `demo` read it.
#[derive(Debug, Default)]
pub struct Board {}
