//! When nothing is under way on a client's connection that hyper serves: then it can be taken out of
//! there. hyper does not show where it is, but all of it can be seen from outside: it calls the
//! service with each head as soon as that is read, drops a response's body when that is buffered,
//! flushes at the end of each round only what has been written, and ends by itself when the
//! connection is not to be kept.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::super::through::pass_on;
use super::rest::Rest;
use crate::keeper::Mark;

/// How far a connection is with its requests and responses. To be asked between hyper's rounds.
#[derive(Debug, Default)]
pub(in crate::route) struct Between {
    /// Responses that are not buffered yet, and bodies of requests that are not read yet.
    open: AtomicUsize,
    /// Something is buffered that has not been written.
    unwritten: AtomicBool,
    /// Where the next request begins can't be said: hyper has to close, or to refuse it.
    in_doubt: AtomicBool,
    /// Nothing more is to be read here than what is open.
    leaving: AtomicBool,
    changed: Notify,
}

/// A request and its response, until that is buffered.
#[derive(Debug)]
pub(in crate::route) struct Exchange(Arc<Between>);

/// A request's body. When it is dropped before [`Arriving::ended`], what follows is in doubt.
#[derive(Debug)]
pub(in crate::route) struct Arriving(Option<Arc<Between>>);

impl Between {
    /// A request's head has been read.
    pub(in crate::route) fn begin(self: &Arc<Self>) -> Exchange {
        self.open.fetch_add(1, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// It has a body.
    pub(in crate::route) fn begin_body(self: &Arc<Self>) -> Arriving {
        self.open.fetch_add(1, Ordering::Relaxed);
        Arriving(Some(self.clone()))
    }

    /// Reads no further request from now on, if that was not read already with the one before.
    pub(in crate::route) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// It is not left after all.
    pub(in crate::route) fn stay(&self) {
        self.leaving.store(false, Ordering::Relaxed);
    }

    /// Ends when nothing is under way.
    pub(in crate::route) async fn comes(&self) {
        while !self.is_now() {
            self.changed.notified().await;
        }
    }

    fn is_now(&self) -> bool {
        self.is_between() && !self.unwritten.load(Ordering::Relaxed)
    }

    /// Whether no request or response is.
    pub(in crate::route) fn is_between(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && !self.in_doubt.load(Ordering::Relaxed)
    }

    fn end(&self) {
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.changed.notify_one();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Arriving {
    /// It has been read to its plain end.
    pub(in crate::route) fn ended(mut self) {
        if let Some(between) = self.0.take() {
            between.end();
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(between) = self.0.take() {
            between.in_doubt.store(true, Ordering::Relaxed);
            between.end();
        }
    }
}

/// A client's connection that tells what hyper does with it.
#[derive(Debug)]
pub(in crate::route) struct Watched<S> {
    client: S,
    between: Arc<Between>,
    rest: Rest,
}

impl<S> Watched<S> {
    pub(in crate::route) fn new(client: S, between: Arc<Between>, mark: Mark) -> Watched<S> {
        Watched { client, between, rest: Rest::new(mark) }
    }

    pub(in crate::route) fn into_inner(mut self) -> S {
        self.rest.ends();
        self.client
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.between.leaving.load(Ordering::Relaxed) && self.between.is_between() {
            return Poll::Pending; // the next request is somebody else's to read
        }
        self.rest.ends();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.client).poll_read(context, buffer);
        if polled.is_ready() {
            self.rest.read(&buffer.filled()[before..]);
        } else if self.between.is_now() {
            self.rest.begins();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.rest.ends();
        self.between.unwritten.store(true, Ordering::Relaxed);
        Pin::new(&mut self.client).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.rest.ends();
        self.between.unwritten.store(true, Ordering::Relaxed);
        Pin::new(&mut self.client).poll_write_vectored(context, parts)
    }

    /// hyper calls this when it has written all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.between.unwritten.swap(false, Ordering::Relaxed) {
            self.between.changed.notify_one();
        }
        Pin::new(&mut self.client).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.rest.ends();
        Pin::new(&mut self.client).poll_shutdown(context)
    }

    pass_on!(client: is_write_vectored);
}
