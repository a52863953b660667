//! One worker's IPC channel: frames and descriptors, both ways, over a Unix stream socket.
//!
//! Invariants of the sending side, on which Node's reading side depends:
//! - frames leave in order and whole: nothing comes between two parts of a frame;
//! - a descriptor travels on the first byte of its frame, in a `sendmsg` of its own;
//! - a second descriptor follows only behind a frame that went out in one `sendmsg`, or when none
//!   is unacknowledged (else Node may take the wrong one);
//! - a ping, a descriptor's frame without one, leaves when no descriptor is unacknowledged, and none
//!   follows until it is answered (else Node may take that for the ping's);
//! - on a channel that a predecessor had, neither leaves before the worker has answered all of that
//!   one's: its answers have no numbers, and would be taken for those to ours;
//! - a descriptor is kept until the worker has acknowledged it, and goes back to whoever sent it.
//!
//! What waits is bounded in bytes. A worker that lets it grow beyond is cut off: its queue can't
//! be dropped in part, and must not grow without end.

mod outbox;
mod reader;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};

use self::outbox::{End, Flushed, Frame, Outbox};
pub use self::reader::Reader;
use super::marks::Mark;
use super::wire::{FrameError, Framing};
use crate::sync::lock;
use crate::sys;

/// What may wait for one worker, in bytes (64 MiB).
const MAX_QUEUED: usize = 64 << 20;

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
    /// A descriptor may leave as soon as it is sent again.
    room: Notify,
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
        Channel::of(stream, framing, mark, Outbox::default())
    }

    /// The same for a channel that a predecessor had, who has been answered at [`Channel::begin`].
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn resume(
        stream: std::os::unix::net::UnixStream,
        framing: Framing,
        mark: Mark,
    ) -> io::Result<Channel> {
        Channel::of(stream, framing, mark, Outbox::inherited())
    }

    fn of(
        stream: std::os::unix::net::UnixStream,
        framing: Framing,
        mark: Mark,
        out: Outbox,
    ) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let (wake, answered, room) = (Notify::new(), Notify::new(), Notify::new());
        Ok(Channel { stream, framing, mark, out: Mutex::new(out), wake, answered, room })
    }

    /// All that a predecessor has sent is answered: descriptors may leave.
    pub fn begin(&self) {
        self.lock().begin();
        self.wake.notify_one();
        self.answered.notify_waiters();
        self.room.notify_waiters();
    }

    /// Ends when the worker has read all that was sent to it, as seen at any moment.
    pub async fn is_read(&self) {
        while let Ok(ready) = self.stream.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() || sys::unsent(&self.stream).is_ok_and(|left| left == 0) {
                return;
            }
            // What it reads next is told as room for more.
            let _ = self.stream.try_io(Interest::WRITABLE, || -> io::Result<()> {
                Err(io::ErrorKind::WouldBlock.into())
            });
        }
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
        self.lock().is_settled() && !self.mark.is_cut()
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
        self.lock().bytes()
    }

    /// Whether a descriptor leaves as soon as it is sent.
    pub fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Wakes up when there may be room again since this was called. Never, once the channel has ended.
    pub fn room(&self) -> impl Future<Output = ()> {
        self.room.notified()
    }

    /// Queues a frame. Without effect once the channel has ended.
    pub fn send(&self, bytes: Bytes) {
        self.push(Frame::plain(bytes));
    }

    /// Sends a frame with a descriptor, at once if it can, and waits until the worker has taken it, or
    /// is gone.
    pub async fn send_handle(&self, bytes: Bytes, fd: OwnedFd) -> Delivered {
        let (done, delivered) = oneshot::channel();
        self.push(Frame::with_handle(bytes, fd, done));
        delivered.await.expect("the queue, and then its end, finishes every handle")
    }

    /// Ends when the worker's event loop has answered something: a descriptor that is under way,
    /// or else this ping. Never, once the channel has ended.
    pub async fn answers(&self, ping: Bytes) {
        let answered = self.answered.notified();
        self.lock().ask(ping);
        self.wake.notify_one();
        answered.await;
    }

    /// The worker's word on the oldest unacknowledged descriptor, or a ping.
    pub fn acknowledged(&self, arrived: bool) {
        let Some(has_more) = self.lock().acknowledged(arrived) else { return };
        if has_more {
            self.wake.notify_one();
        }
        self.answered.notify_waiters();
        self.room.notify_waiters();
    }

    /// Ends the channel: what waits is dropped, descriptors go back to their senders.
    pub fn close(&self) {
        self.end(End::Closed);
    }

    fn end(&self, end: End) {
        let frames = self.lock().finish(end);
        frames.for_each(Frame::give_up);
        if end != End::Left {
            let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        }
        self.wake.notify_one();
    }

    fn push(&self, frame: Frame) {
        let carries_handle = frame.carries_handle();
        let mut out = self.lock();
        let queued = out.push(frame);
        let too_much = out.bytes() > MAX_QUEUED;
        drop(out);
        if let Err(frame) = queued {
            return frame.give_up();
        }
        if too_much {
            return self.end(End::Slow);
        }
        // A connection that has left outlives this process.
        let flushed = match carries_handle {
            true => self.stream.try_io(Interest::WRITABLE, || self.flush()),
            false => Err(io::ErrorKind::WouldBlock.into()), // others may join it
        };
        if !matches!(flushed, Ok(Flushed::Empty | Flushed::Waits)) {
            self.wake.notify_one();
        }
    }

    fn flush(&self) -> io::Result<Flushed> {
        let flushed = self.lock().flush(self.stream.as_fd(), &self.mark)?;
        if matches!(flushed, Flushed::Empty) {
            self.room.notify_waiters();
        }
        Ok(flushed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outbox> {
        lock(&self.out)
    }

    /// Writes what is queued until the channel ends. Runs as a task of its own.
    pub async fn write(&self) {
        loop {
            if self.lock().end().is_some() {
                return;
            }
            match self.stream.async_io(Interest::WRITABLE, || self.flush()).await {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Socket;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use super::super::marks::Marks;
    use super::outbox::GATHER;
    use super::*;

    /// A channel whose socket is known to be writable, and the worker's end.
    async fn channel() -> (Channel, Socket) {
        let (ours, theirs) = Socket::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("a socket");
        let mark = Marks::new().expect("memory").begin();
        let channel = Channel::new(ours, Framing::Json, mark).expect("watched");
        channel.stream.writable().await.expect("a socket");
        (channel, theirs)
    }

    async fn is_over(future: &mut Pin<&mut impl Future>) -> bool {
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
    }

    fn read(theirs: &mut Socket) -> String {
        let mut bytes = [0; 64];
        let length = theirs.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn descriptor() -> OwnedFd {
        Socket::pair().expect("a pair").0.into()
    }

    /// The answer to a predecessor's ping is not taken for one to a descriptor, which would be sent again.
    #[tokio::test]
    async fn no_descriptor_leaves_before_a_predecessor_is_answered() {
        let (ours, mut theirs) = Socket::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("a socket");
        let channel = Channel::resume(ours, Framing::Json, Mark::default()).expect("watched");
        channel.stream.writable().await.expect("a socket");
        assert!(!channel.has_room());
        let mut sending = pin!(channel.send_handle(Bytes::from_static(b"one\n"), descriptor()));
        assert!(!is_over(&mut sending).await);
        channel.send(Bytes::from_static(b"question\n"));
        channel.flush().expect("a socket");
        assert_eq!(read(&mut theirs), "question\n");
        channel.acknowledged(false);
        channel.begin();
        channel.flush().expect("a socket");
        assert_eq!(read(&mut theirs), "one\n");
        channel.acknowledged(true);
        assert!(sending.await.arrived);
    }

    #[tokio::test]
    async fn a_worker_has_read_when_nothing_is_left() {
        let (channel, mut theirs) = channel().await;
        channel.send(Bytes::from_static(b"one\n"));
        channel.flush().expect("a socket");
        let mut reading = pin!(channel.is_read());
        assert!(!is_over(&mut reading).await);
        assert_eq!(read(&mut theirs), "one\n");
        reading.await;
    }

    #[tokio::test]
    async fn a_descriptor_leaves_when_it_is_sent() {
        let (channel, mut theirs) = channel().await;
        channel.send(Bytes::from_static(b"before\n"));
        let mut sending = pin!(channel.send_handle(Bytes::from_static(b"one\n"), descriptor()));
        assert!(!is_over(&mut sending).await);
        assert_eq!(read(&mut theirs), "before\none\n", "nobody else was needed for it");
        channel.acknowledged(true);
        assert!(sending.await.arrived && channel.is_settled());
    }

    #[tokio::test]
    async fn there_is_no_room_until_a_ping_is_answered() {
        let (channel, mut theirs) = channel().await;
        assert!(channel.has_room());
        let mut writing = pin!(channel.write());
        let mut asking = pin!(channel.answers(Bytes::from_static(b"ping\n")));
        assert!(!is_over(&mut asking).await && !is_over(&mut writing).await);
        assert_eq!(read(&mut theirs), "ping\n");
        assert!(!channel.has_room());
        let mut sending = pin!(channel.send_handle(Bytes::from_static(b"one\n"), descriptor()));
        assert!(!is_over(&mut sending).await);
        assert_eq!(read(&mut theirs), "", "it could be taken for the ping's");
        let mut room = pin!(channel.room());
        assert!(!is_over(&mut room).await);
        channel.acknowledged(true);
        assert!(is_over(&mut room).await && is_over(&mut asking).await);
        assert!(!channel.has_room(), "that one is first");
        assert!(!is_over(&mut writing).await);
        assert!(read(&mut theirs) == "one\n" && channel.has_room());
    }

    /// A kill between any two instructions cuts none.
    #[tokio::test]
    async fn frames_are_taken_whole_and_the_rest_stays() {
        let (channel, mut theirs) = channel().await;
        let mut reader = Reader::new(Framing::Json);
        theirs.write_all(b"one\ntwo\nthr").expect("room");
        assert_eq!(reader.next(&channel).await.expect("a frame").as_deref(), Some(&b"one\n"[..]));
        let left = rustix::io::ioctl_fionread(channel.socket()).expect("a socket");
        assert!(left == 3 && !channel.mark().is_cut());
        assert_eq!(reader.next(&channel).await.expect("a frame").as_deref(), Some(&b"two\n"[..]));
        let mut reading = pin!(reader.next(&channel));
        assert!(!is_over(&mut reading).await && channel.mark().is_cut(), "it may never come");
        theirs.write_all(b"ee\n").expect("room");
        assert_eq!(reading.await.expect("a frame").as_deref(), Some(&b"three\n"[..]));
        assert!(!channel.mark().is_cut());
    }

    /// Where the kernel takes only a part, that ends with a frame, if the frame is not a large one.
    #[tokio::test]
    async fn frames_that_leave_together_are_not_cut() {
        let (channel, _theirs) = channel().await;
        for _ in 0..GATHER * 16 {
            channel.send(vec![b' '; 5000].into());
        }
        assert!(!is_over(&mut pin!(channel.write())).await);
        assert!(channel.queued() > 0 && !channel.mark().is_cut());
    }
}
