//! Good HTTP through the front-end: what a client gets, and what the app sees, is what they would
//! without it.

use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::app::{App, NODES, Spec, free_port, kill, node, until};
use crate::raw::{Answer, Bare, Wire, descriptors, memory};

const MIB: usize = 1 << 20;

fn web() -> Spec {
    Spec::new("web.js").workers(1)
}

fn state(address: &str) -> Value {
    Wire::open(address).get("/state").json()
}

/// What has to be the same; the connection's own fields are each server's affair.
fn essence(answer: &Answer) -> String {
    let own = ["connection", "keep-alive"];
    let mut fields: Vec<String> = answer
        .fields
        .iter()
        .filter(|(name, _)| !own.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    // Between fields of different names the order says nothing; of one name, it does.
    fields.sort_by_key(|f| f.split(':').next().unwrap_or_default().to_ascii_lowercase());
    let date = fields.iter_mut().find(|f| f.starts_with("Date: "));
    date.into_iter().for_each(|f| f.truncate(5));
    if answer.status == 400 {
        return "400".to_owned(); // either end's own
    }
    let mut text = format!("{} {fields:#?}\n", answer.status);
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(Value::Object(mut seen)) if seen.contains_key("rawHeaders") => {
            seen.remove("pid");
            let raw = seen.remove("rawHeaders").unwrap_or_default();
            let raw: Vec<&str> =
                raw.as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
            let mut pairs: Vec<String> = raw
                .chunks(2)
                .map(|pair| pair.join(": "))
                .filter(|p| !p.starts_with("Connection"))
                .collect();
            pairs.sort();
            text += &format!("{seen:?} {pairs:#?}");
        }
        _ => text += &answer.text(),
    }
    format!("{text}\n{:?}", answer.trailers)
}

