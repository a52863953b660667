//! Which worker a session lives in, and which worker a new one goes to. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use crate::worker::WorkerId;

/// How long a session is remembered without a word, when nothing says how long it may be silent.
const DEFAULT_SILENCE: Duration = Duration::from_secs(600);

/// Added to what the handshake says: a late poll still finds its worker.
const GRACE: Duration = Duration::from_secs(30);

/// Longer than any sensible configuration; keeps the sum of two times from overflowing.
const MAX_SILENCE: Duration = Duration::from_secs(86_400);

/// How often forgotten sessions are swept out.
const SWEEP: Duration = Duration::from_secs(30);

/// The sessions of all workers. A session whose worker has died stays until its time is over: a
/// request for it need not wait to be told that it is unknown.
#[derive(Debug, Default)]
pub struct Sessions {
    by_sid: HashMap<Box<str>, Entry>,
    counts: HashMap<WorkerId, usize>,
    next_sweep: Duration,
}

/// There are as many as there are sessions: times are whole milliseconds, in as few bytes as will do.
#[derive(Debug, Clone, Copy)]
struct Entry {
    worker: WorkerId,
    forgotten_at: u64,
    silence: u32,
    /// Its client is to hear that it is over.
    ended: bool,
}

impl Entry {
    fn silence(&self) -> Duration {
        Duration::from_millis(self.silence.into())
    }

    /// There is word of it.
    fn renew(&mut self, now: Duration) {
        self.forgotten_at = millis(now + self.silence());
    }

    fn is_forgotten(&self, now: Duration) -> bool {
        self.forgotten_at <= millis(now)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Sessions {
    /// A session lives in this worker. The worker's own report and the handshake's response both
    /// say so, in either order. Returns whether that is news.
    pub fn open(
        &mut self,
        sid: &str,
        worker: WorkerId,
        silence: Option<Duration>,
        now: Duration,
    ) -> bool {
        self.sweep(now);
        let known = self.by_sid.get(sid).filter(|entry| entry.worker == worker);
        let is_news = known.is_none() || silence.is_some();
        let silence = match silence {
            Some(silence) => silence.min(MAX_SILENCE) + GRACE,
            None => known.map_or(DEFAULT_SILENCE, Entry::silence),
        };
        let silence = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        let mut entry = Entry { worker, forgotten_at: 0, silence, ended: false };
        entry.renew(now);
        *self.counts.entry(worker).or_default() += 1;
        if let Some(before) = self.by_sid.insert(sid.into(), entry) {
            self.uncount(&before);
        }
        is_news
    }

    /// Those that are not over: whose each is, and how long it may be silent.
    pub fn all(&self) -> impl Iterator<Item = (Box<str>, WorkerId, Duration)> {
        let live = self.by_sid.iter().filter(|(_, entry)| !entry.ended);
        live.map(|(sid, entry)| (sid.clone(), entry.worker, entry.silence().saturating_sub(GRACE)))
    }

    /// Those that were ended, and in which worker each was.
    pub fn over(&self) -> impl Iterator<Item = (Box<str>, WorkerId)> {
        let over = self.by_sid.iter().filter(|(_, entry)| entry.ended);
        over.map(|(sid, entry)| (sid.clone(), entry.worker))
    }

    /// The worker says that a session of its own has ended.
    pub fn close(&mut self, sid: &str, worker: WorkerId) {
        if self.by_sid.get(sid).is_some_and(|entry| entry.worker == worker) {
            self.forget(sid);
        }
    }

    /// A session is over, whatever its worker says: it counts no more, but is still known.
    pub fn end(&mut self, sid: &str, worker: WorkerId) {
        if let Some(entry) = self.by_sid.get_mut(sid)
            && entry.worker == worker
            && !entry.ended
        {
            let before = *entry;
            entry.ended = true;
            self.uncount(&before);
        }
    }

    /// Whether a session was ended by [`Sessions::end`].
    pub fn is_ended(&self, sid: &str) -> bool {
        self.by_sid.get(sid).is_some_and(|entry| entry.ended)
    }

    /// The sessions that live in a worker.
    pub fn of(&self, worker: WorkerId) -> Vec<Box<str>> {
        let live = |entry: &Entry| entry.worker == worker && !entry.ended;
        self.by_sid.iter().filter(|(_, entry)| live(entry)).map(|(sid, _)| sid.clone()).collect()
    }

    /// The session's worker, which may be dead.
    pub fn find(&mut self, sid: &str, now: Duration) -> Option<WorkerId> {
        let entry = self.by_sid.get_mut(sid).filter(|entry| !entry.is_forgotten(now))?;
        entry.renew(now);
        Some(entry.worker)
    }

    /// How many sessions live in a worker.
    pub fn count(&self, worker: WorkerId) -> usize {
        self.counts.get(&worker).copied().unwrap_or(0)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.by_sid.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_sid.is_empty()
    }

    fn sweep(&mut self, now: Duration) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let gone: Vec<Entry> =
            self.by_sid.extract_if(|_, entry| entry.is_forgotten(now)).map(|(_, e)| e).collect();
        gone.iter().for_each(|entry| self.uncount(entry));
    }

    fn forget(&mut self, sid: &str) {
        if let Some(entry) = self.by_sid.remove(sid) {
            self.uncount(&entry);
        }
    }

    fn uncount(&mut self, entry: &Entry) {
        if let Some(count) = self.counts.get_mut(&entry.worker).filter(|_| !entry.ended) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&entry.worker);
            }
        }
    }
}

