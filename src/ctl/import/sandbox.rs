//! A source that is a program: Node runs it, with as little as can be, and says its value.
//!
//! As root under systemd it runs in a transient unit: no network, nothing of the file system to
//! write, nothing of home folders to see but its own. Otherwise it runs as the user who imports, who
//! may run it anyway, without that user's environment, and where Node can hold it to reading its
//! folder, it does.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::ctl::booted;

/// How long a program may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// More output than this is no list of apps.
const MOST_OUTPUT: u64 = 16 << 20;

/// Folders that `ProtectHome=tmpfs` empties.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

const EVALUATE: &str = include_str!("evaluate.cjs");

/// How to do without running it.
const INSTEAD: &str = "To import it without this sandbox, have Node write its value down: \
                       node -p 'JSON.stringify(require(\"./ecosystem.config.js\"))' > apps.json";

/// The value of a program.
///
/// # Errors
/// Why it has none, in the program's own words if it has some.
pub(super) fn evaluate(file: &Path, node: &str) -> Result<Value, String> {
    let node = find(node)?;
    let file = file.canonicalize().map_err(|error| error.to_string())?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mark = format!("{:032x}", fastrand::u128(..));
    let name = file.to_str().ok_or("its name is no text")?;
    let program = format!(
        "const FILE = {}, MARK = {};\n{EVALUATE}",
        Value::from(name),
        Value::from(mark.as_str())
    );
    let is_root = rustix::process::geteuid().is_root();
    let mut command = if is_root && booted() {
        transient(&file, folder, &node)?
    } else {
        plain(&file, folder, &node)?
    };
    let out = run(&mut command, &program)?;
    match out.stdout.rsplit_once(&mark) {
        Some((_, json)) => serde_json::from_str(json).map_err(|error| error.to_string()),
        None => Err(said(&out.stderr, &mark)),
    }
}

/// What went wrong, without what is of Node's own or ours.
fn said(stderr: &str, mark: &str) -> String {
    // Our own program says the error's code first.
    let (code, words) = match stderr.rsplit_once(mark) {
        Some((_, ours)) => ours.split_once('\n').unwrap_or(("", ours)),
        None => ("", stderr),
    };
    let is_its = |line: &&str| !line.trim_start().starts_with("at ") || !line.contains("node:");
    let words: Vec<&str> = words.trim().lines().filter(is_its).take(12).collect();
    match words.as_slice() {
        [] => format!("it ended before it had a value. {INSTEAD}"),
        words if code == "ERR_ACCESS_DENIED" => {
            format!("it wants more than to read its folder:\n{}\n{INSTEAD}", words.join("\n"))
        }
        words => format!("{}\n{INSTEAD}", words.join("\n")),
    }
}

/// A program by its path, or from PATH.
fn find(node: &str) -> Result<PathBuf, String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = if node.contains('/') {
        std::path::absolute(node).ok().filter(|path| path.is_file())
    } else {
        std::env::split_paths(&paths).map(|folder| folder.join(node)).find(|path| path.is_file())
    };
    found.ok_or_else(|| format!("{node} was not found, and it takes Node to read it: say --node"))
}