#[test]
fn answers_and_requests_are_what_bare_node_makes_of_them() {
    let bare = Bare::start("web.js");
    let app = web().start();
    let many: String = (0..150).map(|i| format!("X-{i}: v\r\n")).collect();
    let mut requests: Vec<(&str, String)> = Vec::new();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"]
    {
        requests.push((method, format!("{method} /raw?a=b HTTP/1.1\r\nHost: app\r\n\r\n")));
        requests.push((
            method,
            format!("{method} /x HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\nhello"),
        ));
        let chunked = "5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        requests.push((
            method,
            format!(
                "{method} /x HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
            ),
        ));
        requests.push((
            method,
            format!("{method} /bytes?n=70000&length=1 HTTP/1.1\r\nHost: app\r\n\r\n"),
        ));
        requests.push((method, format!("{method} /bytes?n=70000 HTTP/1.1\r\nHost: app\r\n\r\n")));
    }
    for target in [
        "/status?code=204",
        "/status?code=304",
        "/status?code=200",
        "/status?code=404&body=no",
        "/status?code=500&body=oops",
        "/status?code=299&body=x",
        "/fields",
        "/many?n=150",
        "/raw?q=%00%zz+&a=%E2%82%AC",
        "/raw?{a}|b^c`d\\e'f[g]",
        "/raw/{\"a\":1}|b^c\\d[e]",
        "/raw//a/../b/./c;d=e@f:g",
        "//raw",
        "/raw?\u{e4}",
        "/raw??a=?b",
        "http://app/raw",
    ] {
        requests.push(("GET", format!("GET {target} HTTP/1.1\r\nHost: app\r\n\r\n")));
    }
    requests.push(("OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: app\r\n\r\n".into()));
    for more in [
        "Host: app\r\nX-CamelCase: One\r\nx-camelcase: two\r\nX-UPPER: \u{e4}\r\nCookie: a=1\r\nCookie: b=2\r\nX-Empty:\r\n",
        "host: app\r\nx-forwarded-for: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 5.6.7.8\r\n",
        "HOST: app:80\r\nAccept-Encoding: gzip, br\r\nIf-None-Match: \"x\"\r\nRange: bytes=0-1\r\nTE: trailers\r\n",
        "\r\n", // no host at all: HTTP/1.0 only
        &format!("Host: app\r\n{many}"),
    ] {
        for version in ["1.1", "1.0"] {
            requests
                .push(("GET", format!("GET /raw HTTP/{version}\r\n{}\r\n\r\n", more.trim_end())));
        }
    }
    requests.push(("POST", "POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello".into()));
    requests.push(("GET", "GET /raw HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into()));
    requests.push(("GET", "\r\n\r\nGET /raw HTTP/1.1\r\nHost: app\r\n\r\n".into()));
    let mut differing = String::new();
    for (method, request) in &requests {
        let [alone, through] = [&bare.address, app.address()].map(|address| {
            let mut wire = Wire::open(address);
            wire.send(request);
            match wire.answer_to(method) {
                Ok(answer) => essence(&answer),
                Err(e) => e.to_string(),
            }
        });
        if alone != through {
            differing +=
                &format!("=== {request:?}\n--- bare Node\n{alone}\n--- cohortd\n{through}\n");
        }
    }
    assert!(differing.is_empty(), "{differing}\nlog:\n{}", app.log());
}

/// Not what bare Node does: the library that reads targets knows no way to carry these. Browsers
/// never send them as they stand.
#[test]
fn some_targets_are_refused() {
    let app = web().start();
    for target in ["/raw?\"", "/raw?<", "/raw?>", "/raw/<", "/raw/>", "/raw/`", "/raw?\u{ff}"] {
        let mut wire = Wire::open(app.address());
        let target: Vec<u8> = target.chars().map(|c| c as u8).collect();
        wire.send([b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        assert_eq!(wire.answer().status, 400, "{target:?}");
    }
}

/// A response's only to those who say `TE: trailers`, as HTTP has it; bare Node asks nobody.
#[test]
fn every_method_that_node_knows_passes() {
    let newest = NODES[NODES.len() - 1];
    let app = web().node(newest).start();
    let program = ["-p", "JSON.stringify(http.METHODS)"];
    let output = Command::new(node(newest)).args(program).output().expect("it runs");
    let methods: Vec<String> = serde_json::from_slice(&output.stdout).expect("a list");
    assert!(methods.len() > 30, "{methods:?}");
    for method in methods.iter().chain(["hiPUT".to_owned()].iter()) {
        let mut wire = Wire::open(app.address());
        wire.send(format!("{method} /raw HTTP/1.1\r\nHost: app\r\n\r\n"));
        let status = wire.answer_to(method).expect("an answer").status;
        let want = if ["CONNECT", "hiPUT"].contains(&method.as_str()) { 400 } else { 200 };
        assert_eq!(status, want, "{method}");
    }
}

#[test]
fn trailers_pass_both_ways() {
    let app = web().start();
    let mut wire = Wire::open(app.address());
    wire.send(
        "POST /trailers HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nTrailer: X-In\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-In: 7\r\n\r\n",
    );
    let answer = wire.answer();
    assert_eq!(answer.text().to_lowercase(), r#"["x-in","7"]"#, "{answer:?}");
    let trailers: Vec<String> =
        answer.trailers.iter().map(|(n, v)| format!("{n}: {v}").to_lowercase()).collect();
    assert_eq!(trailers, ["x-sum: 42"], "{answer:?}");
}

#[test]
fn a_body_that_awaits_a_word_gets_it() {
    let app = web().start();
    let mut wire = Wire::open(app.address());
    for _ in 0..2 {
        wire.send(
            "POST /x HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(wire.any_answer("POST").expect("an interim one").status, 100);
        wire.send("hello");
        let answer = wire.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "5"));
    }
}

/// What an app says before its answer (102, 103) ends at cohortd, and does no harm there.
#[test]
fn interim_answers_are_not_passed_on() {
    for version in [NODES[0], NODES[NODES.len() - 1]] {
        let bare = Bare::with(version, "web.js", &[("HOST", "127.0.0.1")]);
        let mut wire = Wire::open(&bare.address);
        wire.send("GET /interim HTTP/1.1\r\nHost: a\r\n\r\n");
        for status in [102, 103, 102, 200] {
            assert_eq!(wire.any_answer("GET").expect("an answer").status, status, "{version}");
        }
        let app = web().node(version).start();
        let mut wire = Wire::open(app.address());
        for request in [
            "GET /interim HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /interim HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        ]
        .repeat(5)
        {
            wire.send(request);
            let answer = wire.any_answer("GET").expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (200, "final"), "{request:?}");
            assert_eq!(answer.field("link"), None, "{answer:?}");
        }
        let connections = state(app.address())["connections"].as_u64();
        assert!(connections <= Some(3), "{version}: {connections:?}");
    }
}

#[test]
fn requests_in_a_pipeline_are_answered_in_order() {
    let app = web().workers(2).start();
    let mut wire = Wire::open(app.address());
    for round in 0..3 {
        let mut all = String::new();
        for n in 0..30 {
            all += &match n % 3 {
                0 => format!(
                    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n{}",
                    "x".repeat(n)
                ),
                1 => format!(
                    "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n{}\r\n0\r\n\r\n",
                    "x".repeat(n)
                ),
                _ => format!("GET /bytes?n={n} HTTP/1.1\r\nHost: a\r\n\r\n"),
            };
        }
        // Cut anywhere: what arrives in one piece says nothing.
        let (first, second) = all.split_at(17 + round * 500);
        wire.send(first);
        wire.send(second);
        for n in 0..30 {
            let answer = wire.answer();
            let length = if n % 3 == 2 {
                answer.body.len()
            } else {
                answer.text().parse().expect("a number")
            };
            assert_eq!((answer.status, length), (200, n), "round {round}");
        }
    }
    wire.send("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = wire.answer();
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert!(wire.ends());
}

#[test]
fn connections_to_workers_are_used_again() {
    let app = web().start();
    let mut wire = Wire::open(app.address());
    for n in 0..100 {
        // Each in its turn after a response of another kind.
        let target = ["/x", "/bytes?n=100000&length=1", "/trailers", "/whoami"][n % 4];
        assert_eq!(wire.get(target).status, 200);
    }
    let connections = state(app.address())["connections"].as_u64();
    assert!(connections <= Some(3), "{connections:?}");
}

#[test]
fn bodies_of_every_size_come_back_as_they_were() {
    let app = web().workers(2).start();
    let all: Vec<u8> =
        (0..20 * MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for size in [0, 1, 1000, 65_535, 65_536, 65_537, MIB, 20 * MIB] {
        for chunked in [false, true] {
            let body = &all[all.len() - size..];
            let (head, blocks) = if chunked {
                ("Transfer-Encoding: chunked".to_owned(), body.chunks(100_000))
            } else {
                (format!("Content-Length: {size}"), body.chunks(1 << 30))
            };
            let mut request =
                format!("POST /echo?body=1 HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n").into_bytes();
            for block in blocks {
                if chunked {
                    request.extend(format!("{:x}\r\n", block.len()).bytes());
                }
                request.extend(block);
                if chunked {
                    request.extend(b"\r\n");
                }
            }
            if chunked {
                request.extend(b"0\r\n\r\n");
            }
            // The app answers as it reads: both ways at once.
            let answer = both_ways(Wire::open(app.address()), request);
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{size} bytes, chunked: {chunked}: {}", answer.body.len());
        }
    }
}

/// Sends while it reads.
fn both_ways(wire: Wire, request: Vec<u8>) -> Answer {
    let (mut reader, mut writer) = wire.halves();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.send(request));
        reader.answer()
    })
}

#[test]
fn a_response_and_a_request_pass_as_they_come() {
    let app = web().start();
    let mut down = Wire::open(app.address());
    down.send("GET /parts HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(down.head().expect("a head").status, 200);
    for part in 0..5 {
        // The next part is written only when this one has been read.
        let text = format!("part {part};");
        assert_eq!(down.line().expect("a size"), "7");
        assert_eq!(down.exactly(9).expect("a chunk"), format!("{text}\r\n").as_bytes());
        assert_eq!(Wire::open(app.address()).get("/next?of=/parts").json()["went"], true);
    }
    let mut up = Wire::open(app.address());
    up.send("POST /slow-upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for n in 1..=5 {
        up.send("7\r\nabcdefg\r\n");
        let arrived = until(|| state(app.address())["received"] == n * 7);
        assert!(arrived, "{n}: {}", state(app.address()));
    }
    up.send("0\r\n\r\n");
    assert_eq!(up.answer().text(), "35");
}

#[test]
fn a_slow_end_holds_the_other_end_and_not_our_memory() {
    const LENGTH: usize = 500 * MIB;
    let app = web().start();
    let pid = app.pid() as i32;
    assert_eq!(Wire::open(app.address()).get("/raw").status, 200);
    let before = memory(pid);
    let most = AtomicUsize::new(before);
    let watch = || most.fetch_max(memory(pid), Ordering::Relaxed);

    let mut wire = Wire::open(app.address());
    wire.send(format!("GET /bytes?n={LENGTH}&length=1 HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(wire.head().expect("a head").status, 200);
    assert!(stands_still(&|| sockets_hold(&app)), "the app is held up");
    watch();
    let mut read = 0;
    while read < LENGTH {
        let block = wire.exactly((4 * MIB).min(LENGTH - read)).expect("more");
        assert!(block.chunks(16).all(|c| c == &b"0123456789abcdef"[..c.len()]));
        read += block.len();
        watch();
    }
    assert_eq!(wire.get("/raw").status, 200, "the connection goes on");

    let mut wire = Wire::open(app.address());
    wire.send(format!("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let (mut reader, mut writer) = wire.halves();
    let sent = AtomicUsize::new(0);
    let answer = std::thread::scope(|scope| {
        let sent = &sent;
        scope.spawn(move || {
            let block = vec![b'x'; MIB];
            for _ in 0..LENGTH / MIB {
                writer.send(&block);
                sent.fetch_add(MIB, Ordering::Relaxed);
            }
        });
        assert!(stands_still(&|| sent.load(Ordering::Relaxed)), "the client is held up");
        watch();
        assert!(sent.load(Ordering::Relaxed) < 100 * MIB);
        let go = || Wire::open(app.address()).get("/next?of=/sink").json()["went"] == true;
        assert!(until(go));
        until(|| {
            watch();
            sent.load(Ordering::Relaxed) == LENGTH
        });
        reader.answer()
    });
    assert_eq!(answer.json()["length"], LENGTH);
    watch();
    let most = most.into_inner();
    assert!(most < before + 20, "from {before} MiB to {most} MiB");
}

/// Whether a number has stopped growing: the same for a while.
fn stands_still(number: &dyn Fn() -> usize) -> bool {
    let mut last = (number(), Instant::now());
    until(|| {
        let now = number();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.0 > 0 && last.1.elapsed() > Duration::from_millis(300)
    })
}

/// How much the worker has written: what its process has passed to the kernel.
fn sockets_hold(app: &App) -> usize {
    let pid = app.workers().into_values().next().expect("a worker");
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("our own process");
    let line = text.lines().find_map(|l| l.strip_prefix("wchar: ")).expect("in every one");
    line.parse().expect("a number")
}

#[test]
fn the_app_sees_that_its_client_has_gone() {
    let app = web().start();
    let begun = [
        "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /parts HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /bytes?n=1000000000 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for (n, request) in begun.iter().enumerate() {
        let mut wire = Wire::open(app.address());
        wire.send(request);
        assert!(until(|| state(app.address())["open"] == 1), "{request:?}");
        drop(wire);
        let noticed = until(|| {
            let state = state(app.address());
            state["open"] == 0 && state["aborted"] == n + 1
        });
        assert!(noticed, "{request:?}: {}", state(app.address()));
    }
}

#[test]
fn a_client_is_who_it_is_and_not_who_it_says() {
    let lie = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
               x-forwarded-port: 1\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-FORWARDED-FOR: 7.7.7.7\r\n";
    let seen = |address: &str, more: &str| {
        let mut wire = Wire::open(address);
        wire.send(format!("GET /raw HTTP/1.1\r\nHost: example.org\r\n{more}\r\n"));
        let seen = wire.answer().json();
        let remote = seen["remoteAddress"].as_str().map(ToOwned::to_owned);
        assert_eq!(remote.as_deref(), Some("127.0.0.1"), "apps stumble over none");
        let mut pairs: Vec<String> = seen["rawHeaders"]
            .as_array()
            .expect("headers")
            .chunks(2)
            .map(|pair| {
                format!("{}: {}", pair[0].as_str().unwrap_or(""), pair[1].as_str().unwrap_or(""))
            })
            .map(|pair| pair.to_lowercase())
            .filter(|pair| !pair.starts_with("host:") && !pair.starts_with("connection:"))
            .collect();
        pairs.sort();
        pairs
    };
    let app = web().more("[route]\ntrusted = []").start();
    let truth =
        ["x-forwarded-for: 127.0.0.1", "x-forwarded-host: example.org", "x-forwarded-proto: http"];
    assert_eq!(seen(app.address(), ""), truth);
    assert_eq!(seen(app.address(), lie), truth);
    assert_eq!(
        seen(app.address(), &format!("Connection: x-forwarded-for, x-forwarded-proto\r\n{lie}")),
        truth
    );
    drop(app);
    let app = web().start(); // loopback is trusted
    let mut said: Vec<String> = lie.lines().map(|l| l.to_lowercase()).collect();
    said.sort();
    assert_eq!(seen(app.address(), lie), said);
    assert_eq!(seen(app.address(), ""), [""; 0], "nothing is added either");
}

#[test]
fn every_kind_of_address_is_listened_on() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("app.sock").display().to_string();
    let six = format!("[::1]:{}", free_port());
    let both = free_port();
    let any = [format!("0.0.0.0:{both}"), format!("[::]:{both}")];
    let ends = vec![format!("127.0.0.1:{both}"), format!("[::1]:{both}")];
    for (listen, addresses) in [
        (vec![path.clone()], vec![path]),
        (vec![six.clone()], vec![six]),
        (vec![both.to_string()], ends.clone()),
        (any.to_vec(), ends.clone()),
        (ends.clone(), ends.clone()),
        (vec![any[0].clone()], vec![ends[0].clone()]),
        (vec![any[1].clone()], vec![ends[1].clone()]),
    ] {
        let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
        let socket = if listen[0].starts_with('/') { listen[0] } else { "" };
        let app = web().env("SOCKET", socket).listen(&listen).more("[route]\ntrusted = []").start();
        for not_listed in ends.iter().filter(|end| addresses.len() == 1 && **end != addresses[0]) {
            assert!(std::net::TcpStream::connect(not_listed).is_err(), "{listen:?} {not_listed}");
        }
        for address in addresses {
            let seen = Wire::open(&address).get("/raw").json();
            let six = address.contains("::1");
            let remote = match seen["remoteAddress"].as_str() {
                Some(remote) => remote.trim_start_matches("::ffff:"),
                None => "",
            };
            let want = if six { "::1" } else { "127.0.0.1" };
            assert_eq!(remote, if address.starts_with('/') { "" } else { want }, "{seen}");
            let headers = seen["rawHeaders"].to_string();
            let is_told = headers.contains("x-forwarded-for") && headers.contains(want);
            assert_eq!(is_told, !address.starts_with('/'), "{address}: {headers}");
            let mut socket = Wire::open(&address);
            websocket(&mut socket);
        }
        drop(app);
    }
}

/// Upgrades the connection, and has a message echoed.
fn websocket(wire: &mut Wire) {
    wire.send(UPGRADE);
    assert_switched(wire);
    for size in [5, 200, 70_000] {
        let message = vec![b'a'; size];
        wire.send(frame(&message));
        assert_eq!(read_frame(wire), message);
    }
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn assert_switched(wire: &mut Wire) {
    let answer = wire.answer();
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert!(
        answer.field("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")),
        "{answer:?}"
    );
}

/// A client's frame: one binary message.
fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82];
    match message.len() {
        n @ 0..126 => frame.push(0x80 | n as u8),
        n @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    frame.extend(mask);
    frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn read_frame(wire: &mut Wire) -> Vec<u8> {
    let head = wire.exactly(2).expect("a frame");
    assert_eq!((head[0], head[1] & 0x80), (0x82, 0), "one binary message, not masked");
    let length = match head[1] {
        126 => wire.exactly(2).expect("a length"),
        127 => wire.exactly(8).expect("a length"),
        n => vec![n],
    };
    let length = length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    wire.exactly(length).expect("a message")
}

#[test]
fn a_websocket_may_come_second_on_a_connection() {
    let app = web().workers(2).start();
    for first in [
        "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        let mut wire = Wire::open(app.address());
        wire.send(first);
        assert_eq!(wire.answer().status, 200);
        websocket(&mut wire);
        // Frames that follow the head at once are not lost.
        let mut wire = Wire::open(app.address());
        wire.send(
            [first.as_bytes(), UPGRADE.as_bytes(), &frame(b"early"), &frame(b"bird")].concat(),
        );
        assert_eq!(wire.answer().status, 200);
        assert_switched(&mut wire);
        assert_eq!(
            (read_frame(&mut wire), read_frame(&mut wire)),
            (b"early".to_vec(), b"bird".to_vec())
        );
        // Its end is the app's.
        wire.send([0x88, 0x80, 1, 2, 3, 4]);
        assert_eq!(wire.exactly(2).expect("a closing frame")[0], 0x88);
        assert!(wire.ends());
    }
    // And the worker's death is the client's to know.
    let mut wire = Wire::open(app.address());
    assert_eq!(wire.get("/x").status, 200);
    websocket(&mut wire);
    app.workers().into_values().for_each(|pid| kill("KILL", pid));
    assert!(wire.ends());
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let app = web().start();
    let mut wire = Wire::open(app.address());
    assert_eq!(wire.get("/x").status, 200);
    wire.send(UPGRADE.replace("Version: 13", "Version: 1"));
    assert_eq!(wire.answer().status, 400);
    assert!(until(|| state(app.address())["open"] == 0));
}

#[test]
fn a_killed_worker_fails_no_request_that_can_be_repeated() {
    let app = Spec::new("web.js").workers(3).more("[restart]\nbackoff = \"10ms..50ms\"").start();
    let failed = AtomicUsize::new(0);
    let served = AtomicUsize::new(0);
    let over = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (app, failed, served, over) = (&app, &failed, &served, &over);
            scope.spawn(move || {
                let mut wire = Wire::open(app.address());
                let mut n = 0;
                while over.load(Ordering::Relaxed) == 0 {
                    n += 1;
                    // One client in four posts: of those, what was on its way may be lost, as 502.
                    let posts = client % 4 == 0;
                    let request = match (posts, n % 5) {
                        (true, _) => "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
                        (false, 0) => "GET /slow?ms=5 HTTP/1.1\r\nHost: a\r\n\r\n",
                        (false, _) => "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
                    };
                    wire.send(request);
                    match wire.answer_to("GET").map(|a| a.status) {
                        Ok(200) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Ok(502) if posts => {}
                        other => {
                            eprintln!("{request:?}: {other:?}");
                            failed.fetch_add(1, Ordering::Relaxed);
                            wire = Wire::open(app.address());
                        }
                    }
                }
            });
        }
        for round in 1..=6 {
            let goal = served.load(Ordering::Relaxed) + 200;
            until(|| served.load(Ordering::Relaxed) > goal);
            let pids: Vec<i32> = app.workers().into_values().collect();
            kill("KILL", pids[round % pids.len()]);
            app.wait_for_times(" ready worker=", 3 + round);
        }
        over.store(1, Ordering::Relaxed);
    });
    assert_eq!(failed.into_inner(), 0, "of {}", served.into_inner());
}

#[test]
fn a_request_that_kills_its_worker_does_not_kill_them_all() {
    let app = Spec::new("web.js").workers(4).start();
    let answer = Wire::open(app.address()).get("/crash");
    assert_eq!(answer.status, 502, "{answer:?}");
    app.wait_for(" exited ");
    assert_eq!(Wire::open(app.address()).get("/x").status, 200);
    let died = app.log().matches(" exited ").count();
    assert!(died <= 2, "{died} workers died of one request");
}

#[test]
fn without_a_worker_a_request_waits_and_then_is_told() {
    let app = web().more("[route]\nqueue = \"500ms\"\n[restart]\nbackoff = \"30s..30s\"").start();
    let mut wire = Wire::open(app.address());
    assert_eq!(wire.get("/x").status, 200);
    kill("KILL", app.workers()[&0]);
    let begun = Instant::now();
    let answer = wire.get("/x");
    let waited = begun.elapsed();
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("2")), "{answer:?}");
    assert!((0.4..10.0).contains(&waited.as_secs_f64()), "{waited:?}");
    let mut upgrade = Wire::open(app.address());
    upgrade.send(UPGRADE);
    assert_eq!(upgrade.answer().status, 503);
    drop(app);

    let app = web().more("[restart]\nbackoff = \"10ms..10ms\"").start();
    let mut wire = Wire::open(app.address());
    for _ in 0..3 {
        let before = wire.get("/raw").json()["pid"].clone();
        kill("KILL", before.as_i64().expect("a pid") as i32);
        assert_ne!(wire.get("/raw").json()["pid"], before, "it waited for the next one");
    }
}

#[test]
fn an_answer_before_the_body_reaches_its_client() {
    let app = web().start();
    let body = vec![b'x'; 20 * MIB];
    for more in ["", "Connection: close\r\n"] {
        let mut wire = Wire::open(app.address());
        wire.send(format!(
            "POST /early HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {}\r\n\r\n",
            body.len()
        ));
        // As many clients do: all of it first, then the answer.
        wire.send(&body);
        let answer = wire.answer();
        assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
    }
    assert!(until(|| state(app.address())["open"] == 0));
}

#[test]
fn a_fault_before_the_bodys_end_reaches_its_client() {
    let app = web().more("[route]\nqueue = \"100ms\"\n[restart]\nbackoff = \"30s..30s\"").start();
    let body = vec![b'x'; 20 * MIB];
    let head = format!("HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    // The worker takes the half of it, and dies.
    let mut wire = Wire::open(app.address());
    wire.send(format!("POST /sink {head}"));
    wire.send(&body[..1000]);
    assert!(until(|| state(app.address())["open"] == 1));
    app.workers().into_values().for_each(|pid| kill("KILL", pid));
    app.wait_for(" exited ");
    wire.send(&body[1000..]);
    assert_eq!(wire.answer().status, 502);
    // There is no worker.
    for _ in 0..5 {
        let mut wire = Wire::open(app.address());
        wire.send(format!("POST /x {head}"));
        wire.send(&body);
        let answer = wire.answer();
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("2")));
    }
}

