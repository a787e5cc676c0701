//! One file per subcommand; this one is the command tree.
