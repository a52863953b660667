//! What a fleet does, case by case; `simulation` has everything else.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn policy() -> Policy {
    Policy {
        ready_timeout: MS(5_000),
        backoff: (MS(100), MS(30_000)),
        restart: Restart::Always,
        stop_on_exit: vec![42],
        drain: MS(3_000),
        asks: 2,
        ask_timeout: MS(1_000),
        surge: 1,
        canary: MS(500),
    }
}

fn fleet(slots: usize) -> Fleet {
    Fleet::new(policy(), slots, 1)
}

fn steps(fleet: &mut Fleet, now: Duration) -> Vec<Action> {
    std::iter::from_fn(|| fleet.step(now)).collect()
}

fn started(actions: &[Action]) -> Vec<WorkerId> {
    let id = |action: &Action| match action {
        Action::Start { id, .. } => Some(*id),
        _ => None,
    };
    actions.iter().filter_map(id).collect()
}

/// A fleet whose slots are all ready since 1 ms.
fn up(slots: usize) -> Fleet {
    let mut fleet = fleet(slots);
    for id in started(&steps(&mut fleet, MS(0))) {
        assert!(fleet.ready(id, MS(1)));
    }
    fleet
}

#[test]
fn an_app_comes_up_when_all_are_ready() {
    let mut fleet = fleet(3);
    let ids = started(&steps(&mut fleet, MS(0)));
    assert_eq!(ids, [WorkerId(1), WorkerId(2), WorkerId(3)]);
    for id in &ids {
        assert_eq!(fleet.startup(), Startup::Pending);
        assert!(fleet.ready(*id, MS(10)));
        assert!(!fleet.ready(*id, MS(11)), "once");
    }
    assert_eq!(fleet.startup(), Startup::Up);
    assert_eq!(fleet.deadline(MS(12)), None, "nothing to wait for");
    assert_eq!(fleet.summary().to_string(), "3/3 workers ready");
}

