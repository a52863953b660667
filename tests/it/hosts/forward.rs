//! Requests that come to another host than their session's: nobody notices, whatever happens to a host
//! or to the bus, and nobody else gets in that way.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use cohortd::relay::bus::Engine;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::rustls;

use super::net::inside;
use super::{Hosts, documented, sio, transcript};
use crate::app::{App, DEADLINE, client, cohortctl, free_port, until};
use crate::balancer::Balancer;
use crate::broker::{Broker, ENGINES};
use crate::cluster::certificate;
use crate::control::status;
use crate::machine::Suite;
use crate::raw::{Answer, Bare, Wire};
use crate::systemd::on_with;

const PORT: u16 = 7443;

fn forward(address: &str) -> String {
    format!("forward = \"{address}:{PORT}\"\n")
}

fn forwarded(app: &App) -> (u64, u64) {
    let host = &status(app)["bus"]["hosts"][0]["forwarded"];
    let figure = |name: &str| host[name].as_u64().unwrap_or_default();
    (figure("requests"), figure("failed"))
}

/// They know where each other's requests are taken.
fn know_each_other(apps: &[App]) {
    for app in apps {
        let known = || status(app)["bus"]["hosts"][0]["forward"].is_string();
        assert!(until(known), "{}", app.log());
    }
}

#[test]
fn behind_a_balancer_that_knows_nothing_hosts_are_one() {
    for bus in ENGINES {
        let single = Bare::start("sio.js");
        let url = format!("http://{}", single.address);
        let alone =
            client("clients/suite.js", &[&url], &[]).unwrap_or_else(|said| panic!("{said}"));
        let hosts = Hosts::start_with(2, bus, &sio("adapter03"), forward);
        know_each_other(&hosts.apps);
        let text = documented("haproxy", "roundrobin", &hosts.apps);
        let words = inside(&hosts.net.middle());
        let balancer = Balancer::haproxy_of_connections(&words, &text);
        let url = format!("http://{}", balancer.address);
        let args = [url.as_str(), "6", "4"];
        let many = crate::app::client_through(&words, "clients/suite.js", &args, &[]);
        let many = many.unwrap_or_else(|said| panic!("{said}\n{}", hosts.logs()));
        assert_eq!(transcript(&many), transcript(&alone), "{bus:?}");
        for app in &hosts.apps {
            let (requests, failed) = forwarded(app);
            eprintln!("{bus:?}: {requests} requests passed on");
            assert!(requests > 50 && failed == 0, "{requests} {failed}\n{}", app.log());
        }
    }
}

/// Two hosts that are this machine's, which bring each other requests at these addresses.
fn pair(at: [&str; 2], more: &str) -> (Vec<App>, Broker) {
    let bus = Broker::started(Engine::Nats, "");
    let start = |(host, at): (usize, &str)| {
        let relay = format!(
            "[relay]\nbus = \"{}\"\nhost = \"web{host}\"\nchannel = \"test\"\nforward = \"{at}\"\n{more}",
            bus.url()
        );
        sio("adapter03").more(&relay).start()
    };
    let apps: Vec<App> = at.into_iter().enumerate().map(start).collect();
    know_each_other(&apps);
    (apps, bus)
}

fn loopback() -> [String; 2] {
    [(); 2].map(|()| format!("127.0.0.1:{}", free_port()))
}

fn a_pair() -> (Vec<App>, Broker) {
    let at = loopback();
    pair([&at[0], &at[1]], "")
}

/// The id of a new session.
fn session(app: &App) -> String {
    let answer = Wire::open(app.address()).get("/socket.io/?EIO=4&transport=polling");
    let text = answer.text();
    let open: Value = serde_json::from_str(&text[1..]).unwrap_or_else(|e| panic!("{e}: {text}"));
    open["sid"].as_str().expect("a session").to_owned()
}

