//! A running worker process and the tasks that belong to it: they speak to it, ask whether it is
//! ready and well, and wait for its end. What they learn becomes an [`Event`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::counts::{Cause, Counts};
use super::estate::{self, Deposit, Estate};
use super::fleet::{Exit, Generation};
use super::health::{self, Ill};
use super::node;
use super::output::Printer;
use super::prom_client::PromClient;
use super::release::Release;
use crate::config::{Config, Health, Protocol, ReadyWhen};
use crate::listen::OwnPath;
use crate::relay::{Adapters, Relay};
use crate::route::{Front, Upstream};
use crate::sys;
use crate::systemd::journal::Streams;
use crate::worker::cgroup::{Cgroup, Delegated};
use crate::worker::channel::{Channel, ChannelError};
use crate::worker::marks::Mark;
use crate::worker::notify::{Notice, NotifySocket};
use crate::worker::spawn::{Interface, SpawnError, Spawned, spawn};
use crate::worker::wire::cluster::Query;
use crate::worker::{Worker, WorkerId, memory, probe};

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

/// What has run for so long has not failed to start.
const SETTLED: Duration = Duration::from_secs(1);

/// SIGKILL, as an exit status has it.
const KILL: i32 = Signal::KILL.as_raw();

/// A worker whose process has not ended yet.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) begun: Instant,
    /// What others send to.
    pub(super) worker: Arc<Worker>,
    /// How the front-end reaches it.
    pub(super) upstream: Arc<Upstream>,
    /// Of which reading of the configuration.
    pub(super) generation: Generation,
    /// How it is, in its own words.
    pub(super) status: Option<String>,
    /// Why it is to end, or has to, if it is not by itself.
    pub(super) ends: Option<Cause>,
    /// Why a check that it has to pass before it is ready has failed.
    pub(super) not_yet: Option<Ill>,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    /// It is not awaited that it says so.
    pub(super) says_ready: bool,
    checks: Checks,
    /// It is ready: its event loop is watched from now on.
    ready: Arc<Notify>,
    /// A cluster adapter in it has.
    adapter_spoke: Arc<Notify>,
    /// Where its private socket listens.
    pub(super) private: Option<OwnPath>,
    /// Where its `NOTIFY_SOCKET` is.
    pub(super) notify_path: Option<OwnPath>,
    /// It has said that it is alive.
    alive: Arc<Notify>,
    is_watched: bool,
    /// Tasks that end with it.
    tasks: Vec<AbortOnDropHandle<()>>,
    probing: Option<AbortOnDropHandle<()>>,
    draining: Option<AbortOnDropHandle<()>>,
    /// Its channel, when that is of no use any more but must not end.
    pub(super) cut: Option<(OwnedFd, Mark)>,
    /// What a successor needs of it.
    _deposits: Vec<Deposit>,
}

/// What a worker's process is put together of.
pub(super) struct Parts {
    pub(super) begun: Instant,
    pub(super) worker: Arc<Worker>,
    pub(super) generation: Generation,
    pub(super) pidfd: OwnedFd,
    pub(super) notify: Option<(NotifySocket, OwnPath)>,
    pub(super) private: Option<OwnPath>,
    pub(super) streams: Option<Streams>,
    pub(super) deposits: Vec<Deposit>,
}

/// The requests that a worker has to answer before it is ready.
#[derive(Debug)]
enum Checks {
    /// They are not sent before it serves.
    Due(Vec<String>),
    Running,
    Passed,
}

impl Process {
    /// Starts a worker and its tasks; a printer is there if the plan pipes its output.
    pub(super) fn start(
        release: &Release,
        id: WorkerId,
        slot: usize,
        generation: Generation,
        shared: &Shared,
        printer: Option<&Printer>,
    ) -> Result<Process, SpawnError> {
        let Release { plan, .. } = release;
        let mut spawned = spawn(plan, id, slot, shared.delegated.as_deref())?;
        if let Some(printer) = printer {
            printer.print(&mut spawned.child, slot);
        }
        let pid = spawned.child.id();
        let began = Process::begin(release, spawned, id, slot, generation, shared);
        // Nobody knows of it.
        began.inspect_err(|_| {
            let _ = kill_process(pid, Signal::KILL);
        })
    }

