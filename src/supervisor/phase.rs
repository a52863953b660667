//! How far an app's life has come: what it does when it is up, and how it stops.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use super::process::Process;
use super::run::Supervisor;
use crate::listen::Listener;
use crate::route::{Front, ListenerId};
use crate::systemd::events;

/// How far the app's life has come.
pub(super) enum Phase {
    Starting,
    Up,
    /// No connection is accepted; requests in flight finish until then.
    Draining {
        until: Instant,
    },
    /// The workers are being stopped.
    Stopping,
}

impl Supervisor {
    /// The app is up: connections are accepted.
    pub(super) fn open_the_doors(&mut self) {
        for (at, socket) in std::mem::take(&mut self.sockets).into_iter().enumerate() {
            let on = &self.places[at];
            if self.servers.is_shared(ListenerId(at)) {
                tracing::info!(%on, "the workers are accepting");
                self.sockets.push(socket);
                continue;
            }
            match Listener::watch(socket) {
                Ok(listener) => {
                    tracing::info!(%on, "accepting");
                    self.shared.front.accept(ListenerId(at), listener);
                }
                Err(error) => tracing::error!(%on, %error, "can't accept"),
            }
        }
        tracing::info!(name: events::APP_UP, workers = self.fleet.summary().ready, "up");
        // Whoever has waited for the start looks at the status next.
        self.notifier.status(self.fleet.summary().to_string());
        self.notifier.ready();
    }

    /// The next stage of stopping: each further signal skips one.
    pub(super) fn stop(&mut self, phase: Phase) -> Phase {
        match phase {
            Phase::Up => {
                self.notifier.stopping();
                self.shared.front.stop();
                self.servers.share_no_more();
                self.sockets.clear();
                let until = Instant::now() + self.releases[&self.serving].config.stop.drain;
                tracing::info!(
                    name: events::APP_STOPPING,
                    connections = self.shared.front.connections(),
                    "stopping: finishing what is in flight"
                );
                Phase::Draining { until }
            }
            Phase::Starting => {
                self.notifier.stopping();
                self.stop_workers()
            }
            Phase::Draining { .. } => self.stop_workers(),
            Phase::Stopping => {
                tracing::warn!("told to stop again: killing the workers");
                self.processes.values().for_each(Process::kill);
                Phase::Stopping
            }
        }
    }

    pub(super) fn stop_workers(&mut self) -> Phase {
        self.shared.front.stop();
        self.fleet.stop();
        Phase::Stopping
    }

    pub(super) fn status(&self, phase: &Phase) -> String {
        let summary = self.fleet.summary();
        match phase {
            Phase::Starting => format!("Starting: {summary}"),
            Phase::Up => match self.shared.relay.trouble() {
                Some(trouble) => format!("{summary}; {trouble}"),
                None => summary.to_string(),
            },
            Phase::Draining { .. } => {
                let open = self.shared.front.connections();
                format!("Stopping: {open} connections finish their requests")
            }
            Phase::Stopping => format!("Stopping: {summary}"),
        }
    }
}

/// Ends when nothing is in flight any more, or the time for it is over.
pub(super) async fn drained(front: &Arc<Front>, phase: &Phase) {
    match phase {
        Phase::Draining { until } => {
            let _ = tokio::time::timeout_at((*until).into(), front.drained()).await;
        }
        _ => pending().await,
    }
}
