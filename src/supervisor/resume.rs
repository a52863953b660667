//! Going on with a predecessor's workers, however it ended.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::estate::{self, Kept, Left, State};
use super::fleet::{Exit, Fleet, Generation};
use super::phase::Phase;
use super::process::{Parts, Process};
use super::release::Release;
use super::run::Supervisor;
use super::tasks::Shared;
use crate::config::Config;
use crate::listen::OwnPath;
use crate::route::{Noted, Tls};
use crate::systemd::{events, fd_store};
use crate::worker::cgroup;
use crate::worker::channel::Channel;
use crate::worker::lane;
use crate::worker::notify::NotifySocket;
use crate::worker::spawn::{self, Interface};
use crate::worker::{Worker, WorkerId};

/// So many messages may each supervisor of a worker send: numbers are not used twice.
const MESSAGES: u64 = 1 << 32;

/// A worker that a predecessor had can't be gone on with.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// It ended while nobody was there.
    #[error("it ended meanwhile")]
    Ended,
    /// Its channel is missing.
    #[error("its channel was not kept")]
    NoChannel,
    /// Something else of it is missing.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Supervisor {
    /// Takes over everything that a predecessor has left, and says how far the app has come.
    pub(super) async fn resume(&mut self, left: Left) -> Phase {
        let Left { contents, mut kept, .. } = left;
        let state = contents.state;
        self.begun = begun(&state);
        self.successions = state.successions + 1;
        (self.serving, self.last) = (Generation(state.serving), Generation(state.last));
        (self.failed_reloads, self.last_reload_error) =
            (state.failed_reloads, state.last_reload_error.clone());
        self.resume_releases(&state);
        let policy = |generation| self.releases[&generation].policy();
        let to = state.fleet.rolls_to().map(|to| to.0);
        self.fleet = Fleet::resume(state.fleet, self.fleet.ids(), policy);
        let workers: Vec<_> = self.fleet.workers().collect();
        tracing::info!(
            name: events::RESUMED,
            workers = workers.len(), wanted = self.fleet.wanted(), reloading = to,
            before = state.version, "going on with the workers"
        );
        let mut known: Vec<estate::Worker> = state.workers;
        for (id, slot, generation) in workers {
            let at = known.iter().position(|worker| worker.id == id);
            let resumed = at
                .map(|at| known.swap_remove(at))
                .ok_or(Lost::Ended)
                .and_then(|left| self.resume_worker(left, slot, generation, &mut kept));
            match resumed {
                Ok(process) => drop(self.processes.insert(id, process)),
                Err(error) => self.lost(id, slot, generation, &error),
            }
        }
        self.end_unknown().await;
        for (sid, (worker, silence)) in contents.sessions {
            self.shared.front.session_opened(&sid, worker, silence);
        }
        for (sid, worker) in contents.over {
            self.shared.front.session_was_ended(&sid, worker);
        }
        let noted = contents.given.iter().map(|(inode, (worker, _))| (*inode, *worker)).collect();
        for (worker, connection) in contents.given.into_values() {
            if let Some(process) = self.processes.get(&worker) {
                self.shared.front.has_been_given(&process.upstream, vec![connection]);
            }
        }
        let worker = |id| self.processes.get(&id).map(|process| process.worker.clone());
        self.servers.resume(state.servers, &mut kept, worker);
        let named = |start: &str, kept: &Kept| -> Vec<String> {
            kept.keys().filter(|name| name.starts_with(start)).cloned().collect()
        };
        let predecessors = named(estate::PREDECESSOR, &kept);
        let keepers = named(estate::KEEPER, &kept);
        self.go_on();
        let noted = Arc::new(noted);
        for (name, socket) in keepers.into_iter().filter_map(|name| kept.remove_entry(&name)) {
            self.regain(name, socket, &noted);
        }
        for socket in predecessors.iter().filter_map(|name| kept.remove(name)) {
            if let Err(error) = self.shared.front.follow(socket) {
                tracing::warn!(%error, "connections of the program before are lost");
            }
        }
        kept.keys().for_each(|name| fd_store::remove(name));
        if !state.up {
            return Phase::Starting;
        }
        // Also where no worker is left: that one is replaced is no start, and can't fail as one.
        self.open_the_doors();
        Phase::Up
    }

    /// Takes clients' connections from the keeper of a cohortd that was killed. Until it has all of
    /// them its socket is kept, also for whoever comes when this process is killed meanwhile: then those
    /// that have come are with the keeper of this one, which is there already, and the others are still
    /// in the socket, or with the old keeper.
    fn regain(&self, name: String, socket: OwnedFd, noted: &Arc<Noted>) {
        let deposit = self.shared.estate.as_ref().map(|estate| estate.keep(name, &socket));
        if let Err(error) = self.shared.front.regain(socket, noted.clone(), deposit) {
            tracing::warn!(%error, "connections that were kept are lost");
        }
    }

    /// Every generation that is needed has its configuration; where it can't be had any more, the one
    /// that serves.
    fn resume_releases(&mut self, state: &State) {
        let serving = self.releases.pop_last().map(|(_, release)| release).expect("there is one");
        let file = serving.config.file.clone();
        let of_workers = state.releases.keys().map(|number| Generation(*number));
        let needed: Vec<Generation> = of_workers.chain(state.fleet.generations()).collect();
        for generation in needed {
            let text = state.releases.get(&generation.0).filter(|_| generation != self.serving);
            let read = text.map(|text| Config::load_text(&file, text)).transpose();
            let (config, tls) = match read {
                Ok(Some(config)) => {
                    let tls = Tls::load(&config).ok().flatten();
                    (config, tls)
                }
                Ok(None) => (serving.config.clone(), serving.tls.clone()),
                Err(error) => {
                    tracing::warn!(%generation, %error, "its configuration can't be read any more");
                    (serving.config.clone(), serving.tls.clone())
                }
            };
            self.releases.insert(generation, Release::new(config, tls, self.output));
        }
        self.releases.entry(self.serving).or_insert(serving);
    }

    /// Ends what is left of workers that are not gone on with.
    pub(super) async fn end_unknown(&mut self) {
        if let Some(delegated) = &self.shared.delegated {
            let names: Vec<String> = self.processes.keys().map(|id| cgroup::name_of(*id)).collect();
            for id in delegated.end_others(&names).await {
                self.fleet.has_had(id);
            }
        }
        // In the foreground another run of the app may be there.
        if self.shared.estate.is_some() {
            let processes = self.processes.values();
            let paths = processes.flat_map(|process| [&process.private, &process.notify_path]);
            let known: Vec<&Path> = paths.flatten().map(OwnPath::as_path).collect();
            spawn::remove_others(&self.releases[&self.serving].config.app, &known);
        }
    }

    fn resume_worker(
        &self,
        left: estate::Worker,
        slot: usize,
        generation: Generation,
        kept: &mut Kept,
    ) -> Result<Process, Lost> {
        let release = &self.releases[&generation];
        let begun = self.begun + left.begun;
        let seq = self.successions * MESSAGES;
        let parts = (slot, generation, begun, seq);
        Process::resume(left, release, parts, kept, &self.shared)
    }

    fn lost(&mut self, id: WorkerId, slot: usize, generation: Generation, error: &Lost) {
        let (worker, generation) = (id.0, generation.0);
        tracing::warn!(
            name: events::WORKER_CRASHED,
            worker, slot, generation, %error, "can't go on with it"
        );
        self.shared.counts.ended.count(Exit::Unseen.into());
        self.fleet.exited(id, Exit::Unseen, self.now());
    }

    /// Does what was under way with each worker.
    fn go_on(&mut self) {
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            let Some(process) = self.processes.get_mut(&id) else { continue };
            let config = &self.releases[&process.generation].config;
            if let Some((_, mark)) = &process.cut {
                tracing::warn!(
                    worker = id.0,
                    "{} was cut when cohortd was killed: it is replaced",
                    mark.what_is_cut()
                );
                let now = self.begun.elapsed();
                self.fleet.recycle(id, now);
            } else if self.fleet.serves(id) {
                process.checked();
                process.serve(&config.health, &self.shared);
                self.shared.front.add(process.upstream.clone());
            } else if self.fleet.is_starting(id) {
                process.begin_again(config, &self.shared);
                self.is_ready_if_it_serves(id);
            }
        }
        for action in self.fleet.unfinished() {
            self.act(action);
        }
    }
}

