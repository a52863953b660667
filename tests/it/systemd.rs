//! The units on a real systemd: what `systemctl` and `journalctl` say of an app is true.
//!
//! Every behaviour is shown on each systemd there is a tree for.

mod import;
mod schedule;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::app::{NODES, js, node, until};
use crate::machine::{Machine, Output, Suite};
use crate::sdbox::{self, Sdbox};
use crate::vmbox::{self, Vm};

/// Says on both streams who it is; each answer is its process.
const WEB: &str = r#"
const { worker } = require("node:cluster");
console.log(`worker ${worker.id} says hello`);
console.error(`worker ${worker.id} complains`);
require("node:http").createServer((req, res) => {
  if (req.url === "/exit") process.exit(7);
  res.end(`${process.pid}\n`);
}).listen(8080);
"#;

/// A machine with cohortd, Node 20 and `tests/js` on it.
pub(crate) struct Host {
    pub(crate) machine: Box<dyn Machine>,
}

/// Does the same on every systemd, one after the other.
pub(crate) fn on_each(behaves: impl Fn(&Host)) {
    for suite in Suite::ALL {
        on(suite, &behaves);
    }
}

/// Does it on one systemd.
pub(crate) fn on(suite: Suite, behaves: impl Fn(&Host)) {
    if sdbox::require() {
        eprintln!("--- {suite:?}");
        behaves(&Host::new(|binds| Sdbox::boot(suite, binds)));
    }
}

/// [`on`] with these programs of this machine in the same places.
pub(crate) fn on_with(suite: Suite, programs: &[&str], behaves: impl Fn(&Host)) {
    if sdbox::require() {
        eprintln!("--- {suite:?}");
        behaves(&Host::new(|binds| {
            let mut binds: Vec<(&Path, &str)> = binds.to_vec();
            binds.extend(programs.iter().map(|program| (Path::new(*program), *program)));
            Sdbox::boot(suite, &binds)
        }));
    }
}

/// [`on`] without cohortd installed. This folder is at `/debs`.
pub(crate) fn on_bare(suite: Suite, debs: &Path, behaves: impl Fn(&Host)) {
    if sdbox::require() {
        eprintln!("--- {suite:?}");
        let (node, js) = (home(NODE), js());
        let binds: [(&Path, &str); 3] = [(&js, JS), (&node, "/opt/node"), (debs, "/debs")];
        behaves(&Host { machine: Box::new(Sdbox::boot(suite, &binds)) });
    }
}

/// [`on`] in a virtual machine: with every cgroup controller, but slow to boot.
pub(crate) fn on_vm(suite: Suite, behaves: impl Fn(&Host)) {
    if vmbox::require() {
        eprintln!("--- {suite:?} in a VM");
        let others = NODES.into_iter().filter(|version| *version != NODE).map(home);
        let others: Vec<_> = others.collect();
        let others: Vec<&Path> = others.iter().map(AsRef::as_ref).collect();
        behaves(&Host::new(|binds| Vm::boot(suite, binds, &others)));
    }
}

pub(crate) const NODE: &str = "node20";

/// Where a version of Node is installed.
pub(crate) fn home(version: &str) -> PathBuf {
    node(version).ancestors().nth(2).expect("bin/node").to_owned()
}

/// Where a machine has `tests/js`.
pub(crate) const JS: &str = "/srv/js";

