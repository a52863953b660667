//! A systemd in a virtual machine, slow but with every cgroup controller, which namespaces have only
//! where the machine lends them. `tests/rig/vmbox` starts it.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::machine::{self, Bytes, Machine, Output, Suite, collect, text};

const VMBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/vmbox");

/// To copy what it is given, and to start: two seconds on an idle machine.
const START: Duration = Duration::from_secs(120);

/// What an answer may take beyond the time the command has.
const GRACE: Duration = Duration::from_secs(15);

/// Whether the calling test can boot a VM: see [`machine::require`].
pub(crate) fn require() -> bool {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    machine::require(LACKING.get_or_init(|| machine::check(VMBOX, "check")).as_deref())
}

/// A booted VM. It ends with this value, or with the test process however that ends.
#[derive(Debug)]
pub(crate) struct Vm {
    /// `vmbox up`, whose standard input is the leash.
    up: Child,
    /// For one command at a time.
    channel: Mutex<Channel>,
    console: Bytes,
    told_journal: AtomicBool,
}

/// To the agent in the VM, `tests/rig/vm/agent`.
#[derive(Debug)]
struct Channel {
    /// `None` when an answer did not come: no later one can be told from it.
    requests: Option<ChildStdin>,
    answers: mpsc::Receiver<Answer>,
}

#[derive(Debug)]
struct Answer {
    /// `None`: it had to be killed when its time was over.
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Vm {
    /// Boots to `running`. `binds` are (path here, path inside), files or folders; what is inside is
    /// a copy, read-only, and without the contents of the folders `hide`. Panics with the boot's log
    /// otherwise.
    pub(crate) fn boot(suite: Suite, binds: &[(&Path, &str)], hide: &[&Path]) -> Vm {
        let build = Command::new(VMBOX).args(["build", suite.name()]).output();
        let build = build.expect("tests/rig/vmbox starts");
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));

        let mut up = Command::new(VMBOX);
        up.args(["up", suite.name()]);
        for (src, dst) in binds {
            up.arg("--bind").arg(format!("{}:{dst}", src.display()));
        }
        for folder in hide {
            up.arg("--hide").arg(folder);
        }
        up.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut up = up.spawn().expect("tests/rig/vmbox starts");
        let (done, ended) = mpsc::channel();
        let console = collect(up.stderr.take().expect("stderr is piped"), &done);
        let requests = up.stdin.take();
        let (answer, answers) = mpsc::channel();
        let mut stdout = BufReader::new(up.stdout.take().expect("stdout is piped"));
        thread::spawn(move || {
            while let Ok(next) = read_answer(&mut stdout) {
                if answer.send(next).is_err() {
                    break;
                }
            }
        });

        let booted = answers.recv_timeout(START);
        let channel = Mutex::new(Channel { requests, answers });
        let vm = Vm { up, channel, console, told_journal: AtomicBool::new(true) };
        match booted {
            Ok(Answer { code: Some(0), .. }) => {}
            Ok(said) => panic!("{suite:?} did not boot:\n{}\n{}", said.stdout, text(&vm.console)),
            Err(_) => {
                let _ = ended.recv_timeout(Duration::from_secs(1));
                panic!("{suite:?} did not boot:\n{}", text(&vm.console));
            }
        }
        vm.told_journal.store(false, Ordering::Relaxed);
        vm
    }
}

fn read_answer(from: &mut impl BufRead) -> io::Result<Answer> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let code = words.next().ok_or(io::ErrorKind::UnexpectedEof)?.parse().ok();
    let mut stream = || {
        let length = words.next().and_then(|word| word.parse().ok());
        let mut bytes = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        from.read_exact(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Answer { code, stdout: stream()?, stderr: stream()? })
}

fn write_request(
    mut to: &ChildStdin,
    argv: &[&str],
    stdin: &[u8],
    deadline: Duration,
) -> io::Result<()> {
    let mut request = format!("{} {} {}\n", deadline.as_secs().max(1), argv.len(), stdin.len());
    for word in argv {
        request.push_str(word);
        request.push('\0');
    }
    to.write_all(request.as_bytes())?;
    to.write_all(stdin)
}

impl Machine for Vm {
    fn exec(&self, argv: &[&str], stdin: &[u8], deadline: Duration) -> Result<Output, Output> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = channel
            .requests
            .as_ref()
            .is_some_and(|requests| write_request(requests, argv, stdin, deadline).is_ok());
        let answer = sent.then(|| channel.answers.recv_timeout(deadline + GRACE).ok()).flatten();
        let Some(Answer { code, stdout, stderr }) = answer else {
            channel.requests = None;
            let stderr = format!("the VM does not answer; its console:\n{}", text(&self.console));
            return Err(Output { code: -1, stdout: String::new(), stderr });
        };
        let out = Output { code: code.unwrap_or(-1), stdout, stderr };
        if code.is_some() { Ok(out) } else { Err(out) }
    }

    fn command(&self, argv: &[&str]) -> Command {
        panic!("{argv:?}: a VM has one channel, for one command at a time")
    }

    fn told_journal(&self) -> &AtomicBool {
        &self.told_journal
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.tell_journal();
        self.channel.get_mut().unwrap_or_else(PoisonError::into_inner).requests = None;
        let _ = self.up.wait();
    }
}
