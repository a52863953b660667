//! What all objects of an app have: the way to its supervisor, and what that said last.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use zbus::message::Header;
use zbus::names::MemberName;
use zbus::{Connection, DBusError, fdo};

use super::access::Access;
use crate::supervisor::{Handle, Refusal, Reply, Request, Status};
use crate::sync::lock;

/// Figures may be so old: whoever asks for them all the time costs the supervisor no more than this.
const FRESH: Duration = Duration::from_millis(500);

/// How many calls of those who may change something can wait for its effect at once.
const MAX_CALLS: usize = 64;

/// How many can wait for figures at once.
const MAX_READERS: usize = 64;

/// Why a method was not carried out.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org")]
pub(super) enum CallError {
    /// It could not be.
    #[zbus(name = "cohortd.Error.Failed")]
    Failed(String),
    /// The app was stopped before.
    #[zbus(name = "cohortd.Error.Stopped")]
    Stopped(String),
    /// The caller may not.
    #[zbus(name = "freedesktop.DBus.Error.AccessDenied")]
    Denied(String),
    /// Too much at once.
    #[zbus(name = "freedesktop.DBus.Error.LimitsExceeded")]
    TooMuch(String),
    /// An argument makes no sense.
    #[zbus(name = "freedesktop.DBus.Error.InvalidArgs")]
    Invalid(String),
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stopped => CallError::Stopped(refusal.to_string()),
            Refusal::Left => CallError::Failed(refusal.to_string()),
            Refusal::Failed(reason) => CallError::Failed(reason),
        }
    }
}

pub(super) struct Shared {
    handle: Handle,
    access: Access,
    /// What properties that tell of their changes say.
    told: Mutex<Arc<Status>>,
    /// What the others say, and since when that is known.
    figures: tokio::sync::Mutex<(Instant, Arc<Status>)>,
    readers: Semaphore,
    calls: Semaphore,
}

impl Shared {
    pub(super) fn new(handle: Handle, access: Access, status: Arc<Status>) -> Shared {
        Shared {
            handle,
            access,
            told: Mutex::new(status.clone()),
            figures: tokio::sync::Mutex::new((Instant::now(), status)),
            readers: Semaphore::new(MAX_READERS),
            calls: Semaphore::new(MAX_CALLS),
        }
    }

    /// How the app is now, which is also what its properties say from now on.
    pub(super) async fn look(&self) -> Result<Arc<Status>, Refusal> {
        let now = Arc::new(self.handle.ask(Request::Status).await?);
        *lock(&self.told) = now.clone();
        *self.figures.lock().await = (Instant::now(), now.clone());
        Ok(now)
    }

    /// What everybody has been told, or is being told.
    pub(super) fn told(&self) -> Arc<Status> {
        lock(&self.told).clone()
    }

    /// A status whose figures are fresh.
    pub(super) async fn figures(&self) -> fdo::Result<Arc<Status>> {
        let Ok(_turn) = self.readers.try_acquire() else {
            return Err(fdo::Error::LimitsExceeded("too many ask for it at once".to_owned()));
        };
        let mut last = self.figures.lock().await;
        if last.0.elapsed() > FRESH {
            let status = self.handle.ask(Request::Status).await;
            let status = status.map_err(|refusal| fdo::Error::Failed(refusal.to_string()))?;
            *last = (Instant::now(), Arc::new(status));
        }
        Ok(last.1.clone())
    }

    /// Lets a caller in who may change something, for as long as they keep what they get.
    pub(super) async fn admit(
        &self,
        bus: &Connection,
        call: &Header<'_>,
    ) -> Result<SemaphorePermit<'_>, CallError> {
        let user = self.access.check(bus, call).await?;
        let turn = self.calls.try_acquire().map_err(|_| too_many())?;
        let method = call.member().map(MemberName::as_str).unwrap_or_default();
        tracing::info!(user, method, "called over D-Bus");
        Ok(turn)
    }

    /// Asks the supervisor and waits for the effect.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, CallError> {
        Ok(self.handle.ask(request).await?)
    }
}

pub(super) fn too_many() -> CallError {
    CallError::TooMuch("too many calls wait already: try again later".to_owned())
}
