//! Sockets to listen on: those that systemd handed over, by name, or our own.
//!
//! [`Inherited::take`] belongs at the very start of `main`, before any thread: it reads the
//! environment and takes every descriptor, so that no worker inherits one. All sockets here are
//! non-blocking and close-on-exec.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::config::Listen;
use crate::sys;

/// `FileDescriptorName=` of an app's public sockets.
pub const FD_NAME: &str = "listen";

/// As long as the kernel allows (`net.core.somaxconn`, 4096 by default): connections wait here
/// while workers start.
const BACKLOG: i32 = 4096;

/// How long the kernel keeps a connection whose client says nothing, in seconds: the shortest that it
/// knows.
const DEFERRED: i32 = 1;

/// What could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A socket of our own could not be opened.
    #[error("can't listen on {on}: {source}{hint}", hint = hint(source))]
    Bind {
        /// The `listen` entry.
        on: Listen,
        /// Why not.
        source: io::Error,
    },
    /// systemd handed over something else than a listening stream socket.
    #[error(
        "descriptor {index} that was handed over (name \"{name}\") is no listening stream socket: {source}"
    )]
    Inherited {
        /// Its place, counted from 0.
        index: usize,
        /// Its `FileDescriptorName=`.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program has it: `ss -ltnp` tells which)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need systemd's socket, or net.ipv4.ip_unprivileged_port_start)"
        }
        _ => "",
    }
}

/// A listening stream socket of either family.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix; a path that we bound ourselves is removed in the end.
    Unix(UnixListener, Option<OwnPath>),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket, _) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// A descriptor that listens. One that had a path keeps it for ever: it may be another's.
    ///
    /// # Errors
    /// It is no listening stream socket.
    pub fn of(descriptor: OwnedFd) -> io::Result<Socket> {
        let (domain, kind) =
            (sockopt::socket_domain(&descriptor)?, sockopt::socket_type(&descriptor)?);
        if kind != SocketType::STREAM || !sockopt::socket_acceptconn(&descriptor)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(match domain {
            AddressFamily::UNIX => Socket::Unix(descriptor.into(), None),
            _ => Socket::Tcp(descriptor.into()),
        })
    }

    /// Somebody else listens on: its path stays.
    pub fn leave(self) -> OwnedFd {
        match self {
            Socket::Tcp(socket) => socket.into(),
            Socket::Unix(socket, path) => {
                std::mem::forget(path);
                socket.into()
            }
        }
    }

    /// Somebody else accepts, whose clients may wait to be spoken to.
    pub fn servers_may_speak_first(&self) {
        if let Socket::Tcp(socket) = self {
            defer(socket, false);
        }
    }

    /// Where it listens.
    pub fn place(&self) -> Place {
        let path =
            |socket: &UnixListener| socket.local_addr().ok()?.as_pathname().map(Path::to_owned);
        match self {
            Socket::Tcp(socket) => Place { addr: socket.local_addr().ok(), path: None },
            Socket::Unix(socket, _) => Place { addr: None, path: path(socket) },
        }
    }
}

/// Where a socket listens, known also when it does not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The TCP address.
    pub addr: Option<SocketAddr>,
    /// The Unix path.
    pub path: Option<PathBuf>,
}

impl Place {
    fn is(&self, on: &Listen) -> bool {
        match on {
            Listen::Port(port) => {
                self.addr.is_some_and(|a| a.port() == *port && a.ip().is_unspecified())
            }
            Listen::Addr(addr) => self.addr == Some(*addr),
            Listen::Path(path) => self.path.as_ref() == Some(path),
        }
    }
}

impl Place {
    /// Whether a connection whose own end is there was accepted here. Nothing is allocated.
    pub fn has_accepted(&self, there: &SocketAddrAny) -> bool {
        if let Some(path) = &self.path {
            let there = SocketAddrUnix::try_from(there.clone());
            return there.is_ok_and(|t| t.path_bytes() == Some(path.as_os_str().as_bytes()));
        }
        let there = SocketAddr::try_from(there.clone());
        self.addr.is_some_and(|addr| {
            there.is_ok_and(|there| {
                let (ip, any) = (addr.ip(), addr.ip().is_unspecified());
                addr.port() == there.port() && (any || ip == there.ip())
            })
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.addr, &self.path) {
            (Some(addr), _) if addr.ip() == Ipv6Addr::UNSPECIFIED => write!(f, "{}", addr.port()),
            (Some(addr), _) => write!(f, "{addr}"),
            (None, Some(path)) => write!(f, "{}", path.display()),
            (None, None) => f.write_str("a Unix socket without a path"),
        }
    }
}

/// A client's connection.
pub type Client = Either<TcpStream, UnixStream>;

/// Its descriptor.
pub fn descriptor(client: &Client) -> BorrowedFd<'_> {
    match client {
        Either::Left(stream) => stream.as_fd(),
        Either::Right(stream) => stream.as_fd(),
    }
}

