//! Which other hosts there are. Pure: what they say and the time in, what follows from it out.
//!
//! A host says who it is when it has reached the bus, and everybody answers. From then on it is there
//! as long as anything is heard of it. One that was not heard for [`SILENCE`], or half of that when
//! another has come by its name, is gone, once and with all its workers; if it speaks again it is asked
//! who it is, and comes anew. Times are since any fixed moment of ours: no two hosts' clocks are
//! compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::queue::Volume;
use super::wire::{HEADER, Header, HostId, Kind};
use crate::relay::fanout::Adapters;
use crate::worker::WorkerId;

/// A host that is not heard for so long is gone. It beats six times in that.
pub const SILENCE: Duration = Duration::from_secs(3);

/// How long until one that has not said who it is is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A host whose place another of its name has taken is not heard any more after that: it is gone.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// So many are known at most.
const MAX_HOSTS: usize = 1000;

/// The most that a host says of itself, in bytes (4 MiB).
pub const MAX_CARD: usize = 4 << 20;

/// The most letters of a name, or of a version.
const MAX_WORD: usize = 64;

/// Who a host is, in its own words: the body of a [`Kind::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its name, for people.
    pub name: String,
    /// Its number, from which those of its workers are made.
    pub number: u16,
    /// Its cohortd's.
    pub version: String,
    /// It goes on with the workers of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<u64>,
    /// It wants to know who the others are.
    #[serde(default)]
    pub asks: bool,
    /// Where it takes requests of its sessions, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Door>,
    /// What is known of its workers.
    #[serde(default)]
    pub workers: Vec<(WorkerId, Adapters)>,
}

/// Where a host takes requests of its sessions that have come to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// An IP address and a port.
    pub address: String,
    /// By which it is known there, and as which it comes to others: a public key, in hexadecimal.
    pub key: String,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name, for people.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Its cohortd's.
    pub version: String,
    /// When it has come.
    pub came: Duration,
    /// When it was last heard.
    pub heard: Duration,
    /// What of it has come.
    pub received: Volume,
}

/// What follows from a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// It makes no sense.
    Malformed,
    /// It is not known who that is: ask.
    Ask(HostId),
    /// It wants to know who we are.
    Answer(HostId),
    /// It is there, with what its card says; whether it was not there before.
    Came(HostId, Card, bool),
    /// It is gone.
    Went(HostId),
    /// A worker of it is gone.
    Left(HostId, WorkerId),
    /// A worker of it has sent what the body says.
    Packet(HostId, WorkerId),
    /// It has a request of the session that the body names.
    Seek(HostId),
    /// It has the session that the body names.
    Found(HostId),
}

/// Two hosts that can't be told apart by what should tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clash {
    /// They have this name.
    Name(String),
    /// They have the same number: the first one's name, and the second's.
    Number(u16, String, String),
}

/// The other hosts.
#[derive(Debug)]
pub struct Hosts {
    own: HostId,
    name: String,
    number: u16,
    known: BTreeMap<HostId, Host>,
    /// When each was asked.
    asked: BTreeMap<HostId, Duration>,
}

impl Hosts {
    /// None is known yet to the one that is called so.
    pub fn new(own: HostId, name: &str, number: u16) -> Hosts {
        let (known, asked) = Default::default();
        Hosts { own, name: name.to_owned(), number, known, asked }
    }

    /// Those that are there.
    pub fn known(&self) -> impl Iterator<Item = (HostId, &Host)> {
        self.known.iter().map(|(id, host)| (*id, host))
    }

    /// Whether this one is there.
    pub fn knows(&self, id: HostId) -> bool {
        self.known.contains_key(&id)
    }

    /// A predecessor of ours has known this one.
    pub fn remember(&mut self, id: HostId, host: Host) {
        self.known.insert(id, host);
    }

