//! Clients' connections that a worker was given for good. Whether it still has them only the
//! kernel knows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::front::Front;
use super::peer::Peer;
use super::upstream::{ListenerId, Upstream};
use crate::sync::lock;
use crate::worker;
use crate::worker::held::Place;

/// What is spoken on a connection, as far as that decides how it can be closed.
#[derive(Debug, Clone)]
pub(super) enum Speaks {
    /// HTTP, request by request: it can be taken back between two. One that the worker accepted
    /// itself has no origin here.
    Http(Option<Arc<Origin>>),
    /// WebSocket, in the clear: anyone can say goodbye on it.
    WebSocket,
    /// What only its ends can read: TLS, HTTP/2.
    Other,
}

impl From<worker::Spoken> for Speaks {
    fn from(spoken: worker::Spoken) -> Speaks {
        match spoken {
            worker::Spoken::Http => Speaks::Http(None),
            worker::Spoken::WebSocket => Speaks::WebSocket,
            worker::Spoken::Other => Speaks::Other,
        }
    }
}

/// Where a connection came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) listener: ListenerId,
    pub(super) peer: Peer,
}

/// A connection that a worker has.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) inode: u64,
    pub(super) speaks: Speaks,
    pub(super) place: Place,
}

/// A connection that a worker was given, as one front-end tells another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    inode: u64,
    speaks: Spoken,
}

/// [`Speaks`], to be written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Spoken {
    Http { listener: usize, peer: Option<SocketAddr> },
    WebSocket,
    Other,
}

impl Upstream {
    /// The connections that it was given for good, and may still have.
    pub fn handed_over(&self) -> Vec<HandedOver> {
        let given = self.given_by_inode().into_iter();
        given.filter_map(|(inode, speaks)| HandedOver::of(inode, &speaks)).collect()
    }
}

impl HandedOver {
    /// `None`: where it came from is not known.
    pub(super) fn of(inode: u64, speaks: &Speaks) -> Option<HandedOver> {
        let speaks = match speaks {
            Speaks::Http(origin) => {
                let Origin { listener, peer } = **origin.as_ref()?;
                Spoken::Http { listener: listener.0, peer: peer.address }
            }
            Speaks::WebSocket => Spoken::WebSocket,
            Speaks::Other => Spoken::Other,
        };
        Some(HandedOver { inode, speaks })
    }

    /// The connection's inode.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

impl Front {
    /// A worker was given these connections by a predecessor of ours.
    pub fn has_been_given(&self, upstream: &Arc<Upstream>, given: Vec<HandedOver>) {
        for HandedOver { inode, speaks } in given {
            let speaks = match speaks {
                Spoken::Http { listener, peer } => {
                    let origin = Origin { listener: ListenerId(listener), peer: self.peer(peer) };
                    Speaks::Http(Some(Arc::new(origin)))
                }
                Spoken::WebSocket => Speaks::WebSocket,
                Spoken::Other => Speaks::Other,
            };
            upstream.has(inode, speaks);
        }
    }
}

/// So many have to be new before it is looked which of all still exist,
const NEW: usize = 64;

/// or so much time has to have passed: a worker that nothing is sent to seems as busy as it was.
const BELIEVED: Duration = Duration::from_secs(1);

/// In any case it is not done before so much time has passed, compared with what the last look took.
const PATIENCE: u32 = 100;

/// So many of the newest are remembered in their order: as many as can be on their way, and more.
const NEWEST: usize = 512;

/// For so long after it was sent nobody says that a connection is over because it is nowhere to be seen:
/// between the lane and a worker's descriptors there is a moment at which it is in neither.
const YOUNG: Duration = Duration::from_millis(100);

/// The connections of one worker. Those that have ended since are forgotten now and then. Pure: time is
/// an argument.
#[derive(Debug, Default)]
pub(super) struct Given {
    by_inode: HashMap<u64, Speaks>,
    newest: VecDeque<(u64, Instant)>,
    /// So many since the last look.
    new: usize,
}

impl Given {
    /// One more.
    pub(super) fn add(&mut self, inode: u64, speaks: Speaks, now: Instant) {
        self.by_inode.insert(inode, speaks);
        if self.newest.len() == NEWEST {
            self.newest.pop_front();
        }
        self.newest.push_back((inode, now));
        self.new += 1;
    }