/// What every machine has: cohortd and `tests/js`.
pub(crate) fn installed(js: &Path) -> [(&Path, &'static str); 3] {
    [
        (js, JS),
        (env!("CARGO_BIN_EXE_cohortd").as_ref(), "/usr/bin/cohortd"),
        (env!("CARGO_BIN_EXE_cohortctl").as_ref(), "/usr/bin/cohortctl"),
    ]
}

impl Host {
    fn new<M: Machine + 'static>(boot: impl FnOnce(&[(&Path, &str)]) -> M) -> Host {
        let (node, js) = (home(NODE), js());
        let mut binds = installed(&js).to_vec();
        binds.push((&node, "/opt/node"));
        Host { machine: Box::new(boot(&binds)) }
    }

    pub(crate) fn run(&self, command: &str) -> Output {
        self.machine.run(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, command: &str) -> String {
        self.machine.ok(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// Writes a file that may be read at any time: all of it or none.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let new = format!("{path}.new");
        self.machine.write_file(&new, text.as_bytes());
        self.ok(&format!("mv {new} {path}"));
    }

    /// `cohortctl add` of a script with two workers, run as the user `myapp`.
    pub(crate) fn add(&self, app: &str, script: &str, listen: &str) {
        let out = self.try_add(app, script, listen);
        assert_eq!(out.code, 0, "{out}");
    }

    fn try_add(&self, app: &str, script: &str, listen: &str) -> Output {
        let exec = format!("/opt/node/bin/node {script}");
        let mut line = vec!["cohortctl", "add", app, "--exec", &exec, "--directory", "/srv/myapp"];
        line.extend(["--workers", "2", "--user", "myapp"]);
        line.extend(listen.split_whitespace().flat_map(|on| ["--listen", on]));
        self.machine.run(&line)
    }

    /// An app called `myapp` of this text, on port 8080.
    pub(crate) fn add_text(&self, text: &str) {
        self.write("/srv/myapp/app.js", text);
        self.add("myapp", "app.js", "8080");
    }

    /// States of the service, its handle and its socket.
    pub(crate) fn states(&self) -> String {
        let out = self.run("systemctl is-active myapp.service myapp@cluster.service myapp.socket");
        out.stdout.trim_end().replace('\n', " ")
    }

    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show --value -p {property} {unit}"))
    }

    pub(crate) fn main_pid(&self) -> String {
        self.show("myapp", "MainPID")
    }

    /// Every process in the service's cgroup, but for cohortd's keeper.
    pub(crate) fn processes(&self) -> Vec<String> {
        let keepers = self.keepers();
        self.all_processes().into_iter().filter(|pid| !keepers.contains(pid)).collect()
    }

    /// The processes that keep connections for when cohortd is killed: one, as a rule.
    pub(crate) fn keepers(&self) -> Vec<String> {
        self.run("pgrep -x cohortd-keeper").stdout.lines().map(str::to_owned).collect()
    }

    /// Every process in the service's cgroup.
    pub(crate) fn all_processes(&self) -> Vec<String> {
        let find = "find /sys/fs/cgroup/system.slice/myapp.service -name cgroup.procs";
        let found = self.run(&format!("{find} -exec cat {{}} +"));
        found.stdout.lines().map(str::to_owned).collect()
    }

    /// The service's log, as `journalctl -u myapp` with more arguments shows it.
    pub(crate) fn journal(&self, arguments: &str) -> String {
        self.ok(&format!("journalctl --no-pager -u myapp {arguments}"))
    }

    /// Waits for a line in the service's log.
    pub(crate) fn logs(&self, arguments: &str, text: &str) {
        let seen = || self.journal(arguments).contains(text);
        assert!(until(seen), "no {text:?} in journalctl -u myapp {arguments}");
    }

    pub(crate) fn is_soon(&self, what: &str, so: impl Fn() -> bool) {
        assert!(until(so), "not so in time: {what}\n{}", self.run("systemctl status myapp*"));
    }

    fn becomes(&self, states: &str) {
        self.is_soon(states, || self.states() == states);
    }

    /// The body of a page that must come with 200.
    pub(crate) fn get(&self, target: &str) -> String {
        self.ok(&format!("curl -gsSf -m 20 {target}"))
    }

    /// curl's exit code: 7 is a refused connection, 28 no answer in half a second.
    fn curl_code(&self, target: &str) -> i32 {
        self.run(&format!("curl -gsSf -m 0.5 {target}")).code
    }

    /// Starts clients that go on asking port 8080.
    fn load(&self, name: &'static str) -> Load<'_> {
        self.clients(name, "load.js http://127.0.0.1:8080/")
    }

    /// Starts clients of `tests/js/clients`.
    pub(crate) fn clients(&self, name: &'static str, command: &str) -> Load<'_> {
        let program = format!("/opt/node/bin/node /srv/js/clients/{command}");
        self.ok(&format!("systemd-run --quiet --collect --unit={name} {program}"));
        let load = Load { host: self, name };
        self.is_soon("going", || load.said().contains("going"));
        load
    }
}

/// Clients that go on until they are stopped.
pub(crate) struct Load<'a> {
    host: &'a Host,
    name: &'static str,
}

impl Load<'_> {
    fn said(&self) -> String {
        self.host.ok(&format!("journalctl --no-pager -o cat _SYSTEMD_UNIT={}.service", self.name))
    }

    /// Stops them: how each request ended.
    pub(crate) fn stop(self) -> Value {
        self.host.ok(&format!("systemctl stop {}", self.name));
        let results =
            || self.said().lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        self.host.is_soon("results", || results().is_some());
        results().expect("just seen")
    }
}

const NAMES: [&str; 2] = ["myapp", "myapp@cluster"];
const ALL_ACTIVE: &str = "active active active";
const ALL_INACTIVE: &str = "inactive inactive inactive";

/// The seed app, unmodified, shows through systemd what it shows in one process; everything runs
/// as the app's user.
#[test]
fn the_seed_app_is_served_as_a_systemd_service() {
    on_each(|host| {
        host.add("myapp", "/srv/js/apps/sio.js", "8080");
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.states(), ALL_ACTIVE);
        host.ok("/opt/node/bin/node /srv/js/clients/suite.js http://127.0.0.1:8080 3 2");

        assert_eq!(host.show("myapp", "Type"), "notify");
        assert_eq!(host.show("myapp", "WatchdogUSec"), "30s");
        assert_eq!(host.show("myapp", "StatusText"), "2/2 workers ready");
        let pids = host.processes();
        assert_eq!(pids.len(), 3, "cohortd and two workers");
        let users = host.ok(&format!("ps -o user= -p {}", pids.join(",")));
        assert_eq!(users, "myapp\nmyapp\nmyapp");
    });
}

