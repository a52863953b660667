//! systemd's file descriptor store: what is in it is handed to the service's next main process, by
//! name, however this one ends (sd_notify(3), `FDSTORE=1`).
//!
//! A socket whose other end is closed, and the pidfd of a process that has ended, leave it by
//! themselves.

use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// Puts a copy of a descriptor there. systemd takes no name twice for two files: what is stored
/// again is there once.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor]) {
        tracing::warn!(%error, name, "systemd does not keep a descriptor");
    }
}

/// Takes it out again.
pub fn remove(name: &str) {
    let state = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify(&state) {
        tracing::debug!(%error, name, "systemd still keeps a descriptor");
    }
}
