//! What a cohortd leaves behind, however it ends: its workers' channels and processes, in systemd's
//! care, and a record of everything that is known of them. The next one goes on with it.

mod ledger;
mod record;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

pub use ledger::Contents;
use ledger::Ledger;
pub use record::{FORMAT, Listens, Record, Server, State, Unreadable, Worker};

use crate::keeper;
use crate::route::{HandedOver, Notes};
use crate::sync::lock;
use crate::systemd::fd_store;
use crate::worker::WorkerId;
use crate::worker::marks::Marks;

/// What the files of record are called in the store, with a number that grows.
const STATE: &str = "state-";

/// What the marks of channels are called there.
const MARKS: &str = "marks";

/// What a worker's descriptors are called there, with its number: its channel, its process, its
/// `NOTIFY_SOCKET`, and both ends of its lane.
const WORKER: [&str; 5] = ["ipc-", "pid-", "notify-", "lane-", "lane_end-"];

/// What sockets that were opened for workers are called there, with a number.
pub const SERVER: &str = "server-";

/// What connections of a program that is not this process's any more are called among what is left.
pub const PREDECESSOR: &str = "predecessor-";

/// What the socket is called there by which a keeper passes connections on, with a number that grows.
pub const KEEPER: &str = "keeper-";

/// How everything is called that a predecessor leaves.
const NAMES: [&str; 9] =
    [STATE, WORKER[0], WORKER[1], WORKER[2], WORKER[3], WORKER[4], SERVER, PREDECESSOR, KEEPER];

/// Descriptors that a predecessor has left, by name.
pub type Kept = BTreeMap<String, OwnedFd>;

/// What this process will leave.
#[derive(Debug)]
pub struct Estate {
    /// Of its workers' channels.
    pub marks: Arc<Marks>,
    record: Mutex<Files>,
    /// What else is in the store.
    kept: Mutex<Kept>,
    /// The record should be written anew.
    grown: Notify,
    /// Somebody goes on: nothing is taken out of the store any more.
    is_left: AtomicBool,
}

#[derive(Debug)]
struct Files {
    ledger: Ledger,
    /// Of those in the store; the last is this one's.
    numbers: Vec<u64>,
}

/// What was left to this process.
#[derive(Debug)]
pub struct Left {
    /// Everything that was written down.
    pub contents: Contents,
    /// What goes with it.
    pub kept: Kept,
    /// Of its workers' channels.
    pub marks: Arc<Marks>,
    numbers: Vec<u64>,
}

impl Left {
    /// What a predecessor has left, if there was one.
    ///
    /// # Errors
    /// There is something that can't be gone on with.
    pub fn read(mut kept: Kept) -> Result<Option<Left>, Unreadable> {
        kept.retain(|name, _| {
            let is_ours = name == MARKS || NAMES.iter().any(|start| name.starts_with(start));
            if !is_ours {
                tracing::warn!(name, "a socket was handed over that nothing here asks for; closed");
            }
            is_ours
        });
        let left = Left::of(&mut kept);
        if !matches!(left, Ok(Some(_))) {
            let keepers = kept.iter().filter(|(name, _)| name.starts_with(KEEPER));
            keepers.for_each(|(_, asked)| keeper::dismiss(asked));
        }
        left
    }

    fn of(kept: &mut Kept) -> Result<Option<Left>, Unreadable> {
        let number = |name: &String| name.strip_prefix(STATE)?.parse::<u64>().ok();
        let mut numbers: Vec<u64> = kept.keys().filter_map(number).collect();
        numbers.sort_unstable();
        let Some(last) = numbers.last() else { return Ok(None) };
        let file = kept.remove(&format!("{STATE}{last}")).ok_or(Unreadable::Nothing)?;
        kept.retain(|name, _| !name.starts_with(STATE));
        let contents = ledger::read(file)?;
        // Between two programs in one process, systemd has only the one before.
        numbers.insert(0, numbers[0].saturating_sub(1));
        let marks = kept.remove(MARKS).and_then(|file| Marks::of(file).ok());
        let marks = marks.ok_or(Unreadable::Nothing)?;
        Ok(Some(Left { contents, kept: std::mem::take(kept), marks, numbers }))
    }
}

