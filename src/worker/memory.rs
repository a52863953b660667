//! How much memory a worker uses.

use std::time::Duration;

use super::cgroup::Cgroup;

/// Where the kernel does not tell, it is asked so often.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The memory that a worker uses, in bytes: all of its processes where they have a cgroup that
/// counts it, else what its first process has resident.
pub fn used(pid: u32, cgroup: Option<&Cgroup>) -> Option<usize> {
    match cgroup.filter(|cgroup| cgroup.has_memory()) {
        Some(cgroup) => cgroup.memory(),
        None => resident(pid),
    }
}

/// Ends when a worker uses so many bytes; how many it uses then.
pub async fn outgrows(pid: u32, cgroup: Option<&Cgroup>, limit: usize) -> usize {
    if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.has_memory()) {
        match cgroup.outgrows(limit).await {
            Ok(used) => return used,
            Err(error) => tracing::warn!(%error, "the kernel does not tell of memory; asking"),
        }
    }
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        if let Some(used) = used(pid, cgroup).filter(|used| *used >= limit) {
            return used;
        }
    }
}

fn resident(pid: u32) -> Option<usize> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: usize = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size())
}
