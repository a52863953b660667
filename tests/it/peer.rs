//! Who its clients are, an app sees as it would see it under Node's own cluster: in every place
//! that sees a request, on every version, and whoever its client says it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{App, NODES, Spec, client, free_port, js, until};
use crate::raw::{Answer, Bare, Wire};

/// The user called nobody.
const NOBODY: u32 = 65534;

/// Loopback and link-local clients are proxies of ours: nothing is forwarded for them.
const TRUSTED: &str = "[route]\ntrusted = [\"loopback\", \"fe80::/10\"]";

const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const THREE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// Where a client comes from, and the address that it connects to.
#[derive(Debug, Clone)]
enum From {
    Ip(IpAddr, SocketAddr),
    Path(String),
}

impl From {
    /// A connection, with the ports of both its ends.
    fn connect(&self) -> (Wire, [u16; 2]) {
        match self {
            From::Ip(source, to) => {
                let stream = crate::raw::connect_from(*source, *to);
                let local = stream.local_addr().expect("has one").port();
                (Wire::from(stream), [local, to.port()])
            }
            From::Path(path) => (Wire::open(path), [0, 0]),
        }
    }
}

/// Every kind of client of a server on this port and path.
fn clients(port: u16, path: &str) -> Vec<From> {
    let v4 = |source| From::Ip(source, (Ipv4Addr::LOCALHOST, port).into());
    let mut all = vec![v4(TWO), v4(THREE)];
    all.push(From::Ip(Ipv6Addr::LOCALHOST.into(), (Ipv6Addr::LOCALHOST, port).into()));
    match link_local() {
        Some((ip, scope)) => {
            let to = SocketAddrV6::new(ip, port, 0, scope);
            all.push(From::Ip(Ipv6Addr::UNSPECIFIED.into(), to.into()));
        }
        None => eprintln!("SKIPPED: no interface has a link-local address"),
    }
    all.push(From::Path(path.to_owned()));
    all
}

/// An address that is only an address together with its interface.
fn link_local() -> Option<(Ipv6Addr, u32)> {
    let text = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    text.lines().find_map(|line| {
        let (address, rest) = line.split_once(' ')?;
        let ip = Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?);
        let index = u32::from_str_radix(rest.split(' ').next()?, 16).ok()?;
        ip.is_unicast_link_local().then_some((ip, index))
    })
}

/// What the app has seen, but for ports, which are named by their ends, and for what a proxy may
/// change on a connection.
fn normal(text: &str, ports: [u16; 2]) -> Value {
    fn name(value: &mut Value, ports: [u16; 2]) {
        match value {
            Value::Number(n) if n.as_u64() == Some(ports[0].into()) => *value = "client's".into(),
            Value::Number(n) if n.as_u64() == Some(ports[1].into()) => *value = "server's".into(),
            Value::Array(items) => items.iter_mut().for_each(|item| name(item, ports)),
            Value::Object(fields) => fields.values_mut().for_each(|field| name(field, ports)),
            _ => {}
        }
    }
    let mut seen: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    name(&mut seen, ports);
    // Connections' own fields are said anew, behind the others; a trailer in small letters.
    let upgrades = seen["headers"].get("upgrade").is_some();
    for (list, small) in [("rawHeaders", upgrades), ("rawTrailers", true)] {
        let list = &mut seen[list];
        let pair = |pair: &[Value]| format!("{}: {}", pair[0], pair[1]);
        let mut pairs: Vec<String> =
            list.as_array().into_iter().flat_map(|all| all.chunks(2).map(pair)).collect();
        if small {
            pairs.iter_mut().for_each(|pair| pair.make_ascii_lowercase());
        }
        pairs.sort();
        *list = json!(pairs);
    }
    if upgrades {
        seen["headers"]["connection"] = "upgrade".into();
        seen["distinct"]["connection"] = json!(["upgrade"]);
    }
    seen
}

const UPGRADE: &str = "GET /upgrade HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Version: 13\r\n";

/// Nothing, and headers by which a client could try to say who it is.
const FORGED: [&str; 5] = [
    "",
    "x-cohortd-peer: 6.6.6.6 1 7.7.7.7 2\r\n",
    "X-Cohortd-Peer: 00000000000000000000000000000000 6.6.6.6 1 7.7.7.7 2\r\n",
    "X-COHORTD-PEER: x\r\nx-cohortd-peer:\r\n",
    "x-cohortd-peer:  6.6.6.6 1 7.7.7.7 2\r\nConnection: x-cohortd-peer\r\n",
];

