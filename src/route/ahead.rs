//! What has been read of a connection before anybody serves it, and is read again by whoever does.
//! What has been decrypted can't be peeked at in the kernel; and whoever had a connection before may
//! have read more than was his.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::through::pass_on;

/// A connection of which something has been read ahead.
pub(super) struct Ahead<S> {
    inner: S,
    read: BytesMut,
}

impl<S> Ahead<S> {
    pub(super) fn new(inner: S) -> Ahead<S> {
        Ahead::of(&[], inner)
    }

    /// These bytes come first.
    pub(super) fn of(read: &[u8], inner: S) -> Ahead<S> {
        Ahead { inner, read: read.into() }
    }

    /// The connection, and what has not been read again yet.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.inner, self.read)
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    /// Waits until `look` finds something in the first bytes. It is shown one byte above `limit` at
    /// most, and has to make something of that.
    ///
    /// # Errors
    /// The client has gone, or sends no more.
    pub(super) async fn peek<T>(
        &mut self,
        limit: usize,
        mut look: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        self.read.reserve(2048.min(limit + 1));
        loop {
            let room = limit + 1 - self.read.len();
            if self.inner.read_buf(&mut (&mut self.read).limit(room)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(found) = look(&self.read) {
                return Ok(found);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let part = buffer.remaining().min(self.read.len());
        buffer.put_slice(&self.read[..part]);
        self.read.advance(part);
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    pass_on!(inner: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}