/// A start is over when every worker serves, and not before; until then the status says so.
#[test]
fn a_start_returns_when_the_workers_are_ready() {
    on_each(|host| {
        host.add_text(
            r#"
            const fs = require("node:fs");
            const server = require("node:http").createServer((req, res) => res.end());
            server.on("listening", () => fs.appendFileSync("listening", "x"));
            const wait = () => fs.existsSync("go") ? server.listen(8080) : setTimeout(wait, 20);
            wait();
            "#,
        );
        host.ok("systemctl start --no-block myapp@cluster");
        let status = "Starting: 0/2 workers ready, 2 starting";
        host.is_soon(status, || host.show("myapp", "StatusText") == status);
        assert_eq!(host.states(), "activating inactive active");

        host.write("/srv/myapp/go", "");
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.ok("cat /srv/myapp/listening"), "xx");
        assert_eq!(host.states(), ALL_ACTIVE);
    });
}

/// A start can be stopped before it is over.
#[test]
fn a_start_that_hangs_can_be_stopped() {
    on_each(|host| {
        host.add_text("setInterval(() => {}, 60_000);");
        host.ok("systemctl start --no-block myapp@cluster");
        host.is_soon("started", || host.processes().len() == 3);
        host.ok("systemctl stop myapp");
        host.becomes(ALL_INACTIVE);
        assert_eq!(host.processes(), [""; 0]);
    });
}

/// Stop means stopped, by either name and whoever knocks: no process, no listening socket, and no
/// client starts it again.
#[test]
fn stop_ends_every_process_and_closes_the_socket() {
    on_each(|host| {
        host.add_text(WEB);
        for (name, load) in NAMES.into_iter().zip(["load-1", "load-2"]) {
            host.ok("systemctl start myapp@cluster");
            let load = host.load(load);
            host.ok(&format!("systemctl stop {name}"));
            host.becomes(ALL_INACTIVE);
            assert_eq!(host.processes(), [""; 0]);
            assert_eq!(host.curl_code("http://127.0.0.1:8080"), 7, "refused");
            // They have been knocking all the while.
            let seen = load.stop();
            assert!(seen["failures"]["ECONNREFUSED"].as_u64() > Some(0), "{seen}");
            assert_eq!(host.states(), ALL_INACTIVE);
            assert_eq!(host.show("myapp", "Result"), "success");
        }
    });
}

/// A restart by either name is a new cohortd with new workers behind the same open socket: every
/// client is answered, those that come in between a little later. Six in a row are no crash loop.
#[test]
fn restart_refuses_nobody() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        let socket =
            || (host.show("myapp.socket", "InvocationID"), host.ok("ss -Hltne sport = :8080"));
        let before = socket();
        let load = host.load("load");
        for name in NAMES.repeat(3) {
            let old = host.processes();
            host.ok(&format!("systemctl restart {name}"));
            host.becomes(ALL_ACTIVE);
            let new = host.processes();
            assert!(new.len() == 3 && !new.iter().any(|pid| old.contains(pid)), "{old:?} {new:?}");
        }
        let seen = load.stop();
        assert_eq!(seen["failures"], serde_json::json!({}), "{seen}");
        assert_eq!(socket(), before, "the same unit, the same socket (ss shows its inode)");
    });
}