/// Requests of every kind, and an upgrade as the last or, on a connection of its own, the first.
/// `more` is in every head.
fn ask(from: &From, more: &str) -> Vec<Value> {
    let many: String = (0..120).map(|n| format!("X-{n}: v\r\n")).collect();
    let (mut wire, ports) = from.connect();
    let mut seen = Vec::new();
    let note = |answer: Answer| normal(&answer.text(), ports);
    for head in [
        format!("GET /1 HTTP/1.1\r\nHost: app\r\n{more}\r\n"),
        format!("HEAD /0 HTTP/1.1\r\nHost: app\r\n{more}\r\n"),
        format!("POST /2 HTTP/1.1\r\nHost: app\r\n{more}Content-Length: 2\r\n\r\nab"),
        format!("GET /4 HTTP/1.1\r\nHost: app\r\n{many}{more}\r\n"),
        format!("GET /5 HTTP/1.1\r\nHost: app\r\n{more}Expect: the-unexpected\r\n\r\n"),
    ] {
        let method = head.split(' ').next().unwrap_or_default().to_owned();
        wire.send(&head);
        let answer = wire.answer_to(&method);
        let answer = answer.unwrap_or_else(|e| panic!("{from:?} {seen:?} {head}: {e}"));
        if method != "HEAD" {
            seen.push(note(answer));
        }
    }
    wire.send(format!(
        "POST /6 HTTP/1.1\r\nHost: app\r\n{more}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    ));
    assert_eq!(wire.any_answer("POST").expect("an interim one").status, 100);
    wire.send("ab");
    seen.push(note(wire.answer()));
    let pipeline: String =
        (0..5).map(|n| format!("GET /p{n} HTTP/1.1\r\nHost: app\r\n{more}\r\n")).collect();
    wire.send(pipeline);
    seen.extend((0..5).map(|_| note(wire.answer())));
    // A connection ends with a request that has trailers.
    let (mut trailing, trailing_ports) = from.connect();
    trailing.send(format!(
        "PUT /3 HTTP/1.1\r\nHost: app\r\n{more}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n"
    ));
    seen.push(normal(&trailing.answer().text(), trailing_ports));
    let (mut old, old_ports) = from.connect();
    old.send("GET /none HTTP/1.0\r\n\r\n");
    seen.push(normal(&old.answer().text(), old_ports));
    let (first, first_ports) = from.connect();
    for (mut wire, ports) in [(wire, ports), (first, first_ports)] {
        wire.send(format!("{UPGRADE}{more}\r\n"));
        assert_eq!(wire.answer().status, 101);
        let (bytes, _) = wire.rest(crate::app::DEADLINE);
        seen.push(normal(&String::from_utf8_lossy(&bytes), ports));
    }
    seen
}

/// An app on one port, dual-stack, and on one path; and bare Node on others.
struct Both {
    _app: App,
    bare: Bare,
    port: u16,
    folder: TempDir,
}

impl Both {
    fn start(version: &str) -> Both {
        let folder = TempDir::new().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let port = free_port();
        let spec = Spec::new("ends.js").node(version).workers(1).more(TRUSTED);
        let spec = spec.listen(&[&port.to_string(), &path("app")]).env("SOCKET", path("app"));
        let app = spec.start();
        let env = [("SOCKET", path("bare")), ("PORT", "0".to_owned())];
        let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let bare = Bare::with(version, "ends.js", &env);
        Both { _app: app, bare, port, folder }
    }

    /// All clients, through cohortd and without.
    fn clients(&self) -> Vec<(From, From)> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let bare = self.bare.address.rsplit(':').next().and_then(|port| port.parse().ok());
        let bare = clients(bare.expect("a port"), &path("bare"));
        clients(self.port, &path("app")).into_iter().zip(bare).collect()
    }
}

fn same(at: &str, through: &[Value], bare: &[Value]) {
    assert_eq!(through.len(), bare.len(), "{at}");
    for (through, bare) in through.iter().zip(bare) {
        let (is, wanted) = (format!("{through:#}"), format!("{bare:#}"));
        let differing: Vec<String> = is
            .lines()
            .zip(wanted.lines())
            .filter(|(is, wanted)| is != wanted)
            .map(|(is, wanted)| format!("  {is}\n  not{wanted}"))
            .collect();
        assert!(is == wanted, "{at}, {}:\n{}\n{is}", bare["url"], differing.join("\n"));
    }
}

#[test]
fn every_place_sees_what_it_sees_under_bare_node_whoever_clients_say_they_are() {
    for version in NODES {
        let both = Both::start(version);
        for (through, bare) in both.clients() {
            let wanted = ask(&bare, "");
            for forged in FORGED {
                let at = format!("{version} {through:?} {forged:?}");
                let seen = ask(&through, forged);
                // The last has been handed over, so it is as the client has made it.
                let last = seen.len() - usize::from(!forged.is_empty());
                same(&at, &seen[..last], &wanted[..last]);
                assert!(seen.len() == wanted.len(), "{at}");
                let place = |n: usize| &seen[n]["looks"][0]["remoteAddress"];
                let want = match &through {
                    From::Ip(IpAddr::V4(source), _) => json!(format!("::ffff:{source}")),
                    From::Ip(_, to) if to.ip().is_loopback() => json!("::1"),
                    From::Ip(..) => place(0).clone(),
                    From::Path(_) => Value::Null,
                };
                assert!((0..seen.len()).all(|n| *place(n) == want), "{at}: {seen:?}");
            }
        }
    }
}

fn v4(app: &App) -> SocketAddr {
    app.address().parse().expect("an address")
}

#[test]
fn clients_that_take_turns_are_told_apart() {
    let app = Spec::new("ends.js").workers(1).more("serialization = \"advanced\"").start();
    let mut wires =
        [TWO, THREE, TWO, THREE].map(|source| (source, Wire::open_from(source, v4(&app))));
    for _ in 0..50 {
        for (source, wire) in &mut wires {
            let seen = wire.get("/x").json();
            for look in seen["looks"].as_array().expect("many") {
                assert_eq!(look["remoteAddress"], source.to_string(), "{seen}");
            }
        }
    }
    let opened = wires[0].1.get("/looks").json()["opened"].clone();
    let opened = opened.as_array().expect("addresses");
    assert!(opened.len() <= 4, "they are used again: {opened:?}");
    let known = [TWO, THREE].map(|source| json!(source.to_string()));
    assert!(opened.iter().all(|from| known.contains(from)), "known from the first: {opened:?}");
}

/// A handler that is still at work when its response has ended must not take the next client for
/// its own.
#[test]
fn a_socket_does_not_become_somebody_else() {
    let app = Spec::new("ends.js").workers(1).start();
    let mut wires = [TWO, THREE].map(|source| Wire::open_from(source, v4(&app)));
    for n in 0..20 {
        assert_eq!(wires[n % 2].get("/late?ms=20").status, 200);
        assert_eq!(wires[(n + 1) % 2].get("/x").status, 200);
    }
    let mut late = Value::Null;
    assert!(until(|| {
        late = wires[0].get("/looks").json()["late"].clone();
        late.as_array().map(Vec::len) == Some(20)
    }));
    for (n, look) in late.as_array().expect("20").iter().enumerate() {
        let own = [TWO, THREE][n % 2].to_string();
        assert_eq!(*look, json!([own, own]), "{n}: {late}");
    }
}

#[test]
fn an_app_may_reset_a_connection() {
    for version in NODES {
        let app = Spec::new("ends.js").node(version).workers(1).start();
        let mut wire = Wire::open_from(TWO, v4(&app));
        assert_eq!(wire.get("/reset").status, 502, "{version}");
        assert_eq!(wire.get("/ip").json()["remote"], TWO.to_string(), "{version}");
        assert!(!app.log().contains(" exited "), "{version}: {}", app.log());
    }
}

/// Express, whose `trust proxy` decides by the socket's address.
#[test]
fn frameworks_trust_whom_they_are_told_to() {
    let ask = |trust: &str, trusted: &str, more: &str| {
        let app = Spec::new("ends.js").env("TRUST", trust).workers(1).more(trusted).start();
        let mut wire = Wire::open_from(TWO, v4(&app));
        wire.send(format!("GET /ip HTTP/1.1\r\nHost: app\r\n{more}\r\n"));
        wire.answer().json()
    };
    let proxy = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n";
    let ours = "[route]\ntrusted = [\"127.0.0.2\"]";
    let nobody = "[route]\ntrusted = []";
    let of = |seen: &Value| {
        ["ip", "remote", "protocol"].map(|key| seen[key].as_str().unwrap_or_default().to_owned())
    };
    // Behind a proxy of ours: the proxy's address, and what it has said.
    assert_eq!(of(&ask("1", ours, proxy)), ["1.2.3.4", "127.0.0.2", "https"]);
    assert_eq!(of(&ask("127.0.0.2", ours, proxy)), ["1.2.3.4", "127.0.0.2", "https"]);
    assert_eq!(of(&ask("", ours, proxy)), ["127.0.0.2", "127.0.0.2", "http"]);
    // A client is who it is, whatever it says.
    for trust in ["", "loopback", "1"] {
        assert_eq!(of(&ask(trust, nobody, proxy)), ["127.0.0.2", "127.0.0.2", "http"]);
    }
}

#[test]
fn many_headers_and_a_limit_on_them_do_no_harm() {
    // Later versions refuse more than the limit, and ours is one of them.
    let all = [0, 5, 18, 19, 20, 28, 30, 100];
    for (version, counts) in [("node18", &all[..]), ("node20", &all), ("node26", &all[..3])] {
        let app = Spec::new("ends.js").node(version).workers(1).env("MAX_HEADERS", "20").start();
        let bare = Bare::with(version, "ends.js", &[("HOST", "127.0.0.1"), ("MAX_HEADERS", "20")]);
        for &count in counts {
            let many: String = (0..count).map(|n| format!("X-{n}: v\r\n")).collect();
            let ask = |to: SocketAddr| {
                let stream = crate::raw::connect_from(TWO, to);
                let ports = [stream.local_addr().expect("has one").port(), to.port()];
                let mut wire = Wire::from(stream);
                let mut get = || {
                    wire.send(format!("GET / HTTP/1.1\r\nHost: app\r\n{many}\r\n"));
                    let answer = wire.answer();
                    assert_eq!(answer.status, 200, "{version} {count}");
                    normal(&answer.text(), ports)
                };
                [get(), get()]
            };
            let (through, bare) = (ask(v4(&app)), ask(bare.address.parse().expect("one")));
            if count <= 28 {
                same(&format!("{version} {count}"), &through, &bare);
            }
            // From 32 headers on, they cut the list itself, with ours in it.
            for (through, bare) in through.iter().zip(&bare) {
                assert_eq!(through["looks"], bare["looks"], "{version} {count}");
                let shown = |seen: &Value| seen["headers"].as_object().map(serde_json::Map::len);
                assert!(shown(through) >= shown(bare).map(|n| n - 1), "{version} {count}");
                assert!(!through.to_string().contains("cohortd"), "{through}");
            }
        }
    }
}

fn family(app: &App) -> Value {
    Wire::open(app.address()).get("/family").json()
}

/// `NODE_OPTIONS` of the user's are kept, and nothing of ours is passed on.
#[test]
fn what_the_app_starts_knows_nothing_of_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let extra = folder.path().join("with a \"space\".cjs");
    std::fs::write(&extra, "process.env.EXTRA = 1;").expect("written");
    let quoted = extra.display().to_string().replace('"', "\\\"");
    let full = format!("--max-old-space-size=300 --require \"{quoted}\" --no-warnings");
    for version in NODES {
        for options in ["", full.as_str()] {
            let mut spec = Spec::new("ends.js").node(version).workers(1);
            if !options.is_empty() {
                spec = spec.env("NODE_OPTIONS", options);
            }
            let all = family(&spec.start());
            let mut each = all.as_object().cloned().expect("an object");
            let own = each.remove("own").expect("its own");
            let mut want =
                json!([{ "options": options, "ours": [], "loaded": [], "changed": false }]);
            if options.is_empty() {
                want[0].as_object_mut().expect("an object").remove("options");
            }
            for (who, seen) in each {
                assert_eq!(seen, want, "{version}, {who}: {all}");
            }
            want[0]["changed"] = json!(true);
            assert_eq!(own, want, "{version}");
        }
    }
}

