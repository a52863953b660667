//! The successor's part: takes what its predecessor passes on, and goes on with it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::front::Front;
use super::super::given::Origin;
use super::super::upstream::{InFlight, ListenerId, Upstream};
use super::wire::{Link, Outbox, ToPredecessor, ToSuccessor, VERSION, converse};
use crate::listen::{Client, watch};
use crate::sync::lock;
use crate::worker::WorkerId;

/// How long a predecessor may take to read what it is told last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Somebody who still finishes what he has begun.
#[derive(Debug)]
pub(in crate::route) struct Predecessor {
    out: Arc<Outbox>,
    /// Somebody else follows it.
    leave: CancellationToken,
    following: JoinHandle<Option<OwnedFd>>,
}

impl Predecessor {
    pub(super) fn tell(&self, message: &ToPredecessor) {
        self.out.put(message, None);
    }
}

impl Front {
    /// Goes on with what a predecessor passes on through this socket, the other end of that of its
    /// [`Front::pass_on`]. The workers have to be known by then, the drained ones too.
    ///
    /// # Errors
    /// The socket can't be used.
    pub fn follow(self: &Arc<Self>, from: OwnedFd) -> io::Result<()> {
        let link = Link::new(from)?;
        let (out, leave) = (Arc::<Outbox>::default(), CancellationToken::new());
        out.put(&ToPredecessor::Follow { version: VERSION }, None);
        if self.stop.is_cancelled() {
            out.put(&ToPredecessor::Stop, None);
        }
        let mut heard = Heard {
            front: self.clone(),
            out: out.clone(),
            ahead: Vec::new(),
            in_flight: HashMap::new(),
        };
        let following = self.succession.following.spawn({
            let (out, leave) = (out.clone(), leave.clone());
            async move { converse(link, &out, &leave, |bytes, fd| heard.on(bytes, fd)).await }
        });
        let mut predecessors = lock(&self.succession.predecessors);
        predecessors.retain(|predecessor| !predecessor.following.is_finished());
        // Of those that are added meanwhile it hears twice.
        predecessors.push(Predecessor { out: out.clone(), leave, following });
        drop(predecessors);
        for upstream in self.workers.borrow().iter().filter(|upstream| upstream.is_open()) {
            out.put(&serves(upstream), None);
        }
        Ok(())
    }

    /// Predecessors hear of a worker that requests can be sent to: what they still have to finish may
    /// need another one than those that they know.
    pub(in crate::route) fn tell_of_worker(&self, upstream: &Upstream) {
        self.succession.tell_predecessors(&serves(upstream));
    }

    /// Follows its predecessors no longer: gives back the sockets of those that still have something
    /// to finish, for the next one to follow.
    pub async fn predecessors(&self) -> Vec<OwnedFd> {
        let predecessors = std::mem::take(&mut *lock(&self.succession.predecessors));
        let mut sockets = Vec::new();
        for Predecessor { leave, following, .. } in predecessors {
            leave.cancel();
            if let Ok(Ok(Some(socket))) = tokio::time::timeout(LAST_WORDS, following).await {
                sockets.push(socket);
            }
        }
        sockets
    }
}

fn serves(upstream: &Upstream) -> ToPredecessor {
    let worker = &upstream.worker;
    ToPredecessor::Serves {
        worker: worker.id.0,
        slot: worker.slot,
        pid: worker.pid,
        known: worker.known(),
        doors: upstream.doors(),
    }
}

/// What a predecessor has said.
struct Heard {
    front: Arc<Front>,
    out: Arc<Outbox>,
    /// Read ahead of the connection that comes next.
    ahead: Vec<u8>,
    /// What it has in flight, by worker. It ends with the predecessor.
    in_flight: HashMap<WorkerId, Vec<InFlight>>,
}

impl Heard {
    fn on(&mut self, bytes: &[u8], fd: Option<OwnedFd>) {
        match (serde_json::from_slice(bytes), fd) {
            (Ok(ToSuccessor::Begin { version }), _) => {
                tracing::debug!(version, "a predecessor finishes what it has begun");
            }
            (Ok(ToSuccessor::InFlight { worker, count }), _) => self.count(WorkerId(worker), count),
            (Ok(ToSuccessor::Session { sid, worker, silence_ms }), _) => {
                let silence = silence_ms.map(Duration::from_millis);
                self.front.session_opened(&sid, WorkerId(worker), silence);
            }
            (Ok(ToSuccessor::Ahead { bytes }), _) => self.ahead.extend(bytes),
            (Ok(ToSuccessor::Fresh { listener, peer, introduced }), Some(fd)) => {
                self.go_on(fd, listener, peer, |front, from, client| {
                    front.spawn(front.clone().connection(from, client, introduced));
                });
            }
            (Ok(ToSuccessor::Kept { listener, peer }), Some(fd)) => {
                let ahead = std::mem::take(&mut self.ahead);
                self.go_on(fd, listener, peer, |front, from, client| {
                    front.spawn(front.clone().kept(from, client, ahead));
                });
            }
            (Ok(ToSuccessor::HandOver { id, worker, listener, told }), Some(fd)) => {
                let (front, out) = (self.front.clone(), self.out.clone());
                tokio::spawn(async move {
                    let taken = match front.upstream(WorkerId(worker)) {
                        Some(upstream) => {
                            let _needing = front.needs_a_worker().await;
                            upstream.take_private(ListenerId(listener), fd, told.as_deref()).await
                        }
                        None => false,
                    };
                    out.put(&ToPredecessor::HandedOver { id, taken }, None);
                });
            }
            (Ok(message), None) => {
                self.ahead.clear();
                tracing::warn!(?message, "a connection was passed on without its descriptor");
            }
            (Err(error), fd) => {
                if fd.is_some() {
                    self.ahead.clear();
                }
                tracing::warn!(%error, "word from an older cohortd is not understood");
            }
        }
    }

    /// A connection of the predecessor's is ours from now on.
    fn go_on(
        &self,
        fd: OwnedFd,
        listener: usize,
        peer: Option<SocketAddr>,
        with: impl FnOnce(&Arc<Front>, Origin, Client),
    ) {
        let front = &self.front;
        if listener >= front.places.len() {
            return tracing::warn!(listener, "a connection was passed on of no listener: closed");
        }
        match watch(fd) {
            Ok(client) => {
                let from = Origin { listener: ListenerId(listener), peer: front.peer(peer) };
                with(front, from, client);
            }
            Err(error) => tracing::warn!(%error, "what was passed on is no connection: closed"),
        }
    }

    fn count(&mut self, worker: WorkerId, count: usize) {
        let Some(upstream) = self.front.upstream(worker) else {
            self.in_flight.remove(&worker);
            return;
        };
        let in_flight = self.in_flight.entry(worker).or_default();
        in_flight.truncate(count);
        in_flight.resize_with(count, || Upstream::begin(&upstream));
    }
}
