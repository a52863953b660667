//! The answer to a plain request: its head, for the client, and where its body ends. Pure.

use std::mem::MaybeUninit;

use super::super::head::MAX_HEADERS;
use super::field::{self, Field};

/// A chunk's size with its extensions, or a trailer, is not longer.
const MAX_LINE: usize = 8192;

/// What a worker's bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The beginning of a head.
    Partial,
    /// No answer that could be passed on.
    Malformed,
    /// So many bytes are an answer before the answer.
    Interim(usize),
    /// The head of an answer.
    Answer(Answer),
}

/// An answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// So many bytes are the head.
    pub(super) length: usize,
    /// Three digits.
    pub(super) status: u16,
    /// What follows.
    pub(super) body: Body,
    /// What the worker says of the connection.
    pub(super) keep: Keep,
}

/// For how long a worker keeps a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// It closes it at once.
    No,
    /// It does not say.
    Unsaid,
    /// For so many seconds.
    Seconds(u64),
}

/// What is yet to come of a body, as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything until the connection ends.
    UntilEnd,
}

/// How far a chunked body has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// What has come of a line.
    line: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    /// In a line with a size.
    #[default]
    Size,
    /// In a chunk, so far from its end, which two more bytes follow.
    Data(u64),
    /// In the line behind a chunk.
    Behind,
    /// Behind the last chunk.
    Trailers,
    /// At the end.
    End,
}

/// A body's framing makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a head, and writes to `out` what a client is to be sent of it, all but the empty line: the
/// same status and fields, without those that are meant for us. `to_head`: it answers a HEAD.
pub(super) fn read(bytes: &[u8], to_head: bool, out: &mut Vec<u8>) -> Reading {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Reading::Partial,
        Err(_) => return Reading::Malformed,
    };
    let (Some(status @ 100..), Some(version)) = (response.code, response.version) else {
        return Reading::Malformed;
    };
    match status {
        101 => return Reading::Malformed, // nobody has asked for that
        100..200 => return Reading::Interim(length),
        _ => {}
    }
    let headers = &*response.headers;
    let Some((body, keep, names)) = frame(headers, status, version, to_head) else {
        return Reading::Malformed;
    };
    out.clear();
    out.reserve(bytes.len() + ROOM);
    let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
    let reason = response.reason.unwrap_or_default();
    for part in [b"HTTP/1.1 ", &digits[..], b" ", reason.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
    for httparse::Header { name, value } in headers {
        match field::kind(name) {
            Field::Connection | Field::KeepAlive | Field::Hop | Field::Upgrade => continue,
            // Where the message ends is for all to know, whatever `Connection` says.
            Field::Framing => {}
            _ if names && is_named(headers, name) => continue,
            _ => {}
        }
        field::write(out, name, value);
    }
    Reading::Answer(Answer { length, status, body, keep })
}

/// Whether `Connection` says that this field is for its other end only.
fn is_named(headers: &[httparse::Header<'_>], name: &str) -> bool {
    let mut of_connection = headers.iter().filter(|h| field::kind(h.name) == Field::Connection);
    of_connection.any(|h| field::lists(h.value, name))
}

/// What is added behind the fields, about.
const ROOM: usize = 32;

/// Where the body ends (RFC 9112, section 6.3), what becomes of the connection then, and whether that
/// is said together with names of fields.
fn frame(
    headers: &[httparse::Header<'_>],
    status: u16,
    version: u8,
    to_head: bool,
) -> Option<(Body, Keep, bool)> {
    let (mut length, mut chunked, mut closes, mut said) = (None, false, version == 0, None);
    let mut names = false;
    for httparse::Header { name, value } in headers {
        match field::kind(name) {
            Field::Framing if name.eq_ignore_ascii_case("content-length") => {
                let digits = std::str::from_utf8(value).ok()?;
                if length.is_some() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                length = Some(digits.parse().ok()?);
            }
            Field::Framing => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return None;
                }
                chunked = true;
            }
            Field::Connection => {
                closes |= field::lists(value, "close");
                names |= !field::lists_only(value, ["close", "keep-alive"]);
            }
            Field::KeepAlive => {
                let word = field::words(value).find_map(|word| word.strip_prefix(b"timeout="));
                said = word.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            }
            _ => {}
        }
    }
    let keep = if closes { Keep::No } else { said.map_or(Keep::Unsaid, Keep::Seconds) };
    let has_body = !to_head && !matches!(status, 204 | 304);
    let body = match (length, chunked) {
        (Some(_), true) => return None,
        // An older one does not know them.
        (None, true) if version == 0 => return None,
        _ if !has_body => Body::Length(0),
        (None, true) => Body::Chunked(Chunks::default()),
        (Some(length), false) => Body::Length(length),
        (None, false) => Body::UntilEnd,
    };
    let keep = if body == Body::UntilEnd { Keep::No } else { keep };
    Some((body, keep, names))
}

