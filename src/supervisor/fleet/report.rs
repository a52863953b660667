//! What a fleet says: what has to be done, how rolls ended, how it is.

use std::fmt;

use super::{Exit, Generation};
use crate::worker::WorkerId;

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a worker.
    Start {
        /// Where.
        slot: usize,
        /// Its number, never used before.
        id: WorkerId,
        /// Of what.
        generation: Generation,
    },
    /// Send a worker no new work; say so when nothing is left in it ([`super::Fleet::drained`]).
    Drain {
        /// Which.
        id: WorkerId,
    },
    /// End what a drained worker still has of its clients; say so when nothing is left.
    Disconnect {
        /// Which.
        id: WorkerId,
    },
    /// Ask a worker to stop.
    Ask {
        /// Which.
        id: WorkerId,
        /// Which of the ways to ask, from 0.
        way: usize,
    },
    /// End a worker at once.
    Kill {
        /// Which.
        id: WorkerId,
        /// Why.
        why: Why,
    },
}

/// Why a worker is ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It did not become ready in time.
    NotReady,
    /// It did not stop in time.
    NotStopped,
    /// It was found unwell.
    Unwell,
    /// Its generation is given up, and it has not served yet.
    GivenUp,
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

/// How a roll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The generation that was rolled to.
    pub generation: Generation,
    /// What became of it.
    pub result: Result<(), Failure>,
}

/// Why a roll was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The worker of the new generation that failed.
    pub worker: WorkerId,
    /// How.
    pub how: How,
}

/// How a worker of a new generation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It did not become ready in time.
    NotReady,
    /// It ended.
    Exited(Exit),
    /// It was found unwell.
    Unwell,
    /// The app was stopped meanwhile.
    Stopped,
}

/// How a slot is whose worker was to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It may yet be done.
    Pending,
    /// This worker serves, and the one before has gone.
    Serves(WorkerId),
    /// A worker of the slot has failed meanwhile; there are more tries.
    Failed,
    /// There is no such slot any more.
    Gone,
}

/// How many slots are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// How many there should be.
    pub slots: usize,
    /// With a worker that serves.
    pub ready: usize,
    /// Without, but one starts.
    pub starting: usize,
    /// Empty until the next try.
    pub waiting: usize,
    /// Empty for good.
    pub empty: usize,
    /// Workers that are drained or stopped.
    pub leaving: usize,
    /// A roll is under way: how many slots have their new worker.
    pub rolled: Option<usize>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rolled) = self.rolled {
            write!(f, "reloading {rolled}/{}: ", self.slots)?;
        }
        write!(f, "{}/{} workers ready", self.ready, self.slots)?;
        let others = [
            (self.starting, "starting"),
            (self.waiting, "failed, will be tried again"),
            (self.empty, "stopped for good"),
            (self.leaving, "leaving"),
        ];
        for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        Ok(())
    }
}
