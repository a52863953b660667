//! Killed when it is least convenient: the fleet always settles, with one worker a slot and no
//! process that nobody knows.

use serde_json::Value;

use super::end::{cut_off, ends, failures};
use super::{Fleet, SIO};
use crate::systemd::{Host, on_each};

const APP: &str = "http://127.0.0.1:8080";

/// Some of every kind, who notice what goes wrong.
const FEW: [&str; 4] = ["websocket=4", "polling=0", "upgraded=0", "pausing=4"];

/// `systemctl kill` for cohortd alone.
const KILL: &str = "systemctl kill -s KILL --kill-whom=main myapp";

impl Host {
    /// It stays down for so many seconds when it was killed.
    pub(super) fn stays_down(&self, seconds: u32) {
        let text = format!("[Service]\nRestartSec={seconds}\n");
        self.write("/etc/systemd/system/myapp.service.d/down.conf", &text);
        self.ok("systemctl daemon-reload");
    }

    /// Kills cohortd, which stays down for now.
    pub(super) fn goes_down(&self) {
        self.ok(KILL);
        self.is_soon("down", || self.show("myapp", "SubState") == "auto-restart");
    }

    pub(super) fn sh(&self, script: &str) {
        self.machine.ok(&["sh", "-c", script]);
    }
}

fn workers(shown: &Value) -> &[Value] {
    shown["workers"].as_array().expect("a list")
}

/// What the roll to a generation has come to.
type Moment = fn(&Host, u64) -> bool;

const MOMENTS: [(&str, Moment); 4] = [
    ("it has begun", |host, new| {
        host.journal("-o cat").contains(&format!("reloading generation={new}"))
    }),
    ("a successor starts", |host, new| is_any(host, new, &["starting"])),
    ("a successor is ready", |host, new| is_any(host, new, &["ready"])),
    ("a predecessor leaves", |host, new| {
        is_any(host, new - 1, &["draining", "disconnecting", "stopping"])
    }),
];

fn is_any(host: &Host, generation: u64, states: &[&str]) -> bool {
    let is_one = |worker: &Value| {
        worker["generation"] == generation && states.iter().any(|state| worker["state"] == *state)
    };
    host.shown().is_some_and(|shown| workers(&shown).iter().any(is_one))
}

#[test]
fn a_roll_goes_on_where_it_was() {
    on_each(|host| {
        host.start(
            "sio.js",
            &format!("[reload]\ncanary = \"500ms\"\n[stop]\ndrain = \"500ms\"\n{SIO}"),
        );
        let mut storm = host.storm(&FEW);
        let mut old = host.settles(2);
        for (generation, (what, has_come)) in (2..).zip(MOMENTS) {
            host.ok("systemctl reload --no-block myapp");
            host.is_soon(what, || has_come(host, generation));
            storm.kill(host.cohortd());
            host.is_soon(&format!("rolled on after: {what}"), || {
                host.shown().is_some_and(|shown| shown["generation"] == generation)
            });
            let new = host.settles(2);
            assert!(!new.values().any(|worker| old.values().any(|other| other == worker)));
            old = new;
        }
        // And it rolls as ever.
        host.ok("systemctl reload myapp");
        host.settles(2);
        host.ends(storm, &[failures, cut_off], &[]);
    });
}

/// What its clients still have is ended, and takes a while where they do not answer.
#[test]
fn a_worker_that_leaves_gets_nothing_new_afterwards() {
    on_each(|host| {
        let quick = "[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"200ms\"";
        host.start("web.js", &format!("{quick}\n{SIO}"));
        host.settles(2);
        host.clients("deaf", &format!("goodbye.js {APP} 8"));
        host.ok("systemctl kill -s STOP deaf");
        host.ok("systemctl reload --no-block myapp");
        let leaving = || {
            let shown = host.shown()?;
            let mut all = workers(&shown).iter();
            all.find(|worker| worker["state"] == "disconnecting").map(|w| w["id"].to_string())
        };
        host.is_soon("disconnecting", || leaving().is_some());
        host.ok(KILL);
        host.is_soon("another one", || leaving().is_some());
        let id = leaving();
        let answers =
            host.ok(&format!("curl -gsSf -w \\n {}", format!("{APP}/slow?ms=1 ").repeat(50)));
        assert_eq!(leaving(), id, "it was there all the time");
        let id = id.expect("just seen");
        assert!(answers.lines().all(|worker| worker != id), "{id}: {answers}");
        host.ok("systemctl kill -s CONT deaf");
        host.settles(2);
    });
}

/// Its client asks for it only later, when nobody has its worker any more.
#[test]
fn a_session_that_was_ended_hears_it_from_the_next_cohortd() {
    on_each(|host| {
        let quick = "[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"200ms\"";
        host.start("sio.js", &format!("{quick}\n{SIO}"));
        let polling = format!("{APP}/socket.io/?EIO=4&transport=polling");
        let hello = host.get(&polling);
        let hello: Value = serde_json::from_str(&hello[1..]).expect("JSON");
        let poll = format!("{polling}&sid={}", hello["sid"].as_str().expect("text"));
        host.ok("systemctl reload myapp");
        assert_eq!(host.get(&poll), "1", "it is closed");
        for next in [KILL, "cohortctl reexec myapp", KILL] {
            host.ok(next);
            host.settles(2);
            assert_eq!(host.get(&poll), "1", "after {next}");
        }
    });
}

