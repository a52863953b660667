//! Clients on whose connections nothing is under way lose nothing with cohortd: its keeper has them.

use crate::systemd::{Host, on_each};

const HANDOFF: &str = "[route]\ndeliver = \"handoff\"\n[env]\nPORT = \"8080\"";
const AUTO: &str = "[env]\nPORT = \"8080\"";

impl Host {
    /// Clients who are at this point, and so many kills behind this command.
    fn are_kept(&self, point: &str, kills: usize, command: &str) {
        let fleet = self.settles(2);
        let kills = kills.to_string();
        let client = ["/opt/node/bin/node", "/srv/js/clients/kept.js", "8080", point, &kills];
        self.machine.ok(&[&client[..], &[command]].concat());
        assert_eq!(self.settles(2), fleet, "the same workers");
    }
}

#[test]
fn a_head_that_is_half_sent_is_answered_after_a_kill() {
    for route in [HANDOFF, AUTO] {
        on_each(|host| {
            host.start("ill.js", route);
            host.are_kept("half", 1, "true");
            host.are_kept("half", 1, "true");
        });
    }
}

#[test]
fn a_connection_between_two_requests_outlives_a_kill() {
    on_each(|host| {
        host.start("ill.js", AUTO);
        host.are_kept("rests", 1, "true");
        host.are_kept("rests", 1, "true");
    });
}

/// Those that have come are with the next keeper already, and the others still with the first one.
#[test]
fn whoever_goes_on_can_be_killed_at_once() {
    on_each(|host| {
        host.start("ill.js", AUTO);
        for point in ["half", "rests"] {
            host.are_kept(point, 4, "true");
        }
    });
}

#[test]
fn a_new_program_has_a_keeper_of_its_own() {
    on_each(|host| {
        host.start("ill.js", HANDOFF);
        let old = host.keepers();
        for _ in 0..3 {
            host.are_kept("half", 1, "cohortctl reexec myapp");
        }
        host.ok("cohortctl reexec myapp");
        host.settles(2);
        assert!(host.keepers().iter().all(|keeper| !old.contains(keeper)));
        host.stops();
    });
}

/// Nothing would be kept of a process that ends in order.
#[test]
fn no_keeper_outlives_a_stop_or_a_failure() {
    on_each(|host| {
        host.start("ill.js", HANDOFF);
        host.settles(2);
        let keeper = host.keepers().concat();
        // What it had of cohortd's memory at its start: cohortd's own is not yet in there.
        let own = host.ok(&format!("awk /^Private_Dirty/{{print$2}} /proc/{keeper}/smaps_rollup"));
        assert!(own.parse::<u32>().is_ok_and(|kib| kib < 2048), "{own} KiB");
        eprintln!("the keeper's own memory: {own} KiB");
        // It is nobody's but cohortd's: what ends a process politely does not end it.
        host.ok(&format!("kill -TERM {keeper}"));
        host.settles(2);
        assert_eq!(host.keepers().concat(), keeper);
        host.ok("systemctl stop myapp");
        assert_eq!(host.keepers(), [""; 0], "when that is answered");
        host.has_left_nothing();
    });
}

#[test]
fn there_is_none_where_it_is_of_no_use() {
    on_each(|host| {
        host.start_kind("socket", "/srv/js/apps/fd3.js", &["--listen", "8080"]);
        host.settles(2);
        assert_eq!(host.keepers(), [""; 0]);
    });
}
