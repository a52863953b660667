//! Who gets a cluster adapter's packet. Pure: packets and members in, worker ids out.
//!
//! Two dialects are in use (facts and numbers from the published packages): adapters 0.1 and 0.2
//! know each other by worker id, adapter 0.3 by a uid for each namespace. A packet goes to every
//! other worker of its dialect, a response only to the worker that asked. Workers that have not
//! said anything yet get both: their first words are an answer.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::worker::WorkerId;
use crate::worker::wire::Packet;

/// Namespaces of one worker whose end is announced when it dies. A server with more has made them
/// up on the fly, and its other adapters notice by their own heartbeat.
const MAX_ADAPTERS: usize = 10_000;

/// 0.1 and 0.2: responses to `fetchSockets` and to `serverSideEmit`.
const FETCH_SOCKETS_RESPONSE: i64 = 9;
const SERVER_SIDE_EMIT_RESPONSE: i64 = 11;

/// The workers whose packets are relayed to each other.
#[derive(Debug, Default)]
pub struct Members {
    list: Vec<Member>,
    /// Which worker an adapter (0.3) lives in.
    owners: HashMap<String, WorkerId>,
}

#[derive(Debug)]
struct Member {
    id: WorkerId,
    known: Adapters,
}

/// What is known of a worker's adapters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapters {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialect: Option<Dialect>,
    /// Uid and namespace of each (0.3).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    uids: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dialect {
    Uid,
    Worker,
}

/// What the others have to be told when a worker is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// 0.3: this adapter has closed.
    Adapter {
        /// Its uid.
        uid: String,
        /// Its namespace.
        nsp: String,
    },
    /// 0.1 and 0.2: this worker has exited.
    Worker(WorkerId),
}

impl Members {
    /// A worker's channel is open; so much is known of its adapters.
    pub fn join(&mut self, id: WorkerId, known: Adapters) {
        self.owners.extend(known.uids.iter().map(|(uid, _)| (uid.clone(), id)));
        self.list.push(Member { id, known });
    }

    /// What is known of a worker's adapters.
    pub fn adapters(&self, id: WorkerId) -> Adapters {
        let member = self.list.iter().find(|m| m.id == id);
        member.map(|m| m.known.clone()).unwrap_or_default()
    }

    /// A worker is gone: what to tell the others, if it has ever said anything.
    pub fn leave(&mut self, id: WorkerId) -> Vec<Farewell> {
        let Some(at) = self.list.iter().position(|m| m.id == id) else { return Vec::new() };
        let member = self.list.swap_remove(at);
        self.owners.retain(|_, owner| *owner != id);
        match member.known.dialect {
            None => Vec::new(),
            Some(Dialect::Worker) => vec![Farewell::Worker(id)],
            Some(Dialect::Uid) => member
                .known
                .uids
                .into_iter()
                .map(|(uid, nsp)| Farewell::Adapter { uid, nsp })
                .collect(),
        }
    }

    /// Who hears a farewell: the dialect's speakers.
    pub fn hear(&self, farewell: &Farewell) -> Vec<WorkerId> {
        let dialect = match farewell {
            Farewell::Adapter { .. } => Dialect::Uid,
            Farewell::Worker(_) => Dialect::Worker,
        };
        self.list.iter().filter(|m| m.known.dialect == Some(dialect)).map(|m| m.id).collect()
    }

    /// Appends the recipients of a packet to `to`, and learns who sent it.
    pub fn route(&mut self, from: WorkerId, packet: &Packet<'_>, to: &mut Vec<WorkerId>) {
        let dialect = match packet {
            Packet::Uid { .. } => Dialect::Uid,
            Packet::Worker { .. } => Dialect::Worker,
        };
        self.learn(from, packet, dialect);
        let requester = match *packet {
            Packet::Uid { requester: Some(uid), .. } => self.owners.get(uid).copied(),
            Packet::Worker {
                kind: FETCH_SOCKETS_RESPONSE | SERVER_SIDE_EMIT_RESPONSE,
                requester: Some(id),
            } => Some(WorkerId(id)),
            Packet::Uid { requester: None, .. } | Packet::Worker { .. } => {
                let others = self.list.iter().filter(|m| m.id != from);
                to.extend(others.filter(|m| m.known.dialect.is_none_or(|d| d == dialect)).map(|m| m.id));
                return;
            }
        };
        // A response to an adapter that is gone is nobody's.
        to.extend(requester.filter(|id| *id != from && self.list.iter().any(|m| m.id == *id)));
    }

