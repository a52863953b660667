//! A computer with a real systemd, whichever way it was booted: see `sdbox` and `vmbox`.

use std::fmt;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// A Debian release, and with it a version of systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// systemd 252
    Bookworm,
    /// systemd 257
    Trixie,
}

impl Suite {
    pub(crate) const ALL: [Suite; 2] = [Suite::Bookworm, Suite::Trixie];

    /// As Debian and the scripts of `tests/rig` call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        }
    }
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; 128 + N when signal N ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { code, stdout, stderr } = self;
        write!(f, "exit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A booted systemd. It ends with its value, or with the test process however that ends.
pub(crate) trait Machine {
    /// Runs a command inside, as root with a clean environment, to its end and that of its output.
    /// What there is of that is the error when the deadline passes.
    fn exec(&self, argv: &[&str], stdin: &[u8], deadline: Duration) -> Result<Output, Output>;

    /// A command that runs inside, in the same way, for who wants to speak with it.
    fn command(&self, argv: &[&str]) -> Command;

    /// Whether its journal has been shown already.
    fn told_journal(&self) -> &AtomicBool;

    /// [`Machine::run_within`] 60 seconds.
    fn run(&self, argv: &[&str]) -> Output {
        self.run_within(DEADLINE, argv)
    }

    /// Runs a command inside, as root with a clean environment, to its end and that of its output.
    /// Panics when that takes longer.
    fn run_within(&self, deadline: Duration, argv: &[&str]) -> Output {
        match self.exec(argv, &[], deadline) {
            Ok(out) => out,
            Err(sofar) => self.fail(&format!("{argv:?} still runs after {deadline:?}\n{sofar}")),
        }
    }

    /// Standard output, without trailing white space, of a command that must exit 0.
    /// Panics with both streams and the end of the journal otherwise.
    fn ok(&self, argv: &[&str]) -> String {
        let out = self.run(argv);
        if out.code != 0 {
            self.fail(&format!("{argv:?}: {out}"));
        }
        out.stdout.trim_end().to_owned()
    }

    /// Writes a file inside, with its directories: mode 755 when it starts with `#!`, else 644.
    fn write_file(&self, path: &str, contents: &[u8]) {
        let mode = if contents.starts_with(b"#!") { "755" } else { "644" };
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1""#;
        let argv = ["sh", "-c", script, "sh", path, mode];
        match self.exec(&argv, contents, DEADLINE) {
            Ok(out) if out.code == 0 => {}
            Ok(out) | Err(out) => self.fail(&format!("write {path}: {out}")),
        }
    }

    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n--- journal\n{}", self.journal_tail())
    }

    fn journal_tail(&self) -> String {
        self.told_journal().store(true, Ordering::Relaxed);
        let argv = ["journalctl", "--no-pager", "-o", "short-precise", "-n", "80"];
        let (Ok(out) | Err(out)) = self.exec(&argv, &[], Duration::from_secs(10));
        out.stdout + &out.stderr
    }

    /// For the end of a machine: its journal, if a test fails that has not shown it.
    fn tell_journal(&self) {
        if thread::panicking() && !self.told_journal().load(Ordering::Relaxed) {
            eprintln!("--- journal\n{}", self.journal_tail());
        }
    }
}

/// What a script of `tests/rig` with this verb says that this machine lacks; `None` when it lacks
/// nothing.
pub(crate) fn check(script: &str, verb: &str) -> Option<String> {
    let out = Command::new(script).arg(verb).output().expect("bash is installed");
    let said = [out.stdout, out.stderr].concat();
    (!out.status.success()).then(|| String::from_utf8_lossy(&said).trim_end().to_owned())
}

/// Whether the calling test can run. If not it says so and the test should return; under `CI=true`
/// it panics, because there a skipped test is a failed one.
pub(crate) fn require(lacking: Option<&str>) -> bool {
    let Some(what) = lacking else { return true };
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "cannot boot a systemd here, lacking: {what}");
    let test = thread::current().name().unwrap_or("test").to_owned();
    // Not eprintln!, which the test harness swallows when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no systemd here, lacking: {what}");
    false
}

/// What a stream has said so far.
pub(crate) type Bytes = Arc<Mutex<Vec<u8>>>;

/// Reads a stream to its end in a thread of its own, then says so on `done`.
pub(crate) fn collect(mut stream: impl Read + Send + 'static, done: &mpsc::Sender<()>) -> Bytes {
    let bytes = Bytes::default();
    let (into, done) = (Arc::clone(&bytes), done.clone());
    thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            into.lock().expect("no panic holds it").extend_from_slice(&chunk[..n]);
        }
        let _ = done.send(());
    });
    bytes
}

pub(crate) fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("no panic holds it")).into_owned()
}
