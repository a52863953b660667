//! A request's head, as far as routing looks at it. Pure: bytes in, a verdict out.

use std::borrow::Cow;
use std::mem::MaybeUninit;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// Not enough yet to tell.
    Partial,
    /// A TLS handshake, or HTTP/2 without TLS: the whole connection is for the worker to read.
    Whole,
    /// A WebSocket upgrade without a body.
    Upgrade(Session),
    /// Any other well-formed request.
    Request(Session),
    /// Nothing that is passed on.
    Refused(Refusal),
}

/// Why a head is refused, with its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 400: not HTTP/1, or a head that two parsers could read differently.
    Malformed,
    /// 408: the head did not arrive in time.
    Late,
    /// 431: the head is larger than `[limits] head_size`.
    TooLarge,
}

impl Refusal {
    /// The status line's number and text.
    pub fn status(self) -> &'static str {
        match self {
            Refusal::Malformed => "400 Bad Request",
            Refusal::Late => "408 Request Timeout",
            Refusal::TooLarge => "431 Request Header Fields Too Large",
        }
    }
}

/// A request's Engine.IO session, from its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Not an Engine.IO request.
    None,
    /// Engine.IO without a `sid`: a session may begin.
    Handshake,
    /// Engine.IO with this `sid`.
    Of(String),
}

/// As many headers as Node's default limit of 16 KiB can usefully hold.
pub(super) const MAX_HEADERS: usize = 200;

/// The first byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How HTTP/2 begins when both ends know of it before (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at the first bytes of a connection; `limit` is the largest head that is accepted.
pub fn look(bytes: &[u8], limit: usize) -> Opening {
    if begins_tls(bytes) || bytes.starts_with(HTTP2_PREFACE) {
        return Opening::Whole;
    }
    if !bytes.is_empty() && HTTP2_PREFACE.starts_with(bytes) {
        return Opening::Partial;
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= limit => {
            return Opening::Refused(Refusal::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Opening::Partial,
        Err(httparse::Error::TooManyHeaders) => return Opening::Refused(Refusal::TooLarge),
        Err(_) => return Opening::Refused(Refusal::Malformed),
    };
    if length > limit {
        return Opening::Refused(Refusal::TooLarge);
    }
    let has = |name: &str| request.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let length_too = has("content-length");
    let chunked = has("transfer-encoding");
    if length_too && chunked {
        return Opening::Refused(Refusal::Malformed);
    }
    let is_upgrade = request.method == Some("GET")
        && request.version == Some(1)
        && !length_too
        && !chunked
        && lists(request.headers, "connection", "upgrade")
        && lists(request.headers, "upgrade", "websocket");
    let session = session(request.path.unwrap_or_default());
    if is_upgrade { Opening::Upgrade(session) } else { Opening::Request(session) }
}

/// Whether a connection that begins so speaks TLS.
pub fn begins_tls(bytes: &[u8]) -> bool {
    bytes.first() == Some(&TLS_HANDSHAKE)
}

/// The values of a header in a connection's first bytes, if they are a head.
pub fn values<'b>(bytes: &'b [u8], name: &str) -> Vec<&'b [u8]> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return Vec::new();
    }
    let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value).collect()
}

/// Whether a header that is a list of words contains this one.
fn lists(headers: &[httparse::Header<'_>], name: &str, word: &str) -> bool {
    headers
        .iter()
        .filter(|h| h.name.eq_ignore_ascii_case(name))
        .filter_map(|h| std::str::from_utf8(h.value).ok())
        .any(|value| value.split(',').any(|w| w.trim().eq_ignore_ascii_case(word)))
}

/// The session in a request target: the parameter `sid`, and no other, of an Engine.IO request,
/// which always names its `transport`. Read as Engine.IO reads it (`URLSearchParams`): names and
/// values are decoded, and of several the last one counts.
pub fn session(target: &str) -> Session {
    let Some((_, query)) = target.split_once('?') else { return Session::None };
    let query = query.split('#').next().unwrap_or_default();
    let mut engine = false;
    let mut sid = None;
    for (name, value) in query.split('&').map(|p| p.split_once('=').unwrap_or((p, ""))) {
        match &*decoded(name) {
            "transport" => engine = true,
            "sid" => sid = Some(value),
            _ => {}
        }
    }
    match (engine, sid) {
        (false, _) => Session::None,
        (true, None | Some("")) => Session::Handshake,
        (true, Some(sid)) => Session::Of(decoded(sid).into_owned()),
    }
}

/// An app that makes a URL of it gets to this host, whoever reads it.
pub(super) fn is_one_host(host: &[u8]) -> bool {
    !host.iter().any(|byte| byte.is_ascii_whitespace() || br"/\?#@".contains(byte))
}

/// The Engine.IO protocol of a request target: 4, or 3 without a word, as Engine.IO has it.
pub fn engine_version(target: &str) -> u8 {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    if query.split('&').any(|parameter| parameter == "EIO=4") { 4 } else { 3 }
}

/// The text of a part of a query: `%XX` is a byte, `+` a space.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let byte =
            hex.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        rest = match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                &tail[2..]
            }
            (b'+', _) => {
                bytes.push(b' ');
                tail
            }
            _ => {
                bytes.push(first);
                tail
            }
        };
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// What an Engine.IO handshake says.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The new session.
    pub sid: &'a str,
    /// How long it may be silent, in milliseconds, if the answer says so.
    pub silence: Option<u64>,
}

