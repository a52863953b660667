//! What an app's metrics say is what has happened, and both of their texts are read by Prometheus'
//! own parsers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::app::{App, Spec, client, cohortctl, free_port, js, kill, until};
use crate::languages::installed;
use crate::raw::{Answer, Wire, get};
use crate::reload::{ok, refused};
use crate::systemd::on_each;

/// An app whose metrics are on a port of their own.
struct Scraped {
    app: App,
    at: String,
}

const TEXT: &str = "text";
const OPENMETRICS: &str = "openmetrics";

impl Scraped {
    /// With more tables. prom-client is installed where the apps of the tests are, but they don't use it.
    fn start(spec: Spec, tables: &str) -> Scraped {
        Scraped::start_with(spec, &format!("prom_client = false\n{tables}"))
    }

    /// With more lines for `[metrics]`.
    fn start_with(spec: Spec, more: &str) -> Scraped {
        let at = format!("127.0.0.1:{}", free_port());
        let app = spec.more(&format!("[metrics]\nlisten = {at:?}\n{more}")).start();
        Scraped { app, at }
    }

    fn read(&self) -> Page {
        Page::read(&self.at, OPENMETRICS)
    }

    /// Waits until a value is what it should be.
    fn becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let is = || self.read().value(name, labels) == value;
        assert!(until(is), "{name} {labels:?} is not {value}:\n{}", text(&self.at, TEXT));
    }
}

