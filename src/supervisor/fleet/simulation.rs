//! Random histories of a fleet. The world may do to a worker whatever it likes, at any time; what
//! the fleet promises has to hold at every step, and every history has to settle.
//!
//! A failing seed is printed; `FLEET_SEED=N` runs that one alone, `FLEET_HISTORIES=N` that many.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::*;

const HISTORIES: u64 = 100_000;

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % sides
    }
}

/// A worker as the world knows it.
#[derive(Debug, Clone, Copy)]
struct Process {
    slot: usize,
    generation: Generation,
    ready: Option<Duration>,
    /// Told to go.
    leaving: bool,
    /// Its channel is closed.
    hung_up: bool,
}

struct World {
    fleet: Fleet,
    dice: Dice,
    now: Duration,
    processes: BTreeMap<WorkerId, Process>,
    ids: RangeInclusive<u64>,
    /// How many workers there were.
    started: u64,
    canary: Duration,
    surge: usize,
    /// Every number of slots that was ever wanted.
    most_slots: usize,
    /// When something last went wrong in a slot, unless a roll has begun or ended since.
    failed_at: BTreeMap<usize, Duration>,
    good: Generation,
    rolling: Option<Generation>,
    next_generation: u64,
    scaled: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let slots = 1 + dice.roll(4) as usize;
        let surge = 1 + dice.roll(2) as usize;
        let canary = Duration::from_millis([0, 500, 10_000][dice.roll(3) as usize]);
        let ids = 71..=[90, 100_000][dice.roll(2) as usize];
        let mut fleet = Fleet::new(policy(surge, canary), slots, seed);
        fleet.number_in(ids.clone());
        World {
            fleet,
            dice,
            now: Duration::ZERO,
            processes: BTreeMap::new(),
            ids,
            started: 0,
            canary,
            surge,
            most_slots: slots,
            failed_at: BTreeMap::new(),
            good: Generation(1),
            rolling: None,
            next_generation: 2,
            scaled: false,
        }
    }

    fn any(&mut self) -> Option<WorkerId> {
        let ids: Vec<WorkerId> = self.processes.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.dice.roll(ids.len() as u64) as usize])
    }

    /// Carries out every step that is due, and checks each.
    fn carry_out(&mut self) {
        while let Some(action) = self.fleet.step(self.now) {
            self.hear_outcomes();
            match action {
                Action::Start { slot, id, generation } => {
                    self.started += 1;
                    assert!(!self.processes.contains_key(&id), "no two have the same id");
                    assert!(self.ids.contains(&id.0), "{id} is of the range");
                    let is_next = id.0 == self.ids.start() + self.started - 1;
                    assert!(
                        is_next || *self.ids.end() == 90,
                        "no id is reused while there are others"
                    );
                    let in_slot = self.processes.values().filter(|p| p.slot == slot).count();
                    assert!(in_slot < 2, "at most two workers a slot");
                    assert!(self.processes.len() < self.most_slots + self.surge, "surge is kept");
                    let ends = |p: &Process| p.slot == slot && p.hung_up && !p.leaving;
                    assert!(!self.processes.values().any(ends), "its end is waited for");
                    let backoff = Duration::from_millis(75);
                    let failed = self.failed_at.get(&slot).copied();
                    let waited = failed.is_none_or(|at| at + backoff <= self.now);
                    assert!(waited, "no start follows a failure at once");
                    let known = generation == self.good || Some(generation) == self.rolling;
                    assert!(known, "only what is good or rolled to is started");
                    let process =
                        Process { slot, generation, ready: None, leaving: false, hung_up: false };
                    self.processes.insert(id, process);
                }
                Action::Drain { id } => self.check_drain(id),
                Action::Disconnect { id } => assert!(self.processes[&id].leaving, "drained first"),
                Action::Ask { id, .. } | Action::Kill { id, .. } => {
                    self.processes.get_mut(&id).expect("nothing is asked of the dead").leaving =
                        true;
                }
            }
        }
        self.hear_outcomes();
    }

    /// A worker that serves is drained only when another has taken its place.
    fn check_drain(&mut self, id: WorkerId) {
        let old = self.processes[&id];
        self.processes.get_mut(&id).expect("nothing is asked of the dead").leaving = true;
        if self.scaled {
            return; // it may just not be wanted any more
        }
        let has_served = |p: &Process| {
            let is_new = p.generation != old.generation && Some(p.generation) == self.rolling;
            let watch = if is_new && old.slot == 0 { self.canary } else { Duration::ZERO };
            p.ready.is_some_and(|since| since + watch <= self.now)
        };
        let mut others = self.processes.iter().filter(|(other, _)| **other != id);
        let successor = others.any(|(_, p)| p.slot == old.slot && !p.leaving && has_served(p));
        assert!(successor, "{id} was drained with nobody in its place");
    }

    fn hear_outcomes(&mut self) {
        while let Some(outcome) = self.fleet.take_outcome() {
            self.failed_at.clear();
            assert_eq!(self.rolling.take(), Some(outcome.generation), "each roll is answered once");
            if outcome.result.is_ok() {
                self.good = outcome.generation;
                let all = self.processes.values();
                assert!(all.clone().all(|p| p.generation == self.good), "the truth is told");
            }
        }
    }

    /// Something happens.
    fn happen(&mut self) {
        let any = self.any();
        match (self.dice.roll(16), any) {
            (0..=3, Some(id)) => self.ready(id),
            (4, Some(id)) => {
                self.fleet.hung_up(id, self.now);
                self.processes.get_mut(&id).expect("chosen from them").hung_up = true;
            }
            (5, Some(id)) => self.exit(id),
            (6, Some(id)) => {
                self.fleet.unwell(id);
            }
            (7, Some(id)) => {
                if self.fleet.recycle(id, self.now)
                    && self.fleet.is_rolling() == self.rolling.is_some()
                {
                    self.failed_at.insert(self.processes[&id].slot, self.now);
                }
            }
            (8, Some(id)) => self.fleet.drained(id),
            (9, _) if !self.fleet.is_rolling() => self.begin_roll(),
            (10, _) if self.dice.roll(4) == 0 => {
                let slots = 1 + self.dice.roll(5) as usize;
                self.most_slots = self.most_slots.max(slots);
                self.scaled = true;
                self.failed_at.clear(); // slots that come back are new
                self.fleet.scale(slots);
            }
            (11, Some(id)) => {
                let slot = self.processes[&id].slot;
                if self.fleet.renew(slot).is_some() {
                    self.failed_at.remove(&slot); // somebody wants it at once
                }
            }
            (12, _) => self.succeed(),
            _ => self.now += Duration::from_millis(self.dice.roll(8_000)),
        }
    }

    /// Another supervisor goes on: with what is known of the fleet, and nothing else.
    fn succeed(&mut self) {
        self.hear_outcomes();
        let snapshot = self.fleet.snapshot();
        if self.dice.roll(16) == 0 {
            let text = serde_json::to_string(&snapshot).expect("a text");
            assert_eq!(serde_json::from_str::<Snapshot>(&text).expect("a snapshot"), snapshot);
        }
        let policy = |_| policy(self.surge, self.canary);
        self.fleet = Fleet::resume(snapshot, self.ids.clone(), policy);
        for action in self.fleet.unfinished() {
            let (Action::Drain { id }
            | Action::Disconnect { id }
            | Action::Ask { id, .. }
            | Action::Kill { id, .. }) = action
            else {
                panic!("{action:?} is not done again");
            };
            assert!(self.processes[&id].leaving, "it was done before");
        }
    }

    fn begin_roll(&mut self) {
        let generation = Generation(self.next_generation);
        self.next_generation += 1;
        let slots = if self.dice.roll(4) == 0 {
            self.scaled = true;
            1 + self.dice.roll(5) as usize
        } else {
            self.fleet.wanted()
        };
        self.most_slots = self.most_slots.max(slots);
        self.rolling = Some(generation);
        self.failed_at.clear();
        self.fleet.roll(generation, policy(self.surge, self.canary), slots);
    }

    fn ready(&mut self, id: WorkerId) {
        if self.fleet.ready(id, self.now) {
            self.processes.get_mut(&id).expect("alive").ready = Some(self.now);
        }
    }

    fn exit(&mut self, id: WorkerId) {
        if let Some(process) = self.processes.remove(&id)
            && !process.leaving
        {
            self.failed_at.insert(process.slot, self.now);
        }
        let exit = Exit::Code(self.dice.roll(3) as i32);
        self.fleet.exited(id, exit, self.now);
    }

    /// The world calms down: what is started becomes ready, what is told to go goes.
    fn calm_down(&mut self) {
        for _ in 0..400 {
            self.carry_out();
            for id in self.processes.keys().copied().collect::<Vec<_>>() {
                self.ready(id);
                if self.processes[&id].leaving {
                    self.exit(id);
                }
            }
            self.carry_out();
            match self.fleet.deadline(self.now) {
                Some(at) => self.now = at,
                None if self.processes.values().all(|p| p.ready.is_some() && !p.leaving) => return,
                None => {}
            }
        }
    }
}

