//! Real balancers in front of a server: a program of its own, with a configuration and a folder that
//! end with it.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::app::{free_port, until};

pub(crate) struct Balancer {
    child: Child,
    pub(crate) address: String,
    _folder: TempDir,
}

impl Balancer {
    /// HAProxy, which carries TCP; `options` are the server's.
    pub(crate) fn haproxy(server: &str, options: &str) -> Balancer {
        let config = |address: &str| {
            format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
                 listen all\n bind {address}\n server app {server} {options}\n"
            )
        };
        Balancer::start("haproxy", &["-db", "-f", "config"], config)
    }

    /// nginx, which forwards requests.
    pub(crate) fn nginx(server: &str) -> Balancer {
        let temporary = temporary_paths();
        let config = |address: &str| {
            format!(
                "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{temporary}\
                 upstream app {{ server {server}; keepalive 4; }}\n\
                 server {{\nlisten {address};\nlocation / {{\nproxy_pass http://app;\n\
                 proxy_http_version 1.1;\nproxy_set_header Host $http_host;\n\
                 proxy_set_header Connection \"\";\n}}\n}}\n}}\n"
            )
        };
        Balancer::start("nginx", &["-p", ".", "-e", "error.log", "-c", "config"], config)
    }

    /// nginx, with this in its `http` block; `listen 80` is where it listens.
    pub(crate) fn nginx_with(text: &str) -> Balancer {
        let config = |address: &str| {
            let text = text.replace("listen 80;", &format!("listen {address};"));
            format!(
                "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{}{text}}}\n",
                temporary_paths()
            )
        };
        Balancer::start("nginx", &["-p", ".", "-e", "error.log", "-c", "config"], config)
    }

    /// HAProxy, which forwards requests to `hosts`, a backend in this text.
    pub(crate) fn haproxy_with(text: &str) -> Balancer {
        let config = |address: &str| {
            format!(
                "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 frontend all\n bind {address}\n default_backend hosts\n{text}"
            )
        };
        Balancer::start("haproxy", &["-db", "-f", "config"], config)
    }

    /// HAProxy, which carries connections to `hosts`, a backend in this text; run by a program that
    /// these words begin.
    #[cfg(all(feature = "nats", feature = "redis"))]
    pub(crate) fn haproxy_of_connections(words: &[String], text: &str) -> Balancer {
        let config = |address: &str| {
            format!(
                "defaults\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 frontend all\n mode tcp\n bind {address}\n default_backend hosts\n{text}"
            )
        };
        Balancer::start_through(words, "haproxy", &["-db", "-f", "config"], config)
    }

    fn start(program: &str, arguments: &[&str], config: impl Fn(&str) -> String) -> Balancer {
        Balancer::start_through(&[], program, arguments, config)
    }

    fn start_through(
        words: &[String],
        program: &str,
        arguments: &[&str],
        config: impl Fn(&str) -> String,
    ) -> Balancer {
        let folder = TempDir::new().expect("a temporary folder");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        std::fs::write(folder.path().join("config"), config(&address)).expect("written");
        let mut words = words.iter().map(String::as_str).chain([program]);
        let child = Command::new(words.next().expect("a program"))
            .args(words)
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}, which `make test-setup` installs: {e}"));
        let balancer = Balancer { child, address, _folder: folder };
        // It may be in a network that is not ours.
        let sockets = format!("/proc/{}/net/tcp", balancer.child.id());
        let listens = || {
            let sockets = std::fs::read_to_string(&sockets).unwrap_or_default();
            sockets.contains(&format!("0100007F:{port:04X} 00000000:0000 0A"))
        };
        assert!(until(listens), "{program} listens");
        balancer
    }
}

/// nginx wants to write to no folder but its own.
fn temporary_paths() -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {what};\n"))
        .concat()
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
