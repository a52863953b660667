//! One slot: its workers, of which there are two while one replaces the other, and how its
//! starts have gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Exit, Generation, Policy};
use crate::worker::WorkerId;

/// A worker in its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) id: WorkerId,
    pub(super) generation: Generation,
    /// It serves, but is to be replaced by one of its own generation.
    pub(super) stale: bool,
    pub(super) state: State,
}

/// What a worker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Starting {
        until: Duration,
    },
    Ready {
        since: Duration,
    },
    /// Its channel is closed; it should end by itself.
    HungUp {
        since: Option<Duration>,
        until: Duration,
    },
    /// To be killed for not working; that it was leaving anyway is its excuse.
    Unwell {
        leaving: bool,
    },
    /// It may go on with what it has begun.
    Draining {
        until: Duration,
    },
    /// What is left of that is being ended.
    Disconnecting {
        until: Duration,
    },
    /// Nothing is left in it.
    Empty,
    Stopping {
        way: usize,
        until: Duration,
    },
    /// What it did wrong, if anything, has been counted.
    Killed,
}

impl State {
    pub(super) fn until(self) -> Option<Duration> {
        match self {
            State::Starting { until }
            | State::HungUp { until, .. }
            | State::Draining { until }
            | State::Disconnecting { until }
            | State::Stopping { until, .. } => Some(until),
            State::Unwell { .. } | State::Empty => Some(Duration::ZERO),
            State::Ready { .. } | State::Killed => None,
        }
    }

    /// It serves or may come to.
    pub(super) fn is_live(self) -> bool {
        matches!(self, State::Starting { .. } | State::Ready { .. })
    }

    /// When it ends, that is no failure.
    pub(super) fn ends_by_our_wish(self) -> bool {
        matches!(
            self,
            State::Draining { .. }
                | State::Disconnecting { .. }
                | State::Empty
                | State::Stopping { .. }
                | State::Killed
                | State::Unwell { leaving: true }
        )
    }
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    members: Vec<Member>,
    /// Failures in a row.
    failures: u32,
    /// One of them was a worker that did not become ready in time.
    was_late: bool,
    /// No start before this.
    not_before: Duration,
    /// Its last exit was one after which nothing is started.
    given_up: bool,
}

impl Slot {
    pub(super) fn empty(now: Duration) -> Slot {
        Slot { members: Vec::new(), failures: 0, was_late: false, not_before: now, given_up: false }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub(super) fn member_mut(&mut self, id: WorkerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    pub(super) fn has(&self, id: WorkerId) -> bool {
        self.members.iter().any(|member| member.id == id)
    }

    pub(super) fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    pub(super) fn remove(&mut self, id: WorkerId) {
        self.members.retain(|member| member.id != id);
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.members.iter().any(|member| matches!(member.state, State::Ready { .. }))
    }

    /// It has a worker of this generation that serves and is to stay.
    pub(super) fn serves(&self, generation: Generation) -> bool {
        self.members.iter().any(|member| {
            member.generation == generation
                && !member.stale
                && matches!(member.state, State::Ready { .. })
        })
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    pub(super) fn is_hopeless(&self, tries: u32) -> bool {
        !self.is_ready() && (self.given_up || self.was_late || self.failures >= tries)
    }

    pub(super) fn may_start(&self, now: Duration) -> bool {
        !self.given_up && self.not_before <= now
    }

    /// No worker is started before this.
    pub(super) fn not_before(&self) -> Duration {
        self.not_before
    }

    /// A worker ended that should not have, or has to be replaced already.
    pub(super) fn failed(
        &mut self,
        policy: &Policy,
        member: &Member,
        exit: Option<Exit>,
        now: Duration,
        jitter: f64,
    ) {
        let (first, longest) = policy.backoff;
        if let State::Ready { since } | State::HungUp { since: Some(since), .. } = member.state
            && now >= since + longest
        {
            self.failures = 0;
        }
        self.was_late |= matches!(member.state, State::Starting { until } if until <= now);
        let doubled = first.saturating_mul(1 << self.failures.min(20)).min(longest);
        self.failures = self.failures.saturating_add(1);
        // Workers that fail together should not start together.
        self.not_before = now + doubled.mul_f64(jitter);
        self.given_up = exit.is_some_and(|exit| !policy.starts_again_after(exit));
    }

    /// Its workers are to be replaced, at once.
    pub(super) fn renew(&mut self) {
        self.members.iter_mut().for_each(|member| member.stale = true);
        self.forgive();
    }

    /// Begins anew: what is started next is something else.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.was_late = false;
        self.given_up = false;
        self.not_before = Duration::ZERO;
    }
}
