//! Under a real systemd: reloads under load, broken releases, and workers that fall ill.

use serde_json::json;

use crate::machine::Suite;
use crate::reload::{RELOADS, nothing_failed};
use crate::systemd::{Host, on, on_each};

const MIXED: &str = "mixed.js http://127.0.0.1:8080";

impl Host {
    /// An app of `tests/js/apps` with these lines in its configuration, started.
    pub(crate) fn start(&self, script: &str, toml: &str) {
        self.add("myapp", &format!("/srv/js/apps/{script}"), "8080");
        self.reconfigure(|text| format!("{text}\n{toml}\n"));
        self.ok("systemctl start myapp@cluster");
    }

    pub(crate) fn reconfigure(&self, change: impl Fn(&str) -> String) {
        let file = "/etc/cohortd/myapp.toml";
        self.write(file, &change(&self.ok(&format!("cat {file}"))));
    }

    /// Process ids of the workers.
    fn workers(&self) -> Vec<String> {
        let main = self.main_pid();
        self.processes().into_iter().filter(|pid| *pid != main).collect()
    }
}

fn reloads(suite: Suite) {
    on(suite, |host| {
        host.start(
            "sio.js",
            "[reload]\nsurge = 2\ncanary = \"200ms\"\n[stop]\ndrain = \"2500ms\"\n[env]\nPORT = \"8080\"",
        );
        let load = host.clients("load", MIXED);
        for n in 0..RELOADS {
            let old = host.workers();
            host.ok(["systemctl reload myapp", "systemctl reload myapp@cluster"][n % 2]);
            let new = host.workers();
            assert!(new.len() == 2 && new.iter().all(|pid| !old.contains(pid)), "all are new");
        }
        nothing_failed(&load.stop(), &host.journal("-n 200"));
    });
}

#[test]
fn reloads_under_load_fail_no_request_on_252() {
    reloads(Suite::Bookworm);
}

#[test]
fn reloads_under_load_fail_no_request_on_257() {
    reloads(Suite::Trixie);
}

/// Each way in which a release can be broken makes the reload fail with its reason, and no client
/// notices.
#[test]
fn a_broken_release_harms_nobody() {
    on_each(|host| {
        host.start(
            "sio.js",
            "[ready]\ntimeout = \"3s\"\n[health]\nhttp = \"/whoami\"\nevery = \"500ms\"\n\
             [reload]\ncanary = \"5s\"",
        );
        let load = host.clients("load", MIXED);
        let old = host.workers();
        for (from, to, reason) in [
            ("sio.js", "nonesuch.js", "ended (exit code 1)"),
            ("sio.js", "idle.js", "was not ready in time"),
            ("sio.js", "crash-later.js", "ended (exit code 7)"),
            ("/whoami", "/nonesuch", "GET /nonesuch: answered 404 Not Found"),
            ("[ready]", "[reddy]", "unknown key `reddy`; did you mean `ready`?"),
        ] {
            host.reconfigure(|text| text.replace(from, to));
            assert_eq!(host.run("systemctl reload myapp").code, 1, "{to}");
            host.logs("-p err", reason);
            let shown = host.ok("cohortctl show myapp");
            assert!(shown.contains(reason), "{shown}");
            host.is_soon("the old ones, untouched", || host.workers() == old);
            host.reconfigure(|text| text.replace(to, from));
        }
        let seen = load.stop();
        assert_eq!(seen["failures"], json!({}), "{seen}\n{}", host.journal("-n 100"));
        assert_eq!(seen["ends"], json!({}), "no session ended: {seen}");
    });
}

/// Killed, stopped or spinning: a worker is replaced, and what the other one is at is not touched.
#[test]
fn a_worker_that_falls_ill_is_replaced() {
    on_each(|host| {
        host.start("ill.js", "[health]\nevent_loop = \"1s\"\n[env]\nPORT = \"8080\"");
        for (signal, said) in [("KILL", "exit=signal 9"), ("STOP", "stood still for 1.")] {
            let before = host.workers();
            let slow = "curl -gsSf -m 20 http://127.0.0.1:8080/slow?ms=1800";
            // One is in flight in each of the two; that of the ill one is sent again.
            host.ok(&format!("systemd-run --quiet --unit=one {slow}"));
            host.ok(&format!("systemd-run --quiet --unit=two {slow}"));
            host.is_soon("in flight", || {
                host.ok("cohortctl show myapp --json").matches("\"in_flight\": 1").count() == 2
            });
            host.ok(&format!("kill -{signal} {}", before[0]));
            host.logs("", said);
            host.is_soon("a successor", || {
                let after = host.workers();
                after.len() == 2 && !after.contains(&before[0]) && after.contains(&before[1])
            });
            for unit in ["one", "two"] {
                host.is_soon("an answer", || host.show(unit, "SubState") == "dead");
                assert_eq!(host.show(unit, "Result"), "success", "{signal} {unit}");
            }
            host.is_soon("two ready", || host.show("myapp", "StatusText") == "2/2 workers ready");
        }
        host.get("http://127.0.0.1:8080/spin");
        host.is_soon("it was found", || host.journal("").matches("stood still").count() == 2);
        host.is_soon("two ready", || host.show("myapp", "StatusText") == "2/2 workers ready");
    });
}

/// Workers that get a socket, and workers that get none, are services like any other.
#[test]
fn other_kinds_are_services_too() {
    on_each(|host| {
        let node = "/opt/node/bin/node";
        host.write("/srv/myapp/job.js", "setInterval(() => {}, 1000)");
        let exec = format!("{node} /srv/js/apps/fd3.js");
        let add =
            ["cohortctl", "add", "myapp", "--kind", "socket", "--exec", &exec, "--listen", "8080"];
        let user = ["--directory", "/srv/myapp", "--user", "myapp", "--workers", "2"];
        host.machine.ok(&[&add[..], &user[..]].concat());
        host.reconfigure(|text| format!("{text}\n[reload]\ncanary = \"100ms\"\n"));
        host.ok("systemctl start myapp@cluster");
        let load = host.clients("load", "load.js http://127.0.0.1:8080/whoami");
        let old = host.workers();
        host.ok("systemctl reload myapp");
        assert!(host.workers().iter().all(|pid| !old.contains(pid)));
        let seen = load.stop();
        assert_eq!(seen["failures"], json!({}), "{seen}");
        host.ok("systemctl stop myapp");

        let exec = format!("{node} job.js");
        let add = ["cohortctl", "add", "work", "--kind", "job", "--exec", &exec];
        host.machine.ok(&[&add[..], &user[..]].concat());
        assert_ne!(host.run("systemctl cat work.socket").code, 0, "it has no use for one");
        host.ok("systemctl enable --now work@cluster");
        assert_eq!(host.show("work", "StatusText"), "2/2 workers ready");
        host.ok("systemctl stop work@cluster");
        host.is_soon("stopped", || host.show("work", "ActiveState") == "inactive");
        assert_eq!(host.show("work", "Result"), "success");
        let journal = host.ok("journalctl --no-pager -u work -p err");
        assert!(!journal.contains("rror"), "{journal}");
        host.ok("cohortctl remove work");
    });
}