    /// A frame has come.
    pub fn hear(&mut self, header: &Header, body: &[u8], now: Duration) -> Act {
        let id = header.host;
        if id == self.own {
            return Act::Malformed; // we know what we have said
        }
        if header.kind == Kind::Hello {
            return self.meet(id, body, now);
        }
        let Some(host) = self.known.get_mut(&id) else {
            return match header.kind {
                Kind::Bye => Act::Nothing,
                Kind::Ask => Act::Answer(id),
                _ => self.ask(id, now),
            };
        };
        host.heard = now;
        host.received.frames += 1;
        host.received.bytes += (HEADER + body.len()) as u64;
        match header.kind {
            Kind::Beat | Kind::Hello | Kind::Later => Act::Nothing,
            Kind::Ask => Act::Answer(id),
            Kind::Packet => Act::Packet(id, header.worker),
            Kind::Left => Act::Left(id, header.worker),
            Kind::Seek => Act::Seek(id),
            Kind::Found => Act::Found(id),
            Kind::Bye => {
                self.known.remove(&id);
                Act::Went(id)
            }
        }
    }

    fn meet(&mut self, id: HostId, body: &[u8], now: Duration) -> Act {
        if body.len() > MAX_CARD {
            return Act::Malformed;
        }
        let card = serde_json::from_slice::<Card>(body).ok();
        let Some(card) = card.filter(|card| is_word(&card.name) && is_word(&card.version)) else {
            return Act::Malformed;
        };
        if let Some(before) = card.follows {
            self.known.remove(&HostId(before));
        }
        if self.known.len() >= MAX_HOSTS && !self.known.contains_key(&id) {
            return Act::Malformed;
        }
        self.asked.remove(&id);
        let before = self.known.get(&id);
        let is_new = before.is_none();
        let came = before.map_or(now, |host| host.came);
        let received = before.map(|host| host.received).unwrap_or_default();
        let (name, version) = (card.name.clone(), card.version.clone());
        self.known
            .insert(id, Host { name, number: card.number, version, came, heard: now, received });
        Act::Came(id, card, is_new)
    }

    fn ask(&mut self, id: HostId, now: Duration) -> Act {
        self.asked.retain(|_, asked| *asked + ASK_AGAIN > now);
        if self.asked.contains_key(&id) || self.asked.len() >= MAX_HOSTS {
            return Act::Nothing;
        }
        self.asked.insert(id, now);
        Act::Ask(id)
    }

    /// So long nothing was heard because nobody listened here: that silence is not the others'.
    pub fn was_away(&mut self, time: Duration, now: Duration) {
        for host in self.known.values_mut() {
            host.heard = now.min(host.heard + time);
        }
    }

    /// Those that have been silent for too long. They are not known any more.
    pub fn silent(&mut self, now: Duration) -> Vec<(HostId, Host)> {
        let mut latest: BTreeMap<&str, Duration> = BTreeMap::new();
        for host in self.known.values() {
            let came = latest.entry(&host.name).or_default();
            *came = host.came.max(*came);
        }
        let is_silent = |host: &Host| {
            let is_replaced = latest.get(host.name.as_str()).is_some_and(|came| *came > host.came);
            let limit = if is_replaced { LAST_WORDS } else { SILENCE };
            host.heard + limit <= now
        };
        let silent = self.known.iter().filter(|(_, host)| is_silent(host));
        let gone: Vec<_> = silent.map(|(id, host)| (*id, host.clone())).collect();
        gone.iter().for_each(|(id, _)| drop(self.known.remove(id)));
        gone
    }

    /// Those that are there at the same time and have the same name, or number: each with the first.
    pub fn clashes(&self) -> BTreeSet<Clash> {
        let ours = (self.name.as_str(), self.number);
        let mut clashes = BTreeSet::new();
        let mut hosts: Vec<&Host> = self.known.values().collect();
        hosts.sort_by_key(|host| host.came);
        for (at, host) in hosts.iter().enumerate() {
            // One that was replaced may be dead, and not known to be.
            let earlier = hosts[..at].iter().filter(|before| before.heard > host.came + LAST_WORDS);
            let earlier = earlier.map(|before| (before.name.as_str(), before.number));
            clashes.extend([ours].into_iter().chain(earlier).find_map(|(name, number)| {
                if name == host.name {
                    Some(Clash::Name(name.to_owned()))
                } else if number == host.number {
                    Some(Clash::Number(number, name.to_owned(), host.name.clone()))
                } else {
                    None
                }
            }));
        }
        clashes
    }
}