fn policy(surge: usize, canary: Duration) -> Policy {
    Policy {
        ready_timeout: Duration::from_secs(5),
        backoff: (Duration::from_millis(100), Duration::from_secs(30)),
        restart: Restart::Always,
        stop_on_exit: vec![],
        drain: Duration::from_secs(3),
        asks: 2,
        ask_timeout: Duration::from_secs(1),
        surge,
        canary,
    }
}

fn history(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..80 {
        world.carry_out();
        let due = world.fleet.deadline(world.now).is_some_and(|at| at <= world.now);
        assert!(!due, "what is due has been done");
        world.happen();
    }
    let stop = world.dice.roll(3) == 0;
    if stop {
        world.fleet.stop();
    }
    world.calm_down();
    let summary = world.fleet.summary();
    assert_eq!(world.rolling, None, "every roll is answered: {summary}");
    if stop {
        assert!(world.fleet.is_empty() && world.processes.is_empty(), "{summary}");
        return;
    }
    let wanted = world.fleet.wanted();
    assert_eq!((summary.ready, world.processes.len()), (wanted, wanted), "{summary}");
    let mut slots: Vec<usize> = world.processes.values().map(|p| p.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, (0..wanted).collect::<Vec<_>>(), "slots are dense");
    assert!(world.processes.values().all(|p| p.generation == world.good), "one generation");
}

#[test]
fn whatever_happens_the_promises_hold_and_the_fleet_settles() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("FLEET_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLEET_HISTORIES").unwrap_or(HISTORIES),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| history(seed)) {
            eprintln!("FLEET_SEED={seed} repeats it");
            std::panic::resume_unwind(panic);
        }
    }
}
