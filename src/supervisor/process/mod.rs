//! A running worker process: what is known of it, the tasks that watch it, and what is done to it.

mod start;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::start::Parts;
use super::counts::Cause;
use super::estate::Deposit;
use super::fleet::Generation;
use super::health::{self, Ill};
use super::tasks::{Event, Shared, own};
use crate::config::{Config, Health, ReadyWhen};
use crate::listen::OwnPath;
use crate::route::Upstream;
use crate::worker::marks::Mark;
use crate::worker::{Worker, memory};

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

/// The requests that a worker has to answer before it is ready.
#[derive(Debug)]
enum Checks {
    /// They are not sent before it serves.
    Due(Vec<String>),
    Running,
    Passed,
}

impl Process {
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

    /// Ends what is left in it of its clients, so many a second, and tells when that is done. It is
    /// sent no new work: where a predecessor has drained it, nobody has said so here.
    pub(super) fn disconnect(&mut self, per_second: u32, shared: &Shared) {
        self.upstream.close_to_new();
        let (upstream, shared) = (self.upstream.clone(), shared.clone());
        self.draining = Some(own(async move {
            shared.front.disconnect(&upstream, per_second).await;
            shared.tell(upstream.worker.id, Event::Drained);
        }));
    }
}