/// In a unit of its own.
fn transient(file: &Path, folder: &Path, node: &Path) -> Result<Command, String> {
    let seconds = TIME_LIMIT.as_secs();
    let mut properties = vec![
        "PrivateNetwork=yes".to_owned(),
        "PrivateTmp=yes".to_owned(),
        "PrivateDevices=yes".to_owned(),
        "ProtectSystem=strict".to_owned(),
        "NoNewPrivileges=yes".to_owned(),
        "CapabilityBoundingSet=".to_owned(),
        "TasksMax=64".to_owned(),
        format!("RuntimeMaxSec={seconds}"),
    ];
    // Somebody new, where everybody may read it; else whose it is.
    let of_file = file.metadata().map_err(|error| error.to_string())?;
    let of_folder = folder.metadata().map_err(|error| error.to_string())?;
    let owner = match (of_file.mode() & 0o004, of_folder.mode() & 0o005) {
        (0, _) => Some(of_file.uid()),
        (_, 0o005) => None,
        _ => Some(of_folder.uid()),
    };
    properties.push(match owner {
        None => "DynamicUser=yes".to_owned(),
        Some(0) => {
            return Err(format!("only root can read it, and root does not run it. {INSTEAD}"));
        }
        Some(owner) => format!("User={owner}"),
    });
    // A home folder can't be entered by others: what is needed of it is put there again.
    let in_home = |path: &Path| HOMES.iter().any(|home| path.starts_with(home));
    let real = node.canonicalize().map_err(|error| error.to_string())?;
    let real_folder = real.parent().unwrap_or(Path::new("/"));
    let needed: Vec<&Path> =
        [folder, real_folder].into_iter().filter(|path| in_home(path)).collect();
    if needed.is_empty() {
        properties.push("ProtectHome=yes".to_owned());
    } else {
        properties.push("ProtectHome=tmpfs".to_owned());
    }
    for path in needed {
        let text = path.to_str().filter(|text| !text.contains([':', '"', '\\', '%', '\n']));
        let text =
            text.ok_or_else(|| format!("{}: no such name can be mounted", path.display()))?;
        properties.push(format!("BindReadOnlyPaths=\"{text}\""));
    }
    let mut command = Command::new("systemd-run");
    command.args(["--pipe", "--wait", "--quiet", "--collect"]);
    for property in properties {
        command.arg("-p").arg(property);
    }
    command.arg("--").arg(&real).arg("-");
    Ok(command)
}

/// As whoever imports; root lets the file's owner do it.
fn plain(file: &Path, folder: &Path, node: &Path) -> Result<Command, String> {
    let mut command = Command::new(node);
    command.args(permissions(node, folder)).arg("-").current_dir(folder).process_group(0);
    command.env_clear();
    for name in ["PATH", "HOME", "LANG"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    if rustix::process::geteuid().is_root() {
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        command.uid(metadata.uid()).gid(metadata.gid());
    }
    Ok(command)
}

/// The words by which this Node holds a program to reading a folder; none before Node 20.
fn permissions(node: &Path, folder: &Path) -> Vec<OsString> {
    let Ok(out) = Command::new(node).arg("--version").output() else { return Vec::new() };
    let version = String::from_utf8_lossy(&out.stdout).into_owned();
    let major = version.trim_start_matches('v').split('.').next();
    let word = match major.and_then(|major| major.parse::<u32>().ok()) {
        Some(24..) => "--permission",
        Some(20..) => "--experimental-permission",
        _ => return Vec::new(),
    };
    let mut read = OsString::from("--allow-fs-read=");
    read.push(folder);
    read.push(OsStr::new("/*"));
    vec![word.into(), read, "--no-warnings".into()]
}

/// What a program has printed.
struct Printed {
    stdout: String,
    stderr: String,
}

/// Runs it to its end, or to the time limit.
fn run(command: &mut Command, program: &str) -> Result<Printed, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    let (done, ended) = mpsc::channel();
    let stdout = gather(child.stdout.take(), &done);
    let stderr = gather(child.stderr.take(), &done);
    if let Some(mut stdin) = child.stdin.take() {
        let program = program.to_owned();
        // A child that has ended does not read it: it has said why.
        thread::spawn(move || stdin.write_all(program.as_bytes()).ok());
    }
    // systemd ends its own a little earlier, and says so.
    let limit = TIME_LIMIT + Duration::from_secs(2);
    let in_time = ended.recv_timeout(limit).and_then(|()| ended.recv_timeout(limit)).is_ok();
    end(&mut child);
    if !in_time {
        return Err(format!("it did not end within {} s. {INSTEAD}", TIME_LIMIT.as_secs()));
    }
    let text = |thread: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    Ok(Printed { stdout: text(stdout), stderr: text(stderr) })
}

/// Ends a child with all that it has started, if it has not ended.
fn end(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        // The group may be gone, or never have been: then there is nothing to end.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

/// Reads a stream to its end in a thread of its own, then says so.
fn gather(
    stream: Option<impl Read + Send + 'static>,
    done: &mpsc::Sender<()>,
) -> thread::JoinHandle<Vec<u8>> {
    let done = done.clone();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            let _ = stream.take(MOST_OUTPUT).read_to_end(&mut bytes);
        }
        let _ = done.send(());
        bytes
    })
}