fn poll(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

fn post(wire: &mut Wire, target: &str, body: &[u8]) -> Answer {
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: app\r\nContent-Length: {}\r\n\r\n", body.len());
    wire.send([head.as_bytes(), body].concat());
    wire.answer_to("POST").expect("a response")
}

/// A session on `home`, joined by way of `other`; nothing of it waits to be polled.
fn joined(home: &App, other: &App) -> String {
    let sid = session(home);
    let mut wire = Wire::open(other.address());
    assert_eq!(post(&mut wire, &poll(&sid), b"40").text(), "ok");
    assert!(wire.get(&poll(&sid)).text().starts_with("40{"));
    sid
}

#[test]
fn a_balancer_that_keeps_addresses_together_needs_nothing() {
    let (apps, _bus) = a_pair();
    let text = documented("haproxy", "roundrobin", &apps).replace("roundrobin", "source");
    let balancer = Balancer::haproxy_of_connections(&[], &text);
    let url = format!("http://{}", balancer.address);
    let sources: Vec<String> = (1..=8).map(|n| format!("127.0.0.{n}")).collect();
    let args: Vec<&str> =
        [url.as_str()].into_iter().chain(sources.iter().map(String::as_str)).collect();
    let seen = client("clients/address.js", &args, &[]).unwrap_or_else(|said| panic!("{said}"));
    let seen = seen["seen"].as_object().expect("clients");
    assert_eq!(seen.len(), 24);
    assert!(seen.values().all(|saw| saw[2] == true), "{seen:?}");
    for app in &apps {
        assert_eq!(forwarded(app), (0, 0), "no request was on the wrong host");
        let workers = status(app)["workers"].clone();
        let served = workers.as_array().expect("workers").iter();
        assert!(served.filter_map(|w| w["requests"].as_u64()).sum::<u64>() > 0, "{workers}");
    }
}

/// The worker sees what it would see of a client of its own host, and bodies pass as they are.
#[test]
fn a_request_that_is_passed_on_is_the_one_that_came() {
    let at = [(); 2].map(|()| format!("[::1]:{}", free_port()));
    let (apps, _bus) = pair([&at[0], &at[1]], "[route]\ntrusted = []\n[log]\naccess = \"json\"\n");
    let sid = joined(&apps[1], &apps[0]);
    let of = format!("EIO=4&transport=polling&sid={sid}");
    let source: IpAddr = [127, 0, 0, 9].into();
    let address = apps[0].address().parse().expect("an address");
    let mut wire = Wire::open_from(source, address);
    wire.send(format!(
        "GET /whoami?{of} HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: 192.0.2.1\r\n\
         X-Cohortd-Caller: 0 192.0.2.1 1 192.0.2.2 2\r\nAccept: */*\r\n\r\n"
    ));
    let who = wire.answer();
    let seen = who.json();
    let there = apps[1].workers();
    assert!(there.values().any(|pid| seen["pid"] == *pid), "{seen} {there:?}");
    assert_eq!(
        (&seen["remoteAddress"], &seen["headers"]["x-forwarded-for"]),
        (&"127.0.0.9".into(), &"127.0.0.9".into())
    );
    assert_eq!(seen["localPort"], address.port(), "the end that the client sees");
    assert_eq!(seen["headers"]["x-cohortd-caller"], Value::Null);
    assert!(who.fields.iter().all(|(name, _)| !name.to_lowercase().starts_with("x-cohortd")));
    // On the same connection, of known length and in chunks.
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let back = post(&mut wire, &format!("/echo?body=1&{of}"), &large);
    assert!(back.body == large, "{} bytes of {}", back.body.len(), large.len());
    wire.send(format!(
        "POST /echo?{of} HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    for part in large.chunks(100_000) {
        wire.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
    }
    wire.send("0\r\n\r\n");
    assert!(wire.answer_to("POST").expect("a response").text().starts_with("3000000 "));
    let lines = wire.get(&format!("/stream?n=1000&{of}")).text();
    assert_eq!(lines.lines().count(), 1000);
    assert_eq!(wire.get("/whoami").json()["headers"]["host"], "app", "and one for this host");
    let (requests, failed) = forwarded(&apps[0]);
    assert!(requests >= 6 && failed == 0, "{requests} {failed}");
    assert_eq!(forwarded(&apps[1]), (0, 0), "nothing goes back");
    // Both tell of it, each in its own way.
    let lines = |app: &App| -> Vec<Value> {
        let log = app.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let lines = lines.filter(|line: &Value| line["client"] == "127.0.0.9");
        lines.filter(|line| line["target"].as_str().is_some_and(|t| t.contains(&sid))).collect()
    };
    assert!(
        until(|| lines(&apps[0]).len() == 4 && lines(&apps[1]).len() == 4),
        "{}",
        apps[0].log()
    );
    for (here, there) in lines(&apps[0]).iter().zip(&lines(&apps[1])) {
        assert_eq!((&here["forwarded_to"], &here["worker"]), (&"web1".into(), &Value::Null));
        assert_eq!((&there["forwarded_to"], there["worker"].is_u64()), (&Value::Null, true));
        assert_eq!(here["bytes"], there["bytes"]);
    }
    let listed = cohortctl().args(["ls", "--hosts"]).output().expect("cohortctl starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.starts_with(&[apps[0].name(), "web1"]) && words.contains(&&*requests.to_string())
    };
    assert!(listed.lines().any(row), "{requests}: {listed}");
}

/// What has been passed on is finished, whichever of the two is stopped.
#[test]
fn a_host_that_is_stopped_finishes_what_it_has_passed_on() {
    for stopped in [0, 1] {
        let (apps, _bus) = a_pair();
        let sid = joined(&apps[1], &apps[0]);
        let mut wire = Wire::open(apps[0].address());
        let target = format!("/slow?ms=1500&transport=polling&sid={sid}");
        wire.send(format!("POST {target} HTTP/1.1\r\nHost: app\r\nContent-Length: 1\r\n\r\nx"));
        let is_there = || {
            let workers = status(&apps[1])["workers"].clone();
            workers.as_array().is_some_and(|all| all.iter().any(|w| w["in_flight"] == 1))
        };
        assert!(until(is_there), "{}", apps[1].log());
        apps[stopped].signal("TERM");
        apps[stopped].wait_for("stopping: finishing");
        let answer = wire.answer_to("POST").expect("a response");
        assert_eq!(answer.status, 200, "{}\n{}", apps[0].log(), apps[1].log());
    }
}

/// What it was told of a session may be old: the session's host says so, and passes nothing on.
#[test]
fn a_session_that_is_over_is_unknown() {
    let (apps, _bus) = a_pair();
    let sid = joined(&apps[1], &apps[0]);
    let mut home = Wire::open(apps[1].address());
    assert_eq!(post(&mut home, &poll(&sid), b"1").text(), "ok");
    let gone = || home.get(&poll(&sid)).status == 400;
    assert!(until(gone), "{}", apps[1].log());
    for _ in 0..3 {
        let answer = Wire::open(apps[0].address()).get(&poll(&sid));
        assert_eq!((answer.status, answer.json()["code"].as_u64()), (400, Some(1)));
        assert!(
            answer.fields.iter().all(|(name, _)| !name.to_lowercase().starts_with("x-cohortd"))
        );
    }
    assert_eq!(forwarded(&apps[1]), (0, 0), "nothing goes back");
    let (requests, failed) = forwarded(&apps[0]);
    assert_eq!((requests, failed), (3, 0), "it was sought again, and not found");
}

/// Anything is said to be anybody's.
#[derive(Debug)]
struct Credulous {
    raw: bool,
    provider: CryptoProvider,
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }
}

/// How a stranger comes.
#[derive(Debug, Clone, Copy)]
enum Stranger {
    Bare,
    Certified,
    Keyed,
    Keyless,
}

fn config(stranger: Stranger) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let raw = matches!(stranger, Stranger::Keyed | Stranger::Keyless);
    let credulous = Credulous { raw, provider: ring::default_provider() };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(credulous));
    let mut config = match stranger {
        Stranger::Bare | Stranger::Keyless => builder.with_no_client_auth(),
        Stranger::Certified => {
            let folder = TempDir::new().expect("a temporary folder");
            let (file, key) = certificate(folder.path());
            let chain = vec![CertificateDer::from_pem_file(file).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(key).expect("its key");
            builder.with_client_auth_cert(chain, key).expect("both")
        }
        Stranger::Keyed => {
            let begin = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
            let key = PrivatePkcs8KeyDer::from([&begin[..], &[7; 32]].concat());
            let key = ring::sign::any_eddsa_type(&key).expect("a key");
            let public = key.public_key().expect("its other half").to_vec();
            let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key));
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own)))
        }
    };
    config.resumption = Resumption::disabled();
    config
}

