//! Accepts clients' connections, looks at how each begins, and chooses a worker.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{HeaderMap, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::error::Elapsed;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access_log::AccessLog;
use super::admission::{Admission, network_of};
use super::affinity::{self, Affinity};
use super::given::{Origin, Speaks};
use super::head::{self, Opening, Refusal, Session};
use super::pair::Pairs;
use super::peek::peek;
use super::peer::Peer;
use super::table::{Sessions, less_loaded, weighed};
use super::upstream::{ListenerId, Upstream};
use super::{handoff, proxy, proxy_protocol};
use crate::config::{Balance, Config, Deliver, Kind, Limits, Network, Protocol, Route, Sticky};
use crate::listen::{Client, Listener, Place};
use crate::worker::WorkerId;

/// A worker answers a client before it reports the new session: so long a request for an unknown
/// session may wait for the report.
const PARK: Duration = Duration::from_millis(250);

/// How many requests may wait like that; more are routed as if their session were unknown.
const MAX_PARKED: usize = 4096;

/// Where proxies say who their client is.
pub(super) const FORWARDED_FOR: &str = "x-forwarded-for";

/// A worker that is preferred gets no more than so many times its share of the load.
const MAX_SHARE: usize = 3;

/// How long a client that has been accepted may take to begin when no more are.
const LAST_CALL: Duration = Duration::from_secs(2);

/// After a refusal, how long and how much is still read so that the client gets to see it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// How often it is looked whether a drained worker still has connections that were handed over.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Out of descriptors or memory: how long until the next try. The kernel keeps the connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a worker is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A request that another worker could do again.
    Repeatable,
    /// One that must not be done twice: not for a worker on trial.
    Once,
    /// Something that stays with its worker: rather not for one that will soon be replaced, or the
    /// client would have to move twice.
    Lasting,
}

/// What a reload may change.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) route: Route,
    pub(super) limits: Limits,
    /// If there is one.
    pub(super) access_log: Option<Arc<AccessLog>>,
}

impl Settings {
    fn new(config: &Config, log: Option<Arc<AccessLog>>) -> Settings {
        Settings {
            route: config.route.clone(),
            limits: config.limits.clone(),
            access_log: config.access_log.then(|| log.unwrap_or_else(AccessLog::start)),
        }
    }
}

/// The front-end of one app.
#[derive(Debug)]
pub struct Front {
    places: Vec<Place>,
    /// The workers are Node's, and can be given connections.
    settings: Mutex<Arc<Settings>>,
    pub(super) hands_over: bool,
    pub(super) pairs: Pairs,
    workers: watch::Sender<Vec<Arc<Upstream>>>,
    sessions: Mutex<Sessions>,
    /// Requests that wait to hear of their session.
    parked: Mutex<HashMap<String, Arc<Notify>>>,
    /// Polls that wait to hear of their session's end.
    polls: Mutex<HashMap<String, Arc<Notify>>>,
    pub(super) next_disconnect: tokio::sync::Mutex<tokio::time::Instant>,
    turn: AtomicUsize,
    begun: Instant,
    admission: Admission,
    stop: CancellationToken,
    accepting: TaskTracker,
    connections: TaskTracker,
}

impl Front {
    /// A front-end that knows no worker yet, for listeners at these places.
    ///
    /// # Errors
    /// The private listener could not be opened.
    pub fn new(config: &Config, places: Vec<Place>) -> io::Result<Front> {
        Ok(Front {
            places,
            hands_over: config.kind == Kind::Node,
            settings: Mutex::new(Arc::new(Settings::new(config, None))),
            pairs: Pairs::new()?,
            workers: watch::Sender::default(),
            sessions: Mutex::default(),
            parked: Mutex::default(),
            polls: Mutex::default(),
            next_disconnect: tokio::sync::Mutex::new(tokio::time::Instant::now()),
            turn: AtomicUsize::new(0),
            begun: Instant::now(),
            admission: Admission::default(),
            stop: CancellationToken::new(),
            accepting: TaskTracker::new(),
            connections: TaskTracker::new(),
        })
    }

    /// Routes by other settings from now on.
    pub fn configure(&self, config: &Config) {
        let mut settings = lock(&self.settings);
        *settings = Arc::new(Settings::new(config, settings.access_log.clone()));
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        lock(&self.settings).clone()
    }

