//! One worker's IPC channel: frames and descriptors, both ways, over a Unix stream socket.
//!
//! Invariants of the sending side, on which Node's reading side depends:
//! - frames leave in order and whole: nothing comes between two parts of a frame;
//! - a descriptor travels on the first byte of its frame, in a `sendmsg` of its own;
//! - a second descriptor follows only behind a frame that went out in one `sendmsg`, or when none
//!   is unacknowledged (else Node may take the wrong one);
//! - a ping, a descriptor's frame without one, leaves when no descriptor is unacknowledged, and none
//!   follows until it is answered (else Node may take that for the ping's);
//! - a descriptor is kept until the worker has acknowledged it, and goes back to whoever sent it.
//!
//! What waits is bounded in bytes. A worker that lets it grow beyond is cut off: its queue can't
//! be dropped in part, and must not grow without end.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};

use super::marks::Mark;
use super::wire::{Decoder, FrameError, Framing, MAX_FRAME};
use crate::sync::lock;

/// What may wait for one worker, in bytes (64 MiB).
const MAX_QUEUED: usize = 64 << 20;

/// What a frame takes beside its own bytes: many small ones must not be free.
const FRAME_OVERHEAD: usize = 128;

/// Unacknowledged descriptors; below any `RLIMIT_NOFILE`, above what a busy worker needs.
const MAX_UNACKNOWLEDGED: usize = 128;

/// How often Node itself sends a descriptor again.
const MAX_TRIES: u8 = 3;

/// Plain frames that leave in one `sendmsg`.
const GATHER: usize = 32;

/// The kernel takes so much at once, in bytes, or nothing.
const AT_ONCE: usize = 16 << 10;

/// Why a channel has ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The worker sent what no Node sends.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("its IPC channel failed: {0}")]
    Io(#[from] io::Error),
    /// The worker did not read what was sent to it.
    #[error("it left {MAX_QUEUED} bytes of messages unread")]
    Slow,
}

/// What became of a descriptor that was sent. The descriptor is given back in any case.
#[derive(Debug)]
pub struct Delivered {
    /// Our copy.
    pub fd: OwnedFd,
    /// Whether the worker has its own.
    pub arrived: bool,
}

/// The sending side, shared by everyone who has something to say to the worker.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    framing: Framing,
    mark: Mark,
    out: Mutex<Outbox>,
    wake: Notify,
    /// The worker has answered something, or the channel has ended.
    answered: Notify,
}

#[derive(Debug, Default)]
struct Outbox {
    queue: VecDeque<Frame>,
    /// How much of the queue's first frame has left.
    sent: usize,
    bytes: usize,
    /// What the worker has yet to answer, oldest first.
    unacknowledged: VecDeque<Frame>,
    /// A ping, or a frame with a descriptor that left in parts, is among them: no other descriptor
    /// until all are acknowledged.
    alone: bool,
    /// To be sent when nothing is unacknowledged.
    ping: Option<Bytes>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Closed,
    Slow,
    /// A successor goes on with it.
    Left,
}

#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Plain,
    Ping,
    Handle(Handle),
}

impl Frame {
    /// The memory it takes, about.
    fn cost(&self) -> usize {
        self.bytes.len() + FRAME_OVERHEAD
    }

    fn carries_handle(&self) -> bool {
        matches!(self.kind, Kind::Handle(_))
    }

    /// It will not arrive any more.
    fn give_up(self) {
        if let Kind::Handle(handle) = self.kind {
            handle.finish(false);
        }
    }
}

#[derive(Debug)]
struct Handle {
    fd: OwnedFd,
    tries: u8,
    done: oneshot::Sender<Delivered>,
}

impl Handle {
    fn finish(self, arrived: bool) {
        // Whoever sent it may have given up; the descriptor is then closed here.
        let _ = self.done.send(Delivered { fd: self.fd, arrived });
    }
}

/// What a flush ended with.
enum Flushed {
    Empty,
    /// The next frame waits for an acknowledgement.
    Waits,
    /// Too many descriptors are in flight in the whole system: try again soon.
    Crowded,
}

