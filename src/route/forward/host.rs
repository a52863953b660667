//! Another host as the front-end sees it: how to reach it, and the connections to it that wait for
//! their next request.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use tokio::net::TcpStream;

use super::super::idle::{Idle, Lane};
use super::super::upstream::{Line, ListenerId, speak};
use super::tls::{Identity, Towards};
use crate::relay::Forwarded;
use crate::relay::bus::doors::Known;
use crate::relay::bus::hosts::Door;
use crate::relay::bus::wire::HostId;
use crate::sync::lock;

/// How long it may take to reach a host.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a connection waits for its next request. It is less than the time for which a host that
/// goes still serves one that was just sent.
pub(super) const KEEP: Duration = Duration::from_secs(2);

/// A host that does not acknowledge what it was sent for so many milliseconds is not there any more,
const SILENCE: u32 = 10_000;

/// nor is one that is asked after such a silence, so often, and does not answer.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(4), Duration::from_secs(3), 2);

/// How often it is said that a host is not reached.
const COMPLAINT: Duration = Duration::from_secs(10);

/// All connections carry anybody's requests: each says whose it is.
const LANE: Lane = Lane { listener: ListenerId(0), client: None };

/// Another host that takes requests of its sessions.
#[derive(Debug)]
pub(in crate::route) struct Host {
    pub(super) id: HostId,
    pub(in crate::route) name: String,
    door: Door,
    address: SocketAddr,
    towards: Towards,
    idle: Mutex<Idle<Line>>,
    /// It is not there any more, or is not what it was.
    gone: AtomicBool,
    counts: Arc<HostCounts>,
}

/// What was passed on to the hosts of one name.
#[derive(Debug, Default)]
pub(super) struct HostCounts {
    requests: AtomicU64,
    failed: AtomicU64,
    complained: Mutex<Option<Instant>>,
}

impl HostCounts {
    pub(super) fn read(&self) -> Forwarded {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Forwarded { requests: read(&self.requests), failed: read(&self.failed) }
    }
}

impl Host {
    /// The host behind this door.
    ///
    /// # Errors
    /// What it says of its door makes no sense.
    pub(super) fn new(
        id: HostId,
        known: &Known,
        identity: &Identity,
        counts: Arc<HostCounts>,
    ) -> io::Result<Host> {
        let address = known.door.address.parse().map_err(io::Error::other)?;
        let towards = identity.towards(&known.door.key)?;
        let Known { name, door, .. } = known.clone();
        let (idle, gone) = Default::default();
        Ok(Host { id, name, door, address, towards, idle, gone, counts })
    }

    /// Whether this is it.
    pub(super) fn is(&self, known: &Known) -> bool {
        self.name == known.name && self.door == known.door
    }

    /// A connection that waits for its next request.
    pub(super) fn waiting(&self) -> Option<Line> {
        let is_ready = |line: &Line| line.sender.is_ready() && !line.sender.is_closed();
        lock(&self.idle).take(LANE, Instant::now(), is_ready, |_| true)
    }

    /// A new connection.
    ///
    /// # Errors
    /// It is not reached, or is another one.
    pub(super) async fn connect(&self) -> io::Result<Line> {
        let connected = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            notices_silence(&stream)?;
            speak(self.towards.connect(self.address, stream).await?, None).await
        };
        tokio::time::timeout(CONNECT, connected).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Keeps a connection for the next request.
    pub(in crate::route) fn keep(&self, line: Line) {
        let now = Instant::now();
        let is_closed = |line: &Line| line.sender.is_closed() || line.sending.is_last();
        if !is_closed(&line) {
            let mut idle = lock(&self.idle);
            if !self.gone.load(Ordering::Relaxed) {
                idle.put(LANE, line, now + KEEP, now, is_closed);
            }
        }
    }

    /// It is not sent to any more on the connections that there are.
    pub(super) fn leave(&self) {
        let mut idle = lock(&self.idle);
        self.gone.store(true, Ordering::Relaxed);
        idle.clear();
    }

    /// It has answered a request.
    pub(in crate::route) fn answered(&self) {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// It has not.
    pub(in crate::route) fn failed(&self) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// It could not be reached, or has left a request without an answer.
    pub(super) fn complain(&self, error: &dyn std::fmt::Display) {
        let mut complained = lock(&self.counts.complained);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            *complained = Some(Instant::now());
            let Host { name: host, address, .. } = self;
            tracing::warn!(
                host, %address, %error,
                "requests of its sessions can't be passed on (said every 10 s at most)"
            );
        }
    }
}

/// Has the kernel end a connection whose other end has vanished without a word.
pub(super) fn notices_silence(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = PROBES;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    sockopt::set_tcp_user_timeout(stream, SILENCE)?;
    Ok(())
}
