//! Where a client belongs that has no session: by a cookie, a header or its address. Pure.
//!
//! A place is a slot, not a worker: what takes a worker's place takes its clients. A key finds its
//! slot by rendezvous hashing (Thaler and Ravishankar, 1998): with one slot more or less of n, one
//! of n keys moves.

use crate::fnv;

/// What decides where a request goes that could go anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// Nothing, not even the sessions of Socket.IO.
    Off,
    /// The sessions of Socket.IO only.
    Sessions,
    /// They, then the cookie that we issue, then one of the app's.
    Cookie(String),
    /// They, then a header.
    Header(String),
    /// They, then the client's address.
    Address,
}

/// Where a request belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Anywhere.
    Anywhere,
    /// In this slot.
    Slot(usize),
    /// In the slot that [`slot_of`] finds for this.
    Key(u64),
}

/// The cookie that we issue. Its value is a slot.
pub const COOKIE: &str = "cohortd_route";

/// By the cookies of a request: ours, or else this one of the app's.
pub fn by_cookie<'a>(headers: impl Iterator<Item = &'a [u8]> + Clone, name: &str) -> Affinity {
    let value = |name: &str| cookie(headers.clone(), name);
    let issued = value(COOKIE).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    match (issued, value(name)) {
        (Some(slot), _) => Affinity::Slot(slot),
        (None, Some(value)) => Affinity::Key(fnv::hash(value)),
        (None, None) => Affinity::Anywhere,
    }
}

/// A cookie's value.
pub fn cookie<'a>(headers: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.flat_map(|header| header.split(|byte| *byte == b';'));
    let mut pairs = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((&pair[..at], &pair[at + 1..]))
    });
    pairs.find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
}

/// By what a request brings along, if it does.
pub fn by(value: Option<&[u8]>) -> Affinity {
    value.map_or(Affinity::Anywhere, |value| Affinity::Key(fnv::hash(value)))
}

/// The slot for a key among those that there are.
pub fn slot_of(key: u64, slots: impl Iterator<Item = usize>) -> Option<usize> {
    slots.max_by_key(|slot| mixed(key ^ mixed(*slot as u64 + 1)))
}

/// The finalizer of splitmix64: every bit of the input changes half of those of the output.
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_cookie(header: &str) -> Affinity {
        by_cookie(std::iter::once(header.as_bytes()), "sid")
    }

    #[test]
    fn our_cookie_comes_before_the_app_s() {
        assert_eq!(of_cookie("a=b; sid=x; cohortd_route=3"), Affinity::Slot(3));
        assert_eq!(of_cookie("sid=x"), by(Some(b"x")));
        assert_eq!(of_cookie(" a=1;sid=x;b=2"), by(Some(b"x")), "with and without spaces");
        assert_eq!(of_cookie("xsid=x; sidx=x; sid"), Affinity::Anywhere);
        assert_eq!(of_cookie("cohortd_route=x; sid=y"), by(Some(b"y")), "nonsense is not ours");
        assert_eq!(of_cookie("cohortd_route=99999999999999999999999"), Affinity::Anywhere);
        assert_eq!(of_cookie(""), Affinity::Anywhere);
        let two = [&b"a=1"[..], b"sid=x"];
        assert_eq!(by_cookie(two.into_iter(), "sid"), by(Some(b"x")), "of several lines");
    }

    #[test]
    fn keys_spread_evenly_and_few_of_them_move() {
        const KEYS: usize = 20_000;
        let keys: Vec<u64> =
            (0..KEYS).map(|n| fnv::hash(format!("192.0.2.{n}").as_bytes())).collect();
        let place = |key: u64, n: usize| slot_of(key, 0..n).expect("there are slots");
        for n in [2, 4, 7] {
            let mut counts = vec![0_usize; n];
            keys.iter().for_each(|key| counts[place(*key, n)] += 1);
            let fair = KEYS / n;
            assert!(counts.iter().all(|c| c.abs_diff(fair) < fair / 10), "{counts:?}");
            let moved = keys.iter().filter(|key| place(**key, n) != place(**key, n + 1)).count();
            assert!(moved.abs_diff(KEYS / (n + 1)) < KEYS / 50, "{moved} moved at {n}");
            let to_the_new = |key: &&u64| place(**key, n + 1) == n;
            assert_eq!(keys.iter().filter(to_the_new).count(), moved, "nobody else");
        }
        assert_eq!(slot_of(1, 0..0), None);
    }

    #[test]
    fn a_key_stays_what_it_is() {
        assert_eq!(by(Some(b"")), Affinity::Key(0xcbf2_9ce4_8422_2325));
        assert_eq!(by(Some(b"a")), Affinity::Key(0xaf63_dc4c_8601_ec8c));
    }
}
