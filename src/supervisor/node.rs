//! What a Node worker says over its IPC, and whether @socket.io/sticky is there to serve it.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::tasks::{Event, Shared};
use crate::route::Upstream;
use crate::worker::wire::cluster::Request;
use crate::worker::wire::{Framing, Incoming};
use crate::worker::{Worker, probe};

/// When to ask a worker that has said nothing whether @socket.io/sticky is there, each time since
/// the last. An app that has the package installed is asked from the first on, any other only when
/// it has had the time to listen: it sees a message that is not meant for it.
const PROBES: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(9),
    Duration::from_secs(27),
];
const PROBES_OF_STRANGERS: &[Duration] = PROBES.split_at(2).1;

/// When a cluster adapter has spoken it is a Socket.IO server, which may not be set up yet.
const EAGER_PROBE: Duration = Duration::from_millis(50);
const EAGER_PROBES: usize = 40;

/// When to ask an app in this directory.
pub(super) fn probes(directory: &Path) -> &'static [Duration] {
    if probe::has_package(directory, "@socket.io/sticky") { &PROBES } else { PROBES_OF_STRANGERS }
}

/// Hands on what the worker says until its channel ends. `says_ready`: it is awaited that it says
/// that it is ready.
pub(super) async fn read(
    worker: Arc<Worker>,
    shared: Shared,
    adapter_spoke: Arc<Notify>,
    says_ready: bool,
) {
    let spoke = AtomicBool::new(false);
    let awaited = AtomicBool::new(says_ready);
    let ended = worker
        .read(|message, frame| match message {
            Incoming::Adapter(packet) => {
                shared.relay.forward(&worker, packet, frame);
                if !spoke.swap(true, Ordering::Relaxed) {
                    adapter_spoke.notify_one();
                }
            }
            Incoming::SessionOpened(sid) => shared.front.session_opened(sid, worker.id, None),
            Incoming::SessionClosed(sid) => shared.front.session_closed(sid, worker.id),
            Incoming::Metrics => shared.prom_client.hear(&worker, frame),
            Incoming::Cluster => match Request::read(worker.framing(), frame) {
                Ok(request) => cluster(&worker, &shared, request),
                Err(error) => {
                    tracing::warn!(worker = worker.id.0, %error, "an unreadable cluster message");
                }
            },
            Incoming::App
                if awaited.load(Ordering::Relaxed) && is_ready(worker.framing(), frame) =>
            {
                awaited.store(false, Ordering::Relaxed);
                shared.tell(worker.id, Event::SaysReady);
            }
            _ => {} // the app's own
        })
        .await;
    // At once, not when the process has been waited for: others wait for its answers.
    shared.relay.leave(worker.id);
    shared.front.remove(worker.id);
    shared.tell(worker.id, Event::HungUp(ended));
}

/// `process.send("ready")`, as PM2's `wait_ready` has it.
fn is_ready(framing: Framing, frame: &[u8]) -> bool {
    framing.decode::<Cow<'_, str>>(frame).is_ok_and(|word| word == "ready")
}

fn cluster(worker: &Worker, shared: &Shared, request: Request) {
    let event = match request {
        Request::Online => return,
        Request::QueryServer(query) => Event::Query(query),
        Request::Listening { port } => Event::Listening(port),
        Request::Close { key } => Event::Close(key),
        Request::ExitedAfterDisconnect { seq } => Event::Leaving(seq),
        Request::Unknown(act) => {
            tracing::debug!(worker = worker.id.0, act, "a cluster message of an unknown kind");
            return;
        }
    };
    shared.tell(worker.id, event);
}

/// Asks until @socket.io/sticky answers, often once a cluster adapter has spoken.
pub(super) async fn ask_for_sticky(
    upstream: Arc<Upstream>,
    shared: Shared,
    adapter_spoke: Arc<Notify>,
    probes: &[Duration],
) {
    let worker = &upstream.worker;
    let ask = async || -> io::Result<()> {
        let (ours, theirs) = shared.front.open_pair().await?;
        worker
            .give_to_sticky(theirs, None)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        probe::ask(ours).await
    };
    let answered = async {
        for &pause in probes {
            // The question stays open until the next: Node keeps messages for a listener to come.
            tokio::time::sleep(pause).await;
            if let Ok(Ok(())) = tokio::time::timeout(pause * 3, ask()).await {
                return true;
            }
        }
        false
    };
    let eagerly = async {
        adapter_spoke.notified().await;
        for _ in 0..EAGER_PROBES {
            if let Ok(Ok(())) = tokio::time::timeout(EAGER_PROBE * 20, ask()).await {
                return true;
            }
            tokio::time::sleep(EAGER_PROBE).await;
        }
        false
    };
    let found = tokio::select! {
        found = answered => found,
        true = eagerly => true,
    };
    if found {
        shared.tell(worker.id, Event::StickyAnswers);
    }
}
