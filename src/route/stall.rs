//! A client's connection that ends when its client takes nothing more of what it is sent.
//!
//! There is a timer only while a write waits. The kernel says that one can go on when a good part
//! of its buffer is free again; whether a client reads at all is seen by what is left in there.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::sys;

use super::through::pass_on;

/// A client's connection on which nothing may stand still for ever.
#[derive(Debug)]
pub(super) struct Impatient<S> {
    client: S,
    limit: Duration,
    stalled: Option<Stalled>,
}

/// A write that waits.
#[derive(Debug)]
struct Stalled {
    look: Pin<Box<Sleep>>,
    /// What the client did not have yet at the last look.
    unsent: usize,
}

impl<S> Impatient<S> {
    /// The connection itself, still in here.
    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.client
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> S {
        self.client
    }
}

impl<S: AsFd> Impatient<S> {
    /// Ends with an error when the client takes nothing for `limit`, or for twice that at most.
    pub(super) fn new(client: S, limit: Duration) -> Impatient<S> {
        Impatient { client, limit, stalled: None }
    }

    /// What became of a write, unless it has waited for too long.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        ready!(self.gives_up(context))?;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends when nothing has been taken from one look to the next.
    fn gives_up(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stalled = match self.stalled.take() {
            Some(stalled) => stalled,
            None => Stalled {
                look: Box::pin(tokio::time::sleep(self.limit)),
                unsent: sys::unsent(&self.client)?,
            },
        };
        while stalled.look.as_mut().poll(context).is_ready() {
            let unsent = sys::unsent(&self.client)?;
            if unsent >= stalled.unsent {
                // Nobody wants what is left in there, and its end must not look like an end.
                sockopt::set_socket_linger(&self.client, Some(Duration::ZERO))?;
                return Poll::Ready(Ok(()));
            }
            stalled.unsent = unsent;
            stalled.look.as_mut().reset(Instant::now() + self.limit);
        }
        self.stalled = Some(stalled);
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    pass_on!(client: poll_read);
}

impl<S: AsyncWrite + AsFd + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.client).poll_write(context, bytes);
        self.wrote(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.client).poll_write_vectored(context, parts);
        self.wrote(context, written)
    }

    pass_on!(client: is_write_vectored, poll_flush, poll_shutdown);
}
