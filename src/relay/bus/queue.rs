//! What waits to go out to the bus: whole bodies, numbered as they come, bounded in bytes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::wire::{HEADER, Header, HostId, Kind};
use crate::worker::WorkerId;
use crate::worker::wire::Framing;

/// The most of a body that goes into one frame, in bytes (256 KiB): a NATS server takes 1 MiB unless
/// told otherwise.
pub const PART: usize = 256 << 10;

/// So many other hosts have numbers of their own.
const HOSTS: usize = 1024;

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum To {
    /// To every host.
    All,
    /// To one.
    Host(HostId),
}

/// What is said of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// What it is about.
    pub kind: Kind,
    /// How a worker's packet is laid out.
    pub framing: Framing,
    /// The worker that it is from or about.
    pub worker: WorkerId,
}

/// Frames and their bytes, headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Volume {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What waits.
#[derive(Debug)]
pub struct Outgoing {
    own: HostId,
    limit: usize,
    bytes: usize,
    /// By how easily they are given up, each in the order in which it came.
    lanes: [VecDeque<Waiting>; 3],
    /// How many bodies came so far.
    came: u64,
    /// The number of the next frame to all.
    to_all: u64,
    /// The number of the next frame to each host, and when one was sent last.
    to_hosts: HashMap<HostId, (u64, u64)>,
    /// What a host begins with that has none: more than one had that is not remembered.
    begin: u64,
    /// A body that has gone out in part.
    begun: Option<(Waiting, usize)>,
    dropped: Volume,
}

#[derive(Debug)]
struct Waiting {
    /// The how manieth body.
    order: u64,
    at: Duration,
    to: To,
    about: About,
    /// The number of its first frame.
    seq: u64,
    body: Bytes,
}

impl Waiting {
    fn frames(&self) -> usize {
        self.body.len().div_ceil(PART).max(1)
    }

    fn bytes(&self) -> usize {
        self.body.len() + self.frames() * HEADER
    }

    fn lane(&self) -> usize {
        match (self.about.kind, self.to) {
            // Strangers can have any number of sessions sought.
            (Kind::Packet, To::All) | (Kind::Seek, _) => 0,
            (Kind::Packet, To::Host(_)) | (Kind::Found, _) => 1,
            _ => 2,
        }
    }
}

impl Outgoing {
    /// Nothing waits; so many bytes may, or one body.
    pub fn new(own: HostId, limit: usize) -> Outgoing {
        Outgoing {
            own,
            limit,
            bytes: 0,
            lanes: Default::default(),
            came: 0,
            to_all: 0,
            to_hosts: HashMap::new(),
            begin: 0,
            begun: None,
            dropped: Volume::default(),
        }
    }

    /// A body waits. If there is too much then, the oldest packets to all are given up, then the
    /// oldest to one host, then the oldest of the rest; never what has just come.
    pub fn push(&mut self, to: To, about: About, body: Bytes, now: Duration) {
        let waiting = Waiting { order: self.came, at: now, to, about, seq: 0, body };
        self.came += 1;
        let frames = waiting.frames() as u64;
        let waiting = Waiting { seq: self.number(to, frames), ..waiting };
        self.bytes += waiting.bytes();
        let lane = waiting.lane();
        self.lanes[lane].push_back(waiting);
        while self.bytes > self.limit {
            let newest = self.came - 1;
            let is_older = |lane: &VecDeque<Waiting>| {
                lane.front().is_some_and(|waiting| waiting.order != newest)
            };
            match self.lanes.iter().position(is_older) {
                Some(lane) => self.drop_first(lane),
                None => break,
            }
        }
    }

    /// Gives up the packets that came before.
    pub fn drop_before(&mut self, then: Duration) {
        for lane in [0, 1] {
            while self.lanes[lane].front().is_some_and(|waiting| waiting.at < then) {
                self.drop_first(lane);
            }
        }
    }

    /// What has gone out of a body is in vain: the connection is another.
    pub fn drop_begun(&mut self) {
        if let Some((waiting, sent)) = self.begun.take() {
            let frames = waiting.frames() - sent;
            let bytes = waiting.body.len() - sent * PART + frames * HEADER;
            self.bytes -= bytes;
            self.dropped.frames += frames as u64;
            self.dropped.bytes += bytes as u64;
        }
    }