    fn learn(&mut self, from: WorkerId, packet: &Packet<'_>, dialect: Dialect) {
        let Some(member) = self.list.iter_mut().find(|m| m.id == from) else { return };
        member.known.dialect = Some(dialect);
        if let Packet::Uid { uid, nsp, .. } = *packet
            && !self.owners.contains_key(uid)
            && member.known.uids.len() < MAX_ADAPTERS
        {
            self.owners.insert(uid.to_owned(), from);
            member.known.uids.push((uid.to_owned(), nsp.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u64]) -> Members {
        let mut members = Members::default();
        ids.iter().for_each(|id| members.join(WorkerId(*id), Adapters::default()));
        members
    }

    fn routed(members: &mut Members, from: u64, packet: Packet<'_>) -> Vec<u64> {
        let mut to = Vec::new();
        members.route(WorkerId(from), &packet, &mut to);
        let mut ids: Vec<u64> = to.iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids
    }

    const NOBODY: [u64; 0] = [];

    fn uid<'a>(uid: &'a str, requester: Option<&'a str>) -> Packet<'a> {
        Packet::Uid { uid, nsp: "/", requester }
    }

    #[test]
    fn uid_dialect() {
        let mut m = members(&[1, 2, 3]);
        assert_eq!(routed(&mut m, 1, uid("a", None)), [2, 3], "never back to its sender");
        assert_eq!(routed(&mut m, 2, uid("b", None)), [1, 3]);
        assert_eq!(routed(&mut m, 2, uid("b", Some("a"))), [1], "a response only to who asked");
        assert_eq!(routed(&mut m, 2, uid("b", Some("gone"))), NOBODY, "nobody asked");
        assert_eq!(m.leave(WorkerId(1)), [Farewell::Adapter { uid: "a".into(), nsp: "/".into() }]);
        assert_eq!(routed(&mut m, 2, uid("b", Some("a"))), NOBODY);
        assert_eq!(m.leave(WorkerId(1)), [], "a worker leaves once");
        assert_eq!(m.leave(WorkerId(3)), [], "who never spoke has nothing to announce");
    }

    #[test]
    fn what_is_known_of_a_worker_goes_with_it() {
        let mut before = members(&[1, 2]);
        routed(&mut before, 1, uid("a", None));
        let mut m = Members::default();
        [1, 2].into_iter().map(WorkerId).for_each(|id| m.join(id, before.adapters(id)));
        assert_eq!(routed(&mut m, 2, uid("b", Some("a"))), [1], "its uid is known");
        let farewell = Farewell::Adapter { uid: "a".into(), nsp: "/".into() };
        assert_eq!(m.leave(WorkerId(1)), [farewell]);
    }

    #[test]
    fn worker_dialect() {
        let mut m = members(&[1, 2, 3]);
        let packet = |kind, requester| Packet::Worker { kind, requester };
        assert_eq!(routed(&mut m, 1, packet(1, None)), [2, 3]);
        assert_eq!(routed(&mut m, 2, packet(1, None)), [1, 3]);
        assert_eq!(routed(&mut m, 1, packet(8, Some(1))), [2, 3], "a question names its asker too");
        assert_eq!(routed(&mut m, 2, packet(9, Some(1))), [1]);
        assert_eq!(routed(&mut m, 2, packet(11, Some(1))), [1]);
        assert_eq!(routed(&mut m, 2, packet(11, Some(9))), NOBODY, "the asker is gone");
        let farewell = m.leave(WorkerId(1));
        assert_eq!(farewell, [Farewell::Worker(WorkerId(1))]);
        assert_eq!(m.hear(&farewell[0]), [WorkerId(2)], "3 has never spoken the dialect");
    }

    #[test]
    fn dialects_never_cross() {
        // A number means one thing in 0.2 and another in 0.3: during an upgrade both are there.
        let mut m = members(&[1, 2, 3, 4]);
        routed(&mut m, 1, uid("a", None));
        routed(&mut m, 2, Packet::Worker { kind: 1, requester: None });
        assert_eq!(routed(&mut m, 1, uid("a", None)), [3, 4]);
        assert_eq!(routed(&mut m, 2, Packet::Worker { kind: 4, requester: None }), [3, 4]);
    }
}
