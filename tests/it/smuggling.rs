//! Where does each request end? A request that two servers in a row cut differently carries a second
//! one past the first of them. Each case goes to cohortd, to bare Node, and to nginx before Node:
//! cohortd passes on what both others make of it, or refuses. `--no-capture` shows what comes of each.

use std::time::Duration;

use crate::app::Spec;
use crate::balancer::Balancer;
use crate::hostile::{HIDDEN, LAST, LIMITS, Outcome, differs, try_out};
use crate::raw::Bare;

/// What cohortd makes of a case. The reasons are for those who ask what gets past whom.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Want {
    /// It refuses it, or does what Node and nginx do.
    Agrees,
    /// It does what Node does; nginx refuses.
    AsNode(&'static str),
    /// It does what nginx does, or refuses; Node refuses.
    AsNginx(&'static str),
    /// It puts right what both refuse.
    PutsRight(&'static str),
}
use Want::{Agrees, AsNginx, AsNode, PutsRight};

/// RFC 9112, section 2.2, lets a server take a lone LF for a line's end, and nginx does. The worker
/// is sent CRLF, so it can't read other lines than we have. Someone before us who took the LF for a
/// part of a value would have had to refuse it (RFC 9110, section 5.5).
const LONE_LF: Want = AsNginx("a lone LF ends a line");

/// RFC 9112, section 7.1.1: what stands behind a chunk's size says nothing of where the chunk ends,
/// and is not passed on. Who refuses it does not read another end.
const BEHIND_SIZE: Want = AsNginx("what is behind a chunk's size is ignored");

/// RFC 9110, section 5.6.3: a tab is white space, and is not passed on. Who refuses it does not read
/// another value.
const TAB: Want = AsNode("a tab before a value is white space");

/// RFC 9110, section 6.5.1: trailers frame nothing, and hyper leaves such fields out. After trailers
/// of any kind nothing more is read from the connection.
const TRAILER: Want = AsNginx("nothing is read after trailers");

fn cases() -> Vec<(String, Vec<u8>, Want)> {
    let mut cases = Vec::new();
    let mut add = |name: &str, bytes: String, want| {
        cases.push((name.to_owned(), bytes.into_bytes(), want));
    };
    let post =
        |fields: &str, body: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let get =
        |fields: &str, body: &str| format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let length = HIDDEN.len();
    let chunk = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let after_chunks = format!("0\r\n\r\n{HIDDEN}");
    let all = after_chunks.len();
    let chunked = "Transfer-Encoding: chunked";

    // Two framings.
    let cl_te = format!("Content-Length: {all}\r\n{chunked}");
    add("CL.TE", post(&cl_te, &after_chunks), Agrees);
    let te_cl = format!("{chunked}\r\nContent-Length: 4");
    add("TE.CL", post(&te_cl, &chunk), Agrees);
    add("CL.0", post(&format!("Content-Length: 0\r\n{chunked}"), &chunk), Agrees);
    add("TE.0, in a GET", get(chunked, &chunk), Agrees);
    // A coding that one of two servers overlooks: beside a length, and alone.
    for coding in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding\r\n : chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        " Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: chunk",
        "transfer-encoding: cHUNKED",
        "Content-Encoding: chunked",
    ] {
        let want = match coding {
            "Transfer-Encoding:\tchunked" => TAB,
            "X: y\nTransfer-Encoding: chunked" => LONE_LF,
            _ => Agrees,
        };
        add(&format!("TE.TE {coding:?}"), post(coding, &chunk), want);
        let both = format!("Content-Length: {all}\r\n{coding}");
        add(&format!("CL and {coding:?}"), post(&both, &after_chunks), Agrees);
    }
    // Lengths.
    for value in [
        format!("+{length}"),
        format!("00{length}"),
        format!("{length}, {length}"),
        format!("0, {length}"),
        format!("0x{length:x}"),
        format!("{length}a"),
        format!("{length} "),
        format!("\t{length}"),
        format!("\u{b}{length}"),
        format!("{length}\r\n 0"),
        format!("-{length}"),
        format!("{}", u128::from(u64::MAX) + 1 + length as u128),
        String::new(),
        "0".into(),
    ] {
        let want = if value.starts_with('\t') { TAB } else { Agrees };
        add(&format!("CL {value:?}"), post(&format!("Content-Length: {value}"), HIDDEN), want);
    }
    let twice = |other| format!("Content-Length: {length}\r\nContent-Length: {other}");
    add("CL twice", post(&twice(0), HIDDEN), Agrees);
    let once = PutsRight("RFC 9110, section 8.6: it is one length, and the worker gets it once");
    add("CL twice, the same", post(&twice(length), HIDDEN), once);
    add("CL, spelled otherwise", post(&format!("Content_Length: {length}"), HIDDEN), Agrees);
    let space = format!("Content-Length : {length}");
    add("CL, a space before the colon", post(&space, HIDDEN), Agrees);
    add("CL in a GET", get(&format!("Content-Length: {length}"), HIDDEN), Agrees);
    let head = get(&format!("Content-Length: {length}"), HIDDEN).replacen("GET", "HEAD", 1);
    add("CL in a HEAD", head, Agrees);
    let expect = format!("Expect: 100-continue\r\nContent-Length: {length}");
    add("CL after Expect", post(&expect, HIDDEN), Agrees);
    add("Expect in a GET", get("Expect: 100-continue", HIDDEN.trim_end()), Agrees);
    // Chunks.
    let one = |size: &str| format!("{size}\r\nhello\r\n0\r\n\r\n{HIDDEN}");
    for size in [
        "5",
        "05",
        "0x5",
        "+5",
        "5 ",
        " 5",
        "5;a=b",
        "5;a=\"\r\n\"",
        "5;a\nb",
        "5;\rb",
        "5;\0",
        "5 ;a",
        "5\u{b}",
        "10000000000000005",
        "FFFFFFFFFFFFFFFB",
        "-5",
        "5\r",
        "5_0",
        "",
    ] {
        let want = if ["5 ", "5 ;a", "5;\0"].contains(&size) { BEHIND_SIZE } else { Agrees };
        add(&format!("chunk size {size:?}"), post(chunked, &one(size)), want);
    }
    for (body, want) in [
        ("5\nhello\r\n0\r\n\r\n", Agrees),
        ("5\r\nhello\n0\r\n\r\n", Agrees),
        ("5\r\nhello0\r\n\r\n", Agrees),
        ("5\r\nhelloXX0\r\n\r\n", Agrees),
        ("5\r\nhello\r\n0\n\n", Agrees),
        ("5\r\nhello\r\n0\r\n\n", TRAILER),
        ("5\r\nhello\r\n0\r\nX: y\r\n\r\n", Agrees),
        ("5\r\nhello\r\n0\r\nX: y\n\r\n", TRAILER),
        ("5\r\nhello\r\n0\r\nX: y\n\n", TRAILER),
        ("5\r\nhello\r\n0\r\nX: y\r\n\n", TRAILER),
        ("5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", TRAILER),
        ("5\r\nhello\r\n0\r\n X: y\r\n\r\n", Agrees),
        ("5\r\nhello\r\n000\r\n\r\n", Agrees),
        ("5\r\nhello\r\n\r\n0\r\n\r\n", Agrees),
        ("5;a=\r\nhello\r\n0;b\r\n\r\n", Agrees),
    ] {
        let text = post(chunked, &format!("{body}{HIDDEN}"));
        // Answered before it is read.
        add(&format!("early {body:?}"), text.replacen("/x", "/early", 1), Agrees);
        add(&format!("chunks {body:?}"), text, want);
    }
    // Lines and fields.
    for fields in [
        format!("X: y\r\n z: w\r\nContent-Length: {length}"),
        format!("X: y\nContent-Length: {length}"),
        format!("X: y\rContent-Length: {length}"),
        format!("X: y\0\r\nContent-Length: {length}"),
        format!("X\0: y\r\nContent-Length: {length}"),
        format!("\0Content-Length: {length}"),
        format!(": y\r\nContent-Length: {length}"),
        format!("X\r\nContent-Length: {length}"),
        format!("X y: z\r\nContent-Length: {length}"),
        format!("X_y: z\r\nContent-Length: {length}"),
        format!("X: \u{e4}\r\nContent-Length: {length}"),
        format!("Content-Length: {length}\r\nConnection: content-length"),
        format!("{chunked}\r\nConnection: transfer-encoding"),
    ] {
        let body = if fields.starts_with("Transfer") { &chunk } else { HIDDEN };
        let want = if fields.contains("y\nC") { LONE_LF } else { Agrees };
        add(&format!("fields {fields:?}"), post(&fields, body), want);
    }
    add("a head that ends in LF", format!("GET /x HTTP/1.1\r\nHost: a\r\n\n{HIDDEN}"), LONE_LF);
    add("a first line that ends in LF", "GET /x HTTP/1.1\nHost: a\r\n\r\n".into(), LONE_LF);
    add("an empty line first", format!("\r\n{}", get("X: y", "")), Agrees);
    add("an empty line between", format!("{}\r\n{}", get("X: y", ""), get("X: y", "")), Agrees);
    add("a line folded at once", "GET /x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n".into(), Agrees);
    // Targets, hosts and versions.
    for hosts in [
        "Host: a\r\nHost: b",
        "Host: a\r\nHost: a",
        "X: y",
        "Host : a",
        "Host: a, b",
        "Host: a/x",
        "Host: a@b",
    ] {
        add(&format!("{hosts:?}"), format!("GET /x HTTP/1.1\r\n{hosts}\r\n\r\n"), Agrees);
    }
    // RFC 9112, section 3.2: an empty one is right where the client knows no name.
    let nameless = AsNode("no name is no other name");
    add("an empty Host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n".into(), nameless);
    for line in [
        "GET http://a/x HTTP/1.1",
        "GET http://b/x HTTP/1.1",
        "GET http://a@b/x HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "GET /x",
        "GET /x HTTP/1.0",
        "GET /x HTTP/1.1 HTTP/1.1",
        "GET /x HTTP/1.2",
        "GET /x HTTP/2.0",
        "GET /x\tHTTP/1.1",
        "GET  /x HTTP/1.1",
        "GET /x#/hidden HTTP/1.1",
        "GET /x\\y HTTP/1.1",
        "get /x HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        add(&format!("{line:?}"), format!("{line}\r\nHost: a\r\n\r\n{HIDDEN}"), Agrees);
    }
    for (name, fields, body) in [
        ("HTTP/1.0 and chunked", chunked, chunk.as_str()),
        ("HTTP/1.0, chunked, kept", "Connection: keep-alive\r\nTransfer-Encoding: chunked", &chunk),
        ("HTTP/1.0, no length", "Connection: keep-alive", HIDDEN),
        ("HTTP/1.0, both", &cl_te, &after_chunks),
    ] {
        let text = post(fields, body).replacen("HTTP/1.1", "HTTP/1.0", 1);
        add(name, text, Agrees);
    }
    // What comes after the end.
    add("after Connection: close", get("Connection: close", HIDDEN), Agrees);
    add(
        "after Connection: close, keep-alive",
        get("Connection: close, keep-alive", HIDDEN),
        Agrees,
    );
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (name, fields, body) in [
        (
            "an upgrade with a body",
            format!("{upgrade}\r\n{key}\r\nContent-Length: {length}"),
            HIDDEN,
        ),
        ("an upgrade with chunks", format!("{upgrade}\r\n{key}\r\n{chunked}"), &chunk),
        ("an upgrade and a request", format!("{upgrade}\r\n{key}"), HIDDEN),
        ("an upgrade of an old version", upgrade.replace("13", "777"), HIDDEN),
    ] {
        add(name, get(&fields, body), Agrees);
    }
    // RFC 9110, section 7.8: who does not know the protocol goes on with this one, and the field is
    // for the next hop only. The worker is not told of it; Node's test app refuses it.
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ";
    add("an upgrade to h2c", get(h2c, HIDDEN), AsNginx("the upgrade is ignored"));
    cases
}

#[test]
fn a_request_ends_where_node_and_nginx_see_its_end_or_is_refused() {
    let app = Spec::new("web.js").workers(1).more(LIMITS).start();
    let (bare, behind) = (Bare::start("web.js"), Bare::start("web.js"));
    let nginx = Balancer::nginx(&behind.address);
    let mut wrong = String::new();
    for (name, bytes, want) in cases() {
        let bytes = [&bytes, LAST.as_bytes()].concat();
        let mut why = None;
        // A busy machine may make the first look too short.
        for quiet in [Duration::from_millis(80), Duration::from_millis(1500)] {
            let outcomes = std::thread::scope(|scope| {
                [app.address(), &bare.address, &nginx.address]
                    .map(|address| scope.spawn(|| try_out(address, &bytes, quiet)))
                    .map(|outcome| outcome.join().expect("an outcome"))
            });
            let said = format!("{name}\n{}", shown(&outcomes));
            println!("{said}");
            why = judge(&outcomes, want).map(|why| format!("{why}: {said}"));
            if why.is_none() {
                break;
            }
        }
        wrong += &why.unwrap_or_default();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn shown(outcomes: &[Outcome; 3]) -> String {
    let lines = ["cohortd", "Node", "nginx"].into_iter().zip(outcomes).map(|(who, outcome)| {
        let seen = outcome.seen.iter().map(|seen| {
            let rest = if seen.ended { "" } else { "…" };
            format!("{} {} {}{rest}", seen.method, seen.url, seen.length)
        });
        let end = if outcome.closed { "closed" } else { "open" };
        format!("  {who:7} {:?} {:?} {end}\n", outcome.statuses, seen.collect::<Vec<_>>())
    });
    lines.collect()
}

/// What is wrong with what cohortd made of a case.
fn judge([ours, node, nginx]: &[Outcome; 3], want: Want) -> Option<String> {
    let from_node = differs(ours, node);
    let from_nginx = differs(&whole(ours), &whole(nginx));
    let refused = ours.statuses.iter().any(|status| (400..500).contains(status));
    if refused && !ours.closed {
        return Some("refused, but not closed".into());
    }
    let (is_wrong, is_stale) = match want {
        Agrees => (from_node.as_ref().or(from_nginx.as_ref()), false),
        AsNode(_) => (from_node.as_ref(), from_nginx.is_none()),
        AsNginx(_) => (from_nginx.as_ref(), from_node.is_none()),
        PutsRight(_) => {
            let hidden = ours.seen.iter().any(|seen| seen.url == "/hidden");
            return hidden.then(|| "what is hidden was seen".into());
        }
    };
    let stale = is_stale.then(|| "it does not differ any more".to_owned());
    is_wrong.map(|why| format!("wrong, as {want:?}: {why}")).or(stale)
}

/// As nginx shows requests: whole, and with nothing but a path for their target.
fn whole(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    outcome.seen.retain(|seen| seen.ended);
    for seen in &mut outcome.seen {
        if let Some((_, rest)) = seen.url.split_once("://") {
            seen.url = rest.find('/').map_or("/", |at| &rest[at..]).to_owned();
        }
    }
    outcome
}
