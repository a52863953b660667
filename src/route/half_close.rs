//! A client that has said its last word may still listen. Its worker hears of it as if the two were
//! connected: our connection to the worker ends behind the request, in that direction only, and the
//! worker does what it does then. Whoever has gone for good looks just the same.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio_util::either::Either;

use crate::listen::Client;
use crate::sync::lock;

use super::through::pass_on;

/// Whether a client has said its last word, and to whom.
#[derive(Debug, Default)]
pub(super) struct LastWord(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: bool,
    /// There will be no answer.
    left: bool,
    /// Where the request goes that is under way.
    sending: Option<Arc<Sending>>,
}

impl LastWord {
    /// A request goes out there, and with it the client's last word if it has said it by the end.
    pub(super) fn goes_to(self: &Arc<Self>, sending: &Arc<Sending>) -> UnderWay {
        let mut state = lock(&self.0);
        if state.said {
            sending.end();
        }
        state.sending = Some(sending.clone());
        UnderWay(self.clone())
    }

    /// Whether it has been said.
    pub(super) fn is_said(&self) -> bool {
        lock(&self.0).said
    }

    /// Ends the client's connection without an answer, and whoever waits for this.
    pub(super) async fn leave(&self) -> Infallible {
        lock(&self.0).left = true;
        std::future::pending().await
    }

    fn said(&self) {
        let mut state = lock(&self.0);
        state.said = true;
        if let Some(sending) = &state.sending {
            sending.end();
        }
    }

    /// Whether somebody wants to know.
    fn is_awaited(&self) -> io::Result<bool> {
        let state = lock(&self.0);
        if state.left {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(!state.said && state.sending.is_some())
    }
}

/// A request on its way, from its head to the end of its response.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<LastWord>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.0.0).sending = None;
    }
}

/// How far a request has been sent to a worker.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Nothing more will be written of it.
    written: AtomicBool,
    /// Nothing comes behind it.
    last: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Sending {
    /// A new request begins; it has been written when what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Writing {
        self.written.store(false, Ordering::Relaxed);
        Writing(self.clone())
    }

    /// Whether its last request has been begun.
    pub(super) fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.last.store(true, Ordering::Relaxed);
        if let Some(waiting) = lock(&self.waiting).take() {
            waiting.wake();
        }
    }

    /// All that was written has been sent. Whether that is all there will ever be; if not yet,
    /// `context` is told when.
    fn has_ended(&self, context: &Context<'_>) -> bool {
        if !self.written.load(Ordering::Relaxed) {
            return false;
        }
        if !self.is_last() {
            lock(&self.waiting).get_or_insert_with(|| context.waker().clone());
        }
        self.is_last()
    }
}

/// A request that is being written.
#[derive(Debug)]
pub(super) struct Writing(Arc<Sending>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.written.store(true, Ordering::Relaxed);
    }
}

/// A client's connection, which hears the last word also while nothing is read from it.
#[derive(Debug)]
pub(super) struct FromClient {
    client: Client,
    last_word: Arc<LastWord>,
    /// There is more to be read before the last word.
    unread: bool,
}

impl FromClient {
    pub(super) fn new(client: Client, last_word: Arc<LastWord>) -> FromClient {
        FromClient { client, last_word, unread: false }
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> Client {
        self.client
    }

    /// Looks whether it has been said, if somebody wants to know.
    fn listen(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.last_word.is_awaited()?
            && let Poll::Ready(heard) = self.poll_last_word(context)
        {
            heard?;
            self.last_word.said();
        }
        Ok(())
    }

    /// Whether the last word has been said, without taking anything. It is not while there is more to
    /// be read before it.
    pub(super) fn poll_last_word(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unread {
            match ready!(self.poll_read_ready(context)).and_then(|()| self.peek()) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => self.unread = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Pending
    }

    /// Whether there is something to be read, or nothing will be.
    pub(super) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.client {
            Either::Left(stream) => stream.poll_read_ready(context),
            Either::Right(stream) => stream.poll_read_ready(context),
        }
    }

    fn peek(&self) -> io::Result<usize> {
        let peek = || Ok(rustix::net::recv(self, &mut [0], RecvFlags::PEEK)?.0);
        match &self.client {
            Either::Left(stream) => stream.try_io(Interest::READABLE, peek),
            Either::Right(stream) => stream.try_io(Interest::READABLE, peek),
        }
    }
}

impl AsFd for FromClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.client {
            Either::Left(stream) => stream.as_fd(),
            Either::Right(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for FromClient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.unread = false;
        Pin::new(&mut self.client).poll_read(context, buffer)
    }
}

impl AsyncWrite for FromClient {
    /// hyper ends each of its rounds with this.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.listen(context)?;
        Pin::new(&mut self.client).poll_flush(context)
    }

    pass_on!(client: poll_write, poll_write_vectored, is_write_vectored, poll_shutdown);
}

/// A connection to a worker, which ends behind its last request.
#[derive(Debug)]
pub(super) struct ToWorker<S> {
    worker: S,
    sending: Arc<Sending>,
    ended: bool,
}

impl<S> ToWorker<S> {
    pub(super) fn new(worker: S, sending: Arc<Sending>) -> ToWorker<S> {
        ToWorker { worker, sending, ended: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ToWorker<S> {
    pass_on!(worker: poll_read);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ToWorker<S> {
    /// hyper calls this when nothing is left to write for now.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.worker).poll_flush(context))?;
        if !self.ended && self.sending.has_ended(context) {
            self.ended = true;
            return Pin::new(&mut self.worker).poll_shutdown(context);
        }
        Poll::Ready(Ok(()))
    }

    pass_on!(worker: poll_write, poll_write_vectored, is_write_vectored, poll_shutdown);
}
