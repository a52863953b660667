//! A client's connection that is served here, request by request, and how that ends.

use std::sync::Arc;

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
use super::peer::Ends;
use super::proxy::Requests;
use super::succession::{Between, Passable, Watched};
use crate::config::Limits;

/// Serves a client's connection until it ends, or to the end of its request when the front-end
/// stops, or until it can be passed on. `last_word`: where the client's is heard, if it can be.
/// `is_seen`: there is a request.
pub(super) async fn serve(
    front: Arc<Front>,
    from: Origin,
    client: Ahead<impl Passable + AsyncRead + AsyncWrite + Send + Unpin + 'static>,
    ends: Ends,
    limits: &Limits,
    last_word: Option<Arc<LastWord>>,
    is_seen: bool,
) {
    let (begun, between) = (Notify::new(), Arc::<Between>::default());
    if !is_seen {
        begun.notify_one();
    }
    let is_plain = last_word.is_some();
    let requests = Requests::new(front.clone(), from, ends, last_word.unwrap_or_default());
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
        .serve_connection(TokioIo::new(Watched::new(client, between.clone())), service);
    // The first request is answered in any case.
    let stops = async {
        match is_plain {
            true => front.stop.cancelled().await,
            false => front.stops_or_leaves().await,
        }
        begun.notified().await;
    };
    let leaves = front.passes_on();
    tokio::pin!(stops, leaves);
    let mut stage = Stage::Serving;
    loop {
        tokio::select! {
            biased;
            () = &mut leaves, if is_plain && stage == Stage::Serving => {
                between.leave();
                stage = Stage::Leaving;
            }
            () = between.comes(), if stage == Stage::Leaving => break,
            // A connection's errors are its client's doing, and told to it.
            _ = &mut connection => {
                stage = Stage::Ended;
                break;
            }
            () = &mut stops, if stage != Stage::Stopping => {
                between.stay();
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                stage = Stage::Stopping;
            }
        }
    }
    let tunnel = requests.tunnel();
    if stage == Stage::Ended && tunnel.is_none() {
        return;
    }
    let Parts { io, read_buf, .. } = connection.into_parts();
    let (client, rest) = io.into_inner().into_inner().into_parts();
    let ahead = [&read_buf[..], &rest[..]].concat();
    if let Some(tunnel) = tunnel {
        // Boxed: other connections need no room for it.
        Box::pin(tunnel.carry(Ahead::of(&ahead, client))).await;
    } else if let Some(client) = client.into_plain() {
        front.pass_kept(from, client, &ahead);
    }
}

/// What a connection is served for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// To the moment when it can be passed on.
    Leaving,
    /// To the end of its request.
    Stopping,
    /// It is HTTP no more.
    Ended,
}
