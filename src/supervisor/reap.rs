//! Waiting for a worker's process to end, and cleaning up behind it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::unix::AsyncFd;

use super::fleet::Exit;
use super::tasks::{Event, Shared, pid_of};
use crate::systemd::journal::Streams;
use crate::worker::Worker;
use crate::worker::cgroup::Cgroup;

/// SIGKILL, as an exit status has it.
const KILL: i32 = Signal::KILL.as_raw();

/// A process whose end is waited for.
pub(super) struct Ending {
    pub(super) pidfd: Arc<AsyncFd<OwnedFd>>,
    pub(super) streams: Option<Streams>,
}

impl Ending {
    /// Tells that the process has ended as soon as it has, and then cleans up behind it.
    pub(super) async fn wait(mut self, worker: Arc<Worker>, shared: Shared) {
        let until_reaped = shared.endings.token();
        let exit = self.exit(worker.cgroup.as_ref()).await;
        // Whatever it has started goes with it. While it has not been waited for, its number is its.
        if exit != Exit::Unseen
            && let Ok(group) = pid_of(worker.pid)
        {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        shared.tell(worker.id, Event::Exited(exit));
        let zombie = Zombie(&self.pidfd);
        if let Some(cgroup) = &worker.cgroup {
            cgroup.kill();
        }
        if let Some(streams) = self.streams.take() {
            streams.until_read().await;
        }
        drop((zombie, until_reaped));
        if let Some(cgroup) = &worker.cgroup {
            cgroup.remove().await;
        }
    }

    /// How it ended. Its process stays, as a zombie, until it is waited for; one that a predecessor
    /// has started is somebody else's to wait for.
    async fn exit(&self, cgroup: Option<&Cgroup>) -> Exit {
        let out_of_memory = || cgroup.is_some_and(Cgroup::was_out_of_memory);
        if self.pidfd.readable().await.is_err() {
            return Exit::NotStarted;
        }
        let status = match status(&self.pidfd, WaitIdOptions::NOWAIT) {
            Err(Errno::CHILD) => return Exit::Unseen,
            status => status.ok().flatten(),
        };
        match status.map(|status| (status.exit_status(), status.terminating_signal())) {
            Some((Some(code), _)) => Exit::Code(code),
            Some((None, Some(KILL))) if out_of_memory() => Exit::OutOfMemory,
            Some((None, Some(signal))) => Exit::Signal(signal),
            _ => Exit::NotStarted,
        }
    }
}

/// A process that has ended, and is waited for when this is dropped: also where another program goes on
/// in this process before, for that knows nothing of it.
struct Zombie<'a>(&'a AsyncFd<OwnedFd>);

impl Drop for Zombie<'_> {
    fn drop(&mut self) {
        let _ = status(self.0, WaitIdOptions::empty());
    }
}

fn status(pidfd: &AsyncFd<OwnedFd>, how: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
    let how = how | WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), how)
}
