//! What the tasks of every worker use, and what they tell the loop.

use std::io;
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::counts::Counts;
use super::estate::Estate;
use super::fleet::Exit;
use super::health::Ill;
use super::prom_client::PromClient;
use crate::relay::Relay;
use crate::route::Front;
use crate::worker::WorkerId;
use crate::worker::cgroup::Delegated;
use crate::worker::channel::ChannelError;
use crate::worker::wire::cluster::Query;

/// Something has happened to a worker.
#[derive(Debug)]
pub(super) enum Event {
    /// A server of it wants to listen.
    Query(Query),
    /// A server of it listens.
    Listening(u16),
    /// A server of it is closed.
    Close(String),
    /// It leaves the cluster by its own wish, and waits to hear that this is known.
    Leaving(u64),
    /// It serves connections by @socket.io/sticky.
    StickyAnswers,
    /// It serves its private socket, or has none to serve.
    Serves,
    /// It is about to end.
    Stopping,
    /// It is alive.
    Alive,
    /// It says that it is ready.
    SaysReady,
    /// It says how it is.
    Status(String),
    /// It has answered every request that it has to answer before it is ready.
    Checked,
    /// It has not yet, and this is why.
    NotYet(Ill),
    /// It does not work any more.
    Ill(Ill),
    /// It uses so many bytes of memory, and that is too much.
    Outgrown(usize),
    /// Nothing is left in it that has to be finished.
    Drained,
    /// Nothing can be said to it or heard of it any more.
    HungUp(Result<(), ChannelError>),
    /// It is gone.
    Exited(Exit),
}

pub(super) type Events = mpsc::UnboundedSender<(WorkerId, Event)>;

/// What the tasks of every worker use.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) front: Arc<Front>,
    pub(super) relay: Arc<Relay>,
    pub(super) counts: Arc<Counts>,
    /// Who asks workers for their own metrics.
    pub(super) prom_client: Arc<PromClient>,
    /// Where workers get cgroups of their own.
    pub(super) delegated: Option<Arc<Delegated>>,
    pub(super) events: Events,
    /// What is left to a successor, if there may be one.
    pub(super) estate: Option<Arc<Estate>>,
    /// A successor goes on with the workers: everything else that is done for them ends.
    pub(super) leaving: CancellationToken,
    /// What is done for workers, beside their processes' own tasks.
    pub(super) tasks: TaskTracker,
    /// Processes that have not been waited for yet.
    pub(super) endings: TaskTracker,
}

impl Shared {
    /// Does something for a worker until it is done, or a successor does it.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let leaving = self.leaving.clone();
        self.tasks.spawn(async move {
            leaving.run_until_cancelled_owned(task).await;
        });
    }

    pub(super) fn tell(&self, id: WorkerId, event: Event) {
        // Nobody listens any more when the supervisor has ended.
        let _ = self.events.send((id, event));
    }
}

pub(super) fn pid_of(number: u32) -> io::Result<Pid> {
    Pid::from_raw(number as i32).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

pub(super) fn kill_process(number: u32, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(pid_of(number)?, signal)?)
}

/// A task that ends with its owner.
pub(super) fn own(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
