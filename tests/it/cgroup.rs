//! Every worker has a cgroup of its own, and nothing of it outlives it.

use crate::app::until;
use crate::systemd::{Host, on_each};

/// The service's cgroup.
const UNIT: &str = "/sys/fs/cgroup/system.slice/myapp.service";

impl Host {
    /// The cgroups below the service's; `.control` is systemd's, for `ExecReload=`.
    fn cgroups(&self) -> Vec<String> {
        let find = "-mindepth 1 -type d -not -name .control -printf %f\\n";
        let found = self.ok(&format!("find {UNIT} {find}"));
        let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The last part of a process's cgroup.
    fn cgroup_of(&self, pid: &str) -> String {
        let all = self.ok(&format!("cat /proc/{pid}/cgroup"));
        let own = all.lines().find(|line| line.starts_with("0::")).expect("the unified one");
        own.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn worker_pids(&self) -> Vec<String> {
        let status = self.ok("cohortctl show myapp --json");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let workers = status["workers"].as_array().expect("a list");
        workers.iter().map(|worker| worker["pid"].to_string()).collect()
    }
}

#[test]
fn each_worker_is_in_a_cgroup_of_its_own() {
    on_each(|host| {
        host.add("myapp", "/srv/js/apps/hog.js", "8080");
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.cgroups(), ["supervisor", "worker-1", "worker-2"]);
        assert_eq!(host.cgroup_of(&host.main_pid()), "supervisor");
        let pids = host.worker_pids();
        assert_eq!(host.cgroup_of(&pids[0]), "worker-1");
        assert_eq!(host.cgroup_of(&pids[1]), "worker-2");
    });
}

fn quick(toml: &str) -> String {
    format!("{toml}\n[reload]\ncanary = \"100ms\"\n")
}

#[test]
fn what_a_worker_has_started_ends_with_it() {
    on_each(|host| {
        host.add("myapp", "/srv/js/apps/hog.js", "8080");
        host.ok("systemctl start myapp@cluster");
        let pids = host.worker_pids();
        // In a session of its own, so that no process group has it.
        let child = || host.get("http://127.0.0.1:8080/child").trim().to_owned();
        let parent = |pid: &String| host.ok(&format!("ps -o ppid= -p {pid}")).trim().to_owned();
        let mut children = Vec::new();
        let both = until(|| {
            children.push(child());
            pids.iter().all(|pid| children.iter().any(|child| parent(child) == *pid))
        });
        assert!(both, "{children:?} of {pids:?}");
        let all = children.len();
        let alive = |pid: &&String| host.run(&format!("test -d /proc/{pid}")).code == 0;
        assert_eq!(children.iter().filter(alive).count(), all);
        host.ok(&format!("kill -9 {}", pids[0]));
        host.is_soon("a successor", || host.cgroups() == ["supervisor", "worker-2", "worker-3"]);
        assert!(children.iter().filter(alive).count() < all, "those of the killed worker");
        host.write("/etc/cohortd/myapp.toml", &quick(&host.ok("cat /etc/cohortd/myapp.toml")));
        host.ok("systemctl reload myapp");
        host.is_soon("no old cgroup", || host.cgroups() == ["supervisor", "worker-4", "worker-5"]);
        assert_eq!(children.iter().filter(alive).count(), 0, "those of the replaced ones");

        // A cohortd that is killed is followed by one that goes on in the same place.
        let killed = host.main_pid();
        host.ok(&format!("kill -9 {killed}"));
        host.is_soon("another", || ![killed.as_str(), "0"].contains(&host.main_pid().as_str()));
        host.is_soon("up", || host.show("myapp", "StatusText") == "2/2 workers ready");
        assert_eq!(host.cgroups(), ["supervisor", "worker-4", "worker-5"]);
        host.ok("systemctl stop myapp");
        assert_ne!(host.run(&format!("test -d {UNIT}")).code, 0, "nothing is left");
    });
}

#[test]
fn a_worker_that_can_t_be_started_leaves_no_cgroup() {
    on_each(|host| {
        host.add("myapp", "/srv/js/apps/hog.js", "8080");
        host.ok("systemctl start myapp@cluster");
        let config = host.ok("cat /etc/cohortd/myapp.toml");
        host.write("/etc/cohortd/myapp.toml", &config.replace("/bin/node", "/bin/nod"));
        for _ in 0..3 {
            assert_eq!(host.run("systemctl reload myapp").code, 1);
        }
        assert_eq!(host.cgroups(), ["supervisor", "worker-1", "worker-2"]);
    });
}
