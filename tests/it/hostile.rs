//! Bad input to the port. It is refused or means to the worker what it means to a bare Node
//! server, costs nobody else anything, and leaves nothing behind.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::app::{App, Spec, until};
use crate::raw::{Bare, Wire, descriptors, memory};

pub(crate) const LIMITS: &str = "[limits]\nhead_timeout = \"1s\"\nidle = \"2s\"\n";

/// Follows each case on its connection: where its framing is read right, it is seen.
pub(crate) const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Hides in other requests' bodies and fields; no worker may ever see it.
pub(crate) const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// Nothing more comes after so long without a byte, if nothing is slow.
const QUIET: Duration = Duration::from_millis(60);

fn web() -> App {
    Spec::new("web.js").workers(1).more(LIMITS).start()
}

/// What has to be as it was when bad input is over.
struct Health {
    pid: i32,
    descriptors: usize,
    memory: usize,
}

impl Health {
    fn of(app: &App) -> Health {
        let pid = app.pid() as i32;
        assert_eq!(Wire::open(app.address()).get("/whoami").status, 200);
        Health { pid, descriptors: descriptors(pid), memory: memory(pid) }
    }

    /// The app answers at once, no worker has died, and nothing is held on to.
    fn is_kept(&self, app: &App) {
        self.is_held(app, 40);
    }

    /// The same, with so many MiB more at most.
    fn is_held(&self, app: &App, more: usize) {
        let log = app.log();
        assert!(!log.contains(" exited ") && !log.contains("panicked"), "{log}");
        // A few connections to workers may wait for their next request.
        let back = until(|| descriptors(self.pid) <= self.descriptors + 4);
        assert!(back, "{} descriptors, now {}", self.descriptors, descriptors(self.pid));
        let begun = Instant::now();
        assert_eq!(Wire::open(app.address()).get("/whoami").status, 200);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        // The allocator gives back what is free with what it is asked next.
        let back = until(|| {
            assert_eq!(Wire::open(app.address()).get("/whoami").status, 200);
            memory(self.pid) <= self.memory + more
        });
        assert!(back, "{} MiB, now {} MiB", self.memory, memory(self.pid));
    }
}

/// A request as an app sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) length: u64,
    /// Its body came to its end.
    pub(crate) ended: bool,
}

/// What came of a connection's bytes.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) seen: Vec<Seen>,
    pub(crate) statuses: Vec<u16>,
    pub(crate) closed: bool,
}

/// Sends bytes on one connection and asks the app what it has seen of them.
pub(crate) fn try_out(address: &str, bytes: &[u8], quiet: Duration) -> Outcome {
    assert_eq!(Wire::open(address).get("/forget").status, 200);
    let mut wire = Wire::open(address);
    let _ = wire.try_send(bytes); // it may be closed already
    let (answers, closed) = wire.rest(quiet);
    drop(wire);
    let mut state = serde_json::Value::Null;
    let over = until(|| {
        state = Wire::open(address).get("/state").json();
        state["open"] == 0
    });
    assert!(over, "{state}: {:?}", String::from_utf8_lossy(bytes));
    let seen = state["seen"].as_array().expect("a list").iter();
    let seen = seen.map(|seen| Seen {
        method: seen["method"].as_str().unwrap_or_default().to_owned(),
        url: target(seen["url"].as_str().unwrap_or_default()),
        length: seen["length"].as_u64().unwrap_or_default(),
        ended: seen["end"] == true,
    });
    Outcome { seen: seen.collect(), statuses: statuses(&answers), closed }
}

/// A request target, in one of its spellings: the library that reads it writes schemes small, ends
/// an empty path and leaves out a fragment, which is no part of a target.
fn target(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) if scheme.chars().all(char::is_alphanumeric) => {
            let end = if rest.contains('/') { "" } else { "/" };
            format!("{}://{rest}{end}", scheme.to_ascii_lowercase())
        }
        _ => url.to_owned(),
    }
}

