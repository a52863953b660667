//! Forwards the requests of a connection, each to the worker of its own session.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::affinity::{Affinity, COOKIE};
use super::front::{Front, LongPoll, Peer, Work};
use super::head::{self, MAX_HEADERS, Session};
use super::tunnel;
use super::upload::Upload;
use super::upstream::{InFlight, ListenerId, Upstream};
use crate::config::Limits;
use crate::listen::Client;

/// A worker that dies with a request in hand takes at most this many tries.
const MAX_TRIES: usize = 4;

/// How long a connection to a worker is kept when the worker does not say for how long it does.
const KEEP: Duration = Duration::from_secs(2);

/// Serves a client's connection until it ends, or to the end of its request when `stop` comes.
pub(super) async fn serve(
    front: Arc<Front>,
    listener: ListenerId,
    client: Client,
    peer: Peer,
    limits: &Limits,
    stop: &CancellationToken,
) {
    let begun = CancellationToken::new();
    let service = service_fn(|request| {
        begun.cancel();
        let front = front.clone();
        async move { Ok::<_, Infallible>(answer(&front, listener, peer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(limits.head_size.max(8192))
        .max_headers(MAX_HEADERS)
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades();
    tokio::pin!(connection);
    // Its first request has been seen in the kernel: that one is answered in any case.
    let stopped = async { tokio::join!(stop.cancelled(), begun.cancelled()) };
    // A connection's errors are its client's doing, and told to it.
    tokio::select! {
        _ = &mut connection => return,
        _ = stopped => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

type Answer = Response<Either<Forwarded, Full<Bytes>>>;

async fn answer(
    front: &Arc<Front>,
    listener: ListenerId,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Answer {
    if ambiguous(&request) {
        return refusal(StatusCode::BAD_REQUEST, "The request's head is ambiguous.");
    }
    let target = request.uri().path_and_query().map_or("", |t| t.as_str());
    let session = head::session(target);
    let version = head::engine_version(target);
    let affinity = front.affinity_of(request.headers(), peer);
    let upgrade = take_upgrade(&mut request);
    strip_hop_by_hop(request.headers_mut());
    if request.body().size_hint().exact().is_none() {
        // Without a word hyper takes a GET to have no body.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
    }
    forwarded(request.headers_mut(), peer);
    if session == Session::Handshake {
        // The session is read from the response, so that must not be compressed; it is short.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    if let Some(upgrade) = &upgrade {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(header::UPGRADE, upgrade.protocol.clone());
    }
    // A poll is in flight for as long as there is nothing to say. It is not worth waiting for.
    let is_session = matches!(session, Session::Of(_));
    let is_poll = is_session && upgrade.is_none() && request.method() == Method::GET;
    let stop = front.stopping();
    let sent = tokio::select! {
        sent = send(front, listener, &session, affinity, is_poll, request) => sent,
        () = stop.cancelled(), if is_poll => Err(Failure::SessionEnds),
    };
    match sent {
        Ok((mut response, lease)) => {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return match upgrade {
                    Some(upgrade) => open_tunnel(front, response, upgrade, lease),
                    None => refusal(StatusCode::BAD_GATEWAY, "The worker switched protocols."),
                };
            }
            let keep = keep_alive(response.headers());
            strip_hop_by_hop(response.headers_mut());
            if front.issues_cookies() {
                issue_cookie(response.headers_mut(), affinity, lease.upstream.worker.slot);
            }
            let unread = response.status() == StatusCode::BAD_REQUEST && keep.is_none();
            if upgrade.is_some() || unread {
                // What follows on the connection may not be meant as a request: the worker, too,
                // reads no further.
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let (parts, body) = response.into_parts();
            let lease = Some(Lease { keep, ..lease });
            let mut body = Forwarded { first: None, inner: body, ended: false, lease };
            if session == Session::Handshake && parts.status == StatusCode::OK {
                body.learn_session(front).await;
            }
            Response::from_parts(parts, Either::Left(body))
        }
        Err(Failure::NoWorker) => {
            let mut response =
                refusal(StatusCode::SERVICE_UNAVAILABLE, "No worker of this app is ready.");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            response
        }
        Err(Failure::SessionEnds) => end_of_session(version),
        Err(Failure::BadBody) => {
            refusal(StatusCode::BAD_REQUEST, "The request's body breaks off or is malformed.")
        }
        Err(Failure::Died) => {
            refusal(StatusCode::BAD_GATEWAY, "The worker ended before it had answered.")
        }
    }
}

/// A request that Node and some proxy before us could read differently. hyper has refused
/// differing lengths, unknown codings and malformed fields; beside a coding it has removed the
/// length, and closes after the response.
fn ambiguous(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let one_host = match (hosts.next(), hosts.next(), request.uri().authority()) {
        (Some(host), None, Some(target)) => {
            host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes())
        }
        (Some(_), None, None) => true,
        (None, _, _) => request.version() == Version::HTTP_10,
        (Some(_), Some(_), _) => false,
    };
    let one_coding = headers.get_all(header::TRANSFER_ENCODING).iter().count() <= 1
        && headers
            .get(header::TRANSFER_ENCODING)
            .is_none_or(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
    // What follows such a head is a body for one and frames for the other.
    let upgrade_with_body = wants_websocket(request) && !request.body().is_end_stream();
    !one_host || !one_coding || upgrade_with_body || request.method() == Method::CONNECT
}

enum Failure {
    NoWorker,
    /// The poll's worker is going, and its session with it.
    SessionEnds,
    /// The client's doing.
    BadBody,
    Died,
}

/// Sends a request to its worker, and to another one if the first dies and nothing can have come
/// of it: it was not sent, or it has no body and may be repeated by its method. That is done once
/// only, or a request that kills its worker would kill them all.
async fn send(
    front: &Front,
    listener: ListenerId,
    session: &Session,
    affinity: Affinity,
    is_poll: bool,
    request: Request<Incoming>,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let repeatable = request.body().is_end_stream() && request.method().is_idempotent();
    let work = match session {
        Session::None if request.headers().contains_key(header::UPGRADE) => Work::Lasting,
        Session::None if repeatable => Work::Repeatable,
        Session::None => Work::Once,
        Session::Handshake | Session::Of(_) => Work::Lasting,
    };
    let mut repeated = false;
    let mut request = request.map(Upload::from);
    let poll = if is_poll { front.poll(session) } else { None };
    let ended = poll.as_ref().map(LongPoll::ended);
    let ended = async {
        match ended {
            Some(ended) => ended.await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(ended);
    for _ in 0..MAX_TRIES {
        if is_poll && front.is_over(session) {
            return Err(Failure::SessionEnds);
        }
        let upstream =
            front.choose(listener, session, affinity, work).await.ok_or(Failure::NoWorker)?;
        let in_flight = upstream.begin();
        let connected = if repeated {
            upstream.connect_anew(listener, &front.pairs).await
        } else {
            upstream.connect(listener, &front.pairs).await
        };
        let Ok(mut sender) = connected else {
            // It is going: its end is noticed in a moment.
            tokio::task::yield_now().await;
            continue;
        };
        let copy = (repeatable && !repeated).then(|| copy_of(&request));
        let gone = upstream.gone();
        let response = tokio::select! {
            response = sender.try_send_request(request) => response,
            () = gone.cancelled(), if is_poll => return Err(Failure::SessionEnds),
            () = &mut ended => return Err(Failure::SessionEnds),
        };
        match response {
            Ok(response) => {
                let lease = Lease { upstream, listener, sender, keep: None, _in_flight: in_flight };
                return Ok((response, lease));
            }
            Err(mut error) => {
                request = match error.take_message() {
                    Some(unsent) => unsent,
                    None if error.error().is_user() => return Err(Failure::BadBody),
                    None => {
                        repeated = true;
                        copy.ok_or(Failure::Died)?
                    }
                };
            }
        }
    }
    Err(Failure::Died)
}

fn copy_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::default());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// A connection to a worker, in use for one request.
#[derive(Debug)]
struct Lease {
    upstream: Arc<Upstream>,
    listener: ListenerId,
    sender: SendRequest<Upload>,
    /// How long it may wait for another; `None`: the worker closes it.
    keep: Option<Duration>,
    _in_flight: InFlight,
}

/// A response's body on its way to the client. When it has been read to its end, the connection
/// that it came on is free again; when the client goes before, that connection is closed.
#[derive(Debug)]
pub(super) struct Forwarded {
    first: Option<Frame<Bytes>>,
    inner: Incoming,
    ended: bool,
    lease: Option<Lease>,
}

impl Forwarded {
    /// Reads the beginning of a handshake's response, so that its session is known before the
    /// client can use it.
    async fn learn_session(&mut self, front: &Front) {
        let Some(Ok(frame)) = self.inner.frame().await else { return };
        if let (Some(data), Some(lease)) = (frame.data_ref(), &self.lease)
            && let Some(handshake) = head::handshake(data)
        {
            let silence = handshake.silence.map(Duration::from_millis);
            front.session_opened(handshake.sid, lease.upstream.worker.id, silence);
        }
        self.first = Some(frame);
    }
}

impl Body for Forwarded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(frame) = self.first.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
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

impl Drop for Forwarded {
    fn drop(&mut self) {
        if (self.ended || self.inner.is_end_stream())
            && let Some(Lease { upstream, listener, sender, keep: Some(keep), .. }) =
                self.lease.take()
        {
            upstream.keep(listener, sender, keep);
        }
    }
}

/// A client's wish to change protocols, and its connection once the worker has agreed.
struct Upgrade {
    protocol: HeaderValue,
    connection: hyper::upgrade::OnUpgrade,
}

fn take_upgrade(request: &mut Request<Incoming>) -> Option<Upgrade> {
    if !wants_websocket(request) {
        return None;
    }
    let protocol = request.headers().get(header::UPGRADE)?.clone();
    Some(Upgrade { protocol, connection: hyper::upgrade::on(request) })
}

fn wants_websocket(request: &Request<Incoming>) -> bool {
    let lists =
        |name, word| words(request.headers(), name).any(|w: &str| w.eq_ignore_ascii_case(word));
    request.method() == Method::GET
        && lists(header::CONNECTION, "upgrade")
        && lists(header::UPGRADE, "websocket")
}

/// Carries bytes both ways between the client and the worker that both speak something else now.
fn open_tunnel(
    front: &Front,
    mut response: Response<Incoming>,
    upgrade: Upgrade,
    lease: Lease,
) -> Answer {
    let worker = hyper::upgrade::on(&mut response);
    let stop = front.stopping();
    let close = lease.upstream.open_tunnel();
    front.spawn(async move {
        let Ok((client, worker)) = tokio::try_join!(upgrade.connection, worker) else { return };
        tokio::select! {
            () = tunnel::carry(TokioIo::new(client), TokioIo::new(worker), &close) => {}
            // Like a handed-over connection, it ends with its worker, which is stopped after us.
            () = stop.cancelled() => {}
        }
        drop(lease);
    });
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, Either::Right(Full::default()))
}

/// How long a worker keeps the connection: half of what it says, so that a request is never sent
/// to one that is just being closed. `None`: it closes at once.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    if words(headers, header::CONNECTION).any(|w| w.eq_ignore_ascii_case("close")) {
        return None;
    }
    let said = words(headers, HeaderName::from_static("keep-alive"))
        .find_map(|word| word.strip_prefix("timeout=").and_then(|n| n.parse::<u64>().ok()));
    Some(said.map_or(KEEP, |seconds| Duration::from_millis(seconds.saturating_mul(500))))
}

/// Tells a client without a place, or with one that is no more, where it belongs.
fn issue_cookie(headers: &mut HeaderMap, affinity: Affinity, slot: usize) {
    let is_right = match affinity {
        Affinity::Anywhere => false,
        Affinity::Slot(claimed) => claimed == slot,
        Affinity::Key(_) => true, // it finds the same place again
    };
    if !is_right {
        let cookie = format!("{COOKIE}={slot}; Path=/; HttpOnly; SameSite=Lax");
        let cookie = HeaderValue::try_from(cookie).expect("a number is a header's text");
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// The words of a header that is a list.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes what is said to us and not to the other end (RFC 9110, section 7.6.1).
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        words(headers, header::CONNECTION).filter_map(|word| word.parse().ok()).collect();
    for name in named {
        // Framing is ours to decide by what was received, whatever `Connection` claims.
        if name != header::CONTENT_LENGTH && name != header::HOST {
            headers.remove(name);
        }
    }
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

/// Says who the client is. A trusted proxy has said it already, and is not added as a hop; what
/// anyone else says about itself is not passed on.
fn forwarded(headers: &mut HeaderMap, peer: Peer) {
    if peer.trusted {
        return;
    }
    for name in [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
    ] {
        headers.remove(name);
    }
    if let Some(address) = peer.address
        && let Ok(value) = HeaderValue::try_from(address.ip().to_canonical().to_string())
    {
        headers.insert("x-forwarded-for", value);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert("x-forwarded-host", host);
    }
}

/// What Engine.IO itself answers a poll with when it closes a session: the client ends it and
/// connects anew.
fn end_of_session(version: u8) -> Answer {
    let packet = if version == 3 { "1:1" } else { "1" };
    let mut response = Response::new(Either::Right(Full::from(packet)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Either::Right(Full::from(format!("{text}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::BAD_REQUEST {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
