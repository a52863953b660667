//! What the log tells of workers and reloads, and what it excuses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::decisions::Release;
use super::number_after;

/// The log, a client and a command may be so many ms apart in what they take for the same moment,
/// on a machine that has other things to do.
const APART: u64 = 2000;

/// `[route] queue` of the app.
pub(super) const QUEUE: u64 = 8000;

/// One worker's life. Times are in ms since 1970.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) generation: u64,
    pub(super) started: u64,
    pub(super) ready: Option<u64>,
    /// It is drained, found ill, or gone.
    pub(super) leaves: Option<u64>,
    /// When it was gone, and how.
    pub(super) end: Option<(u64, String)>,
    /// cohortd had to.
    killed: bool,
}

impl Life {
    /// It ended in the middle of its work, and not because it was asked to.
    fn died(&self, is_struck: bool) -> Option<u64> {
        let (at, how) = self.end.as_ref()?;
        // How one ends that another cohortd has started is not known.
        let may_have_stopped = how.starts_with("stopped: unknown") && !self.killed && !is_struck;
        let has_stopped = how == "stopped: signal 15" || may_have_stopped;
        (self.ready.is_some() && !has_stopped).then_some(*at)
    }
}

/// Everything up to now.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) workers: BTreeMap<u64, Life>,
    /// Those that something befell.
    pub(super) struck: BTreeSet<u64>,
    /// How many were so by a request to crash.
    pub(super) crashed: usize,
    /// Which release a generation is, if one of its workers came to say so.
    pub(super) releases: BTreeMap<u64, usize>,
    /// How the reload to a generation ended.
    pub(super) outcomes: BTreeMap<u64, Result<(), String>>,
    /// The generation that every worker should be of when nothing is under way.
    pub(super) serving: u64,
    /// The number that there should be.
    pub(super) wanted: usize,
    pub(super) rolling: bool,
    pub(super) panicked: bool,
}

impl History {
    /// Reads the log of an app that began at `begun` with the first of these releases. Some workers
    /// were `struck` by a signal; others have said themselves what a request did to them.
    pub(super) fn of(
        log: &str,
        begun: u64,
        releases: &[Release],
        struck: &BTreeSet<u64>,
    ) -> History {
        let wanted = releases[0].workers;
        let struck = struck.clone();
        let mut history = History { serving: 1, wanted, struck, ..History::default() };
        let mut boots = Vec::new();
        for line in log.lines() {
            history.panicked |= line.contains("panicked at");
            match line.split_once("| {").map(|(_, json)| format!("{{{json}")) {
                Some(json) => history.worker_says(&json, &mut boots),
                None => history.cohortd_says(line, begun),
            }
        }
        for (worker, release) in boots {
            if let Some(life) = history.workers.get(&worker) {
                history.releases.insert(life.generation, release);
            }
        }
        history.replay(log, releases);
        history
    }

    fn worker_says(&mut self, json: &str, boots: &mut Vec<(u64, usize)>) {
        let Ok(said) = serde_json::from_str::<Value>(json) else { return };
        let Some(worker) = said["worker"].as_u64() else { return };
        match said["event"].as_str() {
            Some("boot") => boots.extend(said["release"].as_u64().map(|r| (worker, r as usize))),
            Some("struck") => {
                self.struck.insert(worker);
                self.crashed += usize::from(said["how"] == "crash");
            }
            _ => {}
        }
    }

    fn cohortd_says(&mut self, line: &str, begun: u64) {
        let (Some(at), Some(worker)) = (uptime(line), number_after(line, "worker=")) else {
            return;
        };
        let at = begun + at;
        let life = self.workers.entry(worker).or_default();
        let exit = || line.split_once("exit=").map_or("", |(_, exit)| exit.trim());
        if line.contains(" started worker=") {
            life.generation = number_after(line, "generation=").unwrap_or_default();
            life.started = at;
        } else if line.contains(" ready worker=") {
            life.ready = Some(at);
        } else if line.contains(" exited worker=") {
            life.end = Some((at, format!("exited: {}", exit())));
        } else if line.contains(" stopped worker=") {
            life.end = Some((at, format!("stopped: {}", exit())));
        } else if line.contains(" can't go on with it worker=") {
            // It has ended while there was no cohortd.
            let how = if life.leaves.is_some() { "stopped" } else { "exited" };
            life.end = Some((at, format!("{how}: unknown")));
        } else if line.contains(" did not stop in time; killed worker=")
            || line.contains(" unwell; killed worker=")
        {
            life.killed = true;
        } else if !line.contains(" draining worker=") {
            return;
        }
        if !line.contains(" started worker=") && !line.contains(" ready worker=") {
            life.leaves.get_or_insert(at);
        }
    }

