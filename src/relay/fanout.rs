//! Who gets a cluster adapter's packet. Pure: packets and members in, recipients out.
//!
//! Two dialects are in use (facts and numbers from the published packages): adapters 0.1 and 0.2
//! know each other by worker id, adapter 0.3 by a uid for each namespace. A packet goes to every
//! other worker of its dialect, a response only to the worker that asked. Workers that have not
//! said anything yet get both: their first words are an answer.
//!
//! Workers of other hosts are members too. What is for all of them goes to every host once.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::bus::wire::HostId;
use crate::worker::WorkerId;
use crate::worker::wire::Packet;

/// Namespaces of one worker whose end is announced when it dies. A server with more has made them
/// up on the fly, and its other adapters notice by their own heartbeat.
const MAX_ADAPTERS: usize = 10_000;

/// Workers of one host that are known here.
const MAX_WORKERS: usize = 10_000;

/// What is known of all workers of other hosts, in bytes (16 MiB): a hundred thousand adapters.
const MAX_ABROAD: usize = 16 << 20;

/// What an adapter or a worker takes besides its names.
const ENTRY: usize = 128;

/// 0.1 and 0.2: responses to `fetchSockets` and to `serverSideEmit`.
const FETCH_SOCKETS_RESPONSE: i64 = 9;
const SERVER_SIDE_EMIT_RESPONSE: i64 = 11;

/// The workers whose packets are relayed to each other.
#[derive(Debug, Default)]
pub struct Members {
    list: Vec<Member>,
    /// Those of each other host.
    abroad: BTreeMap<HostId, BTreeMap<WorkerId, Adapters>>,
    /// How many bytes that is.
    held: usize,
    /// Which worker an adapter (0.3) lives in.
    owners: HashMap<String, Home>,
}

/// A worker, and its host if that is another.
type Home = (Option<HostId>, WorkerId);

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
    /// The namespace of each (0.1 and 0.2).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    namespaces: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dialect {
    Uid,
    Worker,
}

/// What other workers have to be told of one, in its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It is there.
    There(Speaker),
    /// It is gone.
    Gone(Speaker),
}

/// As what a worker is known to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaker {
    /// 0.3: an adapter.
    Adapter {
        /// Its uid.
        uid: String,
        /// Its namespace.
        nsp: String,
    },
    /// 0.1 and 0.2: a worker, in one namespace or in all.
    Worker(WorkerId, Option<String>),
}

/// Which other hosts a packet goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abroad {
    /// None.
    Nowhere,
    /// All.
    Everywhere,
    /// The one whose worker has asked.
    To(HostId),
}

impl Adapters {
    fn bytes(&self) -> usize {
        let uids = self.uids.iter().map(|(uid, nsp)| of_uid(uid, nsp));
        let namespaces = self.namespaces.iter().map(|nsp| ENTRY + nsp.len());
        ENTRY + uids.chain(namespaces).sum::<usize>()
    }

    fn speakers(self, id: WorkerId) -> Vec<Speaker> {
        let adapters = self.uids.into_iter().map(|(uid, nsp)| Speaker::Adapter { uid, nsp });
        let namespaces = self.namespaces.into_iter();
        adapters.chain(namespaces.map(|nsp| Speaker::Worker(id, Some(nsp)))).collect()
    }

    /// As what it is gone.
    fn farewell(self, id: WorkerId) -> Vec<Notice> {
        match self.dialect {
            None => Vec::new(),
            Some(Dialect::Worker) => vec![Notice::Gone(Speaker::Worker(id, None))],
            Some(Dialect::Uid) => self.speakers(id).into_iter().map(Notice::Gone).collect(),
        }
    }
}

impl Members {
    /// A worker's channel is open; so much is known of its adapters.
    pub fn join(&mut self, id: WorkerId, known: Adapters) {
        self.owners.extend(known.uids.iter().map(|(uid, _)| (uid.clone(), (None, id))));
        self.list.push(Member { id, known });
    }

    /// What is known of a worker's adapters.
    pub fn adapters(&self, id: WorkerId) -> Adapters {
        let member = self.list.iter().find(|m| m.id == id);
        member.map(|m| m.known.clone()).unwrap_or_default()
    }

    /// What is known of all workers here.
    pub fn here(&self) -> impl Iterator<Item = (WorkerId, &Adapters)> {
        self.list.iter().map(|member| (member.id, &member.known))
    }