    /// The frame that goes out next.
    pub fn pop(&mut self) -> Option<(To, Bytes)> {
        let (waiting, sent) = match self.begun.take() {
            Some(begun) => begun,
            None => {
                let first = |lane: &&mut VecDeque<Waiting>| {
                    lane.front().map_or(u64::MAX, |waiting| waiting.order)
                };
                (self.lanes.iter_mut().min_by_key(first)?.pop_front()?, 0)
            }
        };
        let begin = sent * PART;
        let end = waiting.body.len().min(begin + PART);
        let header = Header {
            kind: waiting.about.kind,
            more: sent + 1 < waiting.frames(),
            rest: sent > 0,
            direct: waiting.to != To::All,
            framing: waiting.about.framing,
            host: self.own,
            seq: waiting.seq + sent as u64,
            worker: waiting.about.worker,
        };
        let frame = header.before(&waiting.body[begin..end]);
        self.bytes -= frame.len();
        let to = waiting.to;
        if header.more {
            self.begun = Some((waiting, sent + 1));
        }
        Some((to, frame))
    }

    /// A beat, which goes out before all that waits: it says the number of the next frame to all.
    pub fn beat(&self, body: &[u8]) -> (To, Bytes) {
        let begun = self.begun.as_ref().filter(|(waiting, _)| waiting.to == To::All);
        let waiting = self.lanes.iter().flat_map(|lane| lane.iter().find(|it| it.to == To::All));
        let next = match begun {
            Some((waiting, sent)) => waiting.seq + *sent as u64,
            None => waiting.map(|waiting| waiting.seq).min().unwrap_or(self.to_all),
        };
        let header = Header {
            kind: Kind::Beat,
            more: false,
            rest: false,
            direct: false,
            framing: Framing::Advanced,
            host: self.own,
            seq: next,
            worker: WorkerId(0),
        };
        (To::All, header.before(body))
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that the next frame to all gets.
    pub fn next_to_all(&self) -> u64 {
        self.to_all
    }

    /// What was given up so far.
    pub fn dropped(&self) -> Volume {
        self.dropped
    }

    /// The number of the first of so many frames.
    fn number(&mut self, to: To, frames: u64) -> u64 {
        let seq = match to {
            To::All => &mut self.to_all,
            To::Host(host) => {
                if self.to_hosts.len() >= HOSTS && !self.to_hosts.contains_key(&host) {
                    let oldest = self.to_hosts.iter().min_by_key(|(_, (_, used))| *used);
                    if let Some(oldest) = oldest.map(|(host, _)| *host)
                        && let Some((seq, _)) = self.to_hosts.remove(&oldest)
                    {
                        self.begin = self.begin.max(seq);
                    }
                }
                let (seq, used) = self.to_hosts.entry(host).or_insert((self.begin, 0));
                *used = self.came;
                seq
            }
        };
        let first = *seq;
        *seq += frames;
        first
    }

    fn drop_first(&mut self, lane: usize) {
        if let Some(waiting) = self.lanes[lane].pop_front() {
            self.bytes -= waiting.bytes();
            self.dropped.frames += waiting.frames() as u64;
            self.dropped.bytes += waiting.bytes() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::parts::Incoming;
    use super::*;

    fn about(kind: Kind) -> About {
        About { kind, framing: Framing::Json, worker: WorkerId(3) }
    }

    fn push(outgoing: &mut Outgoing, to: To, kind: Kind, length: usize) {
        outgoing.push(to, about(kind), vec![7; length].into(), Duration::ZERO);
    }

    fn headers(outgoing: &mut Outgoing) -> Vec<(To, Header, usize)> {
        std::iter::from_fn(|| outgoing.pop())
            .map(|(to, frame)| {
                let (header, body) = Header::read(&frame).expect("our own");
                (to, header, body.len())
            })
            .collect()
    }

    #[test]
    fn bodies_go_out_in_parts_and_order() {
        let mut outgoing = Outgoing::new(HostId(1), usize::MAX);
        let other = To::Host(HostId(2));
        push(&mut outgoing, To::All, Kind::Hello, 0);
        push(&mut outgoing, other, Kind::Packet, PART + 1);
        push(&mut outgoing, To::All, Kind::Packet, 2 * PART);
        push(&mut outgoing, other, Kind::Left, 1);
        let got: Vec<_> = headers(&mut outgoing)
            .into_iter()
            .map(|(to, it, length)| (to, it.direct, it.kind, it.seq, it.rest, it.more, length))
            .collect();
        let want = [
            (To::All, false, Kind::Hello, 0, false, false, 0),
            (other, true, Kind::Packet, 0, false, true, PART),
            (other, true, Kind::Packet, 1, true, false, 1),
            (To::All, false, Kind::Packet, 1, false, true, PART),
            (To::All, false, Kind::Packet, 2, true, false, PART),
            (other, true, Kind::Left, 2, false, false, 1),
        ];
        assert_eq!(got, want);
        assert_eq!((outgoing.bytes(), outgoing.dropped()), (0, Volume::default()));
    }

    #[test]
    fn the_oldest_packets_to_all_go_first() {
        let other = To::Host(HostId(2));
        let each = 100 + HEADER;
        let kept = |places: usize| {
            let mut outgoing = Outgoing::new(HostId(1), places * each);
            for (to, kind) in [
                (To::All, Kind::Hello),
                (other, Kind::Packet),
                (To::All, Kind::Packet),
                (To::All, Kind::Packet),
                (To::All, Kind::Left),
                (To::All, Kind::Bye),
            ] {
                push(&mut outgoing, to, kind, 100);
            }
            assert_eq!(outgoing.bytes(), places.max(1) * each);
            assert_eq!(outgoing.dropped().frames, 6 - places.max(1) as u64);
            assert_eq!(outgoing.dropped().bytes, (6 - places.max(1)) as u64 * each as u64);
            let numbers = |(to, header, _): (To, Header, usize)| (to == To::All, header.seq);
            headers(&mut outgoing).into_iter().map(numbers).collect::<Vec<_>>()
        };
        let all = [(true, 0), (false, 0), (true, 1), (true, 2), (true, 3), (true, 4)];
        assert_eq!(kept(6), all);
        assert_eq!(kept(5), [all[0], all[1], all[3], all[4], all[5]]);
        assert_eq!(kept(4), [all[0], all[1], all[4], all[5]]);
        assert_eq!(kept(3), [all[0], all[4], all[5]]);
        assert_eq!(kept(2), [all[4], all[5]]);
        assert_eq!(kept(0), [all[5]], "the last one stays, however large");
    }

    #[test]
    fn packets_grow_old_and_the_rest_does_not() {
        let mut outgoing = Outgoing::new(HostId(1), usize::MAX);
        for second in 0..3 {
            for (to, kind) in [
                (To::All, Kind::Packet),
                (To::Host(HostId(2)), Kind::Packet),
                (To::All, Kind::Left),
            ] {
                outgoing.push(to, about(kind), Bytes::new(), Duration::from_secs(second));
            }
        }
        outgoing.drop_before(Duration::from_secs(2));
        assert_eq!(outgoing.dropped().frames, 4);
        let kinds: Vec<_> = headers(&mut outgoing).iter().map(|(_, it, _)| it.kind).collect();
        let want = [Kind::Left, Kind::Left, Kind::Packet, Kind::Packet, Kind::Left];
        assert_eq!(kinds, want);
    }

    /// Hosts come and go; a number that one had is not one that another one sees twice.
    #[test]
    fn numbers_go_on_for_a_host_that_was_forgotten() {
        let mut outgoing = Outgoing::new(HostId(1), usize::MAX);
        let mut number = |host: u64| {
            push(&mut outgoing, To::Host(HostId(host)), Kind::Ask, 0);
            assert!(outgoing.to_hosts.len() <= HOSTS);
            headers(&mut outgoing)[0].1.seq
        };
        assert_eq!([number(0), number(0), number(0)], [0, 1, 2]);
        for host in 1..=HOSTS as u64 {
            number(host);
        }
        assert_eq!(number(0), 3);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(bool, Kind, usize),
        Pop(usize),
        Beat,
        Age,
        Reconnect,
    }

    fn act() -> impl Strategy<Value = Act> {
        let kind = prop_oneof![4 => Just(Kind::Packet), 1 => Just(Kind::Left)];
        let length = prop_oneof![Just(0), Just(100), Just(PART), Just(PART + 1), Just(3 * PART)];
        prop_oneof![
            6 => (any::<bool>(), kind, length).prop_map(|(all, kind, length)| Act::Push(all, kind, length)),
            4 => (1..5usize).prop_map(Act::Pop),
            2 => Just(Act::Beat),
            1 => Just(Act::Age),
            1 => Just(Act::Reconnect),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is dropped: the bytes are counted right, what arrives has come in order and
        /// whole, and what does not is what the other host misses.
        #[test]
        fn the_other_host_misses_what_was_dropped(acts in vec(act(), 1..40), places in 0..4usize) {
            let limit = places * PART;
            let (here, there) = (HostId(1), HostId(2));
            let mut outgoing = Outgoing::new(here, limit);
            let mut incoming = Incoming::default();
            let mut heard = [Vec::new(), Vec::new()];
            let mut said = [Vec::new(), Vec::new()];
            let mut arrive = |frame: &Bytes| {
                let (header, body) = Header::read(frame).expect("our own");
                if let Some((header, body)) = incoming.take(header, body, Duration::ZERO)
                    && header.kind != Kind::Beat
                {
                    heard[usize::from(header.direct)].push((header.worker, body.len()));
                }
                incoming.counts()
            };
            // So that it is known from the beginning.
            let mut counts = arrive(&outgoing.beat(b"").1);
            push(&mut outgoing, To::Host(there), Kind::Ask, 0);
            arrive(&outgoing.pop().expect("it waits").1);
            said[1].push((WorkerId(3), 0));
            let mut now = Duration::ZERO;
            for (at, act) in acts.into_iter().enumerate() {
                now += Duration::from_secs(1);
                match act {
                    Act::Push(is_all, kind, length) => {
                        let to = if is_all { To::All } else { To::Host(there) };
                        let worker = WorkerId(at as u64);
                        let about = About { worker, ..about(kind) };
                        outgoing.push(to, about, vec![0; length].into(), now);
                        said[usize::from(!is_all)].push((worker, length));
                        prop_assert!(outgoing.bytes() <= limit.max(8 * PART));
                    }
                    Act::Pop(count) => {
                        for _ in 0..count {
                            counts = outgoing.pop().map_or(counts, |(_, frame)| arrive(&frame));
                        }
                    }
                    Act::Beat => counts = arrive(&outgoing.beat(b"").1),
                    Act::Age => outgoing.drop_before(now.saturating_sub(Duration::from_secs(5))),
                    Act::Reconnect => outgoing.drop_begun(),
                }
                let lanes = outgoing.lanes.iter().flatten().map(Waiting::bytes).sum::<usize>();
                let begun = outgoing.begun.as_ref().map_or(0, |(it, sent)| {
                    it.bytes() - sent * (PART + HEADER)
                });
                prop_assert_eq!(outgoing.bytes(), lanes + begun);
            }
            while let Some((_, frame)) = outgoing.pop() {
                arrive(&frame);
            }
            push(&mut outgoing, To::Host(there), Kind::Ask, 0);
            let (_, last) = outgoing.pop().expect("it waits");
            arrive(&last);
            said[1].push((WorkerId(3), 0));
            counts = arrive(&outgoing.beat(b"").1);
            prop_assert_eq!(outgoing.bytes(), 0);
            prop_assert_eq!((counts.repeated, counts.refused), (0, 0));
            prop_assert!(counts.lost >= outgoing.dropped().frames);
            for (heard, said) in heard.iter().zip(&said) {
                let mut left = said.iter();
                prop_assert!(heard.iter().all(|one| left.any(|it| it == one)), "{heard:?} of {said:?}");
            }
            if outgoing.dropped().frames == 0 {
                prop_assert_eq!(counts.lost, 0);
                prop_assert_eq!(heard, said);
            }
        }
    }
}
