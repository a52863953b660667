//! Killed when it is least convenient: the fleet always settles, with one worker a slot and no
//! process that nobody knows.

use serde_json::Value;

use super::{Fleet, SIO, failures};
use crate::systemd::{Host, on_each};

/// Some of every kind, who notice what goes wrong.
const FEW: [&str; 4] = ["websocket=4", "polling=0", "upgraded=0", "pausing=4"];

/// `systemctl kill` for cohortd alone.
const KILL: &str = "systemctl kill -s KILL --kill-whom=main myapp";

impl Host {
    /// It stays down for so many seconds when it was killed.
    fn stays_down(&self, seconds: u32) {
        let text = format!("[Service]\nRestartSec={seconds}\n");
        self.write("/etc/systemd/system/myapp.service.d/down.conf", &text);
        self.ok("systemctl daemon-reload");
    }

    /// Kills cohortd, which stays down for now.
    fn goes_down(&self) {
        self.ok(KILL);
        self.is_soon("down", || self.show("myapp", "SubState") == "auto-restart");
    }

    fn sh(&self, script: &str) {
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

/// Sessions may end as their workers leave, but properly.
fn cut_off(seen: &Value) -> Vec<&Value> {
    let ends = seen["ends"].as_array().expect("a list");
    let is_proper = |end: &&Value| {
        let why = end["why"].as_str().expect("text");
        match end["kind"].as_str() {
            Some("pausing") => true, // told, or unknown when it comes back
            _ => ["transport close", "transport close 1012"].contains(&why),
        }
    };
    ends.iter().filter(|end| !is_proper(end)).collect()
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
        storm.pause();
        let seen = storm.end();
        assert_eq!(failures(&seen), [&Value::Null; 0], "{}", host.journal("-n 200"));
        assert_eq!(cut_off(&seen), [&Value::Null; 0], "{}", host.journal("-n 200"));
        host.ok("systemctl stop myapp");
        host.has_left_nothing();
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
        storm.pause();
        let seen = storm.end();
        assert_eq!(failures(&seen), [&Value::Null; 0], "{}", host.journal("-n 200"));
        assert_eq!(cut_off(&seen), [&Value::Null; 0], "{}", host.journal("-n 200"));
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
        storm.pause();
        let seen = storm.end();
        assert_eq!(failures(&seen), [&Value::Null; 0], "{}", host.journal("-n 200"));
        assert_eq!(seen["ends"], Value::Array(vec![]), "{}", host.journal("-n 200"));
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
        host.ok("systemctl stop myapp");
        host.has_left_nothing();
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

/// Whatever state it died in. systemd runs nothing for a stop while the service waits to be started
/// again: the socket stays open then, and a worker that can't end by itself ends with the next start.
#[test]
fn it_can_be_stopped_and_restarted_while_it_is_down() {
    on_each(|host| {
        host.start("sio.js", SIO);
        host.stays_down(600);
        for is_frozen in [false, true] {
            let fleet = host.settles(2);
            if is_frozen {
                host.ok(&format!("kill -STOP {}", fleet[&1].1));
            }
            host.goes_down();
            host.ok("systemctl stop myapp myapp.socket");
            match is_frozen {
                false => host.has_left_nothing(),
                true => host.is_soon("the other has ended", || host.processes().len() == 1),
            }

            host.ok("systemctl start myapp.socket myapp@cluster");
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
