//! Which workers there should be, and the one next step towards that. Pure: events and the time
//! in, actions out.
//!
//! Level-triggered: [`Fleet::step`] compares what is with what is wanted and returns one action at
//! a time, until there is none; the caller carries it out and reports what happened. There is one
//! way to replace a worker, whatever the reason: its successor starts beside it, becomes ready, and
//! only then is the old one drained and stopped. Times are since any fixed moment.
//!
//! What always holds (and the simulation in the tests checks):
//! - no two workers have the same id, and a slot never has more than two workers;
//! - there are at most `surge` workers more than slots;
//! - a worker that serves is not drained for a roll before its successor serves and, if it is the
//!   canary, has stayed well;
//! - the old generation stays in every slot until the canary has passed, also when it crashes there;
//! - a failed roll ends with the old generation in every slot, and every roll is answered once.

mod ids;
mod policy;
mod report;
#[cfg(test)]
mod simulation;
mod slot;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use ids::Ids;
pub use policy::{Exit, Policy, Restart};
pub use report::{Action, Failure, How, Outcome, Renewed, Startup, Summary, Why};
use serde::{Deserialize, Serialize};
use slot::{Member, Slot, State};
pub use snapshot::Snapshot;

use crate::worker::WorkerId;

/// A number for everything that one reading of the configuration started. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ids of workers of an app that has no other hosts: all that Node can keep.
const IDS: RangeInclusive<u64> = 1..=i32::MAX as u64;

/// How a worker ends that is killed: SIGKILL.
const KILLED: Exit = Exit::Signal(9);

/// How long it may take to end what a worker has left; that bounds itself before.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(900);

/// Failures in a row after which a slot is not waited for at startup.
const STARTUP_TRIES: u32 = 3;

/// The workers of one app.
#[derive(Debug)]
pub struct Fleet {
    policy: Policy,
    /// What every slot has, or goes back to when a roll fails.
    good: Generation,
    roll: Option<Roll>,
    slots: Vec<Slot>,
    wanted: usize,
    ids: Ids,
    stopping: bool,
    random: u64,
    outcomes: VecDeque<Outcome>,
}

/// A roll that is under way.
#[derive(Debug)]
struct Roll {
    to: Generation,
    /// The policy before, for going back.
    before: Policy,
    /// How many slots there were before.
    wanted_before: usize,
    canary: Canary,
}

/// The first worker of a new generation serves alone beside the old ones for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Canary {
    /// It is not ready yet.
    Awaited,
    /// It has to stay well until then.
    Watched(Duration),
    /// The others may follow.
    Passed,
}

impl Fleet {
    /// With every slot empty, of generation 1; `seed` is for the jitter of the backoff.
    pub fn new(policy: Policy, slots: usize, seed: u64) -> Fleet {
        Fleet {
            policy,
            good: Generation(1),
            roll: None,
            slots: Vec::new(),
            wanted: slots,
            ids: Ids::new(IDS, 0),
            stopping: false,
            random: seed | 1,
            outcomes: VecDeque::new(),
        }
    }

    /// Ids of new workers are of this range. Node keeps 31 bits of them.
    pub fn number_in(&mut self, range: RangeInclusive<u64>) {
        self.ids = Ids::new(range, self.ids.last().0);
    }

    /// Begins a roll to a generation with this policy and number of slots.
    ///
    /// # Panics
    /// When one is under way: ask [`Fleet::is_rolling`] first.
    pub fn roll(&mut self, to: Generation, policy: Policy, slots: usize) {
        assert!(self.roll.is_none(), "one roll at a time");
        let before = std::mem::replace(&mut self.policy, policy);
        let wanted_before = std::mem::replace(&mut self.wanted, slots);
        self.roll = Some(Roll { to, before, wanted_before, canary: Canary::Awaited });
        // What the old generation did wrong is not the new one's fault.
        self.slots.iter_mut().for_each(Slot::forgive);
    }

    /// Whether a roll is under way.
    pub fn is_rolling(&self) -> bool {
        self.roll.is_some()
    }

    /// The generation whose canary has not passed yet.
    pub fn on_trial(&self) -> Option<Generation> {
        self.roll.as_ref().filter(|roll| roll.canary != Canary::Passed).map(|roll| roll.to)
    }

    /// All workers, and whether each is there only until another has taken its place.
    pub fn standings(&self) -> impl Iterator<Item = (WorkerId, bool)> {
        self.slots.iter().enumerate().flat_map(|(at, slot)| {
            let target = self.target(at);
            let stays = move |m: &Member| !m.stale && target == Some(m.generation);
            slot.members().map(move |m| (m.id, !stays(m)))
        })
    }

