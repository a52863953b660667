//! `deliver`: connections go to the workers whole, or are theirs from the beginning, and come back
//! when those are drained.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::app::{App, NODES, Spec, kill, until};
use crate::raw::{Answer, Wire, descriptors, get};
use crate::reload::{Load, ok};
use crate::systemd::on_each;

const WAYS: [&str; 2] = ["handoff", "shared"];

fn toml(way: &str, more: &str) -> String {
    format!("[route]\ndeliver = \"{way}\"\n{more}[reload]\ncanary = \"100ms\"\n")
}

fn web(way: &str, drain: &str) -> Spec {
    Spec::new("web.js").more(&format!("{}[stop]\ndrain = \"{drain}\"\n", toml(way, "")))
}

fn pid(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["pid"].as_u64().expect("a number")
}

#[test]
fn a_connection_goes_to_its_worker_whole() {
    for way in WAYS {
        goes_whole(way);
    }
}

fn goes_whole(way: &str) {
    let app = web(way, "5s").start();
    let before = descriptors(app.pid() as i32);
    let mut wires: Vec<Wire> = (0..20)
        .map(|_| {
            let stream = TcpStream::connect(app.address()).expect("connected");
            let port = stream.local_addr().expect("an address").port();
            let mut wire = Wire::from(stream);
            let who = wire.get("/whoami").json();
            assert_eq!(who["remotePort"], port, "the client's own: {who}");
            wire
        })
        .collect();
    let owners: Vec<u64> = wires.iter_mut().map(|wire| pid(&wire.get("/raw"))).collect();
    let workers = owners.iter().collect::<BTreeSet<_>>().len();
    assert!(workers == 2 || way == "shared", "the kernel may like one of them more");
    assert!(descriptors(app.pid() as i32) <= before + 4, "they are not cohortd's any more");
    for (wire, owner) in wires.iter_mut().zip(&owners) {
        // A pipeline, a body, and what a proxy would change.
        wire.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        wire.send("GET /raw HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Odd: 1\r\n\r\n");
        assert_eq!(wire.answer().status, 200);
        let answer = wire.answer();
        assert_eq!(pid(&answer), *owner);
        let names: Vec<String> = answer.json()["rawHeaders"]
            .as_array()
            .expect("a list")
            .chunks(2)
            .map(|pair| pair[0].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(names, ["Host", "X-Forwarded-For", "X-Odd"], "nothing is added or taken out");
    }
}

/// Until they speak they cost nothing, and would not notice if cohortd was killed. But they are not
/// left to the kernel for ever.
#[test]
fn silent_clients_wait_in_the_kernel_for_a_moment() {
    const CLIENTS: usize = 20;
    for way in ["auto", "handoff"] {
        let app = web(way, "5s").start();
        let pid = app.pid() as i32;
        assert_eq!(get(app.address(), "/whoami").status, 200);
        let before = descriptors(pid);
        let mut silent = Vec::new();
        let kept = until(|| {
            silent = (0..CLIENTS).map(|_| Wire::open(app.address())).collect();
            // Who came after them has been accepted.
            get(app.address(), "/whoami").status == 200 && descriptors(pid) < before + CLIENTS / 2
        });
        assert!(kept, "{way}: {before} descriptors, now {}", descriptors(pid));
        assert_eq!(silent.pop().expect("one of them").get("/whoami").status, 200);
        let accepted = until(|| descriptors(pid) > before + CLIENTS / 2);
        assert!(accepted, "{way}: {before} descriptors, now {}", descriptors(pid));
        assert!(silent.iter_mut().all(|wire| wire.get("/whoami").status == 200));
    }
}

/// As many as can be on their way to a worker are accepted; the kernel keeps the others.
#[test]
fn what_no_worker_takes_is_not_accepted() {
    const ON_THEIR_WAY: usize = 128;
    let app = web("handoff", "5s").workers(1).start();
    let (pid, worker) = (app.pid() as i32, app.workers()[&0]);
    assert_eq!(get(app.address(), "/whoami").status, 200);
    let before = descriptors(pid);
    kill("STOP", worker);
    let mut wires: Vec<Wire> = (0..2 * ON_THEIR_WAY).map(|_| Wire::open(app.address())).collect();
    for wire in &mut wires {
        wire.send("GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    // Whatever was to be accepted has been by then.
    (0..3).for_each(|_| drop(ok(&app, &["show"])));
    let accepted = descriptors(pid) - before;
    assert!(accepted <= ON_THEIR_WAY + 4, "{accepted}");
    kill("CONT", worker);
    assert!(wires.iter_mut().all(|wire| wire.answer().status == 200));
}

/// Clients that send their next request at any moment, also at that at which their connection
/// changes hands.
#[test]
fn kept_connections_survive_every_reload() {
    for (version, way) in NODES.into_iter().flat_map(|version| WAYS.map(|way| (version, way))) {
        let app = web(way, "20s").node(version).start();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|n| {
                    let (app, done) = (&app, &done);
                    scope.spawn(move || keeps_asking(app, done, n))
                })
                .collect();
            for _ in 0..2 {
                ok(&app, &["reload"]);
            }
            // Idle for longer than any round of taking back.
            thread::sleep(Duration::from_millis(600));
            done.store(true, Ordering::Relaxed);
            for client in clients {
                let (requests, workers) = client.join().expect("no request failed");
                assert!(workers >= 3, "{version}: {requests} requests, {workers} workers");
            }
        });
        assert!(!app.log().contains("disconnecting"), "{version}, {way}: nothing was left");
    }
}

