//! A worker as the front-end sees it: how to reach it, how busy it is, and the connections to it
//! that wait for their next request.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::counts::SlotCounts;
use super::given::{Connection, Given, Speaks};
use super::half_close::{Sending, ToWorker};
use super::head::MAX_HEADERS;
use super::idle::{Idle, Lane};
use super::pair::{self, Pairs};
use super::peer::{Ends, Told};
use super::plain::Bare;
use super::succession::Successor;
use super::upload::Upload;
use crate::sync::lock;
use crate::worker::Worker;
use crate::worker::held::Place;

/// How long a fresh worker is spared, in seconds: its code is not compiled yet.
const SLOW_START: f64 = 10.0;

/// How often, and how long apart, a worker with a full queue is tried.
const CONNECT_TRIES: usize = 100;
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Which of the app's listening sockets, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub usize);

/// How connections get into a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Door {
    /// To its server, known by this key.
    Server(String),
    /// To @socket.io/sticky, which serves whatever nothing else listens on.
    Sticky,
    /// To what we have loaded into it, for the server that listens itself at this port or path.
    Shared(String),
    /// To its private socket. Nothing can be handed over there.
    Private(PathBuf),
}

/// How connections get into a worker, as a successor is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    /// By listener: the key of its server.
    #[serde(default)]
    servers: BTreeMap<usize, String>,
    /// By @socket.io/sticky.
    #[serde(default)]
    sticky: bool,
    /// It accepts itself at this port or path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<String>,
    /// By its private socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private: Option<PathBuf>,
}

/// A worker that requests can be sent to.
#[derive(Debug)]
pub struct Upstream {
    /// The worker.
    pub worker: Arc<Worker>,
    /// What it does is counted here, together with what the others of its slot did.
    pub counts: Arc<SlotCounts>,
    requests: AtomicU64,
    pub(super) servers: Mutex<HashMap<ListenerId, String>>,
    sticky: AtomicBool,
    private: OnceLock<PathBuf>,
    /// Where it listens itself: a port or path.
    pub(super) shared: OnceLock<String>,
    in_flight: AtomicUsize,
    idle: Mutex<Idle<Line>>,
    /// Those of plain requests.
    bare: Mutex<Idle<Bare>>,
    /// New work goes elsewhere.
    draining: AtomicBool,
    /// It may yet turn out to be broken.
    on_trial: AtomicBool,
    /// When it began to serve.
    since: OnceLock<Instant>,
    /// It will soon be replaced.
    to_go: AtomicBool,
    pub(super) given: Mutex<Given>,
    /// Held while connections are taken back.
    pub(super) taking_back: tokio::sync::Mutex<()>,
    tunnels: Mutex<Vec<Weak<CancellationToken>>>,
    /// Something has come to its end.
    less: Notify,
    /// It can't be sent to any more.
    pub(super) gone: CancellationToken,
    /// Who has its IPC, and is told what is in flight here.
    successor: OnceLock<Arc<Successor>>,
}

/// Our end of a connection to a worker.
pub(super) type Stream = Either<UnixStream, TcpStream>;

/// A connection to a worker that hyper speaks on, for one request at a time.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) sender: SendRequest<Upload>,
    pub(super) told: Told,
    pub(super) sending: Arc<Sending>,
}

/// One request on its way, or one connection being handed over.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Upstream>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.tell(before - 1);
        self.0.less.notify_waiters();
    }
}

impl Upstream {
    /// A worker nothing is known of yet but that it runs.
    pub fn new(worker: Arc<Worker>, counts: Arc<SlotCounts>) -> Upstream {
        Upstream {
            worker,
            counts,
            requests: AtomicU64::new(0),
            servers: Mutex::default(),
            sticky: AtomicBool::new(false),
            private: OnceLock::new(),
            shared: OnceLock::new(),
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            bare: Mutex::default(),
            draining: AtomicBool::new(false),
            on_trial: AtomicBool::new(false),
            since: OnceLock::new(),
            to_go: AtomicBool::new(false),
            given: Mutex::default(),
            taking_back: tokio::sync::Mutex::default(),
            tunnels: Mutex::default(),
            less: Notify::new(),
            gone: CancellationToken::new(),
            successor: OnceLock::new(),
        }
    }

