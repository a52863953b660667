//! A worker that gets its connections by IPC, which only the last front-end may use.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};

use super::app::{App, Side, Work, filling, serve_one, succeed, until};
use super::talk::{Talk, get, get_empty};
use crate::listen::Place;
use crate::route::{HandedOver, Notes};
use crate::worker::WorkerId;
use crate::worker::channel::Channel;
use crate::worker::marks::Mark;
use crate::worker::wire::Framing;

/// A front-end before such a worker, and how many connections that was given.
fn side(app: &App, number: u64, place: &Place) -> (Side, Arc<AtomicUsize>) {
    let (side, theirs) = connected(app, number, place);
    let given = Arc::<AtomicUsize>::default();
    tokio::spawn(work(theirs, app.work.clone(), given.clone()));
    (side, given)
}

/// A front-end before a worker whose end of the channel is this.
fn connected(app: &App, number: u64, place: &Place) -> (Side, UnixStream) {
    let (ours, theirs) = StdStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("set");
    let channel = Channel::new(ours, Framing::Json, Mark::default()).expect("a channel");
    let side = app.side(number, place, "", Some(channel));
    let worker = side.worker.worker.clone();
    tokio::spawn({
        let worker = worker.clone();
        async move { worker.write().await }
    });
    tokio::spawn(async move { worker.read(|_, _| {}).await });
    side.worker.open_sticky();
    side.front.add(side.worker.clone());
    (side, UnixStream::from_std(theirs).expect("watched"))
}

/// What a successor would hear of: how many connections workers were given.
#[derive(Debug, Default)]
struct Heard(AtomicUsize);

impl Notes for Heard {
    fn session_opened(&self, _: &str, _: WorkerId, _: Option<Duration>) {}
    fn session_ended(&self, _: &str) {}
    fn session_over(&self, _: &str, _: WorkerId) {}

    fn given(&self, _: WorkerId, _: HandedOver) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes what it is given, and serves it.
async fn work(mut ipc: UnixStream, work: Arc<Work>, given: Arc<AtomicUsize>) {
    while let Ok(fd) = ipc.async_io(Interest::READABLE, || connection(&ipc)).await {
        given.fetch_add(1, Ordering::Relaxed);
        ipc.write_all(b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n").await.expect("written");
        let client = TcpStream::from_std(fd.into()).expect("a connection");
        tokio::spawn(serve_one(client, work.clone()));
    }
}

/// Whether something has come that is not read.
fn waits_in(connection: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(connection).is_ok_and(|length| length > 0)
}

fn connection(ipc: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    rustix::net::recvmsg(ipc, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or(io::ErrorKind::UnexpectedEof.into())
}

#[tokio::test]
async fn a_new_connection_to_a_worker_is_asked_of_the_successor() {
    let app = App::start();
    let mut before = None;
    let (first, place) = app.open_as(|place| {
        let (side, given) = side(&app, 1, place);
        before = Some(given);
        side
    });
    let mut client = Talk::to(place).await;
    // As hyper serves them: of plain ones the second would be passed on, too.
    client.send(get_empty("/last/1/1000") + &get_empty("/fill/2/100")).await;
    until("it is under way", || first.worker.requests() == 1).await;
    let (second, after) = side(&app, 1, &first.front.places[0]);
    succeed(&first, &second).await;
    app.work.release.notify_one();
    assert_eq!(client.hear().await, filling(1, 1000));
    // It came with the first one, and nothing goes over that one's connection any more.
    assert_eq!(client.hear().await, filling(2, 100));
    assert_eq!((first.worker.requests(), second.worker.requests()), (2, 0));
    let given = |given: &AtomicUsize| given.load(Ordering::Relaxed);
    assert_eq!((before.as_deref().map(given), given(&after)), (Some(1), 1));
    client.send(get("/fill/3/100")).await;
    assert_eq!(client.hear().await, filling(3, 100));
    assert_eq!(second.worker.requests(), 1);
}

#[tokio::test]
async fn a_request_whose_worker_ends_goes_to_a_later_one() {
    let app = App::start();
    let mut ipc = None;
    let (first, place) = app.open_as(|place| {
        let (side, theirs) = connected(&app, 1, place);
        ipc = Some(theirs);
        side
    });
    let mut client = Talk::to(place).await;
    client.send(get("/fill/1/1000")).await;
    let ipc = ipc.expect("it was opened");
    let taken = ipc.async_io(Interest::READABLE, || connection(&ipc)).await.expect("a connection");
    ipc.try_write(b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n").expect("written");
    until("it is asked", || waits_in(&taken)).await;
    let (second, given) = side(&app, 2, &first.front.places[0]);
    succeed(&first, &second).await;
    second.front.remove(first.worker.worker.id);
    drop((taken, ipc));
    assert_eq!(client.hear().await, filling(1, 1000));
    assert_eq!(given.load(Ordering::Relaxed), 1);
}

/// When it is killed in the moment between, the worker has the connection and the client's WebSocket.
#[tokio::test]
async fn a_connection_is_noted_before_a_worker_has_it() {
    let (app, heard) = (App::start(), Arc::<Heard>::default());
    let mut ipc = None;
    let (_side, place) = app.open_as(|place| {
        let (side, theirs) = connected(&app, 1, place);
        side.front.take_notes(heard.clone());
        ipc = Some(theirs);
        side
    });
    let mut client = Talk::to(place).await;
    let head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(head.to_owned()).await;
    until("it is noted", || heard.0.load(Ordering::Relaxed) == 1).await;
    drop(ipc); // it has not said that it has it
}
