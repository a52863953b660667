//! A fleet as it is left to whoever goes on with it. Policies are not in it: they follow from the
//! generations' configurations.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::ids::Ids;
use super::slot::Slot;
use super::{Canary, Fleet, Generation, Policy, Roll};
use crate::worker::WorkerId;

/// A fleet. Times in it are since the same moment as those that it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    good: Generation,
    roll: Option<Rolling>,
    slots: Vec<Slot>,
    wanted: usize,
    last_id: u64,
    random: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rolling {
    to: Generation,
    wanted_before: usize,
    canary: Canary,
}

impl Fleet {
    /// As it is, but for outcomes that nobody has taken.
    pub fn snapshot(&self) -> Snapshot {
        let rolling = |roll: &Roll| Rolling {
            to: roll.to,
            wanted_before: roll.wanted_before,
            canary: roll.canary,
        };
        Snapshot {
            good: self.good,
            roll: self.roll.as_ref().map(rolling),
            slots: self.slots.clone(),
            wanted: self.wanted,
            last_id: self.ids.last().0,
            random: self.random,
        }
    }

    /// There has been a worker of this number, of which nothing was written down.
    pub fn has_had(&mut self, id: WorkerId) {
        self.ids.was_given(id);
    }

    /// The range that ids are of.
    pub fn ids(&self) -> RangeInclusive<u64> {
        self.ids.range()
    }

    /// Goes on with a fleet, with ids of this range from now on and the policy of each generation.
    pub fn resume(
        snapshot: Snapshot,
        ids: RangeInclusive<u64>,
        policy: impl Fn(Generation) -> Policy,
    ) -> Fleet {
        let Snapshot { good, roll, slots, wanted, last_id, random } = snapshot;
        let before = policy(good);
        let (policy, roll) = match roll {
            None => (before, None),
            Some(Rolling { to, wanted_before, canary }) => {
                (policy(to), Some(Roll { to, before, wanted_before, canary }))
            }
        };
        let ids = Ids::new(ids, last_id);
        let (stopping, outcomes) = (false, VecDeque::new());
        Fleet { policy, good, roll, slots, wanted, ids, random, stopping, outcomes }
    }
}

impl Snapshot {
    /// The generation that a roll under way leads to.
    pub fn rolls_to(&self) -> Option<Generation> {
        self.roll.as_ref().map(|roll| roll.to)
    }

    /// The generations that it can't go on without.
    pub fn generations(&self) -> impl Iterator<Item = Generation> {
        let members = self.slots.iter().flat_map(Slot::members).map(|member| member.generation);
        let rolled = self.roll.as_ref().map(|roll| roll.to);
        std::iter::once(self.good).chain(rolled).chain(members)
    }
}
