//! Chaos: an app, clients of every kind that never stop, and something goes wrong every moment.
//! Afterwards everything is as it should be, every command has been answered with the truth, and
//! nothing has failed for a client that no worker's death excuses. Both for `cohortd run` and, in
//! `inside`, for a service, where cohortd itself is killed as well. That costs the requests which it
//! was forwarding, and no other. In `rounds` it is killed every few seconds.
//!
//! What is excused, and why, is in `excuses`.
//!
//! `CHAOS_SECONDS` says for how long (40), `CHAOS_ROUNDS` how many `rounds` there are on each systemd
//! (5), `CHAOS_SEED` which decisions are taken. A seed replays the decisions, not the moment at which
//! a process is hit.

mod answers;
mod calm;
pub(crate) mod decisions;
mod excuses;
mod history;
mod inside;
mod journal;
mod processes;
mod rounds;
mod service;
pub(crate) mod storm;
mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::app::{NODES, Spec, cohortctl, kill, until};
use crate::raw::Wire;
use answers::{Answer, Releases, ask};
use calm::Calm;
use decisions::{Act, Fault, Random, Release};
use excuses::{End, Excuses, Failed, QUEUE};
use history::History;
use storm::{Death, Storm, vanish};
use way::Way;

/// Connections that a client happens to keep at the moment make a difference of so many. One a
/// worker, or one a reload, would be more in the shortest run.
const DESCRIPTORS: usize = 6;

/// In MiB: what the busiest moments of the later parts may have taken beyond those of the first.
/// In ten minutes that is 16 KiB for each worker, or 20 bytes for each request.
const MEMORY: usize = 4;

/// A run of fewer seconds tells nothing about memory.
const LONG: u64 = 300;

const GOOD: Release = Release { workers: 2, fault: None };

/// How long what an operator may set is to take.
const PACE: Pace = Pace { ready: "12s", canary: "3s", drain: "2s" };

#[test]
fn chaos_is_survived() {
    Chaos::from_environment(40).survive(|spec, _| Box::new(spec.start()));
}

/// What is to be run.
struct Chaos {
    seed: u64,
    seconds: u64,
}

/// `[ready] timeout`, `[reload] canary` and `[stop] drain`.
struct Pace {
    ready: &'static str,
    canary: &'static str,
    drain: &'static str,
}

/// What the environment says, if it says it.
pub(crate) fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Which decisions are taken.
pub(crate) fn any_seed() -> u64 {
    environment("CHAOS_SEED").unwrap_or_else(|| now() % 1_000_000)
}

impl Chaos {
    /// It may say for how long, otherwise it is so many seconds.
    fn from_environment(seconds: u64) -> Chaos {
        Chaos { seed: any_seed(), seconds: environment("CHAOS_SECONDS").unwrap_or(seconds) }
    }

    fn survive(self, start: impl FnOnce(&Spec, u64) -> Box<dyn Way>) {
        let Chaos { seed, seconds } = self;
        eprintln!("=== CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
        let mut random = Random::new(seed);
        let mut run = Run::start(seed, &mut random, PACE, start);
        let before = run.calm();
        // A long run is looked at four times.
        let parts = if seconds >= LONG { 4 } else { 1 };
        let mut calms = Vec::new();
        for _ in 0..parts {
            run.storm.resume();
            run.rage(&mut random, Duration::from_secs(seconds / parts));
            calms.push(run.calm());
        }
        run.end(&before, &calms);
    }
}

/// What cohortd and the workers have written in a run.
fn log_file(seed: u64, kind: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}-{kind}.log"))
}

/// What came of a request that is to befall a worker.
struct Strike {
    from: u64,
    at: u64,
    came: String,
}

