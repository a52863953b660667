//! Another program goes on in the middle of something, and is killed while the one before it still
//! finishes what it has begun.

use super::SIO;
use crate::machine::Suite;
use crate::systemd::{Host, on, on_each};

const APP: &str = "http://127.0.0.1:8080";

impl Host {
    /// Begins requests, one after the other on one connection.
    fn asks(&self, unit: &str, targets: &[&str]) {
        let targets = targets.iter().map(|target| format!("{APP}{target}")).collect::<Vec<_>>();
        let curl = format!("curl -gsSf {}", targets.join(" "));
        self.ok(&format!("systemd-run --quiet --remain-after-exit --unit={unit} {curl}"));
    }

    /// Whether they are over, and went well.
    fn was_answered(&self, unit: &str) -> bool {
        let state = self.show(unit, "SubState");
        assert_ne!(state, "failed", "{}", self.run(&format!("journalctl -u {unit}")));
        state == "exited"
    }

    /// Requests that are.
    fn in_flight(&self) -> u64 {
        let shown = self.shown().expect("it answers");
        let workers = shown["workers"].as_array().expect("a list");
        workers.iter().filter_map(|worker| worker["in_flight"].as_u64()).sum()
    }
}

/// The last worker of a roll has only just ended then, and the next program knows nothing of it.
#[test]
fn a_new_program_behind_a_roll_leaves_no_zombie() {
    on_each(|host| {
        host.start("sio.js", &format!("[reload]\ncanary = \"0s\"\n{SIO}"));
        host.settles(2);
        for generation in 2..5 {
            host.ok("systemctl reload --no-block myapp");
            let begun = format!("reloading generation={generation}");
            host.is_soon("rolling", || host.journal("-o cat").contains(&begun));
            host.ok("cohortctl reexec myapp");
            host.settles(2);
        }
    });
}

/// It has nobody to pass a connection on to any more, and closes each behind its answer.
#[test]
fn who_finishes_hears_that_its_successor_was_killed() {
    on(Suite::Trixie, |host| {
        host.start("sio.js", SIO);
        let fleet = host.settles(2);
        host.asks("long", &["/stream?n=50&ms=200"]);
        host.asks("short", &["/slow?ms=2000", "/whoami"]);
        host.is_soon("both are under way", || host.in_flight() == 2);
        host.ok("cohortctl reexec myapp");
        host.ok(&format!("kill -KILL {}", host.cohortd()));
        host.is_soon("the next connection is served", || host.was_answered("short"));
        assert!(!host.was_answered("long"), "it was not waited for");
        host.is_soon("whole", || host.was_answered("long"));
        assert_eq!(host.settles(2), fleet, "the same workers, and nobody else");
    });
}

/// The program that leaves waits for a worker, and hears nothing any more. systemd would take it for a
/// success if that were answered like a stop.
#[test]
fn what_is_asked_for_at_that_moment_is_done() {
    on(Suite::Trixie, |host| {
        host.start("sio.js", &format!("[reload]\ncanary = \"0s\"\n{SIO}"));
        let workers: Vec<String> =
            host.settles(2).values().map(|(_, pid)| pid.to_string()).collect();
        let workers = workers.join(" ");
        host.ok(&format!("kill -STOP {workers}"));
        host.asks("waits", &["/whoami"]);
        host.is_soon("it is to be handed over", || host.in_flight() == 1);
        host.ok("systemd-run --quiet cohortctl reexec myapp");
        host.logs("-o cat", "the installed program goes on");
        host.sh(&format!("(sleep 1; kill -CONT {workers}) & systemctl reload myapp"));
        assert_eq!(host.shown().expect("it answers")["generation"], 2, "{}", host.journal("-n 50"));
        host.is_soon("answered", || host.was_answered("waits"));
        host.settles(2);
    });
}