/// A listening socket in the runtime's care. When it is dropped, nobody listens any more, but for
/// others who hold the same socket.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    is_tcp: bool,
    /// Removed with it.
    path: Option<OwnPath>,
}

impl Listener {
    /// Takes a socket over.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn watch(socket: Socket) -> io::Result<Listener> {
        let (socket, is_tcp, path) = match socket {
            Socket::Tcp(socket) => (socket.into(), true, None),
            Socket::Unix(socket, path) => (socket.into(), false, path),
        };
        Ok(Listener { socket: sys::watch(socket, Interest::READABLE)?, is_tcp, path })
    }

    /// Takes it out of the runtime's care. What waits in it to be accepted stays there.
    pub fn release(self) -> Socket {
        let socket = self.socket.into_inner();
        if self.is_tcp {
            Socket::Tcp(socket.into())
        } else {
            Socket::Unix(socket.into(), self.path)
        }
    }

    /// Whether its clients speak first. The kernel keeps the connection of such a client until it has
    /// spoken, or for a second: so long it outlives whoever accepts it.
    pub fn clients_speak_first(&self, they_do: bool) {
        if self.is_tcp {
            defer(self.socket.get_ref(), they_do);
        }
    }

    /// The next connection, non-blocking as every worker needs it, and its address if it has one.
    ///
    /// # Errors
    /// The kernel's; some of them are of one connection only.
    pub fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(OwnedFd, Option<SocketAddr>)>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(context))?;
            if let Ok(accepted) = ready.try_io(|socket| accept(socket.get_ref())) {
                return Poll::Ready(accepted);
            }
        }
    }
}

fn accept(socket: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (connection, address) = rustix::net::acceptfrom_with(socket, flags)?;
    Ok((connection, address.and_then(|address| address.try_into().ok())))
}

/// Takes a connection into the runtime's care.
///
/// # Errors
/// The runtime can't watch it.
pub fn watch(connection: OwnedFd) -> io::Result<Client> {
    Ok(match sockopt::socket_domain(&connection)? {
        AddressFamily::UNIX => Either::Right(UnixStream::from_std(connection.into())?),
        _ => Either::Left(TcpStream::from_std(connection.into())?),
    })
}

/// Takes a connection out of the runtime's care: the descriptor alone, non-blocking as every
/// worker needs it.
///
/// # Errors
/// The runtime can't let it go.
pub fn release(client: Client) -> io::Result<OwnedFd> {
    Ok(match client {
        Either::Left(stream) => stream.into_std()?.into(),
        Either::Right(stream) => stream.into_std()?.into(),
    })
}

/// A socket's path that is removed with it.
#[derive(Debug)]
pub struct OwnPath(PathBuf);

impl OwnPath {
    /// A path that nobody else uses.
    pub fn new(path: PathBuf) -> OwnPath {
        OwnPath(path)
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What systemd handed over: `LISTEN_FDS`, with `LISTEN_FDNAMES`. The order differs between
/// systemd versions, so only names and addresses say which socket is which.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Socket>,
    /// What is no socket to listen on, by name: it was left by a predecessor.
    pub kept: BTreeMap<String, OwnedFd>,
}

impl Inherited {
    /// Takes all of it. Call this before any thread is started.
    ///
    /// # Errors
    /// A descriptor to listen on is no listening stream socket.
    pub fn take() -> Result<Inherited, ListenError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = listenfd::ListenFd::from_env();
        let mut inherited = Inherited::default();
        for index in 0..fds.len() {
            let name = names.next().unwrap_or_default();
            let bad = |source| ListenError::Inherited { index, name: name.to_owned(), source };
            // Without FileDescriptorName= the name is the socket unit's.
            if name == FD_NAME || name.ends_with(".socket") || name.is_empty() || name == "unknown"
            {
                inherited.sockets.push(take_one(&mut fds, index).map_err(bad)?);
            } else if let Some(descriptor) = fds.take_raw_fd(index).map_err(bad)? {
                let descriptor = sys::own(descriptor).map_err(bad)?;
                inherited.kept.insert(name.to_owned(), descriptor);
            }
        }
        Ok(inherited)
    }
}

fn take_one(fds: &mut listenfd::ListenFd, index: usize) -> io::Result<Socket> {
    let socket = match fds.take_tcp_listener(index) {
        Ok(Some(socket)) => Socket::Tcp(socket),
        _ => match fds.take_unix_listener(index)? {
            Some(socket) => Socket::Unix(socket, None),
            None => return Err(io::ErrorKind::NotFound.into()),
        },
    };
    rustix::io::ioctl_fionbio(&socket, true)?;
    if matches!(socket, Socket::Tcp(_)) {
        no_delay(&socket)?;
    }
    Ok(socket)
}

