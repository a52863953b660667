//! A real systemd to test against: PID 1, journald and D-Bus in namespaces, booted in under half a second
//! from a Debian tree. `tests/rig/sdbox` boots it, `tests/rig/mkroot` makes the tree.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const SDBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/sdbox");
const MKROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/mkroot");
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

    /// Path of the root tree. Made first if there is none yet, which takes up to a minute.
    fn root(self) -> String {
        let suite = match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        };
        let made = Command::new(MKROOT).arg(suite).output().expect("tests/rig/mkroot starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8_lossy(&made.stdout).trim_end().to_owned()
    }
}

/// What this machine lacks to boot a box, or `None` when it can.
pub(crate) fn lacking() -> Option<String> {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    let check = |script, verb| {
        let out = Command::new(script).arg(verb).output().expect("bash is installed");
        let said = [out.stdout, out.stderr].concat();
        (!out.status.success()).then(|| String::from_utf8_lossy(&said).trim_end().to_owned())
    };
    LACKING.get_or_init(|| check(SDBOX, "check").or_else(|| check(MKROOT, "--check"))).clone()
}

/// Whether the calling test can boot a box. If not it says so and the test should return;
/// under `CI=true` it panics, because there a skipped test is a failed one.
pub(crate) fn require() -> bool {
    let Some(what) = lacking() else { return true };
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "cannot boot a systemd here, lacking: {what}");
    let test = thread::current().name().unwrap_or("test").to_owned();
    // Not eprintln!, which the test harness swallows when the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no systemd here, lacking: {what}");
    false
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

/// A booted systemd. It ends with this value, or with the test process however that ends.
#[derive(Debug)]
pub(crate) struct Sdbox {
    name: String,
    /// `sdbox up --leash`: its standard input is the leash.
    up: Child,
    told_journal: AtomicBool,
}

impl Sdbox {
    /// Boots to `running`. `binds` are (path here, path inside), files or directories, read-only inside.
    /// Panics with the boot's log otherwise.
    pub(crate) fn boot(suite: Suite, binds: &[(&Path, &str)]) -> Sdbox {
        static BOXES: AtomicU32 = AtomicU32::new(0);
        let nth = BOXES.fetch_add(1, Ordering::Relaxed);
        let name = format!("it-{}-{nth}", std::process::id());
        let mut up = Command::new(SDBOX);
        up.args(["up", &name, "--leash", "--root", &suite.root()]);
        for (src, dst) in binds {
            up.arg("--bind").arg(format!("{}:{dst}", src.display()));
        }
        up.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut up = up.spawn().expect("tests/rig/sdbox starts");
        let (done, ended) = mpsc::channel();
        let log = collect(up.stderr.take().expect("stderr is piped"), &done);
        let mut said = String::new();
        let stdout = up.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut said).expect("sdbox says text");
        if said != "running\n" {
            let _ = ended.recv_timeout(Duration::from_secs(5));
            panic!("{suite:?} did not boot:\n{}", text(&log));
        }
        Sdbox { name, up, told_journal: AtomicBool::new(false) }
    }

    /// Runs a command inside, as root with a clean environment, to its end and that of its output.
    /// Panics when that takes more than 60 seconds.
    pub(crate) fn run(&self, argv: &[&str]) -> Output {
        self.run_within(DEADLINE, argv)
    }

    /// [`Sdbox::run`] with another deadline.
    pub(crate) fn run_within(&self, deadline: Duration, argv: &[&str]) -> Output {
        match self.exec(argv, Vec::new(), deadline) {
            Ok(out) => out,
            Err(sofar) => self.fail(&format!("{argv:?} still runs after {deadline:?}\n{sofar}")),
        }
    }

    /// Standard output, without trailing white space, of a command that must exit 0.
    /// Panics with both streams and the end of the journal otherwise.
    pub(crate) fn ok(&self, argv: &[&str]) -> String {
        let out = self.run(argv);
        if out.code != 0 {
            self.fail(&format!("{argv:?}: {out}"));
        }
        out.stdout.trim_end().to_owned()
    }

    /// Writes a file inside, with its directories: mode 755 when it starts with `#!`, else 644.
    pub(crate) fn write_file(&self, path: &str, contents: impl AsRef<[u8]>) {
        let contents = contents.as_ref();
        let mode = if contents.starts_with(b"#!") { "755" } else { "644" };
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1""#;
        let argv = ["sh", "-c", script, "sh", path, mode];
        match self.exec(&argv, contents.to_vec(), DEADLINE) {
            Ok(out) if out.code == 0 => {}
            Ok(out) | Err(out) => self.fail(&format!("write {path}: {out}")),
        }
    }

    /// The output so far is the error when the deadline passes.
    fn exec(&self, argv: &[&str], stdin: Vec<u8>, deadline: Duration) -> Result<Output, Output> {
        let until = Instant::now() + deadline;
        let mut run = Command::new(SDBOX);
        run.args(["run", &self.name]).args(argv);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = run.spawn().expect("tests/rig/sdbox starts");
        let (done, ended) = mpsc::channel();
        let mut pipe = run.stdin.take().expect("stdin is piped");
        let stdout = collect(run.stdout.take().expect("stdout is piped"), &done);
        let stderr = collect(run.stderr.take().expect("stderr is piped"), &done);
        // A command need not read its input, so a failed write is no error.
        thread::spawn(move || pipe.write_all(&stdin));
        let code = Arc::new(Mutex::new(None));
        thread::spawn({
            let code = Arc::clone(&code);
            move || {
                let status = run.wait().expect("our own child");
                let signal = || 128 + status.signal().expect("no code, so a signal");
                *code.lock().expect("no panic holds it") =
                    Some(status.code().unwrap_or_else(signal));
                let _ = done.send(());
            }
        });
        let all = (0..3)
            .all(|_| ended.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok());
        let code = code.lock().expect("no panic holds it").unwrap_or(-1);
        let out = Output { code, stdout: text(&stdout), stderr: text(&stderr) };
        if all { Ok(out) } else { Err(out) }
    }

    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n--- journal\n{}", self.journal_tail())
    }

    fn journal_tail(&self) -> String {
        self.told_journal.store(true, Ordering::Relaxed);
        let argv = ["journalctl", "--no-pager", "-o", "short-precise", "-n", "80"];
        let (Ok(out) | Err(out)) = self.exec(&argv, Vec::new(), Duration::from_secs(10));
        out.stdout + &out.stderr
    }
}

impl Drop for Sdbox {
    fn drop(&mut self) {
        if thread::panicking() && !self.told_journal.load(Ordering::Relaxed) {
            eprintln!("--- journal\n{}", self.journal_tail());
        }
        drop(self.up.stdin.take());
        let _ = self.up.wait();
    }
}

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Reads a stream to its end in a thread of its own, then says so on `done`.
fn collect(mut stream: impl Read + Send + 'static, done: &mpsc::Sender<()>) -> Bytes {
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

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("no panic holds it")).into_owned()
}