impl Body {
    /// How many of these bytes, which come next, are the body's.
    ///
    /// # Errors
    /// They are nobody's.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Body::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                Ok(taken as usize)
            }
            Body::Chunked(chunks) => chunks.take(bytes),
            Body::UntilEnd => Ok(bytes.len()),
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.at == At::End,
            Body::UntilEnd => false,
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() && self.at != At::End {
            if let At::Data(left) = &mut self.at {
                let part = (*left).min(rest.len() as u64);
                *left -= part;
                rest = &rest[part as usize..];
                if *left == 0 {
                    self.at = At::Behind;
                }
                continue;
            }
            let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
            let (part, others) = rest.split_at(end.unwrap_or(rest.len()));
            self.line.extend_from_slice(part);
            rest = others;
            if self.line.len() > MAX_LINE {
                return Err(Malformed);
            }
            if end.is_some() {
                self.at = self.behind_line()?;
                self.line.clear();
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Where it goes on behind a line that has come whole.
    fn behind_line(&self) -> Result<At, Malformed> {
        let is_empty = self.line == b"\r\n";
        match self.at {
            At::Behind if is_empty => Ok(At::Size),
            At::Trailers if is_empty => Ok(At::End),
            At::Trailers if self.line.ends_with(b"\r\n") => Ok(At::Trailers),
            // httparse takes none for 0.
            At::Size if !self.line[0].is_ascii_hexdigit() => Err(Malformed),
            At::Size => match httparse::parse_chunk_size(&self.line) {
                Ok(httparse::Status::Complete((_, 0))) => Ok(At::Trailers),
                Ok(httparse::Status::Complete((_, size))) => Ok(At::Data(size)),
                _ => Err(Malformed),
            },
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_whole(head: &str, to_head: bool) -> (Reading, String) {
        let mut out = Vec::new();
        let reading = read(head.as_bytes(), to_head, &mut out);
        (reading, String::from_utf8(out).expect("text"))
    }

    fn answer(fields: &str) -> Option<(Body, Keep)> {
        match read_whole(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), false).0 {
            Reading::Answer(answer) => Some((answer.body, answer.keep)),
            Reading::Malformed => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn where_a_body_ends_and_what_becomes_of_the_connection() {
        let chunked = || Body::Chunked(Chunks::default());
        let table = [
            ("Content-Length: 5\r\n", Some((Body::Length(5), Keep::Unsaid))),
            (
                "content-length: 0\r\nConnection: keep-alive\r\nKeep-Alive: max=3, timeout=5\r\n",
                Some((Body::Length(0), Keep::Seconds(5))),
            ),
            ("Transfer-Encoding: Chunked\r\n", Some((chunked(), Keep::Unsaid))),
            (
                "Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nConnection: x, close\r\n",
                Some((chunked(), Keep::No)),
            ),
            ("", Some((Body::UntilEnd, Keep::No))),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", None),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", None),
            ("Content-Length: +5\r\n", None),
            ("Content-Length: \r\n", None),
            ("Content-Length: 99999999999999999999\r\n", None),
            ("Transfer-Encoding: gzip, chunked\r\n", None),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
        ];
        for (fields, want) in table {
            assert_eq!(answer(fields), want, "{fields}");
        }
        for (head, to_head) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", false),
        ] {
            let Reading::Answer(answer) = read_whole(head, to_head).0 else { panic!("{head}") };
            assert_eq!((answer.body, answer.length), (Body::Length(0), head.len()));
        }
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n";
        let Reading::Answer(answer) = read_whole(old, false).0 else { panic!("{old}") };
        assert_eq!((answer.body, answer.keep), (Body::Length(5), Keep::No));
    }

    #[test]
    fn what_is_passed_on_is_what_came_without_what_is_ours() {
        let head = "HTTP/1.1 404 Not  Here\r\nX-A: 1\r\nConnection: keep-alive, X-B\r\nx-b: 2\r\n\
                    Keep-Alive: timeout=5\r\nSet-Cookie: a\r\nset-cookie: b\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n";
        let (reading, out) = read_whole(head, false);
        assert!(matches!(reading, Reading::Answer(Answer { status: 404, .. })));
        assert_eq!(
            out,
            "HTTP/1.1 404 Not  Here\r\nX-A: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n"
        );
    }

    #[test]
    fn what_is_no_answer() {
        for (head, want) in [
            ("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP", Reading::Interim(37)),
            ("HTTP/1.1 101 Switching\r\n\r\n", Reading::Malformed),
            ("HTTP/1.1 099 x\r\n\r\n", Reading::Malformed),
            ("HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n", Reading::Malformed),
            ("SSH-2.0\r\n", Reading::Malformed),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", Reading::Partial),
        ] {
            assert_eq!(read_whole(head, false).0, want, "{head}");
        }
    }

    const CHUNKS: &[u8] = b"5;x=\"y\"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nA: b\r\n\r\n";

    #[test]
    fn chunks_that_make_no_sense() {
        for chunks in
            ["x\r\n", "\r\n", "5\nhello\n", "1\r\nab\r\n", "1\r\na\n", "0\r\na\n\r\n", "-1\r\n"]
        {
            let mut body = Body::Chunked(Chunks::default());
            assert_eq!(body.take(chunks.as_bytes()), Err(Malformed), "{chunks:?}");
        }
        let mut body = Body::Chunked(Chunks::default());
        assert_eq!(body.take(&[b'1'; MAX_LINE + 1]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn a_body_ends_where_it_does_however_it_comes(
            cuts in prop::collection::vec(0..CHUNKS.len(), 0..8),
            is_chunked: bool,
        ) {
            let mut body = if is_chunked {
                Body::Chunked(Chunks::default())
            } else {
                Body::Length(CHUNKS.len() as u64)
            };
            let mut cuts = cuts;
            cuts.extend([0, CHUNKS.len()]);
            cuts.sort_unstable();
            let stream = [CHUNKS, b"HTTP/1.1"].concat();
            for pair in cuts.windows(2) {
                prop_assert!(!body.is_over());
                prop_assert_eq!(body.take(&stream[pair[0]..pair[1]]), Ok(pair[1] - pair[0]));
            }
            prop_assert!(body.is_over());
            prop_assert_eq!(body.take(b"HTTP/1.1"), Ok(0));
        }

        #[test]
        fn whatever_comes_nothing_breaks(bytes: Vec<u8>) {
            let mut out = Vec::new();
            read(&bytes, false, &mut out);
            let _ = Body::Chunked(Chunks::default()).take(&bytes);
        }
    }
}
