//! How much processor time a worker has taken.

use std::time::Duration;

use super::cgroup::Cgroup;

/// Where `/proc/PID/stat` has `utime` and `stime`, counted from behind the program's name.
const TIMES: std::ops::Range<usize> = 11..13;

/// The processor time of all of a worker's processes, also of those that have ended, where they have a
/// cgroup; else of its first process.
pub fn used(pid: u32, cgroup: Option<&Cgroup>) -> Option<Duration> {
    match cgroup {
        Some(cgroup) => cgroup.cpu(),
        None => of_process(pid),
    }
}

fn of_process(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    let second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks.saturating_mul(1000) / second))
}

/// A program's name may have anything in it, so also parentheses and spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields.get(TIMES)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 900 0 3 0 123 45 6 7 20 0 11 0 9 1 2";
        assert_eq!(ticks(stat), Some(168));
        assert_eq!(ticks("12 (node) S 1 2"), None);
        assert_eq!(ticks(""), None);
    }
}
