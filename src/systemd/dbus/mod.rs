//! The app on the system bus, as `org.cohortd.App_NAME`: docs/dbus.md.
//!
//! All that is said there comes from [`Status`], and nothing depends on it. It has a thread of its
//! own, so that callers can't hold up clients; without a bus, or when that is restarted, it tries
//! again.

mod access;
mod app;
mod shared;
mod worker;

use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zbus::Connection;
use zbus::fdo::{ObjectManager, RequestNameFlags, RequestNameReply};

use crate::supervisor::{Handle, Refusal, Request, Status, WorkerStatus};
use access::Access;
use app::App;
use shared::Shared;
use worker::Worker;

/// Between tries to be on the bus: the first pause, and what it grows to.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// The pause from which on a name that is taken is told of: until then it is likely the last cohortd's,
/// of whose end the bus has yet to hear.
const LATE: Duration = Duration::from_secs(1);

/// How long the bus has for what we ask of it; polkit may be asking somebody for a password.
const PATIENCE: Duration = Duration::from_secs(120);

/// The object that is the app.
const APP: &str = "/org/cohortd/app";

fn path_of(worker: &WorkerStatus) -> String {
    format!("{APP}/worker/{}", worker.id)
}

/// The name of an app on the bus.
pub fn bus_name(app: &str) -> String {
    format!("org.cohortd.App_{app}")
}

/// What a polkit rule calls it when somebody changes something about an app.
pub fn action(app: &str) -> String {
    format!("org.cohortd.manage.{app}")
}

/// Why the app is not on the bus.
#[derive(Debug, thiserror::Error)]
enum BusError {
    #[error("the system bus can't be used: {0}")]
    Bus(#[from] zbus::Error),
    #[error("the system bus does not answer")]
    Silent,
    #[error(
        "the bus does not let us be {name}: {source}; `cohortctl add` writes the policy for it"
    )]
    Name { name: String, source: zbus::Error },
    #[error("{name} is somebody else's")]
    Taken { name: String },
    #[error("the bus has ended the connection")]
    Lost,
    #[error(transparent)]
    App(#[from] Refusal),
}