/// Reads the beginning of a handshake's response body: `0{"sid":"…",…}`, with a length before it
/// in Engine.IO 3, within a string of JavaScript under JSONP.
pub fn handshake(body: &[u8]) -> Option<Handshake<'_>> {
    let text = &body[..body.len().min(1024)];
    let at = memchr::memmem::find(text, b"{\"sid\":\"")
        .map(|at| at + 8)
        .or_else(|| memchr::memmem::find(text, b"{\\\"sid\\\":\\\"").map(|at| at + 11))?;
    let rest = &text[at..];
    let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
    let sid = std::str::from_utf8(&rest[..end]).ok().filter(|sid| !sid.is_empty())?;
    let number = |name: &[u8]| -> Option<u64> {
        let at = memchr::memmem::find(rest, name)? + name.len();
        let digits = rest[at..].iter().skip_while(|b| matches!(b, b'\\' | b'"' | b':'));
        let digits: Vec<u8> = digits.take_while(|b| b.is_ascii_digit()).copied().collect();
        std::str::from_utf8(&digits).ok()?.parse().ok()
    };
    let silence = number(b"pingInterval").zip(number(b"pingTimeout"));
    Some(Handshake { sid, silence: silence.map(|(a, b)| a.saturating_add(b)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(sid: &str) -> Session {
        Session::Of(sid.into())
    }

    #[test]
    fn sessions_in_targets() {
        let table = [
            ("/", Session::None),
            ("/socket.io/?EIO=4&transport=polling", Session::Handshake),
            ("/socket.io/?EIO=4&transport=polling&sid=abc", of("abc")),
            ("/socket.io/?sid=abc&EIO=4&transport=websocket", of("abc")),
            ("/socket.io/?EIO=4&transport=polling&xsid=no&sid=yes&sidx=no", of("yes")),
            ("/socket.io/?foo=sid%3Dno&EIO=4&transport=polling&sid=yes", of("yes")),
            ("/socket.io/?foo=?sid=no&EIO=4&transport=polling&sid=yes", of("yes")),
            ("/socket.io/?EIO=4&transport=polling&sid=a%2Fb", of("a/b")),
            ("/socket.io/?EIO=4&transport=polling&%73id=a", of("a")),
            ("/socket.io/?EIO=4&transport=polling&sid=a+b%zz%+1%4", of("a b%zz% 1%4")),
            ("/socket.io/?EIO=4&transport=polling&sid=", Session::Handshake),
            ("/socket.io/?EIO=4&transport=polling&sid=a&sid=b", of("b")),
            ("/api?sid=abc", Session::None),
            ("/sid=abc", Session::None),
        ];
        for (target, want) in table {
            assert_eq!(session(target), want, "{target}");
        }
    }

    #[test]
    fn openings() {
        let upgrade = "GET /socket.io/?EIO=4&transport=websocket&sid=x HTTP/1.1\r\nHost: a\r\n\
                       Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
        let table = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Opening::Request(Session::None)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Opening::Partial),
            ("", Opening::Partial),
            ("\r\n\r\nGET / HTTP/1.0\r\n\r\n", Opening::Request(Session::None)),
            (upgrade, Opening::Upgrade(of("x"))),
            (
                "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
                Opening::Request(Session::None),
            ),
            (
                "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n",
                Opening::Request(Session::None),
            ),
            ("\x16\x03\x01\x02\x00\x01", Opening::Whole),
            ("hello\r\n\r\n", Opening::Refused(Refusal::Malformed)),
            ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", Opening::Refused(Refusal::Malformed)),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", Opening::Refused(Refusal::Malformed)),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", Opening::Refused(Refusal::Malformed)),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Opening::Whole),
            ("PRI * HTTP/2.0\r\n\r\n", Opening::Partial),
            ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Opening::Refused(Refusal::Malformed)),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                Opening::Refused(Refusal::Malformed),
            ),
        ];
        for (text, want) in table {
            assert_eq!(look(text.as_bytes(), 8192), want, "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
        assert_eq!(look(long.as_bytes(), 8192), Opening::Refused(Refusal::TooLarge));
        assert_eq!(look(&long.as_bytes()[..8192], 8192), Opening::Refused(Refusal::TooLarge));
    }

    #[test]
    fn handshakes_of_every_protocol_version() {
        let v4 = br#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
        let want = Handshake { sid: "lv_VI97HAXpY6yYWAAAC", silence: Some(45000) };
        assert_eq!(handshake(v4), Some(want));
        let v3 = br#"96:0{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":5000}2:40"#;
        assert_eq!(handshake(v3), Some(Handshake { sid: "abc", silence: Some(30000) }));
        let jsonp = br#"___eio[0]("0{\"sid\":\"abc\",\"upgrades\":[],\"pingInterval\":1,\"pingTimeout\":2}");"#;
        assert_eq!(handshake(jsonp), Some(Handshake { sid: "abc", silence: Some(3) }));
        assert_eq!(handshake(br#"{"code":0,"message":"Transport unknown"}"#), None);
        assert_eq!(handshake(br#"0{"sid":"cut"#), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".*") {
            look(&bytes, 200);
            handshake(&bytes);
            session(&text);
            session(&format!("/?transport=x&sid={text}"));
        }

        #[test]
        fn every_beginning_of_a_good_head_is_partial(n in 0usize..100) {
            let head = b"POST /socket.io/?EIO=4&transport=polling&sid=abc HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\n";
            let cut = n.min(head.len() - 1);
            prop_assert_eq!(look(&head[..cut], 8192), Opening::Partial);
        }
    }
}
