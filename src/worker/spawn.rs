//! Starting a worker process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use command_fds::CommandFdExt;
use tokio::process::{Child, Command};

use super::WorkerId;
use super::cgroup::{Cgroup, Delegated, Limits};
use super::notify::NotifySocket;
use super::wire::Framing;
use crate::{places, sys};

/// Everything a worker is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The app's name.
    pub app: String,
    /// The command line.
    pub exec: Vec<String>,
    /// Where it starts.
    pub directory: PathBuf,
    /// Its channel's framing.
    pub framing: Framing,
    /// Its environment, but for what is said of each worker.
    pub env: BTreeMap<OsString, OsString>,
    /// How much memory it may take.
    pub memory: Limits,
    /// It has a `NOTIFY_SOCKET` of its own.
    pub notifies: bool,
    /// Its output is piped to us (in the foreground), or else goes where ours goes.
    pub piped: bool,
}

/// A process that was just started, and our end of its channel.
#[derive(Debug)]
pub struct Spawned {
    /// The process, in a process group of its own.
    pub child: Child,
    /// Our end.
    pub channel: UnixStream,
    /// Everything that the process and its own processes are in, where that is to be had.
    pub cgroup: Option<Cgroup>,
    /// What it says there, if it has one.
    pub notify: Option<NotifySocket>,
}

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No socket pair for its channel.
    #[error("can't open a worker's channel: {0}")]
    Channel(io::Error),
    /// No cgroup, though cohortd's is delegated.
    #[error("can't make a worker's cgroup: {0}")]
    Cgroup(io::Error),
    /// No `NOTIFY_SOCKET`.
    #[error("can't open a worker's NOTIFY_SOCKET: {0}")]
    Notify(io::Error),
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
    let (ours, theirs) = UnixStream::pair().map_err(SpawnError::Channel)?;
    let theirs = OwnedFd::from(theirs);
    // Resolved now and not when the file was read: a release is switched by a symbolic link.
    let directory = std::fs::canonicalize(&plan.directory)
        .map_err(|source| SpawnError::Directory { path: plan.directory.clone(), source })?;
    let (program, arguments) = plan.exec.split_first().expect("exec was checked to be non-empty");

    let notify = plan
        .notifies
        .then(|| NotifySocket::bind(places::folder(&plan.app)?.join(format!("notify-{id}"))));
    let notify = notify.transpose().map_err(SpawnError::Notify)?;

    let output = || if plan.piped { Stdio::piped() } else { Stdio::inherit() };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&directory)
        .env_clear()
        .envs(&plan.env)
        .env("PWD", &directory)
        .env("COHORTD_APP", &plan.app)
        .env("NODE_APP_INSTANCE", slot.to_string())
        .env("NODE_CHANNEL_FD", theirs.as_raw_fd().to_string())
        .env("NODE_CHANNEL_SERIALIZATION_MODE", plan.framing.name())
        .env("NODE_UNIQUE_ID", id.to_string())
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(notify) = &notify {
        command.env("NOTIFY_SOCKET", notify.path());
    }
    command.as_std_mut().preserved_fds(vec![theirs]);
    let cgroup = delegated
        .map(|delegated| -> io::Result<Cgroup> {
            let cgroup = delegated.create(&format!("worker-{id}"), plan.memory)?;
            sys::enter_cgroup(command.as_std_mut(), cgroup.procs()?);
            Ok(cgroup)
        })
        .transpose()
        .map_err(SpawnError::Cgroup)?;
    let child = command.spawn().map_err(|source| SpawnError::Exec {
        program: program.clone(),
        path: plan.env.get(&OsString::from("PATH")).cloned().unwrap_or_default(),
        source,
    })?;
    Ok(Spawned { child, channel: ours, cgroup, notify })
}
