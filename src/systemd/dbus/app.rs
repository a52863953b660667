//! `org.cohortd.App1`: the app.

use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, interface};

use super::path_of;
use super::shared::{CallError, Shared};
use crate::supervisor::{Request, Scale, Trigger};

/// How long answers to a custom action are waited for, in seconds: callers of a bus have given up
/// after 25.
const TRIGGER_TIMEOUT: u64 = 10;

/// The app, as the bus shows it.
pub(super) struct App(pub(super) Arc<Shared>);

/// -1 is all.
fn slot(number: i32) -> Result<Option<usize>, CallError> {
    match number {
        -1 => Ok(None),
        _ => usize::try_from(number).map(Some).map_err(|_| {
            CallError::Invalid(format!("{number} is no slot: they count from 0, and -1 is all"))
        }),
    }
}

#[interface(name = "org.cohortd.App1")]
impl App {
    /// Read the configuration anew and replace all workers.
    #[zbus(out_args("generation"))]
    async fn reload(
        &self,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<u64, CallError> {
        let _admitted = self.0.admit(bus, &call).await?;
        Ok(self.0.ask(Request::Reload).await?.generation)
    }

    /// Have so many workers until the next reload.
    async fn scale(
        &self,
        workers: u32,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), CallError> {
        let _admitted = self.0.admit(bus, &call).await?;
        let scale = Scale::To(workers as usize);
        self.0.ask(|reply| Request::Scale(scale, reply)).await.map(drop)
    }

    /// Have so many workers more, or fewer, until the next reload.
    async fn scale_by(
        &self,
        difference: i32,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), CallError> {
        let _admitted = self.0.admit(bus, &call).await?;
        let scale = Scale::By(difference.into());
        self.0.ask(|reply| Request::Scale(scale, reply)).await.map(drop)
    }

    /// Replace a slot's worker by another, which serves before the old one goes.
    #[zbus(out_args("worker"))]
    async fn restart_worker(
        &self,
        slot: u32,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<u64, CallError> {
        let _admitted = self.0.admit(bus, &call).await?;
        Ok(self.0.ask(|reply| Request::Restart(slot as usize, reply)).await?.worker)
    }

    /// Send the workers of a slot, or all (-1), a signal by its number; answers whom it reached.
    #[zbus(out_args("workers"))]
    async fn signal(
        &self,
        slot: i32,
        number: i32,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Vec<u64>, CallError> {
        let _admitted = self.0.admit(bus, &call).await?;
        let slot = self::slot(slot)?;
        Ok(self.0.ask(|reply| Request::Signal(slot, number, reply)).await?.workers)
    }

    /// Have the workers of a slot, or all (-1), carry out a custom action. Its parameter is JSON, or
    /// empty; so are the answers.
    #[zbus(out_args("answers"))]
    async fn trigger(
        &self,
        slot: i32,
        action: &str,
        parameter: &str,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<String, CallError> {
        let _admitted = self.0.admit(bus, &call).await?;
        let slot = self::slot(slot)?;
        let parameter = match parameter {
            "" => None,
            json => Some(serde_json::from_str(json).map_err(|error| {
                CallError::Invalid(format!("the parameter is not JSON: {error}"))
            })?),
        };
        let trigger = Trigger { action: action.to_owned(), parameter, timeout: TRIGGER_TIMEOUT };
        let answers = self.0.ask(|reply| Request::Trigger(slot, trigger, reply)).await?.answers;
        serde_json::to_string(&answers).map_err(|error| CallError::Failed(error.to_string()))
    }

    /// A reload has succeeded.
    #[zbus(signal)]
    pub(super) async fn reloaded(emitter: &SignalEmitter<'_>, generation: u64) -> zbus::Result<()>;

    /// A reload has failed; what ran before goes on.
    #[zbus(signal)]
    pub(super) async fn reload_failed(
        emitter: &SignalEmitter<'_>,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.0.told().app.clone()
    }

    /// The configuration's full path.
    #[zbus(property(emits_changed_signal = "const"))]
    fn file(&self) -> String {
        self.0.told().file.clone()
    }

    /// use_profile
    #[zbus(property)]
    fn profile(&self) -> String {
        self.0.told().profile.clone()
    }

    /// cohortd's.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.0.told().version.clone()
    }

    /// In words.
    #[zbus(property)]
    fn state(&self) -> String {
        self.0.told().state.clone()
    }

    /// That which serves.
    #[zbus(property)]
    fn generation(&self) -> u64 {
        self.0.told().generation
    }

    /// How many workers there should be.
    #[zbus(property)]
    fn wanted(&self) -> u32 {
        u32::try_from(self.0.told().wanted).unwrap_or(u32::MAX)
    }

    /// How often a worker has exited by itself, was killed as unwell, or was not ready in time.
    #[zbus(property)]
    fn failures(&self) -> u64 {
        self.0.told().failures
    }

    /// Empty: it went well, or there was none.
    #[zbus(property)]
    fn last_reload_error(&self) -> String {
        self.0.told().last_reload_error.clone().unwrap_or_default()
    }

    /// Whether the bus to other hosts is reached; false where there is none.
    #[zbus(property)]
    fn bus_reached(&self) -> bool {
        self.0.told().bus.as_ref().is_some_and(|bus| bus.up)
    }

    /// Why it is not. Empty: it is, or there is none.
    #[zbus(property)]
    fn bus_error(&self) -> String {
        let status = self.0.told();
        status.bus.as_ref().and_then(|bus| bus.error.clone()).unwrap_or_default()
    }

    /// Names of the other hosts that are there.
    #[zbus(property)]
    fn hosts(&self) -> Vec<String> {
        let status = self.0.told();
        let hosts = status.bus.iter().flat_map(|bus| &bus.hosts);
        hosts.map(|host| host.name.clone()).collect()
    }

    /// By slot and age.
    #[zbus(property)]
    fn workers(&self) -> Vec<OwnedObjectPath> {
        let status = self.0.told();
        status.workers.iter().filter_map(|worker| path_of(worker).try_into().ok()).collect()
    }
}
