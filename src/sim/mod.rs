//! A simulated clinic for `demo` and tests, built on the drivers' simulators.