/// What a stranger gets to read, who asks like a host.
fn asks(at: &str, stranger: Stranger, request: &str) -> Vec<u8> {
    let stream = TcpStream::connect(at).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let name = ServerName::try_from("host").expect("a name");
    let connection = ClientConnection::new(Arc::new(config(stranger)), name).expect("a client");
    let mut stream = StreamOwned::new(connection, stream);
    let mut read = Vec::new();
    if stream.write_all(request.as_bytes()).is_ok() {
        let _ = stream.read_to_end(&mut read); // it may be cut
    }
    read
}

#[test]
fn who_is_no_host_gets_nothing() {
    let at = loopback();
    let (apps, _bus) = pair([&at[0], &at[1]], "");
    let sid = joined(&apps[1], &apps[0]);
    let request = format!("GET /whoami?transport=polling&sid={sid} HTTP/1.1\r\nHost: app\r\n\r\n");
    let strangers = [Stranger::Bare, Stranger::Certified, Stranger::Keyed, Stranger::Keyless];
    for stranger in strangers {
        let read = asks(&at[1], stranger, &request);
        assert_eq!(String::from_utf8_lossy(&read), "", "{stranger:?}");
    }
    for garbage in [request.as_bytes(), b"\x16\x03\x01\xff\xff", &[0; 70_000], b""] {
        let mut wire = Wire::open(&at[1]);
        let _ = wire.try_send(garbage); // it may not be taken
        wire.finish();
        let (read, _) = wire.rest(Duration::from_secs(1));
        assert!(!read.windows(4).any(|four| four == b"HTTP"), "{read:?}");
    }
    // Some stay, and say nothing.
    let _silent: Vec<Wire> = (0..50).map(|_| Wire::open(&at[1])).collect();
    let who = Wire::open(apps[0].address()).get(&format!("/whoami?transport=polling&sid={sid}"));
    assert!(apps[1].workers().values().any(|pid| who.json()["pid"] == *pid));
}

