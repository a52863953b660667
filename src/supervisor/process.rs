//! A running worker process and the tasks that belong to it: they write to it, read from it, ask
//! whether it is ready, and wait for its end. What they learn becomes an [`Event`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::process::Child;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::fleet::{Exit, Generation};
use super::output::Printer;
use crate::relay::Relay;
use crate::route::{Front, Upstream};
use crate::worker::channel::{Channel, ChannelError};
use crate::worker::spawn::{Plan, SpawnError, spawn};
use crate::worker::wire::Incoming;
use crate::worker::wire::cluster::{Query, Request};
use crate::worker::{Worker, WorkerId, probe};

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
    /// Nothing is left in it that has to be finished.
    Drained,
    /// Nothing can be said to it or heard of it any more.
    HungUp(Result<(), ChannelError>),
    /// It is gone.
    Exited(Exit),
}

pub(super) type Events = mpsc::UnboundedSender<(WorkerId, Event)>;

/// When to ask a worker that has said nothing whether @socket.io/sticky is there, each time since
/// the last. An app that has the package installed is asked from the first on, any other only when
/// it has had the time to listen: it sees a message that is not meant for it.
const PROBES: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(9),
    Duration::from_secs(27),
];
const PROBES_OF_STRANGERS: &[Duration] = PROBES.split_at(2).1;

/// When a cluster adapter has spoken it is a Socket.IO server, which may not be set up yet.
const EAGER_PROBE: Duration = Duration::from_millis(50);
const EAGER_PROBES: usize = 40;

/// A worker whose process has not ended yet.
#[derive(Debug)]
pub(super) struct Process {
    /// What others send to.
    pub(super) worker: Arc<Worker>,
    /// How the front-end reaches it.
    pub(super) upstream: Arc<Upstream>,
    /// Of which reading of the configuration.
    pub(super) generation: Generation,
    pidfd: OwnedFd,
    probing: Option<AbortOnDropHandle<()>>,
    draining: Option<AbortOnDropHandle<()>>,
}

impl Process {
    /// Starts a worker and its tasks; a printer is there if the plan pipes its output.
    pub(super) fn start(
        plan: &Plan,
        id: WorkerId,
        slot: usize,
        generation: Generation,
        shared: &Shared,
        printer: Option<&Printer>,
    ) -> Result<Process, SpawnError> {
        let spawned = spawn(plan, id, slot)?;
        let mut child = spawned.child;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.expect("a child that nobody has waited for has a pid");
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| SpawnError::Channel(e.into()))?;
        let channel = Channel::new(spawned.channel, plan.framing).map_err(SpawnError::Channel)?;
        let number = pid.as_raw_nonzero().get() as u32;
        let worker = Arc::new(Worker::new(id, slot, number, channel));
        let upstream = Arc::new(Upstream::new(worker.clone()));
        if let Some(printer) = printer {
            printer.print(&mut child, slot);
        }
        shared.relay.join(&worker);

        let adapter_spoke = Arc::new(Notify::new());
        tokio::spawn({
            let worker = worker.clone();
            async move { worker.write().await }
        });
        tokio::spawn(read(worker.clone(), shared.clone(), adapter_spoke.clone()));
        tokio::spawn(wait(child, pid, id, shared.events.clone()));
        let known = probe::has_sticky_package(&plan.directory);
        let probes = if known { &PROBES } else { PROBES_OF_STRANGERS };
        let probing = ask_for_sticky(upstream.clone(), shared.clone(), adapter_spoke, probes);
        let probing = tokio::spawn(probing);
        let probing = Some(AbortOnDropHandle::new(probing));
        Ok(Process { worker, upstream, generation, pidfd, probing, draining: None })
    }

    /// Sends the process a signal; without effect once it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Sends it no new work, and tells when nothing is left in it.
    pub(super) fn drain(&mut self, shared: &Shared) {
        self.upstream.close_to_new();
        let (upstream, shared) = (self.upstream.clone(), shared.clone());
        self.draining = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            shared.front.left(&upstream).await;
            shared.tell(upstream.worker.id, Event::Drained);
        })));
    }

    /// It is known how the worker is reached.
    pub(super) fn stop_probing(&mut self) {
        self.probing = None;
    }
}

