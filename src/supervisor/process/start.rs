//! Starting a worker: its process, what is kept of it for a successor, and the tasks by which it
//! is asked whether it serves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, Signal};

use super::super::estate::{self, Deposit};
use super::super::fleet::Generation;
use super::super::output::Printer;
use super::super::reap::Ending;
use super::super::release::Release;
use super::super::tasks::{Event, Shared, kill_process, own, pid_of};
use super::super::{health, node};
use super::{Checks, Process};
use crate::config::{Config, Protocol, ReadyWhen};
use crate::listen::OwnPath;
use crate::relay::Adapters;
use crate::route::Upstream;
use crate::sys;
use crate::systemd::journal::Streams;
use crate::worker::channel::Channel;
use crate::worker::notify::{Notice, NotifySocket};
use crate::worker::spawn::{Interface, SpawnError, Spawned, spawn};
use crate::worker::{Known, Worker, WorkerId, probe};

/// What has run for so long has not failed to start.
const SETTLED: Duration = Duration::from_secs(1);

/// What a worker's process is put together of.
pub(in crate::supervisor) struct Parts {
    pub(in crate::supervisor) begun: Instant,
    pub(in crate::supervisor) worker: Arc<Worker>,
    pub(in crate::supervisor) generation: Generation,
    pub(in crate::supervisor) pidfd: OwnedFd,
    pub(in crate::supervisor) notify: Option<(NotifySocket, OwnPath)>,
    pub(in crate::supervisor) private: Option<OwnPath>,
    pub(in crate::supervisor) streams: Option<Streams>,
    pub(in crate::supervisor) deposits: Vec<Deposit>,
}

impl Process {
    /// Starts a worker and its tasks; a printer is there if the plan pipes its output.
    pub(in crate::supervisor) fn start(
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
        if let Some(lane) = &spawned.lane {
            keep(estate::lane_of(id), lane.ours.as_fd()).map_err(SpawnError::Channel)?;
            keep(estate::lane_end_of(id), lane.theirs.as_fd()).map_err(SpawnError::Channel)?;
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
        let worker = Worker::new(id, slot, pid, spawned.cgroup, channel)
            .with_lane(spawned.lane, &Known::default())
            .map_err(SpawnError::Channel)?;
        let worker = Arc::new(worker);
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
    pub(in crate::supervisor) fn of(
        parts: Parts,
        config: &Config,
        shared: &Shared,
    ) -> io::Result<Process> {
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
    pub(in crate::supervisor) fn speak_node(
        &mut self,
        config: &Config,
        shared: &Shared,
        adapters: Adapters,
    ) {
        let worker = self.worker.clone();
        shared.relay.join(&worker, adapters);
        let awaits_ready = config.ready.when == ReadyWhen::Message && !self.says_ready;
        shared.spawn({
            let worker = worker.clone();
            async move { worker.write().await }
        });
        let spoke = self.adapter_spoke.clone();
        shared.spawn(node::read(worker, shared.clone(), spoke, awaits_ready));
        let back = shared.front.clone().takes_what_comes_back(self.upstream.clone());
        self.tasks.push(own(back));
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
    pub(in crate::supervisor) fn ask_for_sticky(
        &mut self,
        config: &Config,
        directory: &Path,
        shared: &Shared,
    ) {
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
    pub(in crate::supervisor) fn ask_socket(&mut self, config: &Config, shared: &Shared) {
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
    pub(in crate::supervisor) fn settle(&mut self, shared: &Shared) {
        let (id, shared) = (self.worker.id, shared.clone());
        self.probing = Some(own(async move {
            tokio::time::sleep(SETTLED).await;
            shared.tell(id, Event::Serves);
        }));
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
