//! A response's body on its way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::access_log::Entry;
use super::forward::Host;
use super::front::Front;
use super::half_close::UnderWay;
use super::head;
use super::idle::Lane;
use super::succession::Exchange;
use super::upstream::{InFlight, Line, Upstream};
use crate::worker::WorkerId;

/// A connection to who answers, in use for one request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) server: Server,
    pub(super) line: Line,
    /// How long it may wait for another; `None`: its other end closes it.
    pub(super) keep: Option<Duration>,
    pub(super) _under_way: Option<UnderWay>,
}

/// Who answers a request.
#[derive(Debug)]
pub(super) enum Server {
    /// A worker here.
    Worker { upstream: Arc<Upstream>, lane: Lane, _in_flight: InFlight },
    /// One on another host.
    Host(Arc<Host>),
}

/// A response's body on its way to the client. When it has been read to its end, the connection
/// that it came on is free again; when the client goes before, that connection is closed.
#[derive(Debug)]
pub(super) struct Download {
    first: Option<Frame<Bytes>>,
    inner: Incoming,
    ended: bool,
    lease: Option<Lease>,
    entry: Option<Box<Entry>>,
    exchange: Option<Exchange>,
}

impl Download {
    pub(super) fn new(inner: Incoming, lease: Lease) -> Download {
        Download {
            first: None,
            inner,
            ended: false,
            lease: Some(lease),
            entry: None,
            exchange: None,
        }
    }

    /// The worker that sends it, if it is one of ours.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        match &self.lease.as_ref()?.server {
            Server::Worker { upstream, .. } => Some(upstream.worker.id),
            Server::Host(_) => None,
        }
    }

    /// The host that sends it, if it is another one.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.lease.as_ref()?.server {
            Server::Worker { .. } => None,
            Server::Host(host) => Some(&host.name),
        }
    }

    /// The request's entry in the access log ends with this.
    pub(super) fn log(&mut self, entry: Entry) {
        self.entry = Some(Box::new(entry));
    }

    /// What it is the end of.
    pub(super) fn ends(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }

    /// Reads the beginning of a handshake's response, so that its session is known before the
    /// client can use it.
    pub(super) async fn learn_session(&mut self, front: &Front) {
        let Some(Ok(frame)) = self.inner.frame().await else { return };
        if let (Some(data), Some(worker)) = (frame.data_ref(), self.worker())
            && let Some(handshake) = head::handshake(data)
        {
            let silence = handshake.silence.map(Duration::from_millis);
            front.session_opened(handshake.sid, worker, silence);
        }
        self.first = Some(frame);
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match self.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.inner).poll_frame(context),
        };
        if let (Some(entry), Poll::Ready(Some(Ok(frame)))) = (&mut self.entry, &polled) {
            entry.pass(frame.data_ref().map_or(0, Bytes::len));
        }
        // Chunks tell of their end only so.
        self.ended |= match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(None) => true,
            _ => false,
        };
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        match self.inner.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + read),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if (self.ended || self.inner.is_end_stream())
            && let Some(Lease { server, line, keep: Some(keep), .. }) = self.lease.take()
        {
            match server {
                Server::Worker { upstream, lane, .. } => upstream.keep(lane, line, keep),
                Server::Host(host) => host.keep(line),
            }
        }
    }
}
