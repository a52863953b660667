//! A worker's lane: a Unix stream socket for nothing but clients' connections, if what we have
//! loaded into the worker (`worker/hook.cjs`) takes them there.
//!
//! By Node's own way each costs a message and two answers. Here it is one byte, the number of the
//! server that it is for, with the descriptor on it, and nothing is answered:
//! - both ends are ours as well, so we see what the worker has not taken, and take that back when it
//!   never will;
//! - what the worker has taken and has no server for it sends back;
//! - the kernel keeps what is on its way, whatever becomes of us.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sync::lock;
use crate::sys;

/// So many connections may wait in it: the kernel has room for twice as many.
const MOST: usize = 128;

/// How the key of a server begins that can be sent connections here; its number follows.
pub const KEY: &str = "listen:";

/// The number of the server with this key, if it is one of those that can.
pub fn server_of(key: &str) -> Option<u8> {
    key.strip_prefix(KEY)?.parse().ok()
}

/// Both ends of a lane.
#[derive(Debug)]
pub struct Ends {
    /// Where connections are sent.
    pub ours: OwnedFd,
    /// Where the worker takes them.
    pub theirs: OwnedFd,
}

impl Ends {
    /// Those of a new one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Ends> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        Ok(Ends { ours: ours.into(), theirs: theirs.into() })
    }
}

/// A lane.
#[derive(Debug)]
pub struct Lane {
    ours: AsyncFd<OwnedFd>,
    theirs: OwnedFd,
    state: Mutex<State>,
    /// More than so many do not wait in it.
    waiting: AtomicUsize,
    /// So many descriptors the worker may have in all.
    descriptors: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The worker has not said that it takes connections here.
    Unused,
    Open,
    /// Nothing is sent any more.
    Closed,
}