/// A reload by either name returns when all workers are new, and fails, with the reason, when they
/// could not be: the old ones then serve on, as the same processes. No client notices either.
#[test]
fn reload_tells_the_truth() {
    on_each(|host| {
        host.add_text(WEB);
        let config = host.ok("cat /etc/cohortd/myapp.toml");
        let config = format!("{config}\n[reload]\ncanary = \"200ms\"\n");
        host.write("/etc/cohortd/myapp.toml", &config);
        host.ok("systemctl start myapp@cluster");
        let load = host.load("load");
        let main = host.main_pid();
        for name in NAMES {
            let old = host.processes();
            host.ok(&format!("systemctl reload {name}"));
            let new = host.processes();
            assert_eq!(host.main_pid(), main, "cohortd stays");
            assert!(new.len() == 3 && new.iter().filter(|pid| old.contains(pid)).count() == 1);
            assert_eq!(host.states(), ALL_ACTIVE);
        }
        host.write("/srv/myapp/app.js", "throw new Error('a broken release')");
        let old = host.processes();
        for name in NAMES {
            assert_ne!(host.run(&format!("systemctl reload {name}")).code, 0, "{name}");
            assert_eq!(host.processes(), old, "they were never stopped");
            assert_eq!(host.states(), ALL_ACTIVE);
        }
        host.logs("-p err", "was given up");
        let shown = host.ok("cohortctl show myapp");
        assert!(
            shown.contains("last reload: ") && shown.contains("ended (exit code 1)"),
            "{shown}"
        );
        host.write("/etc/cohortd/myapp.toml", &config.replace("workers", "wokers"));
        assert_ne!(host.run("systemctl reload myapp").code, 0);
        host.logs("-p err", "myapp.toml:4:1: unknown key `wokers`; did you mean `workers`?");
        let seen = load.stop();
        assert_eq!(seen["failures"], serde_json::json!({}), "{seen}");
    });
}

/// What the README says to type: links for the boot, and it runs; and back again.
#[test]
fn enable_and_disable_start_and_stop_it() {
    on_each(|host| {
        host.add_text(WEB);
        let links = || {
            let mut links: Vec<String> = host
                .ok("find /etc/systemd/system -type l -lname *myapp* -printf %P\\n")
                .lines()
                .map(str::to_owned)
                .collect();
            links.sort();
            links
        };
        for _ in 0..2 {
            host.ok("systemctl enable --now myapp.socket myapp@cluster");
            assert_eq!(host.states(), ALL_ACTIVE);
            assert_eq!(
                links(),
                [
                    "multi-user.target.wants/myapp@cluster.service",
                    "sockets.target.wants/myapp.socket"
                ]
            );
            host.ok("systemctl disable --now myapp.socket myapp@cluster");
            host.becomes(ALL_INACTIVE);
            assert_eq!(links(), [""; 0]);
        }
    });
}

/// A socket alone is enough: the first client starts the app, and is answered.
#[test]
fn the_first_connection_starts_it() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp.socket");
        assert_eq!(host.states(), "inactive inactive active");
        let pid = host.get("http://127.0.0.1:8080");
        assert!(host.processes().contains(&pid));
        host.becomes(ALL_ACTIVE);
    });
}

/// One log for cohortd and all workers, each under its name and each line with its priority.
#[test]
fn the_journal_has_the_lines_of_everybody() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        for (id, slot) in [(1, 0), (2, 1)] {
            host.logs(&format!("-t myapp-w{slot} -p info"), &format!("worker {id} says hello"));
            host.logs(&format!("-t myapp-w{slot} -p err"), &format!("worker {id} complains"));
        }
        host.logs("-t myapp -p info", "accepting on=8080");
        let line = |text: &str| -> Value {
            let json = host.journal("-o json");
            let mut lines = json.lines().map(|line| serde_json::from_str(line).expect("JSON"));
            lines.find(|line: &Value| line["MESSAGE"] == text).expect("just seen")
        };
        let hello = line("worker 2 says hello");
        assert_eq!(hello["PRIORITY"], "6");
        assert_eq!(hello["_COMM"], "node", "the worker's own line, not a copy");
        assert_eq!(line("accepting on=8080")["_COMM"], "cohortd");

        host.run("curl -s http://127.0.0.1:8080/exit");
        host.logs("-t myapp -p warning", "exit=exit code 7");
        assert!(!host.journal("-p warning").contains("says hello"));
        host.logs("", "worker 3 says hello");
    });
}

