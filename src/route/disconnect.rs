//! Ends what a drained worker still has of its clients, so many a second, so that they come back
//! without a rush: WebSockets with a Close frame, polls with Engine.IO's close packet.
//!
//! A WebSocket that was handed over is the worker's, and only the worker knows where one frame of
//! it ends. But when the client has all that the worker has written, and the worker writes no more
//! for a moment, then the last frame is whole, and a Close frame of ours fits in. (On one that never
//! rests it has to do that the worker could write more and does not.) The client answers it, and
//! the worker sees a client that says goodbye.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendFlags, Shutdown};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::front::Front;
use super::given::{Connection, Speaks};
use super::succession::ToPredecessor;
use super::upstream::Upstream;
use super::websocket::CLOSE;
use crate::sys;
use crate::worker::{WorkerId, held};

/// All of a worker's connections are closed in this time, if need be faster than is configured.
const LIMIT: Duration = Duration::from_secs(600);

/// A worker may be about to write the rest of a frame that did not fit: it is given the time, by
/// so many looks after the first.
const LOOKS: usize = 2;
const SETTLE: Duration = Duration::from_millis(5);

/// How often it is tried to find such a moment, in either way.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// How long clients may take to answer a goodbye.
const GRACE: Duration = Duration::from_secs(5);

impl Front {
    /// Ends everything that a drained worker has of its clients, at most so many a second (shared
    /// by all workers), and waits until nothing is left, or a moment has passed.
    pub async fn disconnect(self: &Arc<Self>, upstream: &Arc<Upstream>, per_second: u32) {
        let id = upstream.worker.id;
        let worker = id.0;
        self.succession.tell_predecessors(&ToPredecessor::Disconnect { worker, per_second });
        let given = self.still_given(upstream).await.unwrap_or_default();
        let tunnels = upstream.tunnels();
        let all = given.len() + tunnels.len() + self.sessions_of(id);
        let pace = pace(all, per_second);
        tracing::info!(worker = id.0, connections = all, "disconnecting clients");
        let mut closing = JoinSet::new();
        for connection in given {
            self.turn(pace).await;
            closing.spawn(close(connection));
        }
        for tunnel in tunnels {
            self.turn(pace).await;
            tunnel.cancel();
        }
        // Those that were WebSockets have ended with them by now.
        let _ = timeout(GRACE, closing.join_all()).await;
        for sid in self.sids_of(id) {
            self.turn(pace).await;
            self.end_session(&sid, id);
        }
        let _ = timeout(GRACE, self.left(upstream)).await;
    }

    /// The same for the tunnels that a predecessor has.
    pub(super) async fn close_tunnels(&self, id: WorkerId, per_second: u32) {
        let tunnels = self.upstream(id).map(|upstream| upstream.tunnels()).unwrap_or_default();
        let pace = pace(tunnels.len(), per_second);
        for tunnel in tunnels {
            self.turn(pace).await;
            tunnel.cancel();
        }
    }

    /// Waits for one's turn to disconnect somebody.
    async fn turn(&self, pace: Duration) {
        let at = {
            let mut next = self.next_disconnect.lock().await;
            let at = (*next).max(Instant::now());
            *next = at + pace;
            at
        };
        sleep_until(at).await;
    }

    /// The clients' connections that a worker has. `None`: not all are known.
    pub(super) async fn still_given(&self, upstream: &Arc<Upstream>) -> Option<Vec<Connection>> {
        if upstream.yet_to_take() > 0 {
            return None;
        }
        let mut given = upstream.accepted().await?;
        let upstream = upstream.clone();
        given.extend(spawn_blocking(move || upstream.look()).await.ok()?);
        Some(given)
    }
}

/// How long apart so many are disconnected.
fn pace(all: usize, per_second: u32) -> Duration {
    let fastest = LIMIT / u32::try_from(all).unwrap_or(u32::MAX).max(1);
    fastest.min(Duration::from_secs(1) / per_second.max(1))
}

/// Closes a connection that a worker has. It may have ended meanwhile.
async fn close(connection: Connection) {
    let result = match held::borrow(connection.inode, connection.place) {
        Ok(socket) if matches!(connection.speaks, Speaks::WebSocket) => say_goodbye(socket).await,
        // The worker sees a client that has nothing more to say.
        Ok(socket) => rustix::net::shutdown(&socket, Shutdown::Read).map_err(io::Error::from),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ends with its worker");
    }
}

async fn say_goodbye(socket: OwnedFd) -> io::Result<()> {
    for is_quiet in [all_has_arrived, there_is_room] {
        for _ in 0..TRIES {
            if stays(is_quiet, &socket).await? {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                rustix::net::send(&socket, &CLOSE, flags)?;
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

type Test = fn(&OwnedFd) -> io::Result<bool>;

async fn stays(is_quiet: Test, socket: &OwnedFd) -> io::Result<bool> {
    for _ in 0..LOOKS {
        if !is_quiet(socket)? {
            return Ok(false);
        }
        sleep(SETTLE).await;
    }
    is_quiet(socket)
}

/// The client has everything that the worker has written.
fn all_has_arrived(socket: &OwnedFd) -> io::Result<bool> {
    Ok(sys::unsent(socket)? == 0)
}

/// Something is always on its way, but the worker could write more at once if it had any.
fn there_is_room(socket: &OwnedFd) -> io::Result<bool> {
    let mut poll = [PollFd::new(socket, PollFlags::OUT)];
    rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(poll[0].revents().contains(PollFlags::OUT))
}
