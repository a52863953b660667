//! Which host has a session: the front-end asks the others over the bus, and they ask it. It also
//! hears from here where each of them takes requests of its sessions.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::abroad::Bus;
use super::bus::doors::Known;
use super::bus::hosts::Door;
use super::bus::wire::{HostId, Kind};
use super::bus::{self, To};
use super::local::{Relay, State};
use super::status::Forwarded;

/// A session's id has no more bytes. Engine.IO's own have 20; an app may make others.
const MAX_SID: usize = 128;

/// The front-end, as other hosts ask it and tell it. It must not wait, nor ask the relay anything.
pub trait Sessions: std::fmt::Debug + Send + Sync {
    /// Whether a session lives in a worker here.
    fn has(&self, sid: &str) -> bool;
    /// Another host says that it has a session.
    fn found(&self, sid: &str, host: HostId);
    /// These are the other hosts that take requests, and no others.
    fn doors(&self, doors: Vec<(HostId, Known)>);
    /// What was passed on to the host of this name so far.
    fn forwarded(&self, host: &str) -> Forwarded;
}

impl Relay {
    /// Requests of sessions here are taken at this door from now on, and those of other hosts' sessions
    /// can be sought.
    pub fn open_door(&self, door: Door, sessions: Weak<dyn Sessions>) {
        let mut state = self.lock();
        let Some(bus) = &mut state.bus else { return };
        bus.door = Some(door);
        bus.sessions = Some(sessions);
        bus.tell_of_doors();
        state.introduce(To::All, false);
    }

    /// They are not any more.
    pub fn close_door(&self) {
        let mut state = self.lock();
        let door = state.bus.as_mut().and_then(|bus| bus.door.take());
        if door.is_some() {
            state.introduce(To::All, false);
        }
    }

    /// Whether there is anybody who can be asked for a session, or it is not known yet: the bus is still
    /// to be reached for the first time.
    pub fn can_seek(&self) -> bool {
        let state = self.lock();
        let may = |bus: &Bus| bus.asked().next().is_some() || bus.link.counts().connections == 0;
        state.bus.as_ref().is_some_and(may)
    }

    /// Asks the other hosts who has a session.
    pub fn seek(&self, sid: &str) {
        let state = self.lock();
        let Some(bus) = state.bus.as_ref().filter(|_| is_sid(sid.as_bytes())) else { return };
        let sid = Bytes::copy_from_slice(sid.as_bytes());
        bus.asked().for_each(|host| bus.say(To::Host(host), Kind::Seek, sid.clone()));
    }

    /// Whether a host is there, as far as the bus tells.
    pub fn hears(&self, host: HostId) -> bool {
        self.lock().bus.as_ref().is_some_and(|bus| bus.hosts.knows(host))
    }
}

impl State {
    /// Another host wants to know whether a session is here.
    pub(super) fn sought(&mut self, by: HostId, sid: &Bytes) {
        let Some(bus) = &mut self.bus else { return };
        match text(sid) {
            Some(text) if bus.sessions().is_some_and(|sessions| sessions.has(text)) => {
                bus.say(To::Host(by), Kind::Found, sid.clone());
            }
            Some(_) => {}
            None => bus.foreign += 1,
        }
    }

    /// Another host says that it has a session.
    pub(super) fn found(&mut self, host: HostId, sid: &Bytes) {
        let Some(bus) = &mut self.bus else { return };
        match text(sid) {
            Some(text) if bus.doors.of(host).is_some() => {
                if let Some(sessions) = bus.sessions() {
                    sessions.found(text, host);
                }
            }
            _ => bus.foreign += 1,
        }
    }
}

impl Bus {
    /// Those that can be asked for a session: who has no door would not know the question either.
    fn asked(&self) -> impl Iterator<Item = HostId> {
        let is_up = matches!(self.link.state(), bus::State::Up { .. });
        let hosts = self.doors.all().map(|(id, _)| id);
        hosts.filter(move |id| is_up && self.hosts.knows(*id))
    }

    pub(super) fn sessions(&self) -> Option<Arc<dyn Sessions>> {
        self.sessions.as_ref()?.upgrade()
    }

    /// Says which doors there are.
    pub(super) fn tell_of_doors(&self) {
        if let Some(sessions) = self.sessions() {
            sessions.doors(self.doors.all().map(|(id, known)| (id, known.clone())).collect());
        }
    }
}

fn text(sid: &[u8]) -> Option<&str> {
    std::str::from_utf8(sid).ok().filter(|_| is_sid(sid))
}

/// Whether it looks like the id of a session.
fn is_sid(sid: &[u8]) -> bool {
    (1..=MAX_SID).contains(&sid.len()) && sid.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_sessions() {
        let uuid = b"6c1f0a6c-4b5d-4a0f-9e0f-4a3d5b7c8e21";
        for good in [&b"lv_VI97HAXpY6yYWAAAC"[..], uuid, b"x", &[b'a'; 128]] {
            assert!(is_sid(good));
        }
        for bad in [&b""[..], b"a b", b"a\n", b"\xc5\x82", &[b'a'; 129]] {
            assert!(!is_sid(bad));
        }
    }
}
