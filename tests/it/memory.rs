//! What needs the memory controller.

use crate::machine::Suite;
use crate::systemd::{Host, on_vm};

/// Starts Node in a cgroup of its own below the service's and lets it take more than that may.
const HOG: &str = r#"#!/bin/bash
set -e
cd "/sys/fs/cgroup$(sed 's/^0:://' /proc/self/cgroup)"
mkdir supervisor hog
echo $$ >supervisor/cgroup.procs
echo +memory >cgroup.subtree_control
echo 64M >hog/memory.max
code=0
(
  echo "$BASHPID" >hog/cgroup.procs
  exec /opt/node/bin/node -e '
    console.log(process.version);
    const kept = [];
    for (;;) kept.push(Buffer.alloc(1 << 20, 1));'
) || code=$?
echo "$(id -un) $code"
cat hog/memory.events
"#;

/// One machine for all of it, because it is slow to boot.
fn memory_is_bounded(suite: Suite) {
    on_vm(suite, |host| {
        by_hand(host);
        grows(host);
        grows_too_much(host);
        is_a_service_like_any_other(host);
    });
}

#[test]
fn memory_is_bounded_on_252() {
    memory_is_bounded(Suite::Bookworm);
}

#[test]
fn memory_is_bounded_on_257() {
    memory_is_bounded(Suite::Trixie);
}

/// Of the machine, not of cohortd: what the rest relies on. A user can bound the memory of a cgroup
/// below one that is delegated.
fn by_hand(host: &Host) {
    let controllers = host.ok("cat /sys/fs/cgroup/cgroup.controllers");
    assert!(controllers.split(' ').any(|name| name == "memory"), "{controllers}");

    host.write("/srv/myapp/hog", HOG);
    host.ok("chmod +x /srv/myapp/hog");
    let unit = "-p User=myapp -p Delegate=yes -p OOMPolicy=continue";
    let said = host.ok(&format!("systemd-run --quiet --wait --pipe {unit} /srv/myapp/hog"));
    let said: Vec<&str> = said.lines().collect();
    assert!(said[0].starts_with("v20."), "{said:?}");
    assert_eq!(said[1], "myapp 137", "killed: {said:?}");
    assert!(said.contains(&"oom_kill 1"), "{said:?}");
}

/// Everything is emulated here, and takes its time.
const PATIENT: &str = "[health]\nevent_loop = \"0s\"";

/// An app whose workers take memory when they are told to, started with these lines.
fn hog(host: &Host, toml: &str) {
    let plain = "/srv/myapp/plain.toml";
    if host.run(&format!("test -e {plain}")).code != 0 {
        host.add("myapp", "/srv/js/apps/hog.js", "8080");
        host.ok(&format!("cp /etc/cohortd/myapp.toml {plain}"));
    }
    let config = host.ok(&format!("cat {plain}"));
    host.write("/etc/cohortd/myapp.toml", &format!("{config}\n{PATIENT}\n{toml}\n"));
    host.ok("systemctl restart myapp@cluster");
    is_up(host, 1, 2);
}

/// Two workers serve, and these are they.
fn is_up(host: &Host, a: u32, b: u32) {
    let workers: Vec<String> = [a, b].map(|n| format!("{UNIT}/worker-{n}")).into();
    host.is_soon(&format!("workers {a} and {b}"), || {
        host.show("myapp", "StatusText") == "2/2 workers ready"
            && host.run(&format!("ls -d {}", workers.join(" "))).code == 0
    });
}

const UNIT: &str = "/sys/fs/cgroup/system.slice/myapp.service";

fn grows(host: &Host) {
    hog(host, "[memory]\nrecycle_at = \"160M\"\n[stop]\ndrain = \"1s\"");
    // Pages of files are not its own: a hundred megabytes of them are no reason.
    host.machine.ok(&["sh", "-c", "echo 3 >/proc/sys/vm/drop_caches"]);
    let curl = "curl -gsSf -m 55";
    host.ok(&format!("{curl} http://127.0.0.1:8080/read?file=/opt/node/bin/node"));
    // It answers, though it is replaced for that.
    assert!(!host.journal("").contains("recycle_at"), "{}", host.journal(""));
    host.ok(&format!("{curl} http://127.0.0.1:8080/take?mb=200"));
    host.logs("", "uses more than [memory] recycle_at: replaced");
    host.logs("", "ready worker=3");
    host.is_soon("two ready", || host.show("myapp", "StatusText") == "2/2 workers ready");
    assert!(!host.journal("").contains("out of memory"), "{}", host.journal(""));
}

fn grows_too_much(host: &Host) {
    hog(host, "[memory]\nmax = \"200M\"");
    let limit = host.ok(&format!("cat {UNIT}/worker-1/memory.max"));
    assert_eq!(limit, (200 << 20).to_string());
    // A POST is not sent again.
    let curl = "curl -sS -m 55 -o /dev/null -w %{http_code} -X POST";
    assert_eq!(host.ok(&format!("{curl} http://127.0.0.1:8080/take?mb=300")), "502");
    host.logs("", "exit=out of memory: killed by the kernel");
    host.logs("-n 20", "ready worker=3");
    assert_eq!(host.states(), "active active active");
}

/// A cgroup with controllers holds no processes of its own: nothing that systemd does may stumble
/// over that.
fn is_a_service_like_any_other(host: &Host) {
    hog(host, "[memory]\nmax = \"300M\"\n[reload]\ncanary = \"100ms\"");
    host.ok("systemctl reload myapp");
    is_up(host, 3, 4);
    let cohortd = host.main_pid();
    host.ok(&format!("kill -9 {cohortd}"));
    host.is_soon("another", || ![cohortd.as_str(), "0"].contains(&host.main_pid().as_str()));
    is_up(host, 3, 4);
    // systemd can start it only where the controllers were taken away, and the limits with them.
    let limit = host.ok(&format!("cat {UNIT}/worker-3/memory.max"));
    assert_eq!(limit, (300 << 20).to_string());
    host.ok("systemctl stop myapp@cluster");
    host.is_soon("stopped", || host.states() == "inactive inactive inactive");
    host.ok("systemctl start myapp");
    is_up(host, 1, 2);
}
