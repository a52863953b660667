//! What the front-end takes care of so that the app need not: limits on what a client may take up,
//! proxies in front that say who their client is, request ids, and the access log.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{App, Spec, until};
use crate::balancer::Balancer;
use crate::raw::{Answer, Wire};
use crate::reload::ok;

fn web(more: &str) -> Spec {
    Spec::new("web.js").workers(1).more(more)
}

/// What the app has seen of requests other than those of its own routes.
fn seen(app: &App) -> Vec<Value> {
    Wire::open(app.address()).get("/state").json()["seen"].as_array().cloned().expect("a list")
}

/// Sends all of it and reads one response, which the connection must not survive.
fn refused(app: &App, request: &str) -> Answer {
    let mut wire = Wire::open(app.address());
    wire.send(request);
    let answer = wire.any_answer("POST").expect("an answer");
    assert_eq!(answer.field("connection"), Some("close"), "{answer:?}");
    assert!(wire.ends(), "{answer:?}");
    answer
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let app = web("[limits]\nbody_size = \"1K\"").start();
    let ok = "x".repeat(1024);
    let mut wire = Wire::open(app.address());
    for request in [
        format!("POST /fits HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{ok}"),
        format!(
            "POST /fits HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{ok}\r\n0\r\n\r\n"
        ),
    ] {
        wire.send(request);
        let answer = wire.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "1024"));
    }
    // By its own word: the app hears nothing of it, and no 100 invites the body.
    for more in ["", "Expect: 100-continue\r\n"] {
        let answer = refused(
            &app,
            &format!("POST /said HTTP/1.1\r\nHost: a\r\n{more}Content-Length: 1025\r\n\r\n"),
        );
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    // As it turns out: the app sees it break off.
    let chunk = "x".repeat(600);
    let answer = refused(
        &app,
        &format!(
            "POST /found HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             258\r\n{chunk}\r\n258\r\n{chunk}\r\n0\r\n\r\n"
        ),
    );
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (413, "The request's body is too large.\n")
    );
    let seen = seen(&app);
    let ended = |url: &str| -> Vec<bool> {
        seen.iter().filter(|e| e["url"] == url).map(|e| e["end"] == true).collect()
    };
    assert_eq!(ended("/fits"), [true, true]);
    assert_eq!(ended("/said"), [false; 0]);
    assert_eq!(ended("/found"), [false]);
}

