//! What is asked of a running app from outside: reload, scale, status. Answers are given when the
//! effect is there, or with why it is not.
//!
//! One reload at a time. Those that are asked for meanwhile are one reload that begins when it has
//! ended, and reads the configuration only then.

use super::counts::Ended;
use super::fleet::{Exit, Failure, Generation, How, Outcome};
use super::handle::{Reloaded, Reply, Request, Scale, Status, WorkerStatus};
use super::output::Output;
use super::phase::Phase;
use super::release::Release;
use super::run::Supervisor;
use crate::config::{Config, Deliver};
use crate::route::Tls;
use crate::systemd::{events, unit_file};

impl Supervisor {
    /// Carries out a request, or puts its asker on the list of those who wait.
    pub(super) fn on_request(&mut self, request: Request, phase: &Phase) {
        let up = matches!(phase, Phase::Up);
        let not_up = || "the app is not up: it is being started or stopped".to_owned();
        // An asker that is gone has no use for its answer.
        match request {
            Request::Reload(reply) if up => {
                self.to_reload.push(reply);
                self.begin_reload();
            }
            Request::Scale(scale, reply) if up => self.scale(scale, reply),
            Request::Reload(reply) => drop(reply.send(Err(not_up()))),
            Request::Scale(_, reply) => drop(reply.send(Err(not_up()))),
            Request::Reexec(reply) if up => self.succeed(reply, phase),
            Request::Reexec(reply) => drop(reply.send(Err(not_up()))),
            Request::Restart(slot, reply) if up => self.restart(slot, reply),
            Request::Restart(_, reply) => drop(reply.send(Err(not_up()))),
            Request::Signal(slot, signal, reply) => drop(reply.send(self.signal(slot, signal))),
            Request::Send(slot, message, reply) => drop(reply.send(self.send(slot, &message))),
            Request::Trigger(slot, trigger, reply) => self.trigger(slot, trigger, reply),
            Request::Diff(reply) => drop(reply.send(self.differences())),
            Request::Status(reply) => drop(reply.send(Ok(self.report(self.status(phase))))),
        }
    }

    /// SIGHUP: a reload that nobody waits for.
    pub(super) fn on_hangup(&mut self, phase: &Phase) {
        let (reply, _) = tokio::sync::oneshot::channel();
        self.on_request(Request::Reload(reply), phase);
    }

    /// Tells those who wait for it what has happened meanwhile. Returns whether the fleet has to
    /// be stepped again for it: a reload has ended, or the next one has begun.
    pub(super) fn answer_who_waits(&mut self) -> bool {
        let mut changed = false;
        while let Some(outcome) = self.fleet.take_outcome() {
            self.end_reload(outcome);
            changed = true;
        }
        if !self.to_reload.is_empty() && !self.fleet.is_rolling() {
            self.begin_reload();
            changed = true;
        }
        let summary = self.fleet.summary();
        let settled =
            summary.leaving == 0 && summary.ready == summary.slots && !self.fleet.is_rolling();
        while let Some((wanted, _)) = self.scaling.front()
            && (settled || *wanted != summary.slots)
        {
            let Some((wanted, reply)) = self.scaling.pop_front() else { break };
            let _ = reply.send(if wanted == summary.slots {
                Ok(self.report(summary.to_string()))
            } else {
                Err(format!("another request set the number of workers to {}", summary.slots))
            });
        }
        self.answer_who_restarts();
        changed
    }

    fn begin_reload(&mut self) {
        if self.fleet.is_rolling() {
            return;
        }
        self.reloading = std::mem::take(&mut self.to_reload);
        let read = self.read_anew();
        match read.and_then(|read| self.metrics.prepare(&read.0).map(|()| read)) {
            Ok((config, tls)) => {
                self.last = Generation(self.last.0 + 1);
                let release = Release::new(config, tls, self.output);
                let generation = self.last.0;
                tracing::info!(name: events::RELOAD_BEGUN, generation, "reloading");
                self.fleet.roll(self.last, release.policy(), release.config.workers);
                self.releases.insert(self.last, release);
            }
            Err(error) => self.reload_failed(error, Ended::Refused),
        }
    }

    fn read_anew(&self) -> Result<(Config, Option<Tls>), String> {
        let now = &self.releases[&self.serving].config;
        let new = Config::load(&now.file).map_err(|error| error.to_string())?;
        if new.kind != now.kind {
            return Err(format!(
                "{}: kind has changed, and stays as it is in a reload: run `cohortctl add {app}` and \
                 `systemctl restart {app}`",
                new.file.display(),
                app = new.app,
            ));
        }
        let is_shared = |config: &Config| config.route.deliver == Deliver::Shared;
        if is_shared(&new) != is_shared(now) {
            return Err(format!(
                "{}: who accepts connections (deliver = \"shared\") stays as it is in a reload: run \
                 `systemctl restart {}`",
                new.file.display(),
                new.app,
            ));
        }
        if new.listen != now.listen {
            return Err(format!(
                "{}: listen has changed, and sockets stay as they are in a reload: run `cohortctl \
                 add {app}`, `systemctl stop {app}.socket {app}` and `systemctl start {app}`",
                new.file.display(),
                app = new.app,
            ));
        }
        let tls = Tls::load(&new).map_err(|error| error.to_string())?;
        if self.output == Output::Inherit {
            unit_file::compare_schedule(&new);
        }
        Ok((new, tls))
    }

