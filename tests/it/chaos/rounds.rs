//! cohortd is killed in the middle of something, round after round, and each time the fleet has to
//! settle: nothing under way, one worker a slot, and no process that nobody knows.

use std::thread;
use std::time::Duration;

use super::decisions::{Random, Round};
use super::way::Way;
use super::{Pace, Run, environment};
use crate::app::Spec;

/// How long it may take until a fleet is in order again.
const SETTLES: Duration = Duration::from_secs(60);

/// After so many rounds every session has to hear every other.
const PART: u64 = 50;

/// Fast, so that there are many; but a release that crashes soon is found by its canary.
const PACE: Pace = Pace { ready: "6s", canary: "1s", drain: "500ms" };

pub(super) fn survive(seed: u64, start: impl FnOnce(&Spec, u64) -> Box<dyn Way>) {
    let rounds = environment("CHAOS_ROUNDS").unwrap_or(PART);
    eprintln!("=== CHAOS_SEED={seed} CHAOS_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let mut run = Run::start(seed, &mut random, PACE, start);
    let before = run.calm();
    let mut calms = Vec::new();
    run.storm.resume();
    for n in 1..=rounds {
        let settles = run.round(Round::decide(&mut random));
        assert!(settles, "{}", run.wrong.join("\n"));
        if n % PART == 0 || n == rounds {
            calms.push(run.calm());
            run.storm.resume();
        }
    }
    run.end(&before, &calms);
}

impl Run {
    /// Whether it settles.
    fn round(&mut self, Round { first, after, blow }: Round) -> bool {
        self.carry_out(first);
        thread::sleep(Duration::from_millis(after));
        self.carry_out(blow);
        let round = format!("settled after act {}", self.acts);
        let settles = self.comes_to_be_within(SETTLES, &round, |run| {
            run.asked.iter().all(|asked| asked.is_finished())
                && run.is_settled()
                && run.strangers().is_empty()
                && run.app.disorder(&run.workers()).is_empty()
        });
        if !settles {
            let unanswered = self.asked.iter().filter(|asked| !asked.is_finished()).count();
            self.wrong.extend(self.app.disorder(&self.workers()));
            self.wrong.push(format!(
                "{unanswered} commands are not answered; strangers: {:?}; {:?}",
                self.strangers(),
                self.history()
            ));
        }
        settles
    }
}
