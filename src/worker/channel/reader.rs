//! What a worker sends: whole frames, out of what the socket has.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvAncillaryBuffer, RecvFlags};
use tokio::io::Interest;

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
            let (scratch, decoder) = (&mut self.scratch[..], &self.decoder);
            let is_within = !self.buffer.is_empty();
            let receive = || {
                // What is taken are whole frames, so that there is no moment in which a kill cuts one.
                let whole = match is_within {
                    true => 0,
                    false => decoder.whole(peek(channel.stream.as_fd(), scratch)?),
                };
                if whole > 0 {
                    return receive(channel.stream.as_fd(), &mut scratch[..whole]);
                }
                channel.mark.read_whole(false); // one that is larger, or the end
                receive(channel.stream.as_fd(), scratch)
            };
            let read = channel.stream.async_io(Interest::READABLE, receive).await;
            if channel.lock().end() == Some(End::Slow) {
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

/// What can be received, without taking it.
fn peek(socket: impl AsFd, into: &mut [u8]) -> io::Result<&[u8]> {
    let (_, seen) = rustix::net::recv(socket, &mut *into, RecvFlags::PEEK)?;
    Ok(&into[..seen])
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
