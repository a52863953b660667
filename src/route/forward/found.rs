//! At which other host each session was found. Pure.
//!
//! It forgets whatever has not been asked for among the last [`MOST`] or more: what is forgotten is
//! sought again.

use std::collections::HashMap;

use crate::relay::bus::wire::HostId;

/// So many are remembered for sure, and twice as many at most.
const MOST: usize = 32_768;

/// Sessions of other hosts.
#[derive(Debug, Default)]
pub struct Found {
    young: HashMap<Box<str>, HostId>,
    old: HashMap<Box<str>, HostId>,
}

impl Found {
    /// A session is there.
    pub fn put(&mut self, sid: &str, host: HostId) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(sid.into(), host);
    }

    /// Where a session is.
    pub fn find(&mut self, sid: &str) -> Option<HostId> {
        if let Some(host) = self.young.get(sid) {
            return Some(*host);
        }
        let host = self.old.remove(sid)?;
        self.put(sid, host);
        Some(host)
    }

    /// It is not there any more.
    pub fn forget(&mut self, sid: &str) {
        self.young.remove(sid);
        self.old.remove(sid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0xa);
    const B: HostId = HostId(0xb);

    #[test]
    fn the_last_word_counts() {
        let mut found = Found::default();
        assert_eq!(found.find("x"), None);
        found.put("x", A);
        found.put("x", B);
        assert_eq!(found.find("x"), Some(B));
        (0..MOST).for_each(|n| found.put(&n.to_string(), A));
        found.put("x", A);
        found.forget("x");
        assert_eq!(found.find("x"), None, "neither the old word");
    }

    #[test]
    fn what_is_asked_for_stays_and_there_are_not_too_many() {
        let mut found = Found::default();
        found.put("x", A);
        for n in 0..5 * MOST {
            found.put(&n.to_string(), B);
            if n % 1000 == 0 {
                assert_eq!(found.find("x"), Some(A));
            }
        }
        assert!(found.young.len() + found.old.len() <= 2 * MOST);
        assert_eq!(found.find("0"), None);
        assert_eq!(found.find(&(5 * MOST - 1).to_string()), Some(B));
    }
}
