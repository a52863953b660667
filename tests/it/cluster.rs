//! Node's cluster protocol: what the workers of an app see has to be what they see under Node's
//! own primary, and no worker can harm cohortd or the others by what it does to its channel.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{App, DEADLINE, NODES, Spec, as_user, client, free_port, js, kill, node, until};

const FRAMINGS: [&str; 2] = ["json", "advanced"];

/// Every case of `apps/multi.js` that can share a process, and how many lines it makes two
/// workers write.
const CASES: [(&str, usize); 16] = [
    ("busy", 2),
    ("zero", 6),
    ("path", 2),
    ("pathmode", 2),
    ("many", 6),
    ("v6", 2),
    ("v6only", 2),
    ("twice", 4),
    ("relisten", 6),
    ("udp", 6),
    ("exclusive", 2),
    ("tls", 2),
    ("http2", 2),
    ("reuseport", 2),
    ("sendhandle", 4),
    ("again", 4),
];

/// Ports of one run: `BASE_PORT` and those after it. The last is the app's own.
const PORTS: u16 = 24;
const MAIN: u16 = PORTS - 1;

/// The user called nobody.
const NOBODY: u32 = 65534;

/// Consecutive free ports, below those that the kernel gives out and above `free_port`'s.
fn ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const BLOCKS: u16 = 2700 / PORTS;
    let first = std::process::id() as u16 % BLOCKS;
    let free = |port: u16| TcpListener::bind(("::", port)).is_ok();
    for _ in 0..BLOCKS {
        let block = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
        let base = 30_000 + block * PORTS;
        if (base..base + PORTS).all(free) {
            return base;
        }
    }
    panic!("no {PORTS} free ports in a row from 30000 to 32700");
}