/// What can be written anywhere, as names of hosts and versions are.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    !text.is_empty() && text.len() <= MAX_WORD && text.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::wire::Framing;

    const US: HostId = HostId(1);
    const A: HostId = HostId(0xa);
    const B: HostId = HostId(0xb);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn hosts() -> Hosts {
        Hosts::new(US, "us", 1)
    }

    fn from(host: HostId, kind: Kind) -> Header {
        let (more, direct, framing) = (false, false, Framing::Advanced);
        Header { kind, more, direct, framing, host, seq: 0, worker: WorkerId(7), rest: false }
    }

    fn card(name: &str, number: u16) -> Card {
        let (name, version) = (name.to_owned(), "0.1.0".to_owned());
        let (follows, forward, workers) = Default::default();
        Card { name, number, version, follows, asks: false, forward, workers }
    }

    fn meet(hosts: &mut Hosts, id: HostId, card: &Card, now: Duration) {
        let body = serde_json::to_vec(card).expect("JSON");
        let before = hosts.known.contains_key(&id);
        let act = hosts.hear(&from(id, Kind::Hello), &body, now);
        let is_new = !before;
        assert_eq!(act, Act::Came(id, card.clone(), is_new));
    }

    fn silent(hosts: &mut Hosts, now: Duration) -> Vec<HostId> {
        hosts.silent(now).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_host_is_gone_once_when_it_is_silent() {
        let mut hosts = hosts();
        meet(&mut hosts, A, &card("a", 2), at(0));
        meet(&mut hosts, B, &card("b", 3), at(0));
        assert_eq!(hosts.hear(&from(A, Kind::Beat), b"", at(2000)), Act::Nothing);
        assert_eq!(silent(&mut hosts, at(2999)), []);
        assert_eq!(silent(&mut hosts, at(3000)), [B]);
        assert_eq!(silent(&mut hosts, at(4999)), [], "once");
        assert_eq!(hosts.hear(&from(A, Kind::Packet), b"", at(4999)), Act::Packet(A, WorkerId(7)));
        assert_eq!(silent(&mut hosts, at(5000)), [], "whatever it says is a sign of life");
        assert_eq!(hosts.hear(&from(A, Kind::Bye), b"", at(5001)), Act::Went(A));
        assert_eq!(silent(&mut hosts, at(60_000)), []);
    }

    #[test]
    fn who_has_come_again_is_missed_less_long() {
        let mut hosts = hosts();
        meet(&mut hosts, A, &card("a", 2), at(0));
        meet(&mut hosts, B, &card("a", 2), at(700));
        assert_eq!(silent(&mut hosts, at(1499)), []);
        assert_eq!(silent(&mut hosts, at(1500)), [A]);
        assert_eq!(silent(&mut hosts, at(3699)), []);
        assert_eq!(silent(&mut hosts, at(3700)), [B]);
    }

    #[test]
    fn who_was_away_does_not_blame_others() {
        let mut hosts = hosts();
        meet(&mut hosts, A, &card("a", 2), at(0));
        hosts.was_away(at(10_000), at(10_500));
        assert_eq!(silent(&mut hosts, at(12_999)), []);
        assert_eq!(silent(&mut hosts, at(13_000)), [A]);
    }

    #[test]
    fn who_is_not_known_is_asked() {
        let mut hosts = hosts();
        assert_eq!(hosts.hear(&from(A, Kind::Beat), b"", at(0)), Act::Ask(A));
        assert_eq!(
            hosts.hear(&from(A, Kind::Packet), b"", at(999)),
            Act::Nothing,
            "not at once again"
        );
        assert_eq!(hosts.hear(&from(A, Kind::Left), b"", at(1000)), Act::Ask(A));
        assert_eq!(hosts.hear(&from(B, Kind::Ask), b"", at(1000)), Act::Answer(B));
        assert_eq!(hosts.hear(&from(B, Kind::Bye), b"", at(1000)), Act::Nothing, "it has gone");
        meet(&mut hosts, A, &card("a", 2), at(1001));
        assert_eq!(hosts.hear(&from(A, Kind::Ask), b"", at(1002)), Act::Answer(A));
        assert_eq!(hosts.hear(&from(A, Kind::Left), b"", at(1002)), Act::Left(A, WorkerId(7)));
    }

    #[test]
    fn nonsense_is_told_apart() {
        let mut hosts = hosts();
        assert_eq!(hosts.hear(&from(US, Kind::Packet), b"", at(0)), Act::Malformed);
        for body in
            [&b""[..], b"{}", b"[]", b"\xff", br#"{"name":"a","number":70000,"version":"1"}"#]
        {
            assert_eq!(hosts.hear(&from(A, Kind::Hello), body, at(0)), Act::Malformed);
        }
        let long = "a".repeat(MAX_WORD + 1);
        for word in ["", "a b", "a\nb", "a\x1b[2J", &long] {
            let name = serde_json::to_vec(&card(word, 2)).expect("JSON");
            let version = Card { version: word.to_owned(), ..card("a", 2) };
            let version = serde_json::to_vec(&version).expect("JSON");
            for body in [name, version] {
                assert_eq!(hosts.hear(&from(A, Kind::Hello), &body, at(0)), Act::Malformed);
            }
        }
        let mut large = serde_json::to_vec(&card("a", 2)).expect("JSON");
        large.resize(MAX_CARD + 1, b' ');
        assert_eq!(hosts.hear(&from(A, Kind::Hello), &large, at(0)), Act::Malformed);
        let later = br#"{"name":"a","number":2,"version":"9","of":"the future"}"#;
        assert!(matches!(hosts.hear(&from(A, Kind::Hello), later, at(0)), Act::Came(..)));
    }

    #[test]
    fn there_are_not_too_many() {
        let mut hosts = hosts();
        for id in 0..MAX_HOSTS as u64 {
            meet(&mut hosts, HostId(100 + id), &card(&id.to_string(), 2), at(0));
        }
        let body = serde_json::to_vec(&card("one more", 2)).expect("JSON");
        assert_eq!(hosts.hear(&from(A, Kind::Hello), &body, at(0)), Act::Malformed);
        for id in 0..2 * MAX_HOSTS as u64 {
            hosts.hear(&from(HostId(1 << 32 | id), Kind::Beat), b"", at(0));
        }
        assert_eq!(hosts.asked.len(), MAX_HOSTS);
        // All have one number, and each is told of once.
        for id in 0..MAX_HOSTS as u64 {
            hosts.hear(&from(HostId(100 + id), Kind::Beat), b"", at(2000));
        }
        assert_eq!(hosts.clashes().len(), MAX_HOSTS - 1);
    }

    /// Of a later version, it is a sign of life and nothing else.
    #[test]
    fn what_a_later_one_says_is_a_sign_of_life() {
        let mut hosts = hosts();
        assert_eq!(hosts.hear(&from(A, Kind::Later), b"", at(0)), Act::Ask(A));
        meet(&mut hosts, A, &card("a", 2), at(0));
        assert_eq!(hosts.hear(&from(A, Kind::Later), b"", at(2000)), Act::Nothing);
        assert_eq!(silent(&mut hosts, at(4999)), []);
    }

    #[test]
    fn a_successor_takes_the_place_of_its_predecessor() {
        let mut hosts = hosts();
        meet(&mut hosts, A, &card("a", 2), at(0));
        meet(&mut hosts, B, &Card { follows: Some(A.0), ..card("a", 2) }, at(100));
        assert_eq!(hosts.known().map(|(id, _)| id).collect::<Vec<_>>(), [B]);
        assert_eq!(hosts.clashes(), BTreeSet::new());
    }

    #[test]
    fn hosts_that_are_called_alike_are_told_of() {
        let mut hosts = hosts();
        meet(&mut hosts, A, &card("a", 2), at(0));
        meet(&mut hosts, B, &card("a", 2), at(5000));
        assert_eq!(hosts.clashes(), BTreeSet::new(), "A may be dead, and B be it again");
        hosts.hear(&from(A, Kind::Beat), b"", at(6500));
        assert_eq!(hosts.clashes(), BTreeSet::new());
        hosts.hear(&from(A, Kind::Beat), b"", at(7000));
        assert_eq!(hosts.clashes(), BTreeSet::from([Clash::Name("a".into())]));
        meet(&mut hosts, B, &card("us", 9), at(7000));
        assert_eq!(hosts.clashes(), BTreeSet::from([Clash::Name("us".into())]));
        meet(&mut hosts, B, &card("b", 1), at(7000));
        let clash = Clash::Number(1, "us".into(), "b".into());
        assert_eq!(hosts.clashes(), BTreeSet::from([clash]));
    }
}
