//! Asks workers for the metrics of their own `prom-client`, as its primary would.
//!
//! An app that does not expect the question gets a message that it does not know, so it is not asked
//! lightly; and who does not answer makes every scrape wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::counts::{Asked, Counts};
use crate::config::{Config, Kind, PromClient as Wanted};
use crate::metrics::prom_client::{Answer, AnswerTo, Question};
use crate::sync::lock;
use crate::worker::{Worker, WorkerId, probe};

/// How long the answers may take; Prometheus itself waits for 10 s.
const LIMIT: Duration = Duration::from_secs(2);

/// Questions without an answer after which a worker is not asked again, if it has never answered.
const MAX_UNANSWERED: u32 = 3;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    Nobody,
    /// Those of which it is not known that they don't answer.
    WhoAnswers,
    Everybody,
}

impl Whom {
    /// As the configuration has it.
    pub(super) fn of(config: &Config) -> Whom {
        let finds = || probe::has_package(&config.directory, "prom-client");
        match config.metrics.prom_client {
            _ if config.kind != Kind::Node => Whom::Nobody,
            Wanted::Off => Whom::Nobody,
            Wanted::On => Whom::Everybody,
            Wanted::Auto if finds() => Whom::WhoAnswers,
            Wanted::Auto => Whom::Nobody,
        }
    }
}

/// Questions and answers.
#[derive(Debug, Default)]
pub(super) struct PromClient {
    last: AtomicU64,
    /// Where the answers to a question go.
    askers: Mutex<HashMap<u64, mpsc::UnboundedSender<Heard>>>,
    /// How many questions each worker has left unanswered; none, once it has answered.
    unanswered: Mutex<HashMap<WorkerId, Option<u32>>>,
}

/// A worker's answer, as it came.
pub(super) type Heard = (Arc<Worker>, Bytes);

/// A question that is under way.
struct UnderWay<'a> {
    id: u64,
    of: &'a PromClient,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.of.askers).remove(&self.id);
    }
}

impl PromClient {
    /// A worker has answered.
    pub(super) fn hear(&self, worker: &Arc<Worker>, frame: &Bytes) {
        let Ok(AnswerTo { id }) = worker.framing().decode(frame) else { return };
        if let Some(asker) = lock(&self.askers).get(&id) {
            let _ = asker.send((worker.clone(), frame.clone())); // it may have given up
        }
    }

    /// Asks workers, and returns the answers that come in time, by slot and age.
    pub(super) async fn ask(
        &self,
        workers: Vec<Arc<Worker>>,
        whom: Whom,
        counts: &Counts,
    ) -> Vec<Heard> {
        let asked = self.choose(workers, whom);
        if asked.is_empty() {
            return Vec::new();
        }
        let question = UnderWay { id: self.last.fetch_add(1, Ordering::Relaxed), of: self };
        let (asker, mut answers) = mpsc::unbounded_channel();
        lock(&self.askers).insert(question.id, asker);
        for worker in &asked {
            worker.send(&Question::new(question.id));
        }
        let mut heard: Vec<Heard> = Vec::new();
        let gather = async {
            while heard.len() < asked.len()
                && let Some(answer) = answers.recv().await
            {
                if !heard.iter().any(|(worker, _)| worker.id == answer.0.id) {
                    heard.push(answer);
                }
            }
        };
        let _ = timeout(LIMIT, gather).await;
        self.learn(&asked, &heard, counts);
        heard.sort_by_key(|(worker, _)| (worker.slot, worker.id));
        heard
    }

    fn choose(&self, mut workers: Vec<Arc<Worker>>, whom: Whom) -> Vec<Arc<Worker>> {
        let mut unanswered = lock(&self.unanswered);
        unanswered.retain(|id, _| workers.iter().any(|worker| worker.id == *id));
        let answers = |worker: &Arc<Worker>| {
            !matches!(unanswered.get(&worker.id), Some(Some(MAX_UNANSWERED..)))
        };
        match whom {
            Whom::Nobody => workers.clear(),
            Whom::WhoAnswers => workers.retain(answers),
            Whom::Everybody => {}
        }
        workers
    }

    fn learn(&self, asked: &[Arc<Worker>], heard: &[Heard], counts: &Counts) {
        let mut unanswered = lock(&self.unanswered);
        for worker in asked {
            let times = unanswered.entry(worker.id).or_insert(Some(0));
            if heard.iter().any(|(other, _)| other.id == worker.id) {
                *times = None;
            } else {
                counts.asked.count(Asked::Unanswered);
                *times = times.map(|times| times + 1);
            }
        }
    }
}

/// Reads the answers. Takes a moment when they are large.
pub(super) fn read(heard: &[Heard], counts: &Counts) -> Vec<Answer> {
    let read = |(worker, frame): &Heard| {
        let answer: Result<Answer, String> = worker.framing().decode(frame);
        match answer.map(|answer| (answer.error.clone(), answer)) {
            Ok((None, answer)) => {
                counts.asked.count(Asked::Answered);
                Some(answer)
            }
            Ok((Some(error), _)) | Err(error) => {
                counts.asked.count(Asked::Failed);
                tracing::debug!(worker = worker.id.0, error, "no metrics of its own");
                None
            }
        }
    };
    heard.iter().filter_map(read).collect()
}