impl Process {
    fn resume(
        left: estate::Worker,
        release: &Release,
        (slot, generation, begun, seq): (usize, Generation, Instant, u64),
        kept: &mut Kept,
        shared: &Shared,
    ) -> Result<Process, Lost> {
        let (id, config) = (left.id, &release.config);
        let estate = shared.estate.as_ref().ok_or(Lost::NoChannel)?;
        let mut deposits = Vec::new();
        let mut take = |name: String| {
            let descriptor = kept.remove(&name)?;
            deposits.extend(estate.keep(name, descriptor.as_fd()).ok());
            Some(descriptor)
        };
        let pidfd = take(estate::process_of(id)).ok_or(Lost::Ended)?;
        if process_of(&pidfd) != Some(left.pid) {
            return Err(Lost::Ended);
        }
        let (mut channel, mut cut) = (None, None);
        if let Interface::Node(framing) = release.plan.interface {
            let socket = take(estate::channel_of(id)).ok_or(Lost::NoChannel)?;
            let mark = left.mark.and_then(|at| estate.marks.resume(at)).ok_or(Lost::NoChannel)?;
            if mark.is_cut() {
                cut = Some((socket, mark));
            } else {
                channel = Some(Channel::resume(socket.into(), framing, mark)?);
            }
        }
        let notify = take(estate::notify_of(id)).map(NotifySocket::of).transpose()?;
        let notify = notify.zip(left.notify.map(OwnPath::new));
        let cgroup = shared.delegated.as_deref();
        let cgroup = cgroup.map(|all| all.resume(&cgroup::name_of(id), release.plan.memory));
        let cgroup = cgroup.transpose()?;
        let (ours, theirs) = (take(estate::lane_of(id)), take(estate::lane_end_of(id)));
        let lane = ours.zip(theirs).map(|(ours, theirs)| lane::Ends { ours, theirs });
        let known = left.known.clone();
        let worker = Worker::resume(id, slot, left.pid, cgroup, channel, left.known, seq)
            .with_lane(lane, &known)?;
        let parts = Parts {
            begun,
            worker: Arc::new(worker),
            generation,
            pidfd,
            notify,
            private: left.private.map(OwnPath::new),
            streams: None,
            deposits,
        };
        let mut process = Process::of(parts, config, shared)?;
        process.upstream.open_doors(left.doors);
        process.status = left.status;
        process.says_ready |= left.says_ready;
        process.cut = cut;
        if process.worker.channel().is_some() {
            process.speak_node(config, shared, left.adapters);
            let worker = process.worker.clone();
            shared.spawn(async move { worker.begin().await });
        }
        process.watch_memory(config.memory.recycle_at, shared);
        Ok(process)
    }

    /// It was starting: asks once more what it may have been asked before.
    fn begin_again(&mut self, config: &Config, shared: &Shared) {
        if self.worker.channel().is_some() {
            let directory = config.directory.clone();
            self.ask_for_sticky(config, &directory, shared);
        } else if self.private.is_some() {
            self.ask_socket(config, shared);
        } else {
            self.settle(shared);
        }
    }
}

/// The process of a pidfd, as long as it has not ended.
fn process_of(pidfd: &impl AsRawFd) -> Option<u32> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let number = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok()
}

/// When the app was begun.
fn begun(state: &State) -> Instant {
    let now = Instant::now();
    now.checked_sub(monotonic().saturating_sub(state.begun)).unwrap_or(now)
}

/// The monotonic clock, which all processes have in common.
pub(super) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
