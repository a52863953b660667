//! What comes from the other hosts, put together: bodies that came in parts, what came twice, and
//! how much did not come at all.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::wire::{Header, HostId, Kind};
use crate::worker::wire::MAX_FRAME;

/// So many hosts are remembered.
const HOSTS: usize = 1024;

/// A host that has said nothing for so long is forgotten when there is no place for another.
const FORGET: Duration = Duration::from_secs(5);

/// Parts of bodies that are not whole yet, of all hosts, in bytes (128 MiB).
const HELD: usize = 128 << 20;

/// A number so far ahead of the last is believed only if the next frame goes on from it: by one
/// frame of a stranger, all that the host says after it would be late.
const JUMP: u64 = 1 << 20;

/// When a host has said nothing for so long but what seems to have come before, it is believed to be
/// new: somebody has used its numbers.
const DOUBT: Duration = Duration::from_millis(1500);

/// A body that has not gone on for so long is given up when there is no place for another.
const STALLED: Duration = Duration::from_secs(5);

/// What has been heard from each host.
#[derive(Debug, Default)]
pub struct Incoming {
    hosts: HashMap<HostId, Host>,
    /// None of them was heard last before that.
    oldest: Duration,
    /// The bytes of bodies that are not whole yet.
    held: usize,
    counts: Heard,
}

/// What became of what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// Frames that others have sent and that did not come, or came in vain: their body is not whole.
    pub lost: u64,
    /// Frames that had come before, or were said before others that have come.
    pub repeated: u64,
    /// Frames that are out of all bounds.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Host {
    /// When it was heard last.
    at: Duration,
    to_all: Stream,
    to_us: Stream,
}

/// What a host sends to one place.
#[derive(Debug, Default)]
struct Stream {
    /// The number of the frame that comes next. None: nothing has come yet.
    next: Option<u64>,
    /// What a number that was too far ahead would be followed by.
    jump: Option<u64>,
    /// Since when only numbers have come that were there before, and what the last is followed by.
    again: Option<(Duration, u64)>,
    /// The beginning of a body is known, or a body is not to be expected to be whole.
    body: Body,
}

#[derive(Debug, Default)]
enum Body {
    /// Whatever goes on with a body that began before is passed over: we were not there yet.
    #[default]
    Joined,
    /// The next frame begins a body.
    Between,
    /// These came, in so many frames, the last of them then.
    Begun { header: Header, bytes: BytesMut, frames: u64, at: Duration },
    /// What is still to come of it is lost, too.
    Broken,
}

impl Incoming {
    /// A frame of another host: what is whole by it. The body's header is that of its last frame.
    pub fn take(&mut self, header: Header, body: Bytes, now: Duration) -> Option<(Header, Bytes)> {
        if body.len() > MAX_FRAME || !self.knows(header.host, now) {
            self.counts.refused += 1;
            return None;
        }
        if self.held + body.len() > HELD {
            self.give_up_stalled(now);
        }
        let host = self.hosts.entry(header.host).or_default();
        let stream = if header.direct { &mut host.to_us } else { &mut host.to_all };
        if !stream.arrives(&header, now, &mut self.counts, &mut self.held) {
            return None;
        }
        host.at = now;
        match header.kind {
            Kind::Beat => Some((header, body)),
            // Nobody knows what is the whole of it.
            Kind::Later => Some((header, Bytes::new())),
            _ => stream.join(header, body, now, &mut self.counts, &mut self.held),
        }
    }

    /// What became of what came so far.
    pub fn counts(&self) -> Heard {
        self.counts
    }

    fn give_up_stalled(&mut self, now: Duration) {
        for host in self.hosts.values_mut() {
            for stream in [&mut host.to_all, &mut host.to_us] {
                if let Body::Begun { at, .. } = stream.body
                    && now.saturating_sub(at) >= STALLED
                {
                    stream.give_up(&mut self.counts, &mut self.held);
                }
            }
        }
    }

    /// Whether it is one of those that are remembered, or there is a place for it.
    fn knows(&mut self, host: HostId, now: Duration) -> bool {
        let is_full = self.hosts.len() >= HOSTS && !self.hosts.contains_key(&host);
        if is_full && now.saturating_sub(self.oldest) >= FORGET {
            let held = &mut self.held;
            self.hosts.retain(|_, host| {
                let stays = now.saturating_sub(host.at) < FORGET;
                if !stays {
                    *held -= host.to_all.held() + host.to_us.held();
                }
                stays
            });
            self.oldest = self.hosts.values().map(|host| host.at).min().unwrap_or(now);
        }
        self.hosts.len() < HOSTS || self.hosts.contains_key(&host)
    }
}