/// One app, to be run under both primaries with the same ports and paths.
struct Run {
    version: &'static str,
    framing: &'static str,
    cases: Vec<(&'static str, usize)>,
    base: u16,
    /// The offset of the port that is in `listen`.
    main: u16,
    folder: TempDir,
    env: BTreeMap<String, String>,
    user: Option<u32>,
    /// Sockets that Node's primary inherits, from descriptor 3 on.
    inherited: bool,
}

impl Run {
    /// These cases beside a server on the port in `listen`.
    fn new(version: &'static str, framing: &'static str, cases: &[(&'static str, usize)]) -> Run {
        let folder = TempDir::new().expect("a temporary folder");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).expect("our own");
        let base = ports();
        let mut env = BTreeMap::new();
        env.insert("BASE_PORT".into(), base.to_string());
        env.insert("SOCKET_DIR".into(), folder.path().display().to_string());
        env.insert("MAIN".into(), "1".into());
        let mut cases = cases.to_vec();
        cases.push(("", 4)); // start, main
        Run { version, framing, cases, base, main: MAIN, folder, env, user: None, inherited: false }
    }

    /// One case, whose own port is the one in `listen`.
    fn routed(
        version: &'static str,
        framing: &'static str,
        case: (&'static str, usize),
        main: u16,
    ) -> Run {
        let mut run = Run::new(version, framing, &[case]);
        run.env.remove("MAIN");
        run.cases[1].1 = 2;
        run.main = main;
        run
    }

    fn user(mut self, uid: u32) -> Run {
        self.user = Some(uid);
        self
    }

    fn inherited(mut self, fds: &str) -> Run {
        self.env.insert("TESTFD".into(), fds.into());
        self.inherited = true;
        self
    }

    fn certificate(mut self) -> Run {
        let (cert, key) = certificate(self.folder.path());
        self.env.insert("TLS_KEY".into(), key.display().to_string());
        self.env.insert("TLS_CERT".into(), cert.display().to_string());
        self
    }

    fn port(&self, offset: u16) -> u16 {
        self.base + offset
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.cases.iter().map(|c| c.0).filter(|n| !n.is_empty()).collect();
        names.join(",")
    }

    /// Lines until nothing more is to come by itself.
    fn settled(&self) -> usize {
        self.cases.iter().map(|case| case.1).sum()
    }

    fn listen(&self) -> Vec<String> {
        let main = self.port(self.main);
        match (self.inherited, self.env.contains_key("MAIN")) {
            (true, _) => vec![format!("127.0.0.1:{main}"), format!("[::1]:{}", self.base)],
            (false, true) => vec![format!("127.0.0.1:{main}")],
            (false, false) => vec![main.to_string()],
        }
    }

    fn spec(&self) -> Spec {
        let listen = self.listen();
        let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
        let mut spec = Spec::new("multi.js")
            .node(self.version)
            .arg(&self.names())
            .listen(&listen)
            .more(&format!("serialization = {:?}\n", self.framing));
        for (name, value) in &self.env {
            spec = spec.env(name, value);
        }
        match self.user {
            Some(uid) => spec.user(uid),
            None => spec,
        }
    }

    fn reference(&self) -> Reference {
        let program = node(self.version);
        let mut command = match self.user {
            Some(uid) => as_user(uid, program),
            None => Command::new(program),
        };
        command
            .arg(js().join("clients/primary.js"))
            .args([self.framing, "2"])
            .arg(js().join("apps/multi.js"))
            .arg(self.names())
            .envs(&self.env)
            .env("PORT", self.port(self.main).to_string());
        if self.inherited {
            let open = |on: &String| TcpListener::bind(on.as_str()).expect("free").into();
            let fds: Vec<OwnedFd> = self.listen().iter().map(open).collect();
            let mapping = |(at, parent_fd)| FdMapping { parent_fd, child_fd: 3 + at as i32 };
            let mappings = fds.into_iter().enumerate().map(mapping).collect();
            command.fd_mappings(mappings).expect("no descriptor twice");
        }
        Reference::start(command)
    }

    fn ask(&self) -> Value {
        let folder = self.folder.path().to_str().expect("an ASCII path");
        client("clients/ask.js", &[&self.base.to_string(), folder, &self.names()], &[])
            .unwrap_or_else(|said| panic!("{} {}: {said}", self.version, self.framing))
    }

    /// Runs it under both, asks all its servers under both, and compares.
    fn is_the_same(&self) {
        let reference = self.reference();
        reference.wait_for(self.settled());
        let answers = self.ask();
        let wanted = normal(&reference.end());
        for name in ["path.sock", "pathmode.sock"] {
            let _ = std::fs::remove_file(self.folder.path().join(name)); // nobody could
        }

        let mut app = self.spec().start();
        let at = format!("{} {} {}", self.version, self.framing, self.names());
        let came = until(|| events(&app.log()).len() >= self.settled());
        assert!(came, "{at}: lines are missing; the log:\n{}\nwanted: {wanted:#?}", app.log());
        assert_eq!(self.ask(), answers, "{at}; the log:\n{}", app.log());
        app.signal("TERM");
        assert_eq!(app.wait(), Some(0), "{}", app.log());
        until(|| normal(&events(&app.log())) == wanted);
        let seen = normal(&events(&app.log()));
        let only_in = |one: &[String], other: &[String]| -> Vec<String> {
            one.iter().filter(|line| !other.contains(line)).cloned().collect()
        };
        let (missing, new) = (only_in(&wanted, &seen), only_in(&seen, &wanted));
        assert!(
            seen == wanted,
            "{at}: not seen {missing:#?}, but {new:#?}; the log:\n{}",
            app.log()
        );
    }
}

/// Node's own cluster with two workers, and what these have said.
struct Reference {
    child: Child,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Reference {
    fn start(mut command: Command) -> Reference {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("node starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stream = child.stdout.take().expect("piped");
        let reading = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    *log.lock().expect("no panic holds it") += &format!("{line}\n");
                }
            }
        });
        Reference { child, log, reading: Some(reading) }
    }

    fn log(&self) -> String {
        self.log.lock().expect("no panic holds it").clone()
    }

    fn wait_for(&self, lines: usize) {
        let settled = until(|| events(&self.log()).len() >= lines);
        assert!(settled, "Node's own workers said less than {lines} lines:\n{}", self.log());
    }

    /// Ends all at once, so that nothing is said about the end.
    fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }

