//! As much of WebSocket (RFC 6455) as it takes to close one properly that others speak. Pure.

/// A server's Close frame with 1012, "service restart": a client that knows it connects anew.
pub const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xf4];

/// Follows a stream of frames, and knows whether it stands between two.
#[derive(Debug, Default)]
pub struct Frames {
    /// What is there of a header.
    header: Vec<u8>,
    /// What is still to come of a payload.
    payload: u64,
}

impl Frames {
    /// What has passed is whole frames: another one may follow.
    pub fn is_between(&self) -> bool {
        self.header.is_empty() && self.payload == 0
    }

    /// These bytes have passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.finish(bytes);
            bytes = &bytes[passed..];
        }
    }

    /// Of these bytes, so many have passed: all, or no more than to the end of a frame.
    pub fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(&first) = bytes.get(passed) {
            if self.payload == 0 {
                passed += 1;
                self.header.push(first);
                let Some(payload) = payload_after(&self.header) else { continue };
                self.payload = payload;
                self.header.clear();
            } else {
                let skipped = self.payload.min((bytes.len() - passed) as u64);
                self.payload -= skipped;
                passed += skipped as usize;
            }
            if self.is_between() {
                break;
            }
        }
        passed
    }
}

/// The length of the payload, when the header is whole (section 5.2).
fn payload_after(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let wide = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let extended = header.get(2..2 + wide)?;
    if header.len() < 2 + wide + mask {
        return None;
    }
    Some(match wide {
        0 => u64::from(second & 0x7f),
        _ => extended.iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0x81; length + if masked { 4 } else { 0 }]); // the mask, and the payload
        frame
    }

    #[test]
    fn it_stands_between_frames_only_where_one_ends() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 300, 65535, 65536, 70_000] {
                let one = frame(length, masked);
                let two = [one.clone(), one.clone()].concat();
                for step in [1, 2, 3, 7, 4096, two.len()] {
                    let mut frames = Frames::default();
                    let mut passed = 0;
                    for chunk in two.chunks(step) {
                        frames.pass(chunk);
                        passed += chunk.len();
                        let between = passed % one.len() == 0;
                        assert_eq!(frames.is_between(), between, "{length} {step} {passed}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_frame_can_be_finished_and_no_more() {
        let one = frame(300, false);
        let three = [one.clone(), one.clone(), one.clone()].concat();
        let mut frames = Frames::default();
        frames.pass(&three[..100]);
        assert_eq!(frames.finish(&three[100..]), one.len() - 100);
        assert!(frames.is_between());
        assert_eq!(frames.finish(&three[one.len()..][..2]), 2);
        assert!(!frames.is_between());
    }

    #[test]
    fn the_close_frame_is_one() {
        let mut frames = Frames::default();
        frames.pass(&CLOSE);
        assert!(frames.is_between());
        assert_eq!(u16::from_be_bytes([CLOSE[2], CLOSE[3]]), 1012);
    }

    #[test]
    fn a_length_beyond_all_is_waited_for() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert!(!frames.is_between());
    }
}
