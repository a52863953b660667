//! What may go wrong for a client or an operator while all of this happens, and why. Whatever is not
//! excused here is a fault of cohortd's.
//!
//! - cohortd was killed: the connections that it had in its hands break, and commands go unanswered.
//!   A request that came later waits for the next one, and is answered.
//! - A worker died: what it was at fails. What may be repeated is, once, so that takes two.
//! - Nobody was ready for all the time that a request may wait: who was to be the next worker was
//!   struck as well.
//! - A worker leaves: its sessions end, properly.

use super::answers::Answer;
use super::history::{History, Life};
use super::storm::Death;
use super::{Strike, is_broken};

/// The log, a client and a command may be so many ms apart in what they take for the same moment,
/// on a machine that has other things to do.
const APART: u64 = 2000;

/// `[route] queue` of the app, in ms.
pub(super) const QUEUE: u64 = 8000;

/// In ms: until a command finds the next cohortd, when one was killed.
const BACK: u64 = 5000;

/// All that may excuse something.
pub(super) struct Excuses<'a> {
    pub(super) history: &'a History,
    /// cohortd's own.
    pub(super) deaths: &'a [Death],
}

/// A request that has not gone well. Times are in ms since 1970.
#[derive(Debug)]
pub(super) struct Failed<'a> {
    pub(super) kind: &'a str,
    pub(super) what: &'a str,
    pub(super) from: u64,
    pub(super) at: u64,
    /// It was under way when cohortd was killed.
    pub(super) struck: bool,
}

/// A session that is no more.
#[derive(Debug)]
pub(super) struct End<'a> {
    /// If its client came to ask who serves it.
    pub(super) worker: Option<u64>,
    pub(super) why: &'a str,
    pub(super) from: u64,
    pub(super) at: u64,
    pub(super) struck: bool,
}

impl Excuses<'_> {
    /// Whether a request may have gone wrong in this way.
    pub(super) fn fault(&self, failed: &Failed) -> bool {
        let Failed { kind, what, from, at, struck } = *failed;
        if struck && is_broken(what) {
            return true;
        }
        let died = self.history.died(from.saturating_sub(APART), at + APART);
        match (kind, what.split(' ').next()) {
            ("kept" | "new" | "slow" | "stream", Some("502")) => died >= 2,
            ("upload" | "strike", Some("502")) => died >= 1,
            // Its beginning has been passed on: what is missing can only be shown by a cut.
            ("stream", Some("cut")) => died >= 1,
            ("kept" | "new" | "slow" | "stream" | "upload" | "strike", Some("503")) => {
                self.nobody_was_ready(at)
            }
            // Many requests, some of which can't be repeated.
            ("polling" | "websocket" | "upgraded" | "pausing", _) => {
                what != "no answer" && !what.starts_with("worker ") && died >= 1
            }
            _ => false,
        }
    }

    /// The same for a request that is to befall a worker.
    pub(super) fn strike(&self, Strike { from, at, came }: &Strike) -> bool {
        let (from, at) = (*from, *at);
        let is_answered = came.starts_with(|c: char| c.is_ascii_digit());
        let struck = !is_answered && self.deaths.iter().any(|death| is_at(death, from, at));
        struck || self.fault(&Failed { kind: "strike", what: came, from, at, struck })
    }

    /// Whether a session may have ended in this way: never before its worker leaves, and properly if
    /// that was asked to.
    pub(super) fn end(&self, end: &End) -> bool {
        let End { worker, why, from, at, struck } = *end;
        let proper = match why {
            "transport close" | "transport close 1012" => true,
            // It had nothing under way, so nobody could tell it.
            "unknown" => true,
            // So late a request that its session was long over. Any worker may say that, or die.
            "transport error (xhr post error 400)" => true,
            "transport error (xhr post error 502)" => {
                self.history.died(at.saturating_sub(APART), at + APART) > 0
            }
            _ => false,
        };
        let left = |life: &Life| life.leaves.is_some_and(|leaves| leaves <= at + APART);
        let workers = &self.history.workers;
        let excused = match worker.and_then(|id| Some((id, workers.get(&id)?))) {
            Some((id, life)) => {
                left(life) && (proper || life.died(self.history.struck.contains(&id)).is_some())
            }
            None => workers
                .values()
                .any(|life| left(life) && life.leaves.is_some_and(|leaves| leaves + APART >= from)),
        };
        struck || excused
    }

    /// Whether nobody was there to answer a command, or not until its end.
    pub(super) fn answer(&self, answer: &Answer) -> bool {
        // `systemctl` has its own words, and not here.
        let says_so = answer.said.is_empty()
            || ["broke off", "does not run here"].iter().any(|text| answer.said.contains(text));
        let concerns = |death: &Death| answer.from <= death.to + BACK && answer.at >= death.from;
        answer.code == Some(1) && says_so && self.deaths.iter().any(concerns)
    }

    /// Whether a request may have waited in vain until this moment.
    fn nobody_was_ready(&self, at: u64) -> bool {
        let (from, to) = (at - QUEUE + APART, at - APART);
        let was_ready = |life: &Life| {
            life.ready.is_some_and(|ready| ready < to && life.leaves.is_none_or(|at| at > from))
        };
        let was_struck = |(id, life): (&u64, &Life)| {
            let end = life.end.as_ref().map_or(u64::MAX, |(at, _)| *at);
            self.history.struck.contains(id)
                && life.ready.is_none()
                && life.started < to
                && end > from
        };
        let workers = &self.history.workers;
        !workers.values().any(was_ready) && workers.iter().any(was_struck)
    }
}

/// Whether it was in this time that cohortd was killed.
fn is_at(death: &Death, from: u64, at: u64) -> bool {
    from <= death.to && at >= death.from
}
