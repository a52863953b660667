//! A systemd in namespaces, booted in under half a second from a Debian tree. `tests/rig/sdbox`
//! boots it, `tests/rig/mkroot` makes the tree.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{self, Machine, Output, Suite, collect, text};

const SDBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/sdbox");
const MKROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/mkroot");

/// Whether the calling test can boot a box: see [`machine::require`].
pub(crate) fn require() -> bool {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    let check = || machine::check(SDBOX, "check").or_else(|| machine::check(MKROOT, "--check"));
    machine::require(LACKING.get_or_init(check).as_deref())
}

/// Path of the root tree. Made first if there is none yet, which takes up to a minute.
fn root(suite: Suite) -> String {
    let made = Command::new(MKROOT).arg(suite.name()).output().expect("tests/rig/mkroot starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8_lossy(&made.stdout).trim_end().to_owned()
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
        up.args(["up", &name, "--leash", "--root", &root(suite)]);
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
}

impl Machine for Sdbox {
    fn command(&self, argv: &[&str]) -> Command {
        let mut run = Command::new(SDBOX);
        run.args(["run", &self.name]).args(argv);
        run
    }

    fn exec(&self, argv: &[&str], stdin: &[u8], deadline: Duration) -> Result<Output, Output> {
        let until = Instant::now() + deadline;
        let mut run = self.command(argv);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = run.spawn().expect("tests/rig/sdbox starts");
        let (done, ended) = mpsc::channel();
        let mut pipe = run.stdin.take().expect("stdin is piped");
        let stdout = collect(run.stdout.take().expect("stdout is piped"), &done);
        let stderr = collect(run.stderr.take().expect("stderr is piped"), &done);
        let stdin = stdin.to_vec();
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

    fn told_journal(&self) -> &AtomicBool {
        &self.told_journal
    }
}

impl Drop for Sdbox {
    fn drop(&mut self) {
        self.tell_journal();
        drop(self.up.stdin.take());
        let _ = self.up.wait();
    }
}
