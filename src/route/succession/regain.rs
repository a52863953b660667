//! Going on with clients' connections that the keeper of a killed cohortd has passed on: nobody has read
//! from them, or all that was read has been answered.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, getsockname};

use super::super::front::Front;
use super::super::given::Origin;
use super::super::upstream::{ListenerId, Upstream};
use super::wire::Link;
use crate::keeper;
use crate::listen::{Client, descriptor, watch};
use crate::worker::WorkerId;

/// How long the keeper may take for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which connections were noted as given to a worker, by inode.
pub type Noted = HashMap<u64, WorkerId>;

impl Front {
    /// Goes on with what a keeper passes on through this socket, until that is all; then drops `done`.
    /// The workers have to be known by then.
    ///
    /// # Errors
    /// The socket can't be used.
    pub fn regain(
        self: &Arc<Self>,
        from: OwnedFd,
        noted: Arc<Noted>,
        done: impl Send + 'static,
    ) -> io::Result<()> {
        let link = Link::new(from)?;
        let front = self.clone();
        tokio::spawn(async move {
            match front.regain_all(&link, &noted).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "going on with connections that were kept"),
                Err(error) => tracing::warn!(%error, "connections that were kept are lost"),
            }
            drop(done);
        });
        Ok(())
    }

    async fn regain_all(self: &Arc<Self>, link: &Link, noted: &Noted) -> io::Result<usize> {
        if link.say(&[keeper::ASK]).is_err() {
            return Ok(0); // it has ended in order
        }
        let (mut count, mut word) = (0, [0]);
        loop {
            let next = tokio::time::timeout(PATIENCE, link.receive(&mut word));
            match next.await.map_err(|_| io::ErrorKind::TimedOut)?? {
                Some((_, Some(connection))) => {
                    count += 1;
                    self.regain_one(connection, word[0] == keeper::RESTS, noted);
                }
                Some((_, None)) if word[0] == keeper::ALL => {
                    link.say(&[keeper::BYE])?;
                    return Ok(count);
                }
                Some((_, None)) => {} // out of descriptors
                // It was asked by somebody who was killed before it could tell it to end, or is dead.
                None => return Ok(count),
            }
        }
    }

    /// While it waits here it is unread for the keeper of this process, which would pass it on again.
    fn regain_one(self: &Arc<Self>, connection: OwnedFd, rests: bool, noted: &Noted) {
        let inode = rustix::fs::fstat(&connection).map(|stat| stat.st_ino);
        let here = getsockname(&connection);
        let (Ok(inode), Ok(here), Ok(client)) = (inode, here, watch(connection)) else { return };
        let Some(at) = self.places.iter().position(|place| place.has_accepted(&here)) else {
            return;
        };
        let from = Origin { listener: ListenerId(at), ..self.origin_of(&client) };
        let front = self.clone();
        match noted.get(&inode).copied() {
            _ if rests => self.spawn(front.kept(from, client, Vec::new())),
            None => self.spawn(front.connection(from, client, false)),
            Some(worker) => self.spawn(async move {
                if !front.was_taken(worker, inode, &client).await {
                    front.connection(from, client, false).await;
                }
            }),
        }
    }

    /// Whether a worker has a connection, or has served it, that was noted to be given to it: from the
    /// note alone nobody knows whether it was sent. Where that can't be found out, it counts as taken:
    /// no request is served twice.
    async fn was_taken(&self, worker: WorkerId, inode: u64, client: &Client) -> bool {
        if let Some(upstream) = self.upstream(worker) {
            let has_heard = tokio::select! {
                has_heard = async {
                    // In this order: what it takes off its lane it has when it answers.
                    has_taken(&upstream).await && upstream.worker.catches_up().await
                } => has_heard,
                () = upstream.gone.cancelled() => true,
            };
            let look = move || upstream.look().iter().any(|taken| taken.inode == inode);
            let has_it = tokio::task::spawn_blocking(look).await.unwrap_or(true);
            if has_it || !has_heard {
                return true;
            }
        }
        // What it had to say when it was to be given is still there, or was read.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = rustix::net::recv(descriptor(client).as_fd(), &mut [0_u8], flags);
        !seen.is_ok_and(|(length, _)| length > 0)
    }
}

/// Whether a worker has taken all that was sent by its lane before, in a moment.
async fn has_taken(upstream: &Upstream) -> bool {
    let Some(lane) = upstream.worker.lane() else { return true };
    tokio::time::timeout(PATIENCE, lane.is_empty()).await.is_ok()
}
