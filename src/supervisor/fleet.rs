//! Which workers there should be, and the one next step towards that. Pure: events and the time
//! in, actions out.
//!
//! Level-triggered: [`Fleet::step`] compares what is with what is wanted and returns one action at
//! a time, until there is none; the caller carries it out and reports what happened. Times are
//! since any fixed moment.

use std::fmt;
use std::time::Duration;

use crate::worker::WorkerId;

/// What the configuration says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How many slots.
    pub slots: usize,
    /// After this a worker that is not ready has failed.
    pub ready_timeout: Duration,
    /// The first and the longest wait before a start that follows a failure.
    pub backoff: (Duration, Duration),
    /// Which exits lead to a new start.
    pub restart: Restart,
    /// Exit codes that don't, whatever `restart` says.
    pub stop_on_exit: Vec<i32>,
    /// How many ways there are to ask a worker to stop.
    pub asks: usize,
    /// How long each may take.
    pub ask_timeout: Duration,
}

/// Which exits lead to a new start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every one.
    Always,
    /// Every one but exit code 0.
    OnFailure,
    /// None.
    Never,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Its program did not start.
    NotStarted,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::NotStarted => f.write_str("it did not start"),
        }
    }
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a worker.
    Start {
        /// Where.
        slot: usize,
        /// Its number, never used before.
        id: WorkerId,
    },
    /// Ask a worker to stop.
    Ask {
        /// Which.
        id: WorkerId,
        /// Which of the ways to ask, from 0.
        way: usize,
    },
    /// End a worker that has not answered in time.
    Kill {
        /// Which.
        id: WorkerId,
        /// What it did not do.
        late: Late,
    },
}

/// What a worker did not do in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Become ready.
    Ready,
    /// Stop.
    Stop,
}

/// Whether the app has come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Startup {
    /// It may yet.
    Pending,
    /// Every slot is ready, or some are and the others have failed at least once.
    Up,
    /// No slot is ready, and each has failed for good, in time, or three times.
    Failed,
}

/// How many slots are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// All of them.
    pub slots: usize,
    /// With a worker that serves.
    pub ready: usize,
    /// With a worker that starts.
    pub starting: usize,
    /// Empty until the next try.
    pub waiting: usize,
    /// Empty for good.
    pub empty: usize,
    /// With a worker that stops.
    pub stopping: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} workers ready", self.ready, self.slots)?;
        let others = [
            (self.starting, "starting"),
            (self.waiting, "failed, will be tried again"),
            (self.empty, "stopped for good"),
            (self.stopping, "stopping"),
        ];
        for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        Ok(())
    }
}

/// Failures in a row after which a slot is not waited for at startup.
const STARTUP_TRIES: u32 = 3;

/// The workers of one app.
#[derive(Debug)]
pub struct Fleet {
    policy: Policy,
    slots: Vec<Slot>,
    last_id: u64,
    stopping: bool,
    random: u64,
}

#[derive(Debug, Default)]
struct Slot {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// One of them was a worker that did not become ready in time.
    was_late: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Waiting { until: Duration },
    Empty,
    Starting { id: WorkerId, until: Duration },
    Ready { id: WorkerId, since: Duration },
    HungUp { id: WorkerId, since: Option<Duration>, until: Duration },
    Stopping { id: WorkerId, way: usize, until: Duration },
    Killed { id: WorkerId },
}

impl Default for State {
    fn default() -> Self {
        State::Waiting { until: Duration::ZERO }
    }
}

impl State {
    fn worker(self) -> Option<WorkerId> {
        match self {
            State::Waiting { .. } | State::Empty => None,
            State::Starting { id, .. }
            | State::Ready { id, .. }
            | State::HungUp { id, .. }
            | State::Stopping { id, .. }
            | State::Killed { id } => Some(id),
        }
    }
}

