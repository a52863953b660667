//! All that is `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use landlock::RulesetCreated;
use rustix::ioctl::{Getter, Opcode, ioctl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The command's process enters a cgroup, whose `cgroup.procs` this is, before its program runs:
/// everything that it ever starts is in there too.
pub fn enter_cgroup(command: &mut Command, procs: OwnedFd) {
    let enter = move || match rustix::io::write(&procs, b"0") {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from(error)),
    };
    // SAFETY: between fork and exec only write(2) is called, which is async-signal-safe; nothing
    // is allocated or locked.
    unsafe { command.pre_exec(enter) };
}

/// The command's process enters a Landlock domain of its own before its program runs, with everything
/// that it ever starts.
pub fn enter_domain(command: &mut Command, domain: RulesetCreated) {
    let mut domain = Some(domain);
    let enter = move || match domain.take().map(RulesetCreated::restrict_self) {
        Some(Err(_)) => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    };
    // SAFETY: between fork and exec only system calls are made (prctl(2), those of Landlock, close(2));
    // nothing is allocated or locked.
    unsafe { command.pre_exec(enter) };
}

/// Watches a file of the kernel's that tells of changes as "exceptional" (`POLLPRI`).
///
/// # Errors
/// The runtime can't watch it.
pub fn watch_changes(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` has one descriptor for its whole life and closes it at the end.
    let watched = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
    watched.map_err(Into::into)
}

/// Watches a process, by its pidfd, which is readable when that has ended.
///
/// # Errors
/// The runtime can't watch it.
pub fn watch_process(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has one descriptor for its whole life and closes it at the end.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    watched.map_err(Into::into)
}

/// How many bytes of what was written to a stream socket its other end does not have yet.
///
/// # Errors
/// The kernel's.
pub fn unsent(socket: impl AsFd) -> io::Result<usize> {
    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode; // two names of one number
    // SAFETY: it gives one int.
    let unsent = unsafe { ioctl(socket, Getter::<SIOCOUTQ, libc::c_int>::new())? };
    Ok(usize::try_from(unsent).unwrap_or(0))
}