impl Channel {
    /// Takes our end of the socket pair, which is between two frames; `mark` says so to others.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn new(
        stream: std::os::unix::net::UnixStream,
        framing: Framing,
        mark: Mark,
    ) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let (wake, answered) = (Notify::new(), Notify::new());
        Ok(Channel { stream, framing, mark, out: Mutex::default(), wake, answered })
    }

    /// What says whether it is between two frames.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Our end of the socket pair.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether all has left, and every descriptor has arrived.
    pub fn is_settled(&self) -> bool {
        let out = self.lock();
        out.queue.is_empty() && out.unacknowledged.is_empty() && !self.mark.is_cut()
    }

    /// A successor goes on with the socket pair: nothing more is sent or read here.
    pub fn leave(&self) {
        self.end(End::Left);
    }

    /// The framing of this worker.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// What waits to be sent, in bytes.
    pub fn queued(&self) -> usize {
        self.lock().bytes
    }

    /// Queues a frame. Without effect once the channel has ended.
    pub fn send(&self, bytes: Bytes) {
        self.push(Frame { bytes, kind: Kind::Plain });
    }

    /// Queues a frame with a descriptor and waits until the worker has taken it, or is gone.
    pub async fn send_handle(&self, bytes: Bytes, fd: OwnedFd) -> Delivered {
        let (done, delivered) = oneshot::channel();
        self.push(Frame { bytes, kind: Kind::Handle(Handle { fd, tries: 0, done }) });
        delivered.await.expect("the queue, and then its end, finishes every handle")
    }

    /// Ends when the worker's event loop has answered something: a descriptor that is under way,
    /// or else this ping. Never, once the channel has ended.
    pub async fn answers(&self, ping: Bytes) {
        let answered = self.answered.notified();
        {
            let mut out = self.lock();
            if out.unacknowledged.is_empty() && out.end.is_none() {
                out.ping = Some(ping);
            }
        }
        self.wake.notify_one();
        answered.await;
    }

    /// The worker's word on the oldest unacknowledged descriptor, or a ping.
    pub fn acknowledged(&self, arrived: bool) {
        let mut out = self.lock();
        let Some(frame) = out.unacknowledged.pop_front() else { return };
        out.alone &= !out.unacknowledged.is_empty();
        self.answered.notify_waiters();
        self.wake.notify_one();
        let Kind::Handle(mut handle) = frame.kind else { return };
        handle.tries += 1;
        if arrived || handle.tries > MAX_TRIES {
            handle.finish(arrived);
        } else {
            // Not between the parts of a frame.
            let at = usize::from(out.sent > 0);
            let frame = Frame { bytes: frame.bytes, kind: Kind::Handle(handle) };
            out.bytes += frame.cost();
            out.queue.insert(at, frame);
        }
    }

    /// Ends the channel: what waits is dropped, descriptors go back to their senders.
    pub fn close(&self) {
        self.end(End::Closed);
    }

    fn end(&self, end: End) {
        let frames: Vec<Frame> = {
            let mut out = self.lock();
            out.end.get_or_insert(end);
            out.bytes = 0;
            out.sent = 0;
            let queued = std::mem::take(&mut out.queue);
            std::mem::take(&mut out.unacknowledged).into_iter().chain(queued).collect()
        };
        for frame in frames {
            frame.give_up();
        }
        if end != End::Left {
            let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        }
        self.wake.notify_one();
    }

    fn push(&self, frame: Frame) {
        let mut out = self.lock();
        if out.end.is_some() {
            drop(out);
            return frame.give_up();
        }
        out.bytes += frame.cost();
        out.queue.push_back(frame);
        let too_much = out.bytes > MAX_QUEUED;
        drop(out);
        if too_much {
            self.end(End::Slow);
        } else {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outbox> {
        lock(&self.out)
    }

    /// Writes what is queued until the channel ends. Runs as a task of its own.
    pub async fn write(&self) {
        loop {
            if self.lock().end.is_some() {
                return;
            }
            let flushed = self
                .stream
                .async_io(Interest::WRITABLE, || self.lock().flush(self.stream.as_fd(), &self.mark))
                .await;
            match flushed {
                Ok(Flushed::Empty | Flushed::Waits) => self.wake.notified().await,
                Ok(Flushed::Crowded) => {
                    // An acknowledgement frees one; so may any other process.
                    let pause = Duration::from_millis(5);
                    let _ = tokio::time::timeout(pause, self.wake.notified()).await;
                }
                Err(_) => return self.close(), // the reading side reports it
            }
        }
    }
}

impl Outbox {
    /// Sends until nothing is left or something has to be waited for (`WouldBlock`: the socket).
    fn flush(&mut self, socket: impl AsFd, mark: &Mark) -> io::Result<Flushed> {
        if self.sent == 0
            && self.unacknowledged.is_empty()
            && let Some(bytes) = self.ping.take()
        {
            let ping = Frame { bytes, kind: Kind::Ping };
            self.bytes += ping.cost();
            self.queue.push_front(ping);
        }
        while let Some(frame) = self.queue.front() {
            let sent = match &frame.kind {
                Kind::Handle(handle) if self.sent == 0 => {
                    let waiting = self.unacknowledged.len();
                    if waiting >= MAX_UNACKNOWLEDGED || (self.alone && waiting > 0) {
                        return Ok(Flushed::Waits);
                    }
                    let fds = [handle.fd.as_fd()];
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    control.push(SendAncillaryMessage::ScmRights(&fds));
                    let slices = [IoSlice::new(&frame.bytes)];
                    match rustix::net::sendmsg(&socket, &slices, &mut control, SendFlags::NOSIGNAL)
                    {
                        Err(rustix::io::Errno::TOOMANYREFS) => return Ok(Flushed::Crowded),
                        other => other?,
                    }
                }
                Kind::Handle(_) => self.send_rest(&socket, 1, mark)?,
                Kind::Plain | Kind::Ping => self.send_rest(&socket, GATHER, mark)?,
            };
            self.advance(sent);
            mark.written_whole(self.sent == 0);
        }
        Ok(Flushed::Empty)
    }

    /// Sends the rest of the first frame, with up to `most - 1` plain frames behind it.
    fn send_rest(&self, socket: impl AsFd, most: usize, mark: &Mark) -> io::Result<usize> {
        let mut slices: [IoSlice<'_>; GATHER] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        for (slot, frame) in slices.iter_mut().zip(&self.queue).take(most) {
            if count > 0 && frame.carries_handle() {
                break;
            }
            let from = if count == 0 { self.sent } else { 0 };
            *slot = IoSlice::new(&frame.bytes[from..]);
            count += 1;
        }
        let length: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        if length > AT_ONCE {
            mark.written_whole(false);
        }
        let mut none = SendAncillaryBuffer::default();
        let sent = rustix::net::sendmsg(socket, &slices[..count], &mut none, SendFlags::NOSIGNAL);
        if sent.is_err() {
            mark.written_whole(self.sent == 0);
        }
        Ok(sent?)
    }

    fn advance(&mut self, mut sent: usize) {
        while let Some(frame) = self.queue.front() {
            let left = frame.bytes.len() - self.sent;
            if sent < left {
                self.sent += sent;
                self.alone |= frame.carries_handle();
                return;
            }
            sent -= left;
            self.sent = 0;
            self.bytes -= frame.cost();
            if let Some(frame) = self.queue.pop_front()
                && !matches!(frame.kind, Kind::Plain)
            {
                self.alone |= matches!(frame.kind, Kind::Ping);
                self.unacknowledged.push_back(frame);
            }
            if sent == 0 {
                return;
            }
        }
    }
}

/// The reading side; there is one.
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    buffer: BytesMut,
    scratch: Box<[u8]>,
}