    fn end(mut self) -> Vec<Value> {
        self.kill();
        self.reading.take().expect("once").join().expect("it reads to the end");
        events(&self.log())
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines that `apps/multi.js` wrote, in a log with or without slots before them.
fn events(log: &str) -> Vec<Value> {
    let json = |line: &str| serde_json::from_str(&line[line.find("{\"case\"")?..]).ok();
    // Who has no server after a while is asked for @socket.io/sticky, and a listener hears it.
    let question = |event: &Value| event["message"]["type"] == "sticky:connection";
    log.lines().filter_map(json).filter(|event| !question(event)).collect()
}

/// Events without what differs from run to run: processes, their order, and ports that the kernel
/// chose, of which is kept who had the same.
fn normal(events: &[Value]) -> Vec<String> {
    // A TCP and a UDP socket may by chance have got the same number.
    let chosen = |event: &Value| {
        let is_udp = event["name"].as_str().is_some_and(|name| name.starts_with("udp"));
        let port = event["address"]["port"].as_u64().filter(|p| *p >= 32_768)?;
        Some((is_udp, port))
    };
    let mut owners: BTreeMap<(bool, u64), Vec<&Value>> = BTreeMap::new();
    for event in events {
        if let Some(port) = chosen(event) {
            owners.entry(port).or_default().push(&event["name"]);
        }
    }
    let mut lines: Vec<String> = events
        .iter()
        .map(|event| {
            let mut event = event.clone();
            let fields = event.as_object_mut().expect("an object");
            fields.remove("pid");
            if let Some(Value::Array(names)) = fields.get_mut("env") {
                names.retain(|name| name != "NODE_APP_INSTANCE"); // all that cohortd adds
            }
            if let Some(port) = chosen(&event) {
                event["address"]["port"] = json!(owners[&port]);
            }
            event.to_string()
        })
        .collect();
    lines.sort();
    lines
}

/// One request, on a connection of its own: the answer's body.
fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(body.to_owned())
}

/// What two workers of `apps/multi.js` see, all cases at once.
fn all_cases(version: &'static str, framing: &'static str) {
    let run = Run::new(version, framing, &CASES).certificate();
    let _busy = TcpListener::bind(("::", run.port(1))).expect("it was free");
    run.is_the_same();
}

#[test]
fn workers_see_what_they_see_under_node_json() {
    NODES.iter().for_each(|version| all_cases(version, "json"));
}

#[test]
fn workers_see_what_they_see_under_node_advanced() {
    NODES.iter().for_each(|version| all_cases(version, "advanced"));
}

#[test]
fn a_port_that_may_not_be_had_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can start cohortd as another user");
    }
    for (version, framing) in [("node18", "json"), ("node26", "advanced")] {
        let run = Run::new(version, framing, &[("eacces", 2)]).user(NOBODY);
        run.is_the_same();
    }
}

#[test]
fn a_descriptor_means_a_listener() {
    for version in NODES {
        for framing in FRAMINGS {
            let mut run = Run::routed(version, framing, ("fd", 4), MAIN).inherited("3,4");
            run.is_the_same();
            // Both are served, each to its own: the second on IPv6.
            if framing == "json" {
                run.env.insert("TESTFD".into(), "3,4,9".into());
                let app = run.spec().start();
                assert!(get(run.port(MAIN), "/").is_ok_and(|body| body.starts_with("fd ")));
                let refused = |e: &Value| e["event"] == "error" && e["name"] == "fd 9";
                let both = || events(&app.log()).iter().filter(|e| refused(e)).count() == 2;
                assert!(until(both), "no such listener:\n{}", app.log());
            }
        }
    }
}

#[test]
fn datagram_sockets_of_one_worker_can_share_an_address() {
    for version in NODES {
        let run = Run::new(version, "advanced", &[("udpreuse", 4)]);
        if ["node18", "node20"].contains(&version) {
            run.is_the_same();
        } else {
            // Later ones fail an assertion of their own cluster module; here they work.
            let app = run.spec().start();
            let bound = || normal(&events(&app.log())).len() == run.settled();
            assert!(until(bound), "{}", app.log());
            assert!(!app.log().contains("\"error\""), "{}", app.log());
        }
    }
}

#[test]
fn tls_is_handed_over_whole_and_sessions_resume_in_every_worker() {
    for version in ["node18", "node26"] {
        for framing in FRAMINGS {
            Run::routed(version, framing, ("tls", 2), 13).certificate().is_the_same();
        }
    }
}