/// Asks on one connection; how often, and how many workers have answered.
fn keeps_asking(app: &App, done: &AtomicBool, n: usize) -> (usize, usize) {
    let mut wire = Wire::open(app.address());
    let mut workers = BTreeSet::new();
    let mut requests = 0;
    while !done.load(Ordering::Relaxed) {
        workers.insert(pid(&wire.get("/raw")));
        requests += 1;
        // Some never rest, some do for longer and longer.
        thread::sleep(Duration::from_micros((n * requests % 40_000) as u64));
    }
    (requests, workers.len())
}

#[test]
fn handed_over_under_load_no_request_fails_in_a_reload() {
    let app = Spec::new("sio.js")
        .more(&format!("{}[stop]\ndrain = \"2500ms\"", toml("handoff", "")))
        .env("ADAPTER", "adapter03")
        .start();
    let load = Load::start(&app);
    for _ in 0..4 {
        ok(&app, &["reload"]);
    }
    let seen = load.end();
    assert_eq!(seen["failures"], json!({}), "{seen}\n--- log\n{}", app.log());
    assert!(seen["requests"].as_u64() > Some(2000), "{seen}");
}

/// What is under way is finished first, and taken back then.
#[test]
fn a_request_under_way_stays_where_it_is() {
    for way in WAYS {
        stays(way);
    }
}

