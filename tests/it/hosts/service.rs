//! Hosts whose cohortd is a service: what systemd keeps for it, and what it is told.

use serde_json::{Value, json};

use crate::machine::Suite;
use crate::systemd::{Host, on_with};

/// Two apps that are hosts for each other, on one machine with a NATS that is a service, too.
fn on_two(behaves: impl Fn(&Host)) {
    for suite in Suite::ALL {
        on_with(suite, &["/usr/sbin/nats-server"], |host| {
            let unit = "[Service]\nExecStart=/usr/sbin/nats-server -a 127.0.0.1\n";
            host.write("/etc/systemd/system/bus.service", unit);
            host.ok("systemctl daemon-reload");
            host.ok("systemctl start bus");
            for (app, port) in [("left", "8080"), ("right", "8081")] {
                host.add(app, "/srv/js/apps/sio.js", port);
                let file = format!("/etc/cohortd/{app}.toml");
                let relay =
                    format!("bus = \"nats://127.0.0.1\"\nhost = \"{app}\"\nchannel = \"test\"");
                let text = host.ok(&format!("cat {file}"));
                host.write(&file, &format!("{text}\n[relay]\n{relay}\n"));
                host.ok(&format!("systemctl start {app}@cluster"));
            }
            both_are_there(host);
            behaves(host);
        });
    }
}

fn both_are_there(host: &Host) {
    let sees = |app: &str, other: &str| {
        let known = &shown(host, app)["bus"]["hosts"][0];
        known["name"] == other && known["workers"] == 2
    };
    host.is_soon("both are there", || sees("left", "right") && sees("right", "left"));
}

/// What `cohortctl show` says of an app.
fn shown(host: &Host, app: &str) -> Value {
    let shown = host.run(&format!("cohortctl show {app} --json"));
    serde_json::from_str(&shown.stdout).unwrap_or_default()
}

/// Their workers outlive a cohortd that is killed, or goes on as another program: for the others they
/// never were away.
#[test]
fn a_killed_cohortd_goes_on_as_the_same_host() {
    on_two(|host| {
        let urls = "http://127.0.0.1:8080,http://127.0.0.1:8081";
        let suite = format!("/opt/node/bin/node /srv/js/clients/suite.js {urls} 6 4");
        host.ok(&suite);
        for is_killed in [true, true, false, true, true, false, true] {
            let pid: u64 = host.show("left", "MainPID").trim().parse().expect("a number");
            let workers = shown(host, "left")["workers"].clone();
            if is_killed {
                host.ok(&format!("kill -KILL {pid}"));
                host.is_soon("resumed", || {
                    shown(host, "left")["pid"].as_u64().is_some_and(|now| now != pid)
                });
            } else {
                host.ok("cohortctl reexec left");
            }
            both_are_there(host);
            let ids = |workers: &Value| {
                let list = workers.as_array().cloned().unwrap_or_default();
                list.iter().map(|worker| worker["pid"].clone()).collect::<Vec<_>>()
            };
            assert_eq!(ids(&shown(host, "left")["workers"]), ids(&workers));
        }
        host.ok(&suite);
        let journal = host.ok("journalctl -u right -o cat");
        assert!(!journal.contains("has not been heard"), "{journal}");
        host.ok("systemctl stop left");
        host.is_soon("its goodbye is heard", || shown(host, "right")["bus"]["hosts"] == json!([]));
    });
}

/// `systemctl status` says that the bus is away, and why, and that it is back.
#[test]
fn systemd_is_told_of_a_bus_that_is_away() {
    on_two(|host| {
        let ready = "2/2 workers ready";
        let apps = ["left", "right"];
        let says = |app: &str| host.show(app, "StatusText");
        host.is_soon("all is well", || apps.iter().all(|app| says(app) == ready));
        for _ in 0..2 {
            host.ok("systemctl stop bus");
            let trouble = |app: &&str| {
                let said = says(app);
                let words = ["other hosts are not reached", "127.0.0.1:4222", "refused"];
                said.starts_with(ready) && words.iter().all(|word| said.contains(word))
            };
            host.is_soon("it is told", || apps.iter().all(trouble));
            let shown = host.run("systemctl status left").stdout;
            assert!(shown.contains("other hosts are not reached"), "{shown}");
            // It serves, and systemd sees nothing else in it.
            assert!(host.get("http://127.0.0.1:8080/whoami").contains("pid"));
            assert_eq!(host.show("left", "ActiveState"), "active");
            host.ok("systemctl start bus");
            host.is_soon("all is well again", || apps.iter().all(|app| says(app) == ready));
            both_are_there(host);
        }
    });
}
