//! Where metrics are served, and what happens when somebody asks for them.
//!
//! The loop is asked only who is there. Everything else is read, and written, on a thread of its own:
//! a large text must not keep requests waiting.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::page;
use super::prom_client::{self, Whom};
use super::run::Supervisor;
use super::tasks::Shared;
use crate::config::{Config, Listen};
use crate::listen::Socket;
use crate::metrics::text::Format;
use crate::metrics::{Server, open};
use crate::route::Upstream;
use crate::worker::Worker;

/// Who asks for what the loop knows.
pub(super) type Scrape = oneshot::Sender<Snapshot>;

/// Scrapes that wait; the loop answers within one turn.
const MAX_WAITING: usize = 16;

/// What only the loop knows.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) app: String,
    pub(super) generation: u64,
    pub(super) wanted: usize,
    /// With their states, in an operator's words, by slot and age.
    pub(super) workers: Vec<(Arc<Upstream>, &'static str)>,
    whom: Whom,
}

/// Where metrics are served.
#[derive(Debug)]
pub(super) struct Metrics {
    scraper: Scraper,
    at: Option<Listen>,
    server: Option<Server>,
    /// Opened for the reload that is under way.
    next: Option<Socket>,
    whom: Whom,
}

impl Metrics {
    /// Serves them where the configuration says; they are not worth failing for. The loop has to
    /// answer what is received.
    pub(super) fn serve(config: &Config, shared: &Shared) -> (Metrics, mpsc::Receiver<Scrape>) {
        let (ask, scrapes) = mpsc::channel(MAX_WAITING);
        let scraper = Scraper { ask, shared: shared.clone() };
        let mut metrics =
            Metrics { scraper, at: None, server: None, next: None, whom: Whom::Nobody };
        match metrics.prepare(config) {
            Ok(()) => metrics.follow(config),
            Err(error) => tracing::error!(error, "no metrics; a reload tries again"),
        }
        (metrics, scrapes)
    }

    /// Opens what this configuration names, if that is not open.
    pub(super) fn prepare(&mut self, config: &Config) -> Result<(), String> {
        self.next = None;
        let Some(at) = &config.metrics.listen else { return Ok(()) };
        if self.server.is_none() || self.at.as_ref() != Some(at) {
            self.next = Some(open(at).map_err(|error| format!("[metrics] listen: {error}"))?);
        }
        Ok(())
    }

    /// Serves them where this configuration says, which was prepared.
    pub(super) fn follow(&mut self, config: &Config) {
        self.whom = Whom::of(config);
        self.at = config.metrics.listen.clone();
        if self.at.is_none() {
            self.server = None;
        }
        if let (Some(socket), Some(at)) = (self.next.take(), &self.at) {
            let scraper = self.scraper.clone();
            match Server::start(socket, move |format| scraper.clone().scrape(format)) {
                Ok(server) => {
                    tracing::info!(%at, "serving metrics");
                    self.server = Some(server);
                }
                Err(error) => tracing::error!(%at, %error, "can't serve metrics"),
            }
        }
    }

    /// What was prepared is not needed.
    pub(super) fn forget(&mut self) {
        self.next = None;
    }
}

impl Supervisor {
    /// Says what only the loop knows.
    pub(super) fn on_scrape(&self, scrape: Scrape) {
        let mut workers: Vec<_> = self
            .processes
            .iter()
            .map(|(id, process)| (process.upstream.clone(), self.fleet.state_of(*id)))
            .collect();
        workers.sort_by_key(|(upstream, _)| (upstream.worker.slot, upstream.worker.id));
        let snapshot = Snapshot {
            app: self.releases[&self.serving].config.app.clone(),
            generation: self.serving.0,
            wanted: self.fleet.wanted(),
            workers,
            whom: self.metrics.whom,
        };
        let _ = scrape.send(snapshot); // who has asked may have gone
    }
}

/// Makes the text.
#[derive(Debug, Clone)]
struct Scraper {
    ask: mpsc::Sender<Scrape>,
    shared: Shared,
}

impl Scraper {
    /// `None`: the loop has ended.
    async fn scrape(self, format: Format) -> Option<String> {
        let (scrape, snapshot) = oneshot::channel();
        self.ask.send(scrape).await.ok()?;
        let snapshot = snapshot.await.ok()?;
        let shared = self.shared;
        let workers = snapshot.serving();
        let heard = shared.prom_client.ask(workers, snapshot.whom, &shared.counts).await;
        let write = move || {
            let answers = prom_client::read(&heard, &shared.counts);
            page::write(&snapshot, &shared, &answers, format)
        };
        tokio::task::spawn_blocking(write).await.ok()
    }
}

impl Snapshot {
    /// The workers that do what the app does.
    fn serving(&self) -> Vec<Arc<Worker>> {
        let serves = |state| matches!(state, "ready" | "draining" | "disconnecting");
        let serving = self.workers.iter().filter(|(_, state)| serves(*state));
        serving.map(|(upstream, _)| upstream.worker.clone()).collect()
    }
}
