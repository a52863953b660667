//! Clients' connections that a worker was given for good. Whether it still has them only the
//! kernel knows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::front::Front;
use super::peer::Peer;
use super::upstream::{ListenerId, Upstream};
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

/// and so much time has to have passed, compared with what the last look took.
const PATIENCE: u32 = 100;

/// So many of the newest are remembered in their order: as many as can be on their way, and more.
const NEWEST: usize = 512;

/// A share says something when it is of so many at least.
const SOME: usize = 16;

/// The connections of one worker. Those that have ended since are forgotten now and then.
#[derive(Debug)]
pub(super) struct Given {
    /// Those that were still there at the last look.
    seen: HashMap<u64, Speaks>,
    /// Those since.
    new: HashMap<u64, Speaks>,
    newest: VecDeque<u64>,
    /// Of the new ones, such a share was still there at the last looks.
    lasting: f64,
    looking: bool,
    not_before: Option<Instant>,
}

impl Default for Given {
    fn default() -> Given {
        Given {
            seen: HashMap::new(),
            new: HashMap::new(),
            newest: VecDeque::new(),
            lasting: 1.0,
            looking: false,
            not_before: None,
        }
    }
}

impl Given {
    /// One more. Whether it is time to look which there still are.
    pub(super) fn add(&mut self, inode: u64, speaks: Speaks) -> bool {
        self.seen.remove(&inode);
        self.new.insert(inode, speaks);
        if self.newest.len() == NEWEST {
            self.newest.pop_front();
        }
        self.newest.push_back(inode);
        let rested = || self.not_before.is_none_or(|at| at <= Instant::now());
        let due = self.new.len() >= NEW && !self.looking && rested();
        self.looking |= due;
        due
    }

    /// It has not got this one.
    pub(super) fn remove(&mut self, inode: u64) -> Option<Speaks> {
        self.new.remove(&inode).or_else(|| self.seen.remove(&inode))
    }

    /// How many there are at most.
    pub(super) fn len(&self) -> usize {
        self.seen.len() + self.new.len()
    }

    /// About how many there are: of those of which nothing is known, as many as of earlier ones.
    pub(super) fn about(&self) -> usize {
        self.seen.len() + (self.new.len() as f64 * self.lasting) as usize
    }

    /// Whether there may be one that can be taken back.
    pub(super) fn has_http(&self) -> bool {
        self.by_inode().any(|(_, speaks)| matches!(speaks, Speaks::Http(_)))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(u64, Speaks)> {
        self.by_inode().map(|(inode, speaks)| (*inode, speaks.clone())).collect()
    }

    fn by_inode(&self) -> impl Iterator<Item = (&u64, &Speaks)> {
        self.seen.iter().chain(&self.new)
    }

    /// Those that there may be, but for the newest, of which so many are yet to be taken: what to look
    /// for.
    pub(super) fn known(&self, yet_to_take: usize) -> Vec<u64> {
        let on_their_way: HashSet<u64> =
            self.newest.iter().rev().take(yet_to_take).copied().collect();
        let all = self.by_inode().map(|(inode, _)| *inode);
        all.filter(|inode| !on_their_way.contains(inode)).collect()
    }

    /// Of those that were `known`, these still exist. To find that out took so long.
    pub(super) fn looked(
        &mut self,
        known: &[u64],
        sockets: &HashMap<u64, Place>,
        took: Duration,
    ) -> Vec<Connection> {
        let (mut new, mut lasting) = (0, 0);
        for inode in known {
            let is_there = sockets.contains_key(inode);
            if let Some(speaks) = self.new.remove(inode) {
                new += 1;
                if is_there {
                    lasting += 1;
                    self.seen.insert(*inode, speaks);
                }
            } else if !is_there {
                self.seen.remove(inode);
            }
        }
        if new >= SOME {
            self.lasting = f64::midpoint(self.lasting, f64::from(lasting) / new as f64);
        }
        self.new.shrink_to(NEW);
        self.looking = false;
        self.not_before = Some(Instant::now() + took * PATIENCE);
        let connection = |inode: &u64| {
            let (speaks, place) = (self.seen.get(inode)?.clone(), *sockets.get(inode)?);
            Some(Connection { inode: *inode, speaks, place })
        };
        known.iter().filter_map(connection).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a look sees in which these are there.
    fn sees(inodes: impl IntoIterator<Item = u64>) -> HashMap<u64, Place> {
        inodes.into_iter().map(|inode| (inode, Place::of_ours(3))).collect()
    }

    /// A worker with connections that last, which is then given others that don't.
    fn given() -> Given {
        let mut given = Given::default();
        for inode in 0..100 {
            given.add(inode, Speaks::WebSocket);
        }
        given.looked(&given.known(0), &sees(0..100), Duration::ZERO);
        given
    }

    #[test]
    fn as_many_new_ones_count_as_have_lasted_before() {
        let mut given = given();
        assert_eq!((given.about(), given.len()), (100, 100));
        for look in 1..20 {
            for n in 0..200 {
                given.add(1000 * look + n, Speaks::Other);
            }
            assert_eq!(given.len(), 300);
            let found = given.looked(&given.known(0), &sees(0..100), Duration::ZERO);
            assert_eq!((found.len(), given.len()), (100, 100), "what is over is forgotten");
        }
        for n in 0..200 {
            given.add(1_000_000 + n, Speaks::Other);
        }
        assert_eq!((given.about(), given.len()), (100, 300));
    }

    #[test]
    fn those_that_are_on_their_way_are_not_looked_for() {
        let mut given = given();
        for inode in 100..150 {
            given.add(inode, Speaks::WebSocket);
        }
        let known = given.known(30);
        assert_eq!(known.len(), 120);
        given.looked(&known, &sees([]), Duration::ZERO);
        assert_eq!(given.len(), 30);
        assert!(given.remove(149).is_some() && given.remove(149).is_none());
    }

    #[test]
    fn few_say_nothing() {
        let mut given = given();
        given.add(100, Speaks::WebSocket);
        given.looked(&given.known(0), &sees(0..100), Duration::ZERO);
        for inode in 200..300 {
            given.add(inode, Speaks::WebSocket);
        }
        assert_eq!(given.about(), 200);
    }
}
