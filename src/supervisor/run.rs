//! The loop that owns the fleet: events in, one step at a time out, and what everybody else may
//! know published on the way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::commands::Restarting;
use super::counts::{Cause, Counts};
use super::estate::{Estate, Left, State};
use super::fleet::{Action, Exit, Fleet, Generation, Startup};
use super::handle::{Asked, Reloaded, Reply, Status, Succession};
use super::leave::{Heritage, Rehearsal};
use super::output::{Output, Printer};
use super::phase::{Phase, drained};
use super::process::Process;
use super::release::Release;
use super::scrape::{Metrics, Scrape};
use super::servers::Servers;
use super::tasks::{Event, Shared};
use crate::config::{Config, Deliver, StopMethod};
use crate::keeper::Marks;
use crate::listen::{Place, Socket};
use crate::relay::Reach;
use crate::route::{Front, ListenerId, Tls};
use crate::systemd::{Notifier, events};
use crate::worker::WorkerId;
use crate::worker::cgroup::Delegated;

/// Why an app is not running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that cohortd itself needs is not to be had.
    #[error("can't {what}: {source}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No worker became ready.
    #[error("no worker became ready. {reason}")]
    NotReady {
        /// What is known of the last failure, and what to do.
        reason: String,
    },
}

/// What an app is run with, beside its configuration.
#[derive(Debug)]
pub struct Means {
    /// What the configuration names.
    pub tls: Option<Tls>,
    /// To listen on.
    pub sockets: Vec<Socket>,
    /// Where workers' output goes.
    pub output: Output,
    /// Workers get cgroups of their own in it.
    pub delegated: Option<Delegated>,
    /// What will be left to a successor, if there may be one.
    pub estate: Option<Arc<Estate>>,
    /// What a predecessor has left.
    pub left: Option<Left>,
    /// By which other hosts are reached, if there may be any.
    pub reach: Option<Reach>,
    /// What connections are marked with for the keeper, if there is one.
    pub marks: Option<Marks>,
}

/// Runs an app until it is told to stop (SIGTERM, SIGINT), has failed to come up, or another program
/// goes on with it. SIGHUP reloads it; `asked` is the end of a [`super::Handle`].
///
/// # Errors
/// [`RunError`]; every worker has ended in any case.
pub async fn run(config: Config, means: Means, asked: Asked) -> Result<Option<Heritage>, RunError> {
    let Means { tls, sockets, output, delegated, estate, left, reach, marks } = means;
    let (events, inbox) = mpsc::unbounded_channel();
    let (rehearsed, rehearsals) = mpsc::unbounded_channel();
    let places: Vec<Place> = sockets.iter().map(Socket::place).collect();
    let front = Front::new(&config, tls.clone(), places.clone())
        .map_err(|source| RunError::Setup { what: "open the private listener", source })?;
    if let Some(marks) = marks {
        front.mark_for_keeper(marks);
    }
    let delegated = delegated.map(Arc::new);
    let shared = Shared {
        front: Arc::new(front),
        relay: Arc::default(),
        counts: Arc::new(Counts::default()),
        prom_client: Arc::default(),
        delegated,
        events,
        estate: estate.clone(),
        leaving: CancellationToken::new(),
        tasks: TaskTracker::new(),
        endings: TaskTracker::new(),
    };
    let (metrics, scrapes) = Metrics::serve(&config, &shared);
    let mut servers = Servers::new(places.clone(), config.directory.clone(), estate);
    if config.route.deliver == Deliver::Shared {
        servers
            .share(&sockets)
            .map_err(|source| RunError::Setup { what: "share the listening sockets", source })?;
    }
    let forward = config.bus.as_ref().and_then(|bus| bus.forward);
    let release = Release::new(config, tls, output);
    let mut fleet = Fleet::new(release.policy(), release.config.workers, seed());
    if let Some(reach) = &reach {
        fleet.number_in(reach.name.ids());
    }
    let mut supervisor = Supervisor {
        fleet,
        servers,
        releases: BTreeMap::from([(FIRST, release)]),
        serving: FIRST,
        last: FIRST,
        begun: Instant::now(),
        successions: 0,
        noted: None,
        to_leave: Vec::new(),
        is_rehearsed: false,
        rehearsed,
        processes: HashMap::new(),
        notifier: Notifier::default(),
        last_failure: None,
        failed_reloads: 0,
        last_reload_error: None,
        reloading: Vec::new(),
        to_reload: Vec::new(),
        scaling: VecDeque::new(),
        restarting: Vec::new(),
        printer: (output == Output::Prefixed).then(Printer::start),
        metrics,
        output,
        sockets,
        places,
        shared,
    };
    let hosts = left.as_ref().and_then(|left| left.contents.state.hosts.clone());
    let phase = match left {
        Some(left) => supervisor.resume(left).await,
        None => {
            // Of a predecessor that has left nothing.
            supervisor.end_unknown().await;
            Phase::Starting
        }
    };
    if let Some(reach) = reach {
        let Shared { relay, front, .. } = &supervisor.shared;
        relay.reach(reach, hosts);
        if let Some(at) = forward {
            let forwards = front.forward(relay.clone(), at);
            forwards.unwrap_or_else(|error| {
                tracing::error!(%error, "no key for other hosts: requests are not passed on");
            });
        }
    }
    supervisor.run(phase, inbox, asked, scrapes, rehearsals).await
}

