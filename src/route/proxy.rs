//! Forwards the requests of a connection, each to the worker of its own session.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::access_log::Entry;
use super::affinity::Affinity;
use super::choose::{FORWARDED_FOR, Work, affinity_of};
use super::cookies::{issue_cookie, issue_host, knows_host};
use super::counts::{Own, Retry};
use super::download::{Download, Lease, Server};
use super::fields::{KEEP_ALIVE, identify, introduce, strip_hop_by_hop, words};
use super::forward::{self, Host};
use super::front::{Front, LongPoll, Settings};
use super::half_close::LastWord;
use super::head::{self, Session};
use super::idle::Lane;
use super::methods;
use super::peer::Caller;
use super::succession::{Arriving, Exchange};
use super::upgrade::{self, Tunnel, wants_websocket};
use super::upload::{Broken, Upload};
use crate::config::Sticky;
use crate::sync::lock;
use crate::worker::WorkerId;

/// A worker that dies with a request in hand takes at most this many tries.
pub(super) const MAX_TRIES: usize = 4;

/// How long the end of a worker that has failed may go unnoticed, when there is no other.
const NOTICED: Duration = Duration::from_millis(100);

/// How long a connection to a worker is kept when the worker does not say for how long it does.
const KEEP: Duration = Duration::from_secs(2);

/// What the requests of a connection have in common.
pub(super) struct Requests {
    pub(super) front: Arc<Front>,
    /// `None`: another host brings them, and says of each whose it is.
    caller: Option<Caller>,
    pub(super) last_word: Arc<LastWord>,
    /// Of the last chunked body, if it is not known yet whether it has ended without trailers.
    last_end: Mutex<Option<oneshot::Receiver<()>>>,
    /// What becomes of the connection when it is HTTP no more.
    tunnel: Mutex<Option<Tunnel>>,
    /// Of the first request, if it is not answered by then.
    tried: Mutex<Option<Tried>>,
}

/// Where a request without a body has been sent in vain, and why that was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tried {
    pub(super) worker: WorkerId,
    pub(super) why: Retry,
}

pub(super) type Answer = Response<Either<Download, Full<Bytes>>>;

impl Requests {
    /// Those of a client's connection, or of another host's; `last_word`: where the client's is heard;
    /// `tried`: where the first one has been sent already.
    pub(super) fn new(
        front: Arc<Front>,
        caller: Option<Caller>,
        last_word: Arc<LastWord>,
        tried: Option<Tried>,
    ) -> Requests {
        let (last_end, tunnel, tried) = (Mutex::default(), Mutex::default(), Mutex::new(tried));
        Requests { front, caller, last_word, last_end, tunnel, tried }
    }

    /// What has become of the connection, if it is HTTP no more.
    pub(super) fn tunnel(&self) -> Option<Tunnel> {
        lock(&self.tunnel).take()
    }

    /// Answers a request, unless one could argue about where it begins: hyper looks for the end of
    /// trailers where it doesn't look for their lines, and takes a request behind a bare LF for one
    /// of them. What comes after trailers is therefore not read.
    pub(super) async fn next(
        &self,
        request: Request<Incoming>,
        exchange: Exchange,
        arriving: Option<Arriving>,
    ) -> Result<Answer, Broken> {
        let last_end = self.last_end().take();
        if let Some(end) = last_end {
            let settings = self.front.settings();
            let ended = tokio::time::timeout(settings.limits.body_timeout, end).await;
            if !matches!(ended, Ok(Ok(()))) {
                return Err(Broken::Malformed);
            }
        }
        let unanswered = self.front.counts.unanswered();
        let mut answer = self.log(request, arriving).await;
        unanswered.answered();
        if let Either::Left(body) = answer.body_mut() {
            body.ends(exchange);
        }
        Ok(answer)
    }

