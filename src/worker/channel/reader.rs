//! What a worker sends: whole frames, out of what the socket has.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvAncillaryBuffer, RecvFlags};
use tokio::io::Interest;
use tokio::task::coop::consume_budget;

use super::outbox::End;
use super::{Channel, ChannelError};
use crate::worker::wire::{Decoder, Framing, MAX_FRAME};

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
            consume_budget().await;
            channel.stream.ready(Interest::READABLE).await?;
            let mut read = Err(io::ErrorKind::WouldBlock.into());
            // What this ends with only says whether there may be more before the kernel says so.
            let _ = channel.stream.try_io(Interest::READABLE, || {
                read = self.receive(channel);
                let has_more = read.as_ref().is_ok_and(|taken| taken.has_more);
                has_more.then_some(()).ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            if channel.lock().end() == Some(End::Slow) {
                return Err(ChannelError::Slow);
            }
            match read {
                Ok(Taken { length: 0, .. }) => return Ok(None),
                Ok(Taken { length, .. }) => {
                    self.take(length);
                    channel.mark.read_whole(self.decoder.ends_whole(&self.buffer));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Receives into the scratch space. What is taken are whole frames, so that there is no moment in
    /// which a kill cuts one.
    fn receive(&mut self, channel: &Channel) -> io::Result<Taken> {
        let (socket, scratch) = (channel.stream.as_fd(), &mut self.scratch[..]);
        if self.buffer.is_empty() {
            let seen = peek(socket, scratch)?.len();
            let whole = self.decoder.whole(&scratch[..seen]);
            if whole > 0 {
                let has_more = seen > whole || seen == scratch.len();
                let (length, is_cut) = receive(socket, &mut scratch[..whole])?;
                return Ok(Taken { length, has_more: is_cut || has_more });
            }
        }
        channel.mark.read_whole(false); // one that is larger, or the end
        let (length, is_cut) = receive(socket, scratch)?;
        Ok(Taken { length, has_more: is_cut || length == self.scratch.len() })
    }

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

/// What was received.
struct Taken {
    length: usize,
    /// There may be more already.
    has_more: bool,
}

/// What can be received, without taking it.
fn peek(socket: impl AsFd, into: &mut [u8]) -> io::Result<&[u8]> {
    let (_, seen) = rustix::net::recv(socket, &mut *into, RecvFlags::PEEK)?;
    Ok(&into[..seen])
}

/// Receives bytes, and whether the kernel ended because a descriptor came with them. Those that a
/// worker sends are of no use to its primary: they are closed at once, however many there are.
fn receive(socket: impl AsFd, into: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(into)];
    let received =
        rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let is_cut = control.drain().count() > 0;
    Ok((received.bytes, is_cut))
}