fn statuses(answers: &[u8]) -> Vec<u16> {
    let text: String = answers.iter().map(|&b| char::from(b)).collect();
    let lines = text.split("HTTP/1.").skip(1);
    lines.filter_map(|line| line.get(2..5)?.parse().ok()).collect()
}

/// Whether cohortd refused, or showed its worker what bare Node shows: `None`, or what is wrong.
pub(crate) fn differs(through: &Outcome, bare: &Outcome) -> Option<String> {
    let mut seen = through.seen.as_slice();
    // Where Node closes with its refusal and cohortd knows the end of what it passed on, it goes on.
    if bare.seen.last().is_none_or(|b| b.url != "/last")
        && let [rest @ .., last] = seen
        && last.url == "/last"
    {
        seen = rest;
    }
    for (n, c) in seen.iter().enumerate() {
        match bare.seen.get(n) {
            Some(b) if (&b.method, &b.url) != (&c.method, &c.url) => {
                return Some("another request".into());
            }
            Some(b) if c.ended && (!b.ended || b.length != c.length) => {
                return Some("another body".into());
            }
            Some(_) => {}
            None => return Some("a request that bare Node refuses".into()),
        }
    }
    let refused = through.closed || through.statuses.iter().any(|s| (400..500).contains(s));
    let whole = seen == bare.seen;
    if !whole && !refused {
        return Some("less, and no refusal".into());
    }
    let faults = through.statuses.iter().any(|&s| s >= 500);
    faults.then(|| "a fault of the server".into())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Want {
    /// No request of it comes to its end in a worker.
    Refused,
    /// Refused, or what bare Node makes of it.
    Alike,
    /// Bare Node refuses it. HTTP allows it to be put right, and that is done: nothing hidden in it
    /// is seen.
    PutRight,
}

/// Name, bytes, verdict.
type Case = (String, Vec<u8>, Want);

fn cases() -> Vec<Case> {
    use Want::{Alike, PutRight, Refused};
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>, want| cases.push((name.to_owned(), bytes, want));
    let post = |fields: &str, body: &str| {
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}").into_bytes()
    };
    let hidden_chunk = format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
    let hidden_after = format!("0\r\n\r\n{HIDDEN}");
    let length = HIDDEN.len();

    // Two framings at once.
    for (n, both) in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", hidden_after.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}", hidden_after.len()),
        "Content-Length: 4\r\nX: y\r\nTransfer-Encoding: CHUNKED".to_owned(),
        "Content-Length: 0\r\ntransfer-encoding:chunked".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        add(&format!("both framings {n}"), post(both, &hidden_after), PutRight);
    }
    // Lengths.
    for value in [
        "-1",
        "+5",
        "0x5",
        "5 5",
        "5, 5",
        "5,6",
        "",
        " ",
        "5.0",
        "1e1",
        "99999999999999999999",
        "18446744073709551615",
        "18446744073709551621",
        "٥",
        "5\t5",
        "5;",
    ] {
        add(
            &format!("length {value:?}"),
            post(&format!("Content-Length: {value}"), HIDDEN),
            Refused,
        );
    }
    add("two lengths", post("Content-Length: 0\r\nContent-Length: 5", HIDDEN), Refused);
    add(
        "two lengths, the other way",
        post(&format!("Content-Length: {length}\r\nContent-Length: 0"), HIDDEN),
        Refused,
    );
    add(
        "the same length twice",
        post(&format!("Content-Length: {length}\r\nContent-Length: {length}"), HIDDEN),
        PutRight,
    );
    add("leading zeros", post(&format!("Content-Length: 000{length}"), HIDDEN), Alike);
    add("a length's spaces", post(&format!("Content-Length: \t {length} \t"), HIDDEN), PutRight);
    add("a length of many digits", post("Content-Length: 9223372036854775808", HIDDEN), Alike);
    // Codings.
    for value in [
        "xchunked",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "identity",
        "chunked;q=1",
        "chunked,",
        ",chunked",
        "\"chunked\"",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "identity\r\nTransfer-Encoding: chunked",
        "",
        "chunked chunked",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunked\0",
        "\r\n chunked",
        "\r\n\tchunked",
    ] {
        add(
            &format!("coding {value:?}"),
            post(&format!("Transfer-Encoding: {value}"), &hidden_chunk),
            Refused,
        );
        add(
            &format!("length and coding {value:?}"),
            post(&format!("Content-Length: {length}\r\nTransfer-Encoding: {value}"), HIDDEN),
            Refused,
        );
    }
    for field in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding\r: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding",
        ": chunked",
    ] {
        add(&format!("field {field:?}"), post(field, &hidden_after), Refused);
        add(
            &format!("length and field {field:?}"),
            post(&format!("Content-Length: {length}\r\n{field}"), HIDDEN),
            Refused,
        );
    }
    add(
        "coding like no other",
        post(&format!("Content-Length: {length}\r\nTransfer_Encoding: chunked"), HIDDEN),
        Alike,
    );
    add("a coding in capitals", post("TRANSFER-ENCODING: cHuNkEd", &hidden_chunk), Alike);
    add(
        "HTTP/1.0 and chunked",
        format!("POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{hidden_chunk}").into(),
        Refused,
    );
    // Chunks.
    for bad in [
        "0x5\r\nhello",
        "-5\r\nhello",
        "+5\r\nhello",
        "5\nhello",
        "g\r\nhello",
        "\r\nhello",
        "\r\n5\r\nhello",
        " 5\r\nhello",
        "FFFFFFFFFFFFFFFF1\r\nhello",
        "10000000000000005\r\nhello",
        "5\r\nhelloXX",
        "5\r\nhello\n",
        "5\r\nhell",
        "5\r\nhello!",
        "5;a\nb\r\nhello",
        "5;\rx\r\nhello",
        "5\r\rhello",
        "5,5\r\nhello",
        "5 5\r\nhello",
    ] {
        let rest = format!("{bad}\r\n0\r\n\r\n{HIDDEN}");
        add(&format!("chunk {bad:?}"), post("Transfer-Encoding: chunked", &rest), Refused);
    }
    for size in ["5 ", "5\t", "5 ;a=b", "5;\0"] {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        add(&format!("chunk size {size:?}"), post("Transfer-Encoding: chunked", &body), PutRight);
    }
    for fine in [
        "FFFFFFFFFFFFFFFF\r\nhello",
        "7FFFFFFFFFFFFFFF\r\nhello",
        "5;a=b\r\nhello",
        "5;a\r\nhello",
        "00005\r\nhello",
        "5;a=\"b;c\"\r\nhello",
    ] {
        add(
            &format!("chunk {fine:?}"),
            post("Transfer-Encoding: chunked", &format!("{fine}\r\n0\r\n\r\n")),
            Alike,
        );
    }
    add(
        "a long extension",
        post(
            "Transfer-Encoding: chunked",
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(100_000)),
        ),
        Refused,
    );
    let dribble = format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(100);
    add(
        "many extensions",
        post("Transfer-Encoding: chunked", &format!("{dribble}0\r\n\r\n")),
        Alike,
    );
    add(
        "trailers that frame",
        post(
            "Transfer-Encoding: chunked",
            &format!(
                "0\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n"
            ),
        ),
        PutRight,
    );
    add(
        "trailers that are announced and frame",
        post(
            "Trailer: Content-Length, Transfer-Encoding\r\nTransfer-Encoding: chunked",
            &format!("0\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ),
        PutRight,
    );
    add(
        "many trailers",
        post(
            "Transfer-Encoding: chunked",
            &format!("0\r\n{}\r\n{HIDDEN}", "X: y\r\n".repeat(10_000)),
        ),
        Refused,
    );
    add(
        "a bad trailer",
        post("Transfer-Encoding: chunked", &format!("0\r\nX y\r\n\r\n{HIDDEN}")),
        Refused,
    );
    add(
        "an end without CR",
        post("Transfer-Encoding: chunked", &format!("5\r\nhello\r\n0\n\n{HIDDEN}")),
        Refused,
    );
    // Lines.
    let lines = |text: String| text.into_bytes();
    add("bare LF", lines("GET /x HTTP/1.1\nHost: a\n\n".into()), PutRight);
    add("one bare LF", lines("GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into()), PutRight);
    add(
        "bare LF hides a length",
        lines(format!(
            "POST /x HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: {length}\r\n\r\n{HIDDEN}"
        )),
        PutRight,
    );
    add("bare CR", lines("GET /x HTTP/1.1\rHost: a\r\r".into()), Refused);
    add("CR in a value", lines("GET /x HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n".into()), Refused);
    add("CR before CRLF", lines("GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n".into()), Refused);
    add("NUL in a value", lines("GET /x HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n".into()), Refused);
    add("NUL in a name", lines("GET /x HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n".into()), Refused);
    add("NUL in the target", lines("GET /x\0 HTTP/1.1\r\nHost: a\r\n\r\n".into()), Refused);
    add(
        "a folded value",
        lines("GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n".into()),
        Refused,
    );
    add(
        "a space before the colon",
        lines("GET /x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n".into()),
        Refused,
    );
    add("no colon", lines("GET /x HTTP/1.1\r\nHost: a\r\nX\r\n\r\n".into()), Refused);
    add(
        "a first line that is a field",
        lines("GET /x HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n".into()),
        Refused,
    );
    for line in [
        "GET  /x HTTP/1.1",
        "GET /x  HTTP/1.1",
        "GET /x y HTTP/1.1",
        "GET /x HTTP/1.1 ",
        " GET /x HTTP/1.1",
        "GET\t/x HTTP/1.1",
        "GET /x\tHTTP/1.1",
        "GET /x HTTP/2.0",
        "GET /x HTTP/1.2",
        "GET /x HTTP/0.9",
        "GET /x http/1.1",
        "GET /x HTTP/11",
        "GET /x HTTP/1.1x",
        "GET /x HTTP/01.1",
        "GET /x",
        "GET",
        "GET /x HTTP/",
        "/x HTTP/1.1",
        "G@T /x HTTP/1.1",
        "GET x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http://[::1 HTTP/1.1",
        "GET http://a:99999/x HTTP/1.1",
        "GET \\x HTTP/1.1",
        "\u{feff}GET /x HTTP/1.1",
    ] {
        add(&format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n").into(), Refused);
    }
    for line in [
        "get /x HTTP/1.1",
        "FOO /x HTTP/1.1",
        "TRACE /x HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a/x HTTP/1.1",
        "GET /x?sid=%0d%0aX:%20y&transport=polling HTTP/1.1",
        "GET /socket.io/?EIO=4&transport=polling&sid=%0d%0a%0d%0aGET%20/hidden HTTP/1.1",
        "GET //x HTTP/1.1",
        "GET /../../etc/passwd HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "\r\n\r\n\r\nGET /x HTTP/1.1",
    ] {
        add(&format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n").into(), Alike);
    }
    for method in ["CONNECT a:80", "CONNECT /x", "CONNECT a:80\0"] {
        add(method, format!("{method} HTTP/1.1\r\nHost: a:80\r\n\r\n{HIDDEN}").into(), Refused);
    }
    // Hosts.
    for hosts in
        ["Host: a\r\nHost: b", "Host: a\r\nX: y\r\nhost: a", "X: y", "Host : a", "Host: a\r\n b"]
    {
        add(
            &format!("hosts {hosts:?}"),
            format!("GET /x HTTP/1.1\r\n{hosts}\r\n\r\n").into(),
            Refused,
        );
    }
    add(
        "another host in the target",
        lines("GET http://evil/x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Refused,
    );
    add(
        "a user in the target",
        lines("GET http://a@evil/x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Refused,
    );
    // Too much.
    add(
        "a long target",
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000)).into(),
        Refused,
    );
    add("a long value", post(&format!("X: {}", "y".repeat(100_000)), ""), Refused);
    add("a long name", post(&format!("{}: y", "X".repeat(100_000)), ""), Refused);
    add("many fields", post(&"X: y\r\n".repeat(10_000), ""), Refused);
    add("more than Node takes", post(&format!("X: {}", "y".repeat(20_000)), ""), Alike);
    add(
        "a long method",
        format!("{} /x HTTP/1.1\r\nHost: a\r\n\r\n", "X".repeat(100_000)).into(),
        Refused,
    );
    add("empty lines", [b"\r\n".repeat(50_000), HIDDEN.into()].concat(), Refused);
    // Words about the connection.
    for words in [
        "content-length",
        "host",
        "content-length, host",
        "transfer-encoding",
        "close, content-length",
        "keep-alive, upgrade",
        "x-y",
        ",,,",
        "",
    ] {
        let fields = format!("Connection: {words}\r\nContent-Length: {length}");
        add(&format!("connection {words:?}, a length"), post(&fields, HIDDEN), Alike);
        let fields = format!("Connection: {words}\r\nTransfer-Encoding: chunked");
        add(&format!("connection {words:?}, chunked"), post(&fields, &hidden_chunk), Alike);
    }
    add(
        "after the end",
        format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{HIDDEN}").into(),
        Alike,
    );
    add("after HTTP/1.0", format!("GET /x HTTP/1.0\r\n\r\n{HIDDEN}").into(), Alike);
    // Other protocols.
    add("HTTP/2", lines("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x0c\x04\0\0\0\0\0".into()), Refused);
    add("TLS", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03".to_vec(), Refused);
    add("SSL 2", b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10".to_vec(), Refused);
    add("nothing but NUL", vec![0; 100_000], Refused);
    add(
        "garbage",
        (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect(),
        Refused,
    );
    add("SSH", lines("SSH-2.0-OpenSSH_9.2\r\n".into()), Refused);
    add(
        "PROXY",
        lines("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Refused,
    );
    // Upgrades.
    let upgrade = |fields: &str, body: &str| {
        let head = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
        format!("{head}\r\n{fields}\r\n\r\n{body}").into_bytes()
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    add(
        "an upgrade with a body",
        upgrade(&format!("{key}\r\nContent-Length: {length}"), HIDDEN),
        Refused,
    );
    add(
        "an upgrade with chunks",
        upgrade(&format!("{key}\r\nTransfer-Encoding: chunked"), &hidden_chunk),
        Refused,
    );
    add("an upgrade without a key", upgrade("X: y", HIDDEN), Alike);
    add("an upgrade with a bad key", upgrade("Sec-WebSocket-Key: abc", HIDDEN), Alike);
    add("an upgrade with two keys", upgrade(&format!("{key}\r\n{key}"), HIDDEN), Alike);
    add(
        "an upgrade whose key is taken away",
        upgrade(&format!("{key}\r\nConnection: sec-websocket-key"), ""),
        Alike,
    );
    add("frames that are none", upgrade(key, HIDDEN), Alike);
    cases
}

#[test]
fn ambiguous_requests_mean_what_bare_node_reads_or_nothing() {
    let (app, bare) = (web(), Bare::start("web.js"));
    let health = Health::of(&app);
    let mut wrong = String::new();
    for (name, bytes, want) in cases() {
        for before in ["", "GET /first HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let bytes = [before.as_bytes(), &bytes, LAST.as_bytes()].concat();
            let mut why = None;
            // A busy machine may make the first look too short.
            // Unknown sessions are waited for.
            let parked = bytes.windows(4).any(|four| four == b"sid=");
            let quiet = if parked { Duration::from_millis(600) } else { QUIET };
            for quiet in [quiet, Duration::from_millis(1500)] {
                let through = try_out(app.address(), &bytes, quiet);
                why = judge(&through, want, || try_out(&bare.address, &bytes, quiet))
                    .map(|why| format!("{why}\n  {through:?}\n"));
                if why.is_none() {
                    break;
                }
            }
            if let Some(why) = why {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
                wrong += &format!("{name} {before:.4}: {why}  {shown:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    health.is_kept(&app);
}

/// What is wrong with what came of a case.
fn judge(through: &Outcome, want: Want, bare: impl Fn() -> Outcome) -> Option<String> {
    let ours = |seen: &&Seen| !["/first", "/last"].contains(&seen.url.as_str());
    if through.seen.iter().any(|seen| seen.url.contains("hidden HTTP") || seen.url == "/hidden") {
        return Some("what is hidden was seen".into());
    }
    match want {
        Want::Refused => {
            let refused = through.closed || through.statuses.iter().any(|s| (400..500).contains(s));
            let passed = through.seen.iter().filter(ours).any(|seen| seen.ended);
            let faults = through.statuses.iter().any(|&s| s >= 500 && s != 502);
            (passed || !refused || faults).then(|| "not refused".into())
        }
        Want::Alike => {
            let bare = bare();
            differs(through, &bare).map(|why| format!("{why}\n  bare Node: {bare:?}"))
        }
        Want::PutRight => {
            let faults = through.statuses.iter().any(|&s| s >= 500);
            (faults || !through.closed).then(|| "a fault, or left open".into())
        }
    }
}

#[test]
fn clients_that_never_finish_are_shown_out() {
    let app = web();
    let health = Health::of(&app);
    std::thread::scope(|scope| {
        // One byte after the other, for ever.
        for before in ["", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let app = &app;
            scope.spawn(move || {
                let mut wire = Wire::open(app.address());
                if !before.is_empty() {
                    wire.send(before);
                    assert_eq!(wire.answer().status, 200);
                }
                let begun = Instant::now();
                wire.send("GET /x HTTP/1.1\r\nX: ");
                wire.patience(Duration::from_millis(40));
                while !wire.ends_now() {
                    assert!(begun.elapsed() < Duration::from_secs(15), "{before:?}");
                    let _ = wire.try_send("y");
                }
                assert!(begun.elapsed() > Duration::from_millis(900), "{before:?}");
            });
        }
        for (bytes, status) in [("", 408), ("G", 408), ("GET /x HTTP/1.1\r\nHost: a\r\n", 408)] {
            let app = &app;
            scope.spawn(move || {
                let mut wire = Wire::open(app.address());
                wire.send(bytes);
                let begun = Instant::now();
                assert_eq!(wire.answer().status, status, "{bytes:?}");
                assert!(wire.ends());
                let after = begun.elapsed().as_secs_f64();
                assert!((0.9..10.0).contains(&after), "{bytes:?}: {after}");
            });
        }
        // As fast as it can.
        for block in ["X: y\r\n", "yyyyyyyyyyyyyyyy"] {
            let app = &app;
            scope.spawn(move || {
                let mut wire = Wire::open(app.address());
                wire.send("GET /x HTTP/1.1\r\n");
                let block = block.repeat(10_000);
                let begun = Instant::now();
                while wire.try_send(&block).is_ok() {
                    assert!(begun.elapsed() < Duration::from_secs(15));
                }
            });
        }
        // Half a head, then the end.
        scope.spawn(|| {
            for cut in [1, 10, 24] {
                let mut stream = TcpStream::connect(app.address()).expect("connected");
                stream.write_all(&b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"[..cut]).expect("sent");
                stream.shutdown(Shutdown::Write).expect("shut");
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
                let mut wire = Wire::from(stream);
                assert!(wire.ends(), "no time-out is waited for, or it would be told");
            }
        });
    });
    health.is_kept(&app);
}

/// The allocator keeps what the first wave has taken; a second one takes no more.
#[test]
fn ten_thousand_silent_connections_are_nobody_elses_loss() {
    let app = Spec::new("web.js").more("[limits]\nhead_timeout = \"60s\"").start();
    let mut health = Health::of(&app);
    let before = health.memory;
    wave(&app, health.pid);
    health.is_held(&app, 150);
    health.memory = memory(health.pid);
    eprintln!("{before} MiB, after 10000 connections {} MiB", health.memory);
    for _ in 0..5 {
        wave(&app, health.pid);
    }
    // What the first wave left free may lie elsewhere: 25 MiB are 500 bytes for each connection.
    health.is_held(&app, 25);
    eprintln!("after 60000 connections {} MiB", memory(health.pid));
}

fn wave(app: &App, pid: i32) {
    let mut wires = Vec::new();
    for n in 0..10_000 {
        match TcpStream::connect(app.address()) {
            Ok(stream) => wires.push(stream),
            Err(e) => panic!("{n} connections, then {e}; ulimit -n has to be above 11000"),
        }
        if n % 1000 == 999 {
            let begun = Instant::now();
            assert_eq!(Wire::open(app.address()).get("/whoami").status, 200);
            assert!(begun.elapsed() < Duration::from_secs(5), "{n}: {:?}", begun.elapsed());
        }
    }
    assert!(until(|| descriptors(pid) > 10_000), "all at once");
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing() {
    let app = web();
    let health = Health::of(&app);
    for round in 0..200 {
        let mut wire = Wire::open(app.address());
        let _ = match round % 4 {
            0 => wire.try_send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhalf"),
            1 => wire.try_send("POST /echo?body=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
            2 => wire.try_send("GET /bytes?n=100000000 HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => wire.try_send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n"),
        };
        if round % 4 == 2 {
            wire.exactly(100_000).expect("its beginning");
        }
    }
    let over = until(|| Wire::open(app.address()).get("/state").json()["open"] == 0);
    assert!(over, "{}", Wire::open(app.address()).get("/state").json());
    // Readers that don't read, while others are served.
    let slow = [(); 20].map(|()| {
        let mut wire = Wire::open(app.address());
        wire.send("GET /bytes?n=100000000 HTTP/1.1\r\nHost: a\r\n\r\n");
        wire.exactly(1000).expect("its beginning");
        wire
    });
    assert_eq!(Wire::open(app.address()).get("/x").status, 200);
    drop(slow);
    let over = until(|| Wire::open(app.address()).get("/state").json()["open"] == 0);
    assert!(over, "{}", Wire::open(app.address()).get("/state").json());
    health.is_kept(&app);
}

#[test]
fn broken_websockets_end_alone() {
    let engine = "/socket.io/?EIO=4&transport=websocket";
    for (spec, target) in [
        (Spec::new("sio.js").env("STICKY", "sticky2"), engine),
        (Spec::new("sio.js").env("PLAIN", "1"), engine),
        (Spec::new("web.js"), "/x"),
    ] {
        let app = spec.more(LIMITS).start();
        let health = Health::of(&app);
        let long = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 8]].concat();
        let frames: [&[u8]; 9] = [
            b"\x81\x05hello",            // not masked
            b"\xf1\x85\0\0\0\0hello",    // reserved bits
            b"\x83\x85\0\0\0\0hello",    // reserved opcode
            b"\x89\xfe\x00\x7f\0\0\0\0", // a long ping
            b"\x81\x82\0\0\0\0\xff\xfe", // no UTF-8
            b"\x80\x85\0\0\0\0hello",    // continues nothing
            b"\x88\x81\0\0\0\0x",        // half a closing code
            b"GET /hidden HTTP/1.1\r\n\r\n",
            &long,
        ];
        for frame in frames {
            for second in [false, true] {
                let mut wire = Wire::open(app.address());
                if second {
                    assert_eq!(wire.get("/whoami").status, 200);
                }
                wire.send(format!(
                    "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                ));
                assert_eq!(wire.answer().status, 101);
                wire.send(frame);
                let (_, ended) = wire.rest(Duration::from_secs(5));
                assert!(ended, "{frame:?}");
            }
        }
        health.is_kept(&app);
    }
}

/// Numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const CORPUS: [&str; 12] = [
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a?b=c&d=%20e HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HEAD /a HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nX: y\r\n\r\n",
    "DELETE /a HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=d\r\nContent-Length: 0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 44\r\n\r\nGET /inner HTTP/1.1\r\nHost: a\r\nX: 123456789\r\n\r\n",
    "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /socket.io/?EIO=4&sid=abcd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "PATCH /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
];

const WORDS: [&str; 30] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "0",
    "5",
    "-1",
    "\r\n\r\n",
    "0\r\n\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Host: b\r\n",
    "Connection: close\r\n",
    "Connection: content-length\r\n",
    "Connection: keep-alive\r\n",
    "chunked",
    "HTTP/1.1",
    "HTTP/1.0",
    "GET ",
    "\u{e4}",
    "\u{b}",
    " folded\r\n",
    "FFFFFFFFFFFFFFFFF",
];

/// A few good requests in a row, then a few changes.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(2) {
        bytes.extend(random.of(&CORPUS).as_bytes());
    }
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let to = (at + 1 + random.below(12)).min(bytes.len());
        match random.below(7) {
            0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.splice(at..at, random.of(&WORDS).bytes())),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let piece = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            4 => {
                // A line more.
                let line = bytes.windows(2).skip(at).position(|two| two == b"\r\n");
                let at = line.map_or(at, |n| at + n + 2);
                drop(bytes.splice(at..at, random.of(&WORDS[14..22]).bytes()));
            }
            5 => bytes[at] = bytes[at].wrapping_add(1),
            _ => bytes[at] ^= 0x20,
        }
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes.extend(LAST.as_bytes());
    bytes
}

/// `SEED=…` repeats a run, `ROUNDS=…` makes it longer.
#[test]
fn no_change_to_good_requests_makes_two_readings_of_them() {
    const LANES: usize = 4;
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let rounds = number("ROUNDS").unwrap_or(2400);
    println!("SEED={seed}");
    std::thread::scope(|scope| {
        for lane in 0..LANES as u64 {
            scope.spawn(move || {
                let (app, bare) = (web(), Bare::start("web.js"));
                let health = Health::of(&app);
                for round in (lane..rounds).step_by(LANES) {
                    let bytes = mutated(&mut Random(seed.wrapping_add(round)));
                    let mut why = None;
                    for quiet in [QUIET / 2, Duration::from_millis(1500)] {
                        let through = try_out(app.address(), &bytes, quiet);
                        let alone = try_out(&bare.address, &bytes, quiet);
                        why = differs(&through, &alone);
                        if why.is_none() || is_put_right(&bytes, &alone) {
                            why = None;
                            break;
                        }
                        why = why.map(|why| format!("{why}\n  {through:?}\n  {alone:?}"));
                    }
                    let shown = String::from_utf8_lossy(&bytes).into_owned();
                    assert!(
                        why.is_none(),
                        "SEED={seed}, round {round}: {}\n{shown:?}",
                        why.unwrap_or_default()
                    );
                }
                health.is_kept(&app);
            });
        }
    });
}

/// What bare Node refuses and HTTP lets a proxy put right: line ends without CR, tabs around a
/// value, spaces and words after a chunk's size, a length said twice or beside a coding.
fn is_put_right(bytes: &[u8], bare: &Outcome) -> bool {
    let text: String = bytes.iter().map(|&b| char::from(b.to_ascii_lowercase())).collect();
    let bare_lf = text.split('\n').any(|line| !line.ends_with('\r'));
    let lengths = text.matches("content-length:").count();
    let codings = text.matches("transfer-encoding:").count();
    let framings = lengths > 1 || (lengths > 0 && codings > 0);
    bare.statuses.contains(&400) && (bare_lf || text.contains('\t') || framings)
}
