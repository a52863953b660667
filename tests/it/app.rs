//! A running `cohortd run`, and the Node programs that the tests drive it with.
//!
//! Nothing outlives a test: an app is told to stop when it is dropped, killed when it does not,
//! and every process it ever started has to be gone then.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take that takes a second here.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The Node versions that everything about workers is tested on: `tests/js/package.json`.
pub(crate) const NODES: [&str; 5] = ["node18", "node20", "node22", "node24", "node26"];

/// For a test that runs inside a machine: where that has `tests/js`.
pub(crate) const INSIDE: &str = "TEST_INSIDE";

/// `tests/js`.
pub(crate) fn js() -> PathBuf {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return folder.into();
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    assert!(
        folder.join("node_modules").exists(),
        "run `make setup` first: no tests/js/node_modules"
    );
    folder
}

/// The program of one of [`NODES`].
pub(crate) fn node(version: &str) -> PathBuf {
    js().join("node_modules").join(version).join("bin/node")
}

/// `cohortctl` as it was built, or as the machine has it that the test runs inside of.
pub(crate) fn cohortctl() -> Command {
    let is_inside = std::env::var_os(INSIDE).is_some();
    Command::new(if is_inside { "cohortctl" } else { env!("CARGO_BIN_EXE_cohortctl") })
}

/// What an app is run with.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    node: PathBuf,
    script: PathBuf,
    args: Vec<String>,
    listen: Vec<String>,
    workers: usize,
    env: BTreeMap<String, String>,
    more: String,
    before: Vec<String>,
    flags: Vec<String>,
    ours: BTreeMap<String, String>,
    kind: String,
    user: Option<u32>,
    through: Vec<String>,
}

impl Spec {
    /// An app of `tests/js/apps`, on Node 20, two workers, on a free loopback port.
    pub(crate) fn new(script: &str) -> Spec {
        let port = free_port();
        Spec {
            node: node("node20"),
            script: js().join("apps").join(script),
            args: Vec::new(),
            listen: vec![format!("127.0.0.1:{port}")],
            workers: 2,
            env: BTreeMap::new(),
            more: String::new(),
            before: Vec::new(),
            flags: Vec::new(),
            ours: BTreeMap::new(),
            kind: "node".to_owned(),
            user: None,
            through: Vec::new(),
        }
    }

    /// cohortd is run by another program, which these words begin.
    pub(crate) fn through(mut self, words: &[String]) -> Spec {
        self.through = words.to_vec();
        self
    }

    pub(crate) fn node(mut self, version: &str) -> Spec {
        self.node = node(version);
        self
    }

    /// Workers that are no Node at all: this command line, in `tests/py`.
    pub(crate) fn program(kind: &str, words: &[&str]) -> Spec {
        let mut spec = Spec::new("none");
        spec.script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/none");
        spec.before = words.iter().map(ToString::to_string).collect();
        spec.kind = kind.to_owned();
        spec
    }

