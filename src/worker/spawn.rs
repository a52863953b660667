//! Starting a worker process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};

use super::WorkerId;
use super::cgroup::{self, Cgroup, Delegated, Limits};
use super::domain;
use super::hook;
use super::lane::Ends;
use super::notify::NotifySocket;
use super::wire::Framing;
use crate::config::Template;
use crate::listen::OwnPath;
use crate::systemd::journal::{Priority, Streams};
use crate::{places, sys};

/// The first descriptor that systemd hands over.
const FIRST_FD: i32 = 3;

/// What workers' sockets are called in the app's folder, with their numbers: where they speak of
/// themselves, and where they listen.
const NOTIFY: &str = "notify-";
const PRIVATE: &str = "worker-";

/// Everything a worker is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The app's name.
    pub app: String,
    /// The command line.
    pub exec: Vec<String>,
    /// Where it starts.
    pub directory: PathBuf,
    /// How it is spoken to.
    pub interface: Interface,
    /// It is told who its clients are, which takes something of ours in it (Node only).
    pub knows_clients: bool,
    /// Its environment, but for what is said of each worker.
    pub env: BTreeMap<OsString, OsString>,
    /// What of it differs by slot.
    pub env_per_worker: BTreeMap<String, Template>,
    /// How much memory it may take.
    pub memory: Limits,
    /// It has a `NOTIFY_SOCKET` of its own.
    pub notifies: bool,
    /// How often at least it is to say there that it is alive (`WATCHDOG_USEC`).
    pub watchdog: Option<Duration>,
    /// Where its output goes.
    pub output: Output,
}

/// Where a worker's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To us, by pipes.
    Piped,
    /// Where ours goes.
    Inherited,
    /// To the journal, by streams of its own; its standard error with this priority.
    Journal(Priority),
}

/// How a worker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Over Node's IPC, in this framing.
    Node(Framing),
    /// By a listening socket of its own, as systemd hands it over (sd_listen_fds(3)).
    Socket,
    /// Not at all.
    None,
}

/// A process that was just started, and how it is reached.
#[derive(Debug)]
pub struct Spawned {
    /// The process, in a process group of its own.
    pub child: Child,
    /// Our end of Node's IPC.
    pub channel: Option<UnixStream>,
    /// The lane that it may take connections by.
    pub lane: Option<Ends>,
    /// Where its private socket listens.
    pub private: Option<OwnPath>,
    /// Everything that the process and its own processes are in, where that is to be had.
    pub cgroup: Option<Cgroup>,
    /// Its `NOTIFY_SOCKET`, if it has one, and where that is.
    pub notify: Option<(NotifySocket, OwnPath)>,
    /// Its output, if that goes to the journal by streams of its own.
    pub streams: Option<Streams>,
}

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No socket pair for its channel.
    #[error("can't open a worker's channel: {0}")]
    Channel(io::Error),
    /// No private socket.
    #[error("can't open a worker's private socket: {0}")]
    Private(io::Error),
    /// No cgroup, though cohortd's is delegated.
    #[error("can't make a worker's cgroup: {0}")]
    Cgroup(io::Error),
    /// No `NOTIFY_SOCKET`.
    #[error("can't open a worker's NOTIFY_SOCKET: {0}")]
    Notify(io::Error),
    /// No descriptors for its output.
    #[error("can't hand over a worker's output: {0}")]
    Output(io::Error),
    /// The directory is not there.
    #[error("can't start in the directory {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program did not start.
    #[error("can't start \"{program}\": {source} (searched in PATH={path})", path = path.to_string_lossy())]
    Exec {
        /// The first word of `exec`.
        program: String,
        /// The worker's `PATH`.
        path: OsString,
        /// Why not.
        source: io::Error,
    },
}