    /// How rolls have ended since the last call.
    pub fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// From now on there should be so many workers.
    pub fn scale(&mut self, slots: usize) {
        self.wanted = slots;
        if let Some(roll) = &mut self.roll {
            roll.wanted_before = slots;
        }
    }

    /// How many workers there should be.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// The next thing to do, if there is any at this time. To be asked again until there is none.
    pub fn step(&mut self, now: Duration) -> Option<Action> {
        self.watch_canary(now);
        self.tidy(now);
        let action = self
            .end_what_is_late(now)
            .or_else(|| if self.stopping { self.end_everything(now) } else { self.replace(now) });
        if action.is_none() {
            self.finish_roll();
        }
        action
    }

    /// When [`Fleet::step`] has to be asked again though nothing has happened.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let canary = match &self.roll {
            Some(Roll { canary: Canary::Watched(until), .. }) => Some(*until),
            _ => None,
        };
        let members = self.members().filter_map(|member| member.state.until());
        let starts = self.slots.iter().map(Slot::not_before).filter(|_| !self.stopping);
        members.chain(starts).chain(canary).filter(|at| *at > now).min()
    }

    /// A worker serves. Returns whether that is new: not for one that is being stopped.
    pub fn ready(&mut self, id: WorkerId, now: Duration) -> bool {
        let Some(member) = self.member_mut(id) else { return false };
        if !matches!(member.state, State::Starting { .. }) {
            return false;
        }
        member.state = State::Ready { since: now };
        let generation = member.generation;
        let canary = self.policy.canary;
        if let Some(roll) = &mut self.roll
            && roll.to == generation
            && roll.canary == Canary::Awaited
        {
            roll.canary = Canary::Watched(now + canary);
        }
        true
    }

    /// A worker is to be replaced: it works, but should not for much longer. A canary of which
    /// that is said has not stayed well. One that comes to it soon after its start is not replaced
    /// at once, or there would be no end of it. Returns whether that is news.
    pub fn recycle(&mut self, id: WorkerId, now: Duration) -> bool {
        let Some(member) = self.member_mut(id).filter(|m| m.state.is_live() && !m.stale) else {
            return false;
        };
        member.stale = true;
        let member = member.clone();
        self.failed(&member, None, now);
        if self.roll.as_ref().is_some_and(|roll| roll.canary != Canary::Passed) {
            self.blame(id, member.generation, How::Unwell);
        }
        true
    }

    /// A slot's worker is to be replaced because somebody says so: its successor is ready before it
    /// goes, and where nobody is, one is started at once. Not while a roll is under way. Returns those
    /// that are there now, or `None` where there is no such slot.
    pub fn renew(&mut self, slot: usize) -> Option<Vec<WorkerId>> {
        let slot = self.slots.get_mut(slot).filter(|_| self.roll.is_none())?;
        slot.renew();
        Some(slot.members().map(|member| member.id).collect())
    }

    /// How a slot is that was renewed when these workers were there.
    pub fn renewed(&self, slot: usize, before: &[WorkerId]) -> Renewed {
        let Some(slot) = self.slots.get(slot) else { return Renewed::Gone };
        let mut members = slot.members();
        match (members.next(), members.next()) {
            (Some(member), None) if !before.contains(&member.id) && slot.is_ready() => {
                Renewed::Serves(member.id)
            }
            _ if slot.failures() > 0 => Renewed::Failed,
            _ => Renewed::Pending,
        }
    }

    /// A worker does not work any more (it hangs, or fails its checks): it is killed, and replaced
    /// when it is gone. One that is drained will not finish anything, and is killed as well. Returns
    /// whether that is so: not for one that is being stopped.
    pub fn unwell(&mut self, id: WorkerId) -> bool {
        let Some(member) = self.member_mut(id) else { return false };
        let leaving = match member.state {
            State::Starting { .. } | State::Ready { .. } => false,
            State::Draining { .. } | State::Disconnecting { .. } => true,
            _ => return false,
        };
        member.state = State::Unwell { leaving };
        true
    }

    /// A worker has closed its channel: it can't serve any more, and ends by itself or is stopped.
    pub fn hung_up(&mut self, id: WorkerId, now: Duration) {
        let until = now + self.policy.ask_timeout;
        let Some(member) = self.member_mut(id) else { return };
        let since = match member.state {
            State::Starting { .. } => None,
            State::Ready { since } => Some(since),
            _ => return,
        };
        member.state = State::HungUp { since, until };
    }

    /// Nothing is left in a worker that is drained.
    pub fn drained(&mut self, id: WorkerId) {
        if let Some(member) = self.member_mut(id)
            && matches!(member.state, State::Draining { .. } | State::Disconnecting { .. })
        {
            member.state = State::Empty;
        }
    }

    /// A worker's process is gone.
    pub fn exited(&mut self, id: WorkerId, exit: Exit, now: Duration) {
        let Some(member) = self.member_mut(id).cloned() else { return };
        if !member.state.ends_by_our_wish() {
            self.failed(&member, Some(exit), now);
            self.blame(id, member.generation, How::Exited(exit));
        }
        self.slots.iter_mut().for_each(|slot| slot.remove(id));
    }

    /// No worker is wanted any more.
    pub fn stop(&mut self) {
        self.stopping = true;
        if let Some(roll) = self.roll.take() {
            let failure = Failure { worker: self.ids.last(), how: How::Stopped };
            self.outcomes.push_back(Outcome { generation: roll.to, result: Err(failure) });
        }
    }

    /// What was begun with workers and may have been lost, as actions to do again: for a fleet that
    /// is gone on with.
    pub fn unfinished(&self) -> Vec<Action> {
        let action = |member: &Member| {
            let id = member.id;
            match member.state {
                State::Draining { .. } => Some(Action::Drain { id }),
                State::Disconnecting { .. } => Some(Action::Disconnect { id }),
                State::Stopping { way, .. } if way < self.policy.asks => {
                    Some(Action::Ask { id, way })
                }
                State::Stopping { .. } => Some(Action::Kill { id, why: Why::Unwell }),
                State::Killed => Some(Action::Kill { id, why: Why::GivenUp }),
                State::Starting { .. }
                | State::Ready { .. }
                | State::HungUp { .. }
                | State::Unwell { .. }
                | State::Empty => None,
            }
        };
        self.members().filter_map(action).collect()
    }

    /// All workers that there should be, with their slots and generations.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, usize, Generation)> {
        let members = |(at, slot): (usize, &'_ Slot)| {
            slot.members().map(move |m| (m.id, at, m.generation)).collect::<Vec<_>>()
        };
        self.slots.iter().enumerate().flat_map(members)
    }

    /// Whether requests can be sent to a worker, if only of its own sessions.
    pub fn serves(&self, id: WorkerId) -> bool {
        let serves = |state| {
            matches!(
                state,
                State::Ready { .. } | State::Draining { .. } | State::Disconnecting { .. }
            )
        };
        self.members().any(|m| m.id == id && serves(m.state))
    }

    /// Whether a worker is not ready yet.
    pub fn is_starting(&self, id: WorkerId) -> bool {
        self.members().any(|m| m.id == id && matches!(m.state, State::Starting { .. }))
    }

    /// Whether no worker is left.
    pub fn is_empty(&self) -> bool {
        self.members().next().is_none()
    }

    /// Whether a worker's end is of our own making.
    pub fn is_leaving(&self, id: WorkerId) -> bool {
        self.members().any(|member| member.id == id && member.state.ends_by_our_wish())
    }

    /// What a worker is at, in an operator's word.
    pub fn state_of(&self, id: WorkerId) -> &'static str {
        match self.members().find(|member| member.id == id).map(|member| member.state) {
            Some(State::Starting { .. }) => "starting",
            Some(State::Ready { .. }) => "ready",
            Some(State::Draining { .. }) => "draining",
            Some(State::Disconnecting { .. }) => "disconnecting",
            Some(
                State::HungUp { .. } | State::Unwell { .. } | State::Empty | State::Stopping { .. },
            ) => "stopping",
            Some(State::Killed) => "killed",
            None => "gone",
        }
    }

    /// Whether the app has come up.
    pub fn startup(&self) -> Startup {
        let known = self.slots.len() == self.wanted;
        if known
            && self.slots.iter().any(Slot::is_ready)
            && self.slots.iter().all(|slot| slot.is_ready() || slot.failures() > 0)
        {
            Startup::Up
        } else if known && self.slots.iter().all(|slot| slot.is_hopeless(STARTUP_TRIES)) {
            Startup::Failed
        } else {
            Startup::Pending
        }
    }

    /// How many slots are in which state.
    pub fn summary(&self) -> Summary {
        let slots = self.slots.iter().take(self.wanted);
        let mut summary = Summary { slots: self.wanted, ..Summary::default() };
        for slot in slots {
            *match slot {
                slot if slot.is_ready() => &mut summary.ready,
                slot if slot.is_given_up() => &mut summary.empty,
                slot if slot.failures() > 0 && slot.is_vacant() => &mut summary.waiting,
                _ => &mut summary.starting,
            } += 1;
        }
        summary.leaving = self.members().filter(|member| member.state.ends_by_our_wish()).count();
        summary.rolled = self.roll.as_ref().map(|roll| {
            self.slots.iter().filter(|slot| slot.serves(roll.to)).count().min(self.wanted)
        });
        summary
    }
}