/// Everything in `listen` is one socket unit, and every address of it reaches the app's server of
/// that address.
#[test]
fn every_entry_of_listen_is_handed_over_and_served() {
    on_each(|host| {
        host.write(
            "/srv/myapp/app.js",
            r#"
            const http = require("node:http");
            const listen = (name, where) => http.createServer((req, res) => res.end(name)).listen(where);
            listen("port", { port: 8080 });
            listen("v4", { port: 8081, host: "127.0.0.1" });
            listen("v6", { port: 8082, host: "::1" });
            listen("path", { path: "/run/myapp.sock" });
            "#,
        );
        host.add("myapp", "app.js", "8080 127.0.0.1:8081 [::1]:8082 /run/myapp.sock");
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.get("http://127.0.0.1:8080"), "port");
        assert_eq!(host.get("http://[::1]:8080"), "port");
        assert_eq!(host.get("http://127.0.0.1:8081"), "v4");
        assert_eq!(host.get("http://[::1]:8082"), "v6");
        assert_eq!(host.get("--unix-socket /run/myapp.sock http://app"), "path");
        assert_eq!(host.curl_code("http://127.0.0.1:8082"), 7, "not on other addresses");
        assert_eq!(host.show("myapp", "StatusText"), "2/2 workers ready");
        host.ok("systemctl stop myapp");
        host.becomes(ALL_INACTIVE);
        assert_eq!(host.run("test -e /run/myapp.sock").code, 1, "nothing is left of the path");
    });
}

/// What stands in `listen` is all that is listened on, and the same without systemd: all of IPv4 and
/// all of IPv6 are two sockets, and one server of the app is behind both.
#[test]
fn all_of_ipv4_and_all_of_ipv6_are_two_entries() {
    on_each(|host| {
        host.write(
            "/srv/myapp/app.js",
            r#"
            const http = require("node:http");
            const listen = (name, where) => http.createServer((req, res) => res.end(name)).listen(where);
            listen("one", { port: 8080 });
            listen("v4", { port: 8081, host: "0.0.0.0" });
            listen("v6", { port: 8081, host: "::", ipv6Only: true });
            listen("only", { port: 8082 });
            listen("port", { port: 8083 });
            "#,
        );
        let listen = "0.0.0.0:8080 [::]:8080 0.0.0.0:8081 [::]:8081 [::]:8082 8083";
        host.add("myapp", "app.js", listen);
        host.ok("systemctl start myapp@cluster");
        for (port, v4, v6) in [(8080, "one", "one"), (8081, "v4", "v6"), (8083, "port", "port")] {
            assert_eq!(host.get(&format!("http://127.0.0.1:{port}")), v4);
            assert_eq!(host.get(&format!("http://[::1]:{port}")), v6);
        }
        assert_eq!(host.get("http://[::1]:8082"), "only");
        assert_eq!(host.curl_code("http://127.0.0.1:8082"), 7, "not on IPv4");
        assert_eq!(host.journal("-p warning"), "-- No entries --");
    });
}

/// Nothing is set on a Unix socket that only TCP has: systemd would warn.
#[test]
fn a_path_alone_is_listened_on_without_a_warning() {
    on_each(|host| {
        host.write(
            "/srv/myapp/app.js",
            r#"require("node:http").createServer((req, res) => res.end("path")).listen("/run/myapp.sock");"#,
        );
        host.add("myapp", "app.js", "/run/myapp.sock");
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.get("--unix-socket /run/myapp.sock http://app"), "path");
        let log = host.ok("journalctl --no-pager -p warning -u myapp -u myapp.socket");
        assert_eq!(log, "-- No entries --");
    });
}

/// An app made for socket activation: descriptors from 3 on are the entries of `listen`.
#[test]
fn a_worker_that_listens_on_descriptor_3_gets_the_first_socket() {
    on_each(|host| {
        host.write(
            "/srv/myapp/app.js",
            r#"
            const http = require("node:http");
            for (const fd of [3, 4]) {
              http.createServer((req, res) => res.end(`${fd} ${process.pid}`)).listen({ fd });
            }
            "#,
        );
        host.add("myapp", "app.js", "127.0.0.1:8081 8080");
        host.ok("systemctl start myapp@cluster");
        let answers = |fd: &str, port: u16| {
            let mut pids = BTreeSet::new();
            until(|| {
                let answer = host.get(&format!("http://127.0.0.1:{port}"));
                let pid = answer.strip_prefix(fd).expect("the descriptor's own server").trim();
                assert!(host.processes().iter().any(|known| known == pid), "{answer}");
                pids.insert(pid.to_owned());
                pids.len() == 2
            })
        };
        assert!(answers("3 ", 8081) && answers("4 ", 8080), "both workers answer");
    });
}

