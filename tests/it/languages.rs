//! Workers in other languages, which get a listening socket as systemd hands it over, and workers
//! without any socket.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cohortd::config::Config;
use serde_json::json;
use tempfile::TempDir;

use crate::app::{App, Spec, kill, until};
use crate::raw::{Wire, get};
use crate::reload::{Load, ok, refused};

const PLAIN: [&str; 2] = ["python3", "plain.py"];

/// A program of the virtual environment that `make test-setup` makes.
pub(crate) fn installed(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/.venv/bin");
    let program: PathBuf = folder.join(name);
    assert!(program.exists(), "run `make test-setup` first: no {}", program.display());
    program.display().to_string()
}

/// The processes that answer: two, if there are so many. The one that was there first is preferred
/// for a while.
fn pids(app: &App) -> BTreeSet<u64> {
    let mut pids = BTreeSet::new();
    until(|| {
        pids.insert(get(app.address(), "/").json()["pid"].as_u64().expect("a number"));
        pids.len() == 2
    });
    pids
}

#[test]
fn any_program_that_takes_a_socket_is_served() {
    let app = Spec::program("socket", &PLAIN).start();
    assert_eq!(pids(&app).len(), 2, "both workers");
    let env = get(app.address(), "/env").json();
    let pid = env["pid"].as_u64().expect("a number");
    assert_eq!(env["LISTEN_PID"], pid.to_string().as_str(), "set for the worker itself");
    assert_eq!(env["WATCHDOG_PID"], pid.to_string().as_str());
    assert_eq!(env["LISTEN_FDNAMES"], app.name());
    assert!(env.get("NODE_CHANNEL_FD").is_none() && env.get("PORT").is_none(), "{env}");
    let mut wire = Wire::open(app.address());
    for length in [0, 1, 100_000, 3_000_000] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        wire.send(head);
        wire.send(vec![b'x'; length]);
        assert_eq!(wire.answer().text(), length.to_string());
    }
    let seen = get(app.address(), "/").json();
    let headers = seen["headers"].to_string().to_lowercase();
    assert!(headers.contains("host"), "{seen}");
}

/// What can't be reached any more has not ended yet, or nobody has noticed: others are there.
#[test]
fn a_worker_that_is_going_is_not_asked_again() {
    let app = Spec::program("socket", &PLAIN).start();
    let load = Load::of("load.js", &[&app.url()], &[]);
    for n in 1..=3 {
        assert_eq!(get(app.address(), "/leave").status, 200);
        app.wait_for_times(" exited worker=", n);
        app.wait_for_times(" ready worker=", 2 + n);
    }
    let seen = load.end();
    assert_eq!(seen["failures"], json!({}), "{seen}\n{}", app.log());
}

#[test]
fn it_is_reloaded_like_any_other() {
    let toml = "[reload]\ncanary = \"100ms\"\n[stop]\ndrain = \"3s\"";
    let app = Spec::program("socket", &PLAIN).more(toml).start();
    let old = pids(&app);
    let load = Load::of("load.js", &[&app.url()], &[]);
    ok(&app, &["reload"]);
    assert!(pids(&app).is_disjoint(&old));
    for pid in app.workers().into_values() {
        kill("KILL", pid);
        app.wait_for(" exit=signal 9");
        thread::sleep(Duration::from_millis(500));
    }
    let seen = load.end();
    assert_eq!(seen["failures"], json!({}), "{seen}\n{}", app.log());
    app.change("plain.py", "nonesuch.py");
    let error = refused(&app, &["reload"]);
    assert!(error.contains("ended (exit code 2)"), "{error}");
    app.change("\"python3\"", "\"pithon3\"");
    refused(&app, &["reload"]);
    app.wait_for("can't start \"pithon3\": No such file");
}

#[test]
fn a_worker_says_how_it_is_by_its_notify_socket() {
    let toml = "[ready]\nwhen = \"notify\"\n[health]\nevent_loop = \"1s\"";
    let app = Spec::program("socket", &PLAIN).env("NOTIFY", "1").more(toml).workers(1).start();
    assert!(ok(&app, &["show"]).contains("plain"));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(get(app.address(), "/silent").status, 200);
    app.wait_for("it has not sent WATCHDOG=1 for 1.");
    app.wait_for_times(" ready worker=", 2);
    // One that says that it stops gets nothing more.
    assert_eq!(get(app.address(), "/stop").status, 200);
    assert_eq!(get(app.address(), "/").status, 200, "the next one's");
    app.wait_for_times(" ready worker=", 3);
    assert!(!app.log().contains("did not stop in time"), "{}", app.log());
}

#[test]
fn uvicorn_serves_requests_and_websockets() {
    let uvicorn = installed("uvicorn");
    let words = [&uvicorn, "asgi:app", "--fd", "3", "--log-level", "warning"];
    let app = Spec::program("socket", &words).more("[stop]\ndrain = \"500ms\"").start();
    assert_eq!(pids(&app).len(), 2);
    let load = Load::of("goodbye.js", &[&app.url(), "10"], &[]);
    ok(&app, &["reload"]);
    let seen = load.result();
    assert_eq!(seen["faults"], json!({}), "{seen}\n{}", app.log());
    assert_eq!(seen["ends"], json!({ "1012": 10 }), "{seen}");
}

#[test]
fn the_example_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/uvicorn");
    let config = Config::load(&folder.join("cohortd.toml")).unwrap_or_else(|e| panic!("{e}"));
    let mut words = config.exec.clone();
    words[0] = installed(&words[0]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let app = Spec::program("socket", &words).script(folder.join("app.py")).start();
    assert!(get(app.address(), "/").text().starts_with("hello from process "));
}

#[test]
fn gunicorn_takes_the_socket_by_itself() {
    let gunicorn = installed("gunicorn");
    let words = [&gunicorn, "--threads", "4", "--worker-class", "gthread", "wsgi:app"];
    let app = Spec::program("socket", &words).more("[ready]\nwhen = \"notify\"").start();
    assert_eq!(pids(&app).len(), 2);
}

/// It must open no port, and needs none.
fn job(folder: &TempDir, toml: &str) -> Spec {
    let path = folder.path().display().to_string();
    Spec::program("job", &["python3", "job.py", &path]).listen(&[]).more(toml)
}

#[test]
fn a_job_is_kept_running() {
    let folder = TempDir::new().expect("a folder");
    let app = job(&folder, "[reload]\ncanary = \"0s\"").start_only();
    app.wait_for_times(" ready worker=", 2);
    let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
    assert!(until(|| names() == 2), "{} have begun", names());
    kill("KILL", app.workers()[&0]);
    app.wait_for_times(" ready worker=", 3);
    ok(&app, &["scale", "3"]);
    ok(&app, &["reload"]);
    assert_eq!(app.workers().len(), 2, "as the file says");
    let old = app.workers();
    std::fs::write(folder.path().join("fail"), "").expect("written");
    let fails = || app.log().matches("exit=exit code 3").count() >= 4;
    assert!(until(fails), "{}", app.log());
    std::fs::remove_file(folder.path().join("fail")).expect("removed");
    assert!(until(|| ok(&app, &["show"]).contains("2/2 workers ready")), "{}", app.log());
    assert!(app.workers().values().all(|pid| !old.values().any(|p| p == pid)));
}

#[test]
fn what_means_nothing_to_a_kind_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let mut app = job(&folder, "[health]\nhttp = \"/\"").start_only();
    assert_eq!(app.wait(), Some(78));
    assert!(app.log().contains("a job has no socket"), "{}", app.log());
}
