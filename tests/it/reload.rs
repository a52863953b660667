//! Reload and scale of a running app: under load, and with releases that are broken.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::app::{App, Spec, cohortctl, js, kill, node, until};

/// Clients that have begun, and go on until they have seen enough or are told to end.
pub(crate) struct Load {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Load {
    /// Everything that a client may do, all the time.
    pub(crate) fn start(app: &App) -> Load {
        Load::of("mixed.js", &[&app.url()], &[])
    }

    /// A client of `tests/js/clients`.
    pub(crate) fn of(script: &str, args: &[&str], env: &[(&str, &str)]) -> Load {
        let mut child = Command::new(node("node20"))
            .arg(js().join("clients").join(script))
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("text");
        assert_eq!(line, "going\n", "{script}");
        Load { child, lines }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Tells them to end: what came of every request.
    pub(crate) fn end(self) -> serde_json::Value {
        kill("TERM", self.child.id() as i32);
        self.result()
    }

    /// What they have seen when they have seen enough.
    pub(crate) fn result(mut self) -> serde_json::Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        let _ = self.child.wait();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn ctl(app: &App, words: &[&str]) -> Output {
    let (command, rest) = words.split_first().expect("a command");
    cohortctl().arg(command).arg(app.name()).args(rest).output().expect("cohortctl starts")
}

pub(crate) fn ok(app: &App, words: &[&str]) -> String {
    let output = ctl(app, words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}\n--- log\n{}", app.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn refused(app: &App, words: &[&str]) -> String {
    let output = ctl(app, words);
    assert_eq!(output.status.code(), Some(1), "{words:?} went well; the log:\n{}", app.log());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn sio(toml: &str) -> Spec {
    Spec::new("sio.js").env("STICKY", "sticky2").env("ADAPTER", "adapter03").more(toml)
}

/// So many reloads under so many requests at least, and not one of them failed. Nobody was cut off:
/// WebSockets were closed with 1012, polls were told.
pub(crate) const RELOADS: usize = 20;
const REQUESTS: u64 = 20_000;

pub(crate) fn nothing_failed(seen: &serde_json::Value, log: &str) {
    eprintln!("{seen}");
    assert_eq!(seen["failures"], serde_json::json!({}), "{seen}\n--- log\n{log}");
    assert!(seen["requests"].as_u64() >= Some(REQUESTS), "that was not much: {seen}");
    let proper = [
        "polling: transport close",
        "upgraded: transport close",
        "upgraded: transport close 1012",
        "websocket: transport close 1012",
    ];
    let mut all = 0;
    for (end, times) in seen["ends"].as_object().expect("an object") {
        assert!(proper.contains(&end.as_str()), "{times} × {end}");
        all += times.as_u64().unwrap_or(0);
    }
    assert!(all <= 10 * RELOADS as u64, "ten sessions, each once a reload: {seen}");
}

#[test]
fn reloads_under_load_fail_no_request() {
    let app = sio("[reload]\ncanary = \"200ms\"\n[stop]\ndrain = \"2500ms\"").workers(2).start();
    let load = Load::start(&app);
    for generation in 2..2 + RELOADS {
        let before = app.workers();
        assert!(ok(&app, &["reload"]).contains(&format!("generation {generation} serves")));
        let after = app.workers();
        assert!(before.values().all(|pid| !after.values().any(|p| p == pid)), "all are new");
    }
    nothing_failed(&load.end(), &app.log());
}

/// A release that is broken in some way: the reload fails, and nobody is the worse for it.
fn broken(script: &str, toml: &str, said: &str) {
    let text = format!("[ready]\ntimeout = \"3s\"\n[reload]\ncanary = \"5s\"\n{toml}");
    let app = sio(&text).start();
    let before = app.workers();
    let load = Load::start(&app);
    app.change("sio.js", script);
    let error = refused(&app, &["reload"]);
    assert!(error.contains(said) && error.contains("Generation 1 serves on"), "{error}");
    let seen = load.end();
    assert_eq!(seen["failures"], serde_json::json!({}), "{seen}\n--- log\n{}", app.log());
    assert_eq!(seen["ends"], serde_json::json!({}), "no session ended: {seen}");
    assert_eq!(app.workers(), before, "the old ones were never stopped");
    assert!(ok(&app, &["show"]).contains("last reload: generation 2 was given up"));
    // And it can be mended.
    app.change(script, "sio.js");
    ok(&app, &["reload"]);
}

#[test]
fn a_release_that_throws_at_boot_is_given_up() {
    broken("nonesuch.js", "", "ended (exit code 1)");
}

#[test]
fn a_release_that_never_listens_is_given_up() {
    broken("idle.js", "", "was not ready in time");
}

#[test]
fn a_release_that_crashes_after_3_s_is_given_up() {
    broken("crash-later.js", "", "ended (exit code 7)");
}

#[test]
fn a_release_whose_program_is_not_there_is_given_up() {
    let app = sio("").start();
    let before = app.workers();
    app.change(&node("node20").display().to_string(), "/nonesuch/node");
    let error = refused(&app, &["reload"]);
    let why = "given up: can't start \"/nonesuch/node\": No such file or directory (os error 2)";
    assert!(error.contains(why), "{error}");
    assert_eq!(app.workers(), before);
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let app = sio("").start();
    let before = app.workers();
    app.change("workers =", "wokers =");
    let error = refused(&app, &["reload"]);
    assert!(error.contains("unknown key `wokers`; did you mean `workers`?"), "{error}");
    assert_eq!(app.workers(), before);
    app.change("wokers =", "workers =");
    app.change("listen = [", "listen = [\"1\", ");
    assert!(refused(&app, &["reload"]).contains("listen has changed"));
}

#[test]
fn reloads_that_are_asked_for_meanwhile_are_one() {
    let app = sio("[reload]\ncanary = \"500ms\"").workers(1).start();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| ok(&app, &["reload"]))).collect();
        for said in asked {
            let said = said.join().expect("it went well");
            assert!(said.contains("generation 2 serves") || said.contains("generation 3 serves"));
        }
    });
    assert!(app.log().matches(" reloading generation=").count() <= 2, "{}", app.log());
    app.signal("HUP");
    app.wait_for_times(" reloaded generation=", 3);
}