impl Fleet {
    /// With every slot empty; `seed` is for the jitter of the backoff.
    pub fn new(policy: Policy, seed: u64) -> Fleet {
        let slots = (0..policy.slots).map(|_| Slot::default()).collect();
        Fleet { policy, slots, last_id: 0, stopping: false, random: seed | 1 }
    }

    /// The next thing to do, if there is any at this time. To be asked again until there is none.
    pub fn step(&mut self, now: Duration) -> Option<Action> {
        let at = (0..self.slots.len()).find(|&at| self.is_due(at, now))?;
        let slot = &mut self.slots[at];
        let (state, action) = match slot.state {
            State::Waiting { .. } if self.stopping => (State::Empty, None),
            State::Waiting { .. } => {
                self.last_id += 1;
                let id = WorkerId(self.last_id);
                let until = now + self.policy.ready_timeout;
                (State::Starting { id, until }, Some(Action::Start { slot: at, id }))
            }
            State::Starting { id, .. } if !self.stopping => {
                slot.was_late = true;
                (State::Killed { id }, Some(Action::Kill { id, late: Late::Ready }))
            }
            State::Starting { id, .. } | State::Ready { id, .. } | State::HungUp { id, .. } => {
                self.policy.ask(id, 0, now)
            }
            State::Stopping { id, way, .. } => self.policy.ask(id, way + 1, now),
            State::Empty | State::Killed { .. } => unreachable!("is_due() says no to both"),
        };
        self.slots[at].state = state;
        action.or_else(|| self.step(now))
    }

    fn is_due(&self, at: usize, now: Duration) -> bool {
        match self.slots[at].state {
            State::Waiting { until }
            | State::Starting { until, .. }
            | State::HungUp { until, .. } => self.stopping || until <= now,
            State::Ready { .. } => self.stopping,
            State::Stopping { until, .. } => until <= now,
            State::Empty | State::Killed { .. } => false,
        }
    }

    /// When [`Fleet::step`] has to be asked again though nothing has happened.
    pub fn deadline(&self) -> Option<Duration> {
        let until = |slot: &Slot| match slot.state {
            State::Waiting { until }
            | State::Starting { until, .. }
            | State::HungUp { until, .. }
            | State::Stopping { until, .. } => Some(until),
            State::Empty | State::Ready { .. } | State::Killed { .. } => None,
        };
        self.slots.iter().filter_map(until).min()
    }

    /// A worker serves. Returns whether that is new: not for one that is being stopped.
    pub fn ready(&mut self, id: WorkerId, now: Duration) -> bool {
        let starting =
            |slot: &&mut Slot| matches!(slot.state, State::Starting { id: this, .. } if this == id);
        match self.slots.iter_mut().find(starting) {
            Some(slot) => {
                slot.state = State::Ready { id, since: now };
                true
            }
            None => false,
        }
    }

    /// A worker has closed its channel: it can't serve any more, and ends by itself or is stopped.
    pub fn hung_up(&mut self, id: WorkerId, now: Duration) {
        let until = now + self.policy.ask_timeout;
        for slot in &mut self.slots {
            match slot.state {
                State::Starting { id: this, .. } if this == id => {
                    slot.state = State::HungUp { id, since: None, until };
                }
                State::Ready { id: this, since } if this == id => {
                    slot.state = State::HungUp { id, since: Some(since), until };
                }
                _ => {}
            }
        }
    }

    /// Whether a worker's end is of our own making.
    pub fn is_stopping(&self, id: WorkerId) -> bool {
        let stopping = |slot: &Slot| matches!(slot.state, State::Stopping { id: this, .. } | State::Killed { id: this } if this == id);
        self.slots.iter().any(stopping)
    }

