//! Chaos: an app, clients of every kind that never stop, and something goes wrong every moment.
//! Afterwards everything is as it should be, every command has been answered with the truth, and
//! nothing has failed for a client that no worker's death excuses.
//!
//! `CHAOS_SECONDS` says for how long (40), `CHAOS_SEED` which decisions are taken. A seed replays
//! the decisions, not the moment at which a process is hit.

mod answers;
mod decisions;
mod history;
mod processes;
mod storm;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::app::{App, NODES, Spec, kill};
use crate::raw::{Wire, descriptors, memory};
use crate::reload::{ctl, ok};
use answers::{Answer, Releases, ask};
use decisions::{Act, Fault, Random, Release};
use history::{History, QUEUE};
use storm::{Storm, vanish};

/// How long it may take until everything is in order again: reloads wait for each other, and a
/// worker that hangs while it is drained has all its graces to run out.
const CALM: Duration = Duration::from_secs(180);

/// Connections that a client happens to keep at the moment make a difference of so many. One a
/// worker, or one a reload, would be more in the shortest run.
const DESCRIPTORS: usize = 6;

/// In MiB: what the busiest moments of the later parts may have taken beyond those of the first.
/// In ten minutes that is 16 KiB for each worker, or 20 bytes for each request.
const MEMORY: usize = 4;

/// A run of fewer seconds tells nothing about memory.
const LONG: u64 = 300;

const GOOD: Release = Release { workers: 2, fault: None };