    /// What is known of the workers of another host.
    pub fn there(&self, host: HostId) -> impl Iterator<Item = (WorkerId, &Adapters)> {
        self.abroad.get(&host).into_iter().flatten().map(|(id, known)| (*id, known))
    }

    /// A worker is gone: what to tell the others, if it has ever said anything.
    pub fn leave(&mut self, id: WorkerId) -> Vec<Notice> {
        let Some(at) = self.list.iter().position(|m| m.id == id) else { return Vec::new() };
        self.owners.retain(|_, owner| *owner != (None, id));
        self.list.swap_remove(at).known.farewell(id)
    }

    /// A host is there, with these workers, maybe in place of another, whose they were: what to tell
    /// those here.
    pub fn host_came(
        &mut self,
        host: HostId,
        follows: Option<HostId>,
        workers: impl IntoIterator<Item = (WorkerId, Adapters)>,
    ) -> Vec<Notice> {
        let mut gone: Vec<Notice> = follows.map(|host| self.host_left(host)).unwrap_or_default();
        gone.extend(self.host_left(host));
        let mut there = Vec::new();
        let theirs = self.abroad.entry(host).or_default();
        for (id, mut known) in workers.into_iter().take(MAX_WORKERS) {
            known.uids.truncate(MAX_ADAPTERS);
            let bytes = known.bytes();
            if self.held + bytes > MAX_ABROAD {
                break;
            }
            // An adapter that lives elsewhere has not moved.
            known.uids.retain(|(uid, _)| match self.owners.entry(uid.clone()) {
                Entry::Occupied(_) => false,
                Entry::Vacant(vacant) => {
                    vacant.insert((Some(host), id));
                    true
                }
            });
            there.extend(known.clone().speakers(id));
            self.held += known.bytes();
            self.held -= theirs.insert(id, known).map_or(0, |before| before.bytes());
        }
        gone.retain(|notice| match notice {
            Notice::Gone(Speaker::Adapter { uid, .. }) => !self.owners.contains_key(uid),
            Notice::Gone(Speaker::Worker(id, _)) => !theirs.contains_key(id),
            Notice::There(_) => true,
        });
        gone.extend(there.into_iter().map(Notice::There));
        gone
    }

    /// A worker of another host is gone: what to tell those here.
    pub fn left_there(&mut self, host: HostId, id: WorkerId) -> Vec<Notice> {
        let known = self.abroad.get_mut(&host).and_then(|workers| workers.remove(&id));
        self.owners.retain(|_, owner| *owner != (Some(host), id));
        self.held -= known.as_ref().map_or(0, Adapters::bytes);
        known.map(|known| known.farewell(id)).unwrap_or_default()
    }

    /// A host is gone: what to tell the workers here.
    pub fn host_left(&mut self, host: HostId) -> Vec<Notice> {
        self.owners.retain(|_, owner| owner.0 != Some(host));
        let workers = self.abroad.remove(&host).unwrap_or_default();
        self.held -= workers.values().map(Adapters::bytes).sum::<usize>();
        workers.into_iter().flat_map(|(id, known)| known.farewell(id)).collect()
    }

    /// Who hears a notice: the dialect's speakers.
    pub fn hear(&self, notice: &Notice) -> Vec<WorkerId> {
        let (Notice::There(speaker) | Notice::Gone(speaker)) = notice;
        let dialect = match speaker {
            Speaker::Adapter { .. } => Dialect::Uid,
            Speaker::Worker(..) => Dialect::Worker,
        };
        self.list.iter().filter(|m| m.known.dialect == Some(dialect)).map(|m| m.id).collect()
    }

    /// Appends the recipients of a packet to `to`, and learns who sent it. Returns where else it goes.
    pub fn route(&mut self, from: WorkerId, packet: &Packet<'_>, to: &mut Vec<WorkerId>) -> Abroad {
        if let Some(member) = self.list.iter_mut().find(|m| m.id == from) {
            learn(&mut member.known, &mut self.owners, (None, from), packet);
        }
        match self.asked_by(packet) {
            Asker::Everybody(dialect) => {
                to.extend(self.speakers_of(dialect).filter(|id| *id != from));
                if self.abroad.is_empty() { Abroad::Nowhere } else { Abroad::Everywhere }
            }
            Asker::One(None, id) => {
                to.extend((id != from).then_some(id));
                Abroad::Nowhere
            }
            Asker::One(Some(host), _) => Abroad::To(host),
            Asker::Nobody => Abroad::Nowhere,
        }
    }

