//! Any protocol: whole connections, of which nothing is looked at.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::app::{App, DEADLINE, Spec, until};
use crate::reload::ok;
use crate::systemd::on_each;

/// A connection that has been greeted, and by which process.
fn greeted(app: &App) -> (u32, BufReader<TcpStream>) {
    let stream = TcpStream::connect(app.address()).expect("accepted");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a greeting");
    let pid = line.trim().parse().unwrap_or_else(|_| panic!("{line:?}; {}", app.log()));
    (pid, reader)
}

fn echoes(reader: &mut BufReader<TcpStream>, bytes: &[u8]) {
    let mut to = reader.get_ref().try_clone().expect("another");
    std::thread::scope(|scope| {
        scope.spawn(move || to.write_all(bytes).expect("written"));
        let mut back = vec![0; bytes.len()];
        reader.read_exact(&mut back).expect("all of it");
        assert!(back == bytes, "something else came back");
    });
}

fn speaks(app: &App) {
    let mut all: Vec<_> = (0..20).map(|_| greeted(app)).collect();
    let pids: BTreeSet<u32> = all.iter().map(|(pid, _)| *pid).collect();
    assert_eq!(pids.len(), 2, "both workers");
    // What begins like HTTP or TLS is nothing else than other bytes.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 0], &vec![7; 1_000_000]] {
        all.iter_mut().for_each(|(_, reader)| echoes(reader, bytes));
    }
    // One that has said all it had to is still answered.
    let (_, mut reader) = greeted(app);
    reader.get_ref().write_all(b"last words").expect("written");
    reader.get_ref().shutdown(Shutdown::Write).expect("half closed");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "last words");
}

const TOML: &str =
    "[route]\nprotocol = \"tcp\"\n[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"20s\"";

fn reloads(app: &App) {
    let (old, mut reader) = greeted(app);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| ok(app, &["reload"]));
        app.wait_for_times(" draining worker=", 1);
        echoes(&mut reader, b"still there");
        assert_ne!(greeted(app).0, old, "new ones go elsewhere");
        // A drain ends when its connections have.
        drop(reader);
        reload.join().expect("reloaded");
    });
}

#[test]
fn a_node_server_that_speaks_first() {
    let app = Spec::new("net.js").more(TOML).start();
    speaks(&app);
    reloads(&app);
}

#[test]
fn a_server_in_another_language_that_speaks_first() {
    let app = Spec::program("socket", &["python3", "echo.py"]).more(TOML).start();
    speaks(&app);
    reloads(&app);
}

/// The kernel keeps silent clients of HTTP for a second.
#[test]
fn after_a_reload_the_server_may_speak_first() {
    let app = Spec::new("net.js").more(&TOML.replace("tcp", "http")).start();
    app.change("\"http\"", "\"tcp\"");
    ok(&app, &["reload"]);
    let at_once = || {
        let begun = Instant::now();
        greeted(&app);
        begun.elapsed() < Duration::from_millis(900)
    };
    assert!(until(at_once), "greeted as late as if it was waited for");
}

/// The socket outlives the cohortd that had the kernel keep them.
#[test]
fn where_workers_accept_the_server_may_speak_first_too() {
    on_each(|host| {
        host.start("net.js", "[route]\nprotocol = \"http\"\n[env]\nPORT = \"8080\"");
        host.reconfigure(|text| text.replace("\"http\"", "\"tcp\"\ndeliver = \"shared\""));
        host.ok("systemctl restart myapp");
        let greeted = ["timeout", "0.9", "bash", "-c", "read < /dev/tcp/127.0.0.1/8080"];
        host.is_soon("greeted at once", || host.machine.run(&greeted).code == 0);
    });
}

#[test]
fn a_client_s_address_decides() {
    let toml = "[route]\nprotocol = \"tcp\"\nsticky = \"ip\"";
    let app = Spec::new("net.js").more(toml).start();
    let pids: BTreeSet<u32> = (0..20).map(|_| greeted(&app).0).collect();
    assert_eq!(pids.len(), 1);
}