impl Fleet {
    fn members(&self) -> impl Iterator<Item = &Member> {
        self.slots.iter().flat_map(Slot::members)
    }

    fn member_mut(&mut self, id: WorkerId) -> Option<&mut Member> {
        self.slots.iter_mut().find_map(|slot| slot.member_mut(id))
    }

    /// How many slots there should be now: a roll changes that only behind its canary.
    fn size(&self) -> usize {
        match &self.roll {
            Some(roll) if roll.canary != Canary::Passed => roll.wanted_before,
            _ => self.wanted,
        }
    }

    /// What a slot should have.
    fn target(&self, slot: usize) -> Option<Generation> {
        match &self.roll {
            _ if slot >= self.size() => None,
            Some(roll) if slot == 0 || roll.canary == Canary::Passed => Some(roll.to),
            _ => Some(self.good),
        }
    }

    fn watch_canary(&mut self, now: Duration) {
        if let Some(roll) = &mut self.roll
            && matches!(roll.canary, Canary::Watched(until) if until <= now)
        {
            roll.canary = Canary::Passed;
        }
    }

    /// There is a slot for each that is wanted, and none above that has nobody in it.
    fn tidy(&mut self, now: Duration) {
        let size = self.size();
        while !self.stopping && self.slots.len() < size {
            self.slots.push(Slot::empty(now));
        }
        while self.slots.len() > size && self.slots.last().is_some_and(Slot::is_vacant) {
            self.slots.pop();
        }
    }