#[test]
fn a_body_that_stops_arriving_is_refused_and_a_slow_one_is_not() {
    let app = web("[limits]\nbody_timeout = \"1s\"").start();
    let answer = refused(&app, "POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!(answer.status, 408, "{answer:?}");
    let mut wire = Wire::open(app.address());
    wire.send("POST /drip HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(250));
        wire.send("x");
    }
    assert_eq!(wire.answer().text(), "8");
}

const LARGE: &str = "/bytes?n=100000000";

/// Asks for more than all buffers on the way can hold, by a connection that itself holds little.
fn asks_for_much(app: &App) -> Wire {
    let socket = connect_from("127.0.0.1", app.address());
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 8192).expect("a socket");
    let mut wire = Wire::from(socket);
    wire.send(format!("GET {LARGE}&length=1 HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(wire.head().expect("a head").status, 200);
    wire
}

#[test]
fn a_client_that_reads_no_more_is_ended() {
    let app = web(&format!("{LOGGED}[limits]\nsend_timeout = \"500ms\"")).start();
    let mut wire = asks_for_much(&app);
    let target = format!("{LARGE}&length=1");
    assert!(until(|| !lines(&app, &target).is_empty()), "{}", app.log());
    let line = &lines(&app, &target)[0];
    assert_eq!(line["status"], 200, "{line}");
    assert!(line["bytes"].as_u64() < Some(100_000_000), "{line}");
    let state = || Wire::open(app.address()).get("/state").json();
    assert!(until(|| state()["open"] == 0 && state()["aborted"] == 1), "{}", state());
    assert!(wire.exactly(100_000_000).is_err(), "it breaks off");
}

#[test]
fn a_client_that_reads_slowly_is_not() {
    let app = web("[limits]\nsend_timeout = \"2s\"").start();
    let mut wire = asks_for_much(&app);
    // Far from enough for the kernel to say that there is room again. It also takes its time to send
    // more to a window that stays as small as this one: probes of it, up to 0.8 s apart.
    for _ in 0..60 {
        wire.exactly(8192).expect("more");
        thread::sleep(Duration::from_millis(100));
    }
    let state = Wire::open(app.address()).get("/state").json();
    assert_eq!((&state["open"], &state["aborted"]), (&json!(1), &json!(0)), "{state}");
}

#[test]
fn a_worker_that_has_nothing_to_say_is_waited_for() {
    let app = web("[limits]\nsend_timeout = \"300ms\"").start();
    assert_eq!(Wire::open(app.address()).get("/slow?ms=1500").status, 200);
    let mut wire = Wire::open(app.address());
    wire.send("GET /parts HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.head().expect("a head").status, 200);
    for part in 0..2 {
        wire.line().expect("a size");
        let text = wire.exactly(9).expect("a chunk");
        assert_eq!(text, format!("part {part};\r\n").as_bytes());
        thread::sleep(Duration::from_millis(1200));
        assert_eq!(Wire::open(app.address()).get("/next?of=/parts").json()["went"], true);
    }
}

#[test]
fn so_many_connections_and_no_more() {
    let limits = "[limits]\nconnections = 4\n[route]\ntrusted = []";
    let app = web(limits).start();
    let mut kept: Vec<Wire> = (0..4).map(|_| Wire::open(app.address())).collect();
    assert!(kept.iter_mut().all(|wire| wire.get("/x").status == 200));
    let answer = refused(&app, "GET /y HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(kept.iter_mut().all(|wire| wire.get("/x").status == 200), "they are served on");
    kept.pop();
    assert!(until(|| Wire::open(app.address()).get("/x").status == 200), "one has gone");
}

#[test]
fn a_websocket_that_passes_through_counts_as_a_connection() {
    let limits = "[limits]\nconnections = 1\n[route]\ntrusted = []";
    let app = web(limits).start();
    let mut wire = Wire::open(app.address());
    assert_eq!(wire.get("/x").status, 200);
    // Not the first request of its connection: that can't be handed over.
    wire.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 101);
    assert_eq!(refused(&app, "GET /y HTTP/1.1\r\nHost: a\r\n\r\n").status, 503);
    drop(wire);
    assert!(until(|| Wire::open(app.address()).get("/x").status == 200), "it has gone");
}

#[test]
fn no_client_has_all_the_connections() {
    let limits = "[limits]\nconnections_per_client = 2\n[route]\ntrusted = [\"127.0.0.3\"]";
    let app = web(limits).start();
    let from = |address: &str| Wire::from(connect_from(address, app.address()));
    let mut greedy: Vec<Wire> = (0..2).map(|_| from("127.0.0.1")).collect();
    assert!(greedy.iter_mut().all(|wire| wire.get("/x").status == 200));
    assert_eq!(from("127.0.0.1").get("/x").status, 503);
    assert_eq!(from("127.0.0.2").get("/x").status, 200, "another client");
    let mut proxy: Vec<Wire> = (0..5).map(|_| from("127.0.0.3")).collect();
    assert!(proxy.iter_mut().all(|wire| wire.get("/x").status == 200), "a proxy has many clients");
    greedy.pop();
    assert!(until(|| from("127.0.0.1").get("/x").status == 200), "one has gone");
}

/// A connection from this address of the loopback network.
fn connect_from(from: &str, to: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &address(&format!("{from}:0"))).expect("bound");
    connect(&socket, &address(to)).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream
}

/// A version 2 header for a client at 192.0.2.7:4711.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x12\x67\x1f\x90";

/// One that the balancer has opened for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Version 2, with something beside the address: a unique id of two bytes.
const MORE: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xc0\0\x02\x08\x7f\0\0\x01\x12\x67\x1f\x90\x05\0\x02id";

#[test]
fn a_balancer_says_for_whom_it_has_connected() {
    let app = web("[route]\nproxy_protocol = true\n[limits]\nhead_timeout = \"2s\"").start();
    let who = |header: &[u8]| {
        let mut wire = Wire::open(app.address());
        wire.send([header, b"GET /raw HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        let answer = wire.answer();
        let client = forwarded_for(&answer);
        let own = client.as_deref().unwrap_or("127.0.0.1");
        assert_eq!(answer.json()["remoteAddress"], own, "as under Node's own cluster");
        client
    };
    let v6 = b"PROXY TCP6 2001:db8::7 ::1 4711 8080\r\n";
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 8080\r\n"[..], Some("192.0.2.7")),
        (v6, Some("2001:db8::7")),
        (b"PROXY UNKNOWN\r\n", None), // trusted itself: nothing is added
        (V2, Some("192.0.2.7")),
        (MORE, Some("192.0.2.8")),
        (LOCAL, None),
    ] {
        assert_eq!(who(header).as_deref(), client, "{}", header.escape_ascii());
    }
    // Byte by byte, with a request that is handed over.
    let mut wire = Wire::open(app.address());
    for byte in V2 {
        wire.send([*byte]);
        thread::sleep(Duration::from_millis(2));
    }
    wire.send(
        "GET /pid HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 101);
    // What has no header, or a bad one, is closed without an answer.
    for wrong in [
        &b"GET /raw HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.777 127.0.0.1 4711 8080\r\n",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80800000000000000000000000000000000000000000000000000000000000000000000000000000000000000\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", // and nothing more: until head_timeout
        b"PROXY ",
    ] {
        let mut wire = Wire::open(app.address());
        let _ = wire.try_send(wrong);
        assert!(wire.ends(), "{}", wrong.escape_ascii());
    }
    let log = app.log();
    assert_eq!(log.matches("has no PROXY header").count(), 1, "said once: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_stranger_s_proxy_header_is_no_more_than_a_bad_request() {
    let app = web("[route]\nproxy_protocol = true\ntrusted = []").start();
    let answer = refused(
        &app,
        "PROXY TCP4 192.0.2.7 127.0.0.1 4711 8080\r\nGET /raw HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(answer.status, 400);
    let answer = Wire::open(app.address()).get("/raw");
    assert_eq!(forwarded_for(&answer).as_deref(), Some("127.0.0.1"), "none is needed");
}

#[test]
fn limits_hold_for_the_clients_of_a_balancer() {
    let app = web("[limits]\nconnections_per_client = 1\n[route]\nproxy_protocol = true").start();
    let open = |header: &[u8]| {
        let mut wire = Wire::open(app.address());
        wire.send(header);
        wire
    };
    let mut one = open(V2);
    assert_eq!(one.get("/x").status, 200);
    assert_eq!(open(V2).get("/x").status, 503);
    assert_eq!(open(MORE).get("/x").status, 200);
}

#[test]
fn haproxy_introduces_its_clients() {
    let app = web("[route]\nproxy_protocol = true\ntrusted = [\"127.0.0.1\"]").start();
    for (version, stickiness) in [("send-proxy", ""), ("send-proxy-v2", "check-send-proxy check")] {
        let balancer = Balancer::haproxy(app.address(), &format!("{version} {stickiness}"));
        let mut wire = Wire::from(connect_from("127.0.0.9", &balancer.address));
        for _ in 0..2 {
            assert_eq!(forwarded_for(&wire.get("/raw")).as_deref(), Some("127.0.0.9"));
        }
    }
    assert!(!app.log().contains("PROXY"), "{}", app.log());
}

/// `X-Forwarded-For` as the app saw it.
fn forwarded_for(answer: &Answer) -> Option<String> {
    header(&answer.json(), "x-forwarded-for")
}

/// A header of the request that `/raw` has answered.
fn header(raw: &Value, name: &str) -> Option<String> {
    let all = raw["rawHeaders"].as_array().expect("a list");
    let found = all
        .chunks(2)
        .find(|pair| pair[0].as_str().is_some_and(|other| other.eq_ignore_ascii_case(name)))?;
    found[1].as_str().map(str::to_owned)
}

#[test]
fn the_app_is_told_of_its_client_in_the_headers_it_likes() {
    let lie = "Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\n";
    let told = |which: &str, host: &str| {
        let app = web(&format!("[route]\ntrusted = []\nforwarded = \"{which}\"")).start();
        let mut wire = Wire::open(app.address());
        wire.send(format!("GET /raw HTTP/1.1\r\nHost: {host}\r\n{lie}\r\n"));
        let raw = wire.answer().json();
        ["x-forwarded-for", "x-forwarded-host", "forwarded"].map(|name| header(&raw, name))
    };
    let some = |text: &str| Some(text.to_owned());
    let standard = some("for=127.0.0.1;host=\"a.example:81\";proto=http");
    let [address, host] = ["127.0.0.1", "a.example:81"].map(some);
    assert_eq!(told("x-forwarded", "a.example:81"), [address.clone(), host.clone(), None]);
    assert_eq!(told("forwarded", "a.example:81"), [None, None, standard.clone()]);
    assert_eq!(told("both", "a.example:81"), [address, host, standard]);
}

#[test]
fn every_request_has_an_id() {
    let id_of = |app: &App, more: &str| {
        let mut wire = Wire::open(app.address());
        wire.send(format!("GET /raw HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        header(&wire.answer().json(), "x-request-id").expect("an id")
    };
    let strangers = web("[route]\nrequest_id = \"X-Request-Id\"\ntrusted = []").start();
    let ids =
        [id_of(&strangers, ""), id_of(&strangers, ""), id_of(&strangers, "X-Request-Id: 7\r\n")];
    for (at, id) in ids.iter().enumerate() {
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert!(!ids[..at].contains(id), "{ids:?}");
    }
    let trusted = web("[route]\nrequest_id = \"X-Request-Id\"").start();
    assert_eq!(id_of(&trusted, "X-Request-Id: 7\r\n"), "7", "a trusted proxy's is kept");
    assert_eq!(id_of(&trusted, "").len(), 32);
}

const LOGGED: &str = "[log]\naccess = \"json\"\n[route]\nrequest_id = \"X-Request-Id\"\n";

/// The lines of the access log for a target.
fn lines(app: &App, target: &str) -> Vec<Value> {
    let log = app.log();
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["target"] == target).collect()
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let app = web(&format!("{LOGGED}[limits]\nbody_size = \"10\"")).start();
    let mut wire = Wire::open(app.address());
    wire.send(
        "GET /bytes?n=100000 HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 192.0.2.9\r\n\
         User-Agent: t\"\\ä\r\nReferer: http://b/\r\nX-Request-Id: 7\r\n\
         Cookie: secret\r\n\r\n",
    );
    assert_eq!(wire.answer().body.len(), 100_000);
    wire.send("HEAD /status?code=404 HTTP/1.0\r\n\r\n");
    assert_eq!(wire.answer_to("HEAD").expect("an answer").status, 404);
    refused(&app, "POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    let mut gone = Wire::open(app.address());
    gone.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(until(|| Wire::open(app.address()).get("/state").json()["open"] == 1));
    drop(gone);

    let one = |target: &str| {
        assert!(until(|| !lines(&app, target).is_empty()), "{}", app.log());
        let lines = lines(&app, target);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    };
    let line = one("/bytes?n=100000");
    for (key, value) in [
        ("client", json!("192.0.2.9")), // a trusted proxy says so
        ("method", json!("GET")),
        ("protocol", json!("HTTP/1.1")),
        ("host", json!("a.example")),
        ("status", json!(200)),
        ("bytes", json!(100_000)),
        ("worker", json!(1)),
        ("request_id", json!("7")),
        ("referer", json!("http://b/")),
        ("user_agent", json!("t\"\\ä")),
    ] {
        assert_eq!(line[key], value, "{key}: {line}");
    }
    assert!(line["seconds"].as_f64().is_some_and(|s| s > 0.0), "{line}");
    assert!(line["time"].as_f64().is_some_and(|s| s > 1.7e9), "{line}");
    let line = one("/status?code=404");
    assert_eq!((&line["status"], &line["bytes"]), (&json!(404), &json!(0)), "{line}");
    assert_eq!((&line["method"], &line["protocol"]), (&json!("HEAD"), &json!("HTTP/1.0")));
    let line = one("/large");
    assert_eq!((&line["status"], &line["worker"]), (&json!(413), &Value::Null), "{line}");
    let line = one("/hang");
    assert_eq!(line["status"], Value::Null, "it did not wait for one: {line}");
    assert!(!app.log().contains("secret"));
}

#[test]
fn the_access_log_comes_and_goes_with_a_reload_and_nobody_has_to_read_it() {
    let spec = web("");
    let mut app = spec.start();
    let asked = |target: &str| assert_eq!(Wire::open(app.address()).get(target).status, 200);
    asked("/before");
    spec.clone().more(LOGGED).write(app.file());
    ok(&app, &["reload"]);
    asked("/with");
    assert!(until(|| !lines(&app, "/with").is_empty()), "{}", app.log());
    spec.write(app.file());
    ok(&app, &["reload"]);
    asked("/without");
    spec.clone().more(LOGGED).write(app.file());
    ok(&app, &["reload"]);
    asked("/last");
    app.signal("TERM");
    assert_eq!(app.wait(), Some(0));
    assert!(until(|| lines(&app, "/last").len() == 1), "written before the end: {}", app.log());
    assert_eq!((lines(&app, "/before").len(), lines(&app, "/without").len()), (0, 0));

    // A pipe that is full, and stays so.
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a pipe");
    while writer.write(&[b' '; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("a pipe");
    let mut app = spec.more(LOGGED).start_with_stdout(writer);
    let mut wire = Wire::open(app.address());
    for _ in 0..5000 {
        assert_eq!(wire.get("/unread").status, 200);
    }
    drop(reader);
    assert_eq!(wire.get("/unread").status, 200);
    let said = |wire: &mut Wire| wire.get("/unread").status == 200 && app.log().contains("lost");
    assert!(until(|| said(&mut wire)), "{}", app.log());
    app.signal("TERM");
    assert_eq!(app.wait(), Some(0));
}
