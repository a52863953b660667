//! Workers' cgroups, below that of the service, which systemd has delegated (`Delegate=yes`).
//!
//! A worker's cgroup ends with everything in it at once (`cgroup.kill`), bounds its memory and says
//! whether the kernel killed for lack of it. cohortd itself moves into a cgroup beside them: one
//! with controllers for its children must not hold processes.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;

use super::WorkerId;
use crate::sys;

/// Where the unified hierarchy is mounted: alone, or beside the old one.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// By which systemd marks a cgroup that its processes may divide (systemd 251 and later; root can
/// also see the older one).
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Where cohortd itself goes.
const SUPERVISOR: &str = "supervisor";

/// Where systemd puts a service's control processes.
const CONTROL: &str = ".control";

/// What workers' are called, with their numbers.
const WORKER: &str = "worker-";

/// What is killed is gone in a moment; a cgroup can be removed only then.
const REMOVE_PAUSE: Duration = Duration::from_millis(20);
const REMOVE_TRIES: usize = 250;

/// Of a limit that the kernel says was reached: less is in use only where the rest was cache.
const IN_USE: f64 = 0.9;

/// How much memory a worker may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// It is told of when this is reached (`memory.high`), in bytes.
    pub high: Option<usize>,
    /// The kernel gives it no more than this (`memory.max`), in bytes.
    pub max: Option<usize>,
}

/// A cgroup that is ours to divide.
#[derive(Debug)]
pub struct Delegated {
    path: PathBuf,
    memory: bool,
}

impl Delegated {
    /// Takes over the cgroup that this process was started in, if it is delegated.
    ///
    /// # Errors
    /// It is delegated, but can't be used.
    pub fn take() -> io::Result<Option<Delegated>> {
        let Some(own) = own()? else { return Ok(None) };
        let Some(path) = own.ancestors().take(2).find(|path| is_delegated(path)) else {
            return Ok(None);
        };
        let supervisor = path.join(SUPERVISOR);
        create(&supervisor)?;
        fs::write(supervisor.join("cgroup.procs"), "0")?;
        let controllers = fs::read_to_string(path.join("cgroup.controllers"))?;
        let memory = controllers.split_whitespace().any(|controller| controller == "memory");
        if memory {
            fs::write(path.join("cgroup.subtree_control"), "+memory")?;
        }
        Ok(Some(Delegated { path: path.to_owned(), memory }))
    }

    /// Whether memory can be bounded.
    pub fn has_memory(&self) -> bool {
        self.memory
    }

    /// The cgroup of a predecessor's worker, with limits that may have been lost.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resume(&self, name: &str, limits: Limits) -> io::Result<Cgroup> {
        let cgroup = Cgroup { path: self.path.join(name), memory: self.memory };
        cgroup.limit(limits)?;
        Ok(cgroup)
    }

    /// Ends what is in cgroups of predecessors' workers but for these, and the cgroups with it. Returns
    /// the numbers of such workers.
    pub async fn end_others(&self, names: &[String]) -> Vec<WorkerId> {
        let mut ended = Vec::new();
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.starts_with(WORKER) && !names.contains(&name) {
                tracing::debug!(cgroup = name, "of a worker that is not gone on with");
                let cgroup = Cgroup { path: entry.path(), memory: false };
                cgroup.kill();
                cgroup.remove().await;
                ended.extend(name[WORKER.len()..].parse().ok().map(WorkerId));
            }
        }
        ended
    }

    /// Makes a cgroup for a worker. What an earlier one of the name has left is killed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(&self, name: &str, limits: Limits) -> io::Result<Cgroup> {
        let cgroup = Cgroup { path: self.path.join(name), memory: self.memory };
        if !create(&cgroup.path)? {
            cgroup.kill();
        }
        cgroup.limit(limits)?;
        Ok(cgroup)
    }
}

/// What a worker's cgroup is called.
pub fn name_of(id: WorkerId) -> String {
    format!("{WORKER}{id}")
}

/// A service's cgroup as its control processes see it (`ExecStopPost=`).
#[derive(Debug)]
pub struct Service {
    path: PathBuf,
    /// Of this process, if it is the service's.
    own: Option<PathBuf>,
}

impl Service {
    /// That of this process, if systemd has put it in one beside the service's others.
    pub fn of_control() -> Option<Service> {
        let own = own().ok().flatten()?;
        let is_control = own.file_name().is_some_and(|name| name == CONTROL);
        is_control
            .then(|| Some(Service { path: own.parent()?.to_owned(), own: Some(own.clone()) }))?
    }

    /// Another one, by the path that systemd says, which is empty where it has none.
    pub fn at(path: &str) -> Option<Service> {
        let path = path.strip_prefix('/').filter(|path| !path.is_empty())?;
        Some(Service { path: mount()?.join(path), own: None })
    }

