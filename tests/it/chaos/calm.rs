//! Nothing goes wrong any more: how it should be then, and whether it comes to be so.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::excuses::Excuses;
use super::way::Worker;
use super::{GOOD, Run, Strike, id, now, pid, processes};
use crate::raw::{descriptors, memory};

/// How long it may take until everything is in order again: reloads wait for each other, and a
/// worker that hangs while it is drained has all its graces to run out.
const CALM: Duration = Duration::from_secs(180);

/// What cohortd has when nothing is under way, with two workers and the same clients.
#[derive(Debug)]
pub(super) struct Calm {
    pub(super) descriptors: usize,
    /// In MiB.
    pub(super) memory: usize,
}

impl Run {
    /// Waits until everything is in order again, and looks whether it is.
    pub(super) fn calm(&mut self) -> Calm {
        eprintln!("{:>8.3}     calm", self.seconds(now()));
        for vanishing in std::mem::take(&mut self.vanishing) {
            vanishing.join().expect("they connect");
        }
        let strikes: Vec<Strike> = std::mem::take(&mut self.strikes)
            .into_iter()
            .map(|strike| strike.join().expect("cohortd accepts connections"))
            .collect();
        let asked = std::mem::take(&mut self.asked);
        let is_answered = || asked.iter().all(JoinHandle::is_finished);
        let are_answered = self.comes_to_be("every command is answered", |_| is_answered());
        let history = self.history();
        let excuses = Excuses { history: &history, deaths: &self.deaths };
        for strike in strikes {
            if !strike.came.starts_with("200 ") && !excuses.strike(&strike) {
                self.wrong.push(format!("a request that befalls a worker: {}", strike.came));
            }
        }
        for answer in asked.into_iter().filter(|_| are_answered) {
            let answer = answer.join().expect("it ran");
            *self.answers.entry(answer.kind()).or_default() += 1;
            self.wrong.extend(answer.lie(&excuses, &self.releases));
        }
        self.comes_to_be("the workers that were asked for last", Run::is_settled);
        // The same for every calm: two workers of a new release.
        self.write(GOOD);
        let output = self.ctl("reload", &[]);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            self.wrong.push(format!("a good reload in the calm failed: {error}"));
        }
        self.comes_to_be("two new workers", |run| {
            run.is_settled() && run.history().wanted == GOOD.workers
        });
        self.storm.pause();
        self.comes_to_be("no other process", |run| run.strangers().is_empty());
        let notify = if self.toml.contains("\"notify\"") { GOOD.workers } else { 0 };
        self.comes_to_be("no other socket", |run| run.sockets() == 1 + notify);
        if !self.comes_to_be("order", |run| run.app.disorder(&run.workers()).is_empty()) {
            self.wrong.extend(self.app.disorder(&self.workers()));
        }
        self.rest()
    }

    /// Connections that were kept for a moment are closed after some seconds.
    fn rest(&self) -> Calm {
        let pid = self.app.pid();
        let mut least = usize::MAX;
        for _ in 0..60 {
            least = least.min(descriptors(pid));
            thread::sleep(Duration::from_millis(100));
        }
        let calm = Calm { descriptors: least, memory: memory(pid) };
        eprintln!("{calm:?}");
        calm
    }

    fn comes_to_be(&mut self, what: &str, so: impl FnMut(&Run) -> bool) -> bool {
        self.comes_to_be_within(CALM, what, so)
    }

    pub(super) fn comes_to_be_within(
        &mut self,
        limit: Duration,
        what: &str,
        mut so: impl FnMut(&Run) -> bool,
    ) -> bool {
        let end = Instant::now() + limit;
        while !so(self) {
            if Instant::now() > end {
                let shown = self.show();
                self.wrong.push(format!("not after {limit:?}: {what}; {shown:#}"));
                return false;
            }
            thread::sleep(Duration::from_millis(100));
        }
        true
    }

    pub(super) fn workers(&self) -> Vec<Worker> {
        let shown = self.show();
        let workers = shown["workers"].as_array().expect("a list");
        workers.iter().map(|worker| (id(worker), pid(worker))).collect()
    }

    /// The workers that there should be, all ready, all of the generation that serves.
    pub(super) fn is_settled(&self) -> bool {
        let (shown, history) = (self.show(), self.history());
        let workers = shown["workers"].as_array().expect("a list");
        let slots: Vec<u64> = workers.iter().filter_map(|w| w["slot"].as_u64()).collect();
        let is_well = |worker: &Value| {
            worker["state"] == "ready"
                && worker["generation"] == history.serving
                && !history.struck.contains(&id(worker)) // or it is yet to be found ill
        };
        !history.rolling
            && shown["generation"] == history.serving
            && shown["wanted"] == history.wanted
            && slots == (0..history.wanted as u64).collect::<Vec<_>>()
            && workers.iter().all(is_well)
    }

    /// Processes that are none of its own.
    pub(super) fn strangers(&self) -> Vec<i32> {
        let workers: Vec<i32> = self.workers().into_iter().map(|(_, pid)| pid).collect();
        processes::strangers(self.app.name(), self.app.pid(), &workers)
    }

    /// In the app's folder below `/run`, where its user may have a file for the workers as well.
    pub(super) fn sockets(&self) -> usize {
        let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
        fs::read_dir(self.folder()).map_or(0, |all| all.flatten().filter(is_socket).count())
    }

    pub(super) fn folder(&self) -> PathBuf {
        Path::new("/run/cohortd").join(self.app.name())
    }
}