fn address_seen(app: &App) -> Value {
    let seen = Wire::open_from(TWO, v4(app)).get("/x").json();
    assert!(!seen["rawHeaders"].to_string().contains("cohortd"), "{seen}");
    seen["looks"][0]["remoteAddress"].clone()
}

#[test]
fn node_s_own_options_go_with_it() {
    let import = format!("--import={}", js().join("apps/routes.js").display());
    let many = [
        "--frozen-intrinsics",
        "--disallow-code-generation-from-strings",
        "--disable-proto=throw",
        "--preserve-symlinks",
        "--preserve-symlinks-main",
        "--throw-deprecation",
        "--insecure-http-parser",
        &import,
    ];
    let read = format!("--allow-fs-read={}", js().join("*").display());
    for version in NODES {
        for script in ["ends.js", "ends.mjs"] {
            let app = Spec::new(script).node(version).workers(1).flags(&many).start();
            assert_eq!(address_seen(&app), "127.0.0.2", "{version} {script}");
        }
        // It has to read what is loaded, and the first versions let it read only what it was told.
        let (permission, want) = match version {
            "node18" => continue,
            "node20" => ("--experimental-permission", "127.0.0.1"),
            _ => ("--permission", "127.0.0.2"),
        };
        let flags = [permission, &read];
        let app = Spec::new("ends.js").node(version).workers(1).flags(&flags).start();
        assert_eq!(address_seen(&app), want, "{version}");
    }
}