    /// Ends everything else in it. Not by its own `cgroup.kill`: Linux 6.18 then also kills what is
    /// started into it later.
    pub fn end_all(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if Some(entry.path()) != self.own {
                let _ = fs::write(entry.path().join("cgroup.kill"), "1"); // it may be a file
            }
        }
        for process in processes(&self.path) {
            let _ = kill_process(process, Signal::KILL); // it may have ended
        }
    }

    /// Lets processes be put into it again, which can't be while its children have controllers. Their
    /// limits are lost until whoever comes next sets them.
    pub fn make_room(&self) {
        let file = self.path.join("cgroup.subtree_control");
        let controllers = fs::read_to_string(&file).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            let _ = fs::write(&file, format!("-{controller}")); // it may be in use below
        }
    }
}

/// One worker's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    memory: bool,
}

impl Cgroup {
    fn limit(&self, limits: Limits) -> io::Result<()> {
        if self.memory {
            let text = |limit: Option<usize>| limit.map_or("max".into(), |n| n.to_string());
            self.write("memory.high", &text(limits.high))?;
            self.write("memory.max", &text(limits.max))?;
            // A worker without some of its processes is of no use.
            self.write("memory.oom.group", "1")?;
        }
        Ok(())
    }

    /// For a new process to enter it: [`crate::sys::enter_cgroup`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn procs(&self) -> io::Result<OwnedFd> {
        let file = fs::OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?;
        Ok(file.into())
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<Pid> {
        processes(&self.path)
    }

    /// Kills everything in it.
    pub fn kill(&self) {
        let _ = self.write("cgroup.kill", "1");
    }

    /// Whether its memory is bounded and counted.
    pub fn has_memory(&self) -> bool {
        self.memory
    }

    /// Whether the kernel has killed in it for lack of memory.
    pub fn was_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        field(&events, "oom_kill").is_some_and(|kills| kills > 0)
    }

    /// The memory in use, in bytes: without what the kernel could take back at once (pages of
    /// files), but with what it has swapped out.
    pub fn memory(&self) -> Option<usize> {
        let number = |name| fs::read_to_string(self.path.join(name)).ok()?.trim().parse().ok();
        let current: usize = number("memory.current")?;
        let swapped = number("memory.swap.current").unwrap_or(0);
        let stat = fs::read_to_string(self.path.join("memory.stat")).ok()?;
        let reclaimable: usize = ["active_file", "inactive_file", "slab_reclaimable"]
            .iter()
            .filter_map(|name| field(&stat, name))
            .sum();
        Some(current.saturating_sub(reclaimable) + swapped)
    }

    /// The processor time that everything in it has taken, now and before.
    pub fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        Some(Duration::from_micros(field(&stat, "usage_usec")? as u64))
    }

    /// Ends when so much memory is in use, which the kernel tells; how much it is then. The worker
    /// is not slowed down from then on.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn outgrows(&self, high: usize) -> io::Result<usize> {
        let mut events = fs::File::open(self.path.join("memory.events"))?;
        let watched = sys::watch_changes(events.try_clone()?)?;
        let mut reached = 0;
        loop {
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            let now = field(&text, "high").unwrap_or(0);
            let used = self.memory().unwrap_or(0);
            if now > reached && used as f64 >= high as f64 * IN_USE {
                self.write("memory.high", "max")?;
                return Ok(used);
            }
            reached = now;
            watched.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }

    /// Removes it when it is empty, which it is to be soon.
    pub async fn remove(&self) {
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    self.kill();
                    tokio::time::sleep(REMOVE_PAUSE).await;
                }
                _ => return,
            }
        }
        tracing::warn!(cgroup = %self.path.display(), "not empty, though everything was killed");
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }
}

impl Drop for Cgroup {
    /// One that nothing has entered does not stay.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Makes a cgroup; whether it is new.
fn create(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// This process's cgroup in the unified hierarchy, if there is one.
fn own() -> io::Result<Option<PathBuf>> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let Some(path) = cgroups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Ok(None);
    };
    Ok(mount().map(|mount| mount.join(path)))
}

/// The processes in a cgroup, without those below it.
fn processes(path: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

/// Where the unified hierarchy is mounted, if it is.
fn mount() -> Option<&'static Path> {
    MOUNTS.iter().map(Path::new).find(|mount| mount.join("cgroup.procs").exists())
}

fn is_delegated(path: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(path, *name, &mut value).is_ok_and(|n| &value[..n] == b"1")
    })
}

/// A number of a file that has a name and a number on each line.
fn field(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let events = "low 0\nhigh 12\nmax 3\noom 1\noom_kill 2\noom_group_kill 4\n";
        assert_eq!(field(events, "high"), Some(12));
        assert_eq!(field(events, "oom"), Some(1));
        assert_eq!(field(events, "oom_kill"), Some(2));
        assert_eq!(field(events, "kill"), None);
    }
}