/// What the tasks of every worker use.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) front: Arc<Front>,
    pub(super) relay: Arc<Relay>,
    pub(super) events: Events,
}

impl Shared {
    fn tell(&self, id: WorkerId, event: Event) {
        // Nobody listens any more when the supervisor has ended.
        let _ = self.events.send((id, event));
    }
}

async fn read(worker: Arc<Worker>, shared: Shared, adapter_spoke: Arc<Notify>) {
    let spoke = AtomicBool::new(false);
    let ended = worker
        .read(|message, frame| match message {
            Incoming::Adapter(packet) => {
                shared.relay.forward(&worker, packet, frame);
                if !spoke.swap(true, Ordering::Relaxed) {
                    adapter_spoke.notify_one();
                }
            }
            Incoming::SessionOpened(sid) => shared.front.session_opened(sid, worker.id, None),
            Incoming::SessionClosed(sid) => shared.front.session_closed(sid, worker.id),
            Incoming::Cluster => match Request::read(worker.framing(), frame) {
                Ok(request) => cluster(&worker, &shared, request),
                Err(error) => {
                    tracing::warn!(worker = worker.id.0, %error, "an unreadable cluster message");
                }
            },
            _ => {} // the app's own
        })
        .await;
    // At once, not when the process has been waited for: others wait for its answers.
    shared.relay.leave(worker.id);
    shared.front.remove(worker.id);
    shared.tell(worker.id, Event::HungUp(ended));
}

fn cluster(worker: &Worker, shared: &Shared, request: Request) {
    let event = match request {
        Request::Online => return,
        Request::QueryServer(query) => Event::Query(query),
        Request::Listening { port } => Event::Listening(port),
        Request::Close { key } => Event::Close(key),
        Request::ExitedAfterDisconnect { seq } => Event::Leaving(seq),
        Request::Unknown(act) => {
            tracing::debug!(worker = worker.id.0, act, "a cluster message of an unknown kind");
            return;
        }
    };
    shared.tell(worker.id, event);
}

async fn wait(mut child: Child, group: Pid, id: WorkerId, events: Events) {
    use std::os::unix::process::ExitStatusExt;
    let exit = match child.wait().await {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::NotStarted,
        },
        Err(_) => Exit::NotStarted,
    };
    // Whatever it has started goes with it.
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let _ = events.send((id, Event::Exited(exit)));
}

/// Asks until @socket.io/sticky answers, often once a cluster adapter has spoken.
async fn ask_for_sticky(
    upstream: Arc<Upstream>,
    shared: Shared,
    adapter_spoke: Arc<Notify>,
    probes: &[Duration],
) {
    let worker = &upstream.worker;
    let ask = async || -> io::Result<()> {
        let (ours, theirs) = shared.front.open_pair().await?;
        worker
            .give_to_sticky(theirs)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        probe::ask(ours).await
    };
    let answered = async {
        for &pause in probes {
            // The question stays open until the next: Node keeps messages for a listener to come.
            tokio::time::sleep(pause).await;
            if let Ok(Ok(())) = tokio::time::timeout(pause * 3, ask()).await {
                return true;
            }
        }
        false
    };
    let eagerly = async {
        adapter_spoke.notified().await;
        for _ in 0..EAGER_PROBES {
            if let Ok(Ok(())) = tokio::time::timeout(EAGER_PROBE * 20, ask()).await {
                return true;
            }
            tokio::time::sleep(EAGER_PROBE).await;
        }
        false
    };
    let found = tokio::select! {
        found = answered => found,
        true = eagerly => true,
    };
    if found {
        shared.tell(worker.id, Event::StickyAnswers);
    }
}