/// The generation that an app begins with.
const FIRST: Generation = Generation(1);

/// Everything that is known of a running app. `requests` has the part that is asked from outside.
pub(super) struct Supervisor {
    /// Until connections are accepted on them; where the workers do that, until the end.
    pub(super) sockets: Vec<Socket>,
    /// Where they listen.
    pub(super) places: Vec<Place>,
    pub(super) output: Output,
    pub(super) fleet: Fleet,
    /// Of every generation that has workers, or may get them back.
    pub(super) releases: BTreeMap<Generation, Release>,
    /// The generation that crashed workers are replaced from.
    pub(super) serving: Generation,
    /// The newest.
    pub(super) last: Generation,
    pub(super) processes: HashMap<WorkerId, Process>,
    pub(super) servers: Servers,
    pub(super) shared: Shared,
    pub(super) notifier: Notifier,
    pub(super) begun: Instant,
    /// How many have gone on with the app before this one.
    pub(super) successions: u64,
    /// What was last written down for a successor.
    pub(super) noted: Option<State>,
    /// Who waits for another program to go on.
    pub(super) to_leave: Vec<Reply<Succession>>,
    /// The other program has said that it can.
    pub(super) is_rehearsed: bool,
    /// Where it is told what came of a rehearsal.
    pub(super) rehearsed: mpsc::UnboundedSender<Rehearsal>,
    /// What a worker failed at, for people.
    pub(super) last_failure: Option<(WorkerId, String)>,
    /// How many reloads have failed.
    pub(super) failed_reloads: u64,
    pub(super) last_reload_error: Option<String>,
    /// Who waits for the roll that is under way.
    pub(super) reloading: Vec<Reply<Reloaded>>,
    /// Who waits for the one after that.
    pub(super) to_reload: Vec<Reply<Reloaded>>,
    /// Who waits until so many workers serve and nobody else is left.
    pub(super) scaling: VecDeque<(usize, Reply<Status>)>,
    /// Who waits for a slot's next worker.
    pub(super) restarting: Vec<Restarting>,
    printer: Option<Printer>,
    pub(super) metrics: Metrics,
}

