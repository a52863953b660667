//! What can be done with a connection at the moment that it is accepted. Where its first request is
//! there and a worker takes connections by its lane, it is sent on at once, and the runtime never
//! watches it: so it is ours for a moment only, and costs the least.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::RecvFlags;

use super::arrive::one_client;
use super::choose::{Work, affinity_of_head};
use super::front::Front;
use super::given::{HandedOver, Origin, Speaks};
use super::head::{self, Opening, Session};
use crate::config::Protocol;

/// A head that is larger is looked at later.
const HEAD: usize = 2048;

impl Front {
    /// Sends a connection on, if nothing has to be waited for.
    ///
    /// # Errors
    /// The connection, of which nothing has been read.
    pub(super) fn at_once(&self, from: Origin, connection: OwnedFd) -> Result<(), OwnedFd> {
        let settings = self.settings();
        let (route, limits) = (&settings.route, &settings.limits);
        let is_encrypted = settings
            .tls
            .as_ref()
            .is_some_and(|tls| tls.is_spoken_at(&self.places[from.listener.0]));
        let is_introduced = route.proxy_protocol && from.peer.trusted;
        // Else most requests are forwarded, and looked at once more.
        if route.protocol != Protocol::Http
            || !self.hands_over_requests(route)
            || is_encrypted
            || is_introduced
            || self.turns.is_cancelled()
            || self.is_settling()
        {
            return Err(connection);
        }
        let Some(_place) = self.admission.admit(limits, one_client(from.peer)) else {
            return Err(connection);
        };
        let mut buffer = [0; HEAD];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = match rustix::net::recv(&connection, &mut buffer, flags) {
            Ok((_, seen)) if seen < HEAD => &buffer[..seen],
            _ => return Err(connection),
        };
        let (session, speaks) = match head::look(seen, limits.head_size) {
            Opening::Request(session) => (session, Speaks::Http(Some(Arc::new(from)))),
            Opening::Upgrade(session) => (session, Speaks::WebSocket),
            Opening::Whole => (Session::None, Speaks::Other),
            _ => return Err(connection),
        };
        if matches!(session, Session::Of(_)) {
            return Err(connection); // word of it may be waited for
        }
        let affinity = affinity_of_head(route, from.peer, seen);
        let picked = self.pick(from.listener, route.balance, affinity, Work::Lasting, None);
        let Some(upstream) = picked.filter(|upstream| upstream.has_lane()) else {
            return Err(connection);
        };
        let Ok(inode) = rustix::fs::fstat(&connection).map(|stat| stat.st_ino) else {
            return Err(connection);
        };
        // Before it is: the worker may have it already when we are killed.
        if let (Some(notes), Some(given)) = (self.notes(), HandedOver::of(inode, &speaks)) {
            notes.given(upstream.worker.id, given);
        }
        upstream.send(from.listener, connection, inode, &speaks)
    }
}
