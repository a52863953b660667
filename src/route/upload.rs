//! A request's body on its way to a worker.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::half_close::Writing;
use super::succession::Arriving;
use crate::config::Limits;

/// How long the rest of a body that no worker wants is read all the same: closing on unread bytes
/// would take the answer back.
const LINGER: Duration = Duration::from_secs(10);

/// Why a body does not arrive whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// It has more bytes than `[limits] body_size`.
    #[error("The request's body is too large.")]
    TooLarge,
    /// Nothing of it has come for `[limits] body_timeout`.
    #[error("The request's body did not arrive in time.")]
    Late,
    /// The client has gone, or sends what is no body.
    #[error("The request's body breaks off or is malformed.")]
    Malformed,
}

impl Broken {
    /// What broke a request's body, if that is why it could not be sent.
    pub(super) fn behind(error: &hyper::Error) -> Option<Broken> {
        error.source()?.downcast_ref().copied()
    }
}

/// The client's body; by default none, as when a request is sent a second time.
#[derive(Debug, Default)]
pub(super) struct Upload {
    limited: Option<Limited>,
    /// Dropped with it, when it has been written.
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Limited {
    body: Incoming,
    /// How many more bytes there may be.
    left: usize,
    timeout: Duration,
    /// Runs while nothing comes.
    late: Option<Pin<Box<Sleep>>>,
    /// Told of its plain end; dropped at any other.
    end: Option<oneshot::Sender<()>>,
    /// The same for whoever waits until it has been read.
    arriving: Option<Arriving>,
}

impl Upload {
    /// A body within these limits. `end` is told of an end without trailers, and dropped at any other.
    ///
    /// # Errors
    /// It says itself that it is too large.
    pub(super) fn of(
        body: Incoming,
        limits: &Limits,
        end: Option<oneshot::Sender<()>>,
        arriving: Option<Arriving>,
    ) -> Result<Upload, Broken> {
        let left = limits.body_size.unwrap_or(usize::MAX);
        let too_large = body.size_hint().lower() > left as u64;
        let timeout = limits.body_timeout;
        let limited = Some(Limited { body, left, timeout, late: None, end, arriving });
        let upload = Upload { limited, writing: None };
        if too_large { Err(Broken::TooLarge) } else { Ok(upload) }
    }

    /// It goes out there.
    pub(super) fn goes_out(&mut self, writing: Writing) {
        self.writing = Some(writing);
    }
}

impl Limited {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.frame(context) {
            Poll::Ready(frame) => {
                self.late = None;
                Poll::Ready(frame.map(|frame| self.count(frame.map_err(|_| Broken::Malformed)?)))
            }
            Poll::Pending => {
                let sleep = || Box::pin(tokio::time::sleep(self.timeout));
                let late = self.late.get_or_insert_with(sleep);
                late.as_mut().poll(context).map(|()| Some(Err(Broken::Late)))
            }
        }
    }

    /// What comes next, whatever the limits, and a word to `end`.
    fn frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => {
                // It may be that nobody asks any more.
                let _ = self.end.take().map(|end| end.send(()));
                self.arrived();
            }
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                // One of known length is not asked for more.
                if self.body.is_end_stream() {
                    self.arrived();
                }
            }
            Poll::Ready(Some(_)) => (self.end, self.arriving) = (None, None),
            Poll::Pending => {}
        }
        polled
    }

    fn arrived(&mut self) {
        if let Some(arriving) = self.arriving.take() {
            arriving.ended();
        }
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Broken> {
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.left = self.left.checked_sub(length).ok_or(Broken::TooLarge)?;
        Ok(frame)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(limited) = &mut self.limited else { return Poll::Ready(None) };
        let polled = limited.poll(context);
        if let Poll::Ready(Some(Err(Broken::Late))) = polled {
            self.limited = None; // there is no rest to wait for
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.limited.as_ref().is_none_or(|limited| limited.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.limited.as_ref().map_or(SizeHint::with_exact(0), |limited| limited.body.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let limited = self.limited.take();
        if let Some(mut limited) = limited.filter(|limited| !limited.body.is_end_stream()) {
            let rest = async move {
                while let Some(Ok(_)) = poll_fn(|context| limited.frame(context)).await {}
            };
            tokio::spawn(tokio::time::timeout(LINGER, rest));
        }
    }
}