    fn end_reload(&mut self, outcome: Outcome) {
        match outcome.result {
            Ok(()) => {
                self.serving = outcome.generation;
                let release = &self.releases[&self.serving];
                self.shared.front.configure(&release.config, release.tls.clone());
                self.metrics.follow(&release.config);
                self.shared.counts.reloads.count(Ended::Done);
                let generation = self.serving.0;
                tracing::info!(name: events::RELOAD_SUCCEEDED, generation, "reloaded");
                self.last_reload_error = None;
                let reloaded = Reloaded { generation: self.serving.0 };
                for reply in self.reloading.drain(..) {
                    let _ = reply.send(Ok(reloaded));
                }
            }
            Err(Failure { how: How::Stopped, .. }) => {
                // A reply that is dropped says so.
                self.reloading.clear();
                self.to_reload.clear();
            }
            Err(Failure { worker, how }) => {
                // Another may have failed since.
                let why = self.last_failure.as_ref().filter(|(id, _)| *id == worker);
                let why = why.map(|(_, why)| why.trim_end_matches('.').to_owned());
                let what = match (how, why) {
                    (How::NotReady, why) => {
                        let why = why.map(|why| format!(". {why}")).unwrap_or_default();
                        format!("worker {worker} was not ready in time{why}")
                    }
                    (How::Exited(Exit::NotStarted) | How::Unwell, Some(why)) => why,
                    (How::Unwell, None) => format!("worker {worker} did not work any more"),
                    (How::Exited(exit), _) => {
                        format!("worker {worker} ended ({exit}); its own output says why")
                    }
                    (How::Stopped, _) => unreachable!("taken above"),
                };
                let generation = outcome.generation;
                let error = format!(
                    "generation {generation} was given up: {what}. Generation {} serves on",
                    self.serving
                );
                self.reload_failed(error, Ended::RolledBack);
            }
        }
        let used: Vec<Generation> = self.processes.values().map(|p| p.generation).collect();
        let serving = self.serving;
        self.releases.retain(|generation, _| *generation == serving || used.contains(generation));
    }

    fn reload_failed(&mut self, error: String, ended: Ended) {
        self.metrics.forget();
        self.shared.counts.reloads.count(ended);
        tracing::error!(name: events::RELOAD_FAILED, error, "not reloaded");
        for reply in self.reloading.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
        self.failed_reloads += 1;
        self.last_reload_error = Some(error);
    }

    fn scale(&mut self, scale: Scale, reply: Reply<Status>) {
        let wanted = match scale {
            Scale::To(n) => i64::try_from(n).unwrap_or(i64::MAX),
            Scale::By(n) => (self.fleet.wanted() as i64).saturating_add(n),
        };
        match usize::try_from(wanted) {
            Ok(n @ 1..=1024) => {
                tracing::info!(workers = n, "scaling");
                self.fleet.scale(n);
                self.scaling.push_back((n, reply));
            }
            _ => {
                let error = format!("there can be 1 to 1024 workers, not {wanted}");
                let _ = reply.send(Err(error));
            }
        }
    }

    pub(super) fn report(&self, state: String) -> Status {
        let mut workers: Vec<WorkerStatus> = self
            .processes
            .iter()
            .map(|(id, process)| WorkerStatus {
                id: id.0,
                slot: process.worker.slot,
                generation: process.generation.0,
                pid: process.worker.pid,
                state: self.fleet.state_of(*id).to_owned(),
                uptime: process.begun.elapsed().as_secs(),
                memory: process.worker.memory(),
                status: process.status.clone(),
                in_flight: process.upstream.in_flight(),
                sessions: self.shared.front.sessions_of(*id),
                actions: process.worker.actions.known(),
                requests: process.upstream.requests(),
                event_loop_delay: process.worker.event_loop_delay().map(|d| d.as_secs_f64()),
                cpu: process.worker.cpu().map(|time| time.as_secs_f64()),
            })
            .collect();
        workers.sort_by_key(|worker| (worker.slot, worker.id));
        let config = &self.releases[&self.serving].config;
        Status {
            app: config.app.clone(),
            file: full_path(config),
            state,
            profile: config.profile.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.now().as_secs(),
            successions: self.successions,
            failures: self.shared.counts.failures(),
            generation: self.serving.0,
            wanted: self.fleet.wanted(),
            failed_reloads: self.failed_reloads,
            last_reload_error: self.last_reload_error.clone(),
            workers,
            bus: self.shared.relay.status(),
        }
    }
}

/// The configuration's file, as it is to be found from anywhere.
pub(super) fn full_path(config: &Config) -> String {
    let file = std::path::absolute(&config.file).unwrap_or_else(|_| config.file.clone());
    file.to_string_lossy().into_owned()
}
