//! The relay between the workers of this process: frames go on as the bytes they came as.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::envelope::Envelope;
use super::fanout::{Adapters, Members};
use crate::sync::lock;
use crate::worker::wire::Packet;
use crate::worker::{Worker, WorkerId};

/// Every worker with an open channel, and what is known of their adapters.
#[derive(Debug, Default)]
pub struct Relay {
    state: Mutex<State>,
    counts: Counts,
}

/// What it has done so far.
#[derive(Debug, Default)]
struct Counts {
    packets: AtomicU64,
    deliveries: AtomicU64,
    bytes: AtomicU64,
}

/// What a relay has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Packets that workers have sent.
    pub packets: u64,
    /// How often one has gone on to a worker.
    pub deliveries: u64,
    /// The bytes of all that.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    members: Members,
    workers: HashMap<WorkerId, Arc<Worker>>,
    /// Reused for every packet.
    recipients: Vec<WorkerId>,
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
        for farewell in state.members.leave(id) {
            for worker in
                state.members.hear(&farewell).iter().filter_map(|id| state.workers.get(id))
            {
                worker.send(&Envelope::from(&farewell));
            }
        }
    }

    /// Sends a worker's packet to whom it is for.
    pub fn forward(&self, from: &Worker, packet: &Packet<'_>, frame: &Bytes) {
        let mut state = self.lock();
        self.counts.packets.fetch_add(1, Ordering::Relaxed);
        let mut recipients = std::mem::take(&mut state.recipients);
        state.members.route(from.id, packet, &mut recipients);
        for id in recipients.drain(..) {
            if let Some(worker) = state.workers.get(&id)
                && worker.framing() == from.framing()
            {
                worker.send_frame(frame.clone());
                self.counts.deliveries.fetch_add(1, Ordering::Relaxed);
                self.counts.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            }
        }
        state.recipients = recipients;
    }

    /// What it has done so far.
    pub fn relayed(&self) -> Relayed {
        let Counts { packets, deliveries, bytes } = &self.counts;
        let [packets, deliveries, bytes] =
            [packets, deliveries, bytes].map(|count| count.load(Ordering::Relaxed));
        Relayed { packets, deliveries, bytes }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}