impl Reader {
    /// For a channel at its beginning.
    pub fn new(framing: Framing) -> Reader {
        Reader {
            decoder: Decoder::new(framing),
            buffer: BytesMut::new(),
            scratch: vec![0; 64 << 10].into(),
        }
    }

    /// The next whole frame; `None` when the worker has closed its end.
    ///
    /// # Errors
    /// [`ChannelError`]: the worker can't be talked to any more.
    pub async fn next(&mut self, channel: &Channel) -> Result<Option<Bytes>, ChannelError> {
        loop {
            if let Some(length) = self.decoder.next(&self.buffer)? {
                return Ok(Some(self.buffer.split_to(length).freeze()));
            }
            let (scratch, is_empty) = (&mut self.scratch, self.buffer.is_empty());
            let receive = || {
                // Until it is known what came.
                channel.mark.read_whole(false);
                let received = receive(channel.stream.as_fd(), scratch);
                if received.is_err() {
                    channel.mark.read_whole(is_empty);
                }
                received
            };
            let read = channel.stream.async_io(Interest::READABLE, receive).await;
            if channel.lock().end == Some(End::Slow) {
                return Err(ChannelError::Slow);
            }
            match read {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    self.take(n);
                    channel.mark.read_whole(self.decoder.ends_whole(&self.buffer));
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Reader {
    /// Takes what has been read. Room is made by doubling, but never for more than the largest frame
    /// and what may have come with its end.
    fn take(&mut self, n: usize) {
        let most = MAX_FRAME + self.scratch.len();
        let capacity = self.buffer.capacity();
        if self.buffer.len() + n > capacity && 2 * capacity > most {
            let mut whole = BytesMut::with_capacity(most);
            whole.extend_from_slice(&self.buffer);
            self.buffer = whole;
        }
        self.buffer.extend_from_slice(&self.scratch[..n]);
    }
}

/// Receives bytes. Descriptors that a worker sends are of no use to its primary: they are closed
/// at once, however many there are.
fn receive(socket: impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(into)];
    let received =
        rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control.drain().for_each(drop);
    Ok(received.bytes)
}