/// Removes workers' sockets of a predecessor but for these: nobody hears what is said there.
pub fn remove_others(app: &str, known: &[&Path]) {
    let Ok(entries) = places::folder(app).and_then(fs::read_dir) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_a_worker_s =
            [NOTIFY, PRIVATE].iter().any(|start| name.to_string_lossy().starts_with(start));
        if is_a_worker_s && !known.contains(&&*path) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Starts a worker in a slot, in a cgroup of its own where ours may be divided.
///
/// # Errors
/// [`SpawnError`]; nothing is left behind but an empty cgroup.
pub fn spawn(
    plan: &Plan,
    id: WorkerId,
    slot: usize,
    delegated: Option<&Delegated>,
) -> Result<Spawned, SpawnError> {
    // Resolved now and not when the file was read: a release is switched by a symbolic link.
    let directory = std::fs::canonicalize(&plan.directory)
        .map_err(|source| SpawnError::Directory { path: plan.directory.clone(), source })?;
    let (program, arguments) = plan.exec.split_first().expect("exec was checked to be non-empty");

    let notify = plan
        .notifies
        .then(|| NotifySocket::bind(places::folder(&plan.app)?.join(format!("{NOTIFY}{id}"))));
    let notify = notify.transpose().map_err(SpawnError::Notify)?;

    let streams = match plan.output {
        Output::Journal(err) => to_journal(&plan.app, slot, err),
        Output::Piped | Output::Inherited => None,
    };
    let (stdout, stderr) = match (&streams, plan.output) {
        (Some(streams), _) => {
            let copy = |stream: &OwnedFd| stream.try_clone().map(Stdio::from);
            let both = copy(&streams.out).and_then(|out| Ok((out, copy(&streams.err)?)));
            both.map_err(SpawnError::Output)?
        }
        (None, Output::Piped) => (Stdio::piped(), Stdio::piped()),
        (None, _) => (Stdio::inherit(), Stdio::inherit()),
    };
    let mut env = plan.env.clone();
    env.extend(plan.env_per_worker.iter().map(|(k, v)| (k.into(), v.of_slot(slot).into())));
    let mut command = match plan.interface {
        Interface::Node(_) => Command::new(program),
        // Some variables say for which process they are, which is not known before there is one.
        Interface::Socket | Interface::None => {
            let mut command = Command::new("/proc/self/exe");
            command.args([EXEC, "--", program]);
            command
        }
    };
    command
        .args(arguments)
        .current_dir(&directory)
        .env_clear()
        .envs(&env)
        .env("PWD", &directory)
        .env("COHORTD_APP", &plan.app)
        .env("NODE_APP_INSTANCE", slot.to_string())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    if let Some(streams) = &streams {
        command.env("JOURNAL_STREAM", streams.name().map_err(SpawnError::Output)?);
    }
    if let Some((_, path)) = &notify {
        command.env("NOTIFY_SOCKET", path.as_path());
    }
    if let Some(watchdog) = plan.watchdog {
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    }
    let (mut channel, mut private, mut lane) = (None, None, None);
    match plan.interface {
        Interface::Node(framing) => {
            let (ours, theirs) = UnixStream::pair().map_err(SpawnError::Channel)?;
            command
                .env("NODE_CHANNEL_FD", theirs.as_raw_fd().to_string())
                .env("NODE_CHANNEL_SERIALIZATION_MODE", framing.name())
                .env("NODE_UNIQUE_ID", id.to_string());
            channel = Some(ours);
            let mut for_it = vec![theirs.into()];
            if plan.knows_clients {
                match hook::load_into(&mut command, plan, &env, &directory) {
                    Ok(()) => lane = hook::add_lane(&mut command, &mut for_it),
                    Err(error) => {
                        let what = "sees 127.0.0.1 as its clients' address";
                        tracing::warn!(worker = id.0, %error, "{what}");
                    }
                }
            }
            command.preserved_fds(for_it);
        }
        Interface::Socket => {
            let listen = || -> io::Result<(UnixListener, OwnPath)> {
                let path = places::folder(&plan.app)?.join(format!("{PRIVATE}{id}"));
                let _ = fs::remove_file(&path); // of a cohortd that was killed
                Ok((UnixListener::bind(&path)?, OwnPath::new(path)))
            };
            let (listener, path) = listen().map_err(SpawnError::Private)?;
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", &plan.app);
            let mapping = FdMapping { parent_fd: listener.into(), child_fd: FIRST_FD };
            let mapped = command.fd_mappings(vec![mapping]);
            mapped.map_err(|e| SpawnError::Private(io::Error::other(e)))?;
            private = Some(path);
        }
        Interface::None => {}
    }
    let cgroup = delegated
        .map(|delegated| -> io::Result<Cgroup> {
            let cgroup = delegated.create(&cgroup::name_of(id), plan.memory)?;
            sys::enter_cgroup(&mut command, cgroup.procs()?);
            Ok(cgroup)
        })
        .transpose()
        .map_err(SpawnError::Cgroup)?;
    match domain::new() {
        Ok(Some(domain)) => sys::enter_domain(&mut command, domain),
        Ok(None) => {}
        Err(error) => tracing::warn!(worker = id.0, %error, "not kept from other workers"),
    }
    let child = command.spawn().map_err(|source| SpawnError::Exec {
        program: program.clone(),
        path: env.get(OsStr::new("PATH")).cloned().unwrap_or_default(),
        source,
    })?;
    Ok(Spawned { child, channel, lane, private, cgroup, notify, streams })
}

/// A worker's own streams in the journal. Without them its output goes where ours goes: that is the
/// journal as well, but the lines are not told apart.
fn to_journal(app: &str, slot: usize, err: Priority) -> Option<Streams> {
    static WARNED: Once = Once::new();
    let warn = |error| {
        WARNED.call_once(|| {
            tracing::warn!(%error, "no journal streams for the workers: their lines are in ours");
        });
    };
    Streams::open(app, slot, err).map_err(warn).ok()
}

/// cohortd's own command by which it becomes a worker's program.
pub const EXEC: &str = "exec";

/// Becomes a worker's program, with the variables that name its process. Returns why not.
pub fn exec(command: &[OsString]) -> SpawnError {
    let own = std::process::id().to_string();
    let (program, arguments) = command.split_first().expect("clap asks for one at least");
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    for (variable, pid) in [("LISTEN_FDS", "LISTEN_PID"), ("WATCHDOG_USEC", "WATCHDOG_PID")] {
        if std::env::var_os(variable).is_some() {
            command.env(pid, &own);
        }
    }
    SpawnError::Exec {
        source: command.exec(),
        program: program.to_string_lossy().into_owned(),
        path: std::env::var_os("PATH").unwrap_or_default(),
    }
}
