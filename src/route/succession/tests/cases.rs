//! One connection each, at every stage.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::super::wire::{Link, Outbox, ToPredecessor, ToSuccessor, converse};
use super::app::{App, LIMIT, Side, filling, packets, succeed, sum, unread, until};
use super::talk::{Talk, get, get_empty, post};
use crate::listen::Listener;
use crate::route::ListenerId;
use crate::route::given::{Origin, Speaks};
use crate::route::websocket::CLOSE;
use crate::sync::lock;
use crate::worker::WorkerId;

/// More than the kernel holds between a client that doesn't read and its server.
const LARGE: usize = 24 << 20;

async fn passed_on(side: &Side) {
    tokio::time::timeout(LIMIT, side.front.passed_on()).await.expect("passed on in time");
}

#[tokio::test]
async fn a_kept_connection_is_passed_on_and_answered_by_the_next() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    client.send(get("/fill/1/100")).await;
    assert_eq!(client.hear().await, filling(1, 100));
    let second = app.follow(&first).await;
    passed_on(&first).await;
    client.send(get("/fill/2/100")).await;
    assert_eq!(client.hear().await, filling(2, 100));
    assert_eq!((first.worker.requests(), second.worker.requests()), (1, 1));
    assert_eq!((first.front.counts.accepted(), second.front.counts.accepted()), (1, 0));
}

#[tokio::test]
async fn the_beginning_of_a_head_goes_along() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    client.send(get("/fill/1/100")).await;
    client.hear().await;
    let head = get("/fill/2/100");
    client.send(&head[..20]).await;
    until("it has been read", || unread(place) == 0).await;
    let second = app.follow(&first).await;
    passed_on(&first).await;
    client.send(&head[20..]).await;
    assert_eq!(client.hear().await, filling(2, 100));
    client.send(get("/fill/3/100")).await;
    assert_eq!(client.hear().await, filling(3, 100));
    assert_eq!((first.worker.requests(), second.worker.requests()), (1, 2));
}

#[tokio::test]
async fn a_response_ends_where_it_has_begun() {
    for target in ["/hold/1/1000", "/hold/1/3000000"] {
        let app = App::start();
        let (first, place) = app.open();
        let mut client = Talk::to(place).await;
        client.send(get(target)).await;
        until("it is under way", || first.worker.requests() == 1).await;
        let second = app.follow(&first).await;
        until("the next one knows of it", || second.worker.in_flight() == 1).await;
        app.work.release.notify_one();
        let length = target.rsplit('/').next().and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!(client.hear().await, filling(1, length));
        passed_on(&first).await;
        until("the next one knows that too", || second.worker.in_flight() == 0).await;
        client.send(get("/fill/2/100")).await;
        assert_eq!(client.hear().await, filling(2, 100));
        assert_eq!((first.worker.requests(), second.worker.requests()), (1, 1));
    }
}

#[tokio::test]
async fn nothing_is_lost_of_what_a_slow_client_has_not_read() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    client.send(get(&format!("/fill/1/{LARGE}"))).await;
    until("it is under way", || first.worker.requests() == 1).await;
    let second = app.follow(&first).await;
    assert_eq!(first.front.connections(), 1, "more is left than the kernel takes");
    let heard = client.hear_slowly(Some(Duration::from_millis(1))).await;
    assert!(heard == filling(1, LARGE), "{} bytes", heard.len());
    passed_on(&first).await;
    client.send(get("/fill/2/100")).await;
    assert_eq!(client.hear().await, filling(2, 100));
    assert_eq!(second.worker.requests(), 1);
}

#[tokio::test]
async fn nothing_is_lost_of_what_is_buffered_here() {
    let app = App::start();
    let (first, place) = app.open();
    let mut clients = Vec::new();
    // More and more, in steps that are smaller than our own buffer.
    for n in 1..40 {
        let mut client = Talk::narrow(place).await;
        client.send(get(&format!("/fill/{n}/{}", n << 13))).await;
        clients.push((n, client));
    }
    until("all are under way", || first.worker.requests() == clients.len() as u64).await;
    let second = app.follow(&first).await;
    until("a response is read from its worker, and not written to its client", || {
        let accounted_for = second.worker.in_flight() == first.worker.in_flight();
        accounted_for && first.front.connections() > first.worker.in_flight()
    })
    .await;
    for (n, client) in &mut clients {
        assert!(client.hear().await == filling(*n, (*n as usize) << 13), "{n}");
    }
    passed_on(&first).await;
    for (n, client) in &mut clients {
        client.send(get("/fill/0/100")).await;
        assert_eq!(client.hear().await, filling(0, 100), "{n}");
    }
    assert_eq!(second.worker.requests(), clients.len() as u64);
}

