//! A client's connection that is served here, request by request, and how that ends.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::{Builder, Parts};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::ahead::Ahead;
use super::front::Front;
use super::given::Origin;
use super::half_close::LastWord;
use super::head::MAX_HEADERS;
use super::peer::{Caller, Ends};
use super::proxy::{Requests, Tried};
use super::succession::{Between, Passable, Watched};
use crate::config::Limits;
use crate::keeper::Mark;
use crate::listen::Client;

/// How long a connection of another host waits for one more request when this front-end goes: it may
/// have been sent already, on one that was kept.
const LINGER: Duration = Duration::from_secs(3);

/// How a connection stands when it comes here.
pub(super) struct Standing {
    /// Where its client's last word is heard, if it can be.
    pub(super) last_word: Option<Arc<LastWord>>,
    /// How it is marked when it rests.
    pub(super) mark: Mark,
    /// There is a request.
    pub(super) is_due: bool,
    /// Where that has been sent in vain.
    pub(super) tried: Option<Tried>,
}

impl Default for Standing {
    /// There is a request, and nothing is known of what it comes over.
    fn default() -> Standing {
        Standing { last_word: None, mark: Mark::default(), is_due: true, tried: None }
    }
}

/// Serves a client's connection until it ends, or to the end of its request when the front-end
/// stops, or until it can be passed on.
pub(super) async fn serve(
    front: Arc<Front>,
    from: Origin,
    client: Ahead<impl Passable + AsyncRead + AsyncWrite + Send + Unpin + 'static>,
    ends: Ends,
    limits: &Limits,
    standing: Standing,
) {
    let Origin { listener, peer } = from;
    let caller = Some(Caller { listener, peer, ends });
    let left = carry(&front, caller, client, limits, standing).await;
    if let Some((client, ahead)) = left {
        front.pass_kept(from, client, &ahead);
    }
}

/// Serves a connection on which another host brings requests.
pub(super) async fn serve_host(
    front: Arc<Front>,
    host: Ahead<impl Passable + AsyncRead + AsyncWrite + Send + Unpin + 'static>,
    limits: &Limits,
) {
    carry(&front, None, host, limits, Standing::default()).await;
}

/// Serves a connection; gives back what is to be passed on, and what has been read ahead of it.
async fn carry(
    front: &Arc<Front>,
    caller: Option<Caller>,
    client: Ahead<impl Passable + AsyncRead + AsyncWrite + Send + Unpin + 'static>,
    limits: &Limits,
    standing: Standing,
) -> Option<(Client, Vec<u8>)> {
    let Standing { last_word, mark, is_due, tried } = standing;
    let (begun, between) = (Notify::new(), Arc::<Between>::default());
    if !is_due {
        begun.notify_one();
    }
    let (is_plain, is_host) = (last_word.is_some(), caller.is_none());
    let requests = Requests::new(front.clone(), caller, last_word.unwrap_or_default(), tried);
    let service = service_fn(|request: Request<Incoming>| {
        begun.notify_one();
        let exchange = between.begin();
        let arriving = (!request.body().is_end_stream()).then(|| between.begin_body());
        requests.next(request, exchange, arriving)
    });
    let mut connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(limits.head_size.max(8192))
        .max_headers(MAX_HEADERS)
        .preserve_header_case(true)
        .auto_date_header(false)
        .half_close(is_plain)
        .serve_connection(TokioIo::new(Watched::new(client, between.clone(), mark)), service);
    let is_left = async {
        // A connection's errors are its client's doing, and told to it.
        tokio::select! {
            biased;
            () = front.turns.cancelled() => {}
            _ = &mut connection => return false,
        }
        if is_plain && !front.stop.is_cancelled() {
            between.leave();
            tokio::select! {
                biased;
                () = between.comes() => return true,
                _ = &mut connection => return false,
                () = front.stop.cancelled() => between.stay(),
            }
        }
        if is_host && between.is_between() {
            // Whatever was begun before is over.
            tokio::select! {
                biased;
                () = begun.notified() => {}
                () = std::future::ready(()) => {}
            }
        }
        // The first request is answered in any case.
        tokio::select! {
            biased;
            _ = &mut connection => return false,
            () = begun.notified() => {}
            () = tokio::time::sleep(LINGER), if is_host => {}
        }
        Pin::new(&mut connection).graceful_shutdown();
        let _ = (&mut connection).await;
        false
    };
    let is_left = is_left.await;
    let carried = match requests.tunnel() {
        None if !is_left => return None,
        tunnel => {
            let Parts { io, read_buf, .. } = connection.into_parts();
            let (client, rest) = io.into_inner().into_inner().into_parts();
            let ahead = [&read_buf[..], &rest[..]].concat();
            match tunnel {
                // Boxed: other connections need no room for it.
                Some(tunnel) => Box::pin(tunnel.carry(Ahead::of(&ahead, client))),
                None => return client.into_plain().map(|client| (client, ahead)),
            }
        }
    };
    carried.await;
    None
}