#[test]
fn a_host_that_ends_is_an_error_and_its_place_is_found_again() {
    let mut hosts = Hosts::start_with(2, Engine::Nats, &sio("adapter03"), forward);
    know_each_other(&hosts.apps);
    let poll = |hosts: &Hosts, sid: &str, request: &str| {
        // In the middle, where all hosts are reached.
        let url = format!("{}{}", hosts.apps[0].url(), self::poll(sid));
        let script = "const [url, method, body] = process.argv.slice(1); fetch(url, { method, body })\
                      .then(async (r) => console.log(r.status + ' ' + await r.text()), (e) => console.log(e))";
        let [method, body] = match request {
            "" => ["GET", ""],
            body => ["POST", body],
        };
        let words = inside(&hosts.net.middle());
        let mut command = std::process::Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(crate::app::node("node20"))
            .args(["-e", script, &url, method]);
        if !body.is_empty() {
            command.arg(body);
        }
        command.stdout(std::process::Stdio::piped()).spawn().expect("node starts")
    };
    let said = |child: std::process::Child| {
        let output = child.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let open = |hosts: &Hosts| {
        let url = format!("{}/socket.io/?EIO=4&transport=polling", hosts.apps[1].url());
        let script = "fetch(process.argv[1]).then((r) => r.text()).then((t) => console.log(JSON.parse(t.slice(1)).sid))";
        let words = inside(&hosts.net.middle());
        let child = std::process::Command::new(&words[0])
            .args(&words[1..])
            .arg(crate::app::node("node20"))
            .args(["-e", script, &url])
            .stdout(std::process::Stdio::piped())
            .spawn();
        said(child.expect("node starts"))
    };
    let sid = open(&hosts);
    assert_eq!(said(poll(&hosts, &sid, "40")), "200 ok");
    assert!(said(poll(&hosts, &sid, "")).starts_with("200 40{"));
    let waits = poll(&hosts, &sid, "");
    let arrived = || {
        status(&hosts.apps[1])["workers"]
            .as_array()
            .is_some_and(|workers| workers.iter().any(|worker| worker["in_flight"] == 1))
    };
    assert!(until(arrived), "{}", hosts.logs());
    hosts.kill(1);
    let ended = said(waits);
    assert_eq!(ended, "502 The host of this session can't be reached.", "{}", hosts.logs());
    let log = hosts.apps[0].log();
    assert!(log.contains("can't be passed on") && log.contains("host=\"host1\""), "{log}");
    // It is sought, found nowhere, and unknown as on one host.
    hosts.apps[0].wait_for("has not been heard");
    assert!(said(poll(&hosts, &sid, "")).starts_with("400 "), "{}", hosts.logs());
    hosts.restart(1);
    know_each_other(&hosts.apps);
    let sid = open(&hosts);
    assert_eq!(said(poll(&hosts, &sid, "40")), "200 ok");
    assert!(said(poll(&hosts, &sid, "")).starts_with("200 40{"));
}

#[test]
fn sessions_that_were_found_need_no_bus() {
    let (apps, mut bus) = a_pair();
    let sid = joined(&apps[1], &apps[0]);
    bus.kill();
    apps[0].wait_for("has not been heard");
    apps[1].wait_for("has not been heard");
    for _ in 0..3 {
        let mut wire = Wire::open(apps[0].address());
        assert_eq!(post(&mut wire, &poll(&sid), b"420[\"who\"]").text(), "ok");
        assert!(wire.get(&poll(&sid)).text().starts_with("430["));
    }
    let unknown = Wire::open(apps[0].address()).get(&poll("aaaaaaaaaaaaaaaaaaaa"));
    assert_eq!(unknown.status, 400);
    bus.start();
    know_each_other(&apps);
    let is_up = || status(&apps[0])["bus"]["hosts"].as_array().is_some_and(|h| h.len() == 1);
    assert!(until(is_up));
    joined(&apps[0], &apps[1]);
}

/// As services: what one cohortd hands on to the next is also what it does for other hosts.
#[test]
fn hosts_are_replaced_under_load() {
    on_with(Suite::Bookworm, &["/usr/sbin/nats-server"], |host| {
        host.ok("systemd-run --quiet --unit=bus nats-server -a 127.0.0.1");
        for (app, port) in [("left", 8080), ("right", 8081)] {
            host.add(app, "/srv/js/apps/sio.js", &port.to_string());
            let file = format!("/etc/cohortd/{app}.toml");
            let relay = format!(
                "[relay]\nbus = \"nats://127.0.0.1\"\nhost = \"{app}\"\nchannel = \"test\"\n\
                 forward = \"127.0.0.1:{}\"\n",
                port + 1000
            );
            let text = host.ok(&format!("cat {file}"));
            host.write(&file, &format!("{text}\n{relay}"));
            host.ok(&format!("systemctl start {app}@cluster"));
        }
        // HAProxy's libraries are not in the machine.
        host.write(
            "/tmp/balancer.js",
            "const net = require('node:net');\nlet turn = 0;\n\
             net.createServer({ allowHalfOpen: true }, (client) => {\n\
             const server = net.connect({ port: 8080 + (turn++ % 2), allowHalfOpen: true });\n\
             for (const [a, b] of [[client, server], [server, client]]) a.pipe(b).on('error', () => a.destroy());\n\
             }).listen(8000, '127.0.0.1');\n",
        );
        host.ok("systemd-run --quiet --unit=balancer /opt/node/bin/node /tmp/balancer.js");
        let shown = |app: &str| -> Value {
            let shown = host.run(&format!("cohortctl show {app} --json"));
            serde_json::from_str(&shown.stdout).unwrap_or_default()
        };
        let other = |app: &str| shown(app)["bus"]["hosts"][0].clone();
        let both = || ["left", "right"].iter().all(|app| other(app)["forward"].is_string());
        host.is_soon("both are there", both);
        let load = host.clients("load", "mixed.js http://127.0.0.1:8000");
        for app in ["left", "right", "left", "right"] {
            let before = other(app)["forwarded"]["requests"].as_u64();
            host.is_soon("requests are passed on", || {
                other(app)["forwarded"]["requests"].as_u64() > before.map(|n| n + 20)
            });
            host.ok(&format!("cohortctl reexec {app}"));
            host.is_soon("both are there", both);
        }
        let seen = load.stop();
        eprintln!("{seen}");
        for bad in ["failures", "ends"] {
            assert_eq!(seen[bad], json!({}), "{seen}\n{}", host.journal("-n 50"));
        }
        let suite = "/opt/node/bin/node /srv/js/clients/suite.js http://127.0.0.1:8000 6 4";
        host.ok(suite);
        // Sessions outlive a cohortd that is killed, and what comes for them waits for the next one.
        let polls = |port: u16, sid: &str, more: &str| {
            let target = format!("http://127.0.0.1:{port}/socket.io/?EIO=4&transport=polling{sid}");
            host.ok(&format!("curl -gsS {target} {more}"))
        };
        for (app, home, other) in [("left", 8080, 8081), ("right", 8081, 8080)] {
            let open: Value = serde_json::from_str(&polls(home, "", "")[1..]).expect("a session");
            let sid = format!("&sid={}", open["sid"].as_str().expect("an id"));
            assert_eq!(polls(other, &sid, "-d 40"), "ok");
            assert!(polls(other, &sid, "").starts_with("40{"));
            let pid = shown(app)["pid"].as_u64().expect("a number");
            host.ok(&format!("kill -KILL {pid}"));
            assert_eq!(polls(other, &sid, "-d 420[\"who\"]"), "ok", "{}", host.journal("-n 50"));
            assert!(polls(other, &sid, "").starts_with("430["));
            assert_ne!(shown(app)["pid"].as_u64(), Some(pid));
            assert_eq!(polls(other, &sid, "-d 1"), "ok");
            host.is_soon("both are there", both);
        }
        host.ok(suite);
    });
}