    /// Another script than one of `tests/js/apps`.
    pub(crate) fn script(mut self, path: impl Into<PathBuf>) -> Spec {
        self.script = path.into();
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Spec {
        self.args.push(arg.to_owned());
        self
    }

    pub(crate) fn workers(mut self, n: usize) -> Spec {
        self.workers = n;
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Spec {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Instead of the one free port.
    pub(crate) fn listen(mut self, entries: &[&str]) -> Spec {
        self.listen = entries.iter().map(ToString::to_string).collect();
        self
    }

    /// Lines of TOML after the top-level keys.
    pub(crate) fn more(mut self, toml: &str) -> Spec {
        self.more = toml.to_owned();
        self
    }

    /// A program that decides whether the worker becomes the Node program.
    pub(crate) fn before(mut self, words: &[&str]) -> Spec {
        self.before = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Node's own options.
    pub(crate) fn flags(mut self, words: &[&str]) -> Spec {
        self.flags = words.iter().map(ToString::to_string).collect();
        self
    }

    /// A variable of cohortd itself; empty: without it.
    pub(crate) fn ours(mut self, name: &str, value: &str) -> Spec {
        self.ours.insert(name.to_owned(), value.to_owned());
        self
    }

    /// cohortd runs as this user; only root can do that.
    pub(crate) fn user(mut self, uid: u32) -> Spec {
        self.user = Some(uid);
        self
    }

    fn toml(&self) -> String {
        let mut exec = self.before.clone();
        if self.kind == "node" {
            exec.push(self.node.display().to_string());
            exec.extend(self.flags.iter().cloned());
            exec.push(self.script.display().to_string());
        }
        exec.extend(self.args.iter().cloned());
        let folder = self.script.parent().expect("a script has a folder");
        let mut text = format!(
            "exec = {exec:?}\nkind = {:?}\ndirectory = {folder:?}\nlisten = {:?}\nworkers = {}\n{}\n\
             [env]\n",
            self.kind, self.listen, self.workers, self.more
        );
        for (name, value) in &self.env {
            let _ = writeln!(text, "{name} = {value:?}");
        }
        text
    }

    /// The first `listen` entry.
    pub(crate) fn address(&self) -> &str {
        self.listen.first().map_or("", String::as_str)
    }

    /// Makes it the configuration in a file, which is whole at any moment.
    pub(crate) fn write(&self, file: &Path) {
        let new = file.with_extension("new");
        std::fs::write(&new, self.toml()).expect("written");
        std::fs::rename(new, file).expect("renamed");
    }

    /// Starts it and waits until it accepts connections.
    pub(crate) fn start(&self) -> App {
        self.start_with_stdout(Stdio::piped())
    }

    /// Starts it with another standard output than the log.
    pub(crate) fn start_with_stdout(&self, stdout: impl Into<Stdio>) -> App {
        let mut app = self.spawn(stdout.into());
        let up = until(|| app.log().contains("accepting") || app.has_ended());
        assert!(up && !app.has_ended(), "it did not come up; the log:\n{}", app.log());
        app
    }

    /// Starts it.
    pub(crate) fn start_only(&self) -> App {
        self.spawn(Stdio::piped())
    }

    fn spawn(&self, stdout: Stdio) -> App {
        let folder = TempDir::new().expect("a temporary folder");
        // The app's name, by which its control socket is found, has to be one of its own.
        let address = self.listen.first().cloned().unwrap_or_else(|| free_port().to_string());
        let name = format!("test-{}", address.rsplit([':', '/']).next().unwrap_or_default());
        let file = folder.path().join(format!("{}.toml", name.replace('.', "-")));
        std::fs::write(&file, self.toml()).expect("written");
        let program = env!("CARGO_BIN_EXE_cohortd");
        let mut command = match self.user {
            Some(uid) => {
                open_to_all(folder.path());
                as_user(uid, program)
            }
            None => match self.through.split_first() {
                None => Command::new(program),
                Some((first, rest)) => {
                    let mut command = Command::new(first);
                    command.args(rest).arg(program);
                    command
                }
            },
        };
        for (name, value) in &self.ours {
            match value.as_str() {
                "" => command.env_remove(name),
                value => command.env(name, value),
            };
        }
        let mut child = command
            .arg("run")
            .arg(&file)
            .env("COHORTD_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("cohortd starts");
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(stdout) = child.stdout.take() {
            gather(stdout, log.clone());
        }
        gather(child.stderr.take().expect("piped"), log.clone());
        App { child, log, address, file, _folder: folder }
    }
}

/// A program as another user, who has no groups.
pub(crate) fn as_user(uid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
    command.arg("--").arg(program);
    command
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("our own");
}

fn gather(stream: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("no panic holds it");
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// A running app.
#[derive(Debug)]
pub(crate) struct App {
    child: Child,
    log: Arc<Mutex<String>>,
    address: String,
    file: PathBuf,
    _folder: TempDir,
}

impl App {
    /// The app's name.
    pub(crate) fn name(&self) -> &str {
        self.file.file_stem().and_then(|stem| stem.to_str()).expect("an ASCII name")
    }

    /// Its configuration.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Changes text in the configuration.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.file).expect("readable");
        assert!(text.contains(from), "{from:?} in:\n{text}");
        std::fs::write(&self.file, text.replacen(from, to, 1)).expect("written");
    }

    /// `host:port` of the first `listen` entry.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What cohortd and the workers have written.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic holds it").clone()
    }

    /// Waits for text in the log.
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until text has come so many times in the log.
    pub(crate) fn wait_for_times(&self, text: &str, times: usize) {
        let seen = || self.log().matches(text).count() >= times;
        assert!(until(seen), "{times} × {text:?} did not come; the log:\n{}", self.log());
    }

    /// Process ids of the workers that are running, by slot.
    pub(crate) fn workers(&self) -> BTreeMap<usize, i32> {
        let mut pids = BTreeMap::new();
        for (slot, pid) in self.started() {
            if Path::new(&format!("/proc/{pid}")).exists() {
                pids.insert(slot, pid);
            }
        }
        pids
    }

    fn started(&self) -> Vec<(usize, i32)> {
        let number = |line: &str, key: &str| {
            let text = line.split_once(key)?.1;
            text.split_whitespace().next()?.parse().ok()
        };
        let log = self.log();
        let started = log.lines().filter(|line| line.contains(" started worker="));
        started
            .filter_map(|line| Some((number(line, "slot=")? as usize, number(line, "pid=")?)))
            .collect()
    }

    /// cohortd's own process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends cohortd itself a signal.
    pub(crate) fn signal(&self, signal: &str) {
        kill(signal, self.child.id() as i32);
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits for cohortd's end; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        let ended = until(|| {
            status = self.child.try_wait().expect("our own child");
            status.is_some()
        });
        assert!(ended, "it still runs; the log:\n{}", self.log());
        status.and_then(|status| status.code())
    }

    /// Runs a client of `tests/js` against the app: its last line, which is JSON. Panics with the
    /// client's output and the app's log unless it exits 0.
    pub(crate) fn client(&self, script: &str, args: &[&str]) -> serde_json::Value {
        let url = self.url();
        let all: Vec<&str> = std::iter::once(url.as_str()).chain(args.iter().copied()).collect();
        client(script, &all, &[]).unwrap_or_else(|said| panic!("{said}\n--- log\n{}", self.log()))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal("INT");
            self.signal("INT"); // no draining
            if !until(|| self.has_ended()) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        let left = || self.workers().into_values().collect::<Vec<_>>();
        let gone = until(|| left().is_empty());
        for pid in left() {
            kill("KILL", pid);
        }
        if !std::thread::panicking() {
            let log = self.log();
            assert!(gone, "workers outlived cohortd; the log:\n{log}");
            assert!(!log.contains("panicked at"), "cohortd panicked:\n{log}");
        }
    }
}

/// Sends a process that a test has started a signal.
pub(crate) fn kill(signal: &str, pid: i32) {
    let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
}

/// Runs a program of `tests/js` on Node 20 to its end: its last line, or all that it said.
pub(crate) fn client(
    script: &str,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<serde_json::Value, String> {
    client_through(&[], script, args, env)
}

/// The same, run by another program, which these words begin.
pub(crate) fn client_through(
    words: &[String],
    script: &str,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<serde_json::Value, String> {
    let node = node("node20").display().to_string();
    let mut words = words.iter().chain([&node]);
    let output = Command::new(words.next().expect("there is node"))
        .args(words)
        .arg(js().join(script))
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("node starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    match last {
        Some(value) if output.status.success() => Ok(value),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("{script} {args:?}: {}\n{said}\n{errors}", output.status))
        }
    }
}

/// A port that nobody has, outside the range that the kernel gives to clients.
pub(crate) fn free_port() -> u16 {
    let mut random = std::process::id() ^ Instant::now().elapsed().subsec_nanos();
    for byte in tempfile::Builder::new()
        .tempfile()
        .iter()
        .flat_map(|f| f.path().file_name().unwrap_or_default().as_encoded_bytes().to_vec())
    {
        random = random.wrapping_mul(31).wrapping_add(byte.into());
    }
    for step in 0..20_000u32 {
        let port = 10_000 + (random.wrapping_add(step * 7) % 20_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from 10000 to 30000");
}

/// Asks again and again until it is so, or the deadline has passed.
pub(crate) fn until(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + DEADLINE;
    loop {
        if so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
