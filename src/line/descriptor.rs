//! The one way a descriptor of ours joins tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor.
#[expect(
    deprecated,
    reason = "its successor is `unsafe`, for descriptors that may change; an `OwnedFd` cannot"
)]
pub(crate) fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
}
