//! Chooses the worker for a request: that of its session, that of the slot where it belongs, or one
//! by load.

use std::cell::OnceCell;
use std::iter;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::admission::network_of;
use super::affinity::{self, Affinity};
use super::counts::Miss;
use super::front::Front;
use super::head::{self, Session};
use super::peer::Peer;
use super::table::{less_loaded, weighed};
use super::upstream::{ListenerId, Upstream};
use crate::config::{Balance, Route, Sticky};
use crate::sync::lock;
use crate::worker::WorkerId;

/// Where proxies say who their client is.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A worker that is preferred gets no more than so many times its share of the load.
const MAX_SHARE: usize = 3;

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

/// Where a connection that is not looked at belongs.
pub(super) fn affinity_of_peer(route: &Route, peer: Peer) -> Affinity {
    affinity(route, peer, |_| iter::empty())
}

/// Where a connection's first request belongs, by its bytes.
pub(super) fn affinity_of_head(route: &Route, peer: Peer, head: &[u8]) -> Affinity {
    affinity(route, peer, |name| head::values(head, name).into_iter())
}

/// Where a request belongs by its headers.
pub(super) fn affinity_of(route: &Route, peer: Peer, headers: &HeaderMap) -> Affinity {
    let values = |name: &str| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    affinity(route, peer, |name| values(name).collect::<Vec<_>>().into_iter())
}

/// Where a request belongs by what it brings along; `header` gives the values of one.
fn affinity<'h, I: Iterator<Item = &'h [u8]> + Clone>(
    route: &Route,
    peer: Peer,
    header: impl Fn(&str) -> I,
) -> Affinity {
    match &route.sticky {
        Sticky::Off | Sticky::Sessions => Affinity::Anywhere,
        Sticky::Cookie(name) => affinity::by_cookie(header("cookie"), name),
        Sticky::Header(name) => affinity::by(header(name).next()),
        Sticky::Address => {
            let address =
                route.client(peer.address.map(|a| a.ip()), header(FORWARDED_FOR.as_str()));
            affinity::by(address.map(network_of).as_deref())
        }
    }
}

impl Front {
    /// The worker for a request: its session's, or that of the slot where it belongs, or else one by
    /// load; rather not the one that has failed before. `None` when none is ready within
    /// `[route] queue`.
    pub(super) async fn choose(
        &self,
        listener: ListenerId,
        session: &Session,
        affinity: Affinity,
        work: Work,
        failed: Option<WorkerId>,
    ) -> Option<Arc<Upstream>> {
        let settings = self.settings();
        if settings.route.sticky != Sticky::Off
            && let Session::Of(sid) = session
            && let Some(id) = self.worker_of(sid)
        {
            if let Some(upstream) = self.workers.borrow().iter().find(|u| u.worker.id == id) {
                return Some(upstream.clone());
            }
            self.counts.misses.count(Miss::Gone);
        }
        let balance = settings.route.balance;
        if let Some(upstream) = self.pick(listener, balance, affinity, work, failed) {
            return Some(upstream);
        }
        let mut changes = self.workers.subscribe();
        let waiting = async {
            loop {
                if let Some(upstream) = self.pick(listener, balance, affinity, work, failed) {
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

    /// The same, if one is ready.
    pub(super) fn pick(
        &self,
        listener: ListenerId,
        balance: Balance,
        affinity: Affinity,
        work: Work,
        failed: Option<WorkerId>,
    ) -> Option<Arc<Upstream>> {
        let workers = self.workers.borrow();
        if work == Work::Lasting {
            self.compares(&workers);
        }
        let sessions = lock(&self.sessions);
        // A session may have a connection of its own.
        let load = |u: &Upstream| {
            u.in_flight() + sessions.count(u.worker.id).max(u.given()) + u.yet_to_take()
        };
        let takers = workers.iter().filter(|u| u.takes_new(listener));
        let mut candidates: Vec<Candidate<'_>> = takers.map(Candidate::new).collect();
        prefer(&mut candidates, |u| Some(u.worker.id) != failed);
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
            let most = MAX_SHARE * candidates.iter().map(|u| u.load(load)).sum::<usize>();
            let n = candidates.len();
            prefer(&mut candidates, |u| !u.is_to_go() && u.load(load) * n <= most);
            if balance == Balance::LeastLoaded {
                prefer(&mut candidates, |u| u.has_room());
            }
        }
        let n = candidates.len();
        let at = match balance {
            Balance::RoundRobin => (n > 0).then(|| self.turn.fetch_add(1, Ordering::Relaxed) % n),
            Balance::LeastLoaded => less_loaded(n, fastrand::u64(..), |at| {
                weighed(candidates[at].load(load), candidates[at].started())
            }),
        };
        Some(candidates[at?].upstream.clone())
    }

    /// The worker of a session, as far as that is known.
    pub(super) fn worker_of(&self, sid: &str) -> Option<WorkerId> {
        lock(&self.sessions).find(sid, self.begun.elapsed())
    }
}

/// A worker that could be chosen.
struct Candidate<'a> {
    upstream: &'a Arc<Upstream>,
    /// Found out once.
    load: OnceCell<usize>,
}

impl<'a> Candidate<'a> {
    fn new(upstream: &'a Arc<Upstream>) -> Candidate<'a> {
        Candidate { upstream, load: OnceCell::new() }
    }

    fn load(&self, load: impl FnOnce(&Upstream) -> usize) -> usize {
        *self.load.get_or_init(|| load(self.upstream))
    }
}

impl Deref for Candidate<'_> {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        self.upstream
    }
}

/// Keeps those of which it is so, unless that leaves none.
fn prefer(candidates: &mut Vec<Candidate<'_>>, is_so: impl Fn(&Candidate<'_>) -> bool) {
    if candidates.iter().any(&is_so) {
        candidates.retain(is_so);
    }
}
