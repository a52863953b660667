//! The relay between hosts: what the workers here say to all goes over the bus, and what comes from
//! there is said to them, as if all were workers of one host.
//!
//! What comes over the bus may be anybody's who can reach it: nothing goes on to a worker but whole
//! packets of cluster adapters.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::bus::doors::Doors;
use super::bus::hosts::{Act, Card, Clash, Door, Host, Hosts, MAX_CARD};
use super::bus::wire::{Header, HostId, Kind};
use super::bus::{self, About, Event, Link, To};
use super::envelope::Envelope;
use super::fanout::{Abroad, Adapters, Notice};
use super::local::{Relay, State};
use super::reach::{Name, Reach};
use super::seek::Sessions;
use super::status::{BusStatus, HostStatus};
use crate::systemd::events;
use crate::worker::wire::{Decoder, Framing, Incoming, classify, look};
use crate::worker::{Worker, WorkerId};

/// How often it is looked who is silent.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a successor has to know of the other hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsKnown {
    /// As whom we were known to them.
    pub own: u64,
    /// Each of them, by what it is known as.
    #[serde(default)]
    pub hosts: Vec<(u64, HostKnown)>,
}

/// Another host, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKnown {
    name: String,
    number: u16,
    version: String,
    workers: Vec<(WorkerId, Adapters)>,
}

/// What the relay knows of other hosts.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) link: Arc<Link>,
    pub(super) hosts: Hosts,
    pub(super) doors: Doors,
    /// Ours, if there is one.
    pub(super) door: Option<Door>,
    /// Who knows which are here.
    pub(super) sessions: Option<Weak<dyn Sessions>>,
    name: Name,
    /// For people.
    url: String,
    channel: String,
    own: HostId,
    follows: Option<u64>,
    begun: Instant,
    clashes: BTreeSet<Clash>,
    pub(super) foreign: u64,
}

impl Bus {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn say(&self, to: To, kind: Kind, body: impl Into<Bytes>) {
        let (framing, worker) = (Framing::default(), WorkerId(0));
        self.link.send(to, About { kind, framing, worker }, body);
    }

    /// A worker here has sent a packet.
    pub(super) fn forward(&self, to: Abroad, from: &Worker, frame: &Bytes) {
        let to = match to {
            Abroad::Nowhere => return,
            Abroad::Everywhere => To::All,
            Abroad::To(host) => To::Host(host),
        };
        let about = About { kind: Kind::Packet, framing: from.framing(), worker: from.id };
        self.link.send(to, about, frame.clone());
    }

    /// A worker here is gone.
    pub(super) fn left(&self, id: WorkerId) {
        let about = About { kind: Kind::Left, framing: Framing::default(), worker: id };
        self.link.send(To::All, about, Bytes::new());
    }
}

impl Relay {
    /// Reaches for the other hosts from now on; this much is known from a predecessor.
    pub fn reach(self: &Arc<Relay>, reach: Reach, left: Option<HostsKnown>) {
        let Reach { settings, name, url, channel } = reach;
        let own = settings.own;
        let mut hosts = Hosts::new(own, &name.name, name.number);
        let mut state = self.lock();
        let follows = left.as_ref().map(|known| known.own);
        for (id, known) in left.into_iter().flat_map(|known| known.hosts) {
            let HostKnown { name, number, version, workers } = known;
            let (came, heard, received) = Default::default();
            hosts.remember(HostId(id), Host { name, number, version, came, heard, received });
            state.members.host_came(HostId(id), None, workers);
        }
        let relay = Arc::downgrade(self);
        let link = Link::start(settings, move |event| {
            if let Some(relay) = relay.upgrade() {
                relay.on(event);
            }
        });
        state.bus = Some(Bus {
            link,
            hosts,
            doors: Doors::default(),
            door: None,
            sessions: None,
            name,
            url,
            channel,
            own,
            follows,
            begun: Instant::now(),
            clashes: BTreeSet::new(),
            foreign: 0,
        });
        tokio::spawn(look_for_silent(Arc::downgrade(self)));
    }

    /// Says goodbye to the other hosts.
    pub async fn part(&self) {
        let bus = self.lock().bus.take();
        if let Some(bus) = bus {
            bus.say(To::All, Kind::Bye, Bytes::new());
            bus.link.close().await;
        }
    }