impl Lane {
    /// Takes both ends; `is_open`: the worker has said that it takes connections there.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn new(ends: Ends, is_open: bool) -> io::Result<Lane> {
        rustix::io::ioctl_fionbio(&ends.ours, true)?;
        let limit = getrlimit(Resource::Nofile).maximum;
        Ok(Lane {
            ours: sys::watch(ends.ours, Interest::READABLE)?,
            theirs: ends.theirs,
            state: Mutex::new(if is_open { State::Open } else { State::Unused }),
            waiting: AtomicUsize::new(MOST), // what a predecessor has sent is not known
            descriptors: limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        })
    }

    /// The worker takes connections here.
    pub fn open(&self) {
        let mut state = lock(&self.state);
        if *state == State::Unused {
            *state = State::Open;
        }
    }

    /// Whether it does.
    pub fn is_open(&self) -> bool {
        *lock(&self.state) == State::Open
    }

    /// Whether a worker that has so many connections surely has a descriptor for one more: of one
    /// that it has none for, nothing would be left.
    pub fn is_for_one_more(&self, connections: usize) -> bool {
        connections < self.descriptors / 2
    }

    /// Sends a connection for the server of this number.
    ///
    /// # Errors
    /// The connection: there is no room, or nothing is sent here (any more).
    pub fn give(&self, server: u8, connection: OwnedFd) -> Result<(), OwnedFd> {
        let state = lock(&self.state);
        if *state != State::Open {
            return Err(connection);
        }
        let fds = [connection.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let byte = [IoSlice::new(std::slice::from_ref(&server))];
        let sent =
            rustix::net::sendmsg(self.ours.get_ref(), &byte, &mut control, SendFlags::NOSIGNAL);
        if sent.is_err() {
            return Err(connection);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How many connections the worker has not taken.
    pub fn waiting(&self) -> usize {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let _none_is_sent = lock(&self.state);
        let waiting = rustix::io::ioctl_fionread(&self.theirs).map_or(0, |bytes| bytes as usize);
        self.waiting.store(waiting, Ordering::Relaxed);
        waiting
    }

    /// Whether one more may wait.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < MOST || self.waiting() < MOST
    }

    /// Ends when that may be so again.
    pub async fn room(&self) {
        self.takes(|| self.has_room()).await;
    }

    /// Ends when the worker has taken all that waits.
    pub async fn is_empty(&self) {
        self.takes(|| self.waiting() == 0).await;
    }

    /// Ends when the worker has taken so much that this is so.
    async fn takes(&self, is_so: impl Fn() -> bool) {
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            sys::watch(self.ours.get_ref().try_clone()?, Interest::WRITABLE)
        };
        let Ok(watched) = watch() else { return std::future::pending().await };
        while let Ok(mut ready) = watched.writable().await {
            if is_so() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// The next connection that the worker sends back.
    ///
    /// # Errors
    /// None will come any more.
    pub async fn returned(&self) -> io::Result<OwnedFd> {
        loop {
            let received = self.ours.async_io(Interest::READABLE, |ours| receive(ours)).await?;
            if let Some(connection) = received {
                return Ok(connection);
            }
        }
    }

    /// Nothing is sent here any more. Returns what the worker has not taken, or has sent back.
    pub fn close(&self) -> Vec<OwnedFd> {
        let mut state = lock(&self.state);
        *state = State::Closed;
        let rest = |end: BorrowedFd<'_>| {
            std::iter::from_fn(|| receive(end).ok()).flatten().collect::<Vec<_>>()
        };
        let mut all = rest(self.theirs.as_fd());
        all.extend(rest(self.ours.get_ref().as_fd()));
        all
    }
}

/// Receives a byte with what is on it.
fn receive(end: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut into = [IoSliceMut::new(&mut byte)];
    let received = rustix::net::recvmsg(end, &mut into, &mut control, flags)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let connection = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    fn lane() -> Lane {
        let lane = Lane::new(Ends::new().expect("a pair"), false).expect("watched");
        lane.open();
        lane
    }

    fn descriptor() -> OwnedFd {
        Ends::new().expect("a pair").ours
    }

    fn inode(fd: &OwnedFd) -> u64 {
        rustix::fs::fstat(fd).expect("a socket").st_ino
    }

    #[tokio::test]
    async fn nothing_is_sent_before_the_worker_takes_it_or_after_the_end() {
        let lane = Lane::new(Ends::new().expect("a pair"), false).expect("watched");
        let refused = lane.give(0, descriptor()).expect_err("nobody would take it");
        lane.open();
        lane.give(0, refused).expect("sent");
        assert_eq!(lane.close().len(), 1);
        lane.open();
        lane.give(0, descriptor()).expect_err("nobody would take it");
    }

    #[tokio::test]
    async fn what_is_not_taken_is_counted_and_taken_back_in_its_order() {
        let lane = lane();
        let sent: Vec<OwnedFd> = (0..5).map(|_| descriptor()).collect();
        let inodes: Vec<u64> = sent.iter().map(inode).collect();
        for (number, connection) in (0..).zip(sent) {
            lane.give(number, connection).expect("room");
        }
        assert_eq!(lane.waiting(), 5);
        let taken = receive(&lane.theirs).expect("one").expect("with a descriptor");
        assert_eq!((inode(&taken), lane.waiting()), (inodes[0], 4));
        let back: Vec<u64> = lane.close().iter().map(inode).collect();
        assert_eq!(back, inodes[1..]);
    }

    #[tokio::test]
    async fn there_is_room_again_when_enough_was_taken() {
        let lane = lane();
        assert!(lane.has_room());
        while lane.has_room() {
            lane.give(0, descriptor()).expect("room");
        }
        assert_eq!(lane.waiting(), MOST);
        let mut room = pin!(lane.room());
        let is_over = poll_fn(|context| Poll::Ready(room.as_mut().poll(context).is_ready())).await;
        assert!(!is_over);
        while lane.waiting() > 0 {
            receive(&lane.theirs).expect("one");
        }
        room.await;
        lane.is_empty().await;
        assert!(lane.has_room());
    }

    #[tokio::test]
    async fn what_is_sent_back_arrives() {
        let (lane, connection) = (lane(), descriptor());
        let sent = inode(&connection);
        let fds = [connection.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let byte = [IoSlice::new(b"-")];
        rustix::net::sendmsg(&lane.theirs, &byte, &mut control, SendFlags::empty()).expect("sent");
        assert_eq!(inode(&lane.returned().await.expect("it")), sent);
    }
}