    /// The worker can be sent requests from now on.
    pub fn add(&self, upstream: Arc<Upstream>) {
        upstream.begin_to_serve();
        self.workers.send_modify(|workers| workers.push(upstream));
    }

    /// The worker can't be sent requests any more.
    pub fn remove(&self, id: WorkerId) {
        self.workers.send_modify(|workers| {
            workers.retain(|upstream| {
                let keep = upstream.worker.id != id;
                if !keep {
                    upstream.leave();
                }
                keep
            });
        });
    }

    /// A session has begun in a worker; `silence` is how long it may be without a request.
    pub fn session_opened(&self, sid: &str, worker: WorkerId, silence: Option<Duration>) {
        lock(&self.sessions).open(sid, worker, silence, self.begun.elapsed());
        if let Some(waiting) = lock(&self.parked).remove(sid) {
            waiting.notify_waiters();
        }
    }

    /// A worker says that a session of its own has ended.
    pub fn session_closed(&self, sid: &str, worker: WorkerId) {
        lock(&self.sessions).close(sid, worker);
        self.tell_of_less(worker);
    }

    /// How many sessions live in a worker.
    pub fn sessions_of(&self, worker: WorkerId) -> usize {
        lock(&self.sessions).count(worker)
    }

    /// The sessions that live in a worker.
    pub(super) fn sids_of(&self, worker: WorkerId) -> Vec<Box<str>> {
        lock(&self.sessions).of(worker)
    }

    /// A session is over as far as we are concerned: its poll, or else its next one, is answered
    /// with that.
    pub(super) fn end_session(&self, sid: &str, worker: WorkerId) {
        lock(&self.sessions).end(sid, worker);
        if let Some(poll) = lock(&self.polls).get(sid) {
            poll.notify_waiters();
        }
        self.tell_of_less(worker);
    }

    fn tell_of_less(&self, worker: WorkerId) {
        if let Some(upstream) = self.workers.borrow().iter().find(|u| u.worker.id == worker) {
            upstream.session_ended();
        }
    }

    /// A poll that waits, and hears of it when its session is ended.
    pub(super) fn poll<'a>(&'a self, session: &'a Session) -> Option<LongPoll<'a>> {
        let Session::Of(sid) = session else { return None };
        let ended = lock(&self.polls).entry(sid.clone()).or_default().clone();
        Some(LongPoll { front: self, sid, ended })
    }

