//! Where it is written down: lines of JSON in memory that is a file's (memfd_create(2)), which
//! systemd keeps.
//!
//! Lines are only ever added, each by one write, so whatever moment this process is killed at, what is
//! there is whole. When most of it is out of date, a new file takes its place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, memfd_create};

use super::record::{Record, State, Unreadable};
use crate::worker::{Spoken, WorkerId};

/// A file is never replaced before it has so many bytes,
const SHORT: usize = 256 << 10;

/// and so many times as many as it had at first.
const GROWN: usize = 4;

/// Everything that was written down, as far as it still holds.
#[derive(Debug)]
pub struct Contents {
    /// How everything is.
    pub state: State,
    /// Sessions: whose each is, and how long it may be silent.
    pub sessions: HashMap<String, (WorkerId, Option<Duration>)>,
    /// Connections that workers were given, by inode.
    pub given: HashMap<u64, (WorkerId, Spoken)>,
}

/// One file.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    length: usize,
    first: usize,
    is_broken: bool,
}

impl Ledger {
    /// A new one, with this in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(records: impl Iterator<Item = Record>) -> io::Result<Ledger> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("cohortd-state", flags)?);
        let mut text = Vec::new();
        records.for_each(|record| add(&mut text, &record));
        file.write_all(&text)?;
        Ok(Ledger { file, length: text.len(), first: text.len(), is_broken: false })
    }

    /// Adds a line.
    pub fn write(&mut self, record: &Record) {
        let mut line = Vec::with_capacity(128);
        add(&mut line, record);
        // It is memory: more of it is to be had, or this process is about to end anyway.
        match self.file.write(&line) {
            Ok(n) if n == line.len() => self.length += n,
            result if !self.is_broken => {
                self.is_broken = true;
                tracing::error!(?result, "a successor will not know everything: out of memory");
            }
            _ => {}
        }
    }

    /// Whether a new file should take its place.
    pub fn has_grown(&self) -> bool {
        self.is_broken || self.length > SHORT.max(self.first * GROWN)
    }

    /// Nothing can be added from now on, by nobody.
    ///
    /// # Errors
    /// The kernel's.
    pub fn seal(&self) -> io::Result<()> {
        let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        Ok(rustix::fs::fcntl_add_seals(&self.file, seals)?)
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn add(text: &mut Vec<u8>, record: &Record) {
    serde_json::to_writer(&mut *text, record).expect("every record has a form in JSON");
    text.push(b'\n');
}

/// Reads what a predecessor has written down.
///
/// # Errors
/// It says nothing that can be gone on with.
pub fn read(file: OwnedFd) -> Result<Contents, Unreadable> {
    let mut text = Vec::new();
    let mut file = File::from(file);
    let whole = file.rewind().and_then(|()| file.read_to_end(&mut text));
    whole.map_err(|_| Unreadable::Nothing)?;
    let (mut state, mut sessions, mut given) = (None, HashMap::new(), HashMap::new());
    // Whatever this version does not know says nothing to it.
    for record in text.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()) {
        match record {
            Record::State(newer) => state = Some(*newer),
            Record::Session(sid, worker, silence) => {
                sessions.insert(sid, (worker, silence.map(Duration::from_millis)));
            }
            Record::SessionEnded(sid) => drop(sessions.remove(&sid)),
            Record::Given(worker, inode, spoken) => drop(given.insert(inode, (worker, spoken))),
        }
    }
    let state = state.ok_or(Unreadable::Nothing)?;
    state.check()?;
    Ok(Contents { state, sessions, given })
}
