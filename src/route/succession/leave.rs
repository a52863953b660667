//! The predecessor's part: passes on what nothing is under way on, and says what still is.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::super::front::Front;
use super::super::given::Origin;
use super::super::half_close::FromClient;
use super::super::stall::Impatient;
use super::super::upstream::{ListenerId, Upstream};
use super::wire::{Link, Outbox, PART, ToPredecessor, ToSuccessor, VERSION, converse};
use crate::listen::{Client, release};
use crate::sync::lock;
use crate::worker::{Worker, WorkerId};

/// Whoever everything is passed on to.
#[derive(Debug, Default)]
pub(in crate::route) struct Successor {
    out: Outbox,
    /// Connections that it was asked to hand over.
    asked: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    next: AtomicU64,
    /// All has been said.
    done: CancellationToken,
    gone: CancellationToken,
}

/// A client's connection as a predecessor has it.
pub(in crate::route) trait Passable: Sized {
    /// The connection itself, if nothing is lost with what it was wrapped in.
    fn into_plain(self) -> Option<Client> {
        None
    }
}

impl Passable for Impatient<FromClient> {
    fn into_plain(self) -> Option<Client> {
        Some(self.into_inner().into_inner())
    }
}

#[cfg(any(feature = "tls", feature = "nats", feature = "redis"))]
impl<S> Passable for tokio_rustls::server::TlsStream<S> {}

#[cfg(not(feature = "tls"))]
impl Passable for Client {}

impl Successor {
    /// So much is in flight to a worker now.
    pub(in crate::route) fn count(&self, worker: WorkerId, count: usize) {
        self.out.put(&ToSuccessor::InFlight { worker: worker.0, count }, None);
    }

    /// A session has begun in a worker.
    pub(in crate::route) fn session(&self, sid: &str, worker: WorkerId, silence: Option<Duration>) {
        let silence_ms = silence.map(|s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX));
        let session = ToSuccessor::Session { sid: sid.to_owned(), worker: worker.0, silence_ms };
        self.out.put(&session, None);
    }

    /// Asks it to hand a connection of ours over. Whether the worker has taken it.
    pub(in crate::route) async fn hand_over(
        &self,
        worker: WorkerId,
        listener: ListenerId,
        fd: OwnedFd,
        told: Option<&str>,
    ) -> bool {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.asked).insert(id, answer);
        let told = told.map(str::to_owned);
        let ask = ToSuccessor::HandOver { id, worker: worker.0, listener: listener.0, told };
        self.out.put(&ask, Some(fd));
        let taken = tokio::select! {
            taken = answered => taken == Ok(true),
            () = self.gone.cancelled() => false,
        };
        lock(&self.asked).remove(&id);
        taken
    }

    fn pass(&self, client: Client, message: &ToSuccessor) {
        match release(client) {
            Ok(fd) => self.out.put(message, Some(fd)),
            Err(error) => tracing::warn!(%error, "a connection can't be passed on: closed"),
        }
    }
}

impl Front {
    /// Passes every connection on as soon as nothing is under way on it, through a packet socket whose
    /// other end a successor follows by [`Front::follow`]. What is in flight is finished here.
    ///
    /// # Errors
    /// The socket can't be used, or there is a successor already.
    pub fn pass_on(self: &Arc<Self>, to: OwnedFd) -> io::Result<()> {
        let link = Link::new(to)?;
        let successor = Arc::<Successor>::default();
        let succession = &self.succession;
        if succession.successor.set(successor.clone()).is_err() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.begin_log_again();
        self.say_what_is_in_flight(&successor);
        for upstream in self.workers.borrow().iter() {
            upstream.is_counted_by(successor.clone());
        }
        let front = self.clone();
        succession.speaking.spawn(async move {
            let on = |bytes: &[u8], _| front.on_successor(&successor, bytes);
            let back = converse(link, &successor.out, &successor.done, on).await;
            successor.gone.cancel();
            if back.is_none() && !successor.done.is_cancelled() {
                tracing::warn!(
                    "the program that was to go on has ended: finishing what is in flight"
                );
                front.stop();
            }
        });
        self.connections.close();
        succession.settling.send_replace(false);
        self.turns.cancel();
        Ok(())
    }

    /// Waits, after [`Front::pass_on`], until every connection has ended or has been passed on.
    pub async fn passed_on(&self) {
        self.connections.close();
        self.connections.wait().await;
        if let Some(successor) = self.succession.successor() {
            successor.done.cancel();
        }
        self.succession.speaking.close();
        self.succession.speaking.wait().await;
    }

    fn say_what_is_in_flight(&self, successor: &Successor) {
        successor.out.put(&ToSuccessor::Begin { version: VERSION }, None);
        for upstream in self.workers.borrow().iter() {
            successor.count(upstream.worker.id, upstream.in_flight());
        }
    }

    /// Passes a connection on of which nothing has been read but, if its client is `introduced`, what
    /// its proxy says first.
    pub(in crate::route) fn pass_fresh(&self, from: Origin, client: Client, introduced: bool) {
        let Some(successor) = self.succession.successor() else { return };
        let (listener, peer) = (from.listener.0, from.peer.address);
        successor.pass(client, &ToSuccessor::Fresh { listener, peer, introduced });
    }

    /// Passes a connection on that is between two requests, or is yet to be handed over; of what
    /// follows, this has been read.
    pub(in crate::route) fn pass_kept(&self, from: Origin, client: Client, ahead: &[u8]) {
        let Some(successor) = self.succession.successor() else { return };
        for part in ahead.chunks(PART) {
            successor.out.put(&ToSuccessor::Ahead { bytes: part.to_vec() }, None);
        }
        let (listener, peer) = (from.listener.0, from.peer.address);
        successor.pass(client, &ToSuccessor::Kept { listener, peer });
    }

    fn on_successor(self: &Arc<Self>, successor: &Arc<Successor>, bytes: &[u8]) {
        match serde_json::from_slice(bytes) {
            Ok(ToPredecessor::Follow { version }) => {
                tracing::debug!(version, "there is a successor");
                // One before it may have been asked, and can't answer any more.
                lock(&successor.asked).clear();
                self.say_what_is_in_flight(successor);
            }
            Ok(ToPredecessor::HandedOver { id, taken }) => {
                if let Some(answer) = lock(&successor.asked).remove(&id) {
                    let _ = answer.send(taken); // its client may have gone
                }
            }
            Ok(ToPredecessor::Serves { worker, slot, pid, known, doors }) => {
                let id = WorkerId(worker);
                if let Some(upstream) = self.upstream(id) {
                    upstream.open_doors(doors);
                    return self.serves_again(&upstream);
                }
                // Its IPC is the successor's.
                let worker = Worker::resume(id, slot, pid, None, None, known, 0);
                let upstream = Arc::new(Upstream::new(Arc::new(worker), self.slot(slot)));
                upstream.open_doors(doors);
                upstream.is_counted_by(successor.clone());
                self.add(upstream);
            }
            Ok(ToPredecessor::Gone { worker }) => self.remove(WorkerId(worker)),
            Ok(ToPredecessor::SessionEnded { sid, worker }) => {
                self.end_session(&sid, WorkerId(worker));
            }
            Ok(ToPredecessor::Disconnect { worker, per_second }) => {
                let front = self.clone();
                tokio::spawn(async move {
                    front.close_tunnels(WorkerId(worker), per_second).await;
                });
            }
            Ok(ToPredecessor::Stop) => self.stop(),
            Err(error) => tracing::warn!(%error, "word from a newer cohortd is not understood"),
        }
    }
}