    /// It has not got this one.
    pub(super) fn remove(&mut self, inode: u64) -> Option<Speaks> {
        self.by_inode.remove(&inode)
    }

    /// How many there are at most.
    pub(super) fn len(&self) -> usize {
        self.by_inode.len()
    }

    /// Whether there may be one that can be taken back.
    pub(super) fn has_http(&self) -> bool {
        self.by_inode.values().any(|speaks| matches!(speaks, Speaks::Http(_)))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(u64, Speaks)> {
        self.by_inode.iter().map(|(inode, speaks)| (*inode, speaks.clone())).collect()
    }

    /// Those that there may be, but for the newest, of which so many are yet to be taken: what to look
    /// for.
    pub(super) fn known(&self, yet_to_take: usize) -> Vec<u64> {
        let newest = self.newest.iter().rev().map(|(inode, _)| *inode);
        let on_their_way: HashSet<u64> = newest.take(yet_to_take).collect();
        let all = self.by_inode.keys().copied();
        all.filter(|inode| !on_their_way.contains(inode)).collect()
    }

    /// Of those that were `known` when it began to be looked, these still exist.
    pub(super) fn looked(
        &mut self,
        known: &[u64],
        sockets: &HashMap<u64, Place>,
        began: Instant,
    ) -> Vec<Connection> {
        let is_young = |at: Instant| began.saturating_duration_since(at) < YOUNG;
        let newest = self.newest.iter().rev();
        let young: HashSet<u64> =
            newest.take_while(|(_, at)| is_young(*at)).map(|(inode, _)| *inode).collect();
        for inode in known {
            if !sockets.contains_key(inode) && !young.contains(inode) {
                self.by_inode.remove(inode);
            }
        }
        self.new = 0;
        let connection = |inode: &u64| {
            let (speaks, place) = (self.by_inode.get(inode)?.clone(), *sockets.get(inode)?);
            Some(Connection { inode: *inode, speaks, place })
        };
        known.iter().filter_map(connection).collect()
    }
}

/// When it is looked which connections all workers still have. At all of them at the same time: one that
/// has just been looked at would seem less busy than another, and would be given everything.
#[derive(Debug, Default)]
pub(super) struct Looks {
    looking: bool,
    /// When the last one ended, and how long it took.
    last: Option<(Instant, Duration)>,
}

impl Looks {
    /// Whether somebody has to look, which is expected from then on; these are all workers'.
    fn begin<'a>(
        &mut self,
        all: impl Iterator<Item = MutexGuard<'a, Given>>,
        now: Instant,
    ) -> bool {
        let since = |(at, _)| now.saturating_duration_since(at);
        let rested = |last: (Instant, Duration)| since(last) >= last.1 * PATIENCE;
        if self.looking || !self.last.is_none_or(rested) {
            return false;
        }
        let is_old = self.last.is_none_or(|last| since(last) >= BELIEVED);
        let is_due = |given: MutexGuard<'_, Given>| given.new >= NEW || is_old && given.len() > 0;
        self.looking = { all }.any(is_due);
        self.looking
    }