    /// Time limits of workers, in whatever generation.
    fn end_what_is_late(&mut self, now: Duration) -> Option<Action> {
        let late = |member: &Member| member.state.until().is_some_and(|until| until <= now);
        let member = self.members().find(|m| late(m))?.clone();
        let id = member.id;
        let killed = |why| (State::Killed, Action::Kill { id, why });
        let (state, action) = match member.state {
            State::Starting { .. } => killed(Why::NotReady),
            State::HungUp { .. } => killed(Why::NotStopped),
            // Should that not end it, it is killed like one that does not stop.
            State::Unwell { .. } => {
                let (way, until) = (self.policy.asks, now + self.policy.ask_timeout);
                (State::Stopping { way, until }, Action::Kill { id, why: Why::Unwell })
            }
            State::Draining { .. } => {
                let until = now + DISCONNECT_LIMIT;
                (State::Disconnecting { until }, Action::Disconnect { id })
            }
            State::Disconnecting { .. } | State::Empty => self.policy.ask(id, 0, now),
            State::Stopping { way, .. } => self.policy.ask(id, way + 1, now),
            State::Ready { .. } | State::Killed => unreachable!("they have no time limit"),
        };
        self.member_mut(id)?.state = state;
        if !member.state.ends_by_our_wish() {
            // What is started in its place waits from now on, not from when it is gone.
            let how = match member.state {
                State::Starting { .. } => How::NotReady,
                _ => How::Unwell,
            };
            self.failed(&member, Some(KILLED), now);
            self.blame(id, member.generation, how);
        }
        Some(action)
    }

    fn end_everything(&mut self, now: Duration) -> Option<Action> {
        let unasked = |m: &&Member| {
            !matches!(m.state, State::Stopping { .. } | State::Killed | State::Unwell { .. })
        };
        let id = self.members().find(unasked)?.id;
        let (state, action) = self.policy.ask(id, 0, now);
        self.member_mut(id)?.state = state;
        Some(action)
    }