fn stays(way: &str) {
    let app = web(way, "20s").workers(1).start();
    let mut wire = Wire::open(app.address());
    let old = pid(&wire.get("/raw"));
    let mut busy = Wire::open(app.address());
    busy.send("GET /parts HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(busy.head().expect("a head").status, 200);
    let mut half = Wire::open(app.address());
    half.send("POST /raw HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha");
    let mut written = Wire::open(app.address());
    assert_eq!(pid(&written.get("/raw")), old);
    written.send("GET /raw HTTP/1.1\r\nHo");
    thread::scope(|scope| {
        let reload = scope.spawn(|| ok(&app, &["reload"]));
        let mut new = 0;
        let taken = until(|| {
            new = pid(&wire.get("/raw"));
            new != old
        });
        assert!(taken, "it was idle");
        thread::sleep(Duration::from_millis(600));
        half.send("lf");
        assert_eq!(pid(&half.answer()), old, "its body had begun");
        written.send("st: a\r\n\r\n");
        assert_eq!(pid(&written.answer()), old, "its head had begun");
        assert!(until(|| pid(&written.get("/raw")) == new), "then it was idle");
        drop(busy);
        reload.join().expect("it went well");
    });
}

/// A worker that works hard does not say which connections it has: it is waited for.
#[test]
fn a_worker_that_does_not_answer_may_still_have_something() {
    let app = Spec::new("ill.js")
        .workers(1)
        .more(&format!("{}[stop]\ndrain = \"30s\"", toml("shared", "")))
        .start();
    let mut busy = Wire::open(app.address());
    busy.send("GET /block?ms=7000 HTTP/1.1\r\nHost: a\r\n\r\n");
    ok(&app, &["reload"]);
    assert_eq!(busy.answer().status, 200, "{}", app.log());
}

#[test]
fn what_is_in_flight_is_finished_when_the_app_stops() {
    for way in WAYS {
        stops(way);
    }
}

fn stops(way: &str) {
    let mut app = web(way, "20s").start();
    let mut idle = Wire::open(app.address());
    assert_eq!(idle.get("/raw").status, 200);
    let mut slow = Wire::open(app.address());
    slow.send("GET /slow?ms=2000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(until(|| (0..8).any(|_| get(app.address(), "/state").json()["open"] == 1)));
    app.signal("TERM");
    assert!(idle.ends());
    assert!(until(|| TcpStream::connect(app.address()).is_err()), "{way}: nobody listens");
    assert!(!app.log().contains(" stopped worker="), "that was while it finishes what it has");
    assert_eq!(slow.answer().status, 200);
    assert!(slow.ends());
    assert_eq!(app.wait(), Some(0));
}

/// Without what is loaded into the workers nothing comes back: kept connections last until `drain`
/// is over.
#[test]
fn without_the_hook_a_drain_lasts() {
    let toml = toml("handoff", "preserve_client_ip = false\n");
    let app = Spec::new("web.js").workers(1).more(&format!("{toml}[stop]\ndrain = \"1s\"")).start();
    let mut wire = Wire::open(app.address());
    assert_eq!(wire.get("/raw").status, 200);
    ok(&app, &["reload"]);
    assert!(wire.ends());
    assert!(app.log().contains("disconnecting clients"), "{}", app.log());
}

/// Clients of every kind of connection that the kernel spreads, new ones all the time.
#[test]
fn where_workers_listen_no_request_fails_in_a_reload() {
    let app = web("shared", "20s").start();
    let load = Load::of("load.js", &[&format!("{}/raw", app.url())], &[]);
    for _ in 0..6 {
        ok(&app, &["reload"]);
    }
    ok(&app, &["scale", "4"]);
    ok(&app, &["scale", "1"]);
    let seen = load.end();
    assert_eq!(seen["failures"], json!({}), "{seen}\n--- log\n{}", app.log());
    let log = app.log();
    assert!(log.contains("the workers are accepting") && !log.contains("INFO accepting"), "{log}");
}

/// A path, two sockets of one port, health checks, WebSockets at the end of a drain.
#[test]
fn workers_listen_wherever_the_app_does() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = folder.path().join("app.sock").display().to_string();
    let app = Spec::new("web.js")
        .listen(&[&path])
        .env("SOCKET", &path)
        .more(&format!(
            "{}[stop]\ndrain = \"1s\"\n[health]\nhttp = \"/whoami\"\nevery = \"200ms\"",
            toml("shared", "")
        ))
        .start();
    let mut kept = Wire::open(&path);
    let first = pid(&kept.get("/raw"));
    ok(&app, &["reload"]);
    assert_ne!(pid(&kept.get("/raw")), first, "taken back and given to a new one");

    let mut socket = Wire::open(&path);
    socket.send(UPGRADE);
    assert_eq!(socket.answer().status, 101);
    ok(&app, &["reload"]);
    assert_eq!(socket.exactly(4).expect("a frame"), [0x88, 2, 0x03, 0xf4], "1012");
    assert!(app.log().contains("disconnecting clients"), "{}", app.log());
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_service_delivers_so_too() {
    on_each(|host| {
        for way in WAYS {
            host.add("myapp", "/srv/js/apps/web.js", "8080");
            let file = "/etc/cohortd/myapp.toml";
            let text = format!("{}\n{}", host.ok(&format!("cat {file}")), toml(way, ""));
            host.write(file, &text);
            host.ok("systemctl start myapp@cluster");
            let load = host.clients("load", "load.js http://127.0.0.1:8080/raw");
            for _ in 0..3 {
                host.ok("systemctl reload myapp");
            }
            let seen = load.stop();
            assert_eq!(seen["failures"], json!({}), "{way}: {seen}");
            assert_eq!(host.journal("-p warning"), "-- No entries --", "{way}");
            host.ok("systemctl stop myapp");
            host.ok("cohortctl remove myapp");
            host.ok(&format!("rm {file}"));
        }
    });
}
