//! What waits to be sent to a worker, and how it leaves.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::sync::oneshot;

use super::Delivered;
use crate::worker::marks::Mark;

/// What a frame takes beside its own bytes: many small ones must not be free.
const FRAME_OVERHEAD: usize = 128;

/// Unacknowledged descriptors; below any `RLIMIT_NOFILE`, above what a busy worker needs.
const MAX_UNACKNOWLEDGED: usize = 128;

/// How often Node itself sends a descriptor again.
const MAX_TRIES: u8 = 3;

/// Plain frames that leave in one `sendmsg`.
pub(super) const GATHER: usize = 32;

/// The kernel takes so much at once, in bytes, or nothing.
const AT_ONCE: usize = 16 << 10;

/// What waits for one worker, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Frame>,
    /// How much of the queue's first frame has left.
    sent: usize,
    bytes: usize,
    /// What the worker has yet to answer, oldest first.
    unacknowledged: VecDeque<Frame>,
    /// A ping, or a frame with a descriptor that left in parts, is among them: no other descriptor
    /// until all are acknowledged.
    alone: bool,
    /// The worker may have yet to answer what a predecessor has sent: no descriptor leaves, no ping, and
    /// what it answers is not to anything of ours.
    inherited: bool,
    /// What waits for the end of that. It holds up nothing else.
    held: Vec<Frame>,
    /// To be sent when nothing is unacknowledged.
    ping: Option<Bytes>,
    end: Option<End>,
}

/// How a channel has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Closed,
    Slow,
    /// A successor goes on with it.
    Left,
}

#[derive(Debug)]
pub(super) struct Frame {
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
    pub(super) fn plain(bytes: Bytes) -> Frame {
        Frame { bytes, kind: Kind::Plain }
    }

    /// One whose descriptor goes back by way of `done`.
    pub(super) fn with_handle(
        bytes: Bytes,
        fd: OwnedFd,
        done: oneshot::Sender<Delivered>,
    ) -> Frame {
        Frame { bytes, kind: Kind::Handle(Handle { fd, tries: 0, done }) }
    }

    /// The memory it takes, about.
    fn cost(&self) -> usize {
        self.bytes.len() + FRAME_OVERHEAD
    }

    pub(super) fn carries_handle(&self) -> bool {
        matches!(self.kind, Kind::Handle(_))
    }

    /// It will not arrive any more.
    pub(super) fn give_up(self) {
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
pub(super) enum Flushed {
    Empty,
    /// The next frame waits for an acknowledgement.
    Waits,
    /// Too many descriptors are in flight in the whole system: try again soon.
    Crowded,
}

impl Outbox {
    /// That of a predecessor, until [`Outbox::begin`].
    pub(super) fn inherited() -> Outbox {
        Outbox { inherited: true, ..Outbox::default() }
    }

    /// All that a predecessor has sent is answered.
    pub(super) fn begin(&mut self) {
        self.inherited = false;
        self.queue.extend(self.held.drain(..));
    }

    /// Queues a frame, or gives it back when the channel has ended.
    pub(super) fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.end.is_some() {
            return Err(frame);
        }
        self.bytes += frame.cost();
        match self.inherited && frame.carries_handle() {
            true => self.held.push(frame),
            false => self.queue.push_back(frame),
        }
        Ok(())
    }

    /// A ping leaves when nothing is unacknowledged. Where something is, its answer is as good.
    pub(super) fn ask(&mut self, ping: Bytes) {
        if self.unacknowledged.is_empty() && self.end.is_none() {
            self.ping = Some(ping);
        }
    }

    /// The worker's word on what it has yet to answer; whether there is something to be sent.
    pub(super) fn acknowledged(&mut self, arrived: bool) -> Option<bool> {
        let frame = self.unacknowledged.pop_front()?; // none while it is inherited
        self.alone &= !self.unacknowledged.is_empty();
        if let Kind::Handle(mut handle) = frame.kind {
            handle.tries += 1;
            if arrived || handle.tries > MAX_TRIES {
                handle.finish(arrived);
            } else {
                // Not between the parts of a frame.
                let at = usize::from(self.sent > 0);
                let frame = Frame { bytes: frame.bytes, kind: Kind::Handle(handle) };
                self.bytes += frame.cost();
                self.queue.insert(at, frame);
            }
        }
        Some(!self.queue.is_empty() || self.ping.is_some())
    }

    /// Nothing leaves any more. What would have is given to the caller.
    pub(super) fn finish(&mut self, end: End) -> impl Iterator<Item = Frame> + use<> {
        self.end.get_or_insert(end);
        self.bytes = 0;
        self.sent = 0;
        let queued =
            std::mem::take(&mut self.queue).into_iter().chain(std::mem::take(&mut self.held));
        std::mem::take(&mut self.unacknowledged).into_iter().chain(queued)
    }

    /// How it has ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// The memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all has left and been acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty() && self.unacknowledged.is_empty()
    }

    /// Whether a descriptor leaves as soon as it is sent.
    pub(super) fn has_room(&self) -> bool {
        self.queue.is_empty() && !self.holds_back()
    }

    /// Whether a descriptor has to wait for an acknowledgement.
    fn holds_back(&self) -> bool {
        let waiting = self.unacknowledged.len();
        self.inherited || waiting >= MAX_UNACKNOWLEDGED || (self.alone && waiting > 0)
    }

    /// Sends until nothing is left or something has to be waited for (`WouldBlock`: the socket).
    pub(super) fn flush(&mut self, socket: impl AsFd, mark: &Mark) -> io::Result<Flushed> {
        if self.sent == 0
            && !self.inherited
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
                    if self.holds_back() {
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
        let (mut count, mut length) = (0, 0);
        for (slot, frame) in slices.iter_mut().zip(&self.queue).take(most) {
            let from = if count == 0 { self.sent } else { 0 };
            let bytes = &frame.bytes[from..];
            // One that would leave in part stays whole for the next time.
            if count > 0 && (frame.carries_handle() || length + bytes.len() > AT_ONCE) {
                break;
            }
            *slot = IoSlice::new(bytes);
            (count, length) = (count + 1, length + bytes.len());
        }
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