#[test]
fn a_body_that_never_comes_is_nobody_elses_loss() {
    let app = web().start();
    let mut idle = Vec::new();
    for n in 0..20 {
        let mut wire = Wire::open(app.address());
        wire.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nand no more");
        assert_eq!(wire.answer().status, 413);
        idle.push(wire);
        let mut other = Wire::open(app.address());
        other.patience(Duration::from_secs(10));
        assert_eq!(other.get("/x").status, 200, "{n}");
    }
}

#[test]
fn ctrl_c_lets_what_is_in_flight_finish() {
    let mut app = web().start();
    let pids: Vec<i32> = app.workers().into_values().collect();
    let mut idle = Wire::open(app.address());
    assert_eq!(idle.get("/x").status, 200);
    let before = descriptors(app.pid() as i32);
    let mut silent: Vec<Wire> = (0..10).map(|_| Wire::open(app.address())).collect();
    assert!(
        until(|| descriptors(app.pid() as i32) > before + 5),
        "the kernel had them for a second"
    );
    let mut slow = Wire::open(app.address());
    slow.send("GET /slow?ms=3000 HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    let begun = Instant::now();
    assert!(until(|| state(app.address())["open"] == 1));
    app.signal("INT");
    assert!(
        idle.ends() && silent.iter_mut().all(Wire::ends),
        "what does nothing is closed at once"
    );
    assert!(begun.elapsed() < Duration::from_millis(2800), "{:?}", begun.elapsed());
    let answer = slow.answer();
    assert_eq!(answer.status, 200);
    assert!(slow.ends(), "the one behind it is not begun");
    assert_eq!(app.wait(), Some(0));
    assert!(until(|| pids
        .iter()
        .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())));
}

#[test]
fn new_connections_are_refused_while_it_stops() {
    let app = web().start();
    let mut slow = Wire::open(app.address());
    slow.send("GET /slow?ms=3000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(until(|| state(app.address())["open"] == 1));
    app.signal("INT");
    assert!(until(|| TcpStream::connect(app.address()).is_err()));
    assert!(!app.log().contains(" stopped worker="), "that was while it finishes what it has");
    assert_eq!(slow.answer().status, 200);
}