/// Sockets are known by `FileDescriptorName=`: the order in which systemd hands them over differs
/// between versions.
#[test]
fn a_socket_by_another_name_is_not_served() {
    on_each(|host| {
        host.add_text(WEB);
        // Sorts before and after myapp.socket.
        for (unit, port) in [("a-admin", 8090), ("z-admin", 8091)] {
            let text = format!(
                "[Socket]\nListenStream={port}\nFileDescriptorName=admin\nService=myapp.service\n"
            );
            host.write(&format!("/etc/systemd/system/{unit}.socket"), &text);
        }
        host.write(
            "/etc/systemd/system/myapp.service.d/admin.conf",
            "[Service]\nSockets=a-admin.socket z-admin.socket\n",
        );
        host.ok("systemctl daemon-reload");
        host.ok("systemctl start a-admin.socket z-admin.socket myapp@cluster");
        assert_eq!(host.show("myapp", "StatusText"), "2/2 workers ready");
        host.get("http://127.0.0.1:8080");
        for port in [8090, 8091] {
            assert_eq!(host.curl_code(&format!("http://127.0.0.1:{port}")), 28, "no answer");
        }
        host.logs("-t myapp -p warning", "name=\"admin\"");
    });
}

/// An app that can't start is no success: systemctl fails, and the log has the app's own reason.
#[test]
fn a_start_that_fails_says_so_and_why() {
    on_each(|host| {
        host.add_text("throw new Error('no database');");
        let started = host.run("systemctl start myapp@cluster");
        assert_ne!(started.code, 0, "{started}");
        assert_eq!(host.show("myapp@cluster", "ActiveState"), "inactive");
        host.logs("-t myapp-w0", "Error: no database");
        host.logs("-t myapp -p err", "no worker became ready");
        // It is tried again, and the clients wait meanwhile.
        assert_eq!(host.show("myapp.socket", "ActiveState"), "active");
        host.write("/srv/myapp/app.js", WEB);
        host.get("http://127.0.0.1:8080");
        host.becomes(ALL_ACTIVE);
    });
}

/// A wrong configuration is named to the column, and not tried again until somebody says so.
#[test]
fn a_wrong_configuration_fails_once_with_its_place() {
    on_each(|host| {
        host.add_text(WEB);
        let right = host.ok("cat /etc/cohortd/myapp.toml");
        host.write("/etc/cohortd/myapp.toml", &format!("{right}\n\nworker = 3\n"));
        let wrong = "/etc/cohortd/myapp.toml:6:1: unknown key `worker`; did you mean `workers`?";
        let checked = host.run("cohortctl check myapp");
        assert_eq!(checked.code, 78, "{checked}");
        assert!(checked.stderr.contains(wrong), "{checked}");

        let started = host.run("systemctl start myapp@cluster");
        assert_ne!(started.code, 0, "{started}");
        assert_eq!(host.show("myapp", "ExecMainStatus"), "78");
        assert_eq!(host.show("myapp", "SubState"), "failed", "and not auto-restart");
        assert_eq!(host.show("myapp", "NRestarts"), "0");
        host.logs("-t myapp -p err", wrong);
        host.logs("-t myapp -p err", "6 | worker = 3");

        // No client has it tried again; the repair opens the socket.
        host.is_soon("closed", || host.curl_code("http://127.0.0.1:8080") == 7);
        assert_eq!(host.show("myapp", "SubState"), "failed");
        host.write("/etc/cohortd/myapp.toml", &right);
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.states(), ALL_ACTIVE);
        host.get("http://127.0.0.1:8080");
    });
}

/// The instance is the configured profile; another one says which that is, and starts nothing.
#[test]
fn another_profile_is_refused_by_name() {
    on_each(|host| {
        host.add_text(WEB);
        for _ in 0..7 {
            let started = host.run("systemctl start myapp@other");
            assert_ne!(started.code, 0, "{started}");
        }
        assert_eq!(host.states(), ALL_INACTIVE);
        let told = "configured with the profile cluster, not other: use myapp@cluster";
        host.is_soon("told each time", || {
            let log = host.ok("journalctl --no-pager -p err -u myapp@other");
            log.matches(told).count() == 7
        });
        // journald may lose which start a line of so short a process belongs to: the title is sure.
        let status = host.run("systemctl status myapp@other").stdout;
        assert!(status.contains("but cluster is the configured one"), "{status}");

        let text = host.ok("cat /etc/cohortd/myapp.toml");
        host.write(
            "/etc/cohortd/myapp.toml",
            &format!("use_profile = \"other\"\n{text}\n[profile.other.env]\nX = \"1\"\n"),
        );
        host.ok("cohortctl add myapp --user myapp");
        host.ok("systemctl start myapp@other");
        assert_eq!(host.show("myapp@other", "ActiveState"), "active");
        assert_ne!(host.run("systemctl start myapp@cluster").code, 0);
        host.get("http://127.0.0.1:8080");
    });
}

