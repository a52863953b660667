//! What a successor has to hear of, as it happens: where sessions live, and which connections workers
//! were given.

use std::fmt::Debug;
use std::time::Duration;

use super::given::HandedOver;
use crate::worker::WorkerId;

/// Who takes notes.
pub trait Notes: Debug + Send + Sync {
    /// A session lives in this worker, and may be silent for so long.
    fn session_opened(&self, sid: &str, worker: WorkerId, silence: Option<Duration>);

    /// It does not any more.
    fn session_ended(&self, sid: &str);

    /// It is over, whatever this worker says, and its client is yet to hear that.
    fn session_over(&self, sid: &str, worker: WorkerId);

    /// A worker is given this connection. It may refuse it.
    fn given(&self, worker: WorkerId, connection: HandedOver);
}
