//! How one front-end follows another, while clients' connections go on.
//!
//! ```text
//! close_doors, settled ─▶ pass_on ──▶ fresh and kept connections, what is in flight ──▶ follow
//!                         passed_on ◀─ workers that come and go, sessions that end, stop ◀──
//! ```
//! A request and its response belong to one front-end. The one that leaves (the predecessor) finishes
//! those that it has begun, and passes each connection on as soon as nothing is under way on it; the
//! one that follows (the successor) has the listeners and the workers' IPC, and does everything else.
//! What can't be passed on ends where it is: tunnels, and connections that are encrypted, which are
//! closed behind the answer that is under way.

mod between;
mod follow;
mod leave;
mod regain;
mod rest;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use between::{Arriving, Between, Exchange, Watched};
pub(super) use leave::{Passable, Successor};
pub use regain::Noted;
pub(super) use wire::ToPredecessor;

use follow::Predecessor;

use super::front::Front;
use super::upstream::ListenerId;
use crate::listen::{Listener, Socket};
use crate::sync::lock;

/// A front-end's part in that.
#[derive(Debug, Default)]
pub(super) struct Succession {
    doors: Mutex<Doors>,
    /// Nothing new is begun for which a worker's IPC is needed.
    settling: watch::Sender<bool>,
    /// So much is under way for which it is.
    needing: AtomicUsize,
    less: Notify,
    successor: OnceLock<Arc<Successor>>,
    /// What is said to it.
    speaking: TaskTracker,
    predecessors: Mutex<Vec<Predecessor>>,
    following: TaskTracker,
}

/// What accepts connections.
#[derive(Debug, Default)]
struct Doors {
    close: CancellationToken,
    open: Vec<JoinHandle<Option<(ListenerId, Listener)>>>,
}

/// Something for which a worker's IPC is needed.
#[derive(Debug)]
pub(super) struct Needing<'a>(&'a Succession);

impl Drop for Needing<'_> {
    fn drop(&mut self) {
        if self.0.needing.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.less.notify_waiters();
        }
    }
}

impl Front {
    /// Accepts no more, for a successor to do it: gives the sockets back. What waits in them stays
    /// there. From now on nothing new is begun that needs a worker's IPC.
    pub async fn close_doors(&self) -> Vec<(ListenerId, Socket)> {
        self.succession.settling.send_replace(true);
        let Doors { close, open } = std::mem::take(&mut *lock(&self.succession.doors));
        close.cancel();
        let mut sockets = Vec::with_capacity(open.len());
        for accepting in open {
            let Ok(Some((id, listener))) = accepting.await else { continue };
            sockets.push((id, listener.release()));
        }
        sockets
    }

    /// Waits, after [`Front::close_doors`], until nothing needs a worker's IPC: no connection that
    /// was sent is yet to be taken, and no request waits for a worker. `false`: not within `limit`.
    pub async fn settled(&self, limit: Duration) -> bool {
        let Succession { needing, less, .. } = &self.succession;
        let none = async {
            loop {
                let less = less.notified();
                if needing.load(Ordering::Relaxed) == 0 {
                    return;
                }
                less.await;
            }
        };
        tokio::time::timeout(limit, none).await.is_ok()
    }

    /// There is no successor after all. [`Front::accept`] opens the doors again.
    pub fn go_on(&self) {
        self.succession.settling.send_replace(false);
    }

    /// A door that is open, and how it is told to close.
    pub(super) fn opens(
        &self,
        accept: impl FnOnce(CancellationToken) -> JoinHandle<Option<(ListenerId, Listener)>>,
    ) {
        let mut doors = lock(&self.succession.doors);
        let accepting = accept(doors.close.clone());
        doors.open.push(accepting);
    }

    /// Whether nothing new is begun for which a worker is needed.
    pub(super) fn is_settling(&self) -> bool {
        *self.succession.settling.borrow()
    }

    /// To be held while a worker's IPC is needed. Waits while the front-end settles.
    pub(super) async fn needs_a_worker(&self) -> Needing<'_> {
        if self.is_settling() {
            // Its sender is ours.
            let _ = self.succession.settling.subscribe().wait_for(|settling| !settling).await;
        }
        self.waits_for_a_worker()
    }

    /// To be held while it is not known yet whether a worker's IPC will be needed.
    pub(super) fn waits_for_a_worker(&self) -> Needing<'_> {
        self.succession.needing.fetch_add(1, Ordering::Relaxed);
        Needing(&self.succession)
    }

    /// Ends when connections are passed on. Never, when the front-end stops.
    pub(super) async fn passes_on(&self) {
        self.turns.cancelled().await;
        if self.stop.is_cancelled() {
            std::future::pending().await
        }
    }

    /// Waits for what predecessors still have.
    pub(super) async fn is_alone(&self) {
        self.succession.following.close();
        self.succession.following.wait().await;
    }
}

impl Succession {
    /// Whoever everything is passed on to, if there is one.
    pub(super) fn successor(&self) -> Option<&Arc<Successor>> {
        self.successor.get()
    }

    /// Tells all of those who still have something to finish.
    pub(super) fn tell_predecessors(&self, message: &ToPredecessor) {
        lock(&self.predecessors).iter().for_each(|predecessor| predecessor.tell(message));
    }
}
