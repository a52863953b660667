//! All that is `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicU64};

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

/// Watches a socket.
///
/// # Errors
/// The runtime can't watch it.
pub fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has one descriptor for its whole life and closes it at the end.
    let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
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

/// For so many seconds the kernel keeps a connection of which nothing has come yet
/// (`TCP_DEFER_ACCEPT`).
///
/// # Errors
/// The kernel's.
pub fn defer_accept(listener: impl AsFd, seconds: libc::c_int) -> io::Result<()> {
    let listener = listener.as_fd().as_raw_fd();
    let length = size_of_val(&seconds) as libc::socklen_t;
    let value = std::ptr::from_ref(&seconds).cast();
    // SAFETY: the kernel reads one int, which lives until then.
    let set = unsafe {
        libc::setsockopt(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Memory that is a file's, for as long as this process lives: `length` bytes, which the file has.
///
/// # Errors
/// The kernel's.
pub fn map(file: impl AsFd, length: usize) -> io::Result<&'static [AtomicU8]> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, where the kernel has room; it is never taken away. Whoever else has the
    // file may write to it at any time, which is what atomics are for; that the file gets no shorter
    // is the caller's promise.
    unsafe {
        let memory = mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0)?;
        Ok(std::slice::from_raw_parts(memory.cast(), length))
    }
}

/// Memory that this process has in common with those that are cloned from it, for as long as they live:
/// so many numbers, all 0.
///
/// # Errors
/// The kernel's.
pub fn shared(count: usize) -> io::Result<&'static [AtomicU64]> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    let length = count * size_of::<AtomicU64>();
    // SAFETY: a new mapping, where the kernel has room, on a page's boundary; it is never taken away.
    // Whoever else has it may write to it at any time, which is what atomics are for.
    unsafe {
        let memory =
            mmap_anonymous(std::ptr::null_mut(), length, access, flags | MapFlags::NORESERVE)?;
        Ok(std::slice::from_raw_parts(memory.cast(), count))
    }
}

/// Owns a descriptor that was handed over, and that nobody else in this process has; no worker
/// inherits it.
///
/// # Errors
/// It is none.
pub fn own(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: whoever calls this has taken it from the list of those that were handed over, where
    // each is once.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Which of the two a process is that was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The one that was there.
    Parent,
    /// The new one.
    Child,
}

/// Doubles this process. Its child is nobody's to wait for but the system's.
///
/// # Errors
/// The kernel's.
pub fn fork() -> rustix::io::Result<Forked> {
    use rustix::io::Errno;
    use rustix::process::{Pid, WaitOptions, waitpid};
    // SAFETY: of several threads only this one is in the child, where what the others have locked stays
    // locked. Whoever calls this has seen that they sleep: those that wait for work hold no lock, and
    // the child gives them none.
    let fork = || match unsafe { libc::fork() } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        child => Ok(Pid::from_raw(child)),
    };
    let Some(child) = fork()? else {
        // Between the two: its end makes the system the parent of its child.
        return match fork() {
            Ok(None) => Ok(Forked::Child),
            Ok(Some(_)) | Err(_) => end(),
        };
    };
    waitpid(Some(child), WaitOptions::empty())?;
    Ok(Forked::Parent)
}

/// Doubles this process, but for its table of descriptors, which both have. The child does what it has
/// to and ends; no signal reaches it but SIGKILL. To be waited for by the caller.
///
/// What the child does must neither allocate nor lock nor panic: another thread may have been in the
/// middle of that.
///
/// # Errors
/// The kernel's.
pub fn double_with_descriptors(child: impl FnOnce()) -> io::Result<rustix::process::Pid> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let none = 0 as libc::c_long;
    // SAFETY: the sets are written before they are read. Without CLONE_VM the child has a copy of this
    // stack and goes on with it, as behind fork(2), of which this is the plain system call; it never
    // returns from here. No handler runs between the two masks.
    let pid = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
        let pid = libc::syscall(libc::SYS_clone, flags, none, none, none, none);
        if pid == 0 {
            child();
            libc::_exit(0);
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Ends a child of [`fork`]: nothing that it has a copy of is cleaned up.
pub fn end() -> ! {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(0) }
}
