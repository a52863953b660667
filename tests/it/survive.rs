//! cohortd is killed under load, again and again, and its workers go on: nobody notices but those
//! whose request it was forwarding just then. It also becomes a new program in its place, which
//! nobody notices at all.

mod end;
mod handle;
mod kept;
mod kinds;
mod moments;
mod renewed;
mod stops;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::end::{ends, failures, faults, lost};
use crate::app::until;
use crate::chaos::storm::Storm;
use crate::machine::Suite;
use crate::systemd::{Host, on, on_each};

/// 200 WebSockets, 100 sessions by polling, and requests of every kind, all the time. Sessions with
/// nothing under way at most moments are the ones that have to be known afterwards.
const LOAD: [&str; 9] = [
    "websocket=200",
    "polling=100",
    "upgraded=0",
    "pausing=20",
    "emit=1",
    "pause=2000",
    "kept=4",
    "new=4",
    "upload=1",
];

/// The same for an app without Socket.IO.
const PLAIN_LOAD: [&str; 8] =
    ["websocket=0", "polling=0", "upgraded=0", "kept=4", "new=6", "slow=6", "upload=4", "stream=4"];

const SIO: &str = "[env]\nPORT = \"8080\"";

const TIMES: usize = 10;

/// The workers' numbers and processes, by slot.
type Fleet = BTreeMap<u64, (u64, i32)>;

impl Host {
    /// Clients of the app on port 8080, of these kinds.
    pub(crate) fn storm(&self, kinds: &[&str]) -> Storm {
        let program = ["/opt/node/bin/node", "/srv/js/clients/chaos.js", "http://127.0.0.1:8080"];
        Storm::of(&mut self.machine.command(&[&program, kinds].concat()))
    }

    /// What `cohortctl show` is answered, if it is.
    fn shown(&self) -> Option<Value> {
        let out = self.run("cohortctl show myapp --json");
        (out.code == 0).then(|| serde_json::from_str(&out.stdout).expect("JSON"))
    }

    /// The workers, if all is in order: so many, one a slot, ready, of the generation that serves;
    /// and no other process but a keeper, where there has to be one.
    pub(crate) fn order(&self, workers: usize) -> Result<Fleet, String> {
        let shown = self.shown().ok_or("cohortctl show is not answered")?;
        let main = self.main_pid();
        let all = shown["workers"].as_array().expect("a list");
        let number = |worker: &Value, key: &str| worker[key].as_u64().expect("a number");
        let places = all.iter().map(|worker| {
            (number(worker, "slot"), (number(worker, "id"), number(worker, "pid") as i32))
        });
        let fleet: Fleet = places.collect();
        let is_well = |worker: &Value| {
            worker["state"] == "ready" && worker["generation"] == shown["generation"]
        };
        let mut known: BTreeSet<String> = fleet.values().map(|(_, pid)| pid.to_string()).collect();
        known.insert(main.clone());
        let is_node = self.run("grep -q ^kind /etc/cohortd/myapp.toml").code != 0;
        let keepers = self.keepers();
        known.extend(keepers.iter().cloned());
        let in_cgroup: BTreeSet<String> = self.all_processes().into_iter().collect();
        let of_user: BTreeSet<String> =
            self.run("pgrep -u myapp").stdout.lines().map(str::to_owned).collect();
        let status = self.show("myapp", "StatusText");
        let is_right = shown["pid"].as_u64().is_some_and(|pid| pid.to_string() == main)
            && shown["wanted"] == workers
            && all.len() == workers
            && fleet.keys().copied().eq(0..workers as u64)
            && all.iter().all(is_well)
            && keepers.len() == usize::from(is_node)
            && in_cgroup == known
            && of_user == known
            && status == format!("{workers}/{workers} workers ready");
        if is_right {
            return Ok(fleet);
        }
        Err(format!(
            "MainPID {main}, status {status:?}, in the cgroup {in_cgroup:?}, the user's {of_user:?}\n{shown:#}"
        ))
    }

    /// [`Host::order`], when it has come to be so.
    pub(crate) fn settles(&self, workers: usize) -> Fleet {
        let mut order = Err(String::new());
        until(|| {
            order = self.order(workers);
            order.is_ok()
        });
        order.unwrap_or_else(|why| panic!("not settled: {why}\n{}", self.journal("-n 100")))
    }

    fn cohortd(&self) -> i32 {
        self.main_pid().parse().expect("a number")
    }

    /// Where its program is loaded, which is chosen anew for each that a process runs.
    fn place_of(&self, pid: i32) -> String {
        let line = self.ok(&format!("grep -m 1 /usr/bin/cohortd /proc/{pid}/maps"));
        line.split(' ').next().expect("addresses").to_owned()
    }

