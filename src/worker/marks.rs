//! Whether channels are between two frames, kept where it outlives this process.
//!
//! Whoever goes on after cohortd was killed reads and writes the same streams. Where a frame was cut,
//! nothing that follows can be told apart: that worker can't be talked to any more. A running system
//! call is never cut short by a kill, so what counts is what has been read and written in full before
//! it; a byte of shared memory for each channel says whether that ends with a frame.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::sync::lock;
use crate::sys;

/// Channels that can be marked; an app has 1024 slots, with two workers at most.
const CHANNELS: usize = 4096;

/// Of what has been read, the last frame is not whole.
const READ_IN_PART: u8 = 1;

/// Of what has been written, the last frame is not whole.
const WRITTEN_IN_PART: u8 = 2;

/// The marks of all channels.
#[derive(Debug)]
pub struct Marks {
    file: OwnedFd,
    memory: &'static [AtomicU8],
    used: Mutex<BTreeSet<usize>>,
}

impl Marks {
    /// New ones.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Arc<Marks>> {
        let file = memfd_create("cohortd-marks", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, CHANNELS as u64)?;
        Marks::of(file)
    }

    /// Those of a predecessor.
    ///
    /// # Errors
    /// It is something else.
    pub fn of(file: OwnedFd) -> io::Result<Arc<Marks>> {
        if rustix::fs::fstat(&file)?.st_size != CHANNELS as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not as long as it should be"));
        }
        let memory = sys::map(&file, CHANNELS)?;
        Ok(Arc::new(Marks { file, memory, used: Mutex::default() }))
    }

    /// The file that has them.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The mark of a new channel.
    pub fn begin(self: &Arc<Self>) -> Mark {
        let mut used = lock(&self.used);
        let free = (0..CHANNELS).find(|at| !used.contains(at)).expect("there are fewer workers");
        used.insert(free);
        let mark = Mark { at: free, marks: Some(self.clone()) };
        mark.byte().store(0, Ordering::Relaxed);
        mark
    }

    /// The mark of a channel of a predecessor's, if there can be one.
    pub fn resume(self: &Arc<Self>, at: usize) -> Option<Mark> {
        let is_new = at < CHANNELS && lock(&self.used).insert(at);
        is_new.then(|| Mark { at, marks: Some(self.clone()) })
    }
}

/// Of a channel that ends with this process.
static NOWHERE: AtomicU8 = AtomicU8::new(0);

/// One channel's.
#[derive(Debug, Default)]
pub struct Mark {
    at: usize,
    marks: Option<Arc<Marks>>,
}

impl Mark {
    /// Its place, by which a successor finds it.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Whether a frame was cut.
    pub fn is_cut(&self) -> bool {
        self.byte().load(Ordering::Relaxed) != 0
    }

    /// What was cut, for people.
    pub fn what_is_cut(&self) -> &'static str {
        match self.byte().load(Ordering::Relaxed) {
            READ_IN_PART => "a message from it",
            WRITTEN_IN_PART => "a message to it",
            _ => "a message to it and one from it",
        }
    }

    pub(super) fn read_whole(&self, whole: bool) {
        self.set(READ_IN_PART, !whole);
    }

    pub(super) fn written_whole(&self, whole: bool) {
        self.set(WRITTEN_IN_PART, !whole);
    }

    fn set(&self, bit: u8, on: bool) {
        let byte = self.byte();
        let before = byte.load(Ordering::Relaxed);
        let after = if on { before | bit } else { before & !bit };
        // Only this process's one thread writes it.
        if after != before {
            byte.store(after, Ordering::Release);
        }
    }

    fn byte(&self) -> &AtomicU8 {
        self.marks.as_ref().map_or(&NOWHERE, |marks| &marks.memory[self.at])
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(marks) = &self.marks {
            lock(&marks.used).remove(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_finds_them() {
        let marks = Marks::new().expect("memory");
        let (one, other) = (marks.begin(), marks.begin());
        assert_ne!(one.place(), other.place());
        other.read_whole(false);
        other.written_whole(false);
        other.read_whole(true);
        let again = Marks::of(marks.file().try_clone_to_owned().expect("a copy")).expect("them");
        let resume = |at| again.resume(at).expect("not taken yet");
        assert!(!resume(one.place()).is_cut());
        let other = resume(other.place());
        assert!(other.is_cut());
        assert_eq!(other.what_is_cut(), "a message to it");
        let resumed = again.resume(one.place()).expect("given back");
        assert!(again.resume(resumed.place()).is_none(), "it has one owner");
        assert!(again.resume(CHANNELS).is_none());
    }

    #[test]
    fn a_new_channel_s_is_clean() {
        let marks = Marks::new().expect("memory");
        let one = marks.begin();
        one.read_whole(false);
        let place = one.place();
        drop(one);
        let next = marks.begin();
        assert!(next.place() == place && !next.is_cut());
    }

    #[test]
    fn another_file_is_refused() {
        let file = memfd_create("other", MemfdFlags::CLOEXEC).expect("memory");
        assert!(Marks::of(file).is_err());
    }
}
