//! How others speak to the supervisor: requests that are answered when their effect is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::config::Difference;
use crate::relay::BusStatus;

/// What can be asked of a running app.
#[derive(Debug)]
pub enum Request {
    /// Read the configuration anew and replace all workers.
    Reload(Reply<Reloaded>),
    /// Let the program that is installed now go on, in the same process.
    Reexec(Reply<Succession>),
    /// Have so many workers.
    Scale(Scale, Reply<Status>),
    /// Replace the worker of this slot by another of the same generation, which serves before it
    /// goes.
    Restart(usize, Reply<Restarted>),
    /// Send the workers of this slot, or all, a signal by its number.
    Signal(Option<usize>, i32, Reply<Reached>),
    /// Send the workers of this slot, or all, a message (`process.on("message")`).
    Send(Option<usize>, Value, Reply<Reached>),
    /// Have the workers of this slot, or all, carry out a custom action.
    Trigger(Option<usize>, Trigger, Reply<Triggered>),
    /// Say in what its file is not what runs.
    Diff(Reply<Differences>),
    /// Say how it is.
    Status(Reply<Status>),
}

/// A custom action of PM2's: what @pm2/io calls `io.action()`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub action: String,
    /// What it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<Value>,
    /// How long to wait for answers, in seconds. Default 10, at most 3600.
    #[serde(default = "ten")]
    pub timeout: u64,
}

fn ten() -> u64 {
    10
}

/// Where an answer goes: what was done, or why not. Dropped when the app is stopped before.
pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Why what was asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The app was stopped before.
    #[error("the app was stopped meanwhile")]
    Stopped,
    /// Another program goes on with the app, and has not heard of it.
    #[error("another cohortd goes on with the app just now: ask again")]
    Left,
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

/// Another program that goes on with the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// [`Status::successions`] when it does.
    pub number: u64,
}

/// A worker that has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// The slot.
    pub slot: usize,
    /// Its worker now.
    pub worker: u64,
}

/// To whom something was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The workers, by slot and age.
    pub workers: Vec<u64>,
}

/// What became of a custom action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Triggered {
    /// Of each worker, by slot and age.
    pub answers: Vec<Answer>,
}

/// What became of a custom action in one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The worker.
    pub worker: u64,
    /// Its slot.
    pub slot: usize,
    /// What it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// Or why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// In what an app's file is not what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// The file.
    pub file: String,
    /// By key.
    pub differences: Vec<Difference>,
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
    /// `use_profile`.
    pub profile: String,
    /// cohortd's own process.
    pub pid: u32,
    /// cohortd's version.
    pub version: String,
    /// How long the app has run, in seconds.
    pub uptime: u64,
    /// How often another cohortd has gone on with it meanwhile.
    #[serde(default)]
    pub successions: u64,
    /// How often a worker has failed since: exited by itself, was killed as unwell, or was not ready
    /// in time.
    pub failures: u64,
    /// The generation that serves.
    pub generation: u64,
    /// How many workers there should be.
    pub wanted: usize,
    /// How many reloads have failed.
    pub failed_reloads: u64,
    /// Why the last reload failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_error: Option<String>,
    /// Its workers, by slot and age.
    pub workers: Vec<WorkerStatus>,
    /// `[relay] bus`, and the other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<BusStatus>,
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub id: u64,
    /// Its place.
    pub slot: usize,
    /// Of which reading of the configuration.
    pub generation: u64,
    /// Its process.
    pub pid: u32,
    /// `starting`, `ready`, `draining`, `disconnecting`, `stopping` or `killed`.
    pub state: String,
    /// How long ago it was started, in seconds.
    pub uptime: u64,
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
    /// Names of its custom actions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
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
    changes: watch::Receiver<()>,
    left: Arc<AtomicBool>,
}

/// The supervisor's end of it.
#[derive(Debug)]
pub struct Asked {
    pub(super) requests: mpsc::Receiver<Request>,
    /// Told when a status would have other words in it than before.
    pub(super) changed: watch::Sender<()>,
    /// The app is another program's.
    left: Arc<AtomicBool>,
}

impl Asked {
    /// Another program goes on with the app: what was not done by now is to be asked of that.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

/// Requests that wait; the supervisor answers within one turn of its loop.
const MAX_WAITING: usize = 64;

impl Handle {
    /// A handle, and the supervisor's end of it.
    pub fn new() -> (Handle, Asked) {
        let (requests, asked) = mpsc::channel(MAX_WAITING);
        let (changed, changes) = watch::channel(());
        let left = Arc::<AtomicBool>::default();
        (Handle { requests, changes, left: left.clone() }, Asked { requests: asked, changed, left })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What was asked for did not happen, and why.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| self.refusal())?;
        answer.await.map_err(|_| self.refusal())?.map_err(Refusal::Failed)
    }

    /// Why there is no answer.
    fn refusal(&self) -> Refusal {
        if self.left.load(Ordering::Relaxed) { Refusal::Left } else { Refusal::Stopped }
    }

    /// Tells of every change of what a [`Status`] says in words: states, generations, who is there.
    /// Its figures change all the time. Ends with the supervisor.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }
}
