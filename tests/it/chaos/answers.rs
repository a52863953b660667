//! What `cohortctl` is answered while everything goes wrong, and whether it is the truth.

use std::thread::{self, JoinHandle};

use super::decisions::{Fault, Release};
use super::excuses::Excuses;
use super::history::History;
use super::{now, number_after};
use crate::app::cohortctl;

/// Everything that has been in the app's file, by number, and since when (ms since 1970).
#[derive(Debug, Default)]
pub(super) struct Releases {
    pub(super) all: Vec<Release>,
    written: Vec<u64>,
}

impl Releases {
    /// The next one is in the file now.
    pub(super) fn push(&mut self, release: Release) {
        self.all.push(release);
        self.written.push(now());
    }

    /// Those that the file was of at some time from one moment to another.
    fn in_place(&self, from: u64, at: u64) -> Vec<usize> {
        let until = |release: usize| self.written.get(release + 1).copied().unwrap_or(u64::MAX);
        (0..self.written.len()).filter(|&i| self.written[i] <= at && until(i) >= from).collect()
    }
}

/// What a command was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) command: &'static str,
    pub(super) number: Option<usize>,
    pub(super) from: u64,
    pub(super) at: u64,
    pub(super) code: Option<i32>,
    pub(super) said: String,
}

/// Runs `cohortctl COMMAND APP [NUMBER]`.
pub(super) fn ask(app: &str, command: &'static str, number: Option<usize>) -> JoinHandle<Answer> {
    let app = app.to_owned();
    thread::spawn(move || {
        let from = now();
        let mut line = cohortctl();
        line.args([command, &app]).args(number.map(|number| number.to_string()));
        let output = line.output().expect("cohortctl starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Answer { command, number, from, at: now(), code: output.status.code(), said }
    })
}

impl Answer {
    /// The command, and how it ended.
    pub(super) fn kind(&self) -> String {
        match self.code {
            Some(code) => format!("{} {code}", self.command),
            None => format!("{} killed", self.command),
        }
    }

    /// Why it is not true, if it is not.
    pub(super) fn lie(&self, excuses: &Excuses, releases: &Releases) -> Option<String> {
        if excuses.answer(self) {
            return None;
        }
        let history = excuses.history;
        let why = match (self.command, self.code) {
            ("reexec", Some(0)) => None,
            ("scale", Some(0)) => {
                let n = self.number.unwrap_or_default();
                let many = self.said.contains(&format!("{n}/{n} workers ready"));
                (!many).then_some("not that many")
            }
            ("scale", Some(1)) => {
                let other =
                    number_after(&self.said, "another request set the number of workers to ");
                let is_other = other.is_some_and(|n| Some(n as usize) != self.number);
                (!is_other).then_some("no reason")
            }
            ("reload" | "systemctl reload", Some(0)) => self.success(history, releases),
            ("reload" | "systemctl reload", Some(1)) => self.failure(history, releases),
            _ => Some("an exit code that it does not have"),
        };
        why.map(|why| format!("{why}: {self:?}"))
    }

    fn success(&self, history: &History, releases: &Releases) -> Option<&'static str> {
        let Some(generation) = number_after(&self.said, "generation ") else {
            return Some("no generation");
        };
        let Some(release) = history.releases.get(&generation) else {
            return Some("none of its workers was ever there");
        };
        if history.outcomes.get(&generation) != Some(&Ok(())) {
            Some("it did not end so")
        } else if releases.all[*release].fault.is_some() {
            Some("that release is broken")
        } else {
            let was_there = releases.in_place(self.from, self.at).contains(release);
            (!was_there).then_some("that is another release")
        }
    }

    fn failure(&self, history: &History, releases: &Releases) -> Option<&'static str> {
        let in_place = releases.in_place(self.from, self.at);
        let was_there = |fault| in_place.iter().any(|at| releases.all[*at].fault == Some(fault));
        if self.said.contains("unknown key `wokers`") {
            return (!was_there(Fault::Misspelt)).then_some("the file was right");
        }
        let Some(generation) = number_after(&self.said, "generation ") else {
            return Some("no generation");
        };
        if !matches!(history.outcomes.get(&generation), Some(Err(_))) {
            return Some("it did not end so");
        }
        if self.said.contains("can't start \"/nonesuch\"") {
            return (!was_there(Fault::Missing)).then_some("its program is there");
        }
        // Who is named has to be to blame: because it was struck, or by its release.
        let Some(worker) = number_after(&self.said, "orker ") else {
            return Some("nobody is named");
        };
        if history.struck.contains(&worker) {
            return None;
        }
        match history.releases.get(&generation) {
            None => Some("none of its workers was ever there"),
            Some(release) if !in_place.contains(release) => Some("that is another release"),
            Some(release) if releases.all[*release].fault.is_none() => {
                Some("that release is good, and that worker was let alone")
            }
            Some(_) => None,
        }
    }
}