struct Run {
    seed: u64,
    app: Box<dyn Way>,
    spec: Spec,
    toml: String,
    storm: Storm,
    /// In ms since 1970.
    begun: u64,
    releases: Releases,
    /// Workers that were sent a signal.
    struck: BTreeSet<u64>,
    asked: Vec<JoinHandle<Answer>>,
    strikes: Vec<JoinHandle<Strike>>,
    vanishing: Vec<JoinHandle<()>>,
    /// cohortd's own.
    deaths: Vec<Death>,
    acts: usize,
    crashes: usize,
    /// How often each command has ended with each exit code.
    answers: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Drop for Run {
    fn drop(&mut self) {
        let log = log_file(self.seed, self.app.kind());
        // A machine lacks the folder.
        let _ = fs::create_dir_all(log.parent().expect("it has one"));
        let written = fs::write(&log, self.app.log());
        if thread::panicking() {
            eprintln!(
                "=== CHAOS_SEED={} repeats it; log: {} {written:?}",
                self.seed,
                log.display()
            );
        }
    }
}

impl Run {
    /// The seed also chooses the kind of app.
    fn start(
        seed: u64,
        random: &mut Random,
        Pace { ready, canary, drain }: Pace,
        start: impl FnOnce(&Spec, u64) -> Box<dyn Way>,
    ) -> Run {
        let when = random.one_of(&["auto", "message", "notify", "http:/whoami"]);
        let plain = random.one_of(&["0", "1"]);
        let version = random.one_of(&NODES);
        let surge = random.one_of(&[1, 2]);
        let balance = random.one_of(&["least-loaded", "round-robin"]);
        eprintln!("{version}, ready {when}, plain {plain}, surge {surge}, {balance}");
        let toml = format!(
            "[ready]\nwhen = {when:?}\ntimeout = {ready:?}\n\
             [health]\nhttp = \"/healthz\"\nevery = \"1500ms\"\nevent_loop = \"2s\"\n\
             [stop]\ndrain = {drain:?}\ntimeout = \"3s\"\n\
             [reload]\ncanary = {canary:?}\nsurge = {surge}\n\
             [restart]\nbackoff = \"100ms..1s\"\n\
             [route]\nbalance = {balance:?}\nqueue = \"{QUEUE}ms\""
        );
        let spec = Spec::new("chaos.js")
            .node(version)
            .env("READY", when)
            .env("PLAIN", plain)
            .env("STICKY", "sticky2")
            .env("ADAPTER", "adapter03");
        let mut releases = Releases::default();
        releases.push(GOOD);
        let begun = now();
        let app = start(&of_release(&spec, &toml, 0, GOOD), begun);
        Run {
            seed,
            storm: Storm::start(&url(&*app), &["pausing=2"]),
            app,
            spec,
            toml,
            begun,
            releases,
            struck: BTreeSet::new(),
            asked: Vec::new(),
            strikes: Vec::new(),
            vanishing: Vec::new(),
            deaths: Vec::new(),
            acts: 0,
            crashes: 0,
            answers: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    /// Things go wrong for so long.
    fn rage(&mut self, random: &mut Random, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            // Now and then long enough for a reload to go well.
            let quiet = if random.below(8) == 0 { 5000 } else { 0 };
            thread::sleep(Duration::from_millis(100 + quiet + random.below(2000)));
            let act = Act::decide(random, self.app.comes_back());
            self.carry_out(act);
        }
    }

    fn carry_out(&mut self, act: Act) {
        self.acts += 1;
        eprintln!("{:>8.3} {:>3} {act:?}", self.seconds(now()), self.acts);
        match act {
            Act::Kill(which) => self.signal("KILL", which),
            Act::Stop(which) => self.signal("STOP", which),
            Act::Spin => self.strike("POST", "/spin".into()),
            Act::Exit(code) => self.strike("POST", format!("/exit?code={code}")),
            Act::Crash => {
                self.crashes += 1;
                self.strike("GET", "/crash".into());
            }
            Act::Reload(release) => self.reload(release),
            Act::ReloadTwice(first, second) => {
                self.reload(first);
                self.reload(second);
            }
            Act::HangUp(release) => {
                self.write(release);
                self.app.hang_up();
            }
            Act::Scale(n) => self.asked.push(ask(self.app.name(), "scale", Some(n))),
            Act::Vanish(silent) => self.vanishing.push(vanish(&url(&*self.app), silent)),
            Act::KillCohortd(again) => self.kill_cohortd(again),
            Act::Reexec => self.asked.push(ask(self.app.name(), "reexec", None)),
        }
    }

    fn kill_cohortd(&mut self, again: Option<u64>) {
        let first = self.app.next_to_die(0);
        self.deaths.push(self.storm.kill(first));
        if let Some(after) = again {
            let next = self.app.next_to_die(first);
            thread::sleep(Duration::from_millis(after));
            self.deaths.push(self.storm.kill(next));
        }
    }

    fn signal(&mut self, signal: &str, which: usize) {
        let shown = self.show();
        let Some(workers) = shown["workers"].as_array().filter(|all| !all.is_empty()) else {
            return;
        };
        let worker = &workers[which % workers.len()];
        self.struck.insert(id(worker));
        kill(signal, pid(worker));
    }

    fn strike(&mut self, method: &'static str, target: String) {
        let address = self.app.address().to_owned();
        self.strikes.push(thread::spawn(move || {
            let from = now();
            let mut wire = Wire::open(&address);
            wire.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            ));
            let came = match wire.answer_to(method) {
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => error.to_string(),
            };
            Strike { from, at: now(), came }
        }));
    }

    fn reload(&mut self, release: Release) {
        self.write(release);
        self.asked.push(self.app.reload(self.releases.all.len() - 1));
    }

    fn write(&mut self, release: Release) {
        let number = self.releases.all.len();
        of_release(&self.spec, &self.toml, number, release).write(self.app.file());
        self.releases.push(release);
    }

