//! Real balancers in front of a server: a program of its own, with a configuration and a folder that
//! end with it.

use std::net::TcpStream;
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
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {what};\n"))
            .concat();
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

    fn start(program: &str, arguments: &[&str], config: impl Fn(&str) -> String) -> Balancer {
        let folder = TempDir::new().expect("a temporary folder");
        let address = format!("127.0.0.1:{}", free_port());
        std::fs::write(folder.path().join("config"), config(&address)).expect("written");
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}, which `make test-setup` installs: {e}"));
        let balancer = Balancer { child, address, _folder: folder };
        let listens = until(|| TcpStream::connect(&balancer.address).is_ok());
        assert!(listens, "{program} listens");
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
