//! Workers that fall ill are found and replaced; workers that only work hard are left alone.

use std::path::Path;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::app::{App, NODES, Spec, kill, until};
use crate::raw::get;
use crate::reload::{ok, refused};

fn ill(toml: &str) -> Spec {
    Spec::new("ill.js").more(toml)
}

/// Makes a worker ill while the other one is at a slow request, and waits for the replacement.
/// What is `said` is in the log then.
fn is_replaced(app: &App, said: &str, fall_ill: impl Fn(i32)) {
    let before = app.workers();
    let asked: Vec<_> = (0..2)
        .map(|_| {
            let address = app.address().to_owned();
            thread::spawn(move || get(&address, "/slow?ms=1500"))
        })
        .collect();
    thread::sleep(Duration::from_millis(100));
    fall_ill(before[&0]);
    app.wait_for(said);
    let replaced = || app.log().matches(" ready worker=").count() == 3;
    assert!(until(replaced), "no successor:\n{}", app.log());
    // One of the two was the ill worker's; without a body it is asked again elsewhere.
    for answer in asked {
        assert_eq!(answer.join().expect("no panic").status, 200, "{}", app.log());
    }
    let after = app.workers();
    assert_ne!(after[&0], before[&0], "slot 0 has a new worker");
    assert_eq!(after[&1], before[&1], "the other was not touched");
    assert_eq!(get(app.address(), "/whoami").status, 200);
}

#[test]
fn a_worker_that_stands_still_is_replaced() {
    for version in NODES {
        let app = ill("[health]\nevent_loop = \"1s\"").node(version).start();
        is_replaced(&app, "its event loop has stood still for", |pid| kill("STOP", pid));
    }
}

#[test]
fn the_event_loop_is_heard_in_either_framing() {
    let app = ill("serialization = \"json\"\n[health]\nevent_loop = \"1s\"").start();
    is_replaced(&app, "its event loop has stood still for", |pid| kill("STOP", pid));
}

#[test]
fn a_worker_that_spins_is_replaced() {
    let app = ill("[health]\nevent_loop = \"1s\"").workers(1).start();
    let spinning = app.workers()[&0];
    assert_eq!(get(app.address(), "/spin").status, 200);
    // It waits for the successor.
    assert_eq!(get(app.address(), "/whoami").status, 200, "{}", app.log());
    assert_ne!(app.workers()[&0], spinning);
    assert!(app.log().contains("its event loop has stood still for 1."), "{}", app.log());
}

/// What is in flight in it is not held until the drain and every grace after it are over.
#[test]
fn a_worker_that_stands_still_while_it_is_drained_is_killed() {
    let toml = "[health]\nevent_loop = \"1s\"\n[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"1h\"";
    let app = ill(toml).workers(1).start();
    let address = app.address().to_owned();
    let asked = thread::spawn(move || get(&address, "/slow?ms=8000"));
    assert!(until(|| ok(&app, &["show", "--json"]).contains("\"in_flight\": 1")));
    let old = app.workers()[&0];
    thread::scope(|scope| {
        let reload = scope.spawn(|| ok(&app, &["reload"]));
        app.wait_for(" draining worker=1");
        kill("STOP", old);
        reload.join().expect("it went well");
    });
    assert!(app.log().contains("unwell; killed worker=1"), "{}", app.log());
    assert_eq!(asked.join().expect("no panic").status, 200, "it was asked again");
}

#[test]
fn a_worker_that_works_hard_is_left_alone() {
    let app = ill("[health]\nevent_loop = \"1s\"").workers(1).start();
    let before = app.workers();
    for _ in 0..8 {
        assert_eq!(get(app.address(), "/block?ms=500").status, 200);
    }
    assert_eq!(app.workers(), before, "{}", app.log());
}

#[test]
fn our_own_standstill_is_nobody_s_fault() {
    let app = ill("[health]\nevent_loop = \"1s\"").workers(1).start();
    let before = app.workers();
    app.signal("STOP");
    thread::sleep(Duration::from_secs(3));
    app.signal("CONT");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(app.workers(), before, "{}", app.log());
    assert_eq!(get(app.address(), "/whoami").status, 200);
}

#[test]
fn a_worker_that_hangs_can_leave_a_core_dump() {
    let toml = "[health]\nevent_loop = \"500ms\"\non_hang = \"abort\"";
    let app = ill(toml).workers(1).start();
    kill("STOP", app.workers()[&0]);
    app.wait_for("stopped worker=1 slot=0 generation=1 exit=signal 6");
    app.wait_for_times(" ready worker=", 2);
}

