//! Takes HTTP connections back from a worker that is drained, between two requests, and gives them to
//! others. Their clients notice nothing, not even one that is just sending its next request.
//!
//! Only the worker's Node knows whether a connection is idle, so it is asked to close those that are
//! (`worker/hook.cjs`). By then each of them is ours as well: the kernel tells the client nothing of
//! the worker's end, and keeps what comes for the next one.

use std::collections::HashMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use super::front::Front;
use super::given::{Connection, Origin, Speaks};
use super::upstream::Upstream;
use crate::listen::watch;
use crate::worker::held;

/// How many are held at once: each takes a descriptor.
const AT_ONCE: usize = 256;

impl Front {
    /// Takes back those of the connections that a worker has on which nothing is under way.
    pub(super) async fn take_back(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        given: Vec<Connection>,
    ) {
        let (front, upstream) = (self.clone(), upstream.clone());
        // A task of its own: what the worker has closed must not be dropped half-way.
        let taken = tokio::spawn(async move {
            let _turn = upstream.taking_back.lock().await;
            for some in given.chunks(AT_ONCE) {
                let mut held: HashMap<RawFd, _> =
                    some.iter().filter_map(|one| front.hold(one)).collect();
                if held.is_empty() {
                    continue;
                }
                let descriptors: Vec<RawFd> = held.keys().copied().collect();
                let needing = front.needs_a_worker().await;
                let released = upstream.worker.release(&descriptors).await;
                drop(needing);
                for descriptor in released {
                    if let Some((socket, origin)) = held.remove(&descriptor)
                        && let Ok(client) = watch(socket)
                    {
                        let origin = origin.unwrap_or_else(|| front.origin_of(&client));
                        front.spawn(front.clone().next_request(origin, client));
                    }
                }
            }
        });
        let _ = taken.await; // it can't be waited for where the runtime ends
    }

    /// A connection by the worker's descriptor, with a descriptor of ours.
    fn hold(&self, connection: &Connection) -> Option<(RawFd, (OwnedFd, Option<Origin>))> {
        let Speaks::Http(origin) = &connection.speaks else { return None };
        let socket = held::borrow(connection.inode, connection.place).ok()?;
        self.mark(&socket).busy(); // it is the worker's
        Some((connection.place.descriptor, (socket, origin.as_deref().copied())))
    }
}
