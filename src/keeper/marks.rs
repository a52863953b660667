//! What is known of clients' connections, kept where it outlives this process: in memory that the
//! keeper has as well.
//!
//! A connection that is not marked is one of which nothing has been read. Numbers of descriptors are
//! used again, inodes are not for a long time: a mark names its socket, so that none has to be taken
//! back when one is closed, and what an old one says is of no other.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// Descriptors with a higher number are not kept: the unit's `LimitNOFILE=`.
const DESCRIPTORS: usize = 1 << 20;

/// Nothing is under way on the connection.
const RESTS: u64 = 1;

/// By descriptor: the inode, shifted, and `RESTS`.
#[derive(Debug, Clone, Copy)]
pub struct Marks(&'static [AtomicU64]);

/// How far a client's connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing has been read of it.
    Unread,
    /// Something is under way on it, or has been read of it that only this process knows.
    Busy,
    /// All that was read of it has been answered.
    Rests,
}

/// One connection's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    cell: Option<&'static AtomicU64>,
    stamp: u64,
}

impl Marks {
    /// For every descriptor. What is never written takes no memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Marks> {
        sys::shared(DESCRIPTORS).map(Marks)
    }

    /// That of a connection. Without one where its number is too high: it is not kept then.
    pub fn of(self, connection: impl AsFd) -> Mark {
        let connection = connection.as_fd();
        let inode = rustix::fs::fstat(connection).map(|stat| stat.st_ino);
        match (self.cell(connection), inode) {
            (Some(cell), Ok(inode)) => Mark { cell: Some(cell), stamp: inode << 1 },
            _ => Mark::default(),
        }
    }

    /// A connection that rested will be somebody else's to read.
    pub fn unread(self, connection: impl AsFd) {
        if let Some(cell) = self.cell(connection) {
            cell.store(0, Ordering::Release);
        }
    }

    /// How far the connection of this inode has come.
    pub(super) fn stage(self, connection: impl AsFd, inode: u64) -> Stage {
        match self.cell(connection).map(|cell| cell.load(Ordering::Acquire)) {
            Some(mark) if mark >> 1 != inode & (u64::MAX >> 1) => Stage::Unread,
            Some(mark) if mark & RESTS != 0 => Stage::Rests,
            _ => Stage::Busy,
        }
    }

    fn cell(self, connection: impl AsFd) -> Option<&'static AtomicU64> {
        let at = usize::try_from(connection.as_fd().as_raw_fd()).ok()?;
        self.0.get(at)
    }
}

impl Mark {
    /// Something is read of it from now on.
    pub fn busy(self) {
        self.set(self.stamp);
    }

    /// All that was read of it has been answered, and the kernel has the answer.
    pub fn rests(self) {
        self.set(self.stamp | RESTS);
    }

    fn set(self, mark: u64) {
        if let Some(cell) = self.cell {
            cell.store(mark, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn stage(marks: Marks, of: &UnixStream) -> Stage {
        let inode = rustix::fs::fstat(of).expect("a socket").st_ino;
        marks.stage(of, inode)
    }

    #[test]
    fn what_is_not_marked_is_unread() {
        let marks = Marks::new().expect("memory");
        let (one, other) = UnixStream::pair().expect("a pair");
        assert_eq!(stage(marks, &one), Stage::Unread);
        let mark = marks.of(&one);
        mark.busy();
        assert_eq!(stage(marks, &one), Stage::Busy);
        mark.rests();
        assert_eq!(stage(marks, &one), Stage::Rests);
        mark.busy();
        assert_eq!((stage(marks, &one), stage(marks, &other)), (Stage::Busy, Stage::Unread));
        mark.rests();
        marks.unread(&one);
        assert_eq!(stage(marks, &one), Stage::Unread);
    }

    #[test]
    fn a_mark_says_nothing_of_the_next_one_with_that_number() {
        let marks = Marks::new().expect("memory");
        let (one, _other) = UnixStream::pair().expect("a pair");
        marks.of(&one).busy();
        let (next, _other) = UnixStream::pair().expect("a pair");
        let (mut one, next) = (OwnedFd::from(one), OwnedFd::from(next));
        rustix::io::dup2(&next, &mut one).expect("in its place");
        assert_eq!(stage(marks, &one.into()), Stage::Unread);
    }

    #[test]
    fn what_has_no_place_is_busy() {
        let marks = Marks(&[]);
        let (one, _other) = UnixStream::pair().expect("a pair");
        marks.of(&one).rests();
        assert_eq!(stage(marks, &one), Stage::Busy);
    }
}
