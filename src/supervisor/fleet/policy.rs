//! What a generation's configuration says about its workers' lives.

use std::fmt;
use std::time::Duration;

use super::Action;
use super::slot::State;
use crate::worker::WorkerId;

/// What the configuration says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// After this a worker that is not ready has failed.
    pub ready_timeout: Duration,
    /// The first and the longest wait before a start that follows a failure.
    pub backoff: (Duration, Duration),
    /// Which exits lead to a new start.
    pub restart: Restart,
    /// Exit codes that don't, whatever `restart` says.
    pub stop_on_exit: Vec<i32>,
    /// How long a worker may go on with what it has begun when no new work is sent to it.
    pub drain: Duration,
    /// How many ways there are to ask a worker to stop.
    pub asks: usize,
    /// How long each may take.
    pub ask_timeout: Duration,
    /// How many workers more than slots there may be while they are replaced; at least 1.
    pub surge: usize,
    /// How long the first worker of a new generation has to stay well before others follow.
    pub canary: Duration,
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
    /// By the kernel, because it took more memory than it may.
    OutOfMemory,
    /// Its program did not start.
    NotStarted,
    /// Nobody was there to see it: it was a predecessor's.
    Unseen,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::OutOfMemory => f.write_str("out of memory: killed by the kernel"),
            Exit::NotStarted => f.write_str("it did not start"),
            Exit::Unseen => f.write_str("unknown: it was started by another cohortd"),
        }
    }
}

impl Policy {
    pub(super) fn starts_again_after(&self, exit: Exit) -> bool {
        let allowed = match self.restart {
            Restart::Always => true,
            Restart::OnFailure => exit != Exit::Code(0),
            Restart::Never => false,
        };
        allowed && !matches!(exit, Exit::Code(code) if self.stop_on_exit.contains(&code))
    }

    /// Asks a worker to stop in one of the ways, or kills it when there is no other.
    pub(super) fn ask(&self, id: WorkerId, way: usize, now: Duration) -> (State, Action) {
        if way < self.asks {
            let until = now + self.ask_timeout;
            (State::Stopping { way, until }, Action::Ask { id, way })
        } else {
            let why = super::Why::NotStopped;
            (State::Killed, Action::Kill { id, why })
        }
    }
}
