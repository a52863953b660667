//! The servers that workers open: which of them is one of the app's routed listeners, and sockets
//! of their own for the others, exactly as Node's primary keeps them.
//!
//! A routed listener's connections go through the front-end. Any other TCP or path server's are
//! given out in turn, unlooked at, and a UDP socket is shared by all workers that bind it: what
//! Node's own cluster does.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::estate::{self, Deposit, Estate, Kept, Listens, SERVER};
use crate::listen::{self, Listener, Place, Socket};
use crate::route::ListenerId;
use crate::sync::lock;
use crate::worker::lane;
use crate::worker::wire::cluster::{Endpoint, HandleType, Query, SockName};
use crate::worker::wire::{Framing, Value};
use crate::worker::{Worker, WorkerId};

/// `listen()`'s backlog in Node.
const NODE_BACKLOG: i32 = 511;

/// A worker that says no to a connection will say so again at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// How long a connection that no worker takes is kept.
const REFUSED_LIMIT: Duration = Duration::from_secs(5);

/// The first descriptor that systemd hands over: `listen({fd: 3})`.
const FIRST_FD: i32 = 3;

/// All open servers.
#[derive(Debug)]
pub struct Servers {
    routed: Vec<Place>,
    /// Those of the routed listeners that workers get themselves (`deliver = "shared"`).
    shared: HashMap<ListenerId, Arc<OwnedFd>>,
    /// Where a relative path begins, as it does for the workers.
    directory: PathBuf,
    open: HashMap<String, Server>,
    estate: Option<Arc<Estate>>,
    /// How many sockets have been put there.
    kept: u64,
}

#[derive(Debug)]
struct Server {
    kind: Kind,
    /// What the first worker sent along; all get the same.
    data: Value,
    members: Members,
}

type Members = Arc<Mutex<Vec<Arc<Worker>>>>;

#[derive(Debug)]
enum Kind {
    Routed(ListenerId),
    /// The socket is closed at the moment this is dropped: the same worker may open it again with
    /// its next message.
    InTurn {
        name: Option<SockName>,
        listener: Arc<Listener>,
        accepting: DropGuard,
        kept: Option<Deposit>,
    },
    Shared(Arc<OwnedFd>, Option<Deposit>),
}

impl Servers {
    /// For an app with these listeners.
    pub fn new(routed: Vec<Place>, directory: PathBuf, estate: Option<Arc<Estate>>) -> Servers {
        let (shared, open) = (HashMap::new(), HashMap::new());
        Servers { routed, shared, directory, open, estate, kept: 0 }
    }

    /// As a successor is told of them.
    pub fn snapshot(&self) -> Vec<estate::Server> {
        let server = |(key, server): (&String, &Server)| {
            let kind = match &server.kind {
                Kind::Routed(listener) => Listens::Routed(listener.0),
                Kind::InTurn { kept, .. } => Listens::InTurn(kept.as_ref()?.name().to_owned()),
                Kind::Shared(_, kept) => Listens::Shared(kept.as_ref()?.name().to_owned()),
            };
            Some(estate::Server {
                key: key.clone(),
                data: Framing::Advanced.encode(&server.data).ok()?,
                members: lock(&server.members).iter().map(|member| member.id).collect(),
                kind,
            })
        };
        let mut servers: Vec<_> = self.open.iter().filter_map(server).collect();
        servers.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        servers
    }

    /// Goes on with a predecessor's, of which these workers are left. What can't be had any more is
    /// left out: a worker that has it open serves it no more.
    pub fn resume(
        &mut self,
        left: Vec<estate::Server>,
        kept: &mut Kept,
        worker: impl Fn(WorkerId) -> Option<Arc<Worker>>,
    ) {
        for estate::Server { key, data, members, kind } in left {
            let members: Members =
                Arc::new(Mutex::new(members.into_iter().filter_map(&worker).collect()));
            if lock(&members).is_empty() {
                continue;
            }
            match self.resume_kind(kind, &key, kept, &members) {
                Ok(kind) => {
                    let data = Framing::Advanced.decode(&data).unwrap_or_default();
                    self.open.insert(key, Server { kind, data, members });
                }
                Err(error) => tracing::warn!(key, %error, "a worker's server is lost"),
            }
        }
    }