/// Node reads them from a file only where the environment has none, so it must have none.
#[test]
fn options_in_a_file_are_read_as_ever() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("env");
    let flag = format!("--env-file={}", file.display());
    let spec = Spec::new("ends.js").node("node22").workers(1).flags(&[&flag]);
    std::fs::write(&file, "NODE_OPTIONS=--no-warnings\nA=1\n").expect("written");
    let app = spec.clone().start();
    assert_eq!(family(&app)["own"][0]["options"], "--no-warnings");
    assert_eq!(address_seen(&app), "127.0.0.1");
    app.wait_for("sees 127.0.0.1 as its clients' address");
    drop(app);
    std::fs::write(&file, "A=1\n").expect("written");
    assert_eq!(address_seen(&spec.start()), "127.0.0.2");
}

#[test]
fn an_app_runs_as_ever_where_it_fails() {
    let folder = TempDir::new().expect("a temporary folder");
    let first = folder.path().join("first.cjs");
    let load = format!("NODE_OPTIONS=\"--require={} $NODE_OPTIONS\" exec \"$@\"", first.display());
    let proto = "require('http').IncomingMessage.prototype";
    let breaks = [
        (String::new(), "127.0.0.2"),
        (
            format!(
                "const own = {proto}._addHeaderLines;
                 Object.defineProperty({proto}, '_addHeaderLines', {{ get: () => own }});"
            ),
            "127.0.0.1",
        ),
        (
            "const { send } = process;
             process.send = (message, ...more) => {
               if (message.cmd === 'COHORTD_PEER') throw Error();
               return send.call(process, message, ...more);
             };"
            .to_owned(),
            "127.0.0.1",
        ),
    ];
    for version in NODES {
        for (text, want) in &breaks {
            std::fs::write(&first, text).expect("written");
            let app = Spec::new("ends.js").node(version).workers(1);
            let app = app.before(&["sh", "-c", &load, "sh"]);
            let app = app.more("[route]\npreserve_client_ip = true").start();
            assert_eq!(address_seen(&app), *want, "{version} {text}");
        }
    }
}