    fn last_end(&self) -> MutexGuard<'_, Option<oneshot::Receiver<()>>> {
        lock(&self.last_end)
    }

    /// Whether this request's body had trailers, or did not come to its end.
    fn ends_in_doubt(&self) -> bool {
        let mut end = self.last_end();
        match end.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(())) => {
                *end = None;
                false
            }
            Some(Err(TryRecvError::Closed)) => true,
            Some(Err(TryRecvError::Empty)) | None => false,
        }
    }

    /// Names a request, if that is wanted, answers it, and sees to its line in the access log.
    async fn log(&self, mut request: Request<Incoming>, arriving: Option<Arriving>) -> Answer {
        let settings = self.front.settings();
        let Settings { route, access_log, .. } = &*settings;
        let told;
        let caller = match &self.caller {
            Some(caller) => caller,
            None => {
                told = forward::told(request.headers_mut(), self.front.places.len());
                &told
            }
        };
        if let Some(name) = &route.request_id {
            identify(request.headers_mut(), name, caller.peer);
        }
        let Some(log) = access_log else {
            return self.answer(&settings, caller, request, arriving).await;
        };
        let hops = request.headers().get_all(FORWARDED_FOR).into_iter().map(HeaderValue::as_bytes);
        let client = route.client(caller.peer.address.map(|address| address.ip()), hops);
        let mut entry = Entry::of(log.clone(), &request, client, route.request_id.as_ref());
        let mut response = self.answer(&settings, caller, request, arriving).await;
        let status = response.status();
        match response.body_mut() {
            Either::Left(body) => {
                entry.answered(status, body.worker(), body.host());
                body.log(entry);
            }
            Either::Right(text) => {
                entry.answered(status, None, None);
                entry.pass(text.size_hint().lower() as usize);
            }
        }
        response
    }

    async fn answer(
        &self,
        settings: &Settings,
        caller: &Caller,
        mut request: Request<Incoming>,
        arriving: Option<Arriving>,
    ) -> Answer {
        let Requests { front, .. } = self;
        let Caller { peer, .. } = caller;
        let begun = Instant::now();
        if front.hands_over && !methods::node_knows(request.method()) {
            return self.refuse(Own::Method, "Node knows no such method.");
        }
        if ambiguous(&request) {
            return self.refuse(Own::Ambiguous, "The request's head is ambiguous.");
        }
        let target = request.uri().path_and_query().map_or("", |t| t.as_str());
        let session = head::session(target);
        let version = head::engine_version(target);
        let affinity = affinity_of(&settings.route, *peer, request.headers());
        let host = settings.route.host_cookie.as_ref();
        let host = host.filter(|cookie| !knows_host(request.headers(), cookie));
        let upgrade = upgrade::wanted(&request);
        strip_hop_by_hop(request.headers_mut());
        if request.body().size_hint().exact().is_none() {
            // Without a word hyper takes a GET to have no body.
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
        }
        introduce(request.headers_mut(), *peer, settings.route.forwarded);
        if session == Session::Handshake {
            // The session is read from the response, so that must not be compressed; it is short.
            request.headers_mut().remove(header::ACCEPT_ENCODING);
        }
        if let Some(protocol) = &upgrade {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(header::UPGRADE, protocol.clone());
        }
        // A poll is in flight for as long as there is nothing to say. It is not worth waiting for.
        let is_session = matches!(session, Session::Of(_));
        let is_poll = is_session && upgrade.is_none() && request.method() == Method::GET;
        let (head, body) = request.into_parts();
        let is_chunked = body.size_hint().exact().is_none();
        let (end, ended) = is_chunked.then(oneshot::channel).unzip();
        *self.last_end() = ended;
        let body = match Upload::of(body, &settings.limits, end, arriving) {
            Ok(body) => body,
            Err(broken) => return self.refuse(broken.into(), &broken.to_string()),
        };
        let request = Request::from_parts(head, body);
        // What another host has brought it has looked for already.
        let is_brought = self.caller.is_none();
        let sent = match (front.locate(&session, !is_brought).await, &session) {
            // Boxed: other requests need no room for it.
            (Some(host), Session::Of(sid)) => {
                Box::pin(self.forward(caller, sid, host, request)).await
            }
            _ => tokio::select! {
                sent = self.send(caller, &session, affinity, is_poll, request) => sent,
                () = front.stop.cancelled(), if is_poll => Err(Failure::SessionEnds),
            },
        };
        match sent {
            Ok((mut response, lease)) => {
                match &lease.server {
                    Server::Worker { upstream, .. } => {
                        let took = (!is_poll).then(|| begun.elapsed());
                        upstream.answered(response.status(), took);
                    }
                    Server::Host(host) => host.answered(),
                }
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return match upgrade {
                        Some(_) => {
                            let tunnel = Tunnel::open(front, &mut response, lease);
                            *lock(&self.tunnel) = Some(tunnel);
                            let (head, _) = response.into_parts();
                            Response::from_parts(head, Either::Right(Full::default()))
                        }
                        None => self.refuse(Own::Switched, "The worker switched protocols."),
                    };
                }
                let keep = match &lease.server {
                    Server::Worker { .. } => keep_alive(response.headers()),
                    Server::Host(_) => forward::keep(response.headers()),
                };
                strip_hop_by_hop(response.headers_mut());
                // Another host has said where the client belongs.
                if let Server::Worker { upstream, .. } = &lease.server {
                    if let Sticky::Cookie(_) = settings.route.sticky {
                        issue_cookie(response.headers_mut(), affinity, upstream.worker.slot);
                    }
                    if let Some(host) = host {
                        issue_host(response.headers_mut(), host);
                    }
                    if let (true, Session::Of(sid)) = (is_brought, &session)
                        && front.worker_of(sid).is_none()
                    {
                        forward::disown(response.headers_mut());
                    }
                }
                let unread = response.status() == StatusCode::BAD_REQUEST && keep.is_none();
                if upgrade.is_some() || unread || self.ends_in_doubt() {
                    // What follows on the connection may not be meant as a request: the worker, too,
                    // reads no further.
                    let headers = response.headers_mut();
                    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                let (parts, body) = response.into_parts();
                let mut body = Download::new(body, Lease { keep, ..lease });
                if session == Session::Handshake && parts.status == StatusCode::OK {
                    body.learn_session(front).await;
                }
                Response::from_parts(parts, Either::Left(body))
            }
            Err(Failure::NoWorker) => {
                let mut response = self.refuse(Own::NoWorker, "No worker of this app is ready.");
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
                response
            }
            Err(Failure::SessionEnds) => {
                front.counts.own.count(Own::SessionEnds);
                end_of_session(version)
            }
            Err(Failure::Body(broken)) => self.refuse(broken.into(), &broken.to_string()),
            // To the worker it was gone.
            Err(Failure::Died) if self.last_word.is_said() => match self.last_word.leave().await {},
            Err(Failure::Died) => {
                self.refuse(Own::Died, "The worker ended before it had answered.")
            }
            Err(Failure::Host(host)) => {
                host.failed();
                self.refuse(Own::HostFailed, "The host of this session can't be reached.")
            }
        }
    }

    /// Answers ourselves.
    fn refuse(&self, own: Own, text: &str) -> Answer {
        self.front.counts.own.count(own);
        refusal(own.status(), text)
    }

    /// Sends a request to its worker, and to another one if the first dies and nothing can have come
    /// of it: it was not sent, or it has no body and may be repeated by its method. That is done once
    /// only, or a request that kills its worker would kill them all.
    async fn send(
        &self,
        caller: &Caller,
        session: &Session,
        affinity: Affinity,
        is_poll: bool,
        mut request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let Requests { front, .. } = self;
        let Caller { ends, listener, .. } = caller;
        let listener = *listener;
        let repeatable = request.body().is_end_stream() && request.method().is_idempotent();
        // What comes behind it is the tunnel's to carry.
        let is_upgrade = request.headers().contains_key(header::UPGRADE);
        let work = match session {
            Session::None if is_upgrade => Work::Lasting,
            Session::None if repeatable => Work::Repeatable,
            Session::None => Work::Once,
            Session::Handshake | Session::Of(_) => Work::Lasting,
        };
        let tried = lock(&self.tried).take();
        let mut repeated = tried.is_some_and(|tried| tried.why == Retry::Unanswered);
        let mut failed = tried.map(|tried| tried.worker);
        let mut again = tried.map(|tried| tried.why);
        if let Some(worker) = failed.filter(|_| repeated && affinity != Affinity::Anywhere) {
            failed = None;
            if let Some(upstream) = front.upstream(worker) {
                upstream.is_going(NOTICED).await;
            }
        }
        let poll = if is_poll { front.poll(session) } else { None };
        let ended = poll.as_ref().map(LongPoll::ended);
        let ended = async {
            match ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        for n in 0..MAX_TRIES {
            if is_poll && front.is_over(session) {
                return Err(Failure::SessionEnds);
            }
            let waiting = front.waits_for_a_worker();
            let upstream = front
                .choose(listener, session, affinity, work, failed)
                .await
                .ok_or(Failure::NoWorker)?;
            drop(waiting);
            if let Some(reason) = again {
                front.counts.retries.count(reason);
            }
            let id = upstream.worker.id;
            if failed.is_some_and(|failed| n > 1 || failed == id) {
                upstream.is_going(NOTICED).await;
            }
            let in_flight = upstream.begin();
            let lane = Lane { listener, client: ends.alone(&upstream.worker) };
            let waiting = (!repeated).then(|| upstream.waiting(lane, ends)).flatten();
            let connected = match waiting {
                Some(line) => Ok(line),
                None => {
                    let _needing = front.needs_a_worker().await;
                    let told = ends.for_worker(&upstream.worker);
                    upstream.connect_anew(listener, told, &front.pairs).await
                }
            };
            let Ok(mut line) = connected else {
                again = Some(Retry::Unreached);
                failed = Some(id);
                continue;
            };
            ends.tell(&upstream.worker, &mut line.told, request.headers_mut());
            let copy = (repeatable && !repeated).then(|| copy_of(&request));
            request.body_mut().goes_out(line.sending.begin());
            let under_way = (!is_upgrade).then(|| self.last_word.goes_to(&line.sending));
            let response = tokio::select! {
                response = line.sender.try_send_request(request) => response,
                () = upstream.gone.cancelled(), if is_poll => return Err(Failure::SessionEnds),
                () = &mut ended => return Err(Failure::SessionEnds),
            };
            match response {
                Ok(response) => {
                    let server = Server::Worker { upstream, lane, _in_flight: in_flight };
                    let lease = Lease { server, line, keep: None, _under_way: under_way };
                    return Ok((response, lease));
                }
                Err(mut error) => {
                    request = match (error.take_message(), Broken::behind(error.error())) {
                        (Some(unsent), _) => {
                            again = Some(Retry::Unsent);
                            unsent
                        }
                        (None, Some(broken)) => return Err(Failure::Body(broken)),
                        (None, None) => {
                            repeated = true;
                            again = Some(Retry::Unanswered);
                            let copy = copy.filter(|_| !self.last_word.is_said());
                            let copy = copy.ok_or(Failure::Died)?;
                            // Its end may not be noticed yet.
                            match affinity {
                                Affinity::Anywhere => failed = Some(id),
                                _ => upstream.is_going(NOTICED).await,
                            }
                            copy
                        }
                    };
                }
            }
        }
        Err(Failure::Died)
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
        (Some(host), None, None) => head::is_one_host(host.as_bytes()),
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

pub(super) enum Failure {
    NoWorker,
    /// The poll's worker is going, and its session with it.
    SessionEnds,
    Body(Broken),
    Died,
    /// The host of the session is not reached, or has ended.
    Host(Arc<Host>),
}

pub(super) fn copy_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::default());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// How long a connection to a worker is kept, by what that says. `None`: it closes it at once.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    if words(headers, header::CONNECTION).any(|w| w.eq_ignore_ascii_case("close")) {
        return None;
    }
    let said = words(headers, KEEP_ALIVE)
        .find_map(|word| word.strip_prefix("timeout=").and_then(|n| n.parse::<u64>().ok()));
    Some(kept_for(said))
}

/// How long a connection is kept whose worker says that it does for so many seconds: half of that, so
/// that a request is never sent on one that is just being closed.
pub(super) fn kept_for(said: Option<u64>) -> Duration {
    said.map_or(KEEP, |seconds| Duration::from_millis(seconds.saturating_mul(500)))
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

fn refusal(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Either::Right(Full::from(format!("{text}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status.is_client_error() {
        // What follows may be the rest of this request.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
