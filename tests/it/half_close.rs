//! A client that sends all it has to say and then ends its half of the connection, as `nc -N` does,
//! gets what bare Node would give it, and the app sees what it would see there.

use std::time::Duration;

use crate::app::{App, NODES, Spec, until};
use crate::raw::{Bare, Wire};

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(target: &str, length: usize) -> String {
    let body = "x".repeat(length);
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

const CHUNKED: &str = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n0\r\n\r\n";

/// Says all of it, and how long each answer is that comes before the end.
fn answers(address: &str, said: &str) -> Vec<(u16, usize)> {
    let mut wire = Wire::open(address);
    wire.send(said);
    wire.finish();
    let mut answers = Vec::new();
    while let Ok(answer) = wire.answer_to("GET") {
        answers.push((answer.status, answer.body.len()));
    }
    assert!(wire.ends(), "{address}: {answers:?}, and then nothing");
    answers
}

/// What can be answered at once is, and what takes longer is not: Node ends its half as soon as the
/// client has ended its own.
#[test]
fn who_has_said_all_gets_the_answer_that_bare_node_gives() {
    for version in [NODES[0], NODES[NODES.len() - 1]] {
        let bare = Bare::with(version, "web.js", &[("HOST", "127.0.0.1")]);
        let app = Spec::new("web.js").workers(1).node(version).start();
        for (said, count) in [
            (get("/status?code=200&body=ok"), 1),
            (get("/bytes?n=60000&length=1"), 1),
            (post("/x", 5), 1),
            (post("/x", 200_000), 1),
            (CHUNKED.to_owned(), 1),
            (get("/x") + &post("/x", 5) + CHUNKED + &get("/status?code=404&body=no"), 4),
            (get("/slow?ms=300"), 0),
            (get("/hang"), 0),
        ] {
            let given = answers(app.address(), &said);
            let shown = &said[..said.len().min(100)];
            assert_eq!(given, answers(&bare.address, &said), "{version}: {shown}");
            assert_eq!(given.len(), count, "{version}: {shown}");
        }
        let state = || Wire::open(app.address()).get("/state").json();
        assert!(until(|| state()["open"] == 0), "{version}: {}", state());
        assert_eq!(state()["aborted"], 2, "{version}: each was asked once: {}", state());
    }
}

/// Its own decision is the app's: the answers come however long they take.
#[test]
fn an_app_that_goes_on_is_let_go_on() {
    let app = Spec::new("web.js").workers(1).env("HALF_OPEN", 1).start();
    let slow = |ms: usize| get(&format!("/slow?ms={ms}"));
    assert_eq!(answers(app.address(), &slow(500)).len(), 1);
    assert_eq!(answers(app.address(), &get("/bytes?n=20000000")), [(200, 20_000_000)]);
    assert_eq!(answers(app.address(), &(slow(100) + &get("/x") + &slow(200))).len(), 3);
    // Said while the answer is on its way.
    let mut wire = Wire::open(app.address());
    wire.send(get("/parts"));
    assert_eq!(wire.head().expect("a head").status, 200);
    wire.finish();
    let next = || Wire::open(app.address()).get("/next?of=/parts").json()["went"] == true;
    for part in 0..3 {
        wire.line().expect("a size");
        let text = format!("part {part};\r\n");
        assert_eq!(wire.exactly(9).expect("a chunk"), text.as_bytes());
        assert!(next());
    }
    // Who listens no more either is noticed when there is more to hear.
    drop(wire);
    let open = || Wire::open(app.address()).get("/state").json()["open"].as_u64();
    assert!(until(|| next() && open() == Some(0)), "{:?}", open());
}

/// A connection to a worker that has ended so is nobody else's.
#[test]
fn other_clients_do_not_notice() {
    let app = Spec::new("web.js").workers(1).start();
    let mut others: Vec<Wire> = (0..4).map(|_| Wire::open(app.address())).collect();
    for n in 0..100 {
        let mut wire = Wire::open(app.address());
        wire.send(if n % 2 == 0 { get("/x") } else { post("/x", n) });
        if n % 3 == 0 {
            // It has its answer, or just about.
            wire.head().expect("a head");
        }
        wire.finish();
        for other in &mut others {
            assert_eq!(other.get("/x").status, 200, "{n}");
        }
    }
}

const SWITCH: &str = "HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Handed over, and after another request: carried.
#[test]
fn either_end_of_a_websocket_may_have_its_last_word_first() {
    let app = Spec::new("web.js").workers(1).start();
    for first in [0, 1] {
        let open = |target: &str, more: &str| {
            let mut wire = Wire::open(app.address());
            wire.send(format!("{}GET {target} {SWITCH}{more}", get("/x").repeat(first)));
            wire
        };
        let switched = |wire: &mut Wire| {
            (0..first).for_each(|_| assert_eq!(wire.answer().status, 200));
            assert_eq!(wire.head().expect("a head").status, 101);
        };
        // At once, and later.
        for wait in [false, true] {
            let mut wire = open("/listens", "early");
            if wait {
                switched(&mut wire);
                wire.send("later");
            }
            wire.finish();
            if !wait {
                switched(&mut wire);
            }
            let (rest, ended) = wire.rest(Duration::from_secs(20));
            let heard = if wait { "heard 10" } else { "heard 5" };
            assert_eq!((String::from_utf8_lossy(&rest).as_ref(), ended), (heard, true), "{first}");
        }
        let mut wire = open("/speaks", "");
        switched(&mut wire);
        assert_eq!(wire.exactly(3).expect("its last word"), b"bye");
        assert!(wire.ends());
        wire.send("still here");
        assert!(until(|| heard(&app) == 10), "{first}: {}", heard(&app));
    }
}

/// What the app has read.
fn heard(app: &App) -> u64 {
    let state = Wire::open(app.address()).get("/state").json();
    state["received"].as_u64().expect("a number")
}