/// The less loaded of two candidates, which a random number chooses (Mitzenmacher, 2001): as good
/// as the least loaded of all, and no newcomer gets everything. `None` for none.
pub fn less_loaded(candidates: usize, random: u64, load: impl Fn(usize) -> u64) -> Option<usize> {
    let n = candidates as u64;
    match candidates {
        0 => None,
        1 => Some(0),
        _ => {
            let first = random % n;
            let second = (first + 1 + (random / n) % (n - 1)) % n;
            let (first, second) = (first as usize, second as usize);
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

/// A worker's load for comparison, when it has had so much of its slow start: at the beginning of
/// it, one thing to do weighs as much as ten.
pub fn weighed(load: usize, started: f64) -> u64 {
    // In tenths, or of two that began almost together one would get everything.
    let tenths = (started.clamp(0.0, 1.0) * 9.0) as u64 + 1;
    (load as u64 + 1) * 10_000 / tenths
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_session_is_found_until_it_is_silent_for_too_long() {
        let mut sessions = Sessions::default();
        sessions.open("a", WorkerId(1), Some(S(45)), S(0));
        assert_eq!(sessions.find("a", S(70)), Some(WorkerId(1)));
        assert_eq!(sessions.find("a", S(140)), Some(WorkerId(1)), "each request begins it anew");
        assert_eq!(sessions.find("a", S(216)), None);
        sessions.open("b", WorkerId(2), None, S(300));
        assert_eq!((sessions.len(), sessions.count(WorkerId(1))), (1, 0), "swept");
    }

    #[test]
    fn both_sources_of_a_session_count_once() {
        let mut sessions = Sessions::default();
        sessions.open("a", WorkerId(1), Some(S(45)), S(0));
        sessions.open("a", WorkerId(1), None, S(0));
        assert_eq!(sessions.count(WorkerId(1)), 1);
        assert_eq!(sessions.find("a", S(74)), Some(WorkerId(1)));
        assert_eq!(sessions.find("a", S(150)), None, "the handshake's word on silence stays");
        sessions.close("a", WorkerId(2));
        assert_eq!(sessions.len(), 1, "a worker closes its own sessions only");
        sessions.close("a", WorkerId(1));
        sessions.close("a", WorkerId(1));
        assert_eq!((sessions.len(), sessions.count(WorkerId(1))), (0, 0));
    }

    #[test]
    fn an_ended_session_counts_no_more_and_is_still_known() {
        let mut sessions = Sessions::default();
        sessions.open("a", WorkerId(1), Some(S(45)), S(0));
        sessions.open("b", WorkerId(1), Some(S(45)), S(0));
        sessions.end("a", WorkerId(2));
        assert!(!sessions.is_ended("a"), "only its worker's");
        sessions.end("a", WorkerId(1));
        sessions.end("a", WorkerId(1));
        assert!(sessions.is_ended("a") && !sessions.is_ended("b"));
        assert_eq!(sessions.of(WorkerId(1)), [Box::from("b")]);
        assert_eq!((sessions.count(WorkerId(1)), sessions.len()), (1, 2));
        assert_eq!(sessions.find("a", S(1)), Some(WorkerId(1)), "what it still posts arrives");
        sessions.close("a", WorkerId(1));
        sessions.close("b", WorkerId(1));
        assert_eq!((sessions.count(WorkerId(1)), sessions.len()), (0, 0));
    }

    #[test]
    fn no_silence_is_too_long() {
        let mut sessions = Sessions::default();
        sessions.open("a", WorkerId(1), Some(Duration::MAX), S(0));
        assert_eq!(sessions.find("a", S(86_400)), Some(WorkerId(1)));
    }

    #[test]
    fn two_are_compared_and_everybody_s_turn_comes() {
        assert_eq!(less_loaded(0, 7, |_| 0), None);
        assert_eq!(less_loaded(1, 7, |_| 9), Some(0));
        for random in 0..100 {
            assert_eq!(less_loaded(2, random, |at| [5, 4][at]), Some(1), "both of two");
        }
        let loads = [4, 0, 4, 4];
        let mut picked = [0; 4];
        for random in 0..1200 {
            picked[less_loaded(4, random, |at| loads[at]).expect("one")] += 1;
        }
        assert_eq!(picked[1], 600, "whenever it is one of the two: {picked:?}");
        assert!([0, 2, 3].iter().all(|at| picked[*at] == 200), "equals alike: {picked:?}");
    }

    #[test]
    fn a_fresh_worker_is_spared() {
        assert!(weighed(0, 0.0) > weighed(8, 1.0), "at first");
        assert!(weighed(0, 0.5) < weighed(8, 1.0), "later");
        assert_eq!(weighed(3, 1.0), weighed(3, 7.0));
        assert_eq!(weighed(3, 0.01), weighed(3, 0.02));
        assert!(weighed(0, 0.0) < weighed(10, 1.0), "not for ever");
    }
}