impl Stream {
    /// Whether the frame is to be taken; what was missed before it is counted.
    fn arrives(
        &mut self,
        header: &Header,
        now: Duration,
        counts: &mut Heard,
        held: &mut usize,
    ) -> bool {
        let seq = header.seq;
        let after = if header.kind == Kind::Beat { seq } else { seq.saturating_add(1) };
        let missed = match self.next {
            None => 0,
            Some(next) if seq < next => {
                let goes_on = self.again.filter(|(_, follows)| seq >= *follows);
                let (since, _) = goes_on.unwrap_or((now, seq));
                self.again = Some((since, after));
                if now.saturating_sub(since) < DOUBT {
                    counts.repeated += 1;
                    return false;
                }
                self.give_up(counts, held);
                0
            }
            Some(next) => seq - next,
        };
        if missed > JUMP && self.jump != Some(seq) {
            counts.refused += 1;
            self.jump = Some(after);
            return false;
        }
        self.jump = None;
        self.again = None;
        self.next = Some(after);
        if missed > 0 {
            counts.lost += missed;
            self.give_up(counts, held);
        }
        true
    }

    /// Takes the next frame of a body, or of another.
    fn join(
        &mut self,
        header: Header,
        body: Bytes,
        now: Duration,
        counts: &mut Heard,
        held: &mut usize,
    ) -> Option<(Header, Bytes)> {
        if !header.rest {
            self.give_up(counts, held);
            if !header.more {
                self.body = Body::Between;
                return Some((header, body));
            }
            self.body = Body::Begun { header, bytes: BytesMut::new(), frames: 0, at: now };
        }
        match &mut self.body {
            Body::Joined => return None,
            Body::Between | Body::Broken => {
                counts.lost += 1;
                return None;
            }
            Body::Begun { header: first, bytes, frames, at } => {
                let is_the_same = first.kind == header.kind
                    && first.worker == header.worker
                    && first.framing == header.framing;
                if is_the_same
                    && bytes.len() + body.len() <= MAX_FRAME
                    && *held + body.len() <= HELD
                {
                    *held += body.len();
                    *frames += 1;
                    *at = now;
                    bytes.extend_from_slice(&body);
                } else {
                    counts.lost += 1;
                    self.give_up(counts, held);
                    return None;
                }
            }
        }
        if header.more {
            return None;
        }
        match std::mem::replace(&mut self.body, Body::Between) {
            Body::Begun { bytes, .. } => {
                *held -= bytes.len();
                Some((Header { rest: false, ..header }, bytes.freeze()))
            }
            _ => None,
        }
    }

    /// What came of a body will not be whole.
    fn give_up(&mut self, counts: &mut Heard, held: &mut usize) {
        *held -= self.held();
        if let Body::Begun { frames, .. } = self.body {
            counts.lost += frames;
            self.body = Body::Broken;
        } else if let Body::Between = self.body {
            self.body = Body::Broken;
        }
    }

