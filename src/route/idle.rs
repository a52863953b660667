//! Connections to a worker that wait for their next request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::upstream::ListenerId;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    /// What its other end serves.
    pub(super) listener: ListenerId,
    /// Whose requests it carries, if not everybody's.
    pub(super) client: Option<IpAddr>,
}

/// More than these don't wait: who comes from ever new addresses must not use up descriptors.
const MOST: usize = 1024;

/// How often those are looked for whose time is over.
const SWEEP: Duration = Duration::from_secs(1);

/// All that wait, the last one back last.
#[derive(Debug)]
pub(super) struct Idle<T> {
    lanes: HashMap<Lane, Vec<(T, Instant)>>,
    waiting: usize,
    swept: Option<Instant>,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Idle { lanes: HashMap::new(), waiting: 0, swept: None }
    }
}

impl<T> Idle<T> {
    /// One that is ready, and best one that is just right. The last one back is the one most likely
    /// to live.
    pub(super) fn take(
        &mut self,
        lane: Lane,
        now: Instant,
        is_ready: impl Fn(&T) -> bool,
        is_right: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let waiting = self.lanes.get_mut(&lane)?;
        let can = |(one, until): &(T, Instant)| *until > now && is_ready(one);
        let right = waiting.iter().rposition(|one| is_right(&one.0) && can(one));
        let at = right.or_else(|| waiting.iter().rposition(can))?;
        let (taken, _) = waiting.remove(at);
        if waiting.is_empty() {
            self.lanes.remove(&lane);
        }
        self.waiting -= 1;
        Some(taken)
    }

    /// Keeps one `until` then. Now and then those are dropped whose time is over or that have
    /// closed.
    pub(super) fn put(
        &mut self,
        lane: Lane,
        one: T,
        until: Instant,
        now: Instant,
        is_closed: impl Fn(&T) -> bool,
    ) {
        if self.swept.is_none_or(|at| now >= at + SWEEP) {
            self.swept = Some(now);
            self.lanes.retain(|_, waiting| {
                waiting.retain(|(one, until)| *until > now && !is_closed(one));
                !waiting.is_empty()
            });
            self.waiting = self.lanes.values().map(Vec::len).sum();
        }
        if self.waiting < MOST {
            self.lanes.entry(lane).or_default().push((one, until));
            self.waiting += 1;
        }
    }

    /// None waits any more.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(host: u8) -> Lane {
        Lane { listener: ListenerId(0), client: Some([192, 0, 2, host].into()) }
    }

    #[test]
    fn each_client_gets_its_own_and_the_last_one_back() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        let until = now + Duration::from_secs(2);
        for (host, name) in [(1, "a"), (2, "b"), (1, "c"), (1, "busy")] {
            idle.put(lane(host), name, until, now, |_| false);
        }
        let mut take = |host, now| idle.take(lane(host), now, |name| *name != "busy", |_| false);
        assert_eq!(take(3, now), None);
        assert_eq!(take(1, now), Some("c"));
        assert_eq!(take(2, until), None, "its time is over");
        assert_eq!(take(2, now), Some("b"));
        assert_eq!((take(1, now), take(1, now)), (Some("a"), None));
    }

    #[test]
    fn what_nobody_takes_is_dropped_and_no_more_than_so_many_wait() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        let until = now + Duration::from_millis(1500);
        for n in 0..2 * MOST {
            let client = Some(IpAddr::from((n as u128).to_be_bytes()));
            idle.put(Lane { client, ..lane(0) }, n, until, now, |_| false);
        }
        assert_eq!((idle.waiting, idle.lanes.len()), (MOST, MOST));
        let later = now + SWEEP;
        idle.put(lane(1), 0, until, later, |n| n % 2 == 0);
        assert_eq!((idle.waiting, idle.lanes.len()), (MOST / 2 + 1, MOST / 2 + 1));
        idle.put(lane(1), 1, later + SWEEP * 2, later + SWEEP, |_| false);
        assert_eq!(idle.waiting, 1);
    }
}
