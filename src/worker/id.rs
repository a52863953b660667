//! What a worker is called.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A worker's number: `NODE_UNIQUE_ID`, `cluster.worker.id`. Counted up; reused only when all others have
/// been given since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
