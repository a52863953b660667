//! Requests of sessions that live on other hosts.
//!
//! ```text
//! request ─▶ locate ─┬─ here, or nowhere ─▶ choose (a worker)
//!            │  ▲    └─ there ─▶ request ─▶ host ══ TLS ══▶ accept ─▶ serve ─▶ choose (a worker)
//!      Seek  ▼  │ Found
//!            relay (bus)
//! ```
//! A front-end that knows no worker of a session asks those of other hosts over the bus, and passes the
//! request on to the one that has it, which treats it like a client's own: but it never passes it on
//! again. The bus is only needed to find a session; where it was found is remembered.

mod accept;
mod found;
mod host;
mod request;
#[cfg(all(test, any(feature = "nats", feature = "redis")))]
mod tests;
#[cfg_attr(not(any(feature = "nats", feature = "redis")), path = "no_tls.rs")]
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub(super) use host::Host;
pub(super) use request::{disown, keep, told};

use super::counts::Miss;
use super::front::Front;
use super::head::Session;
use crate::config::Sticky;
use crate::relay::bus::doors::Known;
use crate::relay::bus::wire::HostId;
use crate::relay::{Forwarded, Relay, Sessions};
use crate::sync::lock;
use found::Found;
use host::HostCounts;
use tls::Identity;

/// A worker answers a client before it reports the new session: so long a request for an unknown
/// session may wait for the report,
const PARK: Duration = Duration::from_millis(250);

/// and so long where other hosts are asked: what the bus takes to them and back when all are busy.
const SEEK: Duration = Duration::from_secs(1);

/// How many requests may wait like that; more are routed as if their session were unknown.
const MAX_PARKED: usize = 4096;

/// So many names of hosts are counted for.
const MAX_NAMES: usize = 1000;

/// The other hosts, and what is known of their sessions.
#[derive(Debug)]
pub(super) struct Forwarding {
    relay: Arc<Relay>,
    identity: Identity,
    hosts: watch::Sender<HashMap<HostId, Arc<Host>>>,
    found: Mutex<Found>,
    counts: Mutex<BTreeMap<String, Arc<HostCounts>>>,
}

impl Forwarding {
    fn new(relay: Arc<Relay>) -> io::Result<Forwarding> {
        let (found, counts, hosts) = Default::default();
        Ok(Forwarding { relay, identity: Identity::new()?, hosts, found, counts })
    }

    /// No other host is to bring anything any more.
    pub(super) fn close(&self) {
        self.relay.close_door();
    }

    /// The host of a session, if it has been found and that host is still there.
    fn host_of(&self, sid: &str) -> Option<Arc<Host>> {
        let id = lock(&self.found).find(sid)?;
        self.hosts.borrow().get(&id).cloned()
    }

    /// A session is not where it was found.
    pub(super) fn forget(&self, sid: &str) {
        lock(&self.found).forget(sid);
    }

