//! What is asked of single workers from outside: to be replaced, signals, messages, custom actions;
//! and in what the file is not what runs.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use super::fleet::Renewed;
use super::handle::{Answer, Differences, Reached, Reply, Restarted, Trigger, Triggered};
use super::process::Process;
use super::requests::full_path;
use super::run::Supervisor;
use crate::config::{Config, Kind};
use crate::worker::WorkerId;

/// How long answers to a custom action may be waited for.
const MAX_WAIT: u64 = 3600;

/// Somebody waits until a slot has another worker than those before.
#[derive(Debug)]
pub(super) struct Restarting {
    slot: usize,
    before: Vec<WorkerId>,
    reply: Reply<Restarted>,
}

impl Supervisor {
    pub(super) fn restart(&mut self, slot: usize, reply: Reply<Restarted>) {
        let refused = if self.fleet.is_rolling() {
            "a reload is under way, which replaces every worker".to_owned()
        } else if let Some(before) = self.fleet.renew(slot) {
            tracing::info!(slot, "restarting");
            return self.restarting.push(Restarting { slot, before, reply });
        } else {
            self.no_such_slot(slot)
        };
        let _ = reply.send(Err(refused));
    }

    /// Tells those who wait for a restart what has come of it.
    pub(super) fn answer_who_restarts(&mut self) {
        for Restarting { slot, before, reply } in std::mem::take(&mut self.restarting) {
            let answer = match self.fleet.renewed(slot, &before) {
                Renewed::Pending => {
                    self.restarting.push(Restarting { slot, before, reply });
                    continue;
                }
                Renewed::Serves(worker) => Ok(Restarted { slot, worker: worker.0 }),
                Renewed::Gone => Err(self.no_such_slot(slot)),
                Renewed::Failed => {
                    let why = self.last_failure.as_ref().map(|(_, why)| format!(" {why}"));
                    Err(format!(
                        "slot {slot} had a failure meanwhile, and is tried again.{}",
                        why.unwrap_or_default()
                    ))
                }
            };
            let _ = reply.send(answer);
        }
    }

    pub(super) fn signal(&self, slot: Option<usize>, number: i32) -> Result<Reached, String> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| format!("there is no signal with the number {number}"))?;
        self.reach(slot, |process| process.signal(signal))
    }

    pub(super) fn send(&self, slot: Option<usize>, message: &Value) -> Result<Reached, String> {
        let config = &self.releases[&self.serving].config;
        if config.kind != Kind::Node {
            return Err("its workers have no channel for messages: they are not of Node".to_owned());
        }
        self.reach(slot, |process| process.worker.send(message))
    }

    /// Has each worker that is meant carry out the action, and answers when all have, or the time is
    /// over.
    pub(super) fn trigger(
        &self,
        slot: Option<usize>,
        Trigger { action, parameter, timeout }: Trigger,
        reply: Reply<Triggered>,
    ) {
        let meant = match self.meant(slot) {
            Ok(meant) => meant,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let workers: Vec<_> = meant.into_iter().map(|process| process.worker.clone()).collect();
        let mut known: Vec<String> = workers.iter().flat_map(|w| w.actions.known()).collect();
        known.sort_unstable();
        known.dedup();
        if !known.contains(&action) {
            let error = match known.as_slice() {
                [] => "the app has announced no custom actions".to_owned(),
                known => format!("there is no action \"{action}\": {}", known.join(", ")),
            };
            return drop(reply.send(Err(error)));
        }
        let limit = Duration::from_secs(timeout.min(MAX_WAIT));
        tokio::spawn(async move {
            let asked = workers.into_iter().map(|worker| {
                let (action, parameter) = (action.clone(), parameter.clone());
                async move {
                    let answer = worker.trigger(&action, parameter.as_ref());
                    let (answer, error) = match tokio::time::timeout(limit, answer).await {
                        Ok(Ok(answer)) => (Some(answer), None),
                        Ok(Err(error)) => (None, Some(error.to_string())),
                        Err(_) => (None, Some(format!("no answer within {} s", limit.as_secs()))),
                    };
                    Answer { worker: worker.id.0, slot: worker.slot, answer, error }
                }
            });
            let mut answers = asked.collect::<JoinSet<Answer>>().join_all().await;
            answers.sort_by_key(|answer| (answer.slot, answer.worker));
            let _ = reply.send(Ok(Triggered { answers })); // its asker may have given up
        });
    }

    pub(super) fn differences(&self) -> Result<Differences, String> {
        let now = &self.releases[&self.serving].config;
        let new = Config::load(&now.file).map_err(|error| error.to_string())?;
        let mut differences = now.differences(&new);
        // What it was scaled to since.
        if self.fleet.wanted() != now.workers {
            differences.retain(|difference| difference.key != "workers");
            differences.extend(now.scaled(self.fleet.wanted(), &new));
        }
        Ok(Differences { file: full_path(now), differences })
    }

    fn reach(&self, slot: Option<usize>, act: impl Fn(&Process)) -> Result<Reached, String> {
        let meant = self.meant(slot)?;
        meant.iter().for_each(|process| act(process));
        Ok(Reached { workers: meant.iter().map(|process| process.worker.id.0).collect() })
    }

    /// The workers of a slot, or all, by slot and age: those that serve or may come to, and where a
    /// slot has none, those that are leaving.
    fn meant(&self, slot: Option<usize>) -> Result<Vec<&Process>, String> {
        let mut meant: Vec<&Process> = self
            .processes
            .values()
            .filter(|process| slot.is_none_or(|slot| process.worker.slot == slot))
            .collect();
        if meant.iter().any(|process| !self.fleet.is_leaving(process.worker.id)) {
            meant.retain(|process| !self.fleet.is_leaving(process.worker.id));
        }
        meant.sort_by_key(|process| (process.worker.slot, process.worker.id));
        match slot {
            _ if !meant.is_empty() => Ok(meant),
            Some(slot) if slot < self.fleet.wanted() => {
                Err(format!("slot {slot} has no worker at the moment"))
            }
            Some(slot) => Err(self.no_such_slot(slot)),
            None => Err("there is no worker at the moment".to_owned()),
        }
    }

    fn no_such_slot(&self, slot: usize) -> String {
        match self.fleet.wanted() {
            1 => format!("there is no slot {slot}: only slot 0"),
            n => format!("there is no slot {slot}: they are 0 to {}", n - 1),
        }
    }
}