    /// Its answer, which takes a moment when it was just killed.
    fn show(&self) -> Value {
        let mut shown = None;
        until(|| {
            let answer = self.ctl("show", &["--json"]);
            let is_there = answer.status.success();
            shown = Some(answer);
            is_there
        });
        let shown = shown.expect("asked once at least");
        let text = String::from_utf8_lossy(&shown.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {shown:?}"))
    }

    fn ctl(&self, command: &str, options: &[&str]) -> Output {
        let mut line = cohortctl();
        line.args([command, self.app.name()]).args(options).output().expect("cohortctl starts")
    }

    fn history(&self) -> History {
        let (log, releases) = (self.app.log(), &self.releases.all);
        History::of(&log, self.begun, releases, &self.struck, &self.deaths)
    }

    /// Since the app's start.
    fn seconds(&self, at: u64) -> f64 {
        at.saturating_sub(self.begun) as f64 / 1000.0
    }

    /// Ends everything, and says what was wrong.
    fn end(mut self, before: &Calm, calms: &[Calm]) {
        let seen = self.storm.end();
        let mut wrong = std::mem::take(&mut self.wrong);
        wrong.extend(self.app.end());
        let history = self.history();
        let mut must = |holds: bool, what: String| {
            if !holds {
                wrong.push(what)
            }
        };

        let list = |key: &str| seen[key].as_array().cloned().expect("a list");
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let time = |value: &Value, key: &str| value[key].as_u64().unwrap_or_default();
        let excuses = Excuses { history: &history, deaths: &self.deaths };
        for fault in list("faults") {
            let (from, at, struck) =
                (time(&fault, "from"), time(&fault, "at"), fault["struck"] == true);
            let (kind, what) = (&text(&fault, "kind"), &text(&fault, "what"));
            let excused = excuses.fault(&Failed { kind, what, from, at, struck });
            let (from, at) = (self.seconds(from), self.seconds(at));
            must(excused, format!("{kind}: {what} from {from:.3} to {at:.3}"));
        }
        for end in list("ends") {
            let (from, at, struck) = (time(&end, "from"), time(&end, "at"), end["struck"] == true);
            let (worker, why) = (end["worker"].as_u64(), &text(&end, "why"));
            let excused = excuses.end(&End { worker, why, from, at, struck });
            must(excused, format!("at {:.3} a session ended: {end}", self.seconds(at)));
        }
        let last = calms.last().expect("there is one");
        let flat = last.descriptors <= before.descriptors + DESCRIPTORS;
        must(flat, format!("descriptors are left: {before:?}, {last:?}"));
        // A new one has yet to grow.
        let flat = last.memory <= calms[0].memory + MEMORY || !self.deaths.is_empty();
        must(flat, format!("its memory grows: {calms:?}"));
        let crashed = history.crashed;
        must(crashed <= 2 * self.crashes, format!("{} requests, {crashed} crashes", self.crashes));
        must(!history.panicked, "cohortd panicked".into());
        let left = processes::of_app(self.app.name());
        must(left.is_empty(), format!("processes are left: {left:?}"));
        let folder = self.folder();
        must(!folder.exists(), format!("{} is left", folder.display()));

        let reloads = |well: bool| history.outcomes.values().filter(|o| o.is_ok() == well).count();
        let summary = json!({
            "seed": self.seed,
            "acts": self.acts,
            "deaths of cohortd": self.deaths.len(),
            "workers": { "started": history.workers.len(), "died": history.died(0, now()) },
            "reloads": { "well": reloads(true), "given up": reloads(false) },
            "answers": self.answers,
            "answered": seen["answered"],
            "slowest": seen["slowest"],
            "faults": seen["faultings"],
            "ends": seen["endings"],
            "before": format!("{before:?}"),
            "calms": format!("{calms:?}"),
        });
        eprintln!("{summary:#}");
        assert!(wrong.is_empty(), "{} things were wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

fn of_release(spec: &Spec, toml: &str, number: usize, release: Release) -> Spec {
    let spec = spec.clone().workers(release.workers).env("RELEASE", number);
    match release.fault {
        None => spec.more(toml),
        Some(Fault::Misspelt) => spec.more(&format!("wokers = 3\n{toml}")),
        Some(Fault::Missing) => spec.more(toml).before(&["/nonesuch"]),
        Some(fault) => spec.more(toml).env("FAULT", format!("{fault:?}").to_lowercase()),
    }
}

/// Whether a client says that a connection ended under it, and not that it has been answered.
pub(crate) fn is_broken(what: &str) -> bool {
    let ways = [
        "ECONNRESET",
        "socket hang up",
        "cut ",
        "xhr poll error",
        "xhr post error",
        "websocket error",
    ];
    ways.iter().any(|way| what.starts_with(way)) && !what.contains("ECONNREFUSED")
}

fn url(app: &dyn Way) -> String {
    format!("http://{}", app.address())
}

fn id(worker: &Value) -> u64 {
    worker["id"].as_u64().expect("a number")
}

fn pid(worker: &Value) -> i32 {
    worker["pid"].as_i64().expect("a number") as i32
}

/// In ms since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    since.as_millis() as u64
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let text = text.split_once(key)?.1;
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
