//! Two front-ends that know nothing of a bus, but were told of each other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::front::Front;
use super::super::upstream::ListenerId;
use crate::config::Config;
use crate::listen::{Listener, Socket, tcp};
use crate::relay::bus::doors::Doors;
use crate::relay::bus::hosts::Door;
use crate::relay::bus::wire::HostId;
use crate::relay::{Relay, Sessions};
use crate::sync::lock;

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

struct Side {
    front: Arc<Front>,
    /// For clients.
    at: SocketAddr,
    /// For the other.
    door: Door,
}

fn side() -> Side {
    let text = "exec = ['node', 'x.js']\nlisten = ['8080']\n[route]\nqueue = '50ms'\n";
    let config = Config::parse(Path::new("/etc/cohortd/app.toml"), text).expect("right");
    let socket = Socket::Tcp(tcp(Some(LOOPBACK.into()), 0, false, 16).expect("a listener"));
    let place = socket.place();
    let at = place.addr.expect("TCP");
    let front = Arc::new(Front::new(&config, None, vec![place]).expect("a front-end"));
    front.accept(ListenerId(0), Listener::watch(socket).expect("watched"));
    let free = tcp(Some(LOOPBACK.into()), 0, false, 16).expect("a listener").local_addr();
    let door = free.expect("a port");
    front.forward(Arc::new(Relay::default()), door).expect("a key");
    let key = front.forwarding.get().expect("just set").identity.key();
    Side { front, at, door: Door { address: door.to_string(), key } }
}

/// One knows of the other, and takes it to have this session.
fn told(side: &Side, name: &str, door: &Door, sid: &str) {
    let id = HostId(7);
    let mut doors = Doors::default();
    doors.hear(id, None, name, Some(door.clone()), Duration::ZERO);
    side.front.doors(doors.all().map(|(id, known)| (id, known.clone())).collect());
    lock(&side.front.forwarding.get().expect("set").found).put(sid, id);
}

async fn poll(side: &Side, sid: &str) -> String {
    ask(side, "GET", sid).await
}

async fn ask(side: &Side, method: &str, sid: &str) -> String {
    let mut stream = TcpStream::connect(side.at).await.expect("connected");
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let head = format!("{method} {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n");
    let body = if method == "POST" { "Content-Length: 2\r\n\r\n40" } else { "\r\n" };
    let request = head + body;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    answer
}

fn forwarded(side: &Side, name: &str) -> (u64, u64) {
    let forwarded = side.front.forwarded(name);
    (forwarded.requests, forwarded.failed)
}

#[tokio::test]
async fn what_each_takes_to_be_the_other_s_goes_there_once() {
    let (a, b) = (side(), side());
    told(&a, "b", &b.door, "x");
    told(&b, "a", &a.door, "x");
    let answer = poll(&a, "x").await;
    // There is no worker, and that is what the other says.
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!((forwarded(&a, "b"), forwarded(&b, "a")), ((1, 0), (0, 0)));
    assert!(poll(&b, "x").await.starts_with("HTTP/1.1 503 "));
    assert_eq!((forwarded(&a, "b"), forwarded(&b, "a")), ((1, 0), (1, 0)));
}

#[tokio::test]
async fn a_host_with_another_key_is_sent_nothing() {
    let (a, b) = (side(), side());
    let other = Door { key: a.door.key.clone(), ..b.door.clone() };
    told(&a, "b", &other, "x");
    told(&b, "a", &a.door, "y");
    assert!(poll(&a, "x").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(forwarded(&a, "b"), (0, 1));
}

#[tokio::test]
async fn who_was_never_announced_is_not_served() {
    let (a, b) = (side(), side());
    told(&a, "b", &b.door, "x");
    assert!(poll(&a, "x").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(forwarded(&a, "b"), (0, 1));
}

/// Nobody who goes before there is an answer stays among those who wait for one.
#[tokio::test]
async fn who_goes_waits_no_more() {
    let a = side();
    for n in 0..10 {
        let mut stream = TcpStream::connect(a.at).await.expect("connected");
        let target = format!("/socket.io/?EIO=4&transport=polling&sid=gone{n}");
        let request = format!("GET {target} HTTP/1.1\r\nHost: app\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let waits = async {
            while a.front.parked() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waits).await.expect("it waits");
        // Not its last word only: half-closed, it might still listen.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
        drop(stream);
        let gone = async {
            while a.front.parked() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it waits no more");
    }
}

/// What was sent on a kept connection while its other end goes can't be sent twice.
#[tokio::test]
async fn who_goes_takes_what_is_on_its_way() {
    let (a, b) = (side(), side());
    told(&a, "b", &b.door, "x");
    told(&b, "a", &a.door, "y");
    assert!(poll(&a, "x").await.starts_with("HTTP/1.1 503 "));
    b.front.stop();
    assert!(ask(&a, "POST", "x").await.starts_with("HTTP/1.1 503 "), "on the same connection");
    assert_eq!(forwarded(&a, "b"), (2, 0));
    // And once more: the one that was kept is closed, and there is no door.
    assert!(ask(&a, "POST", "x").await.starts_with("HTTP/1.1 502 "));
    let drained = tokio::time::timeout(Duration::from_secs(1), b.front.drained());
    drained.await.expect("nothing is left");
}

/// Who hears that a host goes keeps no connection to it.
#[tokio::test]
async fn a_host_that_says_that_it_goes_need_not_wait() {
    let (a, b) = (side(), side());
    told(&a, "b", &b.door, "x");
    told(&b, "a", &a.door, "y");
    assert!(poll(&a, "x").await.starts_with("HTTP/1.1 503 "));
    // Something else may still be under way there.
    let _held = a.front.forwarding.get().and_then(|forwarding| forwarding.host_of("x"));
    b.front.stop();
    a.front.doors(Vec::new());
    let drained = tokio::time::timeout(Duration::from_secs(1), b.front.drained());
    drained.await.expect("nothing is left");
}
