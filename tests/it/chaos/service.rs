//! The app as a service of the systemd that this process runs under: see `inside`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use super::answers::{Answer, ask};
use super::journal::{Journal, reload_said};
use super::now;
use super::processes::{is_keeper, parent};
use super::way::{Way, Worker};
use crate::app::{Spec, until};

const APP: &str = "myapp";
const UNITS: &str = "myapp.service myapp@cluster.service myapp.socket";
const CGROUP: &str = "/sys/fs/cgroup/system.slice/myapp.service";

pub(super) struct Service {
    kind: &'static str,
    address: String,
    file: PathBuf,
    /// The first one.
    pid: i32,
    /// How often it was killed.
    killed: Cell<usize>,
    journal: Journal,
}

impl Service {
    /// Adds it and starts it. Its log counts from `begun`, in ms since 1970, and its file is of this
    /// kind.
    pub(super) fn start(kind: &'static str, spec: &Spec, begun: u64) -> Service {
        let file = PathBuf::from(format!("/etc/cohortd/{APP}.toml"));
        fs::create_dir_all("/etc/cohortd").expect("made");
        spec.write(&file);
        ok(&format!("cohortctl add {APP} --user {APP}"));
        ok("systemctl set-environment COHORTD_LOG=debug");
        ok(&format!("systemctl start {APP}@cluster"));
        let (pid, killed) = (main_pid(), Cell::new(0));
        let journal = Journal::new(APP, begun);
        Service { kind, address: spec.address().to_owned(), file, pid, killed, journal }
    }
}

impl Way for Service {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn name(&self) -> &str {
        APP
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn pid(&self) -> i32 {
        main_pid()
    }

    fn comes_back(&self) -> bool {
        true
    }

    fn next_to_die(&self, last: i32) -> i32 {
        self.killed.set(self.killed.get() + 1);
        let mut pid = 0;
        // For a moment there is none.
        until(|| {
            pid = main_pid();
            ![0, last].contains(&pid)
        });
        pid
    }

    fn log(&self) -> String {
        self.journal.log()
    }

    fn hang_up(&self) {
        // There may be nobody just then.
        run(&format!("systemctl kill -s HUP --kill-whom=main {APP}"));
    }

    /// By `systemctl` and by `cohortctl` in turn.
    fn reload(&self, release: usize) -> JoinHandle<Answer> {
        if release.is_multiple_of(2) {
            return ask(APP, "reload", None);
        }
        thread::spawn(move || {
            let from = now();
            let code = run(&format!("systemctl reload {APP}")).status.code();
            let at = now();
            let said = reload_said(APP, from, code == Some(0));
            Answer { command: "systemctl reload", number: None, from, at, code, said }
        })
    }

    fn disorder(&self, workers: &[Worker]) -> Vec<String> {
        let mut wrong = Wrong(strays(self.pid(), workers));
        wrong.unless("the state", &states(), "active active active");
        if self.killed.get() == 0 {
            wrong.unless("MainPID", &show("MainPID"), &self.pid.to_string());
        }
        wrong.0.extend(self.restarts());
        wrong.unless("what has failed", &failed(), "");
        wrong.0
    }

    fn end(&mut self) -> Vec<String> {
        let mut wrong = Wrong::default();
        let stopped = run(&format!("systemctl stop {APP}"));
        wrong.unless("the stop's answer", &stopped.status.to_string(), "exit status: 0");
        let inactive = "inactive inactive inactive";
        until(|| states() == inactive); // the handle and the socket follow
        wrong.unless("the state", &states(), inactive);
        wrong.unless("Result", &show("Result"), "success");
        wrong.unless("ExecMainStatus", &show("ExecMainStatus"), "0");
        wrong.0.extend(self.restarts());
        wrong.unless("what has failed", &failed(), "");
        wrong.unless("its cgroups", &format!("{:?}", cgroups()), "{}");
        let folders = fs::read_dir("/run/cohortd").map_or(0, Iterator::count);
        wrong.unless("what is left in /run/cohortd", &folders.to_string(), "0");
        wrong.0
    }
}

impl Service {
    /// It has ended by itself, then. A client that finds nobody makes systemd start it at once, and
    /// that is not counted.
    fn restarts(&self) -> Option<String> {
        let (restarts, killed) = (show("NRestarts"), self.killed.get());
        let is_right = restarts.parse::<usize>().is_ok_and(|n| n <= killed);
        (!is_right).then(|| format!("NRestarts: {restarts} where it was killed {killed} times"))
    }
}

/// What is not as it should be.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, what: &str, is: &str, right: &str) {
        if is != right {
            self.0.push(format!("{what}: {is:?} instead of {right:?}"));
        }
    }
}

/// Cgroups that are nobody's, or lacking, and processes in another's.
fn strays(cohortd: i32, workers: &[Worker]) -> Vec<String> {
    let mut owners: BTreeMap<String, i32> =
        workers.iter().map(|(id, pid)| (format!("worker-{id}"), *pid)).collect();
    owners.insert("supervisor".into(), cohortd);
    let mut wrong = Vec::new();
    for (name, processes) in cgroups() {
        let is_right = match owners.remove(&name) {
            Some(owner) if owner == cohortd => {
                let (keepers, others): (Vec<i32>, Vec<i32>) =
                    processes.iter().partition(|pid| is_keeper(**pid));
                others == [cohortd] && keepers.len() == 1
            }
            Some(owner) => {
                let is_its = |pid: &i32| *pid == owner || parent(*pid) == Some(owner);
                processes.contains(&owner) && processes.iter().all(is_its)
            }
            // The service's own, and systemd's for `ExecReload=`, stay and are empty.
            None => ["", ".control"].contains(&name.as_str()) && processes.is_empty(),
        };
        if !is_right {
            wrong.push(format!("the cgroup {name:?} with {processes:?}"));
        }
    }
    wrong.extend(owners.keys().map(|name| format!("no cgroup {name:?}")));
    wrong
}

/// The service's cgroup and all below it, by their paths from there, and the processes in each.
fn cgroups() -> BTreeMap<String, Vec<i32>> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::from(CGROUP)];
    while let Some(folder) = left.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        let Ok(processes) = fs::read_to_string(folder.join("cgroup.procs")) else { continue };
        let name = folder.strip_prefix(CGROUP).expect("below it").display().to_string();
        found.insert(name, processes.lines().filter_map(|pid| pid.parse().ok()).collect());
    }
    found
}

fn main_pid() -> i32 {
    show("MainPID").parse().expect("a number")
}

fn states() -> String {
    let said = run(&format!("systemctl is-active {UNITS}"));
    String::from_utf8_lossy(&said.stdout).trim_end().replace('\n', " ")
}

fn failed() -> String {
    ok("systemctl list-units --failed --plain --no-legend")
}

fn show(property: &str) -> String {
    ok(&format!("systemctl show --value -p {property} {APP}.service"))
}

fn run(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Standard output of a command that must succeed.
pub(super) fn ok(line: &str) -> String {
    let output = run(line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
