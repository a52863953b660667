//! The numbers that workers get, one after the other.

use std::ops::RangeInclusive;

use crate::worker::WorkerId;

/// Numbers of a range that go round: after the largest comes the smallest. There have to be more than
/// there are workers at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    range: RangeInclusive<u64>,
    /// The last one that was given, or what lies outside of the range before there was any.
    last: u64,
}

impl Ids {
    pub(super) fn new(range: RangeInclusive<u64>, last: u64) -> Ids {
        Ids { range, last }
    }

    pub(super) fn range(&self) -> RangeInclusive<u64> {
        self.range.clone()
    }

    pub(super) fn last(&self) -> WorkerId {
        WorkerId(self.last)
    }

    /// The next one that no worker has.
    pub(super) fn next(&mut self, has: impl Fn(WorkerId) -> bool) -> WorkerId {
        loop {
            let goes_on = self.range.contains(&self.last) && self.last != *self.range.end();
            self.last = if goes_on { self.last + 1 } else { *self.range.start() };
            if !has(self.last()) {
                return self.last();
            }
        }
    }

    /// This one was given, too, and those up to it: which of two came later, the shorter way round
    /// tells.
    pub(super) fn was_given(&mut self, WorkerId(id): WorkerId) {
        if !self.range.contains(&id) {
            return;
        }
        let count = self.range.end() - self.range.start() + 1;
        let is_later = |last: u64| (id + count - last) % count < count / 2;
        if !self.range.contains(&self.last) || is_later(self.last) {
            self.last = id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(ids: &mut Ids, count: usize, has: &[u64]) -> Vec<u64> {
        (0..count).map(|_| ids.next(|id| has.contains(&id.0)).0).collect()
    }

    #[test]
    fn numbers_go_round_and_leave_out_those_in_use() {
        let mut ids = Ids::new(11..=15, 0);
        assert_eq!(given(&mut ids, 7, &[]), [11, 12, 13, 14, 15, 11, 12]);
        assert_eq!(given(&mut ids, 4, &[13, 15, 11]), [14, 12, 14, 12]);
        // Of another range: the host had another number.
        for last in [9, 10, 16, 70_000] {
            assert_eq!(given(&mut Ids::new(11..=15, last), 2, &[11]), [12, 13], "{last}");
        }
    }

    #[test]
    fn what_was_given_unseen_is_not_given_again_at_once() {
        for (last, unseen, next) in [
            (13, 15, 16),
            (15, 13, 16),
            (15, 15, 16),
            (20, 11, 12), // it has gone round
            (11, 20, 12),
            (13, 99, 14),
            (0, 15, 16),
        ] {
            let mut ids = Ids::new(11..=20, last);
            ids.was_given(WorkerId(unseen));
            assert_eq!(given(&mut ids, 1, &[]), [next], "{last}, {unseen}");
        }
    }
}