    /// The bus and the hosts that it leads to, if there is one.
    pub fn status(&self) -> Option<BusStatus> {
        let state = self.lock();
        let bus = state.bus.as_ref()?;
        let Name { name: host, number } = bus.name.clone();
        let (up, since, error) = match bus.link.state() {
            bus::State::Up { since } => (true, since, None),
            bus::State::Down { since, why } => (false, since, Some(why)),
        };
        let counts = bus.link.counts();
        Some(BusStatus {
            url: bus.url.clone(),
            channel: bus.channel.clone(),
            host,
            number,
            up,
            since: since.elapsed().as_secs(),
            error,
            delay: counts.delay.map(|delay| delay.as_secs_f64()),
            reconnects: counts.connections.saturating_sub(1),
            sent: counts.sent,
            received: counts.received,
            dropped: counts.dropped,
            lost: counts.lost,
            duplicates: counts.repeated,
            foreign: counts.foreign + bus.foreign,
            queued: counts.queued as u64,
            hosts: state.hosts(bus),
        })
    }

    /// What is wrong with the bus, for people.
    pub fn trouble(&self) -> Option<String> {
        match self.lock().bus.as_ref()?.link.state() {
            bus::State::Up { .. } => None,
            bus::State::Down { why, .. } => Some(format!("other hosts are not reached: {why}")),
        }
    }

    /// Names of the other hosts that are there.
    pub fn hosts(&self) -> Vec<String> {
        let state = self.lock();
        let known = state.bus.iter().flat_map(|bus| bus.hosts.known());
        known.map(|(_, host)| host.name.clone()).collect()
    }

    /// A successor goes on: nothing more is said or heard here.
    pub fn hush(&self) {
        self.lock().bus = None;
    }

    /// Ends when something has changed of what there is to say of other hosts.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What a successor has to know of the other hosts.
    pub fn known(&self) -> Option<HostsKnown> {
        let state = self.lock();
        let bus = state.bus.as_ref()?;
        let hosts = bus.hosts.known().map(|(id, host)| {
            let Host { name, number, version, .. } = host.clone();
            let workers = state.members.there(id).map(|(id, known)| (id, known.clone())).collect();
            (id.0, HostKnown { name, number, version, workers })
        });
        Some(HostsKnown { own: bus.own.0, hosts: hosts.collect() })
    }

