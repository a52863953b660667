//! How others speak to the supervisor: requests that are answered when their effect is there.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// What can be asked of a running app.
#[derive(Debug)]
pub enum Request {
    /// Read the configuration anew and replace all workers.
    Reload(Reply<Reloaded>),
    /// Have so many workers.
    Scale(Scale, Reply<Status>),
    /// Say how it is.
    Status(Reply<Status>),
}

/// Where an answer goes: what was done, or why not. Dropped when the app is stopped before.
pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Why what was asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The app was stopped before.
    #[error("the app was stopped meanwhile")]
    Stopped,
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

/// A number of workers, or a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// So many.
    To(usize),
    /// So many more, or fewer.
    By(i64),
}

/// A reload that has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation that serves now.
    pub generation: u64,
}

/// How an app is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub app: String,
    /// Its configuration, by its full path.
    pub file: String,
    /// In words.
    pub state: String,
    /// The generation that serves.
    pub generation: u64,
    /// How many workers there should be.
    pub wanted: usize,
    /// Why the last reload failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_error: Option<String>,
    /// Its workers, by slot and age.
    pub workers: Vec<WorkerStatus>,
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number, never reused.
    pub id: u64,
    /// Its place.
    pub slot: usize,
    /// Of which reading of the configuration.
    pub generation: u64,
    /// Its process.
    pub pid: u32,
    /// `starting`, `ready`, `draining` or `stopping`.
    pub state: String,
    /// The memory that it uses, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<usize>,
    /// How it is in its own words (`STATUS=` to its `NOTIFY_SOCKET`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Requests in flight.
    pub in_flight: usize,
    /// Socket.IO sessions.
    pub sessions: usize,
    /// Requests that it has answered through us.
    pub requests: u64,
    /// How long its event loop last took to answer, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_loop_delay: Option<f64>,
    /// The processor time that it has taken, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
}

/// The way to the supervisor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
}

/// Requests that wait; the supervisor answers within one turn of its loop.
const MAX_WAITING: usize = 64;

impl Handle {
    /// A handle, and the supervisor's end of it.
    pub fn new() -> (Handle, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel(MAX_WAITING);
        (Handle { requests }, inbox)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What was asked for did not happen, and why.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Refusal::Stopped)?;
        answer.await.map_err(|_| Refusal::Stopped)?.map_err(Refusal::Failed)
    }
}
