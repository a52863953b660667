//! Is a worker well? Node's event loop is asked over IPC, which needs no code of the app, the app
//! itself by HTTP; any other worker may send `WATCHDOG=1`.

use std::fmt;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Config, ReadyWhen};
use crate::route::{Front, Upstream};

/// How often an event loop is asked, or more often when its limit is short.
const PING_EVERY: Duration = Duration::from_secs(1);

/// A limit is waited for in so many steps: when we ourselves have stood still (a suspended
/// machine), that makes one step and not the whole limit.
const STEPS: u32 = 10;

/// The first wait between two questions whether a worker is ready; doubled up to `[health] every`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What is wrong with a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ill {
    /// Its event loop has stood still for so long.
    Hangs(Duration),
    /// It has not sent `WATCHDOG=1` for so long.
    Silent(Duration),
    /// A request of ours went wrong.
    Check {
        /// What was asked for.
        path: String,
        /// What came of it.
        answer: String,
        /// How many times in a row.
        times: u32,
    },
}

impl fmt::Display for Ill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ill::Hangs(time) => {
                write!(f, "its event loop has stood still for {:.1} s", time.as_secs_f64())
            }
            Ill::Silent(time) => {
                write!(f, "it has not sent WATCHDOG=1 for {:.1} s", time.as_secs_f64())
            }
            Ill::Check { path, answer, times: 1 } => write!(f, "GET {path}: {answer}"),
            Ill::Check { path, answer, times } => {
                write!(f, "GET {path}: {answer}, {times} times in a row")
            }
        }
    }
}

/// Asks the event loop again and again once the worker is ready, and ends when it has not answered
/// for `limit`. A program that has not answered before is not taken to hang: it may not speak this
/// part of the protocol.
pub(super) async fn event_loop(upstream: &Upstream, limit: Duration, ready: &Notify) -> Ill {
    upstream.worker.answers().await;
    ready.notified().await;
    loop {
        sleep(PING_EVERY.min(limit / STEPS)).await;
        match within(limit, upstream.worker.answers_in()).await {
            Ok(took) => upstream.counts.event_loop.observe(took),
            Err(silence) => return Ill::Hangs(silence),
        }
    }
}

/// Ends when a worker has not said for `limit` that it is alive.
pub(super) async fn watchdog(alive: &Notify, limit: Duration) -> Ill {
    loop {
        if let Err(silence) = within(limit, alive.notified()).await {
            return Ill::Silent(silence);
        }
    }
}

/// Waits for something for so long; how long it was when it did not come.
async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Result<T, Duration> {
    let begun = Instant::now();
    tokio::pin!(what);
    for _ in 0..STEPS {
        if let Ok(done) = timeout(limit / STEPS, &mut what).await {
            return Ok(done);
        }
    }
    Err(begun.elapsed())
}

/// The paths that a worker has to answer well before it is ready.
pub(super) fn before_ready(config: &Config) -> Vec<String> {
    let mut paths: Vec<String> = config.health.http.iter().cloned().collect();
    if let ReadyWhen::Http(path) = &config.ready.when
        && !paths.contains(path)
    {
        paths.push(path.clone());
    }
    paths
}

/// Ends when each of the paths has been answered well; tells each time when one was not.
pub(super) async fn becomes_ready(
    front: &Front,
    upstream: &Upstream,
    paths: &[String],
    every: Duration,
    not_yet: impl Fn(Ill),
) {
    let mut pause = FIRST_PAUSE;
    for path in paths {
        while let Err(answer) = ask(front, upstream, path, every).await {
            not_yet(Ill::Check { path: path.clone(), answer, times: 1 });
            sleep(pause).await;
            pause = (pause * 2).min(every);
        }
    }
}

/// Asks for a path every so often, and ends when that has failed so many times in a row. A worker
/// on trial must not fail once.
pub(super) async fn over_http(
    front: &Front,
    upstream: &Upstream,
    path: &str,
    every: Duration,
    fail_after: u32,
) -> Ill {
    let mut failed = 0;
    loop {
        sleep(every).await;
        match ask(front, upstream, path, every).await {
            Ok(()) => failed = 0,
            Err(answer) => {
                failed += 1;
                let worker = upstream.worker.id.0;
                tracing::warn!(worker, path, answer, failed, "not well");
                if failed >= fail_after || upstream.is_on_trial() {
                    return Ill::Check { path: path.to_owned(), answer, times: failed };
                }
            }
        }
    }
}

async fn ask(
    front: &Front,
    upstream: &Upstream,
    path: &str,
    limit: Duration,
) -> Result<(), String> {
    match timeout(limit, front.check(upstream, path)).await {
        Ok(Ok(status)) if status.is_success() || status.is_redirection() => Ok(()),
        Ok(Ok(status)) => Err(format!("answered {status}")),
        Ok(Err(error)) => Err(format!("no answer ({error})")),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
    }
}