#[test]
fn it_is_done_only_where_it_is_wanted() {
    let spec = Spec::new("ends.js").workers(1);
    let off = "[route]\npreserve_client_ip = false";
    let app = spec.clone().more(off).start();
    assert_eq!(address_seen(&app), "127.0.0.1");
    assert_eq!(family(&app)["own"][0]["changed"], false);
    assert!(app.log().contains("[route] preserve_client_ip"), "{}", app.log());
    // What comes before Node may run it where our file can't be read.
    drop(app);
    let app = spec.clone().before(&["env"]).start();
    assert_eq!(address_seen(&app), "127.0.0.1");
    drop(app);
    let app = spec.before(&["env"]).more("[route]\npreserve_client_ip = true").start();
    assert_eq!(address_seen(&app), "127.0.0.2");
}

#[test]
fn a_reload_can_turn_it_off_and_on() {
    let app = Spec::new("ends.js")
        .more("[reload]\ncanary = \"100ms\"\n[route]\npreserve_client_ip = true")
        .start();
    assert_eq!(address_seen(&app), "127.0.0.2");
    app.change("preserve_client_ip = true", "preserve_client_ip = false");
    crate::reload::ok(&app, &["reload"]);
    assert_eq!(address_seen(&app), "127.0.0.1");
    app.change("preserve_client_ip = false", "preserve_client_ip = true");
    crate::reload::ok(&app, &["reload"]);
    assert_eq!(address_seen(&app), "127.0.0.2");
}

#[test]
fn a_worker_that_gives_up_root_can_still_start_threads() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give root up");
    }
    for version in ["node18", "node26"] {
        let spec = Spec::new("ends.js").node(version).workers(1);
        let app = spec.env("SETUID", NOBODY).start();
        assert_eq!(address_seen(&app), "127.0.0.2");
        let all = family(&app);
        assert_eq!(all["thread"][0]["changed"], false, "{version}: {all}");
    }
}

