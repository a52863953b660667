//! How workers end: why, and what is said of it.

use rustix::process::Signal;

use super::counts::Cause;
use super::fleet::{Exit, Why};
use super::health::Ill;
use super::process::Process;
use super::run::{RunError, Supervisor};
use crate::config::OnHang;
use crate::route::ListenerId;
use crate::systemd::events;
use crate::worker::WorkerId;

impl Supervisor {
    pub(super) fn kill(&mut self, id: WorkerId, why: Why) {
        match why {
            Why::NotReady => self.ends(id, Cause::NotReady),
            Why::GivenUp => self.ends(id, self.why_it_leaves(id)),
            // It has left by itself, unless there is a cause already.
            Why::NotStopped => self.ends(id, Cause::Exit),
            Why::Unwell => {}
        }
        self.shared.front.remove(id);
        let Some(process) = self.processes.get(&id) else { return };
        let (worker, slot, generation) = process.names();
        match why {
            Why::NotReady => {
                let reason = self.why_not_ready(process);
                tracing::error!(
                    name: events::WORKER_KILLED,
                    worker, slot, generation, reason, "not ready in time; killed"
                );
                self.last_failure = Some((id, reason));
            }
            Why::NotStopped => tracing::warn!(
                name: events::WORKER_KILLED,
                worker, slot, generation, "did not stop in time; killed"
            ),
            Why::Unwell => {
                if self.releases[&process.generation].config.health.on_hang == OnHang::Abort {
                    process.signal(Signal::ABORT);
                    return process.signal(Signal::CONT); // or it would not notice
                }
            }
            Why::GivenUp => tracing::info!(
                name: events::WORKER_KILLED,
                worker, slot, generation, "not needed any more; killed"
            ),
        }
        process.kill();
    }

    /// A worker does not work any more: it is killed, and replaced.
    pub(super) fn unwell(&mut self, id: WorkerId, ill: &Ill) {
        let Some(process) = self.processes.get(&id) else { return };
        if !self.fleet.unwell(id) {
            return; // it is leaving anyway
        }
        let (worker, slot, generation) = process.names();
        tracing::error!(
            name: events::WORKER_HUNG,
            worker, slot, generation, %ill, "unwell; killed"
        );
        self.last_failure = Some((id, format!("Worker {id} was unwell: {ill}.")));
        self.ends(id, ill.into());
        self.shared.front.remove(id);
    }

    /// A worker has become too big: another takes its place.
    pub(super) fn outgrown(&mut self, id: WorkerId, used: usize) {
        if !self.fleet.recycle(id, self.now()) {
            return;
        }
        let Some(process) = self.processes.get(&id) else { return };
        let used = format!("{} MiB", used >> 20);
        let (worker, slot, generation) = process.names();
        tracing::warn!(
            name: events::WORKER_RECYCLED,
            worker, slot, generation, used, "uses more than [memory] recycle_at: replaced"
        );
        self.ends(id, Cause::Memory);
        let reason = format!("Worker {id} used {used} ([memory] recycle_at).");
        self.last_failure = Some((id, reason));
    }

    pub(super) fn exited(&mut self, id: WorkerId, exit: Exit) {
        let expected = self.fleet.is_leaving(id);
        self.fleet.exited(id, exit, self.now());
        self.shared.front.remove(id);
        self.shared.relay.leave(id);
        self.servers.leave(id);
        let Some(process) = self.processes.remove(&id) else { return };
        process.worker.hang_up();
        self.shared.front.recover(&process.upstream);
        let (worker, slot, generation) = process.names();
        self.shared.counts.ended.count(process.ends.unwrap_or(exit.into()));
        process.upstream.counts.leave(process.worker.last_cpu());
        if expected {
            tracing::info!(
                name: events::WORKER_EXITED,
                worker, slot, generation, %exit, "stopped"
            );
        } else {
            tracing::warn!(
                name: events::WORKER_CRASHED,
                worker, slot, generation, %exit, "exited"
            );
            self.last_failure.get_or_insert_with(|| {
                let what = "before it was ready; its own output says why";
                (id, format!("A worker exited ({exit}) {what}."))
            });
        }
    }

    /// A worker is to end for this reason, unless there was one before.
    pub(super) fn ends(&mut self, id: WorkerId, cause: Cause) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.ends.get_or_insert(cause);
        }
    }

    /// Why a worker is to go with which nothing is wrong.
    pub(super) fn why_it_leaves(&self, id: WorkerId) -> Cause {
        match self.processes.get(&id) {
            Some(process) if process.worker.slot >= self.fleet.wanted() => Cause::Scale,
            Some(process) if process.generation == self.serving && !self.fleet.is_rolling() => {
                Cause::Request
            }
            _ => Cause::Reload,
        }
    }

    pub(super) fn not_ready(&self) -> RunError {
        let reason = self.last_failure.clone().map(|(_, why)| why).unwrap_or_default();
        RunError::NotReady { reason }
    }

    /// What a worker that was not ready in time has done and what it has not.
    fn why_not_ready(&self, process: &Process) -> String {
        let missing: Vec<String> = self
            .places
            .iter()
            .enumerate()
            .filter(|(at, _)| !process.upstream.serves(ListenerId(*at)))
            .map(|(_, place)| place.to_string())
            .collect();
        let config = &self.releases[&process.generation].config;
        let seconds = config.ready.timeout.as_secs_f64();
        if missing.is_empty() {
            let what = process.what_is_missing(config);
            return format!("After {seconds} s ([ready] timeout) {what}.");
        }
        let opened = self.servers.opened_by(process.worker.id);
        let mut reason = format!(
            "After {seconds} s ([ready] timeout) nothing in the worker serves {}",
            missing.join(" and ")
        );
        if opened.is_empty() {
            reason += ": it has opened no server, and @socket.io/sticky does not answer.";
        } else {
            reason += &format!(
                "; it has opened {}. Let listen name the port that the app opens, or let the app \
                 open process.env.PORT.",
                opened.join(", ")
            );
        }
        reason
    }
}