/// Accepted connections inherit it. Node sets it on those that its own server accepts, but not on
/// those that @socket.io/sticky injects: there a small response in two writes would wait for the
/// client's delayed acknowledgement, 40 ms.
fn no_delay(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(socket, true)?)
}

/// Another cohortd may have left it either way.
fn defer(socket: impl AsFd, deferred: bool) {
    if let Err(error) = sys::defer_accept(socket, if deferred { DEFERRED } else { 0 }) {
        tracing::debug!(%error, deferred, "the kernel does not keep silent clients as it should");
    }
}

/// The app's listening sockets: systemd's if it handed any over, else our own.
///
/// What systemd holds is what is served, also where it differs from `listen` (an admin's
/// `systemctl edit`): each difference is logged.
///
/// # Errors
/// An address that can't be bound.
pub fn open(listen: &[Listen], inherited: Inherited) -> Result<Vec<Socket>, ListenError> {
    if inherited.sockets.is_empty() {
        return listen.iter().map(bind).collect();
    }
    let mut sockets = inherited.sockets;
    // `listen({fd: 3})` in a worker means the first entry of `listen`.
    sockets.sort_by_key(|s| listen.iter().position(|on| s.place().is(on)).unwrap_or(usize::MAX));
    let places: Vec<Place> = sockets.iter().map(Socket::place).collect();
    for on in listen.iter().filter(|on| !places.iter().any(|place| place.is(on))) {
        tracing::warn!(%on, "listen has an entry that systemd's socket unit has not; not served");
    }
    for place in places.iter().filter(|place| !listen.iter().any(|on| place.is(on))) {
        tracing::info!(on = %place, "systemd's socket unit has an address that listen has not; served");
    }
    Ok(sockets)
}

/// A socket of our own for an entry.
///
/// # Errors
/// It can't be bound.
pub fn bind(on: &Listen) -> Result<Socket, ListenError> {
    let bound = match on {
        Listen::Port(port) => tcp(None, *port, false, BACKLOG).map(Socket::Tcp),
        Listen::Addr(addr) => tcp(Some(addr.ip()), addr.port(), true, BACKLOG).map(Socket::Tcp),
        Listen::Path(path) => {
            remove_stale(path);
            unix(path, BACKLOG)
        }
    };
    bound.map_err(|source| ListenError::Bind { on: on.clone(), source })
}

/// A listening TCP socket; no address means every one, IPv6 with IPv4 where there is IPv6.
///
/// # Errors
/// The kernel's.
pub fn tcp(
    address: Option<IpAddr>,
    port: u16,
    v6only: bool,
    backlog: i32,
) -> io::Result<TcpListener> {
    let open = |ip: IpAddr, v6only: bool| -> io::Result<TcpListener> {
        let socket = stream_or_datagram(ip, SocketType::STREAM, v6only)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        no_delay(&socket)?;
        rustix::net::bind(&socket, &SocketAddr::new(ip, port))?;
        rustix::net::listen(&socket, backlog)?;
        Ok(socket.into())
    };
    match address {
        Some(ip) => open(ip, v6only),
        None => match open(Ipv6Addr::UNSPECIFIED.into(), v6only) {
            Err(e) if no_ipv6(&e) => open(Ipv4Addr::UNSPECIFIED.into(), false),
            other => other,
        },
    }
}

/// A bound UDP socket, as `dgram` would have bound it.
///
/// # Errors
/// The kernel's.
pub fn udp(
    address: Option<IpAddr>,
    port: u16,
    v6: bool,
    v6only: bool,
    reuse: bool,
) -> io::Result<UdpSocket> {
    let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let ip: IpAddr = address.unwrap_or(any);
    let socket = stream_or_datagram(ip, SocketType::DGRAM, v6only)?;
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(ip, port))?;
    Ok(socket.into())
}

/// A listening Unix socket, whose path is removed when it is dropped.
///
/// # Errors
/// The kernel's; a path that exists is `EADDRINUSE`, as for Node.
pub fn unix(path: &Path, backlog: i32) -> io::Result<Socket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
    let own = OwnPath(path.to_owned());
    rustix::net::listen(&socket, backlog)?;
    Ok(Socket::Unix(socket.into(), Some(own)))
}

fn stream_or_datagram(ip: IpAddr, kind: SocketType, v6only: bool) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6only)?;
    }
    Ok(socket)
}

fn no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// A path that nobody accepts on is what a killed process left.
fn remove_stale(path: &Path) {
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let _ = std::fs::remove_file(path);
    }
}
