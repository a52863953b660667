//! A stop ends everything, whatever state cohortd died in: before, while and after systemd waits to
//! start it again.

use super::SIO;
use crate::systemd::{Host, on_each};

/// What can't end by itself when its channel does, or has none: a frozen worker of Node's, and one that
/// only has a socket.
const STUCK: [&str; 2] = ["node", "socket"];

/// Kills cohortd, and stops the app so many ms later. $1: a worker to freeze, or 0.
const KILL_AND_STOP: &str = r#"
    [ "$1" = 0 ] || kill -STOP "$1"
    kill -KILL "$2"
    sleep "$3"
    systemctl stop "$4"
"#;

impl Host {
    fn is_killed_and_stopped(&self, kind: &str, ms: usize, name: &str) {
        let fleet = self.settles(2);
        let frozen = if kind == "node" { fleet[&1].1 } else { 0 };
        let words = [frozen.to_string(), self.main_pid(), format!("0.{ms:03}"), name.to_owned()];
        let mut line = vec!["sh", "-c", KILL_AND_STOP, "sh"];
        line.extend(words.iter().map(String::as_str));
        self.machine.ok(&line);
        self.has_ended();
    }

    fn start_stuck(&self, kind: &str) {
        match kind {
            "node" => self.start("sio.js", SIO),
            kind => self.start_kind(kind, "/srv/js/apps/fd3.js", &["--listen", "8080"]),
        }
    }
}

fn stopped_at_any_moment(kind: &str) {
    on_each(|host| {
        host.start_stuck(kind);
        for (round, ms) in (0..60).step_by(5).chain([0]).enumerate() {
            let name = ["myapp", "myapp@cluster"][round % 2];
            eprintln!("{name} is stopped {ms} ms after");
            host.is_killed_and_stopped(kind, ms, name);
            host.ok("systemctl start myapp.socket myapp@cluster");
        }
    });
}

#[test]
fn a_stop_at_any_moment_after_a_kill_ends_a_frozen_worker() {
    stopped_at_any_moment(STUCK[0]);
}

#[test]
fn a_stop_at_any_moment_after_a_kill_ends_a_worker_that_is_not_nodes() {
    stopped_at_any_moment(STUCK[1]);
}

/// Nothing of systemd's own clean-up is run then.
#[test]
fn a_stop_while_it_waits_to_be_started_leaves_nothing() {
    for kind in STUCK {
        on_each(|host| {
            host.start_stuck(kind);
            host.stays_down(600);
            for name in ["myapp", "myapp@cluster"] {
                let fleet = host.settles(2);
                host.goes_down();
                if kind == "node" {
                    host.ok(&format!("kill -STOP {}", fleet[&1].1));
                }
                host.ok(&format!("systemctl stop {name}"));
                host.has_ended();
                // Who starts it at once is not stopped by what is still cleaned up.
                host.ok("systemctl start myapp.socket myapp@cluster");
                host.settles(2);
                host.goes_down();
                host.ok("systemctl stop myapp");
                host.ok("systemctl start myapp.socket myapp@cluster");
            }
            host.settles(2);
            host.stops();
        });
    }
}

/// However often in a row, also where the one before is still being cleaned up behind.
#[test]
fn it_can_be_stopped_and_started_at_once() {
    on_each(|host| {
        host.start("sio.js", SIO);
        for _ in 0..10 {
            host.ok("systemctl stop myapp");
            host.ok("systemctl start myapp.socket myapp@cluster");
        }
        host.settles(2);
        host.stops();
    });
}