    fn held(&self) -> usize {
        if let Body::Begun { bytes, .. } = &self.body { bytes.len() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::worker::WorkerId;
    use crate::worker::wire::Framing;

    fn header(host: u64, seq: u64) -> Header {
        Header {
            kind: Kind::Packet,
            more: false,
            rest: false,
            direct: false,
            framing: Framing::Advanced,
            host: HostId(host),
            seq,
            worker: WorkerId(1),
        }
    }

    /// Takes a frame with an empty body.
    fn take(incoming: &mut Incoming, header: Header) -> bool {
        incoming.take(header, Bytes::new(), Duration::ZERO).is_some()
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        Lost,
        Once,
        Twice,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![1 => Just(Fate::Lost), 6 => Just(Fate::Once), 1 => Just(Fate::Twice)]
    }

    proptest! {
        /// Bodies of so many parts, each with its fate: what is whole comes, in order and once, and
        /// all else is counted.
        #[test]
        fn what_is_whole_comes_once(
            bodies in vec(vec(fate(), 1..4), 1..12),
            begin in any::<u32>(),
            direct in any::<bool>(),
        ) {
            let mut incoming = Incoming::default();
            let mut seq = u64::from(begin);
            let mut heard = Vec::new();
            let (mut want, mut counts) = (Vec::new(), Heard::default());
            let (mut is_known, mut has_begun) = (false, false);
            for (n, parts) in bodies.iter().enumerate() {
                let is_whole = !parts.contains(&Fate::Lost);
                for (at, fate) in parts.iter().enumerate() {
                    let header = Header {
                        direct,
                        more: at + 1 < parts.len(),
                        rest: at > 0,
                        ..header(5, seq)
                    };
                    seq += 1;
                    let body = Bytes::from(format!("{n}.{at} "));
                    let times = match fate { Fate::Lost => 0, Fate::Once => 1, Fate::Twice => 2 };
                    for _ in 0..times {
                        heard.extend(incoming.take(header, body.clone(), Duration::ZERO));
                    }
                    is_known |= times > 0;
                    has_begun |= times > 0 && at == 0;
                    let is_in_vain = !is_whole && has_begun;
                    counts.lost += u64::from(if times == 0 { is_known } else { is_in_vain });
                    counts.repeated += u64::from(times == 2);
                }
                if is_whole {
                    want.push((0..parts.len()).map(|at| format!("{n}.{at} ")).collect::<String>());
                }
            }
            // What was lost in the end is known by the beat after it.
            let beat = Header { kind: Kind::Beat, ..header(5, seq) };
            if !direct {
                incoming.take(beat, Bytes::new(), Duration::ZERO);
                prop_assert_eq!(incoming.counts(), counts);
            }
            let bodies: Vec<_> = heard.iter().map(|(_, body)| body.clone()).collect();
            prop_assert_eq!(bodies, want);
            prop_assert!(heard.iter().all(|(header, _)| !header.more && !header.rest));
        }

        /// Whatever strangers send: what is held is what is counted as held, and bounded.
        #[test]
        fn nothing_makes_it_panic(
            frames in vec((0..3u64, prop_oneof![0..6u64, any::<u64>()], 0..32u8, 0..9usize), 0..60)
        ) {
            let mut incoming = Incoming::default();
            for (at, (host, seq, bits, length)) in frames.into_iter().enumerate() {
                let header = Header {
                    kind: if bits & 16 == 0 { Kind::Packet } else { Kind::Beat },
                    more: bits & 1 != 0,
                    rest: bits & 2 != 0,
                    direct: bits & 4 != 0,
                    worker: WorkerId(u64::from(bits & 8)),
                    ..header(host, seq)
                };
                let body = Bytes::from(vec![0; length]);
                incoming.take(header, body, Duration::from_secs(at as u64));
                let held = incoming.hosts.values().map(|host| host.to_all.held() + host.to_us.held());
                prop_assert_eq!(incoming.held, held.sum::<usize>());
            }
        }
    }

    #[test]
    fn a_number_far_ahead_is_believed_the_second_time() {
        let mut incoming = Incoming::default();
        assert!(take(&mut incoming, header(1, 0)));
        let far = JUMP + 10;
        assert!(!take(&mut incoming, header(1, far)));
        assert!(take(&mut incoming, header(1, 1)));
        assert!(!take(&mut incoming, header(1, far)), "the first is forgotten");
        assert!(take(&mut incoming, header(1, far + 1)));
        assert!(take(&mut incoming, header(1, far + 2)));
        let Heard { lost, repeated, refused } = incoming.counts();
        assert_eq!((lost, repeated, refused), (far - 1, 0, 2));
        // Just not too far.
        assert!(take(&mut incoming, header(1, far + 3 + JUMP)));
        // A beat says what comes next, twice the same.
        let beat = |seq| Header { kind: Kind::Beat, ..header(1, seq) };
        let far = 4 * far;
        assert!(!take(&mut incoming, beat(far)));
        assert!(take(&mut incoming, beat(far)));
        assert!(take(&mut incoming, header(1, far)));
    }

    #[test]
    fn parts_of_different_bodies_are_not_joined() {
        for change in [
            |header: &mut Header| header.kind = Kind::Hello,
            |header: &mut Header| header.worker = WorkerId(2),
            |header: &mut Header| header.framing = Framing::Json,
        ] {
            let mut incoming = Incoming::default();
            assert!(!take(&mut incoming, Header { more: true, ..header(1, 0) }));
            let mut other = Header { rest: true, ..header(1, 1) };
            change(&mut other);
            assert!(!take(&mut incoming, other));
            assert!(take(&mut incoming, header(1, 2)));
            assert_eq!(incoming.counts().lost, 2);
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut incoming = Incoming::default();
        let part = Bytes::from(vec![0; MAX_FRAME / 2]);
        let mut more = |host: u64, seq: u64, more: bool| {
            let header = Header { more, rest: seq > 0, ..header(host, seq) };
            let whole = incoming.take(header, part.clone(), Duration::ZERO);
            (whole.map(|(_, body)| body.len()), incoming.held, incoming.counts().lost)
        };
        let half = MAX_FRAME / 2;
        // A body's own bound.
        assert_eq!(more(1, 0, true), (None, half, 0));
        assert_eq!(more(1, 1, true), (None, 2 * half, 0));
        assert_eq!(more(1, 2, false), (None, 0, 3));
        // That of all together.
        for host in [2, 3] {
            more(host, 0, true);
            more(host, 1, true);
        }
        assert_eq!(more(4, 0, true), (None, 4 * half, 4));
        more(2, 2, true);
        assert_eq!(more(4, 1, true), (None, 2 * half, 8), "its beginning is gone");
        assert_eq!(more(5, 0, true), (None, 3 * half, 8));
        assert_eq!(more(5, 1, false), (Some(MAX_FRAME), 2 * half, 8));
        // What comes in one frame, too.
        let large = Bytes::from(vec![0; MAX_FRAME + 1]);
        assert_eq!(incoming.take(header(6, 0), large, Duration::ZERO), None);
        assert_eq!(incoming.counts().refused, 1);
    }

    #[test]
    fn the_hosts_that_are_remembered_are_bounded() {
        let mut incoming = Incoming::default();
        let mut says = |host: u64, seq: u64, at: Duration| {
            let header = Header { more: true, ..header(host, seq) };
            incoming.take(header, Bytes::from_static(b"part"), at);
            (incoming.hosts.len(), incoming.held, incoming.counts().refused)
        };
        for host in 0..1024 {
            says(host, 0, Duration::ZERO);
        }
        assert_eq!(says(0, 1, Duration::from_secs(1)), (1024, 4096, 0));
        assert_eq!(says(1024, 0, Duration::from_millis(4999)), (1024, 4096, 1));
        assert_eq!(says(1024, 0, FORGET), (2, 8, 1), "one was heard later");
    }

    /// Within the numbers that are believed at once; to all, where beats say what comes next, or to us.
    #[test]
    fn a_stranger_who_uses_a_hosts_numbers_is_found_out() {
        let at = Duration::from_millis;
        for direct in [false, true] {
            let mut incoming = Incoming::default();
            let mut says = |seq: u64, millis: u64| {
                let header = Header { direct, ..header(1, seq) };
                incoming.take(header, Bytes::new(), at(millis)).is_some()
            };
            assert!(says(0, 0) && says(1, 0));
            assert!(says(900, 10), "the stranger");
            // One frame that is said again and again is not the host.
            for n in 0..5 {
                assert!(!says(1, 100 + n * 1000));
            }
            assert!(says(901, 6000));
            for (seq, millis) in [(2, 6100), (3, 6500), (4, 7599)] {
                assert!(!says(seq, millis));
            }
            assert!(says(5, 7600) && says(6, 7601), "it is the host");
            assert!(!says(5, 7602));
            assert_eq!(incoming.counts().lost, 898);
        }
        // One that only beats is found out as well.
        let mut incoming = Incoming::default();
        let mut says = |kind: Kind, millis: u64| {
            incoming.take(Header { kind, ..header(1, 7) }, Bytes::new(), at(millis)).is_some()
        };
        assert!(says(Kind::Beat, 0) && says(Kind::Bye, 1));
        for millis in [500, 1000, 1500] {
            assert!(!says(Kind::Beat, millis));
        }
        assert!(says(Kind::Beat, 2000));
    }

    #[test]
    fn a_stranger_takes_the_place_of_bodies_for_a_moment() {
        let mut incoming = Incoming::default();
        let part = Bytes::from(vec![0; MAX_FRAME / 2]);
        let mut says = |host: u64, seq: u64, more: bool, secs: u64| {
            let header = Header { more, rest: seq > 0, ..header(host, seq) };
            incoming.take(header, part.clone(), Duration::from_secs(secs)).is_some()
        };
        for host in [1, 2] {
            says(host, 0, true, 0);
            says(host, 1, true, 0);
        }
        says(3, 0, true, 4);
        assert!(!says(3, 1, false, 4), "there is no place");
        says(4, 0, true, 5);
        assert!(says(4, 1, false, 5));
    }

    #[test]
    fn what_a_later_one_says_has_a_number() {
        let mut incoming = Incoming::default();
        assert!(take(&mut incoming, header(1, 0)));
        let later = |seq| Header { kind: Kind::Later, more: true, ..header(1, seq) };
        assert!(take(&mut incoming, later(1)));
        assert!(take(&mut incoming, Header { rest: true, more: false, ..later(2) }));
        assert!(take(&mut incoming, header(1, 3)));
        assert_eq!((incoming.counts(), incoming.held), (Heard::default(), 0));
    }
}