    fn on(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Up => state.introduce(To::All, true),
            Event::Down => {}
            Event::Frame(header, body) if header.kind == Kind::Packet => {
                return state.hear(&header, &body);
            }
            Event::Frame(header, body) => state.hear(&header, &body),
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl State {
    /// Says who we are.
    pub(super) fn introduce(&self, to: To, asks: bool) {
        let Some(bus) = &self.bus else { return };
        let Name { name, number } = bus.name.clone();
        let workers = self.members.here().map(|(id, known)| (id, known.clone())).collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (follows, forward) = (bus.follows, bus.door.clone());
        let card = Card { name, number, version, follows, asks, forward, workers };
        let written = serde_json::to_vec(&card).and_then(|body| {
            if body.len() <= MAX_CARD {
                return Ok(body);
            }
            // The others get to know the workers as these speak.
            serde_json::to_vec(&Card { workers: Vec::new(), ..card })
        });
        match written {
            Ok(body) => bus.say(to, Kind::Hello, body),
            Err(error) => tracing::error!(%error, "can't say to other hosts who this one is"),
        }
    }

    fn hear(&mut self, header: &Header, body: &Bytes) {
        let Some(bus) = &mut self.bus else { return };
        let now = bus.now();
        match bus.hosts.hear(header, body, now) {
            Act::Nothing => {}
            Act::Malformed => bus.foreign += 1,
            Act::Ask(host) => bus.say(To::Host(host), Kind::Ask, Bytes::new()),
            Act::Answer(host) => self.introduce(To::Host(host), false),
            Act::Came(host, card, is_new) => self.came(host, card, is_new),
            Act::Went(host) => {
                if bus.doors.leave(host) {
                    bus.tell_of_doors();
                }
                self.went(host);
            }
            Act::Left(host, worker) => {
                let notices = self.members.left_there(host, worker);
                self.tell(&notices);
            }
            Act::Packet(host, worker) => self.packet(host, worker, header.framing, body),
            Act::Seek(host) => self.sought(host, body),
            Act::Found(host) => self.found(host, body),
        }
    }

    fn came(&mut self, host: HostId, card: Card, is_new: bool) {
        let Card { name, number: _, version, follows, asks, forward, workers } = card;
        let (count, follows) = (workers.len(), follows.map(HostId));
        if let Some(bus) = &mut self.bus
            && bus.doors.hear(host, follows, &name, forward, bus.begun.elapsed())
        {
            bus.tell_of_doors();
        }
        let notices = self.members.host_came(host, follows, workers);
        if is_new {
            tracing::info!(name: events::HOST_CAME, host = name, version, workers = count, "is there");
        }
        self.tell(&notices);
        if asks {
            self.introduce(To::Host(host), false);
        }
    }

    fn went(&mut self, host: HostId) {
        let notices = self.members.host_left(host);
        self.tell(&notices);
    }

    fn hosts(&self, bus: &Bus) -> Vec<HostStatus> {
        let (now, sessions) = (bus.now(), bus.sessions());
        let status = |(id, host): (HostId, &Host)| HostStatus {
            name: host.name.clone(),
            number: host.number,
            version: host.version.clone(),
            uptime: now.saturating_sub(host.came).as_secs(),
            silence: now.saturating_sub(host.heard).as_secs_f64(),
            workers: self.members.there(id).count(),
            received: host.received,
            forward: bus.doors.of(id).map(|door| door.address.clone()),
            forwarded: sessions.as_ref().map(|s| s.forwarded(&host.name)).unwrap_or_default(),
        };
        let mut hosts: Vec<HostStatus> = bus.hosts.known().map(status).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts
    }

    /// Tells the workers here of others.
    pub(super) fn tell(&self, notices: &[Notice]) {
        for notice in notices {
            for worker in self.members.hear(notice).iter().filter_map(|id| self.workers.get(id)) {
                worker.send(&Envelope::from(notice));
            }
        }
    }

    /// Sends a packet of another host's worker to whom it is for here.
    fn packet(&mut self, host: HostId, from: WorkerId, framing: Framing, frame: &Bytes) {
        let whole = Decoder::new(framing).next(frame) == Ok(Some(frame.len()));
        let keys = if whole { look(framing, frame).ok() } else { None };
        let Some(Incoming::Adapter(packet)) = keys.as_ref().map(classify) else {
            return self.bus.as_mut().map_or((), |bus| bus.foreign += 1);
        };
        let mut recipients = std::mem::take(&mut self.recipients);
        self.members.route_from(host, from, &packet, &mut recipients);
        self.deliver(&mut recipients, framing, frame);
        self.recipients = recipients;
    }
}

/// Finds out who has been silent for too long, as long as there is the relay.
async fn look_for_silent(relay: Weak<Relay>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        looks.tick().await;
        let Some(relay) = relay.upgrade() else { return };
        let mut state = relay.lock();
        let Some(bus) = &mut state.bus else { return };
        let away = last.elapsed().saturating_sub(LOOK_EVERY);
        last = Instant::now();
        let now = bus.now();
        if away > LOOK_EVERY {
            bus.hosts.was_away(away, now);
        }
        let silent = bus.hosts.silent(now);
        let clashes = bus.hosts.clashes();
        for clash in clashes.difference(&bus.clashes) {
            tell_of(clash);
        }
        bus.clashes = clashes;
        if bus.doors.forget(|id| bus.hosts.knows(id), now) {
            bus.tell_of_doors();
        }
        if !silent.is_empty() {
            relay.changed.notify_one();
        }
        for (id, host) in silent {
            tracing::warn!(name: events::HOST_GONE, host = host.name, "has not been heard of for {:.1} s: its workers are gone for ours", now.saturating_sub(host.heard).as_secs_f64());
            state.went(id);
        }
    }
}

fn tell_of(clash: &Clash) {
    match clash {
        Clash::Name(name) => tracing::error!(
            name: events::HOSTS_CLASH, host = name,
            "two hosts have this name: give one another in [relay] host"
        ),
        Clash::Number(number, first, second) => tracing::error!(
            name: events::HOSTS_CLASH, host = first, other = second, number,
            "two hosts have the same number, so that ids of their workers may be the same: give one another in [relay] number"
        ),
    }
}
