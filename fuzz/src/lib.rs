//! What has to hold of any bytes. The fuzz targets look for bytes of which it doesn't, and so do the
//! property tests (`tests/it/properties.rs`).

use cohortd::route::head::{self, Opening};
use cohortd::route::proxy_protocol;
use cohortd::route::websocket::Frames;
use cohortd::worker::wire::{Decoder, FrameError, Framing, MAX_FRAME, Value, classify, look};
use serde::de::IgnoredAny;

/// A connection's first bytes are judged once: more of them never change what was found in fewer.
pub fn head(bytes: &[u8]) {
    const LIMIT: usize = 256;
    let shown = &bytes[..bytes.len().min(LIMIT + 1)];
    let mut before = Opening::Partial;
    for length in 0..=shown.len() {
        let now = head::look(&shown[..length], LIMIT);
        match (&before, &now) {
            (Opening::Partial, _) | (Opening::Refused(_), Opening::Refused(_)) => {}
            _ => assert_eq!(before, now, "{:?}", shown[..length].escape_ascii().to_string()),
        }
        before = now;
    }
    assert!(before != Opening::Partial || bytes.len() <= LIMIT, "it waits for what is not shown");
    head::values(bytes, "cookie");
    head::handshake(bytes);
}

/// A header is read once it is whole, and neither its split nor what comes after it matters.
pub fn proxy_header(bytes: &[u8]) {
    let mut before = None;
    for length in 0..=bytes.len() {
        let now = proxy_protocol::read(&bytes[..length]);
        if let Some(Ok((_, header))) = &now {
            assert!(*header <= length);
        }
        match (&before, &now) {
            (None, _) | (Some(Err(_)), Some(Err(_))) => {}
            _ => assert_eq!(before, now, "{:?}", bytes[..length].escape_ascii().to_string()),
        }
        before = now;
    }
    let endless = [bytes, &[b'x'; 8192]].concat();
    assert!(proxy_protocol::read(&endless).is_some(), "it waits for what is not shown");
}

/// Frames end where they end, however the stream is cut.
pub fn websocket(bytes: &[u8]) {
    let (sizes, stream) = cut_sizes(bytes);
    let mut single = Frames::default();
    let ends: Vec<bool> = stream
        .iter()
        .map(|byte| {
            single.pass(&[*byte]);
            single.is_between()
        })
        .collect();
    let (mut passing, mut finishing, mut at) = (Frames::default(), Frames::default(), 0);
    for piece in pieces(stream, sizes) {
        passing.pass(piece);
        let end = at + piece.len();
        assert_eq!(passing.is_between(), ends[end - 1], "at {end}");
        while at < end {
            let passed = finishing.finish(&stream[at..end]);
            assert!(passed > 0 && passed <= end - at);
            assert!(ends[at..at + passed - 1].iter().all(|end| !end), "passed an end from {at}");
            at += passed;
            assert_eq!(finishing.is_between(), ends[at - 1], "at {at}");
            assert!(finishing.is_between() || at == end, "stopped in a frame at {at}");
        }
    }
}

/// See [`wire`].
pub fn wire_json(bytes: &[u8]) {
    wire(Framing::Json, bytes);
}

/// See [`wire`].
pub fn wire_advanced(bytes: &[u8]) {
    wire(Framing::Advanced, bytes);
}

/// Frames end where they end, however the stream is cut. What is read of one can be written and
/// read again, and who steps over it gets as far as who reads it.
fn wire(framing: Framing, bytes: &[u8]) {
    let (sizes, stream) = cut_sizes(bytes);
    let found = frames(framing, pieces(stream, sizes));
    assert_eq!(found, frames(framing, std::iter::once(stream)));
    for frame in &found.0 {
        assert!(frame.len() <= MAX_FRAME);
        if let Ok(keys) = look(framing, frame) {
            classify(&keys);
        }
        let Ok(value) = framing.decode::<Value>(frame) else { continue };
        framing.decode::<IgnoredAny>(frame).expect("it can be stepped over");
        if has_own_keys(&value) {
            look(framing, frame).expect("an object has keys");
        }
        let written = framing.encode(&value).expect("what was read can be written");
        let again: Value = framing.decode(&written).expect("what was written can be read");
        assert!(is_same(&value, &again), "{value:?} {again:?}");
    }
}

type Found = (Vec<Vec<u8>>, Option<FrameError>);

fn frames<'b>(framing: Framing, pieces: impl Iterator<Item = &'b [u8]>) -> Found {
    let (mut decoder, mut buffer, mut found) = (Decoder::new(framing), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&buffer) {
                Ok(Some(length)) => found.push(buffer.drain(..length).collect()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// An object none of whose keys comes twice.
fn has_own_keys(value: &Value) -> bool {
    let Value::Object(entries) = value else { return false };
    let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys.windows(2).all(|two| two[0] != two[1])
}

/// The same to JavaScript, but for the last digit that reading a decimal number may cost.
fn is_same(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Int(n) => Some(*n as f64),
        Value::Num(n) => Some(*n),
        _ => None,
    };
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(one), Value::Object(other)) => {
            let pair =
                |((a, v), (b, w)): (&(String, Value), &(String, Value))| a == b && is_same(v, w);
            one.len() == other.len() && one.iter().zip(other).all(pair)
        }
        _ => match (number(one), number(other)) {
            (Some(a), Some(b)) => {
                a == b || (a.is_nan() && b.is_nan()) || ((a - b) / a).abs() < 1e-14
            }
            _ => one == other,
        },
    }
}

/// The first bytes say how the others are cut.
fn cut_sizes(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(8))
}

/// Pieces of these sizes, over and over.
fn pieces<'b>(mut stream: &'b [u8], sizes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().map_or(1, |size| usize::from(*size).max(1)).min(stream.len());
        let (piece, rest) = stream.split_at(size);
        stream = rest;
        (size > 0).then_some(piece)
    })
}