#[test]
fn chaos_is_survived() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = number("CHAOS_SECONDS").unwrap_or(40);
    let seed = number("CHAOS_SEED").unwrap_or_else(|| now() % 1_000_000);
    eprintln!("=== CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let mut random = Random::new(seed);
    let mut run = Run::start(seed, &mut random);
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

/// What cohortd has when nothing is under way, with two workers and the same clients.
#[derive(Debug)]
struct Calm {
    descriptors: usize,
    /// In MiB.
    memory: usize,
}

/// What came of a request that is to befall a worker.
struct Strike {
    from: u64,
    at: u64,
    came: String,
}

struct Run {
    seed: u64,
    app: App,
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
    acts: usize,
    crashes: usize,
    wrong: Vec<String>,
}

impl Drop for Run {
    fn drop(&mut self) {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}.log", self.seed));
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
    fn start(seed: u64, random: &mut Random) -> Run {
        let when = random.one_of(&["auto", "message", "notify", "http:/whoami"]);
        let plain = random.one_of(&["0", "1"]);
        let version = random.one_of(&NODES);
        let surge = random.one_of(&[1, 2]);
        let balance = random.one_of(&["least-loaded", "round-robin"]);
        eprintln!("{version}, ready {when}, plain {plain}, surge {surge}, {balance}");
        let toml = format!(
            "[ready]\nwhen = {when:?}\ntimeout = \"12s\"\n\
             [health]\nhttp = \"/healthz\"\nevery = \"1500ms\"\nevent_loop = \"2s\"\n\
             [stop]\ndrain = \"2s\"\ntimeout = \"3s\"\n\
             [reload]\ncanary = \"3s\"\nsurge = {surge}\n\
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
        let app = of_release(&spec, &toml, 0, GOOD).start();
        Run {
            seed,
            storm: Storm::start(&app),
            app,
            spec,
            toml,
            begun,
            releases,
            struck: BTreeSet::new(),
            asked: Vec::new(),
            strikes: Vec::new(),
            vanishing: Vec::new(),
            acts: 0,
            crashes: 0,
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
            let act = Act::decide(random);
            self.acts += 1;
            eprintln!("{:>8.3} {:>3} {act:?}", self.seconds(now()), self.acts);
            self.carry_out(act);
        }
    }

    fn carry_out(&mut self, act: Act) {
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
                self.app.signal("HUP");
            }
            Act::Scale(n) => self.asked.push(ask(self.app.name(), "scale", Some(n))),
            Act::Vanish(silent) => self.vanishing.push(vanish(&self.app, silent)),
        }
    }

    fn signal(&mut self, signal: &str, which: usize) {
        let shown = self.show();
        let Some(workers) = shown["workers"].as_array().filter(|all| !all.is_empty()) else {
            return;
        };
        let worker = &workers[which % workers.len()];
        self.struck.insert(worker["id"].as_u64().expect("a number"));
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
        self.asked.push(ask(self.app.name(), "reload", None));
    }

    fn write(&mut self, release: Release) {
        let number = self.releases.all.len();
        self.app.configure(&of_release(&self.spec, &self.toml, number, release));
        self.releases.push(release);
    }

    fn show(&self) -> Value {
        serde_json::from_str(&ok(&self.app, &["show", "--json"])).expect("JSON")
    }

    fn history(&self) -> History {
        History::of(&self.app.log(), self.begun, &self.releases.all, &self.struck)
    }

    /// Since the app's start.
    fn seconds(&self, at: u64) -> f64 {
        at.saturating_sub(self.begun) as f64 / 1000.0
    }

    /// Waits until everything is in order again, and looks whether it is.
    fn calm(&mut self) -> Calm {
        eprintln!("{:>8.3}     calm", self.seconds(now()));
        for vanishing in std::mem::take(&mut self.vanishing) {
            vanishing.join().expect("they connect");
        }
        for strike in std::mem::take(&mut self.strikes) {
            let Strike { from, at, came } = strike.join().expect("cohortd accepts connections");
            if !came.starts_with("200 ") && !self.history().excuses("strike", &came, from, at) {
                self.wrong.push(format!("a request that befalls a worker: {came}"));
            }
        }
        let asked = std::mem::take(&mut self.asked);
        let is_answered = || asked.iter().all(JoinHandle::is_finished);
        if self.comes_to_be("every command is answered", |_| is_answered()) {
            let history = self.history();
            let answers = asked.into_iter().map(|asked| asked.join().expect("it ran"));
            self.wrong.extend(answers.filter_map(|a| a.lie(&history, &self.releases)));
        }
        self.comes_to_be("the workers that were asked for last", Run::is_settled);
        // The same for every calm: two workers of a new release.
        self.write(GOOD);
        let output = ctl(&self.app, &["reload"]);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            self.wrong.push(format!("a good reload in the calm failed: {error}"));
        }
        self.comes_to_be("two new workers", |run| {
            run.is_settled() && run.history().wanted == GOOD.workers
        });
        self.storm.pause();
        self.comes_to_be("no other process", |run| {
            let workers: Vec<i32> = run.workers().iter().map(pid).collect();
            let cohortd = run.app.pid() as i32;
            processes::strangers(run.app.name(), cohortd, &workers).is_empty()
        });
        let notify = if self.toml.contains("\"notify\"") { GOOD.workers } else { 0 };
        self.comes_to_be("no other socket", |run| run.sockets() == 1 + notify);
        self.rest()
    }

    /// Connections that were kept for a moment are closed after some seconds.
    fn rest(&self) -> Calm {
        let pid = self.app.pid() as i32;
        let mut least = usize::MAX;
        for _ in 0..60 {
            least = least.min(descriptors(pid));
            thread::sleep(Duration::from_millis(100));
        }
        let calm = Calm { descriptors: least, memory: memory(pid) };
        eprintln!("{calm:?}");
        calm
    }

    fn comes_to_be(&mut self, what: &str, mut so: impl FnMut(&Run) -> bool) -> bool {
        let end = Instant::now() + CALM;
        while !so(self) {
            if Instant::now() > end {
                let shown = self.show();
                self.wrong.push(format!("not after {CALM:?}: {what}; {shown:#}"));
                return false;
            }
            thread::sleep(Duration::from_millis(100));
        }
        true
    }

    fn workers(&self) -> Vec<Value> {
        self.show()["workers"].as_array().cloned().expect("a list")
    }

    /// The workers that there should be, all ready, all of the generation that serves.
    fn is_settled(&self) -> bool {
        let (shown, history) = (self.show(), self.history());
        let workers = shown["workers"].as_array().expect("a list");
        let slots: Vec<u64> = workers.iter().filter_map(|w| w["slot"].as_u64()).collect();
        let is_well = |worker: &Value| {
            let id = worker["id"].as_u64().expect("a number");
            worker["state"] == "ready"
                && worker["generation"] == history.serving
                && !history.struck.contains(&id) // or it is yet to be found ill
        };
        !history.rolling
            && shown["generation"] == history.serving
            && shown["wanted"] == history.wanted
            && slots == (0..history.wanted as u64).collect::<Vec<_>>()
            && workers.iter().all(is_well)
    }

    /// In the app's folder below `/run`.
    fn sockets(&self) -> usize {
        let folder = Path::new("/run/cohortd").join(self.app.name());
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// Ends everything, and says what was wrong.
    fn end(mut self, before: &Calm, calms: &[Calm]) {
        let seen = self.storm.end();
        self.app.signal("TERM");
        let code = self.app.wait();
        let history = self.history();
        let mut wrong = std::mem::take(&mut self.wrong);
        let mut must = |holds: bool, what: String| {
            if !holds {
                wrong.push(what)
            }
        };

        let list = |key: &str| seen[key].as_array().cloned().expect("a list");
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let time = |value: &Value, key: &str| value[key].as_u64().unwrap_or_default();
        for fault in list("faults") {
            let (kind, what) = (text(&fault, "kind"), text(&fault, "what"));
            let (from, at) = (time(&fault, "from"), time(&fault, "at"));
            let excused = history.excuses(&kind, &what, from, at);
            let (deaths, from, at) =
                (history.deaths(from, at), self.seconds(from), self.seconds(at));
            must(excused, format!("{kind}: {what} from {from:.3} to {at:.3}, {deaths} deaths"));
        }
        for end in list("ends") {
            let (from, at) = (time(&end, "from"), time(&end, "at"));
            let excused = history.excuses_end(end["worker"].as_u64(), &text(&end, "why"), from, at);
            must(excused, format!("at {:.3} a session ended: {end}", self.seconds(at)));
        }
        let last = calms.last().expect("there is one");
        let flat = last.descriptors <= before.descriptors + DESCRIPTORS;
        must(flat, format!("descriptors are left: {before:?}, {last:?}"));
        let flat = last.memory <= calms[0].memory + MEMORY;
        must(flat, format!("its memory grows: {calms:?}"));
        let crashed = history.crashed;
        must(crashed <= 2 * self.crashes, format!("{} requests, {crashed} crashes", self.crashes));
        must(code == Some(0), format!("cohortd ended with {code:?}"));
        must(!history.panicked, "cohortd panicked".into());
        let left = processes::of_app(self.app.name());
        must(left.is_empty(), format!("processes are left: {left:?}"));
        must(self.sockets() == 0, format!("{} sockets are left", self.sockets()));

        let reloads = |well: bool| history.outcomes.values().filter(|o| o.is_ok() == well).count();
        let summary = json!({
            "seed": self.seed,
            "acts": self.acts,
            "workers": { "started": history.workers.len(), "died": history.deaths(0, now()) },
            "reloads": { "well": reloads(true), "given up": reloads(false) },
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