/// Three connections to a server that takes one in each of its two workers.
fn overflow(port: u16) -> [String; 3] {
    let open = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        BufReader::new(stream)
    };
    let line = |from: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        from.read_line(&mut line).map_or_else(|e| format!("{:?}", e.kind()), |_| line)
    };
    let (mut first, mut second, mut third) = (open(), None, None);
    let one = line(&mut first);
    let other = line(second.insert(open()));
    let third = third.insert(open());
    // It has no answer as long as both are full, and then from the one with room.
    third.get_ref().set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let waits = line(third);
    third.get_ref().set_read_timeout(Some(DEADLINE)).expect("a socket");
    drop(first);
    let after = line(third);
    let who = |said: &str| match said {
        "" => "closed".to_owned(),
        said if said == one => "one".to_owned(),
        said if said == other => "the other".to_owned(),
        said => said.to_owned(),
    };
    [who(&other), who(&waits), who(&after)]
}

#[test]
fn a_full_worker_leaves_connections_to_the_others() {
    for version in NODES {
        let run = Run::new(version, "advanced", &[("max", 2)]);
        let reference = run.reference();
        reference.wait_for(run.settled());
        let wanted = overflow(run.port(11));
        reference.end();
        let app = run.spec().start();
        assert_eq!(overflow(run.port(11)), wanted, "{version}; the log:\n{}", app.log());
        if version == "node26" {
            assert_eq!(wanted, ["the other", "WouldBlock", "one"]);
        }
    }
}

/// What a worker says that leaves after its first answer.
fn leaves(port: u16, log: &dyn Fn() -> String) -> Vec<String> {
    let answer = get(port, "/").expect("it is served");
    let pid: i64 = answer.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("a pid");
    let of_it = || events(&log()).into_iter().filter(|e| e["pid"] == pid).collect::<Vec<_>>();
    let gone = until(|| of_it().iter().any(|e| e["event"] == "exit"));
    assert!(gone, "it has not left:\n{}", log());
    let mut of_it = of_it();
    of_it.retain(|e| e["event"] != "start"); // its id is as it comes
    normal(&of_it)
}

#[test]
fn a_worker_that_leaves_is_let_go_and_replaced() {
    for version in NODES {
        for (framing, case, offset) in [("json", "disc", 14), ("advanced", "kill", 15)] {
            let run = Run::new(version, framing, &[(case, 2)]);
            let reference = run.reference();
            reference.wait_for(run.settled());
            let wanted = leaves(run.port(offset), &|| reference.log());
            reference.end();
            let app = run.spec().start();
            app.wait_for_times(" ready worker=", 2);
            let before: HashSet<i32> = app.workers().into_values().collect();
            let seen = leaves(run.port(offset), &|| app.log());
            assert_eq!(seen, wanted, "{version} {case}; the log:\n{}", app.log());
            assert!(seen.iter().any(|line| line.contains("\"code\":0")), "{seen:?}");
            app.wait_for("exit code 0");
            app.wait_for_times(" ready worker=", 3);
            let after: HashSet<i32> = app.workers().into_values().collect();
            assert_eq!((after.len(), after.intersection(&before).count()), (2, 1));
        }
    }
}

#[test]
fn an_app_that_never_listens_fails_and_is_told_so() {
    let timeout = "[ready]\ntimeout = \"1s\"\n";
    let mut app = Spec::new("multi.js").arg("none").more(timeout).start_only();
    assert_eq!(app.wait(), Some(1), "{}", app.log());
    let log = app.log();
    let address = app.address();
    assert!(log.contains(&format!("nothing in the worker serves {address}")), "{log}");
    assert!(log.contains("it has opened no server"), "{log}");
}

#[test]
fn an_app_that_listens_elsewhere_fails_and_is_told_where() {
    let timeout = "[ready]\ntimeout = \"5s\"\n"; // enough for it to have opened that
    let base = ports();
    let spec = Spec::new("multi.js").arg("v6").env("BASE_PORT", base).more(timeout);
    let mut app = spec.start_only();
    assert_eq!(app.wait(), Some(1), "{}", app.log());
    assert!(app.log().contains(&format!("it has opened port {}", base + 6)), "{}", app.log());
}

