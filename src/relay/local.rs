//! The relay between the workers of this host: frames go on as the bytes they came as.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::abroad::Bus;
use super::fanout::{Adapters, Members};
use crate::sync::lock;
use crate::worker::wire::{Framing, Packet};
use crate::worker::{Worker, WorkerId};

/// Every worker with an open channel, and what is known of their adapters.
#[derive(Debug, Default)]
pub struct Relay {
    state: Mutex<State>,
    /// Something is new of other hosts.
    pub(super) changed: Notify,
}

/// What a relay has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Packets that workers have sent.
    pub packets: u64,
    /// How often one has gone on to a worker.
    pub deliveries: u64,
    /// The bytes of all that.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) members: Members,
    pub(super) workers: HashMap<WorkerId, Arc<Worker>>,
    /// Reused for every packet.
    pub(super) recipients: Vec<WorkerId>,
    /// To other hosts, if there may be any.
    pub(super) bus: Option<Bus>,
    relayed: Relayed,
}

impl Relay {
    /// A worker can be sent to; so much is known of its adapters.
    pub fn join(&self, worker: &Arc<Worker>, known: Adapters) {
        let mut state = self.lock();
        state.members.join(worker.id, known);
        state.workers.insert(worker.id, worker.clone());
    }

    /// What is known of a worker's adapters.
    pub fn adapters(&self, id: WorkerId) -> Adapters {
        self.lock().members.adapters(id)
    }

    /// A worker is gone; the others are told at once. Without effect when said again.
    pub fn leave(&self, id: WorkerId) {
        let mut state = self.lock();
        state.workers.remove(&id);
        let notices = state.members.leave(id);
        state.tell(&notices);
        if let Some(bus) = state.bus.as_ref().filter(|_| !notices.is_empty()) {
            bus.left(id);
        }
    }

    /// Sends a worker's packet to whom it is for.
    pub fn forward(&self, from: &Worker, packet: &Packet<'_>, frame: &Bytes) {
        let mut state = self.lock();
        state.relayed.packets += 1;
        let mut recipients = std::mem::take(&mut state.recipients);
        let abroad = state.members.route(from.id, packet, &mut recipients);
        state.deliver(&mut recipients, from.framing(), frame);
        state.recipients = recipients;
        if let Some(bus) = &state.bus {
            bus.forward(abroad, from, frame);
        }
    }

    /// What it has done so far.
    pub fn relayed(&self) -> Relayed {
        self.lock().relayed
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Sends a frame to those of the recipients that can read it.
    pub(super) fn deliver(&mut self, to: &mut Vec<WorkerId>, framing: Framing, frame: &Bytes) {
        for id in to.drain(..) {
            if let Some(worker) = self.workers.get(&id)
                && worker.framing() == framing
            {
                worker.send_frame(frame.clone());
                self.relayed.deliveries += 1;
                self.relayed.bytes += frame.len() as u64;
            }
        }
    }
}
