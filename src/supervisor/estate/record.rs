//! What a cohortd leaves to the one that goes on with its workers, as it is written down.
//!
//! Both may be of different versions. Every version reads what any older one has written, and a newer
//! one's as long as that says so ([`State::readable_by`]): keys that are unknown are passed over, and
//! those that are missing have a default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::relay::{Adapters, HostsKnown};
use crate::route::{Doors, HandedOver};
use crate::supervisor::fleet::Snapshot;
use crate::worker::{Known, WorkerId};

/// The format that this version writes. To be raised with every change that an older version would
/// not get right; then `OLDEST` says which still does.
pub const FORMAT: u32 = 1;

/// Who reads an older format than this can't read what this version writes.
const OLDEST: u32 = 1;

/// One line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// How everything is. The last one counts.
    State(Box<State>),
    /// A session lives in this worker; it may be silent for so long, in milliseconds.
    Session(String, WorkerId, Option<u64>),
    /// It does not any more.
    SessionEnded(String),
    /// It is over, whatever this worker says, and its client is yet to hear that.
    SessionOver(String, WorkerId),
    /// A worker is given this connection; it may have refused it.
    Given(WorkerId, HandedOver),
}

/// How everything is, but for what changes with each request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of whoever wrote it.
    pub format: u32,
    /// The oldest format whose readers understand it.
    pub readable_by: u32,
    /// The version of cohortd that wrote it.
    pub version: String,
    /// How many have gone on with the app so far.
    #[serde(default)]
    pub successions: u64,
    /// When the app was begun, on the monotonic clock: all other times are since then.
    pub begun: Duration,
    /// It has come up.
    pub up: bool,
    /// The generation that crashed workers are replaced from.
    pub serving: u64,
    /// The newest.
    pub last: u64,
    /// How many reloads have failed.
    #[serde(default)]
    pub failed_reloads: u64,
    /// Why the last one did, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_error: Option<String>,
    /// Which workers there should be.
    pub fleet: Snapshot,
    /// By generation: the text of its file.
    pub releases: BTreeMap<u64, String>,
    /// Workers whose processes have not ended.
    pub workers: Vec<Worker>,
    /// The servers that they have opened.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// Other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<HostsKnown>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Its process.
    pub pid: u32,
    /// When it was begun.
    pub begun: Duration,
    /// Where its channel is marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<usize>,
    /// What it has said of itself.
    #[serde(default)]
    pub known: Known,
    /// How it is, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// It has said that it is ready, or need not.
    pub says_ready: bool,
    /// How connections get into it.
    #[serde(default)]
    pub doors: Doors,
    /// What is known of its cluster adapters.
    #[serde(default)]
    pub adapters: Adapters,
    /// Where its private socket is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<PathBuf>,
    /// Where its `NOTIFY_SOCKET` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<PathBuf>,
}

/// A server that workers have opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// By which they know it.
    pub key: String,
    /// What the first worker sent along, as it came (in V8's format).
    pub data: Vec<u8>,
    /// Who has it.
    pub members: Vec<WorkerId>,
    /// What it listens with.
    pub kind: Listens,
}

/// What a server listens with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listens {
    /// One of the app's listeners.
    Routed(usize),
    /// A socket of our own, by its name in the store; connections are given out in turn.
    InTurn(String),
    /// A UDP socket, which all have.
    Shared(String),
}

/// What was left can't be gone on with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    /// There is no whole state in it.
    #[error("nothing whole was written there")]
    Nothing,
    /// It is too new.
    #[error("it was left by cohortd {version}, which this version can't follow")]
    TooNew {
        /// Whoever wrote it.
        version: String,
    },
}

impl State {
    /// What says who reads it, of a state that this version writes.
    pub fn readable_by() -> u32 {
        OLDEST
    }

    /// The text of the configuration that serves.
    pub fn text(&self) -> Option<&str> {
        self.releases.get(&self.serving).map(String::as_str)
    }

    /// Whether this version can go on with it.
    ///
    /// # Errors
    /// It can't.
    pub fn check(&self) -> Result<(), Unreadable> {
        if self.readable_by > FORMAT {
            return Err(Unreadable::TooNew { version: self.version.clone() });
        }
        Ok(())
    }
}
