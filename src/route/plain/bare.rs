//! A connection to a worker that carries plain requests, one at a time.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::either::Either;

use super::super::peer::Told;
use super::super::through::pass_on;
use super::super::upstream::Stream;

/// A connection of which nothing more is known than what went over it.
#[derive(Debug)]
pub(in crate::route) struct Bare {
    stream: Stream,
    pub(in crate::route) told: Told,
    /// Nothing more will be sent on it.
    ended: bool,
}

impl Bare {
    /// A new one, whose other end takes it for that of `told`.
    pub(super) fn new((stream, told): (Stream, Told)) -> Bare {
        Bare { stream, told, ended: false }
    }

    /// Ends it in our direction.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        self.stream.shutdown().await
    }

    /// Whether it was ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the worker keeps it, and has said nothing unasked.
    pub(in crate::route) fn is_open(&self) -> bool {
        let read = match &self.stream {
            Either::Left(stream) => stream.try_read(&mut [0]),
            Either::Right(stream) => stream.try_read(&mut [0]),
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Bare {
    pass_on!(stream: poll_read);
}

impl AsyncWrite for Bare {
    pass_on!(stream: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}