    fn begin(
        release: &Release,
        spawned: Spawned,
        id: WorkerId,
        slot: usize,
        generation: Generation,
        shared: &Shared,
    ) -> Result<Process, SpawnError> {
        let Release { config, plan, .. } = release;
        let pid = spawned.child.id();
        let pidfd = pid_of(pid)
            .and_then(|pid| Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
            .map_err(SpawnError::Channel)?;
        let mut deposits = Vec::new();
        let mut keep = |name: String, descriptor: BorrowedFd<'_>| -> io::Result<()> {
            if let Some(estate) = &shared.estate {
                deposits.push(estate.keep(name, descriptor)?);
            }
            Ok(())
        };
        keep(estate::process_of(id), pidfd.as_fd()).map_err(SpawnError::Channel)?;
        if let Some(channel) = &spawned.channel {
            keep(estate::channel_of(id), channel.as_fd()).map_err(SpawnError::Channel)?;
        }
        if let Some((notify, _)) = &spawned.notify {
            keep(estate::notify_of(id), notify.as_fd()).map_err(SpawnError::Channel)?;
        }
        let channel = match (spawned.channel, plan.interface) {
            (Some(stream), Interface::Node(framing)) => {
                let mark = shared.estate.as_ref().map(|estate| estate.marks.begin());
                Some(Channel::new(stream, framing, mark.unwrap_or_default()))
            }
            _ => None,
        };
        let channel = channel.transpose().map_err(SpawnError::Channel)?;
        let worker = Arc::new(Worker::new(id, slot, pid, spawned.cgroup, channel));
        let parts = Parts {
            begun: Instant::now(),
            worker,
            generation,
            pidfd,
            notify: spawned.notify,
            private: spawned.private,
            streams: spawned.streams,
            deposits,
        };
        let mut process = Process::of(parts, config, shared).map_err(SpawnError::Channel)?;
        match plan.interface {
            Interface::Node(_) => {
                process.speak_node(config, shared, Adapters::default());
                process.ask_for_sticky(config, &plan.directory, shared);
            }
            Interface::Socket => process.ask_socket(config, shared),
            Interface::None => process.settle(shared),
        }
        process.watch_memory(config.memory.recycle_at, shared);
        Ok(process)
    }

    /// Puts one together, and waits for its end.
    pub(super) fn of(parts: Parts, config: &Config, shared: &Shared) -> io::Result<Process> {
        let Parts { begun, worker, generation, pidfd, notify, private, streams, deposits } = parts;
        let pidfd = Arc::new(sys::watch_process(pidfd)?);
        let slot = worker.slot;
        let upstream = Arc::new(Upstream::new(worker.clone(), shared.front.slot(slot)));
        let (notify, notify_path) = notify.unzip();
        let hearing = notify.map(|socket| own(hear(socket, worker.id, shared.clone())));
        let ending = Ending { pidfd: pidfd.clone(), streams };
        shared.spawn(ending.wait(worker.clone(), shared.clone()));
        Ok(Process {
            begun,
            status: None,
            ends: None,
            not_yet: None,
            says_ready: !matches!(config.ready.when, ReadyWhen::Message | ReadyWhen::Notify),
            checks: Checks::Due(health::before_ready(config)),
            ready: Arc::default(),
            adapter_spoke: Arc::default(),
            tasks: hearing.into_iter().collect(),
            probing: None,
            private,
            notify_path,
            alive: Arc::default(),
            is_watched: false,
            draining: None,
            cut: None,
            _deposits: deposits,
            worker,
            upstream,
            generation,
            pidfd,
        })
    }

    /// It has IPC: reads and writes that, and watches its event loop.
    pub(super) fn speak_node(&mut self, config: &Config, shared: &Shared, adapters: Adapters) {
        let worker = self.worker.clone();
        shared.relay.join(&worker, adapters);
        let awaits_ready = config.ready.when == ReadyWhen::Message && !self.says_ready;
        shared.spawn({
            let worker = worker.clone();
            async move { worker.write().await }
        });
        let spoke = self.adapter_spoke.clone();
        shared.spawn(node::read(worker, shared.clone(), spoke, awaits_ready));
        let limit = config.health.event_loop;
        if !limit.is_zero() {
            let (upstream, ready, shared) =
                (self.upstream.clone(), self.ready.clone(), shared.clone());
            self.tasks.push(own(async move {
                let ill = health::event_loop(&upstream, limit, &ready).await;
                shared.tell(upstream.worker.id, Event::Ill(ill));
            }));
        }
    }