    fn resume_kind(
        &mut self,
        kind: Listens,
        key: &str,
        kept: &mut Kept,
        members: &Members,
    ) -> io::Result<Kind> {
        let mut taken = |name: &str| kept.remove(name).ok_or(io::ErrorKind::NotFound);
        Ok(match kind {
            Listens::Routed(at) if at < self.routed.len() => Kind::Routed(ListenerId(at)),
            Listens::Routed(_) => return Err(io::ErrorKind::NotFound.into()),
            Listens::InTurn(name) => {
                let socket = Socket::of(taken(&name)?)?;
                let kept = self.keep_as(name, &socket);
                let name = socket.place().addr.map(sock_name);
                in_turn(socket, name, key, members.clone(), kept)?
            }
            Listens::Shared(name) => {
                let socket = taken(&name)?;
                let kept = self.keep_as(name, &socket);
                Kind::Shared(Arc::new(socket), kept)
            }
        })
    }

    /// A successor goes on: nothing is accepted here any more, and paths stay.
    pub fn leave_all(&mut self) {
        for (_, server) in self.open.drain() {
            if let Kind::InTurn { accepting, listener, .. } = server.kind {
                accepting.disarm().cancel();
                let socket = Arc::into_inner(listener).map(Listener::release);
                drop(socket.map(Socket::leave));
            }
        }
    }

    /// Has a socket kept for a successor.
    fn keep(&mut self, socket: impl AsFd) -> Option<Deposit> {
        self.kept += 1;
        self.keep_as(format!("{SERVER}{}", self.kept), socket)
    }

    fn keep_as(&mut self, name: String, socket: impl AsFd) -> Option<Deposit> {
        let number = name.strip_prefix(SERVER).and_then(|number| number.parse().ok());
        self.kept = self.kept.max(number.unwrap_or(0));
        let kept = self.estate.as_ref()?.keep(name, socket);
        kept.inspect_err(|error| tracing::warn!(%error, "a server would not survive us")).ok()
    }

