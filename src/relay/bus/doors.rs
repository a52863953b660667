//! Where other hosts take requests of their sessions. Pure.
//!
//! A host that is silent may just not reach the bus, while its clients and its sessions are there. So
//! its door is remembered for longer than it is one of the hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::hosts::Door;
use super::wire::HostId;

/// How long the door of a host is remembered that is not heard any more.
const REMEMBERED: Duration = Duration::from_secs(600);

/// So many are known at most.
const MAX_DOORS: usize = 1000;

/// What is known of doors.
#[derive(Debug, Default)]
pub struct Doors(BTreeMap<HostId, Known>);

/// A door, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The host's name.
    pub name: String,
    /// Its door.
    pub door: Door,
    /// When the host was last one of those that are there.
    heard: Duration,
}

impl Doors {
    /// A host says where its door is, if it has one; it may have taken another's place. Whether that
    /// is news.
    pub fn hear(
        &mut self,
        id: HostId,
        follows: Option<HostId>,
        name: &str,
        door: Option<Door>,
        now: Duration,
    ) -> bool {
        let replaced = follows.is_some_and(|before| self.0.remove(&before).is_some());
        let Some(door) = door else { return self.0.remove(&id).is_some() || replaced };
        let before = self.0.remove(&id);
        // Whoever was there before is there no more.
        self.0.retain(|_, known| known.door.address != door.address);
        if self.0.len() >= MAX_DOORS {
            return before.is_some() || replaced;
        }
        let is_news = before.is_none_or(|before| before.door != door);
        self.0.insert(id, Known { name: name.to_owned(), door, heard: now });
        is_news
    }

    /// A host has said goodbye. Whether that is news.
    pub fn leave(&mut self, id: HostId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Forgets the doors of those that were not there for too long. Whether there were any.
    pub fn forget(&mut self, is_there: impl Fn(HostId) -> bool, now: Duration) -> bool {
        let before = self.0.len();
        self.0.retain(|id, known| {
            if is_there(*id) {
                known.heard = now;
            }
            known.heard + REMEMBERED > now
        });
        self.0.len() < before
    }

    /// The door of a host.
    pub fn of(&self, id: HostId) -> Option<&Door> {
        self.0.get(&id).map(|known| &known.door)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (HostId, &Known)> {
        self.0.iter().map(|(id, known)| (*id, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0xa);
    const B: HostId = HostId(0xb);

    fn door(address: &str, key: &str) -> Option<Door> {
        Some(Door { address: address.to_owned(), key: key.to_owned() })
    }

    fn known(doors: &Doors) -> Vec<(HostId, &str)> {
        doors.all().map(|(id, known)| (id, known.door.key.as_str())).collect()
    }

    #[test]
    fn a_door_is_the_host_s_until_another_has_its_place() {
        let mut doors = Doors::default();
        let now = Duration::ZERO;
        assert!(doors.hear(A, None, "a", door("a:1", "k"), now));
        assert!(!doors.hear(A, None, "a", door("a:1", "k"), now), "that is known");
        assert!(doors.hear(B, Some(A), "a", door("a:1", "l"), now));
        assert_eq!(known(&doors), [(B, "l")], "it goes on in its place");
        assert!(doors.hear(A, None, "a", door("a:1", "m"), now));
        assert_eq!(known(&doors), [(A, "m")], "there can be only one at an address");
        assert!(doors.hear(B, None, "b", door("b:1", "n"), now));
        assert!(doors.hear(B, None, "b", None, now), "it takes none any more");
        assert!(!doors.hear(B, None, "b", None, now));
        assert!(doors.leave(A) && !doors.leave(A));
        assert_eq!(known(&doors), []);
    }

    #[test]
    fn who_is_silent_is_remembered_for_a_while() {
        let mut doors = Doors::default();
        let at = Duration::from_secs;
        doors.hear(A, None, "a", door("a:1", "k"), at(0));
        doors.hear(B, None, "b", door("b:1", "l"), at(0));
        assert!(!doors.forget(|id| id == B, at(599)));
        assert!(doors.forget(|id| id == B, at(600)));
        assert_eq!(known(&doors), [(B, "l")]);
        assert!(!doors.forget(|_| false, at(1199)));
        assert!(doors.forget(|_| false, at(1200)));
    }

    #[test]
    fn there_are_not_too_many() {
        let mut doors = Doors::default();
        for id in 0..2 * MAX_DOORS as u64 {
            doors.hear(HostId(id), None, "x", door(&format!("x:{id}"), "k"), Duration::ZERO);
        }
        assert_eq!(doors.all().count(), MAX_DOORS);
    }
}
