//! What a worker that is replaced still has of its clients: it may finish, and then ends properly.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::app::{App, Spec};
use crate::cluster::certificate;
use crate::reload::{Load, ok};

const QUICK: &str = "[reload]\ncanary = \"0s\"\ndisconnects_per_second = 20\n";

fn web(drain: &str) -> Spec {
    Spec::new("web.js").more(&format!("{QUICK}[stop]\ndrain = {drain:?}"))
}

/// Reloads while WebSockets are open: how they ended.
fn reload(app: &App, args: &[&str], env: &[(&str, &str)]) -> serde_json::Value {
    let url = app.url();
    let args: Vec<&str> = std::iter::once(url.as_str()).chain(args.iter().copied()).collect();
    let load = Load::of("goodbye.js", &args, env);
    ok(app, &["reload"]);
    let seen = load.result();
    assert_eq!(seen["faults"], json!({}), "{seen}\n{}", app.log());
    eprintln!("{seen}");
    seen
}

#[test]
fn websockets_are_closed_properly_and_one_by_one() {
    let app = web("500ms").start();
    let seen = reload(&app, &["60"], &[]);
    assert_eq!(seen["ends"], json!({ "1012": 60 }), "{seen}");
    let most = seen["inOneSecond"].as_u64().expect("a number");
    assert!(most <= 30, "20 a second are allowed: {seen}");
}

/// Nothing gets between two parts of a message: all of them are large, and on their way all the
/// time.
#[test]
fn websockets_that_never_rest_are_closed_between_two_messages() {
    let app = web("500ms").start();
    let seen = reload(&app, &["8"], &[("BYTES", "3000000")]);
    let ends = seen["ends"].as_object().expect("an object");
    eprintln!("{ends:?}");
    assert_eq!(ends.values().filter_map(serde_json::Value::as_u64).sum::<u64>(), 8);
}

#[test]
fn tunnelled_websockets_are_closed_properly_too() {
    for bytes in ["200", "3000000"] {
        let app = web("500ms").start();
        let seen = reload(&app, &["20", "kept"], &[("BYTES", bytes)]);
        assert_eq!(seen["ends"], json!({ "1012": 20 }), "{seen}\n{}", app.log());
    }
}

#[test]
fn a_drain_ends_when_nothing_is_left() {
    let app = web("25s").workers(1).start();
    let url = app.url();
    let load = Load::of("goodbye.js", &[&url, "10"], &[]);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| ok(&app, &["reload"]));
        app.wait_for(" draining worker=1");
        drop(load);
        reload.join().expect("reloaded");
    });
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?} of [stop] drain = 25 s\n{}", app.log());
}

#[test]
fn sessions_of_an_unmodified_socket_io_app_move_over_one_by_one() {
    for transport in ["polling", "websocket"] {
        let app = Spec::new("sio.js")
            .env("STICKY", "sticky2")
            .env("ADAPTER", "adapter03")
            .more(&format!("{QUICK}[stop]\ndrain = \"300ms\""))
            .start();
        let url = app.url();
        let load = Load::of("returns.js", &[&url, "40", transport], &[]);
        ok(&app, &["reload"]);
        let seen = load.end();
        assert_eq!(seen["faults"], json!({}), "{seen}\n{}", app.log());
        assert_eq!(seen["ends"], json!({ "transport close": 40 }), "each once: {seen}");
        let most = seen["inOneSecond"].as_u64().expect("a number");
        assert!(most <= 30, "20 a second are allowed: {seen}");
        eprintln!("{transport}: {seen}");
    }
}

#[test]
fn tls_connections_end_one_by_one() {
    let folder = TempDir::new().expect("a folder");
    let (cert, key) = certificate(folder.path());
    let app = Spec::new("tls.js")
        .env("CERT", cert.display())
        .env("KEY", key.display())
        .more(&format!("{QUICK}[stop]\ndrain = \"500ms\""))
        .start();
    let url = app.url().replace("http", "https");
    let load = Load::of("goodbye.js", &[&url, "20"], &[("INSECURE", "1")]);
    ok(&app, &["reload"]);
    let seen = load.result();
    assert_eq!(seen["faults"], json!({}), "{seen}\n{}", app.log());
    let most = seen["inOneSecond"].as_u64().expect("a number");
    assert!(most < 20 && seen["over"].as_u64() > Some(0), "not all at once: {seen}");
    eprintln!("{seen}");
}