fn talk(version: &str, framing: &str, workers: usize) -> Spec {
    Spec::new("talk.js")
        .node(version)
        .workers(workers)
        .more(&format!("serialization = {framing:?}\n"))
}

fn port_of(app: &App) -> u16 {
    app.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("host:port")
}

fn get_json(port: u16, path: &str) -> Value {
    let body = get(port, path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
}

#[test]
fn large_packets_arrive_byte_for_byte() {
    const SIZES: [usize; 6] = [0, 65_530, 65_536, 200_001, (1 << 20) + 1, 2_000_000];
    for (version, framing) in
        [("node18", "json"), ("node18", "advanced"), ("node26", "json"), ("node26", "advanced")]
    {
        let app = talk(version, framing, 3).start();
        let port = port_of(&app);
        // All at once: frames of all sizes and senders come and go between each other's parts.
        std::thread::scope(|scope| {
            for size in SIZES {
                for kind in ["bytes", "text"] {
                    let app = &app;
                    scope.spawn(move || {
                        let path = format!("/relay?size={size}&kind={kind}&answers=2");
                        let seen = get_json(port, &path);
                        let sent = &seen["sent"];
                        let got = seen["got"].as_array().expect("what the others got");
                        let pids: HashSet<&Value> = got.iter().map(|g| &g["pid"]).collect();
                        assert_eq!(pids.len(), 2, "{seen}");
                        for got in got {
                            assert_eq!(
                                (&got["size"], &got["hash"]),
                                (&sent["size"], &sent["hash"]),
                                "{version} {framing} {size} {kind}; the log:\n{}",
                                app.log()
                            );
                        }
                    });
                }
            }
        });
    }
}

/// A line of `/proc/PID/status`, in bytes.
fn memory(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("known");
    let kib: u64 = line.trim_end_matches("kB").trim().parse().expect("a number");
    kib << 10
}

#[test]
fn a_worker_that_does_not_read_is_cut_off_and_replaced() {
    const BOUND: u64 = 64 << 20;
    let app = talk("node20", "advanced", 3).start();
    app.wait_for_times(" ready worker=", 3);
    let port = port_of(&app);
    let before = memory(app.pid(), "VmHWM:");
    let workers = app.workers();
    let slow = workers[&2];
    kill("STOP", slow);
    // Half of what is sent would fit: an unbounded queue shows. One of the two askers may meet the
    // slow one; its request waits until that is killed, and another is asked.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let flooded = get_json(port, "/flood?frames=160&size=1000000");
                assert_ne!(flooded["pid"], slow);
            });
        }
    });
    app.wait_for("bytes of messages unread");
    app.wait_for_times(" ready worker=", 4);
    let now = app.workers();
    assert_eq!((now[&0], now[&1]), (workers[&0], workers[&1]), "the others went on");
    assert_ne!(now[&2], slow);
    let grown = memory(app.pid(), "VmHWM:") - before;
    assert!(grown > BOUND / 2, "it was not kept waiting: {grown}");
    // The allocator gives back with a delay what frames on their way took; all of them took five
    // times the bound.
    assert!(grown < BOUND * 3, "{grown} bytes for a queue of {BOUND}");
    // And the new one is told what is said from now on.
    let seen = get_json(port, "/relay?size=100&kind=bytes&answers=2");
    assert_eq!(seen["got"].as_array().map(Vec::len), Some(2));
}