    /// Only what belongs to sessions of its own is still sent to it.
    pub fn close_to_new(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.listen_no_more();
    }

    /// It accepts nothing more itself.
    pub(super) fn listen_no_more(&self) {
        if let Some(at) = self.shared.get() {
            self.worker.leave(at);
        }
    }

    /// The worker listens itself at this port or path.
    pub fn listens_itself(&self, at: String) {
        self.shared.get_or_init(|| at);
    }

    /// While a worker is on trial it gets only what another could do again in its place; while it
    /// is to go it gets no sessions if others can take them.
    pub fn set_standing(&self, on_trial: bool, to_go: bool) {
        self.on_trial.store(on_trial, Ordering::Relaxed);
        self.to_go.store(to_go, Ordering::Relaxed);
    }

    pub(super) fn is_to_go(&self) -> bool {
        self.to_go.load(Ordering::Relaxed)
    }

    /// Whether it is.
    pub fn is_on_trial(&self) -> bool {
        self.on_trial.load(Ordering::Relaxed)
    }

    /// Whether it takes new work.
    pub(super) fn is_open(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }

    /// Whether it takes new work for this listener.
    pub(super) fn takes_new(&self, listener: ListenerId) -> bool {
        self.is_open() && self.serves(listener)
    }

    /// It serves from now on.
    pub(super) fn begin_to_serve(&self) {
        self.since.get_or_init(Instant::now);
    }

    /// How much of its slow start is over, from 0 to 1.
    pub(super) fn started(&self) -> f64 {
        self.since.get().map_or(0.0, |since| since.elapsed().as_secs_f64() / SLOW_START).min(1.0)
    }

