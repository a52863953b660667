//! What the log tells of workers and reloads.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::decisions::Release;
use super::number_after;
use super::storm::Death;

/// In ms: what the log tells is written down for a successor a moment later, and journald may take a
/// moment to read it.
const NOTED: u64 = 250;

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
    /// When it ended in the middle of its work, and not because it was asked to.
    pub(super) fn died(&self, is_struck: bool) -> Option<u64> {
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
    /// were `struck` by a signal; others have said themselves what a request did to them. cohortd's own
    /// `deaths` are known.
    pub(super) fn of(
        log: &str,
        begun: u64,
        releases: &[Release],
        struck: &BTreeSet<u64>,
        deaths: &[Death],
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
        history.replay(log, begun, releases, deaths);
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
    fn replay(&mut self, log: &str, begun: u64, releases: &[Release], deaths: &[Death]) {
        let (mut rolling, mut before, mut last) = (None, self.wanted, begun);
        for line in log.lines() {
            let Some(at) = uptime(line).map(|at| begun + at) else { continue };
            if let Some(to) = number_after(line, " reloading generation=") {
                rolling = Some(to);
                before = self.wanted;
                // Unknown: none of its workers lived long enough, so it will fail.
                let release = self.releases.get(&to).and_then(|&at| releases.get(at));
                self.wanted = release.map_or(before, |release| release.workers);
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
            } else if line.contains(" going on with the workers") {
                // What was begun or ended at that very moment, the next one may not know of; who asked
                // for it has been told nothing.
                let at_once =
                    |death: &Death| death.from <= last + NOTED && last <= death.to + NOTED;
                if deaths.iter().any(at_once) {
                    rolling = number_after(line, " reloading=");
                    let wanted = number_after(line, " wanted=");
                    self.wanted = wanted.map_or(self.wanted, |wanted| wanted as usize);
                }
                continue;
            } else {
                continue;
            }
            last = at;
        }
        self.rolling = rolling.is_some();
    }

    /// How many workers died in the middle of their work in this time.
    pub(super) fn died(&self, from: u64, to: u64) -> usize {
        let died = |(id, life): (&u64, &Life)| life.died(self.struck.contains(id));
        self.workers.iter().filter_map(died).filter(|at| (from..=to).contains(at)).count()
    }
}

/// The time of one of cohortd's own lines, in ms since its start.
fn uptime(line: &str) -> Option<u64> {
    let (time, rest) = line.trim_start().split_once("s ")?;
    let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
    levels.iter().find(|level| rest.trim_start().starts_with(*level))?;
    time.parse::<f64>().ok().map(|seconds| (seconds * 1000.0) as u64)
}

/// A reload that the next cohortd does not know of may only be one that a kill followed at once.
#[test]
fn what_was_not_noted_is_forgotten() {
    let begun = 1_000_000;
    let of = |killed: u64, knows: &str| {
        let log = format!(
            "1.000000s  INFO reloading generation=2\n\
             1.010000s  INFO started worker=3 slot=0 pid=9 generation=2\n\
             3.000000s  INFO going on with the workers workers=2 wanted=2{knows} before=\"0.1.0\"\n"
        );
        let release = Release { workers: 2, fault: None };
        let deaths = [Death { from: begun + killed, to: begun + killed + 5 }];
        History::of(&log, begun, &[release], &BTreeSet::new(), &deaths).rolling
    };
    assert!(!of(1020, "") && of(1020, " reloading=2"));
    assert!(of(2000, "") && of(2000, " reloading=2"));
}