/// An app of two workers, of which the second misuses its channel once, or always.
fn rude(how: [&str; 2], framing: &str, mark: &Path, more: &str) -> Spec {
    let script = js().join("apps/rude.py");
    let script = script.to_str().expect("an ASCII path");
    let mark = mark.to_str().expect("an ASCII path");
    let words = ["/usr/bin/python3", script, how[0], how[1], mark];
    talk("node20", framing, 2).before(&words).more(&format!("serialization = {framing:?}\n{more}"))
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

#[test]
fn a_worker_that_misuses_its_channel_is_replaced() {
    let cut_off = "sent a frame of";
    let cases = [
        ("length", "stay", "advanced", cut_off),
        ("noise", "stay", "advanced", cut_off),
        ("line", "stay", "json", cut_off),
        ("deaf", "stay", "json", "bytes of messages unread"),
        // What is no message is passed over.
        ("noise", "exit", "json", "exit code 3"),
        ("descriptors", "exit", "json", "exit code 3"),
        ("length", "exit", "json", "exit code 3"),
        ("half", "exit", "json", "exit code 3"),
        ("half", "exit", "advanced", "exit code 3"),
    ];
    std::thread::scope(|scope| {
        for half in cases.chunks(cases.len().div_ceil(2)) {
            scope.spawn(move || {
                half.iter().for_each(|case| misused([case.0, case.1], case.2, case.3))
            });
        }
    });
}

fn misused(how: [&str; 2], framing: &str, said: &str) {
    let folder = TempDir::new().expect("a temporary folder");
    let app = rude(how, framing, &folder.path().join("mark"), "").start();
    let at = format!("{how:?} {framing}");
    let first = app.workers()[&0];
    app.wait_for(said);
    app.wait_for_times(" ready worker=", 2);
    assert_eq!(app.workers()[&0], first, "{at}: the other one lives; the log:\n{}", app.log());
    let mut pids = BTreeSet::new();
    let both = until(|| {
        pids.insert(get(port_of(&app), "/x").expect("it is served"));
        pids.len() == 2
    });
    assert!(both, "{at}: both serve; the log:\n{}", app.log());
    assert!(open_files(app.pid()) < 100, "{at}: {} files", open_files(app.pid()));
    let peak = memory(app.pid(), "VmHWM:");
    assert!(peak < 200 << 20, "{at}: {peak} bytes");
}

#[test]
fn a_worker_that_never_behaves_is_started_ever_less_often() {
    let backoff = "[restart]\nbackoff = \"200ms..30s\"\n";
    let app = rude(["length", "stay"], "advanced", Path::new("-"), backoff).start();
    let first = app.workers()[&0];
    app.wait_for_times("slot=1 pid=", 5);
    let log = app.log();
    let times = |what| -> Vec<f64> {
        let lines = log.lines().filter(|line| line.contains(what) && line.contains("slot=1 "));
        let time = |line: &str| line.trim_start().split_once('s')?.0.parse().ok();
        lines.map(|line| time(line).expect("a time")).collect()
    };
    let (started, exited) = (times(" started "), times(" exited "));
    let waits: Vec<f64> = (0..4).map(|at| started[at + 1] - exited[at]).collect();
    for (wait, wanted) in waits.iter().zip([0.2, 0.4, 0.8, 1.6]) {
        assert!(*wait > wanted * 0.74 && *wait < wanted * 1.25 + 1.0, "{waits:?}\n{log}");
    }
    assert_eq!(app.workers()[&0], first);
    assert!(get(port_of(&app), "/x").expect("it is served").contains(&first.to_string()));
}

#[test]
fn a_burst_of_connections_to_an_unrouted_port_is_served_whole() {
    for (version, framing) in [("node20", "advanced"), ("node26", "json")] {
        let other = free_port();
        let app = talk(version, framing, 2).env("OTHER", other).start();
        app.wait_for_times(" ready worker=", 2);
        let seen = client("clients/burst.js", &["http", &other.to_string(), "2000"], &[])
            .unwrap_or_else(|said| panic!("{said}\n{}", app.log()));
        let workers = seen["workers"].as_object().expect("an object");
        assert_eq!(workers.len(), 2, "{seen}");
        eprintln!("{version} {framing}: {seen}");
        assert_eq!(app.workers().len(), 2);
    }
}

#[test]
fn a_burst_of_upgrades_survives_a_worker_that_stands_still() {
    let app = talk("node20", "advanced", 2).start();
    app.wait_for_times(" ready worker=", 2);
    let stopped = app.workers()[&1].to_string();
    let port = port_of(&app).to_string();
    let seen = client("clients/burst.js", &["ws", &port, "500", &stopped], &[])
        .unwrap_or_else(|said| panic!("{said}\n{}", app.log()));
    eprintln!("{seen}");
    assert_eq!(seen["answered"], 500);
    app.wait_for("accepting");
    assert!(!app.log().contains("killed"), "{}", app.log());
}

/// A certificate for localhost that nobody has signed, and its key, as files in a folder.
pub(crate) fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl starts");
    assert!(made.status.success(), "{made:?}");
    (cert, key)
}
