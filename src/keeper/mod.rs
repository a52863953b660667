//! Clients' connections outlive a cohortd that is killed, as long as nothing is under way on them.
//!
//! ```text
//! cohortd ── clone(CLONE_FILES) ──▶ keeper: sleeps, and has the same table of descriptors
//!   ╳ killed                          closes all but those connections
//! the next one ── asks ─────────────▶ passes them on, and ends
//! ```
//! A connection ends with the last process that has it. The keeper is a process that has what cohortd
//! has at any moment, from the very system call by which it is accepted; no other way is without a gap.
//! Its end of a socket pair stays with it, the other one is in systemd's care for whoever comes next.
//!
//! Whoever ends in order ends its keeper first: a process that ends does not close what another one has.

mod marks;
mod stay;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid,
};

pub use marks::{Mark, Marks};
use stay::Duty;

use crate::listen::Place;
use crate::sys;

/// A keeper says of a connection: nothing has been read of it,
pub const UNREAD: u8 = b'u';

/// or: all that was read of it has been answered.
pub const RESTS: u8 = b'r';

/// That was all.
pub const ALL: u8 = b'.';

/// It is asked to pass on what it has. Who was killed before all was passed on is followed by somebody
/// who asks again.
pub const ASK: u8 = b'?';

/// It is told that all has come, and ends.
pub const BYE: u8 = b'!';

/// The keeper of this process. It ends when this is dropped, and keeps nothing then.
#[derive(Debug)]
pub struct Keeper {
    process: OwnedFd,
    /// What its connections are marked with.
    pub marks: Marks,
    /// It has these by their numbers: this process's pidfd, and its end of the pair.
    _shared: [OwnedFd; 2],
}

impl Keeper {
    /// Starts it, for connections that are accepted at these places; and the end of the pair at which
    /// it can be asked. Belongs before any thread: then hardly any memory is doubled.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(places: Vec<Place>) -> io::Result<(Keeper, OwnedFd)> {
        let marks = Marks::new()?;
        let main = pidfd_open(getpid(), PidfdFlags::empty())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (to, asked) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let duty = Duty { main: main.as_fd(), asked: asked.as_fd(), places: &places, marks };
        let pid = sys::double_with_descriptors(|| duty.stay())?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok((Keeper { process, marks, _shared: [main, asked] }, to))
    }
}

/// Has a keeper of before end, with what it has: nobody goes on with that.
pub fn dismiss(asked: impl AsFd) {
    let _ = send(asked, &[BYE], SendFlags::NOSIGNAL); // it may have ended
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL); // it may be dead
        // What it has is closed when it has ended, not when it is told to.
        let ended = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED);
        if let Err(error) = ended {
            tracing::debug!(%error, "the keeper was not waited for");
        }
    }
}
