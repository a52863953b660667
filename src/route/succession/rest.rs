//! Whether a client's connection rests: all that was read of it has been answered, and nothing is in
//! hyper's buffer that only this process has.
//!
//! What hyper has read ahead can't be seen from outside. But it takes a whole head out of its buffer at
//! once. So where no request is open and what was read last ends as a head does, nothing is left in
//! there, or nothing but empty lines. A request whose body ends otherwise, as most do that have one, is
//! not found to be over: only the next one without.

use crate::keeper::Mark;

/// How a head ends, and chunked bodies do.
const END: [u8; 4] = *b"\r\n\r\n";

/// What is marked for the keeper.
#[derive(Debug)]
pub(super) struct Rest {
    mark: Mark,
    /// What was read last.
    last: [u8; 4],
    is_marked: bool,
}

impl Rest {
    pub(super) fn new(mark: Mark) -> Rest {
        Rest { mark, last: [0; 4], is_marked: false }
    }

    /// So much was read; nothing: its client ends.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.last = [0; 4];
        }
        for byte in &bytes[bytes.len().saturating_sub(self.last.len())..] {
            self.last.rotate_left(1);
            self.last[3] = *byte;
        }
    }

    /// There is nothing to read, and no request open.
    pub(super) fn begins(&mut self) {
        if self.last == END && !self.is_marked {
            self.is_marked = true;
            self.mark.rests();
        }
    }

    /// Something may be read or written now.
    pub(super) fn ends(&mut self) {
        if self.is_marked {
            self.is_marked = false;
            self.mark.busy();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests_after(parts: &[&[u8]]) -> bool {
        let mut rest = Rest::new(Mark::default());
        parts.iter().for_each(|part| rest.read(part));
        rest.begins();
        rest.is_marked
    }

    #[test]
    fn only_behind_the_end_of_a_head() {
        assert!(rests_after(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]));
        assert!(rests_after(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r", b"\n"]));
        assert!(!rests_after(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGE"]), "the next has begun");
        assert!(!rests_after(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"G"]));
        assert!(!rests_after(&[b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"]));
        assert!(!rests_after(&[b"GET / HTTP/1.1\r\n\r\n", b""]), "its client has ended");
        assert!(!rests_after(&[]));
    }

    #[test]
    fn it_ends_with_whatever_is_next() {
        let mut rest = Rest::new(Mark::default());
        rest.read(&END);
        rest.begins();
        rest.ends();
        assert!(!rest.is_marked);
        rest.begins();
        assert!(rest.is_marked, "nothing came");
    }
}
