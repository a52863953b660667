//! The app: its worker, and front-ends before it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::listen::{Listener, Place, Socket, tcp};
use crate::route::{Front, ListenerId, Tls, Upstream};
use crate::sync::lock;
use crate::worker::channel::Channel;
use crate::worker::{Worker, WorkerId};

/// How long anything here may take.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct App {
    folder: TempDir,
    pub(super) work: Arc<Work>,
    _serving: AbortOnDropHandle<()>,
}

/// What the worker has to do, and has done.
#[derive(Default)]
pub(super) struct Work {
    /// How often each target has been asked for.
    pub(super) asked: Mutex<HashMap<String, usize>>,
    /// Lets go what is held.
    pub(super) release: Notify,
}

/// A front-end, and its view of the worker.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) front: Arc<Front>,
    pub(super) worker: Arc<Upstream>,
}

impl App {
    pub(super) fn start() -> App {
        let folder = TempDir::new().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("worker")).expect("bound");
        let work = Arc::<Work>::default();
        let serving = tokio::spawn(serve(listener, work.clone()));
        App { folder, work, _serving: AbortOnDropHandle::new(serving) }
    }

    /// A front-end with these lines of configuration, which knows the worker unless it `is_alone`.
    pub(super) fn front(&self, place: &Place, lines: &str, is_alone: bool) -> Side {
        let side = self.side(1, place, lines, None);
        if !is_alone {
            self.join(&side);
        }
        side
    }

    /// It has a worker from now on.
    pub(super) fn join(&self, side: &Side) {
        self.join_at(side, "worker");
    }

    /// That is somebody else's, who listens at this path in the app's folder.
    pub(super) fn join_at(&self, side: &Side, path: &str) {
        side.worker.open_private(self.path(path));
        side.front.add(side.worker.clone());
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// One that knows no worker yet; the first will have this number, and this is its IPC.
    pub(super) fn side(
        &self,
        number: u64,
        place: &Place,
        lines: &str,
        channel: Option<Channel>,
    ) -> Side {
        let text = format!("exec = ['worker']\nlisten = ['8080']\n{lines}\n");
        let file = self.folder.path().join("app.toml");
        let config = Config::parse(&file, &text).expect("a good configuration");
        let tls = Tls::load(&config).expect("a certificate, if any");
        let front = Front::new(&config, tls, vec![place.clone()]).expect("a front-end");
        let front = Arc::new(front);
        let worker = Arc::new(Worker::new(WorkerId(number), 0, std::process::id(), None, channel));
        let worker = Arc::new(Upstream::new(worker, front.slot(0)));
        Side { front, worker }
    }

    /// One that accepts connections, and where.
    pub(super) fn open(&self) -> (Side, SocketAddr) {
        self.open_with("kind = 'socket'", false)
    }

    pub(super) fn open_with(&self, lines: &str, is_alone: bool) -> (Side, SocketAddr) {
        self.open_as(|place| self.front(place, lines, is_alone))
    }

    pub(super) fn open_as(&self, side: impl FnOnce(&Place) -> Side) -> (Side, SocketAddr) {
        let listener = tcp(Some([127, 0, 0, 1].into()), 0, false, 4096).expect("a listener");
        // Its connections inherit it: the kernel takes little that their clients don't read.
        sockopt::set_socket_send_buffer_size(&listener, 32 << 10).expect("set");
        let socket = Socket::Tcp(listener);
        let place = socket.place();
        let side = side(&place);
        side.front.accept(ListenerId(0), Listener::watch(socket).expect("watched"));
        (side, place.addr.expect("TCP"))
    }

    /// Another one follows it.
    pub(super) async fn follow(&self, before: &Side) -> Side {
        let after = self.front(&before.front.places[0], "kind = 'socket'", false);
        succeed(before, &after).await;
        after
    }
}

/// All that happens where one program follows another, but for the programs.
pub(super) async fn succeed(before: &Side, after: &Side) {
    let sockets = before.front.close_doors().await;
    assert_eq!(sockets.len(), 1);
    before.front.settled(Duration::from_millis(100)).await;
    let older = before.front.predecessors().await;
    let (to, from) = packets();
    before.front.pass_on(to).expect("passed on");
    for from in older.into_iter().chain([from]) {
        after.front.follow(from).expect("followed");
    }
    for (id, socket) in sockets {
        after.front.accept(id, Listener::watch(socket).expect("watched"));
    }
}

pub(super) fn packets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair")
}

/// Ends when it is so.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// What has come for connections at this port, and has not been read.
pub(super) fn unread(place: SocketAddr) -> u64 {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let ours = format!(":{:04X}", place.port());
    let unread = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields[1].ends_with(&ours) && fields[3] == ESTABLISHED;
        let (_, unread) = fields[4].split_once(':').filter(|_| is_ours)?;
        u64::from_str_radix(unread, 16).ok()
    };
    table.lines().skip(1).filter_map(unread).sum()
}

/// What nobody can guess.
pub(super) fn filling(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// What is answered to a body.
pub(super) fn sum(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    format!("{} {sum}", bytes.len())
}

async fn serve(listener: UnixListener, work: Arc<Work>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let work = work.clone();
        tokio::spawn(serve_one(client, work));
    }
}

pub(super) async fn serve_one(
    client: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    work: Arc<Work>,
) {
    let service = service_fn(|request| answer(request, work.clone()));
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades()
        .await;
}

/// `/fill/SEED/LENGTH` is so many bytes, `/chunks/…` the same in chunks, `/hold/…` the same in two
/// halves, the second of which is held back, and `/last/…` that with nothing behind it; `/wait` has no answer yet; a WebSocket
/// is an echo; a body is
/// answered with its [`sum`].
async fn answer(
    mut request: Request<Incoming>,
    work: Arc<Work>,
) -> Result<Response<Parts>, Infallible> {
    let target = request.uri().path().to_owned();
    *lock(&work.asked).entry(target.clone()).or_default() += 1;
    let parts: Vec<&str> = target.split('/').skip(1).collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse().ok()).unwrap_or(0);
    if parts[0] == "wait" {
        work.release.notified().await;
    }
    let (sender, receiver) = mpsc::channel(1);
    if request.headers().contains_key(header::UPGRADE) {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded.await.expect("it is")));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        let mut response = Response::new(Parts { receiver, length: Some(0) });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        return Ok(response);
    }
    if request.method() == Method::POST {
        let body = request.into_body().collect().await;
        let text = body.map_or("broken".to_owned(), |body| sum(&body.to_bytes()));
        let length = Some(text.len() as u64);
        let _ = sender.send(text.into()).await;
        return Ok(Response::new(Parts { receiver, length }));
    }
    let bytes = Bytes::from(filling(number(1), number(2) as usize));
    let is_last = parts[0] == "last";
    let (kind, length) =
        (parts[0].to_owned(), (parts[0] != "chunks").then_some(bytes.len() as u64));
    tokio::spawn(async move {
        let half = bytes.len() / 2;
        let _ = sender.send(bytes.slice(..half)).await;
        match kind.as_str() {
            "hold" | "last" => work.release.notified().await,
            "chunks" => tokio::task::yield_now().await,
            _ => {}
        }
        let _ = sender.send(bytes.slice(half..)).await;
    });
    let mut response = Response::new(Parts { receiver, length });
    if is_last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

struct Parts {
    receiver: mpsc::Receiver<Bytes>,
    length: Option<u64>,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}
