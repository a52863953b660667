//! How it ends for the clients and for the app: what was wrong of what they have seen, and that a stop
//! leaves nothing.

use serde_json::Value;

use crate::chaos::is_broken;
use crate::chaos::storm::Storm;
use crate::systemd::Host;

/// What is wrong of what the clients have seen.
pub(super) type Wrong = fn(&Value) -> Vec<&Value>;

impl Host {
    /// The clients come to their end, and then the app: nothing is left.
    pub(super) fn ends(&self, storm: Storm, wrong: &[Wrong], busy: &[(&str, u64)]) -> Value {
        let seen = self.has_seen(storm, wrong, busy);
        self.stops();
        seen
    }

    /// The clients come to their end. None of this was wrong, and each kind of them has been answered
    /// so many times at least.
    pub(super) fn has_seen(
        &self,
        mut storm: Storm,
        wrong: &[Wrong],
        busy: &[(&str, u64)],
    ) -> Value {
        storm.pause(); // every session hears every worker
        let seen = storm.end();
        tell(&seen);
        for wrong in wrong {
            let journal = || self.journal("-n 300 -o short-precise");
            assert_eq!(wrong(&seen), [&Value::Null; 0], "{}", journal());
        }
        for (kind, least) in busy {
            let answered = seen["answered"][kind].as_u64();
            assert!(answered >= Some(*least), "{kind}: {answered:?} answers: no load");
        }
        seen
    }

    /// It is stopped, and leaves nothing.
    pub(super) fn stops(&self) {
        self.ok("systemctl stop myapp");
        self.has_left_nothing();
    }

    /// After a stop: no process, no open socket, no kept descriptor, no cgroup, and nothing that would
    /// start it again.
    pub(super) fn has_left_nothing(&self) {
        self.has_ended();
        let cgroup = "test -e /sys/fs/cgroup/system.slice/myapp.service";
        self.is_soon("no cgroup", || self.run(cgroup).code == 1);
    }

    /// The same, but for the cgroup: one that had processes when the service was over stays with 252.
    pub(super) fn has_ended(&self) {
        // It has failed where the last that it did was to be killed.
        let is_down = |state: &str| ["inactive", "failed"].contains(&state);
        self.is_soon("stopped", || self.states().split(' ').all(is_down));
        self.is_soon("no process", || {
            self.all_processes().is_empty() && self.run("pgrep -u myapp").stdout.is_empty()
        });
        self.is_soon("nothing kept", || self.show("myapp", "NFileDescriptorStore") == "0");
        let jobs = || self.ok("systemctl list-jobs --plain --no-legend");
        self.is_soon("nothing to be done", || !jobs().contains("myapp"));
        assert!(self.states().split(' ').all(is_down), "{}", self.run("systemctl status myapp*"));
    }
}

fn list<'a>(seen: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    seen[key].as_array().expect("a list").iter()
}

/// Every failed request.
pub(super) fn faults(seen: &Value) -> Vec<&Value> {
    list(seen, "faults").collect()
}

/// Failed requests, but those that were under way by way of cohortd when that was killed.
pub(super) fn failures(seen: &Value) -> Vec<&Value> {
    let is_excused = |fault: &&Value| {
        let what = fault["what"].as_str().expect("text");
        // An emit may be missed in that moment, but never comes twice.
        let is_missed = fault["kind"] == "emit" && what.ends_with(" have missed it");
        fault["struck"] == true && (is_broken(what) || is_missed)
    };
    list(seen, "faults").filter(|fault| !is_excused(fault)).collect()
}

/// Every session that has ended.
pub(super) fn ends(seen: &Value) -> Vec<&Value> {
    list(seen, "ends").collect()
}

/// Sessions that ended, but those whose poll cohortd held when it was killed.
pub(super) fn lost(seen: &Value) -> Vec<&Value> {
    list(seen, "ends").filter(|end| end["kind"] != "polling" || end["struck"] != true).collect()
}

/// Sessions that ended as their workers left, and not properly.
pub(super) fn cut_off(seen: &Value) -> Vec<&Value> {
    let is_proper = |end: &&Value| {
        let why = end["why"].as_str().expect("text");
        match end["kind"].as_str() {
            Some("pausing") => true, // told, or unknown when it comes back
            _ => ["transport close", "transport close 1012"].contains(&why),
        }
    };
    list(seen, "ends").filter(|end| !is_proper(end)).collect()
}

/// How much there was to go wrong, for who reads the log of the test.
fn tell(seen: &Value) {
    for key in ["answered", "slowest", "kills", "faultings", "endings"] {
        eprintln!("{key}: {}", seen[key]);
    }
}
