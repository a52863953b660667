//! TLS that ends at cohortd: requests, WebSockets and Socket.IO over it, certificates that are
//! renewed or wrong, and clients that don't speak it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::app::{App, DEADLINE, NODES, Spec, client, cohortctl, free_port, until};
use crate::cluster::certificate;
use crate::raw::{Bare, Stream, Wire, descriptors};
use crate::reload::{Load, ok, refused};
use crate::systemd::{Host, on_each};

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

impl Stream for Encrypted {
    fn wait(&self, at_most: Duration) -> io::Result<()> {
        self.sock.wait(at_most)
    }

    fn again(&self) -> io::Result<Box<dyn Stream>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn finish(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A certificate and its key, made anew as often as a test likes, and clients that trust them all.
struct Certificates {
    folder: TempDir,
    made: RefCell<Vec<CertificateDer<'static>>>,
}

impl Certificates {
    fn new() -> Certificates {
        let folder = TempDir::new().expect("a temporary folder");
        let certificates = Certificates { folder, made: RefCell::default() };
        certificates.renew();
        certificates
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Another one in the place of the last.
    fn renew(&self) -> CertificateDer<'static> {
        let (file, _) = certificate(self.folder.path());
        let mut trusted = fs::read_to_string(self.path("trusted.pem")).unwrap_or_default();
        trusted += &fs::read_to_string(&file).expect("just made");
        fs::write(self.path("trusted.pem"), trusted).expect("written");
        let made = CertificateDer::from_pem_file(file).expect("a certificate");
        self.made.borrow_mut().push(made.clone());
        made
    }

    /// `[tls]` with it.
    fn toml(&self) -> String {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n")
    }

    /// So that a client in Node trusts them.
    fn trusted(&self) -> (&'static str, String) {
        ("NODE_EXTRA_CA_CERTS", self.path("trusted.pem"))
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for made in self.made.borrow().iter() {
            roots.add(made.clone()).expect("a certificate");
        }
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("known to ring")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A connection after its handshake.
    fn open(&self, address: &str) -> Wire {
        Wire::over(handshake(&Arc::new(self.client(ALL_VERSIONS)), address).expect("a handshake"))
    }
}

fn handshake(client: &Arc<ClientConfig>, address: &str) -> io::Result<Encrypted> {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("a TCP socket");
    encrypt(client, stream)
}

fn encrypt(client: &Arc<ClientConfig>, stream: TcpStream) -> io::Result<Encrypted> {
    stream.wait(DEADLINE)?;
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(client.clone(), name).expect("a client");
    let mut encrypted = StreamOwned::new(connection, stream);
    while encrypted.conn.is_handshaking() {
        encrypted.conn.complete_io(&mut encrypted.sock)?;
    }
    Ok(encrypted)
}

fn web(certificates: &Certificates, more: &str) -> Spec {
    Spec::new("web.js").workers(1).more(&format!("{}{more}", certificates.toml()))
}

/// Clients are strangers, so that the app is told who they are.
const STRANGERS: &str = "[route]\ntrusted = []\n";

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A WebSocket that has been answered.
fn websocket(mut wire: Wire) -> Wire {
    wire.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{WEBSOCKET}"));
    assert_eq!(wire.answer().status, 101);
    wire
}

/// Sends a text in a masked frame, and it comes back in one that is not.
fn echoes(wire: &mut Wire, text: &str) {
    let length = u8::try_from(text.len()).expect("a short one");
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    wire.send(frame);
    let back = wire.exactly(2 + text.len()).expect("a frame");
    assert_eq!(back, [&[0x81, length], text.as_bytes()].concat());
}

#[test]
fn requests_come_through_and_the_app_hears_that_they_were_encrypted() {
    let certificates = Certificates::new();
    let more = format!("{STRANGERS}forwarded = \"both\"\n");
    let app = web(&certificates, &more).start();
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(certificates.client(&[version]));
        let mut wire = Wire::over(handshake(&client, app.address()).expect("a handshake"));
        for _ in 0..3 {
            let seen = wire.get("/whoami").json();
            assert_eq!(seen["headers"]["x-forwarded-proto"], "https", "{seen}");
            assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.1", "{seen}");
            assert_eq!(seen["headers"]["forwarded"], "for=127.0.0.1;host=\"app\";proto=https");
            assert_eq!(seen["remoteAddress"], "127.0.0.1", "{seen}");
        }
        for byte in b"GET /whoami HTTP/1.1\r\nHost: b\r\nX-Forwarded-Proto: gopher\r\n\r\n" {
            wire.send([*byte]);
        }
        assert_eq!(wire.answer().json()["headers"]["x-forwarded-proto"], "https");
    }
    // More than the first head at once, and a head that is nearly too large for Node.
    let mut wire = certificates.open(app.address());
    let large = "x".repeat(15_000);
    wire.send(format!(
        "POST /one HTTP/1.1\r\nHost: a\r\nX: {large}\r\nContent-Length: 9000\r\n\r\n{}GET \
         /status?code=201 HTTP/1.1\r\nHost: a\r\n\r\n",
        "y".repeat(9000)
    ));
    assert_eq!(wire.answer().text(), "9000");
    assert_eq!(wire.answer().status, 201);
    // The end is said as TLS says it: else it could be somebody else's doing.
    let client = Arc::new(certificates.client(ALL_VERSIONS));
    let mut stream = handshake(&client, app.address()).expect("a handshake");
    stream.write_all(b"GET /status?code=204 HTTP/1.0\r\n\r\n").expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("a close_notify");
    assert!(all.starts_with(b"HTTP/1.0 204"), "{}", all.escape_ascii());
}

#[test]
fn the_app_sees_its_clients_as_if_tls_were_its_own() {
    let certificates = Certificates::new();
    let client = Arc::new(certificates.client(ALL_VERSIONS));
    for version in NODES {
        let app = web(&certificates, STRANGERS).node(version).start();
        for source in ["127.0.0.2", "127.0.0.3", "127.0.0.2"] {
            let source = source.parse().expect("an address");
            let stream = crate::raw::connect_from(source, app.address().parse().expect("one"));
            let port = stream.local_addr().expect("has one").port();
            let mut wire = Wire::over(encrypt(&client, stream).expect("a handshake"));
            for _ in 0..2 {
                let seen = wire.get("/whoami").json();
                assert_eq!(seen["remoteAddress"], source.to_string(), "{version}: {seen}");
                assert_eq!(seen["remotePort"], port, "{version}: {seen}");
                assert_eq!(seen["encrypted"], true, "{version}: {seen}");
                assert!(!seen["rawHeaders"].to_string().contains("cohortd"), "{seen}");
            }
        }
    }
}

#[test]
fn bodies_of_any_size_go_both_ways() {
    let certificates = Certificates::new();
    let app = web(&certificates, "").start();
    let mut wire = certificates.open(app.address());
    for length in [0, 1, 16_384, 16_385, 20_000_000] {
        wire.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        wire.send(vec![b'x'; length]);
        assert_eq!(wire.answer().text(), length.to_string());
        let body = wire.get(&format!("/bytes?n={length}")).body;
        assert_eq!(body.len(), length);
        assert!(body.chunks(16).all(|part| b"0123456789abcdef".starts_with(part)));
    }
    // One that is not read makes the worker wait.
    wire.send("GET /bytes?n=200000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::sleep(Duration::from_secs(1));
    let used = crate::raw::memory(i32::try_from(app.pid()).expect("a process id"));
    assert!(used < 60, "{used} MiB");
}

#[test]
fn socket_io_shows_what_one_process_shows() {
    let certificates = Certificates::new();
    let single = Bare::start("sio.js");
    let alone = client("clients/suite.js", &[&format!("http://{}", single.address)], &[])
        .unwrap_or_else(|e| panic!("{e}"));
    for kind in [("STICKY", "sticky2"), ("PLAIN", "1")] {
        let spec = Spec::new("sio.js").env("ADAPTER", "adapter03").env(kind.0, kind.1);
        let app = spec.workers(3).more(&certificates.toml()).start();
        let url = format!("https://{}", app.address());
        let (name, trusted) = certificates.trusted();
        let env = [(name, trusted.as_str())];
        let many = client("clients/suite.js", &[&url, "6", "3"], &env)
            .unwrap_or_else(|e| panic!("{e}\n--- log\n{}", app.log()));
        assert_eq!(many["transcript"], alone["transcript"]);
        client("clients/ws.js", &[&url, "20", "100000"], &env).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_renewed_certificate_is_taken_and_no_request_fails() {
    let certificates = Certificates::new();
    let second = TempDir::new().expect("a temporary folder");
    let more =
        format!("{}[reload]\ncanary = \"200ms\"\n[stop]\ndrain = \"2500ms\"", certificates.toml());
    let spec = Spec::new("sio.js").env("STICKY", "sticky2").env("ADAPTER", "adapter03");
    let app = spec.more(&more).start();
    // Trusted by the load from the beginning: Node reads that only once.
    let old = certificates.made.borrow()[0].clone();
    fs::copy(certificates.path("cert.pem"), second.path().join("cert.pem")).expect("copied");
    fs::copy(certificates.path("key.pem"), second.path().join("key.pem")).expect("copied");
    let new = certificates.renew();
    let (name, trusted) = certificates.trusted();
    let url = format!("https://{}", app.address());
    let load = Load::of("mixed.js", &[&url], &[(name, &trusted)]);
    let mut kept = certificates.open(app.address());
    assert_eq!(shown(&certificates, &app), old, "not before a reload");
    for certificate in [&new, &old, &new] {
        ok(&app, &["reload"]);
        assert_eq!(shown(&certificates, &app), *certificate);
        assert_eq!(kept.get("/whoami").status, 200, "older connections go on");
        for name in ["cert.pem", "key.pem"] {
            let (one, other) = (certificates.path(name), second.path().join(name));
            let text = fs::read(&one).expect("readable");
            fs::copy(&other, &one).expect("copied");
            fs::write(&other, text).expect("written");
        }
    }
    let seen = load.end();
    assert_eq!(seen["failures"], json!({}), "{seen}\n--- log\n{}", app.log());
    assert!(seen["requests"].as_u64() > Some(1000), "{seen}");
}

/// The certificate that a new client is shown.
fn shown(certificates: &Certificates, app: &App) -> CertificateDer<'static> {
    let client = Arc::new(certificates.client(ALL_VERSIONS));
    let stream = handshake(&client, app.address()).expect("a handshake");
    let chain = stream.conn.peer_certificates().expect("shown");
    chain[0].clone().into_owned()
}

#[test]
fn a_wrong_certificate_is_refused_and_the_old_one_goes_on() {
    let certificates = Certificates::new();
    let other = Certificates::new();
    let app = web(&certificates, "[reload]\ncanary = \"100ms\"\n").start();
    let before = app.workers();
    let first = certificates.made.borrow()[0].clone();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| certificates.path(name));
    let right = [fs::read(&cert).expect("readable"), fs::read(&key).expect("readable")];
    let cases: [(&str, &dyn Fn(), &str); 6] = [
        ("gone", &|| fs::remove_file(&cert).expect("was there"), "can't be read: No such file"),
        ("empty", &|| fs::write(&key, "").expect("written"), "has none in PEM"),
        ("cut", &|| fs::write(&cert, &right[0][..200]).expect("written"), "is no PEM file"),
        (
            "another's",
            &|| {
                fs::copy(other.path("key.pem"), &key).expect("copied");
            },
            "this is not the key of",
        ),
        ("swapped", &|| fs::write(&key, &right[0]).expect("written"), "has none in PEM"),
        (
            "garbled",
            &|| {
                let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                fs::write(&cert, text).expect("written");
            },
            "the certificate in it can't be used: BadEncoding",
        ),
    ];
    for (name, spoil, said) in cases {
        spoil();
        let error = refused(&app, &["reload"]);
        assert!(error.contains(said) && error.contains(".toml:"), "{name}: {error}");
        assert_eq!(shown(&certificates, &app), first, "{name}");
        assert_eq!(certificates.open(app.address()).get("/raw").status, 200, "{name}");
        fs::write(&cert, &right[0]).expect("written");
        fs::write(&key, &right[1]).expect("written");
    }
    assert_eq!(app.workers(), before, "nothing was touched");
    ok(&app, &["reload"]);
    // It can be taken away, and come back.
    app.change("[tls]", "[profile.x.env]");
    ok(&app, &["reload"]);
    assert_eq!(Wire::open(app.address()).get("/raw").status, 200);
    app.change("[profile.x.env]", "[tls]");
    ok(&app, &["reload"]);
    assert_eq!(shown(&certificates, &app), first);
}

#[test]
fn nothing_starts_with_a_wrong_certificate() {
    let certificates = Certificates::new();
    let other = Certificates::new();
    fs::copy(other.path("key.pem"), certificates.path("key.pem")).expect("copied");
    let mut app = web(&certificates, "").start_only();
    assert_eq!(app.wait(), Some(78));
    assert!(app.log().contains("this is not the key of"), "{}", app.log());
    assert!(app.workers().is_empty() && !app.log().contains("started"), "{}", app.log());
    let checked = cohortctl().arg("check").arg(app.file()).output().expect("cohortctl starts");
    assert_eq!(checked.status.code(), Some(78));
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(said.contains("this is not the key of"), "{said}");
    // Without systemd there are no credentials.
    let toml = "[tls]\ncertificate = \"credential:cert.pem\"\nkey = \"credential:key.pem\"";
    let mut app = Spec::new("web.js").more(toml).start_only();
    assert_eq!(app.wait(), Some(78));
    assert!(app.log().contains("has given this process no credentials"), "{}", app.log());
}

#[test]
fn credentials_and_relative_paths_are_found() {
    let certificates = Certificates::new();
    let folder = certificates.folder.path().display().to_string();
    let toml = "[tls]\ncertificate = \"credential:cert.pem\"\nkey = \"credential:key.pem\"";
    let spec = Spec::new("web.js").workers(1);
    let app = spec.clone().more(toml).ours("CREDENTIALS_DIRECTORY", &folder).start();
    assert_eq!(certificates.open(app.address()).get("/raw").status, 200);
    // A path begins in `directory`: here, the apps' folder.
    let up = "../".repeat(Path::new(env!("CARGO_MANIFEST_DIR")).components().count() + 3);
    let toml =
        format!("[tls]\ncertificate = \"{up}{folder}/cert.pem\"\nkey = \"{up}{folder}/key.pem\"");
    let app = Spec::new("web.js").workers(1).more(&toml).start();
    assert_eq!(certificates.open(app.address()).get("/raw").status, 200);
}

/// What only root may read the app's user gets from systemd.
#[test]
fn a_service_gets_them_as_credentials() {
    let certificates = Certificates::new();
    let store = |host: &Host| {
        for name in ["cert.pem", "key.pem"] {
            let text = fs::read_to_string(certificates.path(name)).expect("readable");
            host.write(&format!("/etc/credstore/myapp.{name}"), &text);
        }
        host.ok("chmod -R go= /etc/credstore");
    };
    let page = "--cacert /etc/credstore/myapp.cert.pem https://localhost:8080/raw";
    on_each(|host| {
        store(host);
        host.add("myapp", "/srv/js/apps/web.js", "8080");
        let plain = host.ok("cat /etc/cohortd/myapp.toml");
        let tls = "certificate = \"credential:myapp.cert.pem\"\nkey = \"credential:myapp.key.pem\"";
        host.write(
            "/etc/cohortd/myapp.toml",
            &format!("{plain}\n\n[tls]\n{tls}\n[reload]\ncanary = \"100ms\"\n"),
        );
        host.ok("cohortctl check myapp");
        host.ok("cohortctl add myapp --user myapp");
        host.ok("systemctl start myapp@cluster");
        host.get(page);
        host.ok("systemctl reload myapp");
        host.get(page);
        let users = host.ok(&format!("ps -o user= -p {}", host.main_pid()));
        assert_eq!(users, "myapp");

        // Renewed ones come with a restart.
        certificates.renew();
        store(host);
        assert_eq!(host.run(&format!("curl -sSf {page}")).code, 60, "not the one that is shown");
        host.ok("systemctl restart myapp");
        host.get(page);

        // Without one of them nothing starts, and the log says which.
        host.ok("rm /etc/credstore/myapp.key.pem");
        assert_ne!(host.run("systemctl restart myapp").code, 0);
        host.logs("-p err", "myapp.toml:8:7: ");
        host.logs("-p err", "/myapp.key.pem can't be read: No such file");
    });
}

#[test]
fn plain_http_is_told_to_use_tls() {
    let certificates = Certificates::new();
    let app = web(&certificates, "").start();
    for request in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "G", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0"]
    {
        let mut wire = Wire::open(app.address());
        wire.send(request);
        let answer = wire.answer();
        assert_eq!(answer.status, 400, "{request:?}");
        assert_eq!(answer.text(), "This port speaks HTTPS: the request came without TLS.\n");
        assert!(wire.ends(), "{request:?}");
    }
    // And inside, what is no request, comes too late or is too large is answered as ever.
    let refused = |request: &str| {
        let mut wire = certificates.open(app.address());
        wire.send(request);
        let answer = wire.answer();
        assert!(wire.ends(), "{answer:?}");
        answer.status
    };
    assert_eq!(refused("GET /\r\n\r\n"), 400);
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
    assert_eq!(refused("\x16\x03\x01"), 400, "TLS in TLS");
    let large = "x".repeat(40_000);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n")), 431);
}

#[test]
fn a_client_that_stops_in_the_middle_is_let_go() {
    let certificates = Certificates::new();
    let app = web(&certificates, "[limits]\nhead_timeout = \"1s\"\n").start();
    let pid = i32::try_from(app.pid()).expect("a process id");
    assert_eq!(certificates.open(app.address()).get("/raw").status, 200);
    let before = descriptors(pid);
    let begun = Instant::now();
    let mut silent: Vec<Wire> = Vec::new();
    // The beginning of a ClientHello of 508 bytes.
    for said in [&b""[..], b"\x16", b"\x16\x03\x01\x01\xfc\x01\x00\x01\xf8\x03\x03"] {
        for _ in 0..20 {
            let mut wire = Wire::open(app.address());
            wire.send(said);
            silent.push(wire);
        }
    }
    let mut headless = certificates.open(app.address());
    headless.send("GET / HTTP/1.1\r\n");
    assert_eq!(headless.answer().status, 408);
    for wire in &mut silent {
        assert!(wire.ends_now(), "it is let go");
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    drop((silent, headless));
    // What can't be understood is ended at once.
    let mut wire = Wire::open(app.address());
    wire.send(b"\x16\x03\x01\x00\x05hello");
    assert!(wire.ends_now(), "with an alert, or without");
    app.wait_for("no TLS handshake");
    drop(wire);
    assert!(until(|| descriptors(pid) <= before), "{} > {before}", descriptors(pid));
}

#[test]
fn connections_are_counted_and_so_are_websockets() {
    let certificates = Certificates::new();
    let app = web(&certificates, "[limits]\nconnections = 2\n[route]\ntrusted = []").start();
    let mut first = websocket(certificates.open(app.address()));
    let mut second = websocket(certificates.open(app.address()));
    let mut third = Wire::open(app.address());
    third.send(b"\x16");
    assert!(third.ends(), "before a handshake is paid for");
    echoes(&mut first, "one");
    echoes(&mut second, "two");
    drop(first);
    let open = || {
        let client = Arc::new(certificates.client(ALL_VERSIONS));
        handshake(&client, app.address()).is_ok_and(|s| Wire::over(s).get("/raw").status == 200)
    };
    assert!(until(open), "one has gone");
    echoes(&mut second, "three");
}

#[test]
fn some_entries_of_listen_speak_it_and_others_do_not() {
    let certificates = Certificates::new();
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("plain.sock").display().to_string();
    let [plain, secure] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let spec = Spec::program("socket", &["python3", "plain.py"]);
    let spec = spec.listen(&[&plain, &secure, &path]);
    let only = format!("{}listen = [{secure:?}]\n{STRANGERS}", certificates.toml());
    let app = spec.clone().more(&only).start();
    let proto = |mut wire: Wire| {
        let headers = wire.get("/").json()["headers"].clone();
        let headers = headers.as_array().expect("pairs").clone();
        let is_it = |pair: &&serde_json::Value| {
            pair[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case("x-forwarded-proto"))
        };
        headers.iter().find(is_it).map(|pair| pair[1].clone())
    };
    assert_eq!(proto(Wire::open(&plain)), Some(json!("http")));
    assert_eq!(proto(Wire::open(&path)), Some(json!("http")));
    assert_eq!(proto(certificates.open(&secure)), Some(json!("https")));
    drop(app);
    // Unless that is said, all ports do.
    let _app = spec.more(&format!("{}{STRANGERS}", certificates.toml())).start();
    assert_eq!(proto(certificates.open(&plain)), Some(json!("https")));
    assert_eq!(proto(certificates.open(&secure)), Some(json!("https")));
    assert_eq!(proto(Wire::open(&path)), Some(json!("http")));
}

#[test]
fn a_proxy_header_comes_before_tls() {
    let certificates = Certificates::new();
    let app = web(&certificates, "[route]\nproxy_protocol = true\n").start();
    let client = Arc::new(certificates.client(ALL_VERSIONS));
    let mut stream = TcpStream::connect(app.address()).expect("connected");
    stream.write_all(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n").expect("sent");
    let seen = Wire::over(encrypt(&client, stream).expect("a handshake")).get("/whoami").json();
    assert_eq!(seen["remoteAddress"], "192.0.2.7", "{seen}");
    assert_eq!(seen["headers"]["x-forwarded-for"], "192.0.2.7", "{seen}");
    assert_eq!(seen["headers"]["x-forwarded-proto"], "https", "{seen}");
}

#[test]
fn only_http_1_1_is_agreed_on_and_clients_that_come_back_are_known() {
    let certificates = Certificates::new();
    let app = web(&certificates, "").start();
    let mut client = certificates.client(ALL_VERSIONS);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let error = handshake(&Arc::new(client.clone()), app.address()).expect_err("no HTTP/2");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    client.alpn_protocols.push(b"http/1.1".to_vec());
    let client = Arc::new(client);
    let kinds = [HandshakeKind::Full, HandshakeKind::Resumed];
    for kind in kinds {
        let stream = handshake(&client, app.address()).expect("a handshake");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(stream.conn.handshake_kind(), Some(kind));
        assert_eq!(Wire::over(stream).get("/raw").status, 200); // and takes the tickets
    }
}

#[test]
fn the_access_log_has_its_requests() {
    let certificates = Certificates::new();
    let more = format!("{STRANGERS}[log]\naccess = \"json\"\n");
    let app = web(&certificates, &more).start();
    assert_eq!(certificates.open(app.address()).get("/logged").status, 200);
    app.wait_for("\"target\":\"/logged\"");
    let log = app.log();
    let line = log.lines().find(|line| line.contains("/logged")).expect("it is there");
    assert!(line.contains("\"client\":\"127.0.0.1\"") && line.contains("\"status\":200"), "{line}");
}

#[test]
fn a_stop_ends_what_is_idle_and_finishes_what_is_not() {
    let certificates = Certificates::new();
    let mut app = web(&certificates, "").start();
    let mut busy = certificates.open(app.address());
    let mut idle = certificates.open(app.address());
    assert_eq!(idle.get("/raw").status, 200);
    let mut unused = certificates.open(app.address());
    let before = descriptors(app.pid() as i32);
    let mut silent = Wire::open(app.address());
    let accepted = || descriptors(app.pid() as i32) > before;
    assert!(until(accepted), "the kernel had it for a second");
    let mut talking = websocket(certificates.open(app.address()));
    busy.send("GET /slow?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    app.signal("TERM");
    assert_eq!(busy.answer().status, 200);
    assert!(idle.ends() && unused.ends_now() && silent.ends_now() && talking.ends_now());
    assert_eq!(app.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