/// Who waits for a reload that a stop cuts short is told that, and not that it failed.
#[test]
fn a_stop_in_the_middle_of_a_reload_is_no_failure() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the control socket's path is that of root");
        return;
    }
    let mut app = sio("[reload]\ncanary = \"1h\"").start();
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| ctl(&app, &["reload"]));
        app.wait_for(" reloading generation=2");
        let path = format!("/run/cohortd/{}/control", app.name());
        let mut socket = UnixStream::connect(path).expect("connects");
        socket.write_all(b"{\"method\":\"org.cohortd.App.Reload\"}\0").expect("written");
        ok(&app, &["show"]); // is answered after that was read
        app.signal("TERM");
        let mut second = String::new();
        socket.read_to_string(&mut second).expect("text");
        (first.join().expect("it ran"), second)
    });
    assert_eq!(first.status.code(), Some(75));
    let said = String::from_utf8_lossy(&first.stderr);
    assert_eq!(said, "error: the app was stopped meanwhile\n");
    assert!(second.contains("org.cohortd.App.Stopped"), "{second}");
    assert_eq!(app.wait(), Some(0));
    assert!(!app.log().contains("not reloaded"), "{}", app.log());
}

#[test]
fn a_reload_takes_the_file_s_number_of_workers_and_environment() {
    let app = sio("[reload]\ncanary = \"0s\"").workers(3).start();
    app.change("workers = 3", "workers = 2");
    app.change("[env]", "[env]\nNEW = \"yes\"");
    ok(&app, &["reload"]);
    let workers = app.workers();
    assert_eq!(workers.keys().copied().collect::<Vec<_>>(), [0, 1]);
    for pid in workers.values() {
        let env = fs::read_to_string(format!("/proc/{pid}/environ")).expect("ours");
        assert!(env.split('\0').any(|variable| variable == "NEW=yes"), "{env}");
    }
}

#[test]
fn slots_stay_dense_when_it_is_scaled() {
    let app = sio("[stop]\ndrain = \"1s\"").workers(2).start();
    let slots = || app.workers().keys().copied().collect::<Vec<_>>();
    let first = app.workers();
    assert!(ok(&app, &["scale", "4"]).contains("4/4 workers ready"));
    assert_eq!(slots(), [0, 1, 2, 3]);
    ok(&app, &["scale", "--", "-3"]);
    assert_eq!(slots(), [0]);
    ok(&app, &["scale", "+1"]);
    assert_eq!(slots(), [0, 1]);
    assert_eq!(app.workers()[&0], first[&0], "the lowest were not touched");
    assert!(refused(&app, &["scale", "0"]).contains("1 to 1024 workers"));
    let json: serde_json::Value =
        serde_json::from_str(&ok(&app, &["show", "--json"])).expect("JSON");
    assert_eq!(json["workers"].as_array().map(Vec::len), Some(2), "{json}");
}

