//! Who a client is, and how a worker hears of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio_util::either::Either;

use super::upstream::ListenerId;
use crate::listen::Client;
use crate::worker::Worker;

/// Who a client is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address; `None` for a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// A proxy of ours, whose forwarded headers are true.
    pub(super) trusted: bool,
    /// What it sends is encrypted, up to here.
    pub(super) encrypted: bool,
}

/// Whose a request is: where it came in, of whom, and over which connection.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) listener: ListenerId,
    pub(super) peer: Peer,
    pub(super) ends: Ends,
}

/// What is read and taken out by what we load into Node workers, `worker/hook.cjs`.
static HEADER: HeaderName = HeaderName::from_static("x-cohortd-peer");

/// What follows the ends of a connection that is encrypted, up to here.
const ENCRYPTED: &str = "tls";

/// Both ends of a client's connection, as the worker's own kernel would tell them.
#[derive(Debug)]
pub(super) struct Ends {
    ip: Option<IpAddr>,
    /// Empty for a Unix socket.
    text: Arc<str>,
    /// The same, and whether what comes over it was encrypted: that is told with a request.
    whole: Arc<str>,
}

/// What a worker takes for the ends of a connection of ours to it. `None`: it can't be told any.
pub(super) type Told = Option<Arc<str>>;

impl Ends {
    /// Those of this connection.
    pub(super) fn of(client: &Client, peer: Peer) -> Ends {
        let text = match (client, peer.address) {
            (Either::Left(stream), Some(peer)) => match stream.local_addr() {
                Ok(local) => format!("{} {}", End(stream, peer), End(stream, local)),
                Err(_) => String::new(), // it has ended
            },
            _ => String::new(),
        };
        let text: Arc<str> = text.into();
        let whole = match peer.encrypted && !text.is_empty() {
            true => format!("{text} {ENCRYPTED}").into(),
            false => text.clone(),
        };
        Ends { ip: peer.address.map(|address| address.ip()), text, whole }
    }

    /// In words, for another host: as a worker is told.
    pub(super) fn told(&self) -> &str {
        &self.whole
    }

    /// Those that another host tells of; the client's address, and whether it is encrypted.
    pub(super) fn of_words(whole: &str) -> (Ends, Option<SocketAddr>, bool) {
        let text = whole.strip_suffix(ENCRYPTED).map(str::trim_end);
        let is_encrypted = text.is_some();
        let text = text.unwrap_or(whole);
        let mut words = text.split(' ');
        let ip = words.next().and_then(|ip| ip.split('%').next()?.parse().ok());
        let port = words.next().and_then(|port| port.parse().ok());
        let address = ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port));
        (Ends { ip, text: text.into(), whole: whole.into() }, address, is_encrypted)
    }

    /// Whether a worker takes these for a connection's.
    pub(super) fn are(&self, told: &Told) -> bool {
        told.as_ref().is_some_and(|told| *told == self.whole)
    }

    /// What a worker is to be told of them with a connection, if it hears of such things.
    pub(super) fn for_worker(&self, worker: &Worker) -> Told {
        worker.peer_token().map(|_| self.text.clone())
    }

    /// Says in a request's head what this worker can hear, and nobody else there can have said, if
    /// it takes its connection for another client's.
    pub(super) fn tell(&self, worker: &Worker, told: &mut Told, headers: &mut HeaderMap) {
        headers.remove(&HEADER);
        if let Some(value) = self.due(worker, told)
            && let Ok(value) = HeaderValue::try_from(value)
        {
            let mut all = HeaderMap::with_capacity(headers.len() + 1);
            all.insert(HEADER.clone(), value);
            all.extend(std::mem::take(headers));
            *headers = all;
        }
    }

    /// The same for a head of bytes: the field that has to come first in it.
    pub(super) fn due_field(&self, worker: &Worker, told: &mut Told) -> Option<String> {
        self.due(worker, told).map(|value| format!("{HEADER}: {value}\r\n"))
    }

    /// What has to be said in the next head. As the first in it: a server with a limit on headers
    /// drops the last.
    fn due(&self, worker: &Worker, told: &mut Told) -> Option<String> {
        let token = worker.peer_token()?;
        let told = told.as_mut().filter(|told| **told != self.whole)?;
        *told = self.whole.clone();
        Some(format!("{token} {}", self.whole))
    }

    /// Whose requests alone may share a connection to this worker: to a handler that is still at
    /// work when its response has ended, its socket must not become somebody else.
    pub(super) fn alone(&self, worker: &Worker) -> Option<IpAddr> {
        self.ip.filter(|_| worker.peer_token().is_some())
    }
}

/// One end as Node tells it: an address and a port.
struct End<S>(S, SocketAddr);

impl<S: AsFd> fmt::Display for End<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End(socket, address) = self;
        write!(f, "{}", address.ip())?;
        if let SocketAddr::V6(v6) = address
            && v6.ip().is_unicast_link_local()
            && let Ok(link) = rustix::net::netdevice::index_to_name(socket, v6.scope_id())
        {
            write!(f, "%{link}")?;
        }
        write!(f, " {}", address.port())
    }
}