    /// What the answers to `reload` and `scale` add up to.
    fn replay(&mut self, log: &str, releases: &[Release]) {
        let (mut rolling, mut before) = (None, self.wanted);
        for line in log.lines().filter(|line| uptime(line).is_some()) {
            if let Some(to) = number_after(line, " reloading generation=") {
                rolling = Some(to);
                before = self.wanted;
                // Unknown: none of its workers lived long enough, so it will fail.
                let release = self.releases.get(&to).and_then(|&at| releases.get(at));
                self.wanted = release.map_or(before, |release| release.workers);
            } else if line.contains(" going on with the workers") {
                // One that had none of its workers yet was not under way, and its asker knows.
                let is_there = |to: &u64| self.workers.values().any(|w| w.generation == *to);
                if rolling.take_if(|to| !is_there(to)).is_some() {
                    self.wanted = before;
                }
            } else if let Some(n) = number_after(line, " scaling workers=") {
                self.wanted = n as usize;
                before = self.wanted;
            } else if let Some(to) = number_after(line, " reloaded generation=") {
                self.serving = to;
                self.outcomes.insert(to, Ok(()));
                rolling = None;
            } else if let Some((_, why)) = line.split_once(" not reloaded error=")
                && let Some(to) = rolling.take_if(|_| why.contains(" was given up"))
            {
                self.wanted = before;
                self.outcomes.insert(to, Err(why.to_owned()));
            }
        }
        self.rolling = rolling.is_some();
    }

    /// How many workers died in the middle of their work in this time.
    pub(super) fn deaths(&self, from: u64, to: u64) -> usize {
        let within = |at: &u64| (from.saturating_sub(APART)..=to + APART).contains(at);
        let died = |(id, life): (&u64, &Life)| life.died(self.struck.contains(id));
        self.workers.iter().filter_map(died).filter(within).count()
    }

    /// Whether a request may have waited in vain until this moment: nobody was ready for all that
    /// time, because what was to be the next one was struck as well.
    fn nobody_was_ready(&self, at: u64) -> bool {
        let (from, to) = (at - QUEUE + APART, at - APART);
        let was_ready = |life: &Life| {
            life.ready.is_some_and(|ready| ready < to && life.leaves.is_none_or(|at| at > from))
        };
        let was_struck = |(id, life): (&u64, &Life)| {
            let end = life.end.as_ref().map_or(u64::MAX, |(at, _)| *at);
            self.struck.contains(id) && life.ready.is_none() && life.started < to && end > from
        };
        !self.workers.values().any(was_ready) && self.workers.iter().any(was_struck)
    }

    /// Whether a request of this kind may have gone wrong in this way.
    pub(super) fn excuses(&self, kind: &str, what: &str, from: u64, at: u64) -> bool {
        let deaths = self.deaths(from, at);
        match kind {
            // What may be repeated is, once: it takes two workers that die with it.
            "kept" | "new" | "slow" => match what.split(' ').next() {
                Some("502") => deaths >= 2,
                Some("503") => self.nobody_was_ready(at),
                _ => false,
            },
            "upload" | "strike" => match what.split(' ').next() {
                Some("502") => deaths >= 1,
                Some("503") => self.nobody_was_ready(at),
                _ => false,
            },
            // Its beginning has been passed on: what is missing can only be shown by a cut.
            "stream" => match what.split(' ').next() {
                Some("502") => deaths >= 2,
                Some("503") => self.nobody_was_ready(at),
                Some("cut") => deaths >= 1,
                _ => false,
            },
            // Many requests, some of which can't be repeated.
            "polling" | "websocket" | "upgraded" | "pausing" => {
                what != "no answer" && !what.starts_with("worker ") && deaths >= 1
            }
            _ => false,
        }
    }

    /// Whether a session's connection may have ended in this way: never before its worker leaves,
    /// and properly if that was asked to.
    pub(super) fn excuses_end(&self, worker: Option<u64>, why: &str, from: u64, at: u64) -> bool {
        let proper = match why {
            "transport close" | "transport close 1012" => true,
            // It had nothing under way, so nobody could tell it.
            "unknown" => true,
            // So late a request that its session was long over. Any worker may say that, or die.
            "transport error (xhr post error 400)" => true,
            "transport error (xhr post error 502)" => self.deaths(at, at) > 0,
            _ => false,
        };
        let left = |life: &Life| life.leaves.is_some_and(|leaves| leaves <= at + APART);
        match worker.and_then(|id| Some((id, self.workers.get(&id)?))) {
            Some((id, life)) => {
                left(life) && (proper || life.died(self.struck.contains(&id)).is_some())
            }
            // It ended before its client came to ask who serves it.
            None => self
                .workers
                .values()
                .any(|life| left(life) && life.leaves.is_some_and(|leaves| leaves + APART >= from)),
        }
    }
}

/// The time of one of cohortd's own lines, in ms since its start.
fn uptime(line: &str) -> Option<u64> {
    let (time, rest) = line.trim_start().split_once("s ")?;
    let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
    levels.iter().find(|level| rest.trim_start().starts_with(*level))?;
    time.parse::<f64>().ok().map(|seconds| (seconds * 1000.0) as u64)
}