    /// It may serve by @socket.io/sticky, and is asked.
    pub(super) fn ask_for_sticky(&mut self, config: &Config, directory: &Path, shared: &Shared) {
        let adapter_spoke = self.adapter_spoke.clone();
        // It serves HTTP, and is asked by it.
        if config.route.protocol == Protocol::Http {
            let probes = node::probes(directory);
            let upstream = self.upstream.clone();
            let asking = node::ask_for_sticky(upstream, shared.clone(), adapter_spoke, probes);
            self.probing = Some(own(asking));
        }
    }

    /// It has a private socket: asks until somebody answers there, unless it says so itself.
    pub(super) fn ask_socket(&mut self, config: &Config, shared: &Shared) {
        let Some(path) = self.private.as_ref().map(|path| path.as_path().to_owned()) else {
            return;
        };
        let (upstream, shared) = (self.upstream.clone(), shared.clone());
        let (awaited, protocol) = (config.ready.when == ReadyWhen::Serving, config.route.protocol);
        self.probing = Some(own(async move {
            match protocol {
                Protocol::Http if awaited => probe::until_answered(&path).await,
                // Nothing is known that could be asked.
                Protocol::Tcp if awaited => tokio::time::sleep(SETTLED).await,
                _ => {}
            }
            upstream.open_private(path);
            shared.tell(upstream.worker.id, Event::Serves);
        }));
    }

    /// It has no socket: it serves when it has not ended at once.
    pub(super) fn settle(&mut self, shared: &Shared) {
        let (id, shared) = (self.worker.id, shared.clone());
        self.probing = Some(own(async move {
            tokio::time::sleep(SETTLED).await;
            shared.tell(id, Event::Serves);
        }));
    }

    /// It is alive. From the first time on it has to say so again and again, within `limit`.
    pub(super) fn is_alive(&mut self, limit: Duration, shared: &Shared) {
        self.alive.notify_one();
        if !self.is_watched && !limit.is_zero() {
            self.is_watched = true;
            let (id, alive, shared) = (self.worker.id, self.alive.clone(), shared.clone());
            self.tasks.push(own(async move {
                let ill = health::watchdog(&alive, limit).await;
                shared.tell(id, Event::Ill(ill));
            }));
        }
    }

    pub(super) fn watch_memory(&mut self, recycle_at: Option<usize>, shared: &Shared) {
        let Some(limit) = recycle_at else { return };
        let (worker, shared) = (self.worker.clone(), shared.clone());
        self.tasks.push(own(async move {
            let used = memory::outgrows(worker.pid, worker.cgroup.as_ref(), limit).await;
            shared.tell(worker.id, Event::Outgrown(used));
        }));
    }

    /// Its worker's number, slot and generation, by which the log names it.
    pub(super) fn names(&self) -> (u64, usize, u64) {
        (self.worker.id.0, self.worker.slot, self.generation.0)
    }

    /// It says that it is ready.
    pub(super) fn said_ready(&mut self) {
        self.says_ready = true;
    }

    /// A successor goes on with it: nothing is done for it here any more.
    pub(super) fn leave(mut self) {
        if let Some(channel) = self.worker.channel() {
            channel.leave();
        }
        self.tasks.clear();
        (self.probing, self.draining) = (None, None);
        // Paths stay, and so does what is in the store.
        std::mem::forget(self);
    }

    /// It has passed its checks.
    pub(super) fn checked(&mut self) {
        self.checks = Checks::Passed;
    }

    /// Whether a worker that serves is ready as well. Begins its checks when they are due.
    pub(super) fn is_ready(&mut self, health: &Health, shared: &Shared) -> bool {
        match &mut self.checks {
            _ if !self.says_ready => false,
            Checks::Passed => true,
            Checks::Running => false,
            Checks::Due(paths) if paths.is_empty() => true,
            Checks::Due(paths) => {
                let paths = std::mem::take(paths);
                let (upstream, shared, every) =
                    (self.upstream.clone(), shared.clone(), health.every);
                self.checks = Checks::Running;
                self.tasks.push(own(async move {
                    let id = upstream.worker.id;
                    let not_yet = |ill| shared.tell(id, Event::NotYet(ill));
                    health::becomes_ready(&shared.front, &upstream, &paths, every, not_yet).await;
                    shared.tell(id, Event::Checked);
                }));
                false
            }
        }
    }