#[test]
fn an_app_comes_up_with_some_and_fails_with_none() {
    let mut some = fleet(3);
    let ids = started(&steps(&mut some, MS(0)));
    some.ready(ids[0], MS(1));
    some.exited(ids[1], Exit::Code(1), MS(1));
    assert_eq!(some.startup(), Startup::Pending, "the third may yet become ready");
    some.exited(ids[2], Exit::Code(1), MS(1));
    assert_eq!(some.startup(), Startup::Up, "one serves, the others have been tried");

    let mut none = fleet(3);
    let mut now = MS(0);
    for round in 0..3 {
        assert_eq!(none.startup(), Startup::Pending, "round {round}");
        for id in started(&steps(&mut none, now)) {
            none.exited(id, Exit::Code(1), now);
        }
        now += MS(1_000);
    }
    assert_eq!(none.startup(), Startup::Failed);
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed_and_has_failed() {
    let mut fleet = fleet(1);
    let id = started(&steps(&mut fleet, MS(0)))[0];
    assert_eq!(fleet.deadline(MS(0)), Some(MS(5_000)));
    assert_eq!(steps(&mut fleet, MS(4_999)), []);
    assert_eq!(steps(&mut fleet, MS(5_000)), [Action::Kill { id, why: Why::NotReady }]);
    assert!(!fleet.ready(id, MS(5_001)), "too late");
    fleet.exited(id, Exit::Signal(9), MS(5_002));
    assert_eq!(fleet.startup(), Startup::Failed);
}

#[test]
fn failures_back_off_and_a_long_good_time_forgives_them() {
    let mut fleet = fleet(1);
    let mut now = MS(0);
    let mut doubled = MS(100);
    for _ in 0..12 {
        let id = started(&steps(&mut fleet, now))[0];
        fleet.exited(id, Exit::Code(1), now);
        let wait = fleet.deadline(now).expect("a next try") - now;
        assert!(wait >= doubled.mul_f64(0.75) && wait <= doubled.mul_f64(1.25), "{wait:?}");
        doubled = (doubled * 2).min(MS(30_000));
        now += wait;
    }
    let id = started(&steps(&mut fleet, now))[0];
    fleet.ready(id, now);
    now += MS(30_000);
    fleet.hung_up(id, now); // how a crash is first heard of
    assert_eq!(steps(&mut fleet, now), [], "how it ends is waited for");
    fleet.exited(id, Exit::Signal(9), now);
    assert!(fleet.deadline(now).expect("a next try") - now <= MS(125));
}

#[test]
fn exits_that_end_a_slot() {
    let ends = |restart, exit| {
        let mut fleet = Fleet::new(Policy { restart, ..policy() }, 1, 1);
        let id = started(&steps(&mut fleet, MS(0)))[0];
        fleet.exited(id, exit, MS(1));
        started(&steps(&mut fleet, MS(100_000))).is_empty()
    };
    assert!(ends(Restart::Always, Exit::Code(42)) && !ends(Restart::Always, Exit::Code(0)));
    assert!(ends(Restart::OnFailure, Exit::Code(0)) && !ends(Restart::OnFailure, Exit::Code(1)));
    assert!(!ends(Restart::OnFailure, Exit::Signal(9)));
    assert!(ends(Restart::Never, Exit::Signal(9)));
}

#[test]
fn stopping_asks_in_order_and_then_kills() {
    let mut fleet = up(1);
    let id = WorkerId(1);
    fleet.stop();
    assert_eq!(steps(&mut fleet, MS(10)), [Action::Ask { id, way: 0 }]);
    assert_eq!(steps(&mut fleet, MS(1_010)), [Action::Ask { id, way: 1 }]);
    assert_eq!(steps(&mut fleet, MS(2_010)), [Action::Kill { id, why: Why::NotStopped }]);
    assert!(fleet.is_leaving(id) && !fleet.is_empty());
    fleet.exited(id, Exit::Signal(9), MS(2_011));
    assert!(fleet.is_empty());
    assert_eq!(steps(&mut fleet, MS(100_000)), [], "nothing starts any more");
}

#[test]
fn a_roll_goes_slot_by_slot_behind_its_canary() {
    let mut fleet = up(2);
    let to = Generation(2);
    fleet.roll(to, policy(), 2);
    let start = |slot, id| Action::Start { slot, id: WorkerId(id), generation: to };
    assert_eq!(steps(&mut fleet, MS(10)), [start(0, 3)], "the canary, alone");
    fleet.ready(WorkerId(3), MS(20));
    assert_eq!(steps(&mut fleet, MS(519)), [], "it is watched");
    assert_eq!(fleet.deadline(MS(519)), Some(MS(520)));
    assert_eq!(steps(&mut fleet, MS(520)), [Action::Drain { id: WorkerId(1) }]);
    assert_eq!(fleet.summary().to_string(), "reloading 1/2: 2/2 workers ready, 1 leaving");
    fleet.drained(WorkerId(1));
    assert_eq!(steps(&mut fleet, MS(530)), [Action::Ask { id: WorkerId(1), way: 0 }]);
    fleet.exited(WorkerId(1), Exit::Signal(15), MS(540));
    assert_eq!(steps(&mut fleet, MS(540)), [start(1, 4)]);
    fleet.ready(WorkerId(4), MS(550));
    assert_eq!(steps(&mut fleet, MS(550)), [Action::Drain { id: WorkerId(2) }]);
    assert_eq!(fleet.take_outcome(), None, "not before the last old one is gone");
    assert_eq!(steps(&mut fleet, MS(3_550)), [Action::Disconnect { id: WorkerId(2) }]);
    fleet.drained(WorkerId(2));
    assert_eq!(steps(&mut fleet, MS(3_555)), [Action::Ask { id: WorkerId(2), way: 0 }]);
    fleet.exited(WorkerId(2), Exit::Signal(15), MS(3_560));
    assert_eq!(steps(&mut fleet, MS(3_560)), []);
    assert_eq!(fleet.take_outcome(), Some(Outcome { generation: to, result: Ok(()) }));
}

#[test]
fn a_roll_that_fails_leaves_the_old_ones_alone() {
    let mut fleet = up(2);
    let to = Generation(2);
    fleet.roll(to, Policy { canary: MS(9_000), ..policy() }, 4);
    steps(&mut fleet, MS(10));
    fleet.ready(WorkerId(3), MS(20));
    fleet.exited(WorkerId(3), Exit::Code(7), MS(3_000));
    let failure = Failure { worker: WorkerId(3), how: How::Exited(Exit::Code(7)) };
    assert_eq!(fleet.take_outcome(), Some(Outcome { generation: to, result: Err(failure) }));
    assert_eq!(steps(&mut fleet, MS(10_000)), [], "nothing else was begun");
    assert_eq!(fleet.summary().to_string(), "2/2 workers ready");
    assert_eq!(fleet.wanted(), 2, "also the number is what it was");
}

#[test]
fn an_old_one_that_crashes_beside_the_canary_is_replaced() {
    let mut fleet = up(1);
    let to = Generation(2);
    let start = |id, generation| Action::Start {
        slot: 0,
        id: WorkerId(id),
        generation: Generation(generation),
    };
    fleet.roll(to, policy(), 1);
    assert_eq!(steps(&mut fleet, MS(10)), [start(2, 2)]);
    // The canary may never become ready, and there is nobody else.
    fleet.exited(WorkerId(1), Exit::Signal(9), MS(20));
    let again = fleet.deadline(MS(20)).expect("the backoff");
    assert_eq!(steps(&mut fleet, again), [start(3, 1)]);
    assert_eq!(steps(&mut fleet, again), [], "it is waited for");
    fleet.ready(WorkerId(3), MS(300));
    fleet.ready(WorkerId(2), MS(400));
    assert_eq!(steps(&mut fleet, MS(899)), [], "the canary is watched");
    assert_eq!(steps(&mut fleet, MS(900)), [Action::Drain { id: WorkerId(3) }]);
    fleet.exited(WorkerId(3), Exit::Signal(9), MS(910));
    assert_eq!(steps(&mut fleet, MS(910)), []);
    assert_eq!(fleet.take_outcome(), Some(Outcome { generation: to, result: Ok(()) }));

    // One that is just being replaced when a roll begins goes on as well.
    fleet.exited(WorkerId(2), Exit::Signal(9), MS(1_000));
    let again = fleet.deadline(MS(1_000)).expect("the backoff");
    assert_eq!(steps(&mut fleet, again), [start(4, 2)]);
    fleet.roll(Generation(3), policy(), 1);
    assert_eq!(steps(&mut fleet, again), [start(5, 3)]);
    // Who comes too late to be of use is not waited for.
    fleet.ready(WorkerId(5), MS(1_500));
    let id = WorkerId(4);
    assert_eq!(steps(&mut fleet, MS(2_000)), [Action::Kill { id, why: Why::GivenUp }]);
}

#[test]
fn the_highest_slots_go_first() {
    let mut fleet = up(4);
    fleet.scale(2);
    let drained = [Action::Drain { id: WorkerId(3) }, Action::Drain { id: WorkerId(4) }];
    assert_eq!(steps(&mut fleet, MS(10)), drained);
}

#[test]
fn a_worker_that_is_unwell_is_killed_and_replaced() {
    let mut fleet = up(1);
    fleet.unwell(WorkerId(1));
    let kill = Action::Kill { id: WorkerId(1), why: Why::Unwell };
    let start = Action::Start { slot: 0, id: WorkerId(2), generation: Generation(1) };
    assert_eq!(steps(&mut fleet, MS(10)), [kill], "what follows a failure waits");
    let next = fleet.deadline(MS(10)).expect("a next try");
    assert_eq!(steps(&mut fleet, next), [start], "even if the killed one is still there");
}

#[test]
fn a_worker_that_is_unwell_while_it_is_drained_is_killed_and_nobody_blamed() {
    let mut fleet = up(2);
    fleet.roll(Generation(2), policy(), 2);
    let canary = started(&steps(&mut fleet, MS(10)))[0];
    fleet.ready(canary, MS(20));
    assert_eq!(steps(&mut fleet, MS(520)), [Action::Drain { id: WorkerId(1) }]);
    assert!(fleet.unwell(WorkerId(1)));
    assert!(!fleet.unwell(WorkerId(1)), "once");
    let id = WorkerId(1);
    assert_eq!(steps(&mut fleet, MS(530)), [Action::Kill { id, why: Why::Unwell }]);
    fleet.exited(id, Exit::Signal(9), MS(540));
    assert!(fleet.is_rolling(), "it goes on");
    let next = started(&steps(&mut fleet, MS(540)));
    assert_eq!(next, [WorkerId(4)], "at once");
    // Also when it is one of the new ones.
    fleet.ready(next[0], MS(550));
    steps(&mut fleet, MS(550));
    fleet.exited(WorkerId(2), Exit::Signal(15), MS(560));
    fleet.scale(1);
    assert_eq!(steps(&mut fleet, MS(560)), [Action::Drain { id: next[0] }]);
    assert!(fleet.unwell(next[0]));
    steps(&mut fleet, MS(570));
    fleet.exited(next[0], Exit::Signal(9), MS(580));
    steps(&mut fleet, MS(580));
    assert_eq!(fleet.take_outcome().map(|outcome| outcome.result), Some(Ok(())));
}

#[test]
fn a_worker_to_be_recycled_is_replaced_first() {
    let mut fleet = up(1);
    let later = MS(60_000);
    assert!(fleet.recycle(WorkerId(1), later));
    assert!(!fleet.recycle(WorkerId(1), later), "that is known");
    let start = Action::Start { slot: 0, id: WorkerId(2), generation: Generation(1) };
    let begin = fleet.deadline(later).expect("its successor's start");
    assert_eq!(steps(&mut fleet, begin), [start]);
    fleet.ready(WorkerId(2), begin);
    assert_eq!(steps(&mut fleet, begin), [Action::Drain { id: WorkerId(1) }]);
}

#[test]
fn workers_that_have_to_be_recycled_at_once_are_so_more_and_more_slowly() {
    let mut fleet = up(1);
    let mut now = MS(0);
    let mut waits = Vec::new();
    for id in 1..=6 {
        fleet.recycle(WorkerId(id), now);
        let begin = fleet.deadline(now).expect("its successor's start");
        waits.push(begin - now);
        steps(&mut fleet, begin);
        fleet.ready(WorkerId(id + 1), begin);
        steps(&mut fleet, begin);
        fleet.exited(WorkerId(id), Exit::Code(0), begin);
        now = begin;
    }
    assert!(waits.is_sorted() && waits[5] > waits[0] * 10, "{waits:?}");
}

#[test]
fn a_new_release_need_not_wait_for_what_the_old_one_did_wrong() {
    let mut fleet = fleet(1);
    let mut now = MS(0);
    for _ in 0..8 {
        let id = started(&steps(&mut fleet, now))[0];
        fleet.exited(id, Exit::Code(1), now);
        now = fleet.deadline(now).expect("a next try");
    }
    let id = started(&steps(&mut fleet, now))[0];
    fleet.exited(id, Exit::Code(1), now);
    fleet.roll(Generation(2), policy(), 1);
    let starts = steps(&mut fleet, now);
    assert!(matches!(starts[0], Action::Start { generation: Generation(2), .. }), "{starts:?}");
}

#[test]
fn ids_stay_in_their_range_also_over_a_succession() {
    let mut fleet = fleet(2);
    fleet.number_in(11..=14);
    let mut now = MS(0);
    for id in started(&steps(&mut fleet, now)) {
        fleet.ready(id, now);
    }
    // 11 lives on, and the other one's go round.
    for (old, new) in [(12, 13), (13, 14), (14, 12), (12, 13)] {
        fleet.exited(WorkerId(old), Exit::Signal(9), now);
        fleet = Fleet::resume(fleet.snapshot(), fleet.ids(), |_| policy());
        now = fleet.deadline(now).expect("a next try");
        assert_eq!(started(&steps(&mut fleet, now)), [WorkerId(new)]);
        fleet.ready(WorkerId(new), now);
    }
    // The host has another number now.
    fleet.exited(WorkerId(13), Exit::Signal(9), now);
    let mut fleet = Fleet::resume(fleet.snapshot(), 21..=24, |_| policy());
    now = fleet.deadline(now).expect("a next try");
    assert_eq!(started(&steps(&mut fleet, now)), [WorkerId(21)]);
    assert!(fleet.serves(WorkerId(11)));
}

#[test]
fn a_slot_is_renewed_by_a_worker_with_a_lower_id_too() {
    let mut fleet = fleet(1);
    fleet.number_in(11..=12);
    for (old, new) in [(11, 12), (12, 11)] {
        started(&steps(&mut fleet, MS(0)));
        fleet.ready(WorkerId(old), MS(0));
        let before = fleet.renew(0).expect("a slot");
        assert_eq!(fleet.renewed(0, &before), Renewed::Pending);
        assert_eq!(started(&steps(&mut fleet, MS(0))), [WorkerId(new)]);
        fleet.ready(WorkerId(new), MS(0));
        assert_eq!(steps(&mut fleet, MS(0)), [Action::Drain { id: WorkerId(old) }]);
        fleet.exited(WorkerId(old), Exit::Code(0), MS(0));
        assert_eq!(fleet.renewed(0, &before), Renewed::Serves(WorkerId(new)));
    }
}