/// The watchdog is fed, and a cohortd that hangs is replaced: systemd kills all of it, and the
/// clients that waited are answered.
#[test]
fn a_cohortd_that_hangs_is_replaced_by_the_watchdog() {
    on_each(|host| {
        host.add_text(WEB);
        host.write("/etc/systemd/system/myapp.service.d/w.conf", "[Service]\nWatchdogSec=1\n");
        host.ok("systemctl daemon-reload");
        host.ok("systemctl start myapp@cluster");
        let fed = || host.show("myapp", "WatchdogTimestampMonotonic").parse::<u64>().expect("µs");
        let (old, begun) = (host.processes(), fed());
        host.is_soon("fed for three times its limit", || fed() > begun + 3_000_000);
        assert_eq!(host.processes(), old);

        let cohortd = host.main_pid();
        host.ok(&format!("kill -STOP {cohortd}"));
        let pid = host.get("http://127.0.0.1:8080");
        host.logs("", "Watchdog timeout");
        host.becomes(ALL_ACTIVE);
        let new = host.processes();
        assert!(old.contains(&pid) && !new.contains(&cohortd), "{pid} {old:?} {new:?}");
        let stayed = old.iter().filter(|pid| new.contains(pid)).count();
        assert_eq!((new.len(), stayed), (3, 2), "its workers go on: {old:?} {new:?}");
    });
}

/// A killed worker is replaced in its slot; the status says so, the other one serves meanwhile.
#[test]
fn a_killed_worker_is_replaced_and_the_status_tells() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        let cohortd = host.main_pid();
        let killed = host.get("http://127.0.0.1:8080");
        host.ok(&format!("kill -KILL {killed}"));
        host.get("http://127.0.0.1:8080");
        host.logs("-t myapp -p warning", "exit=signal 9");
        host.logs("-t myapp", "ready worker=3");
        let status = "Status: \"2/2 workers ready\"";
        host.is_soon(status, || host.ok("systemctl status myapp").contains(status));
        assert_eq!(host.main_pid(), cohortd);
        let pids = host.processes();
        assert!(pids.len() == 3 && !pids.contains(&killed), "{killed} {pids:?}");

        // One that can't come back is told of for as long as it is not there.
        host.write("/srv/myapp/app.js", "process.exit(1);");
        let killed = host.get("http://127.0.0.1:8080");
        host.ok(&format!("kill -KILL {killed}"));
        let status = "1/2 workers ready, 1 failed, will be tried again";
        host.is_soon(status, || host.ok("systemctl status myapp").contains(status));
        assert_eq!(host.states(), ALL_ACTIVE);
    });
}

/// Adding again writes the units anew; files of others are never touched, and what is refused has
/// changed nothing.
#[test]
fn add_changes_nothing_that_is_not_its_own() {
    on_each(|host| {
        let files = || {
            let find = "find /etc/cohortd /etc/systemd/system -type f -printf %p\\n";
            let names = host.run(find).stdout;
            names.lines().filter(|name| !name.is_empty()).fold(String::new(), |mut all, name| {
                let _ = writeln!(all, "{name}\n{}", host.ok(&format!("cat {name}")));
                all
            })
        };
        host.write("/srv/myapp/app.js", WEB);
        let before = files();
        let wrong = host.try_add("myapp", "app.js", "8080 localhost:http");
        assert_eq!(wrong.code, 78, "{wrong}");
        assert!(wrong.stderr.contains("myapp.toml:3:"), "{wrong}");
        assert_eq!(host.try_add("my app", "app.js", "8080").code, 1);
        assert_eq!(host.try_add("dbus", "app.js", "8080").code, 1, "systemd's own folder has it");
        assert_eq!(host.run("cohortctl add myapp").code, 1, "what would it run?");
        assert_eq!(files(), before);

        let others = ["myapp-cleanup.service", "myapp@.service", "myapp@cluster.service"];
        for unit in ["myapp.service", "myapp.socket"].into_iter().chain(others) {
            let path = format!("/etc/systemd/system/{unit}");
            host.write(&path, "# mine\n");
            let before = files();
            let refused = host.try_add("myapp", "app.js", "8080");
            assert_eq!(refused.code, 1, "{refused}");
            assert!(refused.stderr.contains(&path), "{refused}");
            assert_eq!(files(), before);
            host.ok(&format!("rm {path}"));
        }

        host.add("myapp", "app.js", "8080");
        let added = files();
        host.add("myapp", "app.js", "8080");
        host.ok("cohortctl add myapp --user myapp");
        assert_eq!(files(), added);
        let other = host.try_add("myapp", "app.js", "8081");
        assert_eq!(other.code, 1, "the configuration says something else: {other}");
        assert_eq!(files(), added);
        host.ok("cohortctl check myapp");
    });
}

