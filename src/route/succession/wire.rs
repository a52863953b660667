//! What a predecessor and its successor say to each other: each message is JSON, with one descriptor at
//! most, in one packet of a Unix socket. The other end may be of another version: it skips what it does
//! not know, with a warning.

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::sync::Mutex;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::route::upstream::Doors;
use crate::sync::lock;
use crate::worker::Known;

/// Of what is said here.
pub(super) const VERSION: u32 = 1;

/// So many bytes that were read ahead go into one message.
pub(super) const PART: usize = 16 << 10;

/// A message has less: the kernel's own limit is not far above, and [`PART`] far below.
const LARGEST: usize = 128 << 10;

/// Too many descriptors are in flight in the whole system: how long until the next try.
const CROWDED: Duration = Duration::from_millis(5);

/// From the program that leaves to the one that follows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToSuccessor {
    /// The first one, and again whenever there is a new successor.
    Begin { version: u32 },
    /// So much is in flight to this worker.
    InFlight { worker: u64, count: usize },
    /// A session has begun.
    Session { sid: String, worker: u64, silence_ms: Option<u64> },
    /// A connection of which nothing has been read but, if its client is `introduced`, what a proxy
    /// says first.
    Fresh { listener: usize, peer: Option<SocketAddr>, introduced: bool },
    /// What was read ahead of the connection that comes next, or a part of it.
    Ahead { bytes: Vec<u8> },
    /// A connection between two requests.
    Kept { listener: usize, peer: Option<SocketAddr> },
    /// A private connection to be given to a worker; the answer is `HandedOver`.
    HandOver { id: u64, worker: u64, listener: usize, told: Option<String> },
}

/// And back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::route) enum ToPredecessor {
    /// A successor listens from now on.
    Follow { version: u32 },
    /// Whether the worker has taken it.
    HandedOver { id: u64, taken: bool },
    /// There is a worker that requests can be sent to, or one has another way in.
    Serves { worker: u64, slot: usize, pid: u32, known: Known, doors: Doors },
    /// The worker can't be sent to any more.
    Gone { worker: u64 },
    /// A session is over, whatever its worker says.
    SessionEnded { sid: String, worker: u64 },
    /// The worker's clients are to be disconnected, so many a second.
    Disconnect { worker: u64, per_second: u32 },
    /// Finish what is in flight, and pass nothing on.
    Stop,
}

/// What waits to be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<VecDeque<Packet>>,
    wake: Notify,
}

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Outbox {
    pub(super) fn put(&self, message: &impl Serialize, fd: Option<OwnedFd>) {
        let bytes = serde_json::to_vec(message).expect("text and numbers can be written");
        lock(&self.queue).push_back(Packet { bytes, fd });
        self.wake.notify_one();
    }

    async fn send_all(&self, link: &Link) -> io::Result<()> {
        loop {
            let send = || match lock(&self.queue).front() {
                Some(packet) => link.send(packet).map(|()| true),
                None => Ok(false),
            };
            match link.0.async_io(Interest::WRITABLE, send).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(e) if Errno::from_io_error(&e) == Some(Errno::TOOMANYREFS) => {
                    tokio::time::sleep(CROWDED).await;
                    continue;
                }
                Err(e) if Errno::from_io_error(&e) == Some(Errno::MSGSIZE) => {
                    tracing::warn!("a message to another cohortd is too large: left out");
                }
                Err(e) => return Err(e),
            }
            lock(&self.queue).pop_front();
        }
    }
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Link(UnixDatagram);

impl Link {
    /// # Errors
    /// It is no such socket, or the runtime can't watch it.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Link> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // It is one of packets, too.
        UnixDatagram::from_std(StdDatagram::from(socket)).map(Link)
    }

    /// Says so much, if there is room for it.
    pub(super) fn say(&self, bytes: &[u8]) -> io::Result<()> {
        self.send(&Packet { bytes: bytes.to_vec(), fd: None })
    }

    fn send(&self, packet: &Packet) -> io::Result<()> {
        let fd = packet.fd.as_ref().map(AsFd::as_fd);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fd) = &fd {
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
        }
        let parts = [IoSlice::new(&packet.bytes)];
        rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message's length and its descriptor; nothing at the end.
    pub(super) async fn receive(
        &self,
        into: &mut [u8],
    ) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
        loop {
            match self.0.async_io(Interest::READABLE, || self.receive_now(into)).await {
                // It has ended without reading everything. What it has said is still there.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                received => return received,
            }
        }
    }

    fn receive_now(&self, into: &mut [u8]) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(into)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.0, &mut parts, &mut control, flags)?;
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let is_whole = !received.flags.contains(ReturnFlags::TRUNC);
        // Half a message is no JSON.
        Ok((received.bytes > 0).then_some((if is_whole { received.bytes } else { 1 }, fd)))
    }
}

/// Sends what is put into the outbox and tells `on` of every message, until the other end has ended.
/// If `end` comes before that, sends what there still is, and gives the socket back.
pub(super) async fn converse(
    link: Link,
    out: &Outbox,
    end: &CancellationToken,
    mut on: impl FnMut(&[u8], Option<OwnedFd>),
) -> Option<OwnedFd> {
    let reading = async {
        let mut buffer = vec![0; LARGEST];
        loop {
            match link.receive(&mut buffer).await {
                Ok(Some((length, fd))) => on(&buffer[..length], fd),
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "no word from another cohortd"),
            }
        }
    };
    let writing = async {
        while out.send_all(&link).await.is_ok() {
            out.wake.notified().await;
        }
        // It hears nothing any more, but may have said something before.
        pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = end.cancelled() => {}
        () = reading => return None,
        () = writing => return None,
    }
    out.send_all(&link).await.ok()?;
    link.0.into_std().ok().map(OwnedFd::from)
}