    /// It is ready: it is known how it is reached, and its health is watched.
    pub(super) fn serve(&mut self, health: &Health, shared: &Shared) {
        self.probing = None;
        self.ready.notify_one();
        let Some(path) = health.http.clone() else { return };
        let (upstream, shared) = (self.upstream.clone(), shared.clone());
        let Health { every, fail_after, .. } = *health;
        self.tasks.push(own(async move {
            let ill = health::over_http(&shared.front, &upstream, &path, every, fail_after).await;
            shared.tell(upstream.worker.id, Event::Ill(ill));
        }));
    }

    /// What it still has to say or show before it is ready, when it serves all that it has to.
    pub(super) fn what_is_missing(&self, config: &Config) -> String {
        if let Some(ill) = self.not_yet.as_ref().filter(|_| self.says_ready) {
            return ill.to_string();
        }
        match config.ready.when {
            ReadyWhen::Message => "it has not called process.send(\"ready\")".into(),
            ReadyWhen::Notify => "it has not said READY=1 to its NOTIFY_SOCKET".into(),
            _ => "its checks have not been answered".into(),
        }
    }

    /// Sends the process a signal; without effect once it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal);
    }

    /// Ends it at once, with everything that it has started.
    pub(super) fn kill(&self) {
        if let Some(cgroup) = &self.worker.cgroup {
            cgroup.kill();
        }
        self.signal(Signal::KILL);
    }

    /// Sends it no new work, and tells when nothing is left in it.
    pub(super) fn drain(&mut self, shared: &Shared) {
        self.upstream.close_to_new();
        let (upstream, shared) = (self.upstream.clone(), shared.clone());
        self.draining = Some(own(async move {
            shared.front.left(&upstream).await;
            shared.tell(upstream.worker.id, Event::Drained);
        }));
    }

    /// Ends what is left in it of its clients, so many a second, and tells when that is done.
    pub(super) fn disconnect(&mut self, per_second: u32, shared: &Shared) {
        let (upstream, shared) = (self.upstream.clone(), shared.clone());
        self.draining = Some(own(async move {
            shared.front.disconnect(&upstream, per_second).await;
            shared.tell(upstream.worker.id, Event::Drained);
        }));
    }
}

/// A task that ends with its owner.
fn own(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

fn pid_of(number: u32) -> io::Result<Pid> {
    Pid::from_raw(number as i32).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn kill_process(number: u32, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(pid_of(number)?, signal)?)
}

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

async fn hear(socket: NotifySocket, id: WorkerId, shared: Shared) {
    let on = |notice| {
        shared.tell(
            id,
            match notice {
                Notice::Ready => Event::SaysReady,
                Notice::Stopping => Event::Stopping,
                Notice::Alive => Event::Alive,
                Notice::Status(text) => Event::Status(text),
            },
        );
    };
    socket.hear(on).await;
}

/// A process whose end is waited for.
struct Ending {
    pidfd: Arc<AsyncFd<OwnedFd>>,
    streams: Option<Streams>,
}

impl Ending {
    /// Tells that the process has ended as soon as it has, and then cleans up behind it.
    async fn wait(mut self, worker: Arc<Worker>, shared: Shared) {
        let until_reaped = shared.endings.token();
        let exit = self.exit(worker.cgroup.as_ref()).await;
        // Whatever it has started goes with it. While it has not been waited for, its number is its.
        if exit != Exit::Unseen
            && let Ok(group) = pid_of(worker.pid)
        {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        shared.tell(worker.id, Event::Exited(exit));
        if let Some(cgroup) = &worker.cgroup {
            cgroup.kill();
        }
        if let Some(streams) = self.streams.take() {
            streams.until_read().await;
        }
        let _ = self.status(WaitIdOptions::empty());
        drop(until_reaped);
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
        let status = match self.status(WaitIdOptions::NOWAIT) {
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

    fn status(&self, how: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
        let how = how | WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), how)
    }
}