fn fetch(at: &str, request: &str, lines: &str) -> Answer {
    let mut wire = Wire::open(at);
    wire.send(format!("{request} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    wire.answer_to(request.split(' ').next().unwrap_or_default()).expect("an answer")
}

/// The metrics as they come in one of the formats.
fn text(at: &str, format: &str) -> String {
    let (accept, kind) = match format {
        TEXT => ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        _ => (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    };
    let answer = fetch(at, "GET /metrics", &format!("Accept: {accept}\r\n"));
    assert_eq!((answer.status, answer.field("content-type")), (200, Some(kind)));
    answer.text()
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Family {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    help: String,
    samples: Vec<(String, BTreeMap<String, String>, String)>,
}

/// A scrape, as a real parser reads it.
#[derive(Debug, Clone, PartialEq)]
struct Page(Vec<Family>);

impl Page {
    fn read(at: &str, format: &str) -> Page {
        Page::parse(&text(at, format), format)
    }

    fn parse(text: &str, format: &str) -> Page {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/exposition.py");
        let mut parser = Command::new(installed("python3"))
            .arg(script)
            .arg(format)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        parser.stdin.take().expect("piped").write_all(text.as_bytes()).expect("read");
        let output = parser.wait_with_output().expect("our own child");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{text}");
        Page(serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// The sum of all values of this name that have these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |its: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| its.get(*name).is_some_and(|own| own == value))
        };
        let samples = self.0.iter().flat_map(|family| &family.samples);
        let found: Vec<f64> = samples
            .filter(|(its, own, _)| its == name && has(own))
            .map(|(_, _, value)| value.parse().expect("a number"))
            .collect();
        assert!(!found.is_empty(), "no {name} {labels:?}");
        found.iter().sum()
    }

    /// Families by whether they are cohortd's own.
    fn part(&self, ours: bool) -> Vec<&Family> {
        self.0.iter().filter(|family| family.name.starts_with("cohortd_") == ours).collect()
    }
}

fn ask(app: &App, target: &str, times: usize) {
    let mut wire = Wire::open(app.address());
    for _ in 0..times {
        wire.get(target);
    }
}

#[test]
fn requests_are_counted_to_the_last() {
    let scraped = Scraped::start(Spec::new("web.js"), "");
    let app = &scraped.app;
    ask(app, "/whoami", 20);
    ask(app, "/status?code=204", 1);
    ask(app, "/status?code=302", 2);
    ask(app, "/status?code=404", 5);
    ask(app, "/status?code=503", 3);
    ask(app, "/slow?ms=300", 2);
    for request in ["FOO / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut wire = Wire::open(app.address());
        wire.send(request);
        assert_eq!(wire.answer().status, 400);
    }
    let mut wire = Wire::open(app.address());
    wire.send("no HTTP\r\n\r\n");
    assert_eq!(wire.answer().status, 400);

    for format in [OPENMETRICS, TEXT] {
        let page = Page::read(&scraped.at, format);
        let requests = |code| page.value("cohortd_requests_total", &[("code", code)]);
        assert_eq!(["1xx", "2xx", "3xx", "4xx", "5xx"].map(requests), [0.0, 23.0, 2.0, 5.0, 3.0]);
        let own = |reason| page.value("cohortd_own_answers_total", &[("reason", reason)]);
        assert_eq!(["method", "ambiguous", "no_worker"].map(own), [1.0, 1.0, 0.0]);
        let refused =
            |reason| page.value("cohortd_connections_refused_total", &[("reason", reason)]);
        assert_eq!(["malformed", "head_timeout", "limit"].map(refused), [1.0, 0.0, 0.0]);
        assert_eq!(page.value("cohortd_connections_accepted_total", &[]), 9.0);
        let duration = |part: &str, labels| {
            page.value(&format!("cohortd_request_duration_seconds_{part}"), labels)
        };
        assert_eq!(duration("count", &[]), 33.0);
        assert_eq!(duration("bucket", &[("le", "+Inf")]), 33.0);
        assert_eq!(duration("bucket", &[("le", "0.25")]), 31.0, "two were slow");
        assert!((0.6..5.0).contains(&duration("sum", &[])), "{}", duration("sum", &[]));
        assert_eq!(page.value("cohortd_worker_requests_in_flight", &[]), 0.0);
        assert_eq!(page.value("cohortd_requests_abandoned_total", &[]), 0.0);
    }
}

#[test]
fn what_is_under_way_and_what_is_given_up_is_seen() {
    let scraped = Scraped::start(Spec::new("web.js").workers(1), "");
    let app = &scraped.app;
    let mut wire = Wire::open(app.address());
    wire.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    scraped.becomes("cohortd_worker_requests_in_flight", &[("slot", "0")], 1.0);
    assert_eq!(scraped.read().value("cohortd_connections_open", &[]), 1.0);
    drop(wire);
    scraped.becomes("cohortd_requests_abandoned_total", &[], 1.0);
    scraped.becomes("cohortd_connections_open", &[], 0.0);

    // A request that kills its worker is sent once more, and kills the next one too.
    assert_eq!(get(app.address(), "/crash").status, 502);
    let page = scraped.read();
    assert_eq!(page.value("cohortd_request_retries_total", &[("reason", "unanswered")]), 1.0);
    assert_eq!(page.value("cohortd_own_answers_total", &[("reason", "worker_died")]), 1.0);
    assert_eq!(page.value("cohortd_requests_total", &[]), 0.0);
}

#[test]
fn connections_that_leave_are_counted() {
    let scraped = Scraped::start(Spec::new("web.js"), "");
    for n in 1..=3 {
        let mut wire = Wire::open(scraped.app.address());
        wire.send(
            "GET /pid HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        );
        assert_eq!(wire.answer().status, 101);
        let labels = [("protocol", "websocket")];
        scraped.becomes("cohortd_connections_handed_over_total", &labels, f64::from(n));
    }
    assert_eq!(scraped.read().value("cohortd_requests_total", &[]), 0.0, "cohortd has seen none");
}

#[test]
fn sessions_are_counted_and_missed() {
    let spec = Spec::new("sio.js").env("STICKY", "sticky2").env("ADAPTER", "adapter03");
    let scraped = Scraped::start(spec, "");
    let app = &scraped.app;
    let handshake = || get(app.address(), "/socket.io/?EIO=4&transport=polling").text();
    let opened = [handshake(), handshake(), handshake()];
    assert_eq!(scraped.read().value("cohortd_worker_sessions", &[]), 3.0);
    // A poll is a request, but how long it takes says nothing.
    let (_, rest) = opened[0].split_once(r#""sid":""#).expect("a handshake");
    let sid = rest.split('"').next().unwrap_or_default();
    let session = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let mut wire = Wire::open(app.address());
    wire.send(format!("POST {session} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n40"));
    assert_eq!(wire.answer().status, 200);
    assert!(wire.get(&session).text().starts_with("40{"));
    let page = scraped.read();
    assert_eq!(page.value("cohortd_requests_total", &[("code", "2xx")]), 5.0);
    assert_eq!(page.value("cohortd_request_duration_seconds_count", &[]), 4.0);
    let unknown = "/socket.io/?EIO=4&transport=polling&sid=nobodys";
    assert_eq!(get(app.address(), unknown).status, 400);
    let page = scraped.read();
    assert_eq!(page.value("cohortd_session_misses_total", &[("reason", "unknown")]), 1.0);
    assert_eq!(page.value("cohortd_sessions_parked", &[]), 0.0);
    // Adapters say hello to each other by themselves.
    let relayed = |page: &Page| {
        let names = ["packets_total", "deliveries_total", "delivered_bytes_total"];
        names.map(|name| page.value(&format!("cohortd_relay_{name}"), &[]))
    };
    assert!(until(|| relayed(&scraped.read()).iter().all(|count| *count > 0.0)));
}

#[test]
fn ends_of_workers_have_their_causes() {
    let spec = Spec::new("ill.js");
    let tables = "[health]\nevent_loop = \"1s\"\n[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"1s\"";
    let scraped = Scraped::start(spec, tables);
    let app = &scraped.app;
    let ended = |cause, count| {
        scraped.becomes("cohortd_workers_ended_total", &[("cause", cause)], count);
        scraped.becomes("cohortd_workers", &[("state", "ready")], 2.0);
    };
    ended("signal", 0.0);
    kill("KILL", app.workers()[&0]);
    ended("signal", 1.0);
    kill("STOP", app.workers()[&1]);
    ended("hang", 1.0);
    let _ = get(app.address(), "/crash");
    ended("exit", 2.0); // it was asked of another one too
    let before = scraped.read();
    assert_eq!(before.value("cohortd_generation", &[]), 1.0);

    ok(app, &["reload"]);
    ended("reload", 2.0);
    ok(app, &["scale", "3"]);
    ok(app, &["scale", "2"]);
    ended("scale", 1.0);
    let slot = format!("{}#0", app.name());
    let restarted = cohortctl().args(["restart", &slot]).output().expect("cohortctl starts");
    assert!(restarted.status.success(), "{restarted:?}");
    ended("request", 1.0);
    app.change("workers = 2", "workers = 0");
    refused(app, &["reload"]);
    app.change("workers = 0", "workers = 2");
    app.change("ill.js", "nonesuch.js");
    refused(app, &["reload"]);
    let page = scraped.read();
    let reloads = |result| page.value("cohortd_reloads_total", &[("result", result)]);
    assert_eq!(["done", "refused", "rolled_back"].map(reloads), [1.0, 1.0, 1.0]);
    assert_eq!(page.value("cohortd_generation", &[]), 2.0);
    assert_eq!(page.value("cohortd_workers_wanted", &[]), 2.0);
    let started = page.value("cohortd_workers_started_total", &[]);
    let ended = page.value("cohortd_workers_ended_total", &[]);
    assert_eq!(started - ended, 2.0, "the others are there");
}

#[test]
fn ill_workers_and_broken_releases_have_their_causes() {
    let folder = TempDir::new().expect("a temporary folder");
    let health = folder.path().join("health");
    let tables = "[health]\nhttp = \"/healthz\"\nevery = \"200ms\"\nfail_after = 1\n\
                  [ready]\ntimeout = \"4s\"\n[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"1s\"\n\
                  [limits]\nconnections = 1";
    let spec = Spec::new("ill.js").workers(1).env("HEALTH", health.display());
    let scraped = Scraped::start(spec, tables);
    let app = &scraped.app;
    let ended = |cause| scraped.read().value("cohortd_workers_ended_total", &[("cause", cause)]);
    fs::write(&health, "500").expect("written");
    scraped.becomes("cohortd_workers_ended_total", &[("cause", "health")], 1.0);
    fs::write(&health, "200").expect("written");
    scraped.becomes("cohortd_workers", &[("state", "ready")], 1.0);
    let before = ended("health");

    let idle = folder.path().join("idle.js");
    fs::write(&idle, "setInterval(() => {}, 1e6)").expect("written");
    let script = js().join("apps/ill.js").display().to_string();
    let idle = idle.display().to_string();
    app.change(&script, &idle);
    refused(app, &["reload"]);
    app.change("exec = [\"", "exec = [\"/nonesuch");
    refused(app, &["reload"]);
    app.change("/nonesuch", "");
    app.change(&idle, &script);
    // Node itself takes more.
    app.change("[limits]", "[memory]\nrecycle_at = \"16M\"\n[limits]");
    ok(app, &["reload"]);
    scraped.becomes("cohortd_workers_ended_total", &[("cause", "memory")], 1.0);
    let causes = ["not_ready", "not_started", "reload", "health", "exit"];
    assert_eq!(causes.map(ended), [1.0, 1.0, 1.0, before, 0.0], "{}", app.log());

    let mut first = Wire::open(app.address());
    assert_eq!(first.get("/whoami").status, 200);
    assert_eq!(get(app.address(), "/whoami").status, 503);
    let limit = [("reason", "limit")];
    assert_eq!(scraped.read().value("cohortd_connections_refused_total", &limit), 1.0);
}

#[test]
fn workers_are_measured() {
    let scraped = Scraped::start(Spec::new("ill.js"), "");
    let app = &scraped.app;
    let seen = |name: &str, slot| scraped.read().value(name, &[("slot", slot)]);
    assert!(seen("cohortd_worker_memory_bytes", "0") > 1e7, "Node takes its tens of megabytes");
    let cpu = "cohortd_worker_cpu_seconds_total";
    let before = seen(cpu, "0");
    assert!(before > 0.0);
    let count = "cohortd_worker_event_loop_delay_seconds_count";
    assert!(until(|| seen(count, "0") > 0.0 && seen(count, "1") > 0.0), "asked once a second");
    assert!(seen("cohortd_worker_event_loop_last_delay_seconds", "0") < 0.5);
    // One that is busy for longer than a second is asked meanwhile.
    assert_eq!(get(app.address(), "/block?ms=2500").status, 200);
    let most = |page: &Page| page.value("cohortd_worker_event_loop_delay_seconds_sum", &[]);
    assert!(until(|| most(&scraped.read()) > 1.0), "{}", text(&scraped.at, TEXT));
    // Nor is one waited for that does not answer at all.
    let last = "cohortd_worker_event_loop_last_delay_seconds";
    let stopped = app.workers()[&0];
    kill("STOP", stopped);
    assert!(until(|| seen(last, "0") > 1.0), "{}", text(&scraped.at, TEXT));
    kill("CONT", stopped);
    assert!(until(|| seen(last, "0") < 1.0), "{}", text(&scraped.at, TEXT));
    // The control socket says the same.
    let mut control =
        UnixStream::connect(format!("/run/cohortd/{}/control", app.name())).expect("its user may");
    control.write_all(b"{\"method\":\"org.cohortd.App.Status\"}\0").expect("written");
    let mut answer = Vec::new();
    BufReader::new(control).read_until(0, &mut answer).expect("an answer");
    answer.pop();
    let status: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
    let workers = status["parameters"]["workers"].as_array().expect("workers");
    let sum = |key: &str| workers.iter().filter_map(|worker| worker[key].as_f64()).sum::<f64>();
    assert_eq!(sum("requests"), 1.0, "{status}");
    assert!(sum("cpu") > 0.5 && sum("event_loop_delay") > 0.0, "{status}");
    // What a worker has taken stays when it is gone.
    let both = |page: &Page| page.value(cpu, &[]);
    let before = both(&scraped.read());
    assert!(before > 0.5, "{before}");
    app.workers().values().for_each(|pid| kill("KILL", *pid));
    scraped.becomes("cohortd_workers_ended_total", &[("cause", "signal")], 2.0);
    assert!(both(&scraped.read()) >= before);
}

#[test]
fn only_metrics_are_served_and_only_to_read() {
    let scraped = Scraped::start(Spec::new("web.js").workers(1), "");
    let at = &scraped.at;
    assert_eq!(fetch(at, "GET /", "").status, 404);
    assert_eq!(fetch(at, "GET /metrics/", "").status, 404);
    let wrong = fetch(at, "POST /metrics", "Content-Length: 0\r\n");
    assert_eq!((wrong.status, wrong.field("allow")), (405, Some("GET, HEAD")));
    let head = fetch(at, "HEAD /metrics?x=1", "Accept: */*\r\n");
    assert_eq!(head.status, 200);
    assert!(head.body.is_empty() && head.field("content-length") > Some("0"), "{head:?}");
    // Who asks for neither gets Prometheus' own.
    let any = fetch(at, "GET /metrics", "");
    assert_eq!(any.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    // Clients that say nothing take all places, but not for ever.
    let silent: Vec<Wire> = (0..8).map(|_| Wire::open(at)).collect();
    let begun = Instant::now();
    assert_eq!(get(scraped.app.address(), "/whoami").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "the app is served all the same");
    assert_eq!(scraped.read().value("cohortd_requests_total", &[("code", "2xx")]), 1.0);
    drop(silent);
}

#[test]
fn a_reload_moves_them() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("metrics.sock").display().to_string();
    let scraped = Scraped::start(Spec::new("web.js").workers(1), "[reload]\ncanary = \"0s\"");
    let (app, at) = (&scraped.app, &scraped.at);
    let reached = |at: &str| match at.strip_prefix('/') {
        Some(_) => UnixStream::connect(at).is_ok(),
        None => std::net::TcpStream::connect(at).is_ok(),
    };
    ask(app, "/whoami", 3);

    app.change(&format!("{at:?}"), &format!("{path:?}"));
    ok(app, &["reload"]);
    assert_eq!(Page::read(&path, TEXT).value("cohortd_requests_total", &[("code", "2xx")]), 3.0);
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "the app's user and group");
    assert!(!reached(at));

    // A place that can't be had: nothing changes.
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let held_at = held.local_addr().expect("bound").to_string();
    app.change(&format!("{path:?}"), &format!("{held_at:?}"));
    let said = refused(app, &["reload"]);
    assert!(said.contains(&format!("[metrics] listen: can't listen on {held_at}")), "{said}");
    assert_eq!(Page::read(&path, TEXT).value("cohortd_generation", &[]), 2.0);

    // A release that fails does not move them either.
    app.change(&format!("{held_at:?}"), &format!("{at:?}"));
    app.change("web.js", "nonesuch.js");
    refused(app, &["reload"]);
    assert!(reached(&path) && !reached(at));
    app.change("nonesuch.js", "web.js");
    ok(app, &["reload"]);
    assert!(reached(at) && !Path::new(&path).exists());

    app.change("[metrics]\nlisten", "[metrics]\n# listen");
    app.change("prom_client", "# prom_client");
    ok(app, &["reload"]);
    assert!(!reached(at));
}

/// The app is worth more than its metrics.
#[test]
fn an_app_starts_without_its_metrics() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = held.local_addr().expect("bound").to_string();
    let more = format!("[metrics]\nlisten = {at:?}\n[reload]\ncanary = \"0s\"");
    let app = Spec::new("web.js").workers(1).more(&more).start();
    app.wait_for("no metrics; a reload tries again");
    assert_eq!(get(app.address(), "/whoami").status, 200);
    drop(held);
    ok(&app, &["reload"]);
    assert_eq!(Page::read(&at, TEXT).value("cohortd_generation", &[]), 2.0);
}

/// What the app says itself: prom-client's default metrics differ from run to run, its primary takes
/// answers in the order in which they come, and the formats write numbers each in its own way.
fn of_the_app(page: &Page) -> Vec<Family> {
    let mine = |name: &str| !name.starts_with("process_") && !name.starts_with("nodejs_");
    let plain = |number: &str| number.parse::<f64>().expect("a number").to_string();
    let mut families: Vec<Family> = page.part(false).into_iter().cloned().collect();
    families.retain(|family| mine(&family.name));
    for family in &mut families {
        for (_, labels, value) in &mut family.samples {
            *value = plain(value);
            for (_, bound) in
                labels.iter_mut().filter(|(name, _)| matches!(&***name, "le" | "quantile"))
            {
                *bound = plain(bound);
            }
        }
        family.samples.sort();
    }
    families
}

#[test]
fn the_workers_own_metrics_are_what_prom_client_makes_of_them() {
    let said = client("clients/prom.js", &["3"], &[]).unwrap_or_else(|said| panic!("{said}"));
    let wanted = Page::parse(said["text"].as_str().expect("a text"), TEXT);
    assert!(of_the_app(&wanted).len() > 8, "{wanted:?}");
    for framing in ["advanced", "json"] {
        let spec = Spec::new("prom.js").workers(3);
        let at = format!("127.0.0.1:{}", free_port());
        let more = format!("serialization = {framing:?}\n[metrics]\nlisten = {at:?}");
        let app = spec.more(&more).start();
        for format in [TEXT, OPENMETRICS] {
            let page = Page::read(&at, format);
            let names = |page: &Page| -> BTreeSet<String> {
                page.part(false).iter().map(|family| family.name.clone()).collect()
            };
            assert_eq!(names(&page), names(&wanted), "{framing} {format}");
            assert_eq!(of_the_app(&page), of_the_app(&wanted), "{framing} {format}");
            assert_eq!(page.value("cohortd_generation", &[]), 1.0, "not the app's");
        }
        let page = Page::read(&at, TEXT);
        let questions =
            |result| page.value("cohortd_prom_client_questions_total", &[("result", result)]);
        assert_eq!(
            ["answered", "unanswered", "failed"].map(questions),
            [9.0, 0.0, 0.0],
            "{}",
            app.log()
        );
    }
}

#[test]
fn who_hangs_is_not_waited_for() {
    let scraped = Scraped::start_with(Spec::new("prom.js").workers(3), "");
    assert_eq!(scraped.read().value("depth_sum", &[]), 15.0);
    let stopped = scraped.app.workers()[&2];
    kill("STOP", stopped);
    let begun = Instant::now();
    let page = scraped.read();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(page.value("depth_sum", &[]), 7.5, "of the other two");
    let unanswered = [("result", "unanswered")];
    assert_eq!(page.value("cohortd_prom_client_questions_total", &unanswered), 1.0);
    kill("CONT", stopped);
    scraped.becomes("depth_sum", &[], 15.0);
}

/// Says what it hears.
const HEARS: &str = r#"
    process.on("message", (message) => console.log("heard", JSON.stringify(message)));
    require("node:http").createServer((req, res) => res.end()).listen(process.env.PORT);
"#;

/// An app that does not know prom-client never hears of it, unless it is wanted so; one that has the
/// package and does not answer is left alone in the end.
#[test]
fn nobody_is_asked_who_does_not_answer() {
    let folder = TempDir::new().expect("a temporary folder");
    let script = folder.path().join("app.js");
    fs::write(&script, HEARS).expect("written");
    let spec = Spec::new("none").script(&script).workers(1);
    let asked = |scraped: &Scraped| {
        scraped.read();
        let labels = [("result", "unanswered")];
        scraped.read().value("cohortd_prom_client_questions_total", &labels)
    };
    let without = Scraped::start_with(spec.clone(), "");
    assert_eq!(asked(&without), 0.0);
    assert!(!without.app.log().contains("heard"), "{}", without.app.log());
    drop(without);
    let wanted = Scraped::start_with(spec.clone(), "prom_client = true");
    assert_eq!(asked(&wanted), 2.0);
    wanted.app.wait_for(r#"heard {"type":"prom-client:getMetricsReq","requestId":1}"#);
    drop(wanted);
    // The package alone says nothing of whether it is used.
    fs::create_dir_all(folder.path().join("node_modules/prom-client")).expect("made");
    let installed = Scraped::start_with(spec.clone(), "");
    assert_eq!([0; 3].map(|_| asked(&installed)), [2.0, 3.0, 3.0]);
    drop(installed);
    let off = Scraped::start_with(spec, "prom_client = false");
    assert_eq!(asked(&off), 0.0);
    assert!(!off.app.log().contains("heard"), "{}", off.app.log());
}

/// On a path in the app's runtime folder, for whoever is in its group.
#[test]
fn a_service_s_group_may_ask() {
    on_each(|host| {
        host.add("myapp", "/srv/js/apps/web.js", "8080");
        let config = host.ok("cat /etc/cohortd/myapp.toml");
        let at = "/run/cohortd/myapp/metrics.sock";
        let metrics = format!("[metrics]\nlisten = {at:?}\nprom_client = false");
        host.write("/etc/cohortd/myapp.toml", &format!("{config}\n{metrics}\n"));
        host.ok("systemctl start myapp@cluster");
        host.ok("useradd --system --groups myapp scraper");
        host.get("http://127.0.0.1:8080/whoami");
        let curl = format!("curl -gsSf -m 20 --unix-socket {at} http://localhost/metrics");
        let as_user = |user: &str, command: &str| {
            host.run(&format!("setpriv --reuid={user} --regid={user} --init-groups -- {command}"))
        };
        let scraped = as_user("scraper", &curl);
        assert_eq!(scraped.code, 0, "{scraped}");
        let page = Page::parse(&scraped.stdout, TEXT);
        assert_eq!(page.value("cohortd_requests_total", &[("code", "2xx")]), 1.0);
        assert!(page.value("cohortd_worker_memory_bytes", &[("slot", "0")]) > 1e7);
        assert!(page.value("cohortd_worker_cpu_seconds_total", &[("slot", "0")]) > 0.0);
        // What else is there is its user's alone, and so is a look at what there is.
        let control = "curl -gsS -m 20 --unix-socket /run/cohortd/myapp/control http://localhost/";
        assert_eq!(as_user("scraper", control).code, 7, "refused");
        assert_ne!(as_user("scraper", "ls /run/cohortd/myapp").code, 0);
        assert_eq!(as_user("daemon", &curl).code, 7, "not in the group");
        host.ok("systemctl stop myapp@cluster");
    });
}

/// Labels with what they can be, but for those that follow from the app.
fn described(family: &Family) -> String {
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, value) in family.samples.iter().flat_map(|(_, labels, _)| labels) {
        labels.entry(name).or_default().insert(value);
    }
    labels.remove("le");
    let one = |(name, values): (&str, BTreeSet<&str>)| match name {
        "slot" | "app" | "version" => format!("`{name}`"),
        _ => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{name}`: {}", values.join(", "))
        }
    };
    labels.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

/// `BLESS=1` writes the table anew.
#[test]
fn the_documentation_has_every_metric() {
    let scraped = Scraped::start(Spec::new("web.js").workers(1), "");
    let count = "cohortd_worker_event_loop_delay_seconds_count";
    assert!(until(|| scraped.read().value(count, &[]) > 0.0), "all are there then");
    let mut table = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for family in Page::read(&scraped.at, TEXT).part(true) {
        let suffix = if family.kind == "counter" { "_total" } else { "" };
        let Family { name, kind, help, .. } = family;
        let labels = described(family);
        let _ = writeln!(table, "| `{name}{suffix}` | {kind} | {labels} | {help} |");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = fs::read_to_string(&file).expect("readable");
    let (begin, rest) = text.split_once("<!-- table -->\n").expect("a table's begin");
    let (_, end) = rest.split_once("<!-- end -->\n").expect("a table's end");
    let whole = format!("{begin}<!-- table -->\n{table}<!-- end -->\n{end}");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, &whole).expect("written");
    }
    assert_eq!(fs::read_to_string(&file).expect("readable"), whole);
}

/// Every name in the dashboard's expressions is one that can be scraped.
#[test]
fn the_dashboard_knows_what_it_asks_for() {
    let scraped = Scraped::start(Spec::new("web.js").workers(1), "");
    let count = "cohortd_worker_event_loop_delay_seconds_count";
    assert!(until(|| scraped.read().value(count, &[]) > 0.0), "all are there then");
    let page = Page::read(&scraped.at, TEXT);
    let known: BTreeSet<&str> =
        page.0.iter().flat_map(|family| &family.samples).map(|(name, ..)| name.as_str()).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana.json");
    let text = fs::read_to_string(file).expect("readable");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut expressions = Vec::new();
    gather(&dashboard, &mut expressions);
    assert!(expressions.len() > 15, "{expressions:?}");
    let mut used = BTreeSet::new();
    for expression in &expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> = words.filter(|word| word.starts_with("cohortd_")).collect();
        assert!(!names.is_empty(), "{expression}");
        used.extend(names);
    }
    let unknown: Vec<_> = used.iter().filter(|name| !known.contains(*name)).collect();
    assert_eq!(json!(unknown), json!([]), "of {known:?}");
}

/// Everything that a dashboard asks for.
fn gather(value: &serde_json::Value, expressions: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text)
                        if name == "expr" || name == "query" && text.contains("cohortd_") =>
                    {
                        expressions.push(text.to_owned());
                    }
                    _ => gather(field, expressions),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| gather(item, expressions)),
        _ => {}
    }
}