/// The thread that keeps an app on the bus.
#[derive(Debug)]
pub struct Bus {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Bus {
    /// Leaves the bus, and ends the thread.
    pub fn leave(self) {
        self.stop.cancel();
        let _ = self.thread.join(); // whatever it has ended with
    }
}

/// Puts an app on the bus, for as long as it runs.
///
/// # Errors
/// There can be no thread for it.
pub fn start(app: &str, handle: Handle) -> io::Result<Bus> {
    let app = app.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("dbus".to_owned());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let stay = move || {
        runtime.block_on(stopped.run_until_cancelled(stay(&app, &handle)));
        runtime.shutdown_background();
    };
    Ok(Bus { stop, thread: thread.spawn(stay)? })
}

async fn stay(app: &str, handle: &Handle) {
    let [shortest, longest] = PAUSES;
    let (mut pause, mut told) = (shortest, false);
    loop {
        let error = match tokio::time::timeout(longest, Objects::show(app, handle)).await {
            Ok(Ok(objects)) => {
                tracing::info!(name = bus_name(app), "on the system bus");
                (pause, told) = (shortest, false);
                match objects.keep_up(handle.changes()).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Ok(Err(error)) => error,
            Err(_) => BusError::Silent,
        };
        let is_early = matches!(error, BusError::Taken { .. }) && pause < LATE;
        match error {
            // There is nothing to show any more.
            BusError::App(_) => return,
            error if told || is_early => tracing::debug!(%error, "not on the system bus"),
            error => {
                tracing::warn!(%error, "not on the system bus; it is tried again");
                told = true;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// The app's objects on a connection to the bus.
struct Objects {
    bus: Connection,
    shared: Arc<Shared>,
    /// What everybody has been told.
    told: Arc<Status>,
}

impl Objects {
    /// Shows them, and then takes the app's name.
    async fn show(app: &str, handle: &Handle) -> Result<Objects, BusError> {
        let told = Arc::new(handle.ask(Request::Status).await?);
        let access = Access::new(app);
        let shared = Arc::new(Shared::new(handle.clone(), access, told.clone()));
        let bus = zbus::connection::Builder::system().method_timeout(PATIENCE).build().await?;
        let objects = Objects { bus, shared, told };
        let server = objects.bus.object_server();
        server.at(APP, App(objects.shared.clone())).await?;
        for worker in &objects.told.workers {
            objects.add(worker).await?;
        }
        server.at("/", ObjectManager).await?;
        let name = bus_name(app);
        let asked = objects.bus.request_name_with_flags(&*name, RequestNameFlags::DO_NOT_QUEUE);
        match asked.await {
            Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(objects),
            Ok(_) | Err(zbus::Error::NameTaken) => Err(BusError::Taken { name }),
            Err(source) => Err(BusError::Name { name, source }),
        }
    }

    /// Tells of every change until the app has ended.
    async fn keep_up(mut self, mut changes: watch::Receiver<()>) -> Result<(), BusError> {
        loop {
            tokio::select! {
                change = changes.changed() => match change {
                    Ok(()) => self.update().await?,
                    Err(_) => return Ok(()),
                },
                () = self.bus.closed() => return Err(BusError::Lost),
            }
        }
    }

    /// Tells in what the app is not what was told before.
    async fn update(&mut self) -> Result<(), BusError> {
        let now = self.shared.look().await?;
        let before = mem::replace(&mut self.told, now.clone());
        for gone in before.workers.iter().filter(|worker| find(&now, worker.id).is_none()) {
            self.bus.object_server().remove::<Worker, _>(path_of(gone)).await?;
        }
        for worker in &now.workers {
            match find(&before, worker.id) {
                None => self.add(worker).await?,
                Some(before) => self.tell_of_worker(before, worker).await?,
            }
        }
        self.tell_of_app(&before, &now).await?;
        Ok(())
    }

    async fn add(&self, worker: &WorkerStatus) -> zbus::Result<()> {
        let object = Worker { id: worker.id, shared: self.shared.clone() };
        self.bus.object_server().at(path_of(worker), object).await.map(drop)
    }

    async fn tell_of_worker(&self, before: &WorkerStatus, now: &WorkerStatus) -> zbus::Result<()> {
        if (&before.state, &before.status) == (&now.state, &now.status) {
            return Ok(());
        }
        let object = self.bus.object_server().interface::<_, Worker>(path_of(now)).await?;
        let (to, worker) = (object.signal_emitter(), object.get().await);
        if before.state != now.state {
            worker.state_changed(to).await?;
        }
        if before.status != now.status {
            worker.status_changed(to).await?;
        }
        Ok(())
    }

    async fn tell_of_app(&self, before: &Status, now: &Status) -> zbus::Result<()> {
        let object = self.bus.object_server().interface::<_, App>(APP).await?;
        let (to, app) = (object.signal_emitter(), object.get().await);
        if before.generation != now.generation {
            app.generation_changed(to).await?;
            App::reloaded(to, now.generation).await?;
        }
        if before.last_reload_error != now.last_reload_error {
            app.last_reload_error_changed(to).await?;
        }
        if before.failed_reloads != now.failed_reloads {
            App::reload_failed(to, now.last_reload_error.as_deref().unwrap_or_default()).await?;
        }
        if !before.workers.iter().map(|w| w.id).eq(now.workers.iter().map(|w| w.id)) {
            app.workers_changed(to).await?;
        }
        if before.profile != now.profile {
            app.profile_changed(to).await?;
        }
        if before.wanted != now.wanted {
            app.wanted_changed(to).await?;
        }
        if before.failures != now.failures {
            app.failures_changed(to).await?;
        }
        if before.state != now.state {
            app.state_changed(to).await?;
        }
        Ok(())
    }
}

fn find(status: &Status, worker: u64) -> Option<&WorkerStatus> {
    status.workers.iter().find(|one| one.id == worker)
}
