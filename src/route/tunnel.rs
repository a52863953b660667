//! Carries bytes both ways between a client and a worker that speak WebSocket through us, and
//! closes that properly when the worker has to go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::through::pass_on;
use super::websocket::{CLOSE, Frames};

/// Carries bytes until either side ends. After `close` the client gets a Close frame and nothing
/// more of the worker's, which hears the client's answer to it, and then ends.
pub(super) async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    worker: impl AsyncRead + AsyncWrite + Unpin,
    close: &CancellationToken,
) {
    let frames = Frames::default();
    let close = Box::pin(close.clone().cancelled_owned());
    let mut worker = Closing { inner: worker, frames, state: State::Open, close };
    let _ = copy_bidirectional(&mut client, &mut worker).await;
}

/// Carries bytes that only the two ends can read, until either ends or `close` comes.
pub(super) async fn carry_unread(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut worker: impl AsyncRead + AsyncWrite + Unpin,
    close: &CancellationToken,
) {
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut worker) => {}
        () = close.cancelled() => {}
    }
}

/// The worker's side.
struct Closing<S> {
    inner: S,
    frames: Frames,
    state: State,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The frame that is under way is the last one.
    Ending,
    /// So much of the Close frame has been sent.
    Closing(usize),
}

impl<S: AsyncRead + Unpin> AsyncRead for Closing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state == State::Open && this.close.as_mut().poll(context).is_ready() {
            this.state = State::Ending;
        }
        if this.state == State::Ending && this.frames.is_between() {
            this.state = State::Closing(0);
        }
        if let State::Closing(sent) = &mut this.state
            && *sent < CLOSE.len()
        {
            let part = &CLOSE[*sent..][..buffer.remaining().min(CLOSE.len() - *sent)];
            buffer.put_slice(part);
            *sent += part.len();
            return Poll::Ready(Ok(()));
        }
        loop {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
            let new = &buffer.filled()[before..];
            let passed = match this.state {
                State::Open => {
                    this.frames.pass(new);
                    new.len()
                }
                State::Ending => this.frames.finish(new),
                State::Closing(_) => 0,
            };
            let is_end = new.is_empty();
            buffer.set_filled(before + passed);
            if is_end || passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Closing<S> {
    pass_on!(inner: poll_write, poll_flush, poll_shutdown);
}
