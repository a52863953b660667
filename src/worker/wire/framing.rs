//! Where a message begins and ends on the channel, for both of Node's framings.
//!
//! `json`: a JSON text and a newline. `advanced`: a 32-bit big-endian length, then a value in V8's
//! own format. A length above [`MAX_FRAME`] or an endless line is an error of the worker that sent
//! it; what the frame says is not looked at here.

use serde::Serialize;
use serde::de::Deserialize;

use super::{advanced, json};

/// The largest frame that is accepted from a worker, in bytes (64 MiB). An `io.emit()` of one
/// message is one frame, so this is also the largest packet that the relay carries.
pub const MAX_FRAME: usize = 64 << 20;

/// How messages are laid out on a worker's channel (`serialization` in the configuration).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// V8's structured clone: binary survives. The default.
    #[default]
    Advanced,
    /// JSON lines: what Node uses unless told otherwise. Binary in an `io.emit()` arrives broken.
    Json,
}

/// Why a channel can't be read any further.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The frame is, or says it will be, larger than [`MAX_FRAME`].
    #[error("a frame of {0} bytes, more than the {MAX_FRAME} that are accepted")]
    TooLarge(usize),
}

impl Framing {
    /// The value of `NODE_CHANNEL_SERIALIZATION_MODE`.
    pub fn name(self) -> &'static str {
        match self {
            Framing::Advanced => "advanced",
            Framing::Json => "json",
        }
    }

    /// The whole frame of a message.
    ///
    /// # Errors
    /// Only for a message type that has no form in the framing: a mistake of the program.
    pub fn encode<T: Serialize>(self, message: &T) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(256);
        match self {
            Framing::Json => json::encode(message, &mut out)?,
            Framing::Advanced => {
                out.extend_from_slice(&[0; 4]);
                advanced::encode(message, &mut out).map_err(|e| e.to_string())?;
                let length = u32::try_from(out.len() - 4).map_err(|e| e.to_string())?;
                out[..4].copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(out)
    }

    /// Reads a whole frame, as [`Decoder::next`] returned it, into `T`.
    ///
    /// # Errors
    /// The frame's content is not a `T`. The next frame is not affected.
    pub fn decode<'a, T: Deserialize<'a>>(self, frame: &'a [u8]) -> Result<T, String> {
        match self {
            Framing::Json => json::decode(frame),
            Framing::Advanced => {
                let body = frame.get(4..).ok_or("a frame without a length")?;
                advanced::decode(body).map_err(|e| e.to_string())
            }
        }
    }
}

/// Finds frames in a growing buffer without looking at a byte twice.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    scanned: usize,
}

impl Decoder {
    /// For a channel of this framing, at its beginning.
    pub fn new(framing: Framing) -> Self {
        Decoder { framing, scanned: 0 }
    }

    /// The length of the whole frame at the start of `buffer`, or `None` until more bytes come.
    /// The caller takes that many bytes off before it asks again.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]: nothing after it can be trusted.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Option<usize>, FrameError> {
        let length = match self.framing {
            Framing::Advanced => {
                let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
                4 + u32::from_be_bytes(*head) as usize
            }
            Framing::Json => match memchr::memchr(b'\n', &buffer[self.scanned..]) {
                Some(at) => self.scanned + at + 1,
                None if buffer.len() > MAX_FRAME => buffer.len(),
                None => {
                    self.scanned = buffer.len();
                    return Ok(None);
                }
            },
        };
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        if buffer.len() < length {
            return Ok(None);
        }
        self.scanned = 0;
        Ok(Some(length))
    }

    /// Whether `buffer`, which begins with a frame, ends with one, or is empty.
    pub fn ends_whole(&self, buffer: &[u8]) -> bool {
        match self.framing {
            Framing::Json => buffer.last().is_none_or(|last| *last == b'\n'), // it may be a long line
            Framing::Advanced => self.whole(buffer) == buffer.len(),
        }
    }

    /// How much of `buffer`, which begins with a frame, is whole frames.
    pub fn whole(&self, buffer: &[u8]) -> usize {
        match self.framing {
            Framing::Json => memchr::memrchr(b'\n', buffer).map_or(0, |end| end + 1),
            Framing::Advanced => {
                let mut whole = 0;
                while let Some(head) = buffer[whole..].first_chunk::<4>() {
                    let end = whole + 4 + u32::from_be_bytes(*head) as usize;
                    if end > buffer.len() {
                        break;
                    }
                    whole = end;
                }
                whole
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(framing: Framing, stream: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut decoder = Decoder::new(framing);
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(n) = decoder.next(&buffer).expect("within limits") {
                found.push(buffer.drain(..n).collect());
            }
        }
        assert!(buffer.is_empty(), "every byte belongs to a frame");
        found
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        for framing in [Framing::Json, Framing::Advanced] {
            let texts = ["ready", "", "second ż", &"x".repeat(300)];
            let stream: Vec<u8> =
                texts.iter().flat_map(|t| framing.encode(t).expect("a string")).collect();
            for step in 1..20 {
                let found = frames(framing, &stream, step);
                let read: Vec<String> =
                    found.iter().map(|f| framing.decode(f).expect("a string")).collect();
                assert_eq!(read, texts, "{framing:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn it_is_known_where_a_frame_is_cut() {
        for framing in [Framing::Json, Framing::Advanced] {
            let frames = ["one", "", "three"].map(|text| framing.encode(&text).expect("a string"));
            let ends: Vec<usize> = (0..=3).map(|n| frames[..n].concat().len()).collect();
            let stream = frames.concat();
            for cut in 0..=stream.len() {
                let (decoder, stream) = (Decoder::new(framing), &stream[..cut]);
                let last = ends.iter().copied().rfind(|end| *end <= cut);
                assert_eq!(Some(decoder.whole(stream)), last, "{framing:?} cut at {cut}");
                assert_eq!(
                    decoder.ends_whole(stream),
                    last == Some(cut),
                    "{framing:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_waited_for() {
        let mut decoder = Decoder::new(Framing::Advanced);
        assert_eq!(
            decoder.next(&[0xff, 0xff, 0xff, 0xff]),
            Err(FrameError::TooLarge(4 + u32::MAX as usize))
        );
        let mut decoder = Decoder::new(Framing::Json);
        assert_eq!(
            decoder.next(&vec![b' '; MAX_FRAME + 1]),
            Err(FrameError::TooLarge(MAX_FRAME + 1))
        );
    }
}
