//! `org.cohortd.Worker1`: a worker.

use std::sync::Arc;

use zbus::{fdo, interface};

use super::find;
use super::shared::Shared;
use crate::supervisor::{Status, WorkerStatus};

/// A worker, as the bus shows it.
pub(super) struct Worker {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
}

impl Worker {
    fn told<T>(&self, what: impl FnOnce(&WorkerStatus) -> T) -> fdo::Result<T> {
        self.of(&self.shared.told(), what)
    }

    async fn figure<T>(&self, what: impl FnOnce(&WorkerStatus) -> T) -> fdo::Result<T> {
        self.of(&*self.shared.figures().await?, what)
    }

    /// It may have gone a moment ago.
    fn of<T>(&self, status: &Status, what: impl FnOnce(&WorkerStatus) -> T) -> fdo::Result<T> {
        let worker = find(status, self.id);
        let gone = || fdo::Error::UnknownObject(format!("worker {} has gone", self.id));
        worker.map(what).ok_or_else(gone)
    }
}

#[interface(name = "org.cohortd.Worker1")]
impl Worker {
    /// Never reused.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.id
    }

    /// Its place, from 0; a successor has the same.
    #[zbus(property(emits_changed_signal = "const"))]
    fn slot(&self) -> fdo::Result<u32> {
        self.told(|worker| u32::try_from(worker.slot).unwrap_or(u32::MAX))
    }

    /// Of which reading of the configuration.
    #[zbus(property(emits_changed_signal = "const"))]
    fn generation(&self) -> fdo::Result<u64> {
        self.told(|worker| worker.generation)
    }

    /// Its process.
    #[zbus(property(emits_changed_signal = "const"))]
    fn pid(&self) -> fdo::Result<u32> {
        self.told(|worker| worker.pid)
    }

    /// starting, ready, draining, disconnecting, stopping or killed
    #[zbus(property)]
    fn state(&self) -> fdo::Result<String> {
        self.told(|worker| worker.state.clone())
    }

    /// In its own words: STATUS= to its NOTIFY_SOCKET; may be empty.
    #[zbus(property)]
    fn status(&self) -> fdo::Result<String> {
        self.told(|worker| worker.status.clone().unwrap_or_default())
    }

    /// Bytes; 0 where it is not known.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn memory(&self) -> fdo::Result<u64> {
        self.figure(|worker| worker.memory.unwrap_or_default() as u64).await
    }

    /// Requests.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn in_flight(&self) -> fdo::Result<u64> {
        self.figure(|worker| worker.in_flight as u64).await
    }

    /// Of Socket.IO.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn sessions(&self) -> fdo::Result<u64> {
        self.figure(|worker| worker.sessions as u64).await
    }

    /// Seconds since its start.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn uptime(&self) -> fdo::Result<u64> {
        self.figure(|worker| worker.uptime).await
    }
}
