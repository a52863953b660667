//! The access log: a line of JSON for each request, on standard output.
//!
//! A thread of its own does the writing. Where nobody reads, lines are lost, not requests; how many
//! is said.

use std::io::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, StatusCode, Version};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::sync::lock;
use crate::worker::WorkerId;

/// Lines that wait to be written; those above are lost.
const MAX_WAITING: usize = 4096;

/// How long the last lines may take in the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Where the lines go.
#[derive(Debug)]
pub(super) struct AccessLog {
    writer: Mutex<SyncSender<Order>>,
    lost: AtomicU64,
}

enum Order {
    Write(Vec<u8>),
    /// Say when all before has been written.
    Tell(oneshot::Sender<()>),
}

impl AccessLog {
    /// Starts the writing thread.
    pub(super) fn start() -> Arc<AccessLog> {
        Arc::new(AccessLog { writer: Mutex::new(writer()), lost: AtomicU64::new(0) })
    }

    /// Starts another one, in a process that was forked from one that had it.
    pub(super) fn begin_again(&self) {
        let before = std::mem::replace(&mut *lock(&self.writer), writer());
        // The other thread may have held what its end would wait for.
        std::mem::forget(before);
    }

    fn write(&self, line: Vec<u8>) {
        if lock(&self.writer).try_send(Order::Write(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lines = lost, "access log: lost, for nobody read standard output");
        }
    }

    /// Waits a moment until the lines are written that there are.
    pub(super) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let asked = lock(&self.writer).try_send(Order::Tell(done));
        if asked.is_ok() {
            let _ = tokio::time::timeout(FLUSH_LIMIT, is_done).await;
        }
    }
}

fn writer() -> SyncSender<Order> {
    let (writer, orders) = sync_channel(MAX_WAITING);
    std::thread::spawn(move || {
        for order in orders {
            match order {
                Order::Write(line) => {
                    let mut out = std::io::stdout().lock();
                    let _ = out.write_all(&line).and_then(|()| out.flush());
                }
                Order::Tell(done) => drop(done.send(())),
            }
        }
    });
    writer
}

/// A request, from its head to the end of its response. It is written when it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    log: Arc<AccessLog>,
    begun: Instant,
    line: Line,
}

/// What is written. The names are documented in `docs/configuration.md`.
#[derive(Debug, Serialize)]
struct Line {
    /// Seconds since 1970, when the head had been read.
    time: f64,
    client: Option<IpAddr>,
    method: String,
    target: String,
    protocol: &'static str,
    host: Option<String>,
    /// None: the client went away before there was one.
    status: Option<u16>,
    /// Of the response's body.
    bytes: u64,
    /// To the end of the response.
    seconds: f64,
    worker: Option<u64>,
    /// The host that has answered.
    forwarded_to: Option<String>,
    request_id: Option<String>,
    referer: Option<String>,
    user_agent: Option<String>,
}

impl Entry {
    /// A request has come; `id` is the header that has its id.
    pub(super) fn of<B>(
        log: Arc<AccessLog>,
        request: &Request<B>,
        client: Option<IpAddr>,
        id: Option<&HeaderName>,
    ) -> Entry {
        let headers = request.headers();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            time: since.as_millis() as f64 / 1000.0,
            client: client.map(|address| address.to_canonical()),
            method: request.method().to_string(),
            target: request.uri().to_string(),
            protocol: if request.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
            host: text(headers, &header::HOST),
            status: None,
            bytes: 0,
            seconds: 0.0,
            worker: None,
            forwarded_to: None,
            request_id: id.and_then(|name| text(headers, name)),
            referer: text(headers, &header::REFERER),
            user_agent: text(headers, &header::USER_AGENT),
        };
        Entry { log, begun: Instant::now(), line }
    }

    /// It is answered, by one of our workers or by another host.
    pub(super) fn answered(
        &mut self,
        status: StatusCode,
        worker: Option<WorkerId>,
        host: Option<&str>,
    ) {
        self.line.status = Some(status.as_u16());
        self.line.worker = worker.map(|id| id.0);
        self.line.forwarded_to = host.map(str::to_owned);
    }

    /// So much more of the response's body has passed.
    pub(super) fn pass(&mut self, bytes: usize) {
        self.line.bytes += bytes as u64;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.line.seconds = self.begun.elapsed().as_micros() as f64 / 1e6;
        if let Ok(mut line) = serde_json::to_vec(&self.line) {
            line.push(b'\n');
            self.log.write(line);
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}