    /// Kills cohortd so many times, with these clients: each time the workers are the same ones.
    fn is_killed(&self, times: usize, storm: &mut Storm) {
        let fleet = self.settles(2);
        for _ in 0..times {
            storm.idle();
            let cohortd = self.cohortd();
            storm.kill(cohortd);
            assert_eq!(self.settles(2), fleet, "the same workers\n{}", self.journal("-n 100"));
            assert_ne!(self.cohortd(), cohortd);
        }
    }
}

fn sum(kills: &Value, of: impl Fn(&Value) -> u64) -> u64 {
    kills.as_array().expect("a list").iter().map(of).sum()
}

fn killed_under_load(suite: Suite) {
    on(suite, |host| {
        host.start("sio.js", SIO);
        let mut storm = host.storm(&LOAD);
        host.is_killed(TIMES, &mut storm);
        // Where a client knocks, 257 starts it at once and does not count that.
        if suite == Suite::Bookworm {
            assert_eq!(host.show("myapp", "NRestarts"), TIMES.to_string());
        }
        let busy = [("websocket", 200), ("polling", 50), ("pausing", 30), ("new", 50)];
        let seen = host.ends(storm, &[failures, lost], &busy);
        let kills = &seen["kills"];
        assert_eq!(sum(kills, |_| 1), TIMES as u64);
        let forwarded = |kill: &Value| kill["underWay"]["slow"].as_u64().unwrap_or_default();
        assert!(sum(kills, forwarded) > 0, "requests were being forwarded: {kills}");
        let idle = |kill: &Value| kill["pausing"].as_u64().expect("a number");
        assert!(sum(kills, idle) > 0, "sessions had nothing under way: {kills}");
    });
}

#[test]
fn kills_under_load_cost_only_what_is_forwarded_on_252() {
    killed_under_load(Suite::Bookworm);
}

#[test]
fn kills_under_load_cost_only_what_is_forwarded_on_257() {
    killed_under_load(Suite::Trixie);
}

/// Connections that the workers have are not cohortd's any more, new ones are the kernel's until a
/// moment before that: no request fails.
fn killed_while_it_hands_over(suite: Suite) {
    on(suite, |host| {
        host.start("ill.js", "[route]\ndeliver = \"handoff\"\n[env]\nPORT = \"8080\"");
        let mut storm = host.storm(&PLAIN_LOAD);
        host.is_killed(TIMES, &mut storm);
        let busy = [("kept", 100), ("new", 100), ("slow", 10), ("upload", 10)];
        host.ends(storm, &[faults], &busy);
    });
}

#[test]
fn kills_cost_nothing_where_connections_are_handed_over_on_252() {
    killed_while_it_hands_over(Suite::Bookworm);
}

#[test]
fn kills_cost_nothing_where_connections_are_handed_over_on_257() {
    killed_while_it_hands_over(Suite::Trixie);
}

/// Who has not spoken yet is not cohortd's, however requests are delivered.
#[test]
fn kills_cost_no_client_that_has_yet_to_speak() {
    on_each(|host| {
        host.start("ill.js", "[env]\nPORT = \"8080\"");
        let fleet = host.settles(2);
        for _ in 0..TIMES / 2 {
            let pid = host.main_pid();
            host.machine.ok(&["/opt/node/bin/node", "/srv/js/clients/silent.js", "8080", &pid]);
            assert_eq!(host.settles(2), fleet, "the same workers");
        }
    });
}

/// It runs a new program as the same process. No connection ends, no request fails, no emit is lost.
fn renewed_under_load(suite: Suite) {
    on(suite, |host| {
        host.start("sio.js", SIO);
        let fleet = host.settles(2);
        let cohortd = host.cohortd();
        let storm = host.storm(&LOAD);
        for _ in 0..TIMES {
            let before = host.place_of(cohortd);
            host.ok("cohortctl reexec myapp");
            assert_ne!(host.place_of(cohortd), before, "a new program when that is answered");
            assert_eq!(host.settles(2), fleet, "the same workers");
            assert_eq!(host.cohortd(), cohortd);
        }
        assert_eq!(host.show("myapp", "NRestarts"), "0");
        let busy = [("websocket", 200), ("polling", 50), ("pausing", 30), ("new", 50)];
        host.ends(storm, &[faults, ends], &busy);
    });
}

#[test]
fn a_new_program_in_its_place_is_noticed_by_nobody_on_252() {
    renewed_under_load(Suite::Bookworm);
}

#[test]
fn a_new_program_in_its_place_is_noticed_by_nobody_on_257() {
    renewed_under_load(Suite::Trixie);
}
