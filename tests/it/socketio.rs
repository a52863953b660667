//! Socket.IO through the front-end and the relay, by real clients, measured against one process.

use crate::app::{NODES, Spec, client};
use crate::raw::Bare;

fn transcript(value: &serde_json::Value) -> String {
    let steps = value["transcript"].as_array().expect("a transcript");
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// The seed's kind of app: sticky package `sticky`, cluster adapter `adapter`.
fn sticky(sticky: &str, adapter: &str) -> Spec {
    Spec::new("sio.js").env("STICKY", sticky).env("ADAPTER", adapter)
}

fn same_as_one_process(spec: &Spec, workers: usize, skip: &str) {
    let single = Bare::start("sio.js");
    let url = format!("http://{}", single.address);
    let env = [("SKIP", skip)];
    let alone = client("clients/suite.js", &[&url], &env).unwrap_or_else(|e| panic!("{e}"));
    let app = spec.clone().workers(workers).start();
    let url = app.url();
    let many = client("clients/suite.js", &[&url, "6", &workers.to_string()], &env)
        .unwrap_or_else(|e| panic!("{e}\n--- log\n{}", app.log()));
    assert_eq!(transcript(&many), transcript(&alone));
}

#[test]
fn four_workers_show_what_one_process_shows() {
    same_as_one_process(&sticky("sticky2", "adapter03"), 4, "");
}

#[test]
fn every_published_adapter_and_sticky_works() {
    same_as_one_process(&sticky("sticky1", "adapter03"), 2, "");
    same_as_one_process(&sticky("sticky1", "adapter02"), 2, "");
    same_as_one_process(&sticky("sticky2", "adapter02"), 3, "");
    // 0.1 knows no acknowledgements of broadcasts.
    same_as_one_process(&sticky("sticky2", "adapter01"), 2, "acks");
}

#[test]
fn every_node_version_works() {
    for version in NODES {
        same_as_one_process(&sticky("sticky2", "adapter03").node(version), 2, "");
    }
}

#[test]
fn an_app_without_the_sticky_package_works() {
    for version in ["node18", "node26"] {
        let app = Spec::new("sio.js").env("PLAIN", "1").env("ADAPTER", "adapter03").node(version);
        same_as_one_process(&app, 3, "");
    }
}

#[test]
fn a_second_request_that_follows_at_once_finds_its_session() {
    for spec in [sticky("sticky2", "adapter03"), sticky("sticky1", "adapter03"), plain()] {
        let app = spec.workers(4).start();
        let seen = app.client("clients/rush.js", &["1000", "32"]);
        assert_eq!((&seen["sessions"], &seen["failed"]), (&1000.into(), &0.into()), "{seen}");
    }
}

#[test]
fn sessions_share_keep_alive_connections_without_misroutes() {
    for spec in [sticky("sticky2", "adapter03"), sticky("sticky1", "adapter03"), plain()] {
        let app = spec.workers(4).start();
        let seen = app.client("clients/multiplex.js", &["200", "8"]);
        assert_eq!(seen["misroutes"], 0, "{seen}");
        assert_eq!(seen["corrupted"], 0, "{seen}");
        assert_eq!(seen["opened"], 8, "the connections are kept: {seen}");
        assert!(seen["cuts"].as_u64() > Some(100), "heads were cut everywhere: {seen}");
    }
}

#[test]
fn every_node_version_keeps_sessions_apart() {
    for version in NODES {
        let app = sticky("sticky2", "adapter03").node(version).start();
        let seen = app.client("clients/rush.js", &["200", "32"]);
        assert_eq!(seen["failed"], 0, "{version}: {seen}");
        let url = app.url();
        let env = [("LARGE", "0"), ("ROUNDS", "3")];
        let seen = client("clients/multiplex.js", &[&url, "40", "4"], &env)
            .unwrap_or_else(|e| panic!("{version}: {e}\n--- log\n{}", app.log()));
        assert_eq!((&seen["misroutes"], &seen["corrupted"]), (&0.into(), &0.into()), "{seen}");
    }
}

#[test]
fn the_others_know_of_a_killed_worker_at_once() {
    for adapter in ["adapter03", "adapter02"] {
        let app = sticky("sticky2", adapter).workers(4).start();
        let seen = app.client("clients/kill.js", &[]);
        // Milliseconds here; without our word it is the adapters' time-out of 5 s or more.
        assert!(seen["ms"].as_f64() < Some(1000.0), "{seen}");
        eprintln!("{adapter}: {seen}");
        app.wait_for_times(" ready worker=", 5);
        assert_eq!(app.workers().len(), 4, "the killed one was replaced");
    }
}

#[test]
fn websockets_keep_every_byte() {
    let app = sticky("sticky2", "adapter03").start();
    app.client("clients/ws.js", &["50", "100000"]);
}

fn plain() -> Spec {
    Spec::new("sio.js").env("PLAIN", "1").env("ADAPTER", "none")
}