#[test]
fn a_scale_goes_on_where_it_was() {
    on_each(|host| {
        host.start("sio.js", &format!("[stop]\ndrain = \"500ms\"\n{SIO}"));
        let mut storm = host.storm(&FEW);
        let mut old = host.settles(2);
        for n in [4, 1, 3] {
            host.ok(&format!("systemd-run --quiet --collect cohortctl scale myapp {n}"));
            // Who has nothing to finish is gone at once, others are not.
            let least = if n > old.len() { n } else { n + 1 };
            host.is_soon("scaling", || {
                let all_there =
                    |shown: Value| workers(&shown).len() >= least && shown["wanted"] == n;
                host.shown().is_some_and(all_there)
            });
            storm.kill(host.cohortd());
            let new = host.settles(n);
            let kept = old.iter().filter(|(slot, _)| **slot < n as u64);
            assert!(kept.clone().count() > 0);
            for (slot, worker) in kept {
                assert_eq!(new[slot], *worker, "the lowest were not touched");
            }
            old = new;
        }
        host.ends(storm, &[failures, cut_off], &[]);
    });
}

/// The next kill comes before it has recovered from the last one.
#[test]
fn a_recovery_can_be_killed_too() {
    on_each(|host| {
        host.start("sio.js", SIO);
        let fleet = host.settles(2);
        let mut storm = host.storm(&FEW);
        let mut last = 0;
        for _ in 0..6 {
            host.is_soon("another one", || ![last, 0].contains(&host.cohortd()));
            last = host.cohortd();
            storm.kill(last);
        }
        assert_eq!(host.settles(2), fleet, "the same workers\n{}", host.journal("-n 100"));
        host.ends(storm, &[failures, ends], &[]);
    });
}

/// One of two is replaced, and the other goes on.
fn replaced(host: &Host, old: &Fleet) -> Fleet {
    host.is_soon("replaced", || host.order(2).is_ok_and(|new| new[&0] != old[&0]));
    let new = host.settles(2);
    assert_eq!(new[&1], old[&1], "the other one is the same");
    host.get("http://127.0.0.1:8080/whoami");
    new
}

#[test]
fn a_worker_that_is_found_ill_or_dead_is_replaced() {
    on_each(|host| {
        host.start("sio.js", &format!("[health]\nevent_loop = \"1s\"\n{SIO}"));
        let fleet = host.settles(2);
        let pid = |fleet: &Fleet| fleet[&0].1;

        host.sh(&format!("kill -STOP {}; {KILL}", pid(&fleet)));
        let fleet = replaced(host, &fleet);

        host.sh(&format!("kill -KILL {} {}", pid(&fleet), host.cohortd()));
        let fleet = replaced(host, &fleet);
        host.sh(&format!("kill -KILL {} {}", host.cohortd(), pid(&fleet)));
        let fleet = replaced(host, &fleet);

        host.stays_down(2);
        host.goes_down();
        host.ok(&format!("kill -KILL {}", pid(&fleet)));
        assert_eq!(host.show("myapp", "SubState"), "auto-restart");
        let fleet = replaced(host, &fleet);

        // It leaves in peace, as it was told to by nobody.
        host.goes_down();
        host.ok(&format!("kill -TERM {}", pid(&fleet)));
        replaced(host, &fleet);
        host.stops();
    });
}

#[test]
fn a_kill_and_a_stop_leave_nothing() {
    on_each(|host| {
        host.start("sio.js", SIO);
        // The second one is for the workers too.
        for kill in [KILL, "systemctl kill -s KILL myapp"] {
            for _ in 0..2 {
                host.settles(2);
                host.sh(&format!("{kill} && systemctl stop myapp"));
                host.has_left_nothing();
                host.ok("systemctl start myapp@cluster");
            }
        }
        let old = host.settles(2);
        host.ok("systemctl kill -s KILL myapp");
        host.is_soon("all new", || {
            host.order(2).is_ok_and(|new| {
                new.values().all(|worker| *worker != old[&0] && *worker != old[&1])
            })
        });
    });
}

#[test]
fn it_can_be_restarted_while_it_is_down() {
    on_each(|host| {
        host.start("sio.js", SIO);
        host.stays_down(600);
        for is_frozen in [false, true] {
            let old = host.settles(2);
            host.goes_down();
            if is_frozen {
                host.ok(&format!("kill -STOP {}", old[&0].1));
            }
            // Nobody has ended the workers, so they are gone on with, but for one that hangs.
            host.ok("systemctl restart myapp");
            host.settles(2);
        }
        // So it is while nothing is wrong.
        let old = host.settles(2);
        host.ok("systemctl restart myapp");
        let new = host.settles(2);
        let pids = |fleet: &Fleet| fleet.values().map(|(_, pid)| *pid).collect::<Vec<_>>();
        assert!(!pids(&new).iter().any(|pid| pids(&old).contains(pid)), "{old:?} {new:?}");
    });
}
