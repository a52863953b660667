//! Workers of every kind outlive cohortd, however connections come to them.

use super::end::{failures, faults};
use super::{PLAIN_LOAD, TIMES};
use crate::systemd::{Host, on_each};

impl Host {
    /// `cohortctl add` of workers of this kind, started.
    pub(super) fn start_kind(&self, kind: &str, script: &str, listen: &[&str]) {
        let exec = format!("/opt/node/bin/node {script}");
        let add = ["cohortctl", "add", "myapp", "--kind", kind, "--exec", &exec];
        let user = ["--directory", "/srv/myapp", "--user", "myapp", "--workers", "2"];
        self.machine.ok(&[&add[..], &user, listen].concat());
        self.ok("systemctl start myapp@cluster");
    }
}

/// They hold a socket of their own, not a channel.
#[test]
fn workers_with_a_socket_outlive_it() {
    on_each(|host| {
        host.start_kind("socket", "/srv/js/apps/fd3.js", &["--listen", "8080"]);
        let mut storm = host.storm(&PLAIN_LOAD);
        host.is_killed(TIMES / 2, &mut storm);
        let busy = [("kept", 50), ("new", 50), ("upload", 10)];
        host.has_seen(storm, &[failures], &busy);

        // Of one that ends together with cohortd nothing is left but what it has left itself.
        let fleet = host.settles(2);
        host.ok(&format!("kill -KILL {} {}", host.cohortd(), fleet[&0].1));
        host.is_soon("replaced", || host.order(2).is_ok_and(|now| now[&0] != fleet[&0]));
        let files = host.ok("ls /run/cohortd/myapp");
        let sockets = files.lines().filter(|file| file.starts_with("worker-"));
        assert_eq!(sockets.count(), 2, "{files}");
        host.stops();
    });
}

/// They have nothing of cohortd's but being looked after.
#[test]
fn jobs_outlive_it() {
    on_each(|host| {
        host.write("/srv/myapp/job.js", "setInterval(() => {}, 1000)");
        host.start_kind("job", "job.js", &[]);
        let fleet = host.settles(2);
        for _ in 0..TIMES / 2 {
            let cohortd = host.cohortd();
            host.ok(&format!("kill -KILL {cohortd}"));
            host.is_soon("another one", || ![cohortd, 0].contains(&host.cohortd()));
            assert_eq!(host.settles(2), fleet, "the same workers");
        }
        // They are looked after.
        let (_, (_, pid)) = fleet.first_key_value().expect("two");
        host.ok(&format!("kill -KILL {pid}"));
        host.is_soon("replaced", || host.order(2).is_ok_and(|now| now[&0] != fleet[&0]));
        host.stops();
    });
}

/// They accept their clients themselves.
#[test]
fn kills_cost_nothing_where_workers_accept() {
    on_each(|host| {
        host.start("ill.js", "[route]\ndeliver = \"shared\"\n[env]\nPORT = \"8080\"");
        let mut storm = host.storm(&PLAIN_LOAD);
        host.is_killed(TIMES / 2, &mut storm);
        host.ends(storm, &[faults], &[("kept", 50), ("new", 50), ("slow", 10), ("upload", 10)]);
    });
}