    /// A worker has done wrong: its slot waits before the next start. `exit` is how it ends.
    fn failed(&mut self, member: &Member, exit: Option<Exit>, now: Duration) {
        let jitter = 0.75 + self.fraction() / 2.0;
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.has(member.id)) {
            slot.failed(&self.policy, member, exit, now, jitter);
        }
    }

    /// One step of bringing slots to what they should have.
    fn replace(&mut self, now: Duration) -> Option<Action> {
        (0..self.slots.len()).find_map(|at| self.replace_in(at, now))
    }

    fn replace_in(&mut self, at: usize, now: Duration) -> Option<Action> {
        let target = self.target(at);
        let watched = at == 0 && self.on_trial().is_some();
        let slot = &self.slots[at];
        let fits = |m: &&Member| Some(m.generation) == target && !m.stale && m.state.is_live();
        let successor = slot.members().find(fits);
        let others = || slot.members().filter(|m| m.state.is_live() && !fits(m));
        // The one that is missed least goes first.
        let serves = |m: &&Member| matches!(m.state, State::Ready { .. });
        let other = others().min_by_key(|m| (serves(m), Some(m.generation) == target, !m.stale));
        // Beside a canary there is one of the old generation: if the canary fails, it goes on.
        let is_kept = |m: &&Member| watched && m.generation == self.good && !m.stale;
        let missing = match (target, successor, other) {
            (Some(_), Some(_), None) if watched => Some(self.good),
            (Some(generation), None, _) => Some(generation),
            _ => None,
        };
        match (target, successor, other) {
            // Not wanted any more.
            (None, _, Some(other)) => Some(self.retire(other.id, now)),
            // One that does not serve yet, of what is not wanted any more, is not waited for.
            (Some(_), _, Some(other)) if !serves(&other) && !is_kept(&other) => {
                Some(self.retire(other.id, now))
            }
            // Replaced by one that serves and has been watched.
            (Some(_), Some(new), Some(other)) if serves(&new) && !watched => {
                Some(self.retire(other.id, now))
            }
            // Replaced before, when now both have to be.
            (Some(_), None, Some(other)) if others().count() > 1 => {
                Some(self.retire(other.id, now))
            }
            _ => {
                let generation = missing.filter(|_| self.may_start(at, now))?;
                let slots = &self.slots;
                let id = self.ids.next(|id| slots.iter().any(|slot| slot.has(id)));
                let state = State::Starting { until: now + self.policy.ready_timeout };
                self.slots[at].add(Member { id, generation, stale: false, state });
                Some(Action::Start { slot: at, id, generation })
            }
        }
    }

    fn may_start(&self, at: usize, now: Duration) -> bool {
        let slot = &self.slots[at];
        let surging = self.slots.iter().filter(|slot| slot.members().count() > 1).count();
        let beside = slot.members().count();
        // Whether that is a failure, and how long to wait for it, its end will tell.
        let ends = slot.members().any(|m| matches!(m.state, State::HungUp { .. }));
        let has_room = beside == 0 || (beside == 1 && surging < self.policy.surge);
        slot.may_start(now) && !ends && has_room
    }

    /// A worker has to go: one that serves is drained, one that does not yet is not waited for.
    fn retire(&mut self, id: WorkerId, now: Duration) -> Action {
        let until = now + self.policy.drain;
        let member = self.member_mut(id).expect("found a moment ago");
        if matches!(member.state, State::Starting { .. }) {
            member.state = State::Killed;
            Action::Kill { id, why: Why::GivenUp }
        } else {
            member.state = State::Draining { until };
            Action::Drain { id }
        }
    }

    /// A worker of a generation has failed: if that is the one rolled to, the roll is undone.
    fn blame(&mut self, worker: WorkerId, generation: Generation, how: How) {
        let Some(roll) = self.roll.take_if(|roll| roll.to == generation) else { return };
        self.policy = roll.before;
        self.wanted = roll.wanted_before;
        self.slots.iter_mut().for_each(Slot::forgive);
        let result = Err(Failure { worker, how });
        self.outcomes.push_back(Outcome { generation, result });
    }

    /// A roll is over when every slot serves the new generation and nobody else is there.
    fn finish_roll(&mut self) {
        let over = |roll: &mut Roll| {
            roll.canary == Canary::Passed
                && self.slots.len() == self.wanted
                && self.slots.iter().all(|slot| slot.serves(roll.to) && slot.members().count() == 1)
        };
        if let Some(roll) = self.roll.take_if(over) {
            self.good = roll.to;
            self.outcomes.push_back(Outcome { generation: roll.to, result: Ok(()) });
        }
    }

    /// The next pseudo-random number from 0 to 1 (xorshift64).
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}