    fn end(&mut self, began: Instant, now: Instant) {
        *self = Looks { looking: false, last: Some((now, now.saturating_duration_since(began))) };
    }
}

impl Front {
    /// Something that lasts is about to be given to one of these: has it looked up which they still have, if
    /// it is time.
    pub(super) fn compares(self: &Front, workers: &[Arc<Upstream>]) {
        let all = workers.iter().map(|upstream| lock(&upstream.given));
        if !lock(&self.looks).begin(all, Instant::now()) {
            return;
        }
        let (looks, workers) = (self.looks.clone(), workers.to_vec());
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let seen: Vec<_> = workers.iter().map(|upstream| upstream.sees()).collect();
            for (upstream, (known, sockets)) in workers.iter().zip(&seen) {
                lock(&upstream.given).looked(known, sockets, began);
            }
            lock(&looks).end(began, Instant::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::super::affinity::Affinity;
    use super::super::choose::Work;
    use super::*;
    use crate::config::{Balance, Config};
    use crate::worker::{Worker, WorkerId};

    fn sees(inodes: impl IntoIterator<Item = u64>) -> HashMap<u64, Place> {
        inodes.into_iter().map(|inode| (inode, Place::of_ours(3))).collect()
    }

    fn given(inodes: impl IntoIterator<Item = u64>, now: Instant) -> Given {
        let mut given = Given::default();
        inodes.into_iter().for_each(|inode| given.add(inode, Speaks::WebSocket, now));
        given
    }

    #[test]
    fn those_that_are_on_their_way_are_not_over() {
        let now = Instant::now();
        let mut one = given(0..150, now);
        let known = one.known(30);
        assert_eq!(known.len(), 120);
        assert_eq!(one.looked(&known, &sees(0..10), now).len(), 10);
        assert_eq!(one.len(), 150, "all of them may just be arriving");
        let later = now + YOUNG;
        assert_eq!(one.looked(&known, &sees(0..10), later).len(), 10);
        assert_eq!(one.len(), 40, "what is over is forgotten");
        assert!(one.remove(149).is_some() && one.remove(149).is_none());
        let known = one.known(0);
        one.looked(&known, &sees([]), later);
        assert_eq!(one.len(), 0);
    }

    #[test]
    fn a_count_is_believed_until_there_is_much_new_or_it_is_old() {
        fn begins(looks: &mut Looks, given: &Mutex<Given>, now: Instant) -> bool {
            looks.begin([lock(given)].into_iter(), now)
        }
        let now = Instant::now();
        let (none, few, many) = (given([], now), given([1], now), given(0..NEW as u64, now));
        let [none, few, many] = [none, few, many].map(Mutex::new);
        let mut looks = Looks::default();
        assert!(!begins(&mut looks, &none, now), "none can't be fewer");
        assert!(begins(&mut looks, &few, now));
        assert!(!begins(&mut looks, &many, now), "somebody looks");
        looks.end(now, now);
        assert!(!begins(&mut looks, &few, now));
        assert!(begins(&mut looks, &many, now));
        looks.end(now, now);
        assert!(begins(&mut looks, &few, now + BELIEVED));
        looks.end(now, now + BELIEVED);
        let then = now + BELIEVED * (1 + PATIENCE);
        assert!(!begins(&mut looks, &many, then - YOUNG), "one that takes long is rare");
        assert!(begins(&mut looks, &many, then));
    }

    /// Wherever a client belongs: none of it may stay for ever.
    #[tokio::test]
    async fn what_is_over_is_forgotten_also_where_load_does_not_decide() {
        let text = "exec = ['worker']\nlisten = ['8080']\n";
        let config = Config::parse(Path::new("/app.toml"), text).expect("a good configuration");
        let front = Front::new(&config, None, Vec::new()).expect("a front-end");
        let worker = Worker::new(WorkerId(1), 0, std::process::id(), None, None);
        let upstream = Arc::new(Upstream::new(Arc::new(worker), front.slot(0)));
        upstream.open_private("worker".into());
        front.add(upstream.clone());
        upstream.has(u64::MAX, Speaks::Other); // nobody's
        let forgotten = async {
            while upstream.given() > 0 {
                let here = (Affinity::Slot(0), Work::Lasting);
                front.pick(ListenerId(0), Balance::LeastLoaded, here.0, here.1, None);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), forgotten).await.expect("in time");
    }
}