    /// Appends the recipients of a packet of another host's worker to `to`, and learns who sent it.
    pub fn route_from(
        &mut self,
        host: HostId,
        from: WorkerId,
        packet: &Packet<'_>,
        to: &mut Vec<WorkerId>,
    ) {
        if let Some(workers) = self.abroad.get_mut(&host)
            && (workers.len() < MAX_WORKERS || workers.contains_key(&from))
            && self.held + 2 * ENTRY + names(packet) <= MAX_ABROAD
        {
            let known = workers.entry(from).or_insert_with(|| {
                self.held += ENTRY;
                Adapters::default()
            });
            self.held += learn(known, &mut self.owners, (Some(host), from), packet);
        }
        match self.asked_by(packet) {
            Asker::Everybody(dialect) => to.extend(self.speakers_of(dialect)),
            Asker::One(None, id) => to.push(id),
            Asker::One(Some(_), _) | Asker::Nobody => {}
        }
    }

    fn speakers_of(&self, dialect: Dialect) -> impl Iterator<Item = WorkerId> {
        let speaks = move |m: &&Member| m.known.dialect.is_none_or(|known| known == dialect);
        self.list.iter().filter(speaks).map(|m| m.id)
    }

    fn asked_by(&self, packet: &Packet<'_>) -> Asker {
        let home = match *packet {
            Packet::Uid { requester: Some(uid), .. } => self.owners.get(uid).copied(),
            Packet::Worker {
                kind: FETCH_SOCKETS_RESPONSE | SERVER_SIDE_EMIT_RESPONSE,
                requester: Some(id),
                ..
            } => self.home_of(WorkerId(id)),
            Packet::Uid { requester: None, .. } | Packet::Worker { .. } => {
                return Asker::Everybody(dialect(packet));
            }
        };
        // A response to an adapter that is gone is nobody's.
        home.map_or(Asker::Nobody, |(host, id)| Asker::One(host, id))
    }

    fn home_of(&self, id: WorkerId) -> Option<Home> {
        if self.list.iter().any(|m| m.id == id) {
            return Some((None, id));
        }
        let host = self.abroad.iter().find(|(_, workers)| workers.contains_key(&id));
        host.map(|(host, _)| (Some(*host), id))
    }
}

/// Whom a packet is for.
enum Asker {
    /// Every speaker of the dialect.
    Everybody(Dialect),
    /// The worker that asked.
    One(Option<HostId>, WorkerId),
    Nobody,
}

fn dialect(packet: &Packet<'_>) -> Dialect {
    match packet {
        Packet::Uid { .. } => Dialect::Uid,
        Packet::Worker { .. } => Dialect::Worker,
    }
}

/// Of an adapter: its uid is written down twice.
fn of_uid(uid: &str, nsp: &str) -> usize {
    ENTRY + 2 * uid.len() + nsp.len()
}

/// How long what a packet has its sender known as is, at most.
fn names(packet: &Packet<'_>) -> usize {
    match packet {
        Packet::Uid { uid, nsp, .. } => 2 * uid.len() + nsp.len(),
        Packet::Worker { nsp, .. } => nsp.map_or(0, str::len),
    }
}

