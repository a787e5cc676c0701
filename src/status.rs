//! The live state of chairs, spool and upstreams, for `status`.
