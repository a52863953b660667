//! The head of a plain request: one without a body, which asks for nothing but an answer, and which
//! nobody could read in two ways. Pure: bytes in, the head for a worker out.

use std::mem::MaybeUninit;

use super::super::head::{self, MAX_HEADERS, Session};
use super::field::{self, Field};

/// What a client's bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// The beginning of a head.
    Partial,
    /// Anything else: it takes more than is known here to answer it.
    Other,
    /// A plain request.
    Plain(Plain),
}

/// A plain request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    /// So many bytes are its head, which is all of it.
    pub(super) length: usize,
    /// It is a HEAD: its answer has no body, whatever that says.
    pub(super) is_head: bool,
    /// It is its connection's last one.
    pub(super) closes: bool,
    /// Where the fields begin in the head for the worker.
    pub(super) fields: usize,
}

/// Reads a head, and writes to `out` what a worker is to be sent: the same fields in the same order
/// and letters, without those that are meant for us. `introduce` writes who the client is, by its
/// `Host`, in place of what it says about that itself; `None`: it is believed.
pub(super) fn read(
    bytes: &[u8],
    introduce: Option<impl Fn(&[u8], &mut Vec<u8>)>,
    out: &mut Vec<u8>,
) -> Reading {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Reading::Partial,
        Err(_) => return Reading::Other,
    };
    let (Some(method @ ("GET" | "HEAD")), Some(target), Some(1)) =
        (request.method, request.path, request.version)
    else {
        return Reading::Other;
    };
    if !is_plain(target) || head::session(target) != Session::None {
        return Reading::Other;
    }
    out.clear();
    out.reserve(length + ROOM);
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let fields = out.len();
    let (mut host, mut closes) = (None, false);
    for httparse::Header { name, value } in &*request.headers {
        match field::kind(name) {
            Field::Host if host.is_some() || !head::is_one_host(value) => return Reading::Other,
            Field::Host => host = Some(*value),
            Field::Connection if field::lists_only(value, ["close", "keep-alive"]) => {
                closes |= field::lists(value, "close");
                continue;
            }
            Field::Connection | Field::Framing | Field::Upgrade | Field::Expect => {
                return Reading::Other;
            }
            Field::KeepAlive | Field::Hop | Field::Own => continue,
            Field::Forwarded if introduce.is_some() => continue,
            Field::Forwarded | Field::Other => {}
        }
        field::write(out, name, value);
    }
    let Some(host) = host else { return Reading::Other };
    if let Some(introduce) = introduce {
        introduce(host, out);
    }
    out.extend_from_slice(b"\r\n");
    Reading::Plain(Plain { length, is_head: method == "HEAD", closes, fields })
}

/// What is said about the client, about.
const ROOM: usize = 160;

/// A path and a query of nothing but what RFC 3986 has in them: nobody reads them otherwise.
fn is_plain(target: &str) -> bool {
    let is_plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || memchr::memchr(byte, b"-._~!$&'()*+,;=:@/?%").is_some()
    };
    target.starts_with('/') && target.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Introduce = fn(&[u8], &mut Vec<u8>);

    fn introduce(host: &[u8], out: &mut Vec<u8>) {
        field::write(out, "x-forwarded-host", host);
    }

    fn read_whole(head: &str) -> (Reading, String) {
        let mut out = b"rest of the last one".to_vec();
        let reading = read(head.as_bytes(), None::<Introduce>, &mut out);
        (reading, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn what_is_passed_on_is_what_came_without_what_is_ours() {
        let head = "GET /a?b=c%20d HTTP/1.1\r\nX-Cohortd-Peer: x\r\nhOST:  a:80 \r\nConnection: keep-alive, Close\r\n\
                    X-Forwarded-For: 1.2.3.4\r\nA: 1\r\nkeep-alive: 5\r\na: \r\nProxy-Connection: x\r\n\r\nGET";
        let (reading, out) = read_whole(head);
        let fields = "GET /a?b=c%20d HTTP/1.1\r\n".len();
        let plain = Plain { length: head.len() - 3, is_head: false, closes: true, fields };
        assert_eq!(reading, Reading::Plain(plain));
        assert_eq!(
            out,
            "GET /a?b=c%20d HTTP/1.1\r\nhOST: a:80\r\nX-Forwarded-For: 1.2.3.4\r\nA: 1\r\na: \r\n\r\n"
        );
        let mut out = Vec::new();
        read(head.as_bytes(), Some(introduce), &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "GET /a?b=c%20d HTTP/1.1\r\nhOST: a:80\r\nA: 1\r\na: \r\nx-forwarded-host: a:80\r\n\r\n"
        );
    }

    #[test]
    fn anything_unusual_is_left_alone() {
        for field in [
            "Content-Length: 0",
            "Transfer-Encoding: chunked",
            "Connection: upgrade",
            "Connection: close, x",
            "Upgrade: h2c",
            "Expect: 100-continue",
            "Host: a",
            " folded",
            "bad name: x",
            "x: \u{1}",
        ] {
            let (reading, _) = read_whole(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
            assert_eq!(reading, Reading::Other, "{field}");
        }
        for line in [
            "POST / HTTP/1.1",
            "get / HTTP/1.1",
            "GET / HTTP/1.0",
            "GET http://a/ HTTP/1.1",
            "GET * HTTP/1.1",
            "GET /#x HTTP/1.1",
            "GET /ä HTTP/1.1",
            "GET /\\ HTTP/1.1",
            "GET /socket.io/?EIO=4&transport=polling HTTP/1.1",
            "GET / HTTP/2.0",
        ] {
            let (reading, _) = read_whole(&format!("{line}\r\nHost: a\r\n\r\n"));
            assert_eq!(reading, Reading::Other, "{line}");
        }
        for host in ["", "Host: a/b\r\n", "Host: a b\r\n", "Host: u@a\r\n"] {
            let (reading, _) = read_whole(&format!("GET / HTTP/1.1\r\n{host}\r\n"));
            assert_eq!(reading, Reading::Other, "{host}");
        }
    }

    #[test]
    fn half_a_head_is_waited_for() {
        let head = "HEAD /x HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(read_whole(&head[..end]).0, Reading::Partial, "{end}");
        }
        assert!(matches!(read_whole(head).0, Reading::Plain(Plain { is_head: true, .. })));
    }

    proptest! {
        /// What a worker is sent is one plain request to the byte, whatever a client makes of it.
        #[test]
        fn a_worker_is_sent_exactly_one(
            target in "/[ -~]{0,12}",
            fields in prop::collection::vec(("[A-Za-z-]{1,17}", "[ -~\u{80}-\u{ff}\r\n]{0,12}"), 0..6),
        ) {
            let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let mut out = Vec::new();
            if let Reading::Plain(plain) = read(head.as_bytes(), Some(introduce), &mut out) {
                prop_assert!(plain.length <= head.len());
                let mut again = Vec::new();
                let sent = read(&out, None::<Introduce>, &mut again);
                let Reading::Plain(sent) = sent else { panic!("{out:?}") };
                prop_assert_eq!(sent.length, out.len());
                prop_assert_eq!(again, out);
            }
        }
    }
}
