//! Who is there: asked of the kernel, not of cohortd.

use std::fs;

/// The processes that an app has started, and those that these have: they inherit its name.
pub(super) fn of_app(name: &str) -> Vec<i32> {
    let variable = format!("COHORTD_APP={name}");
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|other| other == variable.as_bytes())
    };
    all().into_iter().filter(has).collect()
}

/// Processes of an app that are neither one of its workers nor a worker's own child, and children
/// of its cohortd, ended ones too, that are neither workers nor its keeper.
pub(super) fn strangers(name: &str, cohortd: i32, workers: &[i32]) -> Vec<i32> {
    let is_a_worker_s = |pid: &i32| {
        workers.contains(pid) || parent(*pid).is_some_and(|parent| workers.contains(&parent))
    };
    let left = of_app(name).into_iter().filter(|pid| !is_a_worker_s(pid));
    let children = all().into_iter().filter(|pid| parent(*pid) == Some(cohortd));
    left.chain(children.filter(|pid| !workers.contains(pid) && !is_keeper(*pid))).collect()
}

/// Whether it keeps connections for when cohortd is killed.
pub(super) fn is_keeper(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "cohortd-keeper\n")
}

fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("it is mounted");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(super) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