#[tokio::test]
async fn an_upload_ends_where_it_has_begun() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    let body = filling(1, 5 << 20);
    client.send(post("/sum", body.len())).await;
    client.send(&body[..1 << 20]).await;
    until("it is under way", || first.worker.in_flight() == 1).await;
    let second = app.follow(&first).await;
    client.send(&body[1 << 20..]).await;
    // The next one comes together with its end.
    client.send(get("/fill/2/100")).await;
    assert_eq!(client.hear().await, sum(&body).into_bytes());
    assert_eq!(client.hear().await, filling(2, 100));
    passed_on(&first).await;
    assert_eq!(first.worker.requests() + second.worker.requests(), 2);
}

#[tokio::test]
async fn requests_that_came_together_are_answered_in_order_and_once() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    let targets: Vec<String> = (2..20).map(|n| format!("/fill/{n}/{}", n * 1000)).collect();
    let all: String = targets.iter().map(|target| get(target)).collect();
    client.send(get("/hold/1/1000") + &all).await;
    until("it is under way", || first.worker.requests() == 1).await;
    let second = app.follow(&first).await;
    app.work.release.notify_one();
    assert_eq!(client.hear().await, filling(1, 1000));
    for n in 2..20 {
        assert_eq!(client.hear().await, filling(n, n as usize * 1000));
    }
    passed_on(&first).await;
    client.send(get("/fill/20/100")).await;
    assert_eq!(client.hear().await, filling(20, 100));
    assert!(second.worker.requests() > 0);
    assert!(lock(&app.work.asked).values().all(|times| *times == 1));
}

#[tokio::test]
async fn connections_without_a_word_are_passed_on() {
    let app = App::start();
    for lines in ["kind = 'socket'", "kind = 'socket'\n[route]\nproxy_protocol = true"] {
        let (first, place) = app.open_with(lines, false);
        let mut silent = Talk::to(place).await;
        let mut begun = Talk::to(place).await;
        begun.send("PROXY").await;
        until("they are accepted", || first.front.connections() == 2).await;
        let second = app.front(&first.front.places[0], lines, false);
        succeed(&first, &second).await;
        passed_on(&first).await;
        if lines.contains("proxy_protocol") {
            silent.send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").await;
            begun.send(" TCP4 192.0.2.1 192.0.2.2 1 2\r\n").await;
            begun.send(get("/fill/2/10")).await;
            assert_eq!(begun.hear().await, filling(2, 10));
        }
        silent.send(get("/fill/1/10")).await;
        assert_eq!(silent.hear().await, filling(1, 10));
        let counts = &second.front.counts;
        assert_eq!((first.worker.requests(), counts.accepted()), (0, 0));
    }
}

#[tokio::test]
async fn a_connection_that_no_worker_has_taken_yet_is_passed_on_unread() {
    let app = App::start();
    let (first, place) = app.open_with("[route]\ndeliver = 'handoff'\nqueue = '60s'", true);
    let mut client = Talk::to(place).await;
    client.send(get("/fill/1/100")).await;
    until("it is accepted", || first.front.connections() == 1).await;
    let second = app.follow(&first).await;
    assert_eq!(client.hear().await, filling(1, 100));
    passed_on(&first).await;
    assert_eq!(second.worker.requests(), 1);
}

#[tokio::test]
async fn the_last_word_of_a_client_is_heard_by_the_next() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    client.send(get("/hold/1/1000") + &get("/fill/2/100")).await;
    until("it is under way", || first.worker.requests() == 1).await;
    app.follow(&first).await;
    client.end().await;
    app.work.release.notify_one();
    assert_eq!(client.hear().await, filling(1, 1000));
    assert_eq!(client.hear().await, filling(2, 100));
    assert!(client.rest().await.is_empty());
    passed_on(&first).await;
}

