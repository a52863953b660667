//! What is counted of workers' lives: why they ended, how reloads did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::fleet::Exit;
use super::health::Ill;
use crate::metrics::{Tally, cases};
use crate::worker::channel::ChannelError;

cases! {
    /// Why a worker ended.
    pub(super) enum Cause by "cause" {
        /// By itself, with whatever exit code.
        Exit: "exit";
        /// By a signal of somebody else's.
        Signal: "signal";
        /// The kernel killed it for its memory.
        OutOfMemory: "oom";
        /// Its program did not start.
        NotStarted: "not_started";
        /// Nobody saw how: it was started by a cohortd that is gone.
        Unseen: "unseen";
        /// It was not ready in time.
        NotReady: "not_ready";
        /// Its event loop stood still, or its `WATCHDOG=1` did not come.
        Hang: "hang";
        /// Its health checks failed.
        Health: "health";
        /// It left messages unread.
        Slow: "slow";
        /// It sent what no Node sends.
        Protocol: "protocol";
        /// It came to `[memory] recycle_at`.
        Memory: "memory";
        /// A reload replaced it, or undid it.
        Reload: "reload";
        /// Fewer were wanted.
        Scale: "scale";
        /// Somebody wanted another in its place.
        Request: "request";
        /// The app was stopped.
        Stop: "stop";
    }
}

cases! {
    /// How a reload ended.
    pub(super) enum Ended by "result" {
        /// All workers are new.
        Done: "done";
        /// A new worker failed, and the old ones went on.
        RolledBack: "rolled_back";
        /// It was not begun: the configuration is wrong, or can't be had in a reload.
        Refused: "refused";
    }
}

cases! {
    /// What came of asking a worker for its own metrics.
    pub(super) enum Asked by "result" {
        /// They came.
        Answered: "answered";
        /// Nothing came in time.
        Unanswered: "unanswered";
        /// It said why there are none, or what can't be read.
        Failed: "failed";
    }
}

/// What is counted.
#[derive(Debug)]
pub(super) struct Counts {
    /// When cohortd began, since 1970.
    pub(super) begun: Duration,
    started: AtomicU64,
    pub(super) ended: Tally<Cause>,
    pub(super) reloads: Tally<Ended>,
    pub(super) asked: Tally<Asked>,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            begun: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            started: AtomicU64::new(0),
            ended: Tally::default(),
            reloads: Tally::default(),
            asked: Tally::default(),
        }
    }
}

impl Counts {
    /// A worker was started.
    pub(super) fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a worker has ended that nobody wanted to end.
    pub(super) fn failures(&self) -> u64 {
        let failures = [
            Cause::Exit,
            Cause::Signal,
            Cause::OutOfMemory,
            Cause::NotStarted,
            Cause::Unseen,
            Cause::NotReady,
            Cause::Hang,
            Cause::Health,
            Cause::Slow,
            Cause::Protocol,
        ];
        failures.map(|cause| self.ended.of(cause)).iter().sum()
    }

    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }
}

/// Of one that nobody has ended.
impl From<Exit> for Cause {
    fn from(exit: Exit) -> Cause {
        match exit {
            Exit::Code(_) => Cause::Exit,
            Exit::Signal(_) => Cause::Signal,
            Exit::OutOfMemory => Cause::OutOfMemory,
            Exit::NotStarted => Cause::NotStarted,
            Exit::Unseen => Cause::Unseen,
        }
    }
}

impl From<&Ill> for Cause {
    fn from(ill: &Ill) -> Cause {
        match ill {
            Ill::Hangs(_) | Ill::Silent(_) => Cause::Hang,
            Ill::Check { .. } => Cause::Health,
        }
    }
}

impl From<&ChannelError> for Cause {
    fn from(error: &ChannelError) -> Cause {
        match error {
            ChannelError::Slow => Cause::Slow,
            ChannelError::Frame(_) | ChannelError::Io(_) => Cause::Protocol,
        }
    }
}