/// Nothing but the number changes in the file, and it is what the next reload goes by.
#[test]
fn a_number_of_workers_can_be_saved() {
    let app = sio("[reload]\ncanary = \"0s\"\n[stop]\ndrain = \"1s\" # short").workers(1).start();
    app.change("workers = 1", "\n# how many\nworkers = \"auto\"   # as many as there are\n");
    let file = app.file();
    let folder = file.parent().expect("it has one");
    fs::set_permissions(file, fs::Permissions::from_mode(0o640)).expect("ours");
    let owner = if rustix::process::geteuid().is_root() { 4321 } else { 0 };
    if owner != 0 {
        chown(file, Some(owner), Some(owner + 1)).expect("root can");
    }
    let text = fs::read_to_string(file).expect("readable");
    let is_saved = |number: &str| {
        assert_eq!(fs::read_to_string(file).expect("text"), text.replace("\"auto\"", number));
        let now = fs::metadata(file).expect("it is there");
        assert_eq!(now.mode() & 0o7777, 0o640);
        assert!(owner == 0 || (now.uid(), now.gid()) == (owner, owner + 1));
    };
    let said = ok(&app, &["scale", "3", "--save"]);
    assert!(said.ends_with(&format!("{}: workers = 3\n", file.display())), "{said}");
    is_saved("3");
    ok(&app, &["reload"]);
    assert_eq!(app.workers().len(), 3);
    ok(&app, &["scale", "--save", "--", "-1"]);
    is_saved("2");
    ok(&app, &["scale", "1"]);
    is_saved("2");

    // A link stays one.
    let elsewhere = tempfile::TempDir::new().expect("a folder");
    let real = elsewhere.path().join("of-today.conf");
    fs::rename(file, &real).or_else(|_| fs::copy(file, &real).map(drop)).expect("moved");
    let _ = fs::remove_file(file);
    symlink(&real, file).expect("linked");
    ok(&app, &["scale", "2", "--save"]);
    ok(&app, &["scale", "4", "--save"]);
    assert!(file.is_symlink());
    assert_eq!(fs::read_to_string(&real).expect("text"), text.replace("\"auto\"", "4"));
    for place in [folder, elsewhere.path()] {
        assert_eq!(fs::read_dir(place).expect("a folder").count(), 1, "nothing is left behind");
    }
    let json: serde_json::Value =
        serde_json::from_str(&ok(&app, &["show", "--json"])).expect("JSON");
    assert_eq!(json["file"].as_str(), file.to_str());
    assert_eq!(json["wanted"], 4);
}

/// The file may have changed since it was read: then the app is scaled, and the file left alone.
#[test]
fn a_number_that_can_t_be_saved_is_said() {
    let app = sio("[stop]\ndrain = \"1s\"").workers(1).start();
    app.change("workers = 1", "wokers = 1");
    let text = fs::read_to_string(app.file()).expect("readable");
    let not_saved = |workers: &str, why: &str| {
        let output = ctl(&app, &["scale", workers, "--save"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!(
            "error: {} is scaled to {workers} until its next reload, but that is not saved: {}",
            app.name(),
            app.file().display()
        );
        assert!(said.starts_with(&what) && said.contains(why), "{said}");
        assert_eq!(app.workers().len().to_string(), workers);
    };
    not_saved("2", ":5:1: unknown key `wokers`; did you mean `workers`?");
    assert_eq!(fs::read_to_string(app.file()).expect("readable"), text);
    fs::remove_file(app.file()).expect("ours");
    not_saved("3", ": No such file or directory");
    fs::create_dir(app.file()).expect("ours");
    not_saved("2", ": Is a directory");
}

#[test]
fn the_control_socket_is_its_owner_s_and_goes_with_the_app() {
    let mut app = sio("").start();
    let path = format!("/run/cohortd/{}/control", app.name());
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the path is that of root");
        return;
    }
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nonsense is answered, and harms nobody.
    for nonsense in ["\0", "{}\0", "{\"method\":\"org.cohortd.App.Dance\"}\0", "[[[[", "nonsense\0"]
    {
        let mut socket = UnixStream::connect(&path).expect("connects");
        socket.write_all(nonsense.as_bytes()).expect("written");
        socket.shutdown(std::net::Shutdown::Write).expect("done");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("text");
        assert!(answer.contains("org.cohortd.App."), "{nonsense:?}: {answer:?}");
    }
    ok(&app, &["show"]);
    app.signal("TERM");
    assert_eq!(app.wait(), Some(0));
    assert!(until(|| !Path::new(&path).exists()));
    assert!(refused(&app, &["show"]).contains("does not run here"));
}