/// How many bytes more are known then.
fn learn(
    known: &mut Adapters,
    owners: &mut HashMap<String, Home>,
    home: Home,
    packet: &Packet<'_>,
) -> usize {
    known.dialect = Some(dialect(packet));
    match *packet {
        Packet::Uid { uid, nsp, .. }
            if !owners.contains_key(uid) && known.uids.len() < MAX_ADAPTERS =>
        {
            owners.insert(uid.to_owned(), home);
            known.uids.push((uid.to_owned(), nsp.to_owned()));
            of_uid(uid, nsp)
        }
        Packet::Worker { nsp: Some(nsp), .. }
            if !known.namespaces.contains(nsp) && known.namespaces.len() < MAX_ADAPTERS =>
        {
            known.namespaces.insert(nsp.to_owned());
            ENTRY + nsp.len()
        }
        Packet::Uid { .. } | Packet::Worker { .. } => 0,
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

    fn adapter(uid: &str) -> Speaker {
        Speaker::Adapter { uid: uid.into(), nsp: "/".into() }
    }

    /// Of adapter 0.2, in the main namespace.
    fn by_number<'a>(kind: i64, requester: Option<u64>) -> Packet<'a> {
        Packet::Worker { kind, nsp: Some("/"), requester }
    }

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
        assert_eq!(m.leave(WorkerId(1)), [Notice::Gone(adapter("a"))]);
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
        assert_eq!(m.leave(WorkerId(1)), [Notice::Gone(adapter("a"))]);
    }

    #[test]
    fn worker_dialect() {
        let mut m = members(&[1, 2, 3]);
        assert_eq!(routed(&mut m, 1, by_number(1, None)), [2, 3]);
        assert_eq!(routed(&mut m, 2, by_number(1, None)), [1, 3]);
        assert_eq!(
            routed(&mut m, 1, by_number(8, Some(1))),
            [2, 3],
            "a question names its asker too"
        );
        assert_eq!(routed(&mut m, 2, by_number(9, Some(1))), [1]);
        assert_eq!(routed(&mut m, 2, by_number(11, Some(1))), [1]);
        assert_eq!(routed(&mut m, 2, by_number(11, Some(9))), NOBODY, "the asker is gone");
        let farewell = m.leave(WorkerId(1));
        assert_eq!(farewell, [Notice::Gone(Speaker::Worker(WorkerId(1), None))]);
        assert_eq!(m.hear(&farewell[0]), [WorkerId(2)], "3 has never spoken the dialect");
    }

    #[test]
    fn dialects_never_cross() {
        // A number means one thing in 0.2 and another in 0.3: during an upgrade both are there.
        let mut m = members(&[1, 2, 3, 4]);
        routed(&mut m, 1, uid("a", None));
        routed(&mut m, 2, by_number(1, None));
        assert_eq!(routed(&mut m, 1, uid("a", None)), [3, 4]);
        assert_eq!(routed(&mut m, 2, by_number(4, None)), [3, 4]);
    }

    const A: HostId = HostId(0xa);
    const B: HostId = HostId(0xb);

    /// What is known of a worker that has sent these packets.
    fn after(packets: &[Packet<'_>]) -> Adapters {
        let mut m = members(&[1]);
        packets.iter().for_each(|packet| drop(routed(&mut m, 1, *packet)));
        m.adapters(WorkerId(1))
    }

    fn routed_abroad(members: &mut Members, from: u64, packet: Packet<'_>) -> Abroad {
        members.route(WorkerId(from), &packet, &mut Vec::new())
    }

    fn routed_from(members: &mut Members, host: HostId, from: u64, packet: Packet<'_>) -> Vec<u64> {
        let mut to = Vec::new();
        members.route_from(host, WorkerId(from), &packet, &mut to);
        to.iter().map(|id| id.0).collect()
    }

    #[test]
    fn packets_cross_to_other_hosts_once() {
        let mut m = members(&[1, 2]);
        assert_eq!(routed_abroad(&mut m, 1, uid("a", None)), Abroad::Nowhere, "there is none");
        assert_eq!(m.host_came(A, None, []), []);
        assert_eq!(routed_abroad(&mut m, 1, uid("a", None)), Abroad::Everywhere);
        assert_eq!(routed_from(&mut m, A, 7, uid("z", None)), [1, 2], "one from there");
        assert_eq!(routed_from(&mut m, A, 7, uid("z", Some("a"))), [1], "an answer from there");
        assert_eq!(routed_from(&mut m, A, 7, uid("z", Some("z"))), NOBODY, "it is not asked here");
        assert_eq!(routed_from(&mut m, A, 7, uid("z", Some("gone"))), NOBODY);
        assert_eq!(routed_abroad(&mut m, 2, uid("b", Some("z"))), Abroad::To(A), "to who asked");
        assert_eq!(routed_abroad(&mut m, 2, uid("b", Some("a"))), Abroad::Nowhere, "it is here");
        assert_eq!(m.left_there(A, WorkerId(7)), [Notice::Gone(adapter("z"))]);
        assert_eq!(routed_abroad(&mut m, 2, uid("b", Some("z"))), Abroad::Nowhere);
        assert_eq!(m.left_there(A, WorkerId(7)), [], "it leaves once");
    }

    #[test]
    fn numbers_of_workers_cross_too() {
        let mut m = members(&[1]);
        let theirs = after(&[by_number(1, None)]);
        let there = Speaker::Worker(WorkerId(70_001), Some("/".into()));
        assert_eq!(m.host_came(A, None, [(WorkerId(70_001), theirs)]), [Notice::There(there)]);
        assert_eq!(routed_abroad(&mut m, 1, by_number(9, Some(70_001))), Abroad::To(A));
        assert_eq!(routed_from(&mut m, A, 70_001, by_number(9, Some(1))), [1]);
        let gone = Notice::Gone(Speaker::Worker(WorkerId(70_001), None));
        assert_eq!(m.host_left(A), [gone]);
        assert_eq!(routed_abroad(&mut m, 1, by_number(1, None)), Abroad::Nowhere);
    }

    #[test]
    fn a_host_that_comes_again_is_what_it_says_now() {
        let mut m = members(&[1]);
        let adapters = |uid_: &str| after(&[uid(uid_, None)]);
        m.host_came(A, None, [(WorkerId(7), adapters("y")), (WorkerId(8), adapters("z"))]);
        let news = m.host_came(A, None, [(WorkerId(8), adapters("z"))]);
        assert_eq!(news, [Notice::Gone(adapter("y")), Notice::There(adapter("z"))]);
        // Its workers have outlived its supervisor.
        assert_eq!(
            m.host_came(B, Some(A), [(WorkerId(8), adapters("z"))]),
            [Notice::There(adapter("z"))]
        );
        assert_eq!(routed_abroad(&mut m, 1, uid("a", Some("z"))), Abroad::To(B));
        assert_eq!(m.host_left(A), []);
        assert_eq!(m.host_left(B), [Notice::Gone(adapter("z"))]);
    }

    /// How many bytes are known, and how many are said to be.
    fn held(members: &Members) -> (usize, usize) {
        let known = members.abroad.values().flat_map(BTreeMap::values).map(Adapters::bytes);
        (known.sum(), members.held)
    }

    #[test]
    fn what_is_known_of_other_hosts_is_bounded() {
        let mut m = members(&[1]);
        let long = &"x".repeat(1 << 20);
        let speakers = |host: u64| {
            let speaks = move |id| after(&[uid(&format!("{host}.{id}.{long}"), None)]);
            (1..=100).map(move |id| (WorkerId(id), speaks(id)))
        };
        for host in 1..=3 {
            m.host_came(HostId(host), None, speakers(host));
        }
        let (known, said) = held(&m);
        assert!(known == said && known > MAX_ABROAD / 2 && known <= MAX_ABROAD, "{known} {said}");
        // They say more and more, and speak on.
        for n in 0..50_000u64 {
            let more = format!("more {n}");
            for packet in [uid(&more, None), by_number(1, None)] {
                assert_eq!(routed_from(&mut m, HostId(3), n % 1000, packet), [1]);
            }
        }
        let (known, said) = held(&m);
        assert!(known == said && known <= MAX_ABROAD, "{known} {said}");
        m.left_there(HostId(3), WorkerId(7));
        m.host_came(HostId(2), Some(HostId(1)), speakers(1));
        let (known, said) = held(&m);
        assert_eq!(known, said);
        (1..=3).for_each(|host| drop(m.host_left(HostId(host))));
        assert_eq!((held(&m), m.owners.len()), ((0, 0), 0));
        // Room is there again.
        assert_eq!(m.host_came(A, None, [(WorkerId(7), after(&[uid("z", None)]))]).len(), 1);
    }

    #[test]
    fn nobody_takes_an_adapter_of_another() {
        let mut m = members(&[1]);
        routed(&mut m, 1, uid("a", None));
        let theirs = after(&[uid("a", None)]);
        assert_eq!(m.host_came(A, None, [(WorkerId(7), theirs)]), []);
        assert_eq!(routed_from(&mut m, A, 7, uid("z", Some("a"))), [1], "it is still here");
        assert_eq!(m.host_left(A), [Notice::Gone(adapter("z"))]);
        assert_eq!(routed_from(&mut m, A, 7, uid("z", Some("a"))), [1]);
    }
}