#[test]
fn there_is_a_place_for_it_or_it_is_left_out() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can start cohortd as another user");
    }
    let open = |path: &Path| {
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(path, mode).expect("our own");
    };
    let folder = TempDir::new().expect("a temporary folder");
    open(folder.path());
    let port = free_port().to_string();
    let name = format!("test-{port}");
    let spec = Spec::new("ends.js").workers(1).user(NOBODY).listen(&[&format!("127.0.0.1:{port}")]);
    let text = |name: &str| folder.path().join(name).display().to_string();
    // A name that needs quotes.
    let odd = text("a \"b\" \\c");
    let app = spec.clone().ours("RUNTIME_DIRECTORY", &odd).start();
    assert_eq!(address_seen(&app), "127.0.0.2");
    assert_eq!(family(&app)["child"][0]["ours"], json!([]));
    drop(app);
    // No place for sockets, as for a plain user in a container: the app's folder is root's.
    let nowhere = spec.ours("RUNTIME_DIRECTORY", "").ours("XDG_RUNTIME_DIR", "");
    let roots = Path::new("/run/cohortd").join(name);
    std::fs::create_dir_all(&roots).expect("root may");
    let app = nowhere.clone().ours("TMPDIR", &text("")).start();
    assert_eq!(address_seen(&app), "127.0.0.2");
    let all = family(&app);
    assert_eq!(
        (&all["own"][0]["options"], &all["thread"][0]["changed"]),
        (&Value::Null, &json!(false))
    );
    let own = folder.path().join(format!("cohortd-{NOBODY}"));
    let mode = std::fs::metadata(&own).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(app);
    // Somebody else was there before.
    open(&own);
    for temporary in [text(""), "/proc".to_owned()] {
        let app = nowhere.clone().ours("TMPDIR", &temporary).start();
        assert_eq!(address_seen(&app), "127.0.0.1");
        app.wait_for("sees 127.0.0.1 as its clients' address");
    }
    std::fs::remove_dir(&roots).expect("it is empty");
}

#[test]
fn socket_io_s_handshakes_have_it() {
    let sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let bare = Bare::start("sio.js");
    let ask = |url: &str| {
        let args: Vec<&str> = std::iter::once(url).chain(sources).collect();
        client("clients/address.js", &args, &[]).unwrap_or_else(|said| panic!("{said}"))
    };
    let wanted = ask(&format!("http://{}", bare.address));
    let two = TWO.to_string();
    assert_eq!(wanted["seen"]["127.0.0.2 polling"], json!([two, two, true]), "{wanted}");
    for version in NODES {
        let spec = Spec::new("sio.js").node(version);
        for spec in [
            spec.clone().env("STICKY", "sticky2").env("ADAPTER", "adapter03"),
            spec.clone().env("STICKY", "sticky1").env("ADAPTER", "adapter02"),
            spec.env("PLAIN", "1").env("ADAPTER", "none"),
        ] {
            let app = spec.start();
            assert_eq!(ask(&app.url()), wanted, "{version}\n{}", app.log());
            let tunnelled = tunnelled(Wire::open_from(THREE, v4(&app)));
            assert_eq!(tunnelled["address"], "127.0.0.3", "{version}: {tunnelled}");
        }
    }
}

/// Socket.IO's "who", over a WebSocket that is not the first request of its connection.
fn tunnelled(mut wire: Wire) -> Value {
    assert_eq!(wire.get("/whoami").json()["remoteAddress"], "127.0.0.3");
    wire.send(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(wire.answer().status, 101);
    let say = |wire: &mut Wire, text: &str| {
        wire.send([&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat());
    };
    let mut answer = None;
    say(&mut wire, "40");
    while answer.is_none() {
        let head = wire.exactly(2).expect("a frame");
        let length = match head[1] {
            126 => {
                let long = wire.exactly(2).expect("its length");
                usize::from(u16::from_be_bytes([long[0], long[1]]))
            }
            short => short.into(),
        };
        let text = String::from_utf8(wire.exactly(length).expect("a frame")).expect("text");
        if text.starts_with("40") {
            say(&mut wire, "420[\"who\"]");
        }
        answer = text.strip_prefix("430").map(str::to_owned);
    }
    let answer: Value = serde_json::from_str(&answer.expect("an answer")).expect("JSON");
    answer[0].clone()
}
