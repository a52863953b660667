//! The handle by the name of the profile says how the app is, however often cohortd was killed.

use super::SIO;
use crate::systemd::{Host, on_each};

/// Kills each cohortd that comes, after a pause of up to 100 ms: before, while, and after it goes on
/// with the workers.
const KILLS: &str = r#"
    RANDOM=$1
    for i in $(seq 10); do
        while main=$(systemctl show -P MainPID myapp); [ "$main" = 0 ] || [ "$main" = "$last" ]; do :; done
        kill -KILL "$main"
        last=$main
        sleep "0.0$((RANDOM % 100))"
    done
"#;

const HANDLE_AND_SERVICE: &str = "systemctl is-active myapp@cluster.service myapp.service";

impl Host {
    fn is_killed_again_and_again(&self, seed: u32) {
        self.machine.ok(&["bash", "-c", KILLS, "bash", &seed.to_string()]);
    }
}

#[test]
fn the_handle_is_up_whenever_the_app_is() {
    on_each(|host| {
        host.start("sio.js", SIO);
        let fleet = host.settles(2);
        for seed in 1..=3 {
            host.is_killed_again_and_again(seed);
            assert_eq!(host.settles(2), fleet, "the same workers, seed {seed}");
            let states = || host.run(HANDLE_AND_SERVICE).stdout;
            host.is_soon(&format!("both up, seed {seed}"), || states() == "active\nactive\n");
        }
        // So it is where somebody starts the service by its own name.
        host.ok("systemctl stop myapp");
        host.ok("systemctl start myapp");
        let is_up = || host.run("systemctl is-active myapp@cluster").code == 0;
        host.is_soon("up behind its service", is_up); // in a job of its own
    });
}

#[test]
fn an_app_that_is_stopped_is_not_started_by_its_handle() {
    on_each(|host| {
        host.start("sio.js", SIO);
        for (seed, name) in (1..).zip(["myapp@cluster", "myapp"].repeat(4)) {
            host.settles(2);
            // The handle's start may be waiting for the service's.
            host.is_killed_again_and_again(seed);
            host.ok(&format!("systemctl stop {name}"));
            host.has_ended();
            host.ok("systemctl start myapp.socket myapp@cluster");
        }
    });
}