    /// Workers get these sockets of the routed listeners themselves: of those of one port the first,
    /// for they have one server for it.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn share(&mut self, sockets: &[Socket]) -> io::Result<()> {
        for (at, socket) in sockets.iter().enumerate() {
            let listener = ListenerId(at);
            if self.same_port(listener).iter().all(|other| other.0 >= at) {
                socket.servers_may_speak_first();
                let copy = rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 0)?;
                self.shared.insert(listener, Arc::new(copy));
            }
        }
        Ok(())
    }

    /// No worker gets them any more.
    pub fn share_no_more(&mut self) {
        self.shared.clear();
    }

    /// Where a worker listens itself that has a server for these listeners: a port or path.
    pub fn shared_at(&self, listeners: &[ListenerId]) -> Option<String> {
        let listener = listeners.iter().find(|listener| self.shared.contains_key(listener))?;
        let Place { addr, path } = &self.routed[listener.0];
        let port = addr.map(|addr| addr.port().to_string());
        port.or_else(|| Some(path.as_ref()?.to_str()?.to_owned()))
    }

    /// Whether connections of this listener are the workers' to accept.
    pub fn is_shared(&self, listener: ListenerId) -> bool {
        self.shared.contains_key(&listener)
    }

    /// Answers a worker's `queryServer`. Returns the routed listeners of the server's port, the one
    /// it got first, with the key of the worker's server.
    pub fn query(
        &mut self,
        worker: &Arc<Worker>,
        query: Query,
    ) -> Option<(Vec<ListenerId>, String)> {
        let key = self.key(&query);
        if let Some(server) = self.open.get(&key)
            && lock(&server.members).iter().any(|member| member.id == worker.id)
        {
            worker.refuse(query.seq, &key, Errno::ADDRINUSE.raw_os_error());
            return None;
        }
        if !self.open.contains_key(&key) {
            match self.open(&key, &query) {
                Ok(server) => {
                    self.open.insert(key.clone(), server);
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
                    tracing::warn!(worker = worker.id.0, on = ?query.on, %error, "a worker can't listen");
                    worker.refuse(query.seq, &key, errno);
                    return None;
                }
            }
        }
        let server = self.open.get(&key)?;
        lock(&server.members).push(worker.clone());
        match &server.kind {
            Kind::Routed(listener) => {
                let listeners = self.same_port(*listener);
                let shared = listeners.iter().find_map(|listener| self.shared.get(listener));
                if let Some(socket) = shared {
                    let data = server.data.clone();
                    share(worker.clone(), query.seq, key.clone(), data, socket, HandleType::Native);
                } else {
                    let name = self.routed[listener.0].addr.map(sock_name);
                    worker.serve(query.seq, &key, &server.data, name.as_ref());
                }
                Some((listeners, key))
            }
            Kind::InTurn { name, .. } => {
                worker.serve(query.seq, &key, &server.data, name.as_ref());
                None
            }
            Kind::Shared(socket, _) => {
                let data = server.data.clone();
                share(worker.clone(), query.seq, key, data, socket, HandleType::Datagram);
                None
            }
        }
    }

    /// A worker has closed a server.
    pub fn close(&mut self, id: WorkerId, key: &str) {
        if let Some(server) = self.open.get(key) {
            let mut members = lock(&server.members);
            members.retain(|member| member.id != id);
            let unused = members.is_empty();
            drop(members);
            if unused {
                self.open.remove(key);
            }
        }
    }

    /// A worker is gone, and its servers with it.
    pub fn leave(&mut self, id: WorkerId) {
        let keys: Vec<String> = self.open.keys().cloned().collect();
        keys.iter().for_each(|key| self.close(id, key));
    }

    /// The servers that a worker has open and that are not routed, for people to read.
    pub fn opened_by(&self, id: WorkerId) -> Vec<String> {
        let of_worker = |server: &&Server| lock(&server.members).iter().any(|m| m.id == id);
        let name = |server: &Server| match &server.kind {
            Kind::InTurn { name: Some(name), .. } => Some(format!("port {}", name.port)),
            Kind::InTurn { name: None, .. } => Some("a path".to_owned()),
            Kind::Routed(_) | Kind::Shared(..) => None,
        };
        self.open.values().filter(of_worker).filter_map(name).collect()
    }

    /// A routed listener, and the others on its port.
    fn same_port(&self, listener: ListenerId) -> Vec<ListenerId> {
        let port = |at: usize| self.routed[at].addr.map(|addr| addr.port());
        let others = (0..self.routed.len())
            .filter(|at| *at != listener.0 && port(*at).is_some() && port(*at) == port(listener.0));
        std::iter::once(listener).chain(others.map(ListenerId)).collect()
    }

    /// The routed listener that an endpoint means: the same address or port, path or descriptor.
    fn routed(&self, on: &Endpoint) -> Option<ListenerId> {
        let at = match on {
            Endpoint::Fd(fd) => {
                usize::try_from(fd - FIRST_FD).ok().filter(|at| *at < self.routed.len())
            }
            Endpoint::Tcp { port: 0, .. } => None,
            Endpoint::Tcp { address, port, .. } => {
                let ip = ip(address).ok().flatten();
                let is = |addr: SocketAddr| addr.port() == *port && ip == Some(addr.ip());
                let mut places = self.routed.iter().map(|place| place.addr);
                let exactly = places.clone().position(|addr| addr.is_some_and(is));
                exactly.or_else(|| places.position(|addr| addr.is_some_and(|a| a.port() == *port)))
            }
            Endpoint::Path { path, .. } => {
                let path = self.directory.join(path);
                self.routed.iter().position(|place| place.path.as_ref() == Some(&path))
            }
            Endpoint::Udp { .. } => None,
        };
        at.map(ListenerId)
    }

    fn key(&self, query: &Query) -> String {
        if let Some(listener) = self.routed(&query.on) {
            return format!("{}{}", lane::KEY, listener.0);
        }
        match &query.on {
            // Several of these can have the same address in one worker.
            Endpoint::Tcp { port: 0, .. } | Endpoint::Udp { .. } => {
                format!("{:?}:{}", query.on, query.index)
            }
            on => format!("{on:?}"),
        }
    }

    fn open(&mut self, key: &str, query: &Query) -> io::Result<Server> {
        let members = Members::default();
        let backlog = query.backlog.unwrap_or(NODE_BACKLOG);
        let kind = match (self.routed(&query.on), &query.on) {
            (Some(listener), _) => Kind::Routed(listener),
            (None, Endpoint::Tcp { address, port, v6only }) => {
                let socket = listen::tcp(ip(address)?, *port, *v6only, backlog)?;
                let name = socket.local_addr().ok().map(sock_name);
                let kept = self.keep(&socket);
                in_turn(Socket::Tcp(socket), name, key, members.clone(), kept)?
            }
            (None, Endpoint::Path { path, readable_all, writable_all }) => {
                let path = self.directory.join(path);
                let socket = listen::unix(&path, backlog)?;
                open_to_all(&path, *readable_all, *writable_all)?;
                let kept = self.keep(&socket);
                in_turn(socket, None, key, members.clone(), kept)?
            }
            (None, Endpoint::Udp { address, port, v6, v6only, reuse }) => {
                let socket = listen::udp(ip(address)?, *port, *v6, *v6only, *reuse)?;
                let kept = self.keep(&socket);
                Kind::Shared(Arc::new(socket.into()), kept)
            }
            (None, Endpoint::Fd(_)) => return Err(Errno::BADF.into()),
        };
        Ok(Server { kind, data: query.data.clone(), members })
    }
}

