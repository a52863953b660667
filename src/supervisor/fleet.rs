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
