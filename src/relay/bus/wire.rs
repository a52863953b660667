//! What hosts say to each other, as bytes: a header of a fixed form, and a body.
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | `chd` and the version of this table, 1: whoever reads another one ignores the frame |
//! | 4 | the [`Kind`]; one that is not known is counted, and ignored |
//! | 5 | flags: 1 more of the body follows in the next frame, 2 for one host alone, 4 the body is a frame in `json`, 8 the body began in a frame before |
//! | 6–7 | how long the header is, big-endian like all: a later version may say more in it |
//! | 8–15 | which host sent it: the number that its process has drawn |
//! | 16–23 | how many frames it sent there before: what is missing, was lost. A beat does not count itself |
//! | 24–31 | the worker that it is from or about; 0: none |
//!
//! A body is what a worker wrote on its channel, a session's id, or JSON.

use bytes::{BufMut, Bytes, BytesMut};

use crate::worker::WorkerId;
use crate::worker::wire::Framing;

/// What every frame of this version begins with.
const MAGIC: [u8; 4] = *b"chd\x01";

/// The bytes before the body.
pub const HEADER: usize = 32;

const MORE: u8 = 1;
const DIRECT: u8 = 2;
const JSON: u8 = 4;
const REST: u8 = 8;

/// The process of a host, by a number that it has drawn: after a restart it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u64);

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host is there.
    Beat,
    /// Who the host is, and who its workers are.
    Hello,
    /// A worker's packet for other workers.
    Packet,
    /// A worker is gone.
    Left,
    /// The host is gone.
    Bye,
    /// Who is it that this is said to?
    Ask,
    /// Who has the session that the body names?
    Seek,
    /// The host has the session that the body names.
    Found,
    /// What a later cohortd says. It has a number like the rest.
    Later,
}

const KINDS: [Kind; 8] = [
    Kind::Beat,
    Kind::Hello,
    Kind::Packet,
    Kind::Left,
    Kind::Bye,
    Kind::Ask,
    Kind::Seek,
    Kind::Found,
];

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is about.
    pub kind: Kind,
    /// The body goes on in the next frame.
    pub more: bool,
    /// The body began in a frame before.
    pub rest: bool,
    /// It is for the host alone that it came to.
    pub direct: bool,
    /// How a worker's packet is laid out.
    pub framing: Framing,
    /// Who sent it.
    pub host: HostId,
    /// How many frames that host sent there before.
    pub seq: u64,
    /// The worker that it is from or about.
    pub worker: WorkerId,
}

/// Why a frame is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// No cohortd sent it.
    #[error("it is not cohortd's")]
    Unknown,
    /// A later cohortd sent it.
    #[error("it is of a later version")]
    Later,
}

impl Header {
    /// A frame with this header.
    pub fn before(&self, body: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEADER + body.len());
        frame.put_slice(&MAGIC);
        frame.put_u8(KINDS.iter().position(|kind| *kind == self.kind).map_or(0, |at| at as u8 + 1));
        let json = self.framing == Framing::Json;
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let parts = flag(self.more, MORE) | flag(self.rest, REST);
        frame.put_u8(parts | flag(self.direct, DIRECT) | flag(json, JSON));
        frame.put_u16(HEADER as u16);
        frame.put_u64(self.host.0);
        frame.put_u64(self.seq);
        frame.put_u64(self.worker.0);
        frame.put_slice(body);
        frame.freeze()
    }

    /// A frame's header, and its body.
    ///
    /// # Errors
    /// It is not for us.
    pub fn read(frame: &Bytes) -> Result<(Header, Bytes), Foreign> {
        let head = frame.first_chunk::<HEADER>().ok_or(Foreign::Unknown)?;
        if head[..3] != MAGIC[..3] {
            return Err(Foreign::Unknown);
        }
        let length = usize::from(u16::from_be_bytes([head[6], head[7]]));
        if head[3] != MAGIC[3] || length < HEADER || length > frame.len() {
            return Err(Foreign::Later);
        }
        let kind = usize::from(head[4]).checked_sub(1).and_then(|at| KINDS.get(at));
        let kind = kind.copied().unwrap_or(Kind::Later);
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| head[at + i]));
        let header = Header {
            kind,
            more: head[5] & MORE != 0,
            rest: head[5] & REST != 0,
            direct: head[5] & DIRECT != 0,
            framing: if head[5] & JSON == 0 { Framing::Advanced } else { Framing::Json },
            host: HostId(number(8)),
            seq: number(16),
            worker: WorkerId(number(24)),
        };
        Ok((header, frame.slice(length..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: Kind) -> Header {
        Header {
            kind,
            more: true,
            rest: false,
            direct: false,
            framing: Framing::Json,
            host: HostId(0x0102_0304_0506_0708),
            seq: 9,
            worker: WorkerId(10),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for kind in KINDS {
            for bits in 0..16 {
                let framing = if bits & 4 == 0 { Framing::Advanced } else { Framing::Json };
                let (more, direct, rest) = (bits & 1 != 0, bits & 2 != 0, bits & 8 != 0);
                let header = Header { more, rest, direct, framing, ..header(kind) };
                let frame = header.before(b"body");
                assert_eq!(Header::read(&frame), Ok((header, Bytes::from_static(b"body"))));
            }
        }
    }

    /// A version that changes this is another version.
    #[test]
    fn the_bytes_are_these() {
        let want = b"chd\x01\x03\x05\0\x20\x01\x02\x03\x04\x05\x06\x07\x08\
                     \0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0abody";
        assert_eq!(header(Kind::Packet).before(b"body"), want[..]);
    }

    #[test]
    fn a_longer_header_is_skipped() {
        let mut longer = header(Kind::Beat).before(b"newbody").to_vec();
        longer[7] += 3;
        let (_, body) = Header::read(&longer.into()).expect("readable");
        assert_eq!(body, b"body"[..]);
    }

    #[test]
    fn a_later_kind_is_read_as_that() {
        for byte in [0, 200, 255] {
            let mut frame = header(Kind::Packet).before(b"body").to_vec();
            frame[4] = byte;
            let want = (header(Kind::Later), Bytes::from_static(b"body"));
            assert_eq!(Header::read(&frame.into()), Ok(want));
        }
    }

    #[test]
    fn what_is_not_for_us_is_told_apart() {
        let frame = header(Kind::Beat).before(b"");
        let with = |at: usize, byte: u8| {
            let mut bytes = frame.to_vec();
            bytes[at] = byte;
            Header::read(&bytes.into()).expect_err("foreign")
        };
        assert_eq!(with(0, b'C'), Foreign::Unknown);
        assert_eq!(with(3, 2), Foreign::Later);
        assert_eq!(with(6, 1), Foreign::Later, "a header longer than the frame");
        assert_eq!(with(7, 31), Foreign::Later, "a header that is too short");
        for length in 0..HEADER {
            assert_eq!(Header::read(&frame.slice(..length)), Err(Foreign::Unknown), "{length}");
        }
    }
}