    /// A worker's process is gone.
    pub fn exited(&mut self, id: WorkerId, exit: Exit, now: Duration) {
        let Some(at) = self.slots.iter().position(|slot| slot.state.worker() == Some(id)) else {
            return;
        };
        let (first, longest) = self.policy.backoff;
        if let State::Ready { since, .. } | State::HungUp { since: Some(since), .. } =
            self.slots[at].state
            && now >= since + longest
        {
            self.slots[at].failures = 0;
        }
        let doubled = first.saturating_mul(1 << self.slots[at].failures.min(20)).min(longest);
        // Workers that fail together should not start together: 75 % to 125 %.
        let wait = doubled.mul_f64(0.75 + self.fraction() / 2.0);
        let stays_empty = self.stopping || !self.policy.starts_again_after(exit);
        let slot = &mut self.slots[at];
        slot.failures = slot.failures.saturating_add(1);
        slot.state = if stays_empty { State::Empty } else { State::Waiting { until: now + wait } };
    }

    /// No worker is wanted any more.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether no worker is left.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.state.worker().is_none())
    }

    /// Whether the app has come up.
    pub fn startup(&self) -> Startup {
        let ready = |slot: &Slot| matches!(slot.state, State::Ready { .. });
        let hopeless = |slot: &Slot| {
            matches!(slot.state, State::Empty) || slot.was_late || slot.failures >= STARTUP_TRIES
        };
        if self.slots.iter().all(|slot| ready(slot) || slot.failures > 0)
            && self.slots.iter().any(ready)
        {
            Startup::Up
        } else if self.slots.iter().all(hopeless) {
            Startup::Failed
        } else {
            Startup::Pending
        }
    }

    /// How many slots are in which state.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { slots: self.slots.len(), ..Summary::default() };
        for slot in &self.slots {
            *match slot.state {
                State::Waiting { .. } if slot.failures > 0 => &mut summary.waiting,
                State::Waiting { .. } | State::Starting { .. } => &mut summary.starting,
                State::Empty => &mut summary.empty,
                State::Ready { .. } => &mut summary.ready,
                State::HungUp { .. } | State::Stopping { .. } | State::Killed { .. } => {
                    &mut summary.stopping
                }
            } += 1;
        }
        summary
    }

    /// The next pseudo-random number from 0 to 1 (xorshift64).
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Policy {
    fn starts_again_after(&self, exit: Exit) -> bool {
        let allowed = match self.restart {
            Restart::Always => true,
            Restart::OnFailure => exit != Exit::Code(0),
            Restart::Never => false,
        };
        allowed && !matches!(exit, Exit::Code(code) if self.stop_on_exit.contains(&code))
    }

    fn ask(&self, id: WorkerId, way: usize, now: Duration) -> (State, Option<Action>) {
        if way < self.asks {
            let until = now + self.ask_timeout;
            (State::Stopping { id, way, until }, Some(Action::Ask { id, way }))
        } else {
            (State::Killed { id }, Some(Action::Kill { id, late: Late::Stop }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn policy() -> Policy {
        Policy {
            slots: 3,
            ready_timeout: MS(5_000),
            backoff: (MS(100), MS(30_000)),
            restart: Restart::Always,
            stop_on_exit: vec![42],
            asks: 2,
            ask_timeout: MS(1_000),
        }
    }

    fn steps(fleet: &mut Fleet, now: Duration) -> Vec<Action> {
        std::iter::from_fn(|| fleet.step(now)).collect()
    }

    fn started(actions: &[Action]) -> Vec<WorkerId> {
        let id = |action: &Action| match action {
            Action::Start { id, .. } => Some(*id),
            _ => None,
        };
        actions.iter().filter_map(id).collect()
    }

    #[test]
    fn an_app_comes_up_when_all_are_ready() {
        let mut fleet = Fleet::new(policy(), 1);
        let ids = started(&steps(&mut fleet, MS(0)));
        assert_eq!(ids, [WorkerId(1), WorkerId(2), WorkerId(3)]);
        for id in &ids {
            assert_eq!(fleet.startup(), Startup::Pending);
            assert!(fleet.ready(*id, MS(10)));
            assert!(!fleet.ready(*id, MS(11)), "once");
        }
        assert_eq!(fleet.startup(), Startup::Up);
        assert_eq!(fleet.deadline(), None, "nothing to wait for");
        assert_eq!(fleet.summary().to_string(), "3/3 workers ready");
    }

    #[test]
    fn an_app_comes_up_with_some_and_fails_with_none() {
        let mut fleet = Fleet::new(policy(), 1);
        let ids = started(&steps(&mut fleet, MS(0)));
        fleet.ready(ids[0], MS(1));
        fleet.exited(ids[1], Exit::Code(1), MS(1));
        assert_eq!(fleet.startup(), Startup::Pending, "the third may yet become ready");
        fleet.exited(ids[2], Exit::Code(1), MS(1));
        assert_eq!(fleet.startup(), Startup::Up, "one serves, the others have been tried");

        let mut fleet = Fleet::new(policy(), 1);
        let mut now = MS(0);
        for round in 0..3 {
            assert_eq!(fleet.startup(), Startup::Pending, "round {round}");
            for id in started(&steps(&mut fleet, now)) {
                fleet.exited(id, Exit::Code(1), now);
            }
            now += MS(1_000);
        }
        assert_eq!(fleet.startup(), Startup::Failed);
    }

    #[test]
    fn a_worker_that_is_not_ready_in_time_is_killed_and_has_failed() {
        let mut fleet = Fleet::new(Policy { slots: 1, ..policy() }, 1);
        let id = started(&steps(&mut fleet, MS(0)))[0];
        assert_eq!(fleet.deadline(), Some(MS(5_000)));
        assert_eq!(steps(&mut fleet, MS(4_999)), []);
        assert_eq!(steps(&mut fleet, MS(5_000)), [Action::Kill { id, late: Late::Ready }]);
        assert!(!fleet.ready(id, MS(5_001)), "too late");
        fleet.exited(id, Exit::Signal(9), MS(5_002));
        assert_eq!(fleet.startup(), Startup::Failed);
    }

    #[test]
    fn failures_back_off_and_a_long_good_time_forgives_them() {
        let mut fleet = Fleet::new(Policy { slots: 1, ..policy() }, 7);
        let mut now = MS(0);
        let mut doubled = MS(100);
        for _ in 0..12 {
            let id = started(&steps(&mut fleet, now))[0];
            fleet.exited(id, Exit::Code(1), now);
            let wait = fleet.deadline().expect("a next try") - now;
            assert!(wait >= doubled.mul_f64(0.75) && wait <= doubled.mul_f64(1.25), "{wait:?}");
            doubled = (doubled * 2).min(MS(30_000));
            now += wait;
        }
        let id = started(&steps(&mut fleet, now))[0];
        fleet.ready(id, now);
        now += MS(30_000);
        fleet.hung_up(id, now); // how a crash is first heard of
        fleet.exited(id, Exit::Signal(9), now);
        assert!(fleet.deadline().expect("a next try") - now <= MS(125));
    }

    #[test]
    fn exits_that_end_a_slot() {
        let ends = |restart, exit| {
            let mut fleet = Fleet::new(Policy { slots: 1, restart, ..policy() }, 1);
            let id = started(&steps(&mut fleet, MS(0)))[0];
            fleet.exited(id, exit, MS(1));
            started(&steps(&mut fleet, MS(100_000))).is_empty()
        };
        assert!(ends(Restart::Always, Exit::Code(42)) && !ends(Restart::Always, Exit::Code(0)));
        assert!(
            ends(Restart::OnFailure, Exit::Code(0)) && !ends(Restart::OnFailure, Exit::Code(1))
        );
        assert!(!ends(Restart::OnFailure, Exit::Signal(9)));
        assert!(ends(Restart::Never, Exit::Signal(9)));
    }

    #[test]
    fn stopping_asks_in_order_and_then_kills() {
        let mut fleet = Fleet::new(Policy { slots: 1, ..policy() }, 1);
        let id = started(&steps(&mut fleet, MS(0)))[0];
        fleet.ready(id, MS(1));
        fleet.stop();
        assert_eq!(steps(&mut fleet, MS(10)), [Action::Ask { id, way: 0 }]);
        assert_eq!(steps(&mut fleet, MS(1_010)), [Action::Ask { id, way: 1 }]);
        assert_eq!(steps(&mut fleet, MS(2_010)), [Action::Kill { id, late: Late::Stop }]);
        assert!(fleet.is_stopping(id) && !fleet.is_empty());
        fleet.exited(id, Exit::Signal(9), MS(2_011));
        assert!(fleet.is_empty());
        assert_eq!(steps(&mut fleet, MS(100_000)), [], "nothing starts any more");
    }

    /// Random histories. The world may do to a worker whatever it likes at any time; what must
    /// hold is that a slot never has two workers, ids are never reused, nothing is started while
    /// it is to wait, nothing is asked of the dead, and every history settles.
    #[test]
    fn whatever_happens_the_fleet_settles() {
        const HISTORIES: u64 = 20_000;
        let only = std::env::var("FLEET_SEED").ok().and_then(|seed| seed.parse().ok());
        for seed in only.map_or(0..HISTORIES, |seed| seed..seed + 1) {
            if let Err(panic) = std::panic::catch_unwind(|| history(seed)) {
                eprintln!("failed with FLEET_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn history(seed: u64) {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut dice = move |sides: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 33) % sides
        };
        let slots = 1 + dice(4) as usize;
        let mut fleet = Fleet::new(Policy { slots, ..policy() }, seed);
        let mut now = MS(0);
        let mut alive: BTreeMap<WorkerId, usize> = BTreeMap::new();
        let mut last_id = 0;
        let mut carry_out = |fleet: &mut Fleet, alive: &mut BTreeMap<WorkerId, usize>, now| {
            for action in steps(fleet, now) {
                match action {
                    Action::Start { slot, id } => {
                        assert!(id.0 > last_id, "ids are never reused");
                        last_id = id.0;
                        assert!(alive.values().all(|other| *other != slot), "one worker a slot");
                        alive.insert(id, slot);
                    }
                    Action::Ask { id, .. } | Action::Kill { id, .. } => {
                        assert!(alive.contains_key(&id), "nothing is asked of the dead");
                    }
                }
            }
        };
        for _ in 0..60 {
            carry_out(&mut fleet, &mut alive, now);
            let waits = fleet.deadline().is_some_and(|at| at > now);
            assert!(waits || fleet.deadline().is_none(), "what is due has been done");
            let ids: Vec<WorkerId> = alive.keys().copied().collect();
            let any = (!ids.is_empty()).then(|| ids[dice(ids.len() as u64) as usize]);
            match (dice(6), any) {
                (0 | 1, Some(id)) => drop(fleet.ready(id, now)),
                (2, Some(id)) => fleet.hung_up(id, now),
                (3, Some(id)) => {
                    alive.remove(&id);
                    fleet.exited(id, Exit::Code(dice(3) as i32), now);
                }
                _ => now += MS(dice(8_000)),
            }
        }
        // The world calms down: whatever is started becomes ready, whatever is killed dies.
        let stop = dice(2) == 0;
        if stop {
            fleet.stop();
        }
        for _ in 0..200 {
            carry_out(&mut fleet, &mut alive, now);
            for id in alive.keys().copied().collect::<Vec<_>>() {
                fleet.ready(id, now);
                if fleet.is_stopping(id) {
                    alive.remove(&id);
                    fleet.exited(id, Exit::Signal(15), now);
                }
            }
            now = fleet.deadline().unwrap_or(now).max(now) + MS(1);
        }
        let summary = fleet.summary();
        if stop {
            assert!(fleet.is_empty() && alive.is_empty(), "{summary}");
        } else {
            assert_eq!((summary.ready, alive.len()), (slots, slots), "{summary}");
        }
    }
}