#[tokio::test]
async fn a_connection_that_is_to_be_closed_is_not_passed_on() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    client.send("GET /hold/1/1000 HTTP/1.0\r\nHost: app\r\n\r\n").await;
    until("it is under way", || first.worker.requests() == 1).await;
    app.follow(&first).await;
    app.work.release.notify_one();
    passed_on(&first).await;
    assert!(client.rest().await.ends_with(&filling(1, 1000)));
}

#[tokio::test]
async fn a_stop_ends_with_the_predecessors_last_request() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    client.send(get("/hold/1/1000")).await;
    until("it is under way", || first.worker.requests() == 1).await;
    let second = app.follow(&first).await;
    until("the next one knows of it", || second.worker.in_flight() == 1).await;
    second.front.stop();
    let drained = tokio::spawn({
        let front = second.front.clone();
        async move { front.drained().await }
    });
    until("it is told to stop", || first.front.stop.is_cancelled()).await;
    assert!(!drained.is_finished());
    app.work.release.notify_one();
    assert_eq!(client.hear().await, filling(1, 1000));
    assert!(client.rest().await.is_empty(), "it is not passed on");
    passed_on(&first).await;
    tokio::time::timeout(LIMIT, drained).await.expect("in time").expect("drained");
}

#[tokio::test]
async fn a_predecessor_hears_what_ends_from_whoever_follows_last() {
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    first.front.session_opened("abc", WorkerId(1), None);
    client.send("GET /wait?sid=abc&transport=polling&EIO=4 HTTP/1.1\r\nHost: app\r\n\r\n").await;
    until("it polls", || first.worker.in_flight() == 1).await;
    let second = app.follow(&first).await;
    second.front.session_opened("abc", WorkerId(1), None);
    let third = app.follow(&second).await;
    third.front.session_opened("abc", WorkerId(1), None);
    passed_on(&second).await;
    until("the last one knows of it", || third.worker.in_flight() == 1).await;
    third.front.end_session("abc", WorkerId(1));
    assert_eq!(client.hear().await, b"1");
    passed_on(&first).await;
    until("and of its end", || third.worker.in_flight() == 0).await;
    client.send(get("/fill/2/100")).await;
    assert_eq!(client.hear().await, filling(2, 100));
    assert_eq!(third.worker.requests(), 1);
}

#[tokio::test]
async fn what_is_not_understood_is_skipped() {
    let app = App::start();
    let (first, place) = app.open();
    first.front.close_doors().await;
    let (to, from) = packets();
    first.front.follow(from).expect("followed");
    let (out, end) = (Outbox::default(), CancellationToken::new());
    let strange = std::fs::File::open("/dev/null").expect("open");
    out.put(&serde_json::json!({"begin": {"version": 7, "more": true}}), None);
    out.put(
        &serde_json::json!({"unheard_of": {}}),
        Some(strange.try_clone().expect("a copy").into()),
    );
    out.put(&serde_json::json!([1, 2]), None);
    let kept = ToSuccessor::Kept { listener: 0, peer: Some(place) };
    out.put(&kept, None);
    out.put(&kept, Some(strange.into()));
    out.put(&ToSuccessor::Kept { listener: 9, peer: None }, Some(packets().0));
    out.put(&ToSuccessor::InFlight { worker: 9, count: 3 }, None);
    out.put(&ToSuccessor::InFlight { worker: 1, count: 3 }, None);
    let mut heard = Vec::new();
    let link = Link::new(to).expect("a link");
    let talking = converse(link, &out, &end, |bytes, _| heard.push(bytes.to_vec()));
    let counted = async {
        until("what can be understood is", || first.worker.in_flight() == 3).await;
        end.cancel();
    };
    tokio::join!(talking, counted);
    until("it ends with who has said it", || first.worker.in_flight() == 0).await;
    let first: ToPredecessor = serde_json::from_slice(&heard[0]).expect("a message");
    assert!(matches!(first, ToPredecessor::Follow { version: 1 }));
}

