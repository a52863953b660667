//! Connections that go to a worker by its lane, and back where it does not take them.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::app::{NODES, Spec, kill, until};
use crate::raw::{Wire, get};
use crate::reload::{Load, ok};

const TOML: &str = "[route]\ndeliver = \"handoff\"\n[reload]\ncanary = \"100ms\"\n";

fn app(version: &str) -> Spec {
    Spec::new("lane.js").node(version).more(TOML)
}

fn without_hook(version: &str) -> Spec {
    let toml = TOML.replace("[reload]", "preserve_client_ip = false\n[reload]");
    Spec::new("lane.js").node(version).workers(1).more(&toml)
}

#[test]
fn no_message_brings_a_connection_and_the_app_sees_nothing_of_it() {
    for version in NODES {
        let without = get(without_hook(version).start().address(), "/").json();
        let app = app(version).start();
        let mut workers = BTreeSet::new();
        for _ in 0..40 {
            let stream = std::net::TcpStream::connect(app.address()).expect("connected");
            let port = stream.local_addr().expect("an address").port();
            let said = Wire::from(stream).get("/").json();
            assert_eq!((&said["port"], &said["messages"]), (&json!(port), &json!(0)), "{version}");
            assert_eq!(said["handles"], without["handles"], "{version}");
            workers.insert(said["pid"].as_u64());
        }
        assert_eq!(workers.len(), 2, "{version}");
        // Nor does it keep the worker alive.
        ok(&app, &["reload"]);
        assert!(!app.log().contains("WARN"), "{version}: {}", app.log());
    }
}

/// Without what is loaded into the workers everything goes on by Node's own protocol.
#[test]
fn without_the_hook_messages_bring_connections() {
    let app = without_hook("node24").start();
    for n in 1..5 {
        assert_eq!(get(app.address(), "/").json()["messages"], json!(n));
    }
}

#[test]
fn a_worker_that_closes_its_server_gives_back_what_comes_then() {
    for version in NODES {
        let app = app(version).start();
        let load = Load::of("load.js", &[&format!("{}/", app.url())], &[]);
        for _ in 0..4 {
            assert_eq!(get(app.address(), "/close?times=20").status, 200);
            thread::sleep(Duration::from_millis(500));
        }
        let seen = load.end();
        assert_eq!(seen["failures"], json!({}), "{version}: {seen}\n--- log\n{}", app.log());
    }
}

#[test]
fn a_worker_that_is_full_gives_back_what_comes_then() {
    for version in NODES {
        let app = app(version).env("MAX", 2).start();
        let mut wires: Vec<Wire> = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..4 {
            let mut wire = Wire::open(app.address());
            workers.push(wire.get("/").json()["pid"].as_u64());
            wires.push(wire);
        }
        workers.sort_unstable();
        assert!(workers[0] == workers[1] && workers[1] != workers[2], "{version}: {workers:?}");
        assert_eq!(get(app.address(), "/").status, 503, "{version}: all are full");
        drop(wires.pop());
        assert!(until(|| get(app.address(), "/").status == 200), "{version}: there is room");
    }
}

/// What has been sent to it is served by the other one.
#[test]
fn a_worker_that_dies_loses_nothing_that_it_has_not_taken() {
    let app = app("node24").start();
    let stopped = app.workers()[&0];
    assert_eq!(get(app.address(), "/").status, 200);
    kill("STOP", stopped);
    let mut wires: Vec<Wire> = (0..60).map(|_| Wire::open(app.address())).collect();
    for wire in &mut wires {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    thread::sleep(Duration::from_millis(300)); // some are on their way to it
    kill("KILL", stopped);
    for wire in &mut wires {
        let said = wire.answer();
        assert_eq!(said.status, 200, "{}", app.log());
        assert_ne!(said.json()["pid"], json!(stopped));
    }
}

/// One that is busy has connections on their way when it is to go. It takes them before it goes.
#[test]
fn a_worker_is_not_ended_before_it_has_taken_what_was_sent() {
    let app = app("node22").workers(1).start();
    let mut busy = Wire::open(app.address());
    busy.send("GET /block?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(200));
    let mut wires: Vec<Wire> = (0..20).map(|_| Wire::open(app.address())).collect();
    for wire in &mut wires {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    }
    ok(&app, &["reload"]);
    assert_eq!(busy.answer().status, 200);
    assert!(wires.iter_mut().all(|wire| wire.answer().status == 200), "{}", app.log());
}

#[test]
fn kills_of_workers_cost_only_what_they_had_taken() {
    let app = app("node20").workers(3).start();
    let load = Load::of("load.js", &[&format!("{}/", app.url()), "24"], &[]);
    const KILLS: usize = 8;
    for n in 0..KILLS {
        let worker = app.workers()[&(n % 3)];
        kill("KILL", worker);
        assert!(until(|| app.workers().get(&(n % 3)).is_some_and(|pid| *pid != worker)));
        thread::sleep(Duration::from_millis(200));
    }
    let seen = load.end();
    let failures = seen["failures"].as_object().expect("a tally");
    let failed: u64 = failures.values().filter_map(serde_json::Value::as_u64).sum();
    // A request that is under way ends with its worker.
    assert!(failed <= 3 * KILLS as u64, "{seen}\n--- log\n{}", app.log());
}

#[test]
fn no_request_fails_in_a_reload() {
    for version in NODES {
        let app = app(version).start();
        let load = Load::of("load.js", &[&format!("{}/", app.url()), "16"], &[]);
        for _ in 0..4 {
            ok(&app, &["reload"]);
        }
        ok(&app, &["scale", "4"]);
        ok(&app, &["scale", "1"]);
        let seen = load.end();
        assert_eq!(seen["failures"], json!({}), "{version}: {seen}\n--- log\n{}", app.log());
    }
}
