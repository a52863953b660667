//! The invariants that `fuzz/` looks for breaches of, on bytes made of what matters to each parser.

use cohortd::worker::wire::{Framing, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::invariants;

/// One of the first two of these words, as often as not, then some of all, and some other bytes.
fn words(of: &'static [&'static [u8]], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![Just(&b""[..]), select(&of[..2])];
    let piece = prop_oneof![
        9 => select(of).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..6),
    ];
    (first, vec(piece, 0..most)).prop_map(|(first, pieces)| [first, &pieces.concat()].concat())
}

const HEAD: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"GET /?EIO=4&transport=polling&sid=a HTTP/1.1\r\nHost: a\r\n",
    b"POST ",
    b"/ HTTP/1.1\r\n",
    b" HTTP/1.0\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Cookie: a=b; c",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"\0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n",
    b"\x16\x03\x01",
    b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

const PROXY: &[&[u8]] = &[
    b"PROXY UNKNOWN",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 ",
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"192.0.2.1 ",
    b"2001:db8::1 ",
    b"1 ",
    b"65535",
    b"\r\n",
    b"\r",
    b"000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x20\x00\x00\x00",
    b"\x21\x11\x00\x0c",
    b"\x21\x11\x00\x00",
    b"\x21\x21\x00\x40",
    b"\x21\x31\x00\xd8",
    b"\x21\x11\xff\xff",
    b"\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02",
];

const FRAMES: &[&[u8]] = &[
    b"\x81\x00",
    b"\x81\x85\0\0\0\0hello",
    b"\x82\x7e\x00\x03abc",
    b"\x82\xfe\x00\x02\0\0\0\0ab",
    b"\x82\x7f\0\0\0\0\0\0\0\x01a",
    b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x88\x02\x03\xf4",
];

fn value() -> impl Strategy<Value = Value> {
    let key = select(&["cmd", "act", "ack", "data", "type", "source", "uid", "workerId", "x"][..]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Num),
        select(&["NODE_CLUSTER", "_sio_adapter", "sticky:connection", "\u{17c}\n\0"][..])
            .prop_map(|text| Value::Str(text.to_owned())),
        ".{0,8}".prop_map(Value::Str),
        vec(any::<u8>(), 0..8).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 20, 5, move |inner| {
        let entry = (key.clone().prop_map(str::to_owned), inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::Array),
            vec(entry, 0..5).prop_map(Value::Object),
        ]
    })
}

/// Sizes of pieces, then frames, perhaps with a byte changed, and perhaps with others behind them.
fn stream(framing: Framing) -> impl Strategy<Value = Vec<u8>> {
    let change = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (vec(1u8..40, 8), vec(value(), 1..4), change, vec(any::<u8>(), 0..20)).prop_map(
        move |(sizes, values, change, rest)| {
            let frames = values.iter().map(|value| framing.encode(value).expect("has a form"));
            let mut bytes = frames.collect::<Vec<_>>().concat();
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            [sizes, bytes, rest].concat()
        },
    )
}

proptest! {
    #[test]
    fn a_head_is_judged_once(bytes in words(HEAD, 12)) {
        invariants::head(&bytes);
    }

    #[test]
    fn a_proxy_header_is_read_once(bytes in words(PROXY, 9)) {
        invariants::proxy_header(&bytes);
    }

    #[test]
    fn websocket_frames_end_where_they_end(sizes in vec(1u8..9, 8), bytes in words(FRAMES, 9)) {
        invariants::websocket(&[sizes, bytes].concat());
    }

    #[test]
    fn json_frames_are_read_however_they_come(bytes in stream(Framing::Json)) {
        invariants::wire_json(&bytes);
    }

    #[test]
    fn advanced_frames_are_read_however_they_come(bytes in stream(Framing::Advanced)) {
        invariants::wire_advanced(&bytes);
    }
}