impl Supervisor {
    async fn run(
        mut self,
        mut phase: Phase,
        mut inbox: mpsc::UnboundedReceiver<(WorkerId, Event)>,
        mut asked: Asked,
        mut scrapes: mpsc::Receiver<Scrape>,
        mut rehearsals: mpsc::UnboundedReceiver<Rehearsal>,
    ) -> Result<Option<Heritage>, RunError> {
        let signals = |kind| {
            signal(kind).map_err(|source| RunError::Setup { what: "watch for signals", source })
        };
        let mut terminate = signals(SignalKind::terminate())?;
        let mut interrupt = signals(SignalKind::interrupt())?;
        let mut hangup = signals(SignalKind::hangup())?;
        let watchdog = self.notifier.watchdog_period();
        let mut fed = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3600)));
        let front = self.shared.front.clone();
        let estate = self.shared.estate.clone();
        let relay = self.shared.relay.clone();
        let mut failed = None;
        let mut published = Vec::new();
        loop {
            self.take_steps();
            while self.answer_who_waits() {
                self.take_steps();
            }
            self.publish_standing();
            match (&phase, self.fleet.startup()) {
                (Phase::Starting, Startup::Up) => {
                    self.open_the_doors();
                    phase = Phase::Up;
                }
                (Phase::Starting, Startup::Failed) => {
                    failed = Some(self.not_ready());
                    phase = self.stop_workers();
                }
                _ => {}
            }
            if matches!(phase, Phase::Stopping) && self.fleet.is_empty() {
                break;
            }
            self.note(&phase);
            if self.may_leave(&phase) {
                asked.leave();
                return Ok(Some(self.leave(&mut inbox).await));
            }
            self.notifier.status(self.status(&phase));
            let words = self.words(&phase);
            if published != words {
                published = words;
                asked.changed.send_replace(());
            }

            let deadline = self.fleet.deadline(self.now()).map(|at| self.begun + at);
            tokio::select! {
                Some((id, event)) = inbox.recv() => {
                    self.on(id, event);
                    // A burst of events is one change.
                    while let Ok((id, event)) = inbox.try_recv() {
                        self.on(id, event);
                    }
                }
                () = until(deadline) => {}
                Some(request) = asked.requests.recv() => self.on_request(request, &phase),
                Some(scrape) = scrapes.recv() => self.on_scrape(scrape),
                Some(rehearsal) = rehearsals.recv() => self.on_rehearsal(rehearsal),
                () = relay.changed() => {}
                () = grown(estate.as_ref()) => self.note_all(&phase),
                _ = hangup.recv() => self.on_hangup(&phase),
                _ = terminate.recv() => phase = self.stop(phase),
                _ = interrupt.recv() => phase = self.stop(phase),
                () = drained(&front, &phase) => phase = self.stop_workers(),
                _ = fed.tick(), if watchdog.is_some() => {
                    if self.fleet.summary().ready > 0 || !matches!(phase, Phase::Up) {
                        self.notifier.alive();
                    }
                }
            }
        }
        if let Some(printer) = self.printer.take() {
            printer.finish().await;
        }
        self.shared.endings.close();
        self.shared.endings.wait().await;
        relay.part().await;
        front.flush_log().await;
        if let Some(estate) = &estate {
            estate.dissolve();
        }
        failed.map_or(Ok(None), Err)
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What a status says that is no figure.
    fn words(&self, phase: &Phase) -> Vec<String> {
        let workers = self.processes.iter().map(|(id, process)| {
            let status = process.status.as_deref().unwrap_or_default();
            format!("{id} {} {status}", self.fleet.state_of(*id))
        });
        let mut words: Vec<String> = workers.collect();
        words.sort_unstable();
        words.push(self.status(phase));
        words.extend(self.shared.relay.hosts());
        // The same error twice is two failures.
        let failed = self.failed_reloads;
        words.push(format!("{} {failed} {:?}", self.serving, self.last_reload_error));
        words
    }

    /// Brings what is to what is wanted.
    fn take_steps(&mut self) {
        while let Some(action) = self.fleet.step(self.now()) {
            self.act(action);
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Start { slot, id, generation } => self.start(slot, id, generation),
            Action::Drain { id } => self.drain(id),
            Action::Disconnect { id } => self.disconnect(id),
            Action::Ask { id, way } => self.ask(id, way),
            Action::Kill { id, why } => self.kill(id, why),
        }
    }

    /// Tells the front-end which workers are on trial, and which will soon be replaced.
    fn publish_standing(&self) {
        let on_trial = self.fleet.on_trial();
        for (id, to_go) in self.fleet.standings() {
            if let Some(process) = self.processes.get(&id) {
                process.upstream.set_standing(on_trial == Some(process.generation), to_go);
            }
        }
    }

    fn start(&mut self, slot: usize, id: WorkerId, generation: Generation) {
        self.shared.counts.start();
        let release = &self.releases[&generation];
        match Process::start(release, id, slot, generation, &self.shared, self.printer.as_ref()) {
            Ok(process) => {
                let pid = process.worker.pid;
                let (worker, generation) = (id.0, generation.0);
                tracing::info!(
                    name: events::WORKER_STARTED,
                    worker, slot, pid, generation, "started"
                );
                self.processes.insert(id, process);
            }
            Err(error) => {
                let (worker, generation) = (id.0, generation.0);
                tracing::error!(
                    name: events::WORKER_NOT_STARTED,
                    worker, slot, generation, %error, "not started"
                );
                self.last_failure = Some((id, format!("{error}.")));
                self.shared.counts.ended.count(Cause::NotStarted);
                self.fleet.exited(id, Exit::NotStarted, self.now());
            }
        }
    }

    fn drain(&mut self, id: WorkerId) {
        self.ends(id, self.why_it_leaves(id));
        let Some(process) = self.processes.get_mut(&id) else { return };
        tracing::info!(worker = id.0, slot = process.worker.slot, "draining");
        process.drain(&self.shared);
    }

    fn disconnect(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let reload = &self.releases[&process.generation].config.reload;
        process.disconnect(reload.disconnects_per_second, &self.shared);
    }

    fn ask(&mut self, id: WorkerId, way: usize) {
        self.ends(id, Cause::Stop); // else it was drained, or is ill
        self.shared.front.remove(id);
        let Some(process) = self.processes.get(&id) else { return };
        // A reload may have changed how many ways there are.
        match self.releases[&process.generation].config.stop.method.get(way) {
            None => {}
            Some(StopMethod::Message(text)) => process.worker.send(text),
            Some(StopMethod::Signal(number)) => {
                if let Some(signal) = Signal::from_named_raw(*number) {
                    process.signal(signal);
                }
            }
        }
    }

    pub(super) fn on(&mut self, id: WorkerId, event: Event) {
        let now = self.now();
        if let Event::Exited(exit) = event {
            return self.exited(id, exit);
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        match event {
            Event::Query(query) => {
                if let Some((listeners, key)) = self.servers.query(&process.worker, query) {
                    process.upstream.open_server(&listeners, &key);
                    if let Some(at) = self.servers.shared_at(&listeners) {
                        if process.worker.peer_token().is_none() {
                            tracing::warn!(
                                worker = id.0,
                                "accepts connections without the hook: those that it has when it \
                                 is replaced will be cut"
                            );
                        }
                        process.upstream.listens_itself(at);
                    }
                    self.shared.front.serves_again(&process.upstream);
                }
            }
            Event::Listening(port) => {
                tracing::debug!(worker = id.0, port, "listens");
                self.is_ready_if_it_serves(id);
            }
            Event::StickyAnswers => {
                process.upstream.open_sticky();
                self.is_ready_if_it_serves(id);
            }
            Event::Serves => self.is_ready_if_it_serves(id),
            Event::Stopping => {
                self.shared.front.remove(id);
                self.fleet.hung_up(id, now);
            }
            Event::Alive => {
                let limit = self.releases[&process.generation].config.health.event_loop;
                process.is_alive(limit, &self.shared);
            }
            Event::SaysReady => {
                process.said_ready();
                self.is_ready_if_it_serves(id);
            }
            Event::Status(text) => process.status = Some(text),
            Event::Checked => {
                process.checked();
                self.is_ready_if_it_serves(id);
            }
            Event::NotYet(ill) => {
                tracing::debug!(worker = id.0, %ill, "not ready yet");
                process.not_yet = Some(ill);
            }
            Event::Ill(ill) => self.unwell(id, &ill),
            Event::Outgrown(used) => self.outgrown(id, used),
            Event::Close(key) => {
                process.upstream.close_server(&key);
                self.servers.close(id, &key);
            }
            Event::Leaving(seq) => {
                self.shared.front.remove(id);
                process.worker.acknowledge(seq);
            }
            Event::HungUp(ended) => {
                self.servers.leave(id);
                // Without its channel a worker is of no use; Node exits by itself then.
                match ended {
                    Ok(()) => self.fleet.hung_up(id, now),
                    Err(error) => {
                        tracing::error!(worker = id.0, %error, "killed");
                        process.ends.get_or_insert((&error).into());
                        process.kill();
                    }
                }
            }
            Event::Drained => self.fleet.drained(id),
            Event::Exited(_) => unreachable!("taken above"),
        }
    }

    pub(super) fn is_ready_if_it_serves(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let serves_all = (0..self.places.len()).all(|at| process.upstream.serves(ListenerId(at)));
        let health = &self.releases[&process.generation].config.health;
        if serves_all
            && process.is_ready(health, &self.shared)
            && self.fleet.ready(id, self.begun.elapsed())
        {
            process.serve(health, &self.shared);
            self.shared.front.add(process.upstream.clone());
            let (worker, slot, generation) = process.names();
            tracing::info!(name: events::WORKER_READY, worker, slot, generation, "ready");
        }
    }
}

async fn grown(estate: Option<&Arc<Estate>>) {
    match estate {
        Some(estate) => estate.has_grown().await,
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// For the backoff's jitter only.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
