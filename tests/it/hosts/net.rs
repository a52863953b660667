//! Hosts without machines: network namespaces with addresses of their own, on one switch, and what
//! can be done to their cables. Everything is gone with it.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Hosts with two cables each: one to their clients, one to the bus. Both networks have their middle
/// in one place, where clients and the bus are.
pub(crate) struct Net {
    name: String,
    hosts: usize,
}

/// Of each network: its interface in a host, and what addresses begin with (RFC 5737).
const CLIENTS: (&str, &str) = ("clients", "192.0.2");
const BUS: (&str, &str) = ("bus", "198.51.100");

/// Its namespaces are called so, and then by the process of the test.
const PREFIX: &str = "cohortd-test-";

/// The state of a bridge's port in which nothing passes, and in which all does (bridge(8)).
const DISABLED: &str = "0";
const FORWARDING: &str = "3";

impl Net {
    pub(crate) fn new(hosts: usize) -> Net {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Net { name: format!("{PREFIX}{}-{number}", std::process::id()), hosts };
        let middle = net.middle();
        for space in (0..hosts).map(|host| net.space(host)).chain([middle.clone()]) {
            ip(&["netns", "add", &space]);
            ip(&["-n", &space, "link", "set", "lo", "up"]);
        }
        for (network, addresses) in [CLIENTS, BUS] {
            ip(&["-n", &middle, "link", "add", network, "type", "bridge"]);
            ip(&["-n", &middle, "addr", "add", &format!("{addresses}.254/24"), "dev", network]);
            ip(&["-n", &middle, "link", "set", network, "up"]);
            for host in 0..hosts {
                let (space, port) = (net.space(host), port(network, host));
                let here = ["-n", &middle, "link", "add", &port, "type", "veth"];
                ip(&[&here[..], &["peer", "name", network, "netns", &space]].concat());
                ip(&["-n", &middle, "link", "set", &port, "master", network, "up"]);
                let address = format!("{addresses}.{}/24", host + 1);
                ip(&["-n", &space, "addr", "add", &address, "dev", network]);
                ip(&["-n", &space, "link", "set", network, "up"]);
            }
        }
        net
    }

    /// The namespace that both networks have their middle in.
    pub(crate) fn middle(&self) -> String {
        self.name.clone()
    }

    /// Where the bus is.
    pub(crate) fn bus() -> String {
        format!("{}.254", BUS.1)
    }

    /// The namespace of a host.
    pub(crate) fn space(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    /// A host's address for its clients.
    pub(crate) fn address(&self, host: usize) -> String {
        format!("{}.{}", CLIENTS.1, host + 1)
    }

    /// Nothing passes between this host and the bus, which nobody is told.
    pub(crate) fn cut(&self, host: usize) {
        self.set(host, DISABLED);
    }

    /// Everything passes again.
    pub(crate) fn mend(&self, host: usize) {
        self.set(host, FORWARDING);
    }

    fn set(&self, host: usize, state: &str) {
        let port = port(BUS.0, host);
        let arguments = ["-n", &self.name, "link", "set", "dev", &port, "state", state];
        let done = Command::new("bridge").args(arguments).status();
        assert!(done.is_ok_and(|status| status.success()), "bridge {arguments:?}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let spaces = (0..self.hosts).map(|host| self.space(host)).chain([self.middle()]);
        for space in spaces {
            let _ = Command::new("ip").args(["netns", "del", &space]).status();
        }
    }
}

/// Takes away what was left by tests that were killed.
fn sweep() {
    let spaces = ip(&["netns", "list"]);
    for space in spaces.lines().filter_map(|line| line.split(' ').next()) {
        let test = space.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if test.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test may do the same just now.
            let pids = Command::new("ip").args(["netns", "pids", space]).output();
            let pids = String::from_utf8(pids.expect("it has run").stdout).expect("text");
            let _ = Command::new("kill").arg("-9").args(pids.lines()).status();
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

/// The words that run a program in a namespace.
pub(crate) fn inside(space: &str) -> [String; 3] {
    ["nsenter".to_owned(), format!("--net=/run/netns/{space}"), "--".to_owned()]
}

/// The end of a host's cable in the middle.
fn port(network: &str, host: usize) -> String {
    format!("{network}{host}")
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("iproute2 is there: `make test-setup` installs it");
    assert!(
        output.status.success(),
        "ip {arguments:?} (this takes root, and a kernel with network namespaces and bridges): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}