impl Estate {
    /// One with nothing in it, or in place of what a predecessor has left.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(left: Option<&Left>) -> io::Result<Arc<Estate>> {
        let marks = match left {
            Some(left) => left.marks.clone(),
            None => Marks::new()?,
        };
        let numbers = left.map(|left| left.numbers.clone()).unwrap_or_default();
        let record = Files { ledger: Ledger::new(std::iter::empty())?, numbers };
        fd_store::store(MARKS, marks.file());
        Ok(Arc::new(Estate {
            marks,
            record: Mutex::new(record),
            kept: Mutex::default(),
            grown: Notify::new(),
            is_left: AtomicBool::new(false),
        }))
    }

    /// Everything is written down in a new file. Those before it are not needed any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write_anew(&self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let mut files = lock(&self.record);
        let ledger = Ledger::new(records)?;
        let number = files.numbers.last().map_or(1, |last| last + 1);
        fd_store::store(&format!("{STATE}{number}"), ledger.file());
        for before in &files.numbers {
            fd_store::remove(&format!("{STATE}{before}"));
        }
        *files = Files { ledger, numbers: vec![number] };
        Ok(())
    }

    /// Ends when the record should be written anew.
    pub async fn has_grown(&self) {
        self.grown.notified().await;
    }

    /// How everything is now.
    pub fn note(&self, state: State) {
        self.write(&Record::State(Box::new(state)));
    }

    /// A descriptor is needed by whoever goes on, until what this returns is dropped.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn keep(self: &Arc<Self>, name: String, descriptor: impl AsFd) -> io::Result<Deposit> {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?;
        fd_store::store(&name, copy.as_fd());
        lock(&self.kept).insert(name.clone(), copy);
        Ok(Deposit { name, estate: self.clone() })
    }

    /// What a successor would have to read, for trying whether it can.
    ///
    /// # Errors
    /// The kernel's.
    pub fn copy(&self, records: impl Iterator<Item = Record>) -> io::Result<Kept> {
        let ledger = Ledger::new(records)?;
        ledger.seal()?;
        Ok(Kept::from([
            (format!("{STATE}1"), ledger.file().try_clone_to_owned()?),
            (MARKS.to_owned(), self.marks.file().try_clone_to_owned()?),
        ]))
    }

    /// Somebody goes on with all of it, to whom it is handed: what is in the store, and a record that
    /// nobody can change any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave(&self, records: impl Iterator<Item = Record>) -> io::Result<Kept> {
        let ledger = Ledger::new(records)?;
        ledger.seal()?;
        self.is_left.store(true, Ordering::Relaxed);
        let mut kept = std::mem::take(&mut *lock(&self.kept));
        let number = lock(&self.record).numbers.last().map_or(1, |last| last + 1);
        kept.insert(format!("{STATE}{number}"), ledger.file().try_clone_to_owned()?);
        kept.insert(MARKS.to_owned(), self.marks.file().try_clone_to_owned()?);
        Ok(kept)
    }

    /// Nobody is to go on: the app has been stopped.
    pub fn dissolve(&self) {
        for number in &lock(&self.record).numbers {
            fd_store::remove(&format!("{STATE}{number}"));
        }
        fd_store::remove(MARKS);
    }

    fn write(&self, record: &Record) {
        if self.is_left.load(Ordering::Relaxed) {
            return;
        }
        let mut files = lock(&self.record);
        files.ledger.write(record);
        if files.ledger.has_grown() {
            self.grown.notify_one();
        }
    }
}

/// Something in the store.
#[derive(Debug)]
pub struct Deposit {
    name: String,
    estate: Arc<Estate>,
}

impl Deposit {
    /// What it is called there.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        if !self.estate.is_left.load(Ordering::Relaxed) {
            lock(&self.estate.kept).remove(&self.name);
            fd_store::remove(&self.name);
        }
    }
}

impl Notes for Estate {
    fn session_opened(&self, sid: &str, worker: WorkerId, silence: Option<Duration>) {
        self.write(&session(sid, worker, silence));
    }

    fn session_ended(&self, sid: &str) {
        self.write(&Record::SessionEnded(sid.to_owned()));
    }

    fn session_over(&self, sid: &str, worker: WorkerId) {
        self.write(&Record::SessionOver(sid.to_owned(), worker));
    }

    fn given(&self, worker: WorkerId, connection: HandedOver) {
        self.write(&Record::Given(worker, connection));
    }
}

/// A session, as it is written down.
pub fn session(sid: &str, worker: WorkerId, silence: Option<Duration>) -> Record {
    let millis = silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
    Record::Session(sid.to_owned(), worker, millis)
}

/// What the socket of this process's keeper is called in the store. Those before it may still pass
/// something on.
pub fn name_of_keeper(left: Option<&Left>) -> String {
    let names = left.iter().flat_map(|left| left.kept.keys());
    let numbers = names.filter_map(|name| name.strip_prefix(KEEPER)?.parse::<u64>().ok());
    format!("{KEEPER}{}", numbers.max().map_or(1, |last| last.saturating_add(1)))
}

/// What a worker's channel is called in the store.
pub fn channel_of(id: WorkerId) -> String {
    format!("{}{id}", WORKER[0])
}

/// What a worker's process is called there.
pub fn process_of(id: WorkerId) -> String {
    format!("{}{id}", WORKER[1])
}

/// What a worker's `NOTIFY_SOCKET` is called there.
pub fn notify_of(id: WorkerId) -> String {
    format!("{}{id}", WORKER[2])
}

/// What our end of a worker's lane is called there.
pub fn lane_of(id: WorkerId) -> String {
    format!("{}{id}", WORKER[3])
}

/// What the worker's end of it is called there.
pub fn lane_end_of(id: WorkerId) -> String {
    format!("{}{id}", WORKER[4])
}