    /// Asks for a session, also those who come later. Never ends.
    async fn seek(&self, sid: &str) {
        let mut hosts = self.hosts.subscribe();
        loop {
            self.relay.seek(sid);
            if hosts.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn counts_of(&self, name: &str) -> Arc<HostCounts> {
        let mut counts = lock(&self.counts);
        if counts.len() >= MAX_NAMES && !counts.contains_key(name) {
            return Arc::default();
        }
        counts.entry(name.to_owned()).or_default().clone()
    }
}

impl Sessions for Front {
    fn has(&self, sid: &str) -> bool {
        let worker = self.worker_of(sid);
        let is_over = || lock(&self.sessions).is_ended(sid);
        worker.is_some_and(|id| self.upstream(id).is_some()) && !is_over()
    }

    fn found(&self, sid: &str, host: HostId) {
        let Some(forwarding) = self.forwarding.get() else { return };
        // Nobody else has asked.
        if let Some(waiting) = lock(&self.parked).get(sid) {
            lock(&forwarding.found).put(sid, host);
            waiting.notify_waiters();
        }
    }

    fn doors(&self, doors: Vec<(HostId, Known)>) {
        let Some(forwarding) = self.forwarding.get() else { return };
        forwarding.identity.trust(doors.iter().map(|(_, known)| known.door.key.as_str()));
        forwarding.hosts.send_modify(|hosts| {
            let mut before = std::mem::take(hosts);
            for (id, known) in doors {
                let host = before.remove(&id).filter(|host| host.is(&known)).map(Ok);
                let counts = || forwarding.counts_of(&known.name);
                let new = || Host::new(id, &known, &forwarding.identity, counts()).map(Arc::new);
                match host.unwrap_or_else(new) {
                    Ok(host) => drop(hosts.insert(id, host)),
                    Err(error) => {
                        let (host, address) = (known.name, known.door.address);
                        tracing::warn!(host, address, %error, "nothing can be passed on to it");
                    }
                }
            }
            before.values().for_each(|host| host.leave());
        });
    }

    fn forwarded(&self, host: &str) -> Forwarded {
        let counts = self.forwarding.get().and_then(|f| lock(&f.counts).get(host).cloned());
        counts.map(|counts| counts.read()).unwrap_or_default()
    }
}

impl Front {
    /// The host that has a request's session, if that is another one. Waits a moment for word of one
    /// that is not known; other hosts are asked if it `may_be_elsewhere`.
    pub(super) async fn locate(
        &self,
        session: &Session,
        may_be_elsewhere: bool,
    ) -> Option<Arc<Host>> {
        let Session::Of(sid) = session else { return None };
        if self.worker_of(sid).is_some() || self.settings().route.sticky == Sticky::Off {
            return None;
        }
        let forwarding = self.forwarding.get().filter(|_| may_be_elsewhere);
        let found = || forwarding.and_then(|forwarding| forwarding.host_of(sid));
        if let Some(host) = found() {
            return Some(host);
        }
        let Some((parked, is_first)) = self.park(sid) else {
            self.counts.misses.count(Miss::Crowded);
            return None;
        };
        // Boxed: other requests need no room for it.
        Box::pin(self.word_of(&parked, forwarding, is_first)).await;
        if self.worker_of(sid).is_some() {
            return None;
        }
        let host = found();
        if host.is_none() {
            self.counts.misses.count(Miss::Unknown);
        }
        host
    }

    /// Waits a moment for word of a session. The first who does asks.
    async fn word_of(
        &self,
        parked: &Parked<'_>,
        forwarding: Option<&Arc<Forwarding>>,
        is_first: bool,
    ) {
        let sid = parked.sid;
        let word = parked.word.notified();
        tokio::pin!(word);
        word.as_mut().enable();
        // It may have been reported since the first look.
        if self.worker_of(sid).is_some() {
            return;
        }
        let can_seek = forwarding.is_some_and(|forwarding| forwarding.relay.can_seek());
        let limit = if can_seek { SEEK } else { PARK };
        let sought = async {
            match forwarding.filter(|_| is_first) {
                Some(forwarding) => forwarding.seek(sid).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = word => {}
            () = sought => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    /// A request that waits, and whether no other waits for the same. `None`: too many do.
    fn park<'a>(&'a self, sid: &'a str) -> Option<(Parked<'a>, bool)> {
        let mut parked = lock(&self.parked);
        let is_first = !parked.contains_key(sid);
        if is_first && parked.len() >= MAX_PARKED {
            return None;
        }
        let word = parked.entry(sid.to_owned()).or_default().clone();
        Some((Parked { front: self, sid, word }, is_first))
    }
}

/// A request that waits to hear of its session.
struct Parked<'a> {
    front: &'a Front,
    sid: &'a str,
    word: Arc<Notify>,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        let mut parked = lock(&self.front.parked);
        // The map's, and ours: nobody else waits for it.
        if parked
            .get(self.sid)
            .is_some_and(|word| Arc::ptr_eq(word, &self.word) && Arc::strong_count(word) <= 2)
        {
            parked.remove(self.sid);
        }
    }
}