    /// Ends when the worker can't be sent to any more, or after `limit`: the end of one that can't be
    /// reached is noticed in a moment, but it may refuse for other reasons.
    pub(super) async fn is_going(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.gone.cancelled()).await;
    }

    /// It has answered a request, for whose head that took so long, if that says something.
    pub(super) fn answered(&self, status: StatusCode, took: Option<Duration>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.counts.answers.count(status.into());
        if let Some(took) = took {
            self.counts.durations.observe(took);
        }
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How connections get into it.
    pub fn doors(&self) -> Doors {
        let servers = lock(&self.servers);
        Doors {
            servers: servers.iter().map(|(listener, key)| (listener.0, key.clone())).collect(),
            sticky: self.is_sticky(),
            shared: self.shared.get().cloned(),
            private: self.private.get().cloned(),
        }
    }

    /// So connections get into it, which a predecessor knew.
    pub fn open_doors(&self, doors: Doors) {
        let servers = doors.servers.into_iter().map(|(at, key)| (ListenerId(at), key));
        lock(&self.servers).extend(servers);
        self.sticky.store(doors.sticky, Ordering::Relaxed);
        doors.shared.into_iter().for_each(|at| self.listens_itself(at));
        doors.private.into_iter().for_each(|path| self.open_private(path));
    }

    /// A client's connection was handed over for good.
    pub(super) fn given_away(self: &Arc<Self>, inode: u64, speaks: Speaks) {
        self.counts.handed_over.count((&speaks).into());
        self.has(inode, speaks);
    }

    /// It has this connection of a client's.
    pub(super) fn has(self: &Arc<Self>, inode: u64, speaks: Speaks) {
        lock(&self.given).add(inode, speaks, Instant::now());
    }

    pub(super) fn given_by_inode(&self) -> Vec<(u64, Speaks)> {
        lock(&self.given).all()
    }

    /// How many such connections it has at most.
    pub(super) fn given(&self) -> usize {
        lock(&self.given).len()
    }

    /// Whether it may have some that can be taken back.
    pub(super) fn has_http(&self) -> bool {
        self.shared.get().is_some() || lock(&self.given).has_http()
    }

    /// The connections that it has accepted itself. `None`: it does not say which those are.
    pub(super) async fn accepted(&self) -> Option<Vec<Connection>> {
        let Some(at) = self.shared.get() else { return Some(Vec::new()) };
        let accepted = self.worker.connections(at).await?;
        let accepted = accepted
            .into_iter()
            .filter_map(|(spoken, descriptor)| {
                let (inode, place) = self.worker.socket(descriptor)?;
                Some(Connection { inode, speaks: spoken.into(), place })
            })
            .collect();
        Some(accepted)
    }

    /// Those of the connections that it was given which it still has. Takes a moment when there
    /// are many.
    pub(super) fn look(&self) -> Vec<Connection> {
        let began = Instant::now();
        let (known, sockets) = self.sees();
        lock(&self.given).looked(&known, &sockets, began)
    }

    /// What is known of them, and all sockets that it has open.
    pub(super) fn sees(&self) -> (Vec<u64>, HashMap<u64, Place>) {
        let known = lock(&self.given).known(self.yet_to_take());
        (known, self.worker.sockets())
    }

    /// A tunnel to the worker; its end can be asked for, and is when it is dropped.
    pub(super) fn open_tunnel(&self) -> Arc<CancellationToken> {
        let tunnel = Arc::new(CancellationToken::new());
        let mut tunnels = lock(&self.tunnels);
        if tunnels.len() == tunnels.capacity() {
            tunnels.retain(|other| other.strong_count() > 0);
        }
        tunnels.push(Arc::downgrade(&tunnel));
        tunnel
    }

    /// The tunnels that are open.
    pub(super) fn tunnels(&self) -> Vec<Arc<CancellationToken>> {
        lock(&self.tunnels).iter().filter_map(Weak::upgrade).collect()
    }

    /// Wakes up when a request or a session has ended since this was called.
    pub(super) fn less(&self) -> impl Future<Output = ()> {
        self.less.notified()
    }

    pub(super) fn session_ended(&self) {
        self.less.notify_waiters();
    }

    /// The worker has a server for the first of these listeners, and for those of the others that
    /// have none of their own.
    pub fn open_server(&self, listeners: &[ListenerId], key: &str) {
        let mut servers = lock(&self.servers);
        for (at, listener) in listeners.iter().enumerate() {
            if at == 0 || !servers.contains_key(listener) {
                servers.insert(*listener, key.to_owned());
            }
        }
    }

    /// The worker has closed its server. What it was only told to listen no more with still takes
    /// what it is given.
    pub fn close_server(&self, key: &str) {
        if self.shared.get().is_none() || self.is_open() {
            lock(&self.servers).retain(|_, other| other != key);
        }
    }

    /// The worker takes connections by @socket.io/sticky.
    pub fn open_sticky(&self) {
        self.sticky.store(true, Ordering::Relaxed);
    }

    /// Whether it takes connections so only.
    pub(super) fn is_sticky(&self) -> bool {
        self.sticky.load(Ordering::Relaxed)
    }

    /// The worker takes connections at its private socket.
    pub fn open_private(&self, path: PathBuf) {
        self.private.get_or_init(|| path);
    }

    /// Whether the worker can serve this listener.
    pub fn serves(&self, listener: ListenerId) -> bool {
        self.private.get().is_some()
            || self.is_sticky()
            || lock(&self.servers).contains_key(&listener)
    }

    fn door(&self, listener: ListenerId) -> Option<Door> {
        if let Some(path) = self.private.get() {
            return Some(Door::Private(path.clone()));
        }
        if let (Some(at), true) = (self.shared.get(), lock(&self.servers).contains_key(&listener)) {
            return Some(Door::Shared(at.clone()));
        }
        let server = lock(&self.servers).get(&listener).cloned().map(Door::Server);
        server.or_else(|| self.is_sticky().then_some(Door::Sticky))
    }

    /// Requests in flight and connections being handed over.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.tell(before + 1);
        InFlight(self.clone())
    }

    /// This one has its IPC from now on.
    pub(super) fn is_counted_by(&self, successor: Arc<Successor>) {
        let _ = self.successor.set(successor); // there is one at most
    }

    fn tell(&self, in_flight: usize) {
        if let Some(successor) = self.successor.get() {
            successor.count(self.worker.id, in_flight);
        }
    }

    /// Hands a connection over; `peer` is what the worker shall take for its ends.
    ///
    /// # Errors
    /// The connection, when the worker did not take it.
    pub(super) async fn hand_over(
        &self,
        listener: ListenerId,
        fd: OwnedFd,
        peer: Option<&str>,
    ) -> Result<(), OwnedFd> {
        match self.door(listener) {
            Some(Door::Server(key)) => self.worker.give_to_server(&key, fd, peer).await,
            Some(Door::Sticky) => self.worker.give_to_sticky(fd, peer).await,
            Some(Door::Shared(at)) => self.worker.give_to_hook(&at, fd, peer).await,
            Some(Door::Private(_)) | None => Err(fd),
        }
    }

    /// A connection to its private socket, if it has one: for what can't be handed over.
    pub(super) async fn connect_private(&self) -> Option<io::Result<UnixStream>> {
        Some(connect(self.private.get()?).await)
    }

    /// A connection to the worker that waits for its next request.
    pub(super) fn waiting(&self, lane: Lane, ends: &Ends) -> Option<Line> {
        // One that is not ready still carries a body that its response did not wait for: nobody
        // else's request may wait for that.
        let is_ready = |line: &Line| line.sender.is_ready() && !line.sender.is_closed();
        let is_right = |line: &Line| ends.are(&line.told);
        lock(&self.idle).take(lane, Instant::now(), is_ready, is_right)
    }

    /// One for plain requests.
    pub(super) fn waiting_bare(&self, lane: Lane, ends: &Ends, now: Instant) -> Option<Bare> {
        lock(&self.bare).take(lane, now, Bare::is_open, |line| ends.are(&line.told))
    }

    /// A new connection to the worker: having it means that the worker is still there.
    pub(super) async fn connect_anew(
        &self,
        listener: ListenerId,
        told: Told,
        pairs: &Pairs,
    ) -> io::Result<Line> {
        let (stream, told) = self.open(listener, told, pairs).await?;
        speak(stream, told).await
    }

    /// The same, before anything is spoken, and whose the worker takes it for.
    pub(super) async fn open(
        &self,
        listener: ListenerId,
        told: Told,
        pairs: &Pairs,
    ) -> io::Result<(Stream, Told)> {
        if let Some(connected) = self.connect_private().await {
            return Ok((Either::Left(connected?), None));
        }
        let (ours, theirs) = match told {
            Some(_) => pair::unix().map(|(ours, theirs)| (Either::Left(ours), theirs))?,
            None => pairs.open().await.map(|(ours, theirs)| (Either::Right(ours), theirs))?,
        };
        if !self.take_private(listener, theirs, told.as_deref()).await {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok((ours, told))
    }

    /// Hands over the other end of a connection of ours. Whether the worker has taken it.
    pub(super) async fn take_private(
        &self,
        listener: ListenerId,
        theirs: OwnedFd,
        told: Option<&str>,
    ) -> bool {
        match self.successor.get() {
            Some(successor) => successor.hand_over(self.worker.id, listener, theirs, told).await,
            None => self.hand_over(listener, theirs, told).await.is_ok(),
        }
    }

    /// Keeps a connection for the next request, for as long as the worker surely does.
    pub(super) fn keep(&self, lane: Lane, line: Line, keep: Duration) {
        let now = Instant::now();
        let is_closed = |line: &Line| line.sender.is_closed() || line.sending.is_last();
        if !is_closed(&line) {
            lock(&self.idle).put(lane, line, now + keep, now, is_closed);
        }
    }

    /// The same for one of plain requests, whose answer began to come `now`.
    pub(super) fn keep_bare(&self, lane: Lane, line: Bare, keep: Duration, now: Instant) {
        lock(&self.bare).put(lane, line, now + keep, now, |line| !line.is_open());
    }

    /// The worker is not sent to any more: connections that wait are closed, and polls, which
    /// would wait for ever, are answered.
    pub(super) fn leave(&self) {
        self.gone.cancel();
        lock(&self.idle).clear();
        lock(&self.bare).clear();
    }
}

/// A worker that has not accepted for long has a full queue, which the kernel reports at once.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    for _ in 0..CONNECT_TRIES {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => sleep(CONNECT_PAUSE).await,
            result => return result,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Begins to speak HTTP on a connection, whose other end takes it for that of `told`.
///
/// # Errors
/// It has ended.
pub(super) async fn speak(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    told: Told,
) -> io::Result<Line> {
    let sending = Arc::new(Sending::default());
    let connection = ToWorker::new(connection, sending.clone());
    let (sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .preserve_header_case(true)
        .handshake(TokioIo::new(connection))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // What ends it is seen by whoever waits for a response on it.
        let _ = connection.with_upgrades().await;
    });
    Ok(Line { sender, told, sending })
}
