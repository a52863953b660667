//! Which sockets a worker's processes have open, asked of the kernel.
//!
//! `/proc/PID/fd` rather than sock_diag: it knows every kind of socket, names the descriptor that a
//! socket can be borrowed by, and needs no netlink. The cgroup that sock_diag filters by is of no
//! use here: a socket belongs to that of the process that accepted it, which is ours.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// Where a socket is open.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    process: Pid,
    /// Its number there.
    pub descriptor: RawFd,
}

impl Place {
    /// One in this process.
    #[cfg(test)]
    pub fn of_ours(descriptor: RawFd) -> Place {
        Place { process: rustix::process::getpid(), descriptor }
    }
}

/// The sockets of these processes, by inode.
pub fn sockets(processes: &[Pid]) -> HashMap<u64, Place> {
    let mut sockets = HashMap::new();
    for &process in processes {
        let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
        // It may have ended.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let inode = inode(&target);
            let descriptor = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(inode), Some(descriptor)) = (inode, descriptor) {
                sockets.insert(inode, Place { process, descriptor });
            }
        }
    }
    sockets
}

/// The inode of a process's socket.
pub fn socket(process: Pid, descriptor: RawFd) -> Option<(u64, Place)> {
    let target = fs::read_link(format!("/proc/{}/fd/{descriptor}", process.as_raw_nonzero()));
    Some((inode(&target.ok()?)?, Place { process, descriptor }))
}

fn inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A descriptor of our own for a socket that a worker has open.
///
/// # Errors
/// It is not open there any more, or we may not (pidfd_getfd(2)).
pub fn borrow(inode: u64, place: Place) -> io::Result<OwnedFd> {
    let process = rustix::process::pidfd_open(place.process, PidfdFlags::empty())?;
    let socket = rustix::process::pidfd_getfd(process, place.descriptor, PidfdGetfdFlags::empty())?;
    // The number may be another file's by now.
    if rustix::fs::fstat(&socket)?.st_ino == inode {
        Ok(socket)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}