    /// Ends when nothing is left in a worker that takes no new work: no request, no session, no
    /// connection that was handed over. Those of HTTP are taken back meanwhile.
    pub async fn left(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        loop {
            let less = upstream.less();
            let done = upstream.in_flight() == 0 && self.sessions_of(upstream.worker.id) == 0;
            let has_http = upstream.has_http();
            if !done && !has_http {
                less.await;
                continue;
            }
            let given = self.still_given(upstream).await;
            if done && given.is_empty() {
                return;
            }
            if has_http {
                self.take_back(upstream, given).await;
            }
            // Nobody tells when such a connection ends.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A connection whose second end can be given to a worker.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn open_pair(&self) -> io::Result<(TcpStream, OwnedFd)> {
        self.pairs.open().await
    }

    /// Accepts connections until [`Front::stop`]; then the socket is closed.
    pub fn accept(self: &Arc<Self>, id: ListenerId, listener: Listener) {
        self.accepting.spawn(self.clone().accept_from(id, listener));
    }

    async fn accept_from(self: Arc<Self>, id: ListenerId, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = std::future::poll_fn(|context| listener.poll_accept(context)) => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((client, address)) => {
                    let peer = Peer { address, trusted: self.trusts(address) };
                    let connection = self.clone().connection(id, client, peer);
                    self.connections.spawn(connection);
                }
                Err(e) if is_the_clients(&e) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts no more, and lets every connection end with the request it is at. Connections that
    /// were handed over are their workers'.
    pub fn stop(&self) {
        self.stop.cancel();
        self.accepting.close();
        self.connections.close();
    }

    /// Waits until every connection has ended, after [`Front::stop`], and every request on those
    /// that workers have.
    pub async fn drained(self: &Arc<Self>) {
        // One may have been accepted at the very moment of the stop.
        self.accepting.wait().await;
        self.connections.wait().await;
        let workers = self.workers.borrow().clone();
        for upstream in workers {
            upstream.listen_no_more();
            while upstream.has_http() {
                let mut given = self.still_given(&upstream).await;
                given.retain(|connection| matches!(connection.speaks, Speaks::Http(_)));
                if given.is_empty() {
                    break;
                }
                self.take_back(&upstream, given).await;
                self.connections.wait().await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Waits a moment until the access log is written, in the end.
    pub async fn flush_log(&self) {
        if let Some(log) = &self.settings().access_log {
            log.flush().await;
        }
    }

    /// How many connections are open here, handed-over ones not counted.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Ends when the front-end stops.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs something that counts as a connection.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(task);
    }

    /// Ends a moment after the front-end has stopped: a client that was accepted just before then
    /// is about to say what it wants.
    async fn last_call(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_CALL).await;
    }

    fn trusts(&self, address: Option<SocketAddr>) -> bool {
        match address {
            Some(address) => self.settings().route.trusted.iter().any(|n| n.contains(address.ip())),
            None => self.settings().route.trusted.contains(&Network::Loopback),
        }
    }

    async fn connection(self: Arc<Self>, listener: ListenerId, mut client: Client, peer: Peer) {
        let settings = self.settings();
        let Settings { route, limits, .. } = &*settings;
        let Some(peer) = self.introduced(&settings, &mut client, peer).await else { return };
        // A proxy has many clients.
        let one = peer.address.filter(|_| !peer.trusted).map(|address| address.ip());
        let Some(_place) = self.admission.admit(limits, one) else {
            if route.protocol == Protocol::Http {
                refuse(&mut client, "503 Service Unavailable").await;
            }
            return;
        };
        if route.protocol == Protocol::Tcp {
            let affinity = self.affinity(route, peer, |_| std::iter::empty());
            let session = &Session::None;
            return handoff::hand_over(&self, listener, client, session, affinity, Speaks::Other)
                .await;
        }
        let opening = self.in_time(limits.head_timeout, self.opening(&settings, &client, peer));
        match opening.await {
            Ok(Ok(opening)) => self.begin(&settings, listener, client, peer, opening).await,
            Ok(Err(_)) => {} // it went away
            Err(_late) => refuse(&mut client, Refusal::Late.status()).await,
        }
    }

    /// A connection that was taken back from a worker between two requests.
    pub(super) async fn next_request(
        self: Arc<Self>,
        listener: ListenerId,
        client: Client,
        peer: Peer,
    ) {
        let settings = self.settings();
        let stopped = self.stop.is_cancelled();
        let limit = if stopped { Duration::ZERO } else { settings.limits.idle };
        let opening = self.in_time(limit, self.opening(&settings, &client, peer));
        if let Ok(Ok(opening)) = opening.await {
            self.begin(&settings, listener, client, peer, opening).await;
        }
    }

    /// What a client wants first, and where that belongs.
    async fn opening(
        &self,
        Settings { route, limits, .. }: &Settings,
        client: &Client,
        peer: Peer,
    ) -> io::Result<(Opening, Affinity)> {
        let read = |bytes: &[u8]| match head::look(bytes, limits.head_size) {
            Opening::Partial => None,
            opening => Some((opening, self.affinity_of_head(route, peer, bytes))),
        };
        peek(client, limits.head_size, read).await
    }

    /// Serves a connection that begins so, or hands it over.
    async fn begin(
        self: &Arc<Self>,
        settings: &Settings,
        listener: ListenerId,
        mut client: Client,
        peer: Peer,
        (opening, affinity): (Opening, Affinity),
    ) {
        let (session, speaks) = match opening {
            // One that can't be handed over is tunnelled.
            Opening::Upgrade(session) if self.hands_over => (session, Speaks::WebSocket),
            Opening::Whole => (Session::None, Speaks::Other),
            Opening::Request(session) if self.hands_over_requests(&settings.route) => {
                (session, Speaks::Http(Some(Arc::new(Origin { listener, peer }))))
            }
            Opening::Request(_) | Opening::Upgrade(_) => {
                let limits = &settings.limits;
                return proxy::serve(self.clone(), listener, client, peer, limits, &self.stop)
                    .await;
            }
            Opening::Refused(refusal) => return refuse(&mut client, refusal.status()).await,
            Opening::Partial => return,
        };
        handoff::hand_over(self, listener, client, &session, affinity, speaks).await;
    }

    /// Where a connection came from that a worker has accepted itself.
    pub(super) fn origin_of(&self, client: &Client) -> Origin {
        let (address, local) = match client {
            Either::Left(stream) => (stream.peer_addr().ok(), stream.local_addr().ok()),
            Either::Right(_) => (None, None),
        };
        let at = |place: &Place| match (local, place.addr) {
            (Some(local), Some(addr)) => local.port() == addr.port(),
            (None, None) => true,
            _ => false,
        };
        let listener = ListenerId(self.places.iter().position(at).unwrap_or_default());
        Origin { listener, peer: Peer { address, trusted: self.trusts(address) } }
    }

    /// Whether requests go to their worker with their connection. Where @socket.io/sticky takes
    /// connections they don't: its sessions have to be told apart request by request.
    fn hands_over_requests(&self, route: &Route) -> bool {
        route.deliver != Deliver::Auto && !self.workers.borrow().iter().any(|u| u.is_sticky())
    }

    /// Who the client is, when a proxy has said it where it has to. `None`: it has not.
    async fn introduced(
        &self,
        settings: &Settings,
        client: &mut Client,
        proxy: Peer,
    ) -> Option<Peer> {
        static SAID: Once = Once::new();
        if !settings.route.proxy_protocol || !proxy.trusted {
            return Some(proxy);
        }
        match self.in_time(settings.limits.head_timeout, proxy_protocol::take(client)).await {
            Ok(Ok(Some(address))) => {
                Some(Peer { address: Some(address), trusted: self.trusts(Some(address)) })
            }
            Ok(Ok(None)) => Some(proxy),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Other => {
                SAID.call_once(|| {
                    tracing::warn!(proxy = ?proxy.address, "a connection of a trusted proxy was \
                        closed: it has no PROXY header, and [route] proxy_protocol is on (said \
                        once)");
                });
                None
            }
            Ok(Err(_)) | Err(_) => None, // it went away
        }
    }

    /// Waits for what a client has to say first, but not for ever.
    async fn in_time<T>(
        &self,
        limit: Duration,
        said: impl Future<Output = io::Result<T>>,
    ) -> Result<io::Result<T>, Elapsed> {
        tokio::select! {
            said = tokio::time::timeout(limit, said) => said,
            () = self.last_call() => Ok(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    /// Where a request belongs by what it brings along; `header` gives the values of one.
    fn affinity<'h, I: Iterator<Item = &'h [u8]> + Clone>(
        &self,
        route: &Route,
        peer: Peer,
        header: impl Fn(&str) -> I,
    ) -> Affinity {
        match &route.sticky {
            Sticky::Off | Sticky::Sessions => Affinity::Anywhere,
            Sticky::Cookie(name) => affinity::by_cookie(header("cookie"), name),
            Sticky::Header(name) => affinity::by(header(name).next()),
            Sticky::Address => {
                let address = route.client(peer.address.map(|a| a.ip()), header(FORWARDED_FOR));
                affinity::by(address.map(network_of).as_deref())
            }
        }
    }

    fn affinity_of_head(&self, route: &Route, peer: Peer, head: &[u8]) -> Affinity {
        self.affinity(route, peer, |name| head::values(head, name).into_iter())
    }

    /// Where a request belongs by its headers.
    pub(super) fn affinity_of(&self, headers: &HeaderMap, peer: Peer) -> Affinity {
        let values = |name: &str| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        self.affinity(&self.settings().route, peer, |name| {
            values(name).collect::<Vec<_>>().into_iter()
        })
    }

    /// Whether clients without a place get one by a cookie.
    pub(super) fn issues_cookies(&self) -> bool {
        matches!(self.settings().route.sticky, Sticky::Cookie(_))
    }

    /// The worker for a request: its session's, or that of the slot where it belongs, or else one by
    /// load. `None` when none is ready within `[route] queue`.
    pub(super) async fn choose(
        &self,
        listener: ListenerId,
        session: &Session,
        affinity: Affinity,
        work: Work,
    ) -> Option<Arc<Upstream>> {
        let settings = self.settings();
        if settings.route.sticky != Sticky::Off
            && let Session::Of(sid) = session
            && let Some(id) = self.session_worker(sid).await
            && let Some(upstream) = self.workers.borrow().iter().find(|u| u.worker.id == id)
        {
            return Some(upstream.clone());
        }
        let balance = settings.route.balance;
        if let Some(upstream) = self.pick(listener, balance, affinity, work) {
            return Some(upstream);
        }
        let mut changes = self.workers.subscribe();
        let waiting = async {
            loop {
                if let Some(upstream) = self.pick(listener, balance, affinity, work) {
                    return Some(upstream);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(settings.route.queue, waiting).await.ok().flatten()
    }

    /// Whether a session was ended, or one of a worker that is gone.
    pub(super) fn is_over(&self, session: &Session) -> bool {
        let Session::Of(sid) = session else { return false };
        let mut sessions = lock(&self.sessions);
        let worker = sessions.find(sid, self.begun.elapsed());
        if sessions.is_ended(sid) {
            return true;
        }
        drop(sessions);
        worker.is_some_and(|id| !self.workers.borrow().iter().any(|u| u.worker.id == id))
    }

    fn pick(
        &self,
        listener: ListenerId,
        balance: Balance,
        affinity: Affinity,
        work: Work,
    ) -> Option<Arc<Upstream>> {
        let workers = self.workers.borrow();
        let sessions = lock(&self.sessions);
        // A session may have a connection of its own.
        let load = |u: &Arc<Upstream>| u.in_flight() + sessions.count(u.worker.id).max(u.given());
        let mut candidates: Vec<&Arc<Upstream>> =
            workers.iter().filter(|u| u.takes_new(listener)).collect();
        // Who belongs somewhere does so with all of its requests.
        if work != Work::Repeatable || affinity != Affinity::Anywhere {
            prefer(&mut candidates, |u| !u.is_on_trial());
        }
        let slot = match affinity {
            Affinity::Anywhere => None,
            Affinity::Slot(slot) => Some(slot),
            Affinity::Key(key) => affinity::slot_of(key, candidates.iter().map(|u| u.worker.slot)),
        };
        if let Some(slot) = slot {
            prefer(&mut candidates, |u| u.worker.slot == slot);
            prefer(&mut candidates, |u| !u.is_to_go());
        } else if work == Work::Lasting {
            let most = MAX_SHARE * candidates.iter().map(|u| load(u)).sum::<usize>();
            let n = candidates.len();
            prefer(&mut candidates, |u| !u.is_to_go() && load(u) * n <= most);
        }
        let n = candidates.len();
        let at = match balance {
            Balance::RoundRobin => (n > 0).then(|| self.turn.fetch_add(1, Ordering::Relaxed) % n),
            Balance::LeastLoaded => less_loaded(n, fastrand::u64(..), |at| {
                weighed(load(candidates[at]), candidates[at].started())
            }),
        };
        Some(candidates[at?].clone())
    }

    /// The worker of a session; waits a moment for one that nobody has reported yet.
    async fn session_worker(&self, sid: &str) -> Option<WorkerId> {
        let find = || lock(&self.sessions).find(sid, self.begun.elapsed());
        if let Some(id) = find() {
            return Some(id);
        }
        let waiting = {
            let mut parked = lock(&self.parked);
            if parked.len() >= MAX_PARKED {
                return None;
            }
            parked.entry(sid.to_owned()).or_default().clone()
        };
        let notified = waiting.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        // It may have been reported since the first look.
        let id = find();
        if id.is_some() {
            return id;
        }
        let _ = tokio::time::timeout(PARK, notified).await;
        lock(&self.parked).remove(sid);
        find()
    }
}

/// Keeps those of which it is so, unless that leaves none.
fn prefer(candidates: &mut Vec<&Arc<Upstream>>, is_so: impl Fn(&Arc<Upstream>) -> bool) {
    if candidates.iter().any(|u| is_so(u)) {
        candidates.retain(|u| is_so(u));
    }
}

/// A poll that is in flight.
#[derive(Debug)]
pub(super) struct LongPoll<'a> {
    front: &'a Front,
    sid: &'a str,
    ended: Arc<Notify>,
}

impl LongPoll<'_> {
    /// Ends when its session is ended after this was called.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }
}

impl Drop for LongPoll<'_> {
    fn drop(&mut self) {
        let mut polls = lock(&self.front.polls);
        // The map's, and ours: no other poll of the session.
        if polls.get(self.sid).is_some_and(|ended| Arc::strong_count(ended) <= 2) {
            polls.remove(self.sid);
        }
    }
}

/// Errors of one connection that was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Says why, and reads on for a moment: closing on unread bytes would take the answer back.
pub(super) async fn refuse(client: &mut Client, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let said = async {
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await?;
        let mut ignored = vec![0; 16 << 10];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match client.read(&mut ignored).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(LINGER, said).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