const CHECKED: &str = "[health]\nhttp = \"/healthz\"\nevery = \"200ms\"\nfail_after = 3\n";

/// The file by which the app is told how it is.
fn health(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("health")
}

fn falls_ill(answer: &str, said: &str) {
    let folder = TempDir::new().expect("a folder");
    let file = health(&folder);
    let app = ill(CHECKED).env("HEALTH", file.display()).workers(1).start();
    std::fs::write(&file, answer).expect("written");
    app.wait_for(said);
    std::fs::remove_file(&file).expect("removed");
    app.wait_for_times(" ready worker=", 2);
    assert_eq!(get(app.address(), "/whoami").status, 200);
}

#[test]
fn a_worker_whose_checks_fail_is_replaced() {
    falls_ill("500", "GET /healthz: answered 500 Internal Server Error, 3 times in a row");
}

#[test]
fn a_worker_whose_checks_are_not_answered_is_replaced() {
    falls_ill("hang", "GET /healthz: no answer within 0.2 s, 3 times in a row");
}

#[test]
fn a_release_that_fails_its_checks_is_given_up() {
    let folder = TempDir::new().expect("a folder");
    let file = health(&folder);
    let toml = format!("{CHECKED}[ready]\ntimeout = \"2s\"\n[reload]\ncanary = \"2s\"");
    let app = ill(&toml).env("HEALTH", file.display()).env("N", "1").start();
    let before = app.workers();
    // Only the new ones read another file.
    let bad = folder.path().join("bad");
    let (old, new) = (file.display().to_string(), bad.display().to_string());
    std::fs::write(&bad, "500").expect("written");
    app.change(&old, &new);
    let error = refused(&app, &["reload"]);
    assert!(error.contains("GET /healthz: answered 500"), "{error}");
    assert!(until(|| app.workers() == before), "the old ones serve: {}", app.log());
    // One that falls ill only when it is watched.
    std::fs::write(&bad, "200").expect("written");
    thread::scope(|scope| {
        scope.spawn(|| {
            app.wait_for(" ready worker=4");
            std::fs::write(&bad, "500").expect("written");
        });
        let error = refused(&app, &["reload"]);
        assert!(error.contains("GET /healthz: answered 500"), "{error}\n{}", app.log());
    });
    assert!(until(|| app.workers() == before), "the old ones serve: {}", app.log());
    std::fs::write(&bad, "204").expect("written");
    ok(&app, &["reload"]);
}

#[test]
fn readiness_is_what_the_app_says_it_is() {
    for (when, said) in [("message", "message"), ("notify", "notify")] {
        let toml = format!("[ready]\nwhen = {when:?}");
        let app = ill(&toml).env("READY", said).env("READY_MS", 700).workers(1).start();
        let log = app.log();
        let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} in {log}"));
        assert!(at(" listens worker=1") < at(" ready worker=1"));
        assert_eq!(get(app.address(), "/whoami").status, 200);
        if when == "notify" {
            assert!(ok(&app, &["show"]).contains("warm"), "{}", ok(&app, &["show"]));
            ok(&app, &["reload"]);
            let folder = Path::new("/run/cohortd").join(app.name());
            let names = std::fs::read_dir(folder).map_or(0, Iterator::count);
            assert!(names <= 2, "one NOTIFY_SOCKET a worker, and the control socket: {names}");
        }
    }
}

#[test]
fn a_worker_that_never_says_that_it_is_ready_has_failed() {
    for (when, missing) in [
        ("message", "it has not called process.send(\"ready\")"),
        ("notify", "it has not said READY=1 to its NOTIFY_SOCKET"),
        ("http:/nonesuch", "GET /nonesuch: answered 404 Not Found"),
    ] {
        let toml = format!("[ready]\nwhen = {when:?}\ntimeout = \"1s\"");
        let mut app = ill(&toml).env("READY", "never").workers(1).start_only();
        assert_eq!(app.wait(), Some(1), "{}", app.log());
        assert!(app.log().contains(missing), "{}", app.log());
    }
}

#[test]
fn a_page_can_say_that_a_worker_is_ready() {
    let toml = "[ready]\nwhen = \"http:/whoami\"";
    let app = ill(toml).start();
    assert_eq!(get(app.address(), "/whoami").status, 200);
}
