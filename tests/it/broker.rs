//! The bus between hosts: a real NATS or Redis of the test's own, which ends with it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cohortd::relay::bus::Engine;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::app::{free_port, until};
use crate::cluster::certificate;

pub(crate) const ENGINES: [Engine; 2] = [Engine::Nats, Engine::Redis];

pub(crate) struct Broker {
    engine: Engine,
    address: String,
    port: u16,
    words: Vec<String>,
    folder: TempDir,
    config: String,
    child: Option<Child>,
}

impl Broker {
    /// One that does not run yet, with these lines in its configuration besides where it listens.
    pub(crate) fn new(engine: Engine, config: &str) -> Broker {
        let (folder, port) = (TempDir::new().expect("a temporary folder"), free_port());
        let (address, config) = ("127.0.0.1".to_owned(), config.to_owned());
        Broker { engine, address, port, words: Vec::new(), folder, config, child: None }
    }

    pub(crate) fn started(engine: Engine, config: &str) -> Broker {
        let mut broker = Broker::new(engine, config);
        broker.start();
        broker
    }

    /// At this address, run by a program that these words begin.
    pub(crate) fn through(engine: Engine, address: &str, words: &[String]) -> Broker {
        let mut broker = Broker::new(engine, "");
        (broker.address, broker.words) = (address.to_owned(), words.to_vec());
        broker.start();
        broker
    }

    /// With a certificate for `localhost`, and what more there is to say of TLS.
    pub(crate) fn encrypted(engine: Engine, verify: bool) -> Broker {
        let mut broker = Broker::new(engine, "");
        let (cert, key) = certificate(broker.folder.path());
        let (cert, key) = (cert.display(), key.display());
        broker.config = match engine {
            Engine::Nats => format!(
                "tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{cert}\", \
                 verify: {verify} }}"
            ),
            Engine::Redis => {
                let port = std::mem::replace(&mut broker.port, free_port());
                let verify = if verify { "yes" } else { "no" };
                format!(
                    "port {port}\ntls-port {}\ntls-cert-file {cert}\ntls-key-file {key}\n\
                     tls-ca-cert-file {cert}\ntls-auth-clients {verify}",
                    broker.port
                )
            }
        };
        broker.start();
        broker
    }

    pub(crate) fn start(&mut self) {
        let Broker { engine, address, port, config, .. } = self;
        let (program, arguments, text, ready): (_, &[&str], _, _) = match engine {
            Engine::Nats => (
                "nats-server",
                &["-c", "config"],
                format!("listen: \"{address}:{port}\"\n{config}\n"),
                "Server is ready",
            ),
            Engine::Redis => (
                "redis-server",
                &["config"],
                format!(
                    "bind {address}\nport {port}\nprotected-mode no\nsave \"\"\nappendonly no\n\
                     {config}\n"
                ),
                "Ready to accept connections",
            ),
        };
        fs::write(self.folder.path().join("config"), text).expect("written");
        let log = File::create(self.folder.path().join("log")).expect("a log");
        let mut words = self.words.iter().map(String::as_str).chain([program]);
        let child = Command::new(words.next().expect("a program"))
            .args(words)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second one"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}, which `make test-setup` installs: {e}"));
        self.child = Some(child);
        let said = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(until(|| said().contains(ready)), "{program} listens: {}", said());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("signalled");
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its certificate and key are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.engine == Engine::Nats { "nats" } else { "redis" };
        format!("{scheme}://{}:{}", self.address, self.port)
    }

    /// What a client says that is nothing of ours.
    pub(crate) fn publish(&self, messages: &[(String, Vec<u8>)]) {
        let address = (self.address.as_str(), self.port);
        let mut stream = TcpStream::connect(address).expect("connected");
        let mut all = Vec::new();
        if self.engine == Engine::Nats {
            all.extend(b"CONNECT {\"verbose\":false}\r\n");
        }
        for (name, body) in messages {
            match self.engine {
                Engine::Nats => all.extend(format!("PUB {name} {}\r\n", body.len()).bytes()),
                Engine::Redis => all.extend(
                    format!(
                        "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{name}\r\n${}\r\n",
                        name.len(),
                        body.len()
                    )
                    .bytes(),
                ),
            }
            all.extend(body);
            all.extend(b"\r\n");
        }
        all.extend(b"PING\r\n");
        stream.write_all(&all).expect("sent");
        let mut said = String::new();
        let answered = until(|| {
            let mut some = [0; 4096];
            let n = stream.read(&mut some).expect("an answer");
            said += &String::from_utf8_lossy(&some[..n]);
            said.contains("PONG")
        });
        assert!(answered && !said.contains("-ERR"), "{said}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