fn ip(address: &Option<String>) -> io::Result<Option<IpAddr>> {
    let parse = |text: &String| text.parse().map_err(|_| io::Error::from(Errno::INVAL));
    address.as_ref().map(parse).transpose()
}

fn sock_name(address: SocketAddr) -> SockName {
    SockName {
        address: address.ip().to_string(),
        family: if address.is_ipv6() { "IPv6" } else { "IPv4" },
        port: address.port(),
    }
}

/// `readableAll` and `writableAll` of `server.listen()`.
fn open_to_all(path: &Path, read: bool, write: bool) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut mode = std::fs::metadata(path)?.permissions().mode();
    mode |= if read { 0o444 } else { 0 } | if write { 0o222 } else { 0 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Sends the worker a copy of a shared socket.
fn share(
    worker: Arc<Worker>,
    ack: u64,
    key: String,
    data: Value,
    socket: &Arc<OwnedFd>,
    kind: HandleType,
) {
    let copy = rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 0);
    tokio::spawn(async move {
        match copy {
            Ok(copy) => {
                // If it is gone, so is whoever waits for the answer.
                let _ = worker.share(ack, &key, &data, kind, copy).await;
            }
            Err(error) => worker.refuse(ack, &key, error.raw_os_error()),
        }
    });
}

/// Accepts and gives out in turn, as long as the result is kept.
fn in_turn(
    socket: Socket,
    name: Option<SockName>,
    key: &str,
    members: Members,
    kept: Option<Deposit>,
) -> io::Result<Kind> {
    let listener = Arc::new(Listener::watch(socket)?);
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let key = key.to_owned();
    let weak = Arc::downgrade(&listener);
    let next = async move || {
        std::future::poll_fn(|context| match weak.upgrade() {
            Some(listener) => listener.poll_accept(context).map(Some),
            None => Poll::Ready(None),
        })
        .await
    };
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        for turn in 0usize.. {
            match next().await {
                Some(Ok((connection, _))) => {
                    tokio::spawn(give_out(connection, key.clone(), members.clone(), turn));
                }
                Some(Err(_)) => tokio::time::sleep(REFUSED_PAUSE).await,
                None => return,
            }
        }
    }));
    Ok(Kind::InTurn { name, listener, accepting: guard, kept })
}

async fn give_out(mut connection: OwnedFd, key: String, members: Members, turn: usize) {
    let offers = async {
        for turn in turn.. {
            let member = {
                let members = lock(&members);
                if members.is_empty() { None } else { Some(members[turn % members.len()].clone()) }
            };
            let Some(member) = member else { return };
            match member.give_to_server(&key, connection, None).await {
                Ok(()) => return,
                Err(back) => connection = back,
            }
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    };
    let _ = tokio::time::timeout(REFUSED_LIMIT, offers).await;
}