#[tokio::test]
async fn what_a_worker_was_given_is_known_to_the_next() {
    let app = App::start();
    let (first, place) = app.open();
    let peer = first.front.peer(Some(place));
    let origin = Origin { listener: ListenerId(0), peer };
    first.worker.given_away(7, Speaks::Http(Some(Arc::new(origin))));
    first.worker.given_away(8, Speaks::WebSocket);
    let text = serde_json::to_string(&first.worker.handed_over()).expect("written");
    let second = app.front(&first.front.places[0], "kind = 'socket'", false);
    second.front.has_been_given(&second.worker, serde_json::from_str(&text).expect("read"));
    let mut given = second.worker.given_by_inode();
    given.sort_by_key(|(inode, _)| *inode);
    let [(7, Speaks::Http(Some(origin))), (8, Speaks::WebSocket)] = &given[..] else {
        panic!("{given:?}");
    };
    assert_eq!((origin.listener, origin.peer.address), (ListenerId(0), Some(place)));
}

#[tokio::test]
async fn doors_can_open_again() {
    let app = App::start();
    let (first, place) = app.open();
    let sockets = first.front.close_doors().await;
    assert!(first.front.settled(LIMIT).await);
    let mut client = Talk::to(place).await;
    client.send(get("/fill/1/100")).await;
    first.front.go_on();
    for (id, socket) in sockets {
        first.front.accept(id, Listener::watch(socket).expect("watched"));
    }
    assert_eq!(client.hear().await, filling(1, 100));
    assert_eq!(first.front.close_doors().await.len(), 1);
}

#[tokio::test]
async fn it_settles_when_no_request_waits_for_a_worker() {
    let app = App::start();
    let (first, place) = app.open_with("kind = 'socket'\n[route]\nqueue = '60s'", true);
    let mut client = Talk::to(place).await;
    client.send(get("/fill/1/100")).await;
    until("it has been read", || first.front.connections() == 1 && unread(place) == 0).await;
    first.front.close_doors().await;
    assert!(!first.front.settled(Duration::from_millis(10)).await);
    let settled = tokio::spawn({
        let front = first.front.clone();
        async move { front.settled(LIMIT).await }
    });
    app.join(&first);
    // It has found its worker, and does not go there before it is known by whom.
    assert!(settled.await.expect("it ends"));
    assert_eq!(first.worker.requests(), 0);
    first.front.go_on();
    assert_eq!(client.hear().await, filling(1, 100));
}

/// By the bytes of plain requests, and as hyper serves others.
#[tokio::test]
async fn a_request_whose_worker_ends_goes_to_one_that_comes_later() {
    for request in [get, get_empty] {
        let app = App::start();
        let ill = UnixListener::bind(app.path("ill")).expect("bound");
        let (first, place) = app.open_with("kind = 'socket'", true);
        app.join_at(&first, "ill");
        let mut client = Talk::to(place).await;
        client.send(request("/fill/1/100")).await;
        let (mut asked, _) = ill.accept().await.expect("a connection");
        asked.read_u8().await.expect("a request");
        let second = app.side(2, &first.front.places[0], "kind = 'socket'", None);
        succeed(&first, &second).await;
        second.front.remove(first.worker.worker.id);
        drop((asked, ill));
        until("it waits for another", || first.worker.in_flight() == 0).await;
        app.join(&second);
        assert_eq!(client.hear().await, filling(1, 100));
        passed_on(&first).await;
    }
}

#[tokio::test]
async fn a_tunnel_ends_where_it_is_and_can_be_closed_from_the_next() {
    const FRAME: &[u8] = b"\x81\x02hi";
    let app = App::start();
    let (first, place) = app.open();
    let mut client = Talk::to(place).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    client.send(format!("GET /echo HTTP/1.1\r\nHost: app\r\n{upgrade}\r\n")).await;
    let switched = b"HTTP/1.1 101 Switching Protocols\r\n";
    assert_eq!(client.bytes(switched.len()).await, switched);
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.extend(client.bytes(1).await);
    }
    let second = app.follow(&first).await;
    until("the next one knows of it", || second.worker.in_flight() == 1).await;
    client.send(FRAME).await;
    assert_eq!(client.bytes(FRAME.len()).await, FRAME);
    let disconnected = tokio::spawn({
        let second = second.clone();
        async move { second.front.disconnect(&second.worker, 100).await }
    });
    assert_eq!(client.bytes(CLOSE.len()).await, CLOSE);
    client.end().await;
    tokio::time::timeout(LIMIT, disconnected).await.expect("in time").expect("disconnected");
    passed_on(&first).await;
    until("the next one knows that too", || second.worker.in_flight() == 0).await;
}
