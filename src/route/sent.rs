//! Connections that go to a worker by its lane, and those that come back: the worker has no server
//! for them, no room, or its end has come first. Nothing of them has been read.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::front::Front;
use super::given::Speaks;
use super::upstream::{ListenerId, Upstream};
use crate::listen::watch;
use crate::sync::lock;
use crate::worker::lane::{self, Lane};

impl Upstream {
    /// The lane by which connections come to its servers, if they do.
    fn lane(&self) -> Option<&Lane> {
        let lane = self.worker.lane().filter(|lane| lane.is_open())?;
        let is_used = !self.is_sticky() && self.shared.get().is_none();
        (is_used && lane.is_for_one_more(self.given())).then_some(lane)
    }

    /// Whether there is one.
    pub(super) fn has_lane(&self) -> bool {
        self.lane().is_some()
    }

    /// Whether a connection would be on its way to it at once.
    pub(super) fn has_room(&self) -> bool {
        self.lane().map_or_else(|| self.worker.has_room(), Lane::has_room)
    }

    /// Wakes up when that may be so again since this was called, if it is one of Node's.
    pub(super) fn room(&self) -> Option<impl Future<Output = ()>> {
        let room = self.worker.room()?;
        let lane = self.lane();
        Some(async move {
            match lane {
                Some(lane) => lane.room().await,
                None => room.await,
            }
        })
    }

    /// Sends a connection by the worker's lane. Nothing is answered: what the worker does not want
    /// comes back.
    ///
    /// # Errors
    /// The connection: it can't be sent so.
    pub(super) fn send(
        self: &Arc<Self>,
        listener: ListenerId,
        fd: OwnedFd,
        inode: u64,
        speaks: &Speaks,
    ) -> Result<(), OwnedFd> {
        let Some(lane) = self.lane() else { return Err(fd) };
        let server = lock(&self.servers).get(&listener).and_then(|key| lane::server_of(key));
        let Some(server) = server else { return Err(fd) };
        // Who looks meanwhile, and who takes it back, waits until both is done.
        let mut given = lock(&self.given);
        lane.give(server, fd)?;
        given.add(inode, speaks.clone(), Instant::now());
        drop(given);
        self.counts.handed_over.count(speaks.into());
        Ok(())
    }

    /// How many of the connections that it was given it has not taken.
    pub(super) fn yet_to_take(&self) -> usize {
        self.worker.lane().map_or(0, Lane::waiting)
    }
}

impl Front {
    /// Offers to others what a worker sends back, as long as it does.
    pub async fn takes_what_comes_back(self: Arc<Self>, upstream: Arc<Upstream>) {
        let Some(lane) = upstream.worker.lane() else { return };
        while let Ok(connection) = lane.returned().await {
            self.came_back(&upstream, connection);
        }
    }

    /// Nothing is sent to a worker any more: others get what it has not taken.
    pub fn recover(self: &Arc<Self>, upstream: &Upstream) {
        let rest = upstream.worker.lane().map(Lane::close).unwrap_or_default();
        rest.into_iter().for_each(|connection| self.came_back(upstream, connection));
    }

    fn came_back(self: &Arc<Self>, upstream: &Upstream, connection: OwnedFd) {
        let Ok(inode) = rustix::fs::fstat(&connection).map(|stat| stat.st_ino) else { return };
        let speaks = lock(&upstream.given).remove(inode);
        let Ok(client) = watch(connection) else { return };
        let from = match speaks {
            Some(Speaks::Http(Some(origin))) => *origin,
            _ => self.origin_of(&client),
        };
        self.spawn(self.clone().offer_again(from, client, upstream.worker.id));
    }
}
