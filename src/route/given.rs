//! Clients' connections that a worker was given for good. Whether it still has them only the
//! kernel knows.

use std::collections::HashMap;

use crate::worker::held::Place;

/// What is spoken on a connection, as far as that decides how it can be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// WebSocket, in the clear: anyone can say goodbye on it.
    WebSocket,
    /// What only its ends can read: TLS, HTTP/2.
    Other,
}

/// A connection that a worker has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    pub(super) inode: u64,
    pub(super) speaks: Speaks,
    pub(super) place: Place,
}

/// So many are remembered before it is first looked which of them still exist.
const FIRST_LOOK: usize = 1024;

/// The connections of one worker. Those that have ended since are forgotten now and then.
#[derive(Debug)]
pub(super) struct Given {
    by_inode: HashMap<u64, Speaks>,
    next_look: usize,
}

impl Default for Given {
    fn default() -> Self {
        Given { by_inode: HashMap::new(), next_look: FIRST_LOOK }
    }
}

impl Given {
    /// One more. Whether it is time to look which there still are.
    pub(super) fn add(&mut self, inode: u64, speaks: Speaks) -> bool {
        self.by_inode.insert(inode, speaks);
        let due = self.by_inode.len() >= self.next_look;
        if due {
            // Not again before the look has ended.
            self.next_look = usize::MAX;
        }
        due
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_inode.is_empty()
    }

    /// Those that there may be: what to look for.
    pub(super) fn known(&self) -> Vec<u64> {
        self.by_inode.keys().copied().collect()
    }

    /// Of those that were `known`, these still exist.
    pub(super) fn looked(
        &mut self,
        known: &[u64],
        sockets: &HashMap<u64, Place>,
    ) -> Vec<Connection> {
        for inode in known.iter().filter(|inode| !sockets.contains_key(inode)) {
            self.by_inode.remove(inode);
        }
        // Each look costs as much as there is: so it is worth its while.
        self.next_look = (self.by_inode.len() * 2).max(FIRST_LOOK);
        let connection = |inode: &u64| {
            let (speaks, place) = (*self.by_inode.get(inode)?, *sockets.get(inode)?);
            Some(Connection { inode: *inode, speaks, place })
        };
        known.iter().filter_map(connection).collect()
    }
}