/// Root can save a number of workers; the app's user, who may not write the file, is told what was
/// done and what was not.
#[test]
fn a_number_of_workers_is_saved_by_who_may() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        let file = "/etc/cohortd/myapp.toml";
        let text = host.ok(&format!("cat {file}"));
        let as_user = "setpriv --reuid=myapp --regid=myapp --clear-groups";
        let said = host.run(&format!("{as_user} cohortctl scale myapp 1 --save"));
        let what = format!(
            "error: myapp is scaled to 1 until its next reload, but that is not saved: {file}: \
             Permission denied (os error 13) (this is for root: use sudo)\n"
        );
        assert_eq!((said.code, said.stderr.as_str()), (1, what.as_str()));
        assert_eq!(host.processes().len(), 2, "cohortd and one worker");
        assert_eq!(host.ok(&format!("cat {file}")), text);

        host.ok("cohortctl scale myapp 3 --save");
        assert_eq!(host.ok(&format!("cat {file}")), text.replace("workers = 2", "workers = 3"));
        assert_eq!(host.ok("ls -A /etc/cohortd"), "myapp.toml");
        host.ok("systemctl restart myapp");
        assert_eq!(host.processes().len(), 4);
    });
}

/// Whoever owns the directory is who everything runs as, by name; by number if nobody has it.
#[test]
fn the_app_runs_as_the_owner_of_its_directory() {
    on_each(|host| {
        host.write("/srv/myapp/app.js", WEB);
        let exec = "/opt/node/bin/node app.js";
        let runs_as = |app: &str, directory: &str, user: &str| {
            let added = host.machine.ok(&[
                "cohortctl",
                "add",
                app,
                "--exec",
                exec,
                "--directory",
                directory,
                "--listen",
                "8080",
            ]);
            assert!(added.contains(&format!("and runs as {user}.")), "{added}");
            assert_eq!(host.show(app, "User"), user);
        };
        runs_as("myapp", "/srv/myapp", "myapp");
        host.ok("systemctl start myapp.service");
        let users = host.ok(&format!("ps -o user= -p {}", host.processes().join(",")));
        assert!(users.lines().all(|user| user == "myapp"), "{users}");

        host.ok("install -d -o 4321 /srv/nobodys");
        runs_as("nobodys", "/srv/nobodys", "4321");
        host.ok("install -d -o 0 /srv/roots");
        let argv = ["cohortctl", "add", "roots", "--exec", exec, "--directory", "/srv/roots"];
        let refused = host.machine.run(&[&argv[..], &["--listen", "8081"]].concat());
        assert!(refused.code == 1 && refused.stderr.contains("belongs to root"), "{refused}");
    });
}

/// After it nothing is left but the configuration, and with `--purge` not that either.
#[test]
fn remove_stops_it_and_leaves_nothing() {
    on_each(|host| {
        host.ok("mkdir -p /etc/cohortd");
        let files = || host.ok("find /etc/cohortd /etc/systemd/system");
        let before = files();
        host.add_text(WEB);
        host.add("other", "app.js", "8081");
        let with_other = host.ok("find /etc/cohortd /etc/systemd/system -name other*");
        host.ok("systemctl enable --now myapp.socket myapp@cluster");
        host.ok("cohortctl remove myapp");
        assert_eq!(host.processes(), [""; 0]);
        assert_eq!(host.curl_code("http://127.0.0.1:8080"), 7, "refused");
        let left = "/etc/cohortd/myapp.toml";
        assert_eq!(host.ok("find /etc -name *myapp*"), left);
        host.ok("cohortctl remove --purge myapp");
        assert_eq!(host.run("cohortctl remove myapp").code, 1, "there is none");
        assert_eq!(host.ok("find /etc/cohortd /etc/systemd/system -name other*"), with_other);

        // One that has failed is gone as well.
        host.write("/srv/myapp/app.js", "process.exit(1);");
        host.write("/etc/cohortd/other.toml", "listen = []");
        assert_ne!(host.run("systemctl start other@cluster").code, 0);
        host.ok("cohortctl remove --purge other");
        assert_eq!(host.ok("systemctl list-units --all --plain --no-legend other*"), "");
        assert_eq!(files(), before);
    });
}
