//! The control socket and the commands of `cohortctl` that speak over it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::app::{App, Spec, cohortctl, js, kill, until};
use crate::reload::{Load, ctl, ok, refused};
use crate::systemd::on_each;

fn actions() -> App {
    Spec::new("actions.js").start()
}

/// Arguments after an app's slot: `APP#SLOT`.
fn of_slot(app: &App, command: &str, slot: usize, rest: &[&str]) -> std::process::Output {
    let target = format!("{}#{slot}", app.name());
    cohortctl().arg(command).arg(target).args(rest).output().expect("cohortctl starts")
}

fn text(output: &std::process::Output) -> (Option<i32>, String) {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

pub(crate) fn status(app: &App) -> Value {
    serde_json::from_str(&ok(app, &["show", "--json"])).expect("JSON")
}

/// A socket on which varlink is spoken.
struct Varlink(BufReader<UnixStream>);

impl Varlink {
    fn connect(app: &App) -> Varlink {
        let folder =
            std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("cohortd"));
        let folders = [Some(PathBuf::from("/run/cohortd")), folder];
        let mut sockets =
            folders.into_iter().flatten().map(|folder| folder.join(app.name()).join("control"));
        let socket = sockets.find(|path| path.exists()).expect("a control socket");
        Varlink(BufReader::new(UnixStream::connect(socket).expect("it accepts")))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it reads");
    }

    fn say(&mut self, call: &Value) {
        self.write(format!("{call}\0").as_bytes());
    }

    fn hear(&mut self) -> Value {
        self.hear_if_any().expect("a message")
    }

    /// `None` at the end of the connection.
    fn hear_if_any(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        self.0.read_until(0, &mut message).expect("it writes");
        let end = message.pop()?;
        assert_eq!(end, 0, "a whole message");
        Some(serde_json::from_slice(&message).expect("JSON"))
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.say(&json!({ "method": method, "parameters": parameters }));
        self.hear()
    }
}

/// One worker is replaced, and no client notices; the other one is not touched.
#[test]
fn a_slot_is_restarted_under_load() {
    let app = Spec::new("sio.js")
        .env("STICKY", "sticky2")
        .env("ADAPTER", "adapter03")
        .more("[stop]\ndrain = \"2500ms\"")
        .start();
    let load = Load::start(&app);
    for round in 0..4 {
        let before = app.workers();
        let said = text(&of_slot(&app, "restart", round % 2, &["--json"]));
        assert_eq!(said.0, Some(0), "{}", said.1);
        let after = app.workers();
        let (touched, other) = (round % 2, 1 - round % 2);
        assert!(before[&touched] != after[&touched] && before[&other] == after[&other]);
        let restarted: Value = serde_json::from_str(&said.1).expect("JSON");
        let workers = status(&app)["workers"].clone();
        assert_eq!(workers[touched]["id"], restarted["worker"], "{workers}");
        assert_eq!(workers.as_array().map(Vec::len), Some(2), "the old one has gone");
    }
    let seen = load.end();
    assert_eq!(seen["failures"], json!({}), "{seen}\n--- log\n{}", app.log());
}

#[test]
fn a_restart_that_can_t_be_says_why() {
    let app = Spec::new("web.js").start();
    assert!(refused(&app, &["restart"]).contains("which slot?"));
    let said = text(&of_slot(&app, "restart", 7, &[]));
    assert_eq!(said, (Some(1), "error: there is no slot 7: they are 0 to 1\n".into()));
    // Its program has gone: the old worker goes on, and the answer says what happened.
    let old = app.workers();
    app.change("web.js", "nonesuch.js");
    assert!(refused(&app, &["reload"]).contains("was given up"), "as it is known");
    assert_eq!(app.workers(), old);
}

/// A slot that waits for its next start has it at once.
#[test]
fn a_restart_does_not_wait_for_the_backoff() {
    let app = Spec::new("web.js").more("[restart]\nbackoff = \"1h..1h\"").start();
    let old = app.workers()[&1];
    kill("KILL", old);
    app.wait_for("exited");
    let waits = "1/2 workers ready, 1 failed, will be tried again";
    assert!(until(|| status(&app)["state"] == waits), "{}", status(&app));
    let said = text(&of_slot(&app, "restart", 1, &[]));
    assert_eq!(said.0, Some(0), "{}", said.1);
    assert_eq!(status(&app)["state"], "2/2 workers ready");
    assert_eq!(status(&app)["failures"], 1);
}

#[test]
fn signals_and_messages_reach_who_is_meant() {
    let app = actions();
    assert_eq!(ok(&app, &["signal", "usr2"]), format!("{}: sent to workers 1, 2\n", app.name()));
    for slot in 0..2 {
        app.wait_for(&format!("w{slot} | got SIGUSR2"));
    }
    let said = text(&of_slot(&app, "signal", 1, &["SIGUSR2"]));
    assert_eq!(said, (Some(0), format!("{}: sent to worker 2\n", app.name())));
    app.wait_for_times("w1 | got SIGUSR2", 2);

    ok(&app, &["send", r#"{"deep":[1,{"a":null}],"type":"to-all"}"#]);
    for slot in 0..2 {
        app.wait_for(&format!(r#"w{slot} | got {{"deep":[1,{{"a":null}}],"type":"to-all"}}"#));
    }
    let said = text(&of_slot(&app, "send", 0, &["\"word\""]));
    assert_eq!(said.0, Some(0), "{}", said.1);
    app.wait_for("w0 | got \"word\"");
    assert!(!app.log().contains("w1 | got \"word\""));

    // A worker that ends of a signal is replaced like one that has ended by itself.
    ok(&app, &["signal", "KILL"]);
    assert!(
        until(|| status(&app)["state"] == "2/2 workers ready" && status(&app)["failures"] == 2)
    );
}

#[test]
fn what_can_t_be_sent_is_said() {
    let app = actions();
    for (words, code, said) in [
        (&["signal", "SIGNONE"][..], 2, "expected one of HUP, INT"),
        (&["send", "word"], 2, "text is written in quotes of its own: '\"word\"'"),
        (&["send", "{"], 2, "EOF while parsing"),
        (&["scale", "many"], 2, "expected a number, such as 6, +2 or -1"),
    ] {
        let output = text(&ctl(&app, words));
        assert!(output.0 == Some(code) && output.1.contains(said), "{words:?}: {output:?}");
    }
    for slot in ["x", "-1", ""] {
        let target = format!("{}#{slot}", app.name());
        let output = text(&cohortctl().args(["show", &target]).output().expect("starts"));
        assert!(output.0 == Some(2) && output.1.contains("is no slot"), "{output:?}");
    }
    let job = Spec::program("job", &["sleep", "1000"]).listen(&[]).start_only();
    job.wait_for("ready worker=");
    assert!(refused(&job, &["send", "1"]).contains("they are not of Node"));
}

/// As @pm2/io has them in PM2, on both framings.
#[test]
fn custom_actions_are_carried_out() {
    for framing in ["advanced", "json"] {
        let app = Spec::new("actions.js").more(&format!("serialization = \"{framing}\"")).start();
        let name = app.name().to_owned();
        let all_known = || {
            let workers = status(&app)["workers"].clone();
            let knows = |at: usize, action: &str| {
                workers[at]["actions"].as_array().is_some_and(|all| all.contains(&json!(action)))
            };
            knows(0, "mute") && knows(1, "only-one")
        };
        assert!(until(all_known), "{}", status(&app));
        assert!(ok(&app, &["trigger"]).contains("echo, "), "they are listed");
        assert_eq!(
            ok(&app, &["trigger", "where"]),
            format!("{name}#0: {{\"slot\":0}}\n{name}#1: {{\"slot\":1}}\n")
        );
        let said = text(&of_slot(&app, "trigger", 1, &["echo", r#"{"a":[1,"x"]}"#]));
        assert_eq!(
            said,
            (Some(0), format!("{name}#1: {{\"parameter\":{{\"a\":[1,\"x\"]}},\"slot\":1}}\n"))
        );
        let said = ok(&app, &["trigger", "echo", "a word", "--json"]);
        let answers: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(answers[0]["answer"], json!({ "slot": 0, "parameter": "a word" }));

        let said = refused(&app, &["trigger", "nonesuch"]);
        assert!(said.contains("there is no action \"nonesuch\": echo, "), "{said}");
        let said = refused(&app, &["trigger", "mute", "--timeout", "1"]);
        assert!(said.contains("#0: no answer within 1 s"), "{said}");
        let output = text(&ctl(&app, &["trigger", "only-one"]));
        assert_eq!(output.0, Some(1));
        assert!(
            output.1.contains("#1: \"here\"") && output.1.contains("#0: it has no such action")
        );
    }
}

#[test]
fn show_tells_of_an_app_and_of_a_slot() {
    let app = actions();
    let said = ok(&app, &["show"]);
    assert!(
        said.starts_with(&format!("{}: 2/2 workers ready, generation 1\n", app.name())),
        "{said}"
    );
    assert!(said.contains(&format!("(PID {})", app.pid())), "{said}");
    let said = text(&of_slot(&app, "show", 1, &[]));
    let pid = app.workers()[&1];
    assert!(said.1.contains("slot        1\n") && said.1.contains(&format!("{pid}\n")), "{said:?}");
    let said = text(&of_slot(&app, "show", 2, &[]));
    assert_eq!((said.0, said.1.contains("there are 2 slots")), (Some(1), true), "{said:?}");
}

#[test]
fn ls_lists_what_runs() {
    let app = Spec::new("web.js").start();
    for words in [&[][..], &["ls"], &["list"]] {
        let output = text(&cohortctl().args(words).output().expect("starts"));
        assert_eq!(output.0, Some(0), "{}", output.1);
        let line = output.1.lines().find(|line| line.starts_with(app.name()));
        assert!(line.is_some_and(|line| line.contains("2/2 workers ready")), "{}", output.1);
    }
    let output = text(&cohortctl().args(["ls", "--json"]).output().expect("starts"));
    let all: Value = serde_json::from_str(&output.1).expect("JSON");
    let ours = all.as_array().and_then(|all| all.iter().find(|one| one["app"] == app.name()));
    let ours = ours.expect("it is listed");
    assert_eq!(ours["status"]["wanted"], 2);
    assert_eq!(ours["status"]["pid"], app.pid());
}

/// On a terminal it shows what is there and goes on until a key is pressed; the terminal is then as it was.
#[test]
fn top_shows_the_workers_until_it_is_left() {
    let app = Spec::new("web.js").start();
    assert!(refused(&app, &["top"]).contains("this is no terminal"));
    for (key, app_ends) in [("q", false), ("\x03", false), ("", true)] {
        let command = format!("{} top {} --every 0.2", env!("CARGO_BIN_EXE_cohortctl"), app.name());
        // A terminal of its own.
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script starts");
        let mut shown = script.stdout.take().expect("piped");
        let mut keys = script.stdin.take().expect("piped");
        let mut seen = String::new();
        let mut bytes = [0; 4096];
        // The second look has rates.
        while !(seen.matches("ready").count() > 4 && seen.contains('▁')) {
            let n = shown.read(&mut bytes).expect("it is shown");
            assert_ne!(n, 0, "it ended: {seen}");
            seen += &String::from_utf8_lossy(&bytes[..n]);
        }
        assert!(seen.contains("2/2 workers ready, generation 1, 0 requests/s"), "{seen}");
        keys.write_all(key.as_bytes()).expect("it reads");
        if app_ends {
            app.signal("INT");
        }
        shown.read_to_string(&mut seen).expect("text");
        let left = script.wait().expect("our child");
        assert_eq!(left.success(), !app_ends, "{left} {seen}");
        assert!(seen.trim_end().contains("\x1b[?25h\x1b[?1049l"), "the screen is back: {seen}");
    }
}

#[test]
fn diff_tells_what_a_reload_would_bring() {
    let app = Spec::new("web.js").env("SECRET", "hunter2").start();
    let same = format!("{} runs as {} says\n", app.name(), app.file().display());
    assert_eq!(ok(&app, &["diff"]), same);
    app.change("workers = 2", "workers = 3");
    app.change("hunter2", "hunter3");
    let said = ok(&app, &["diff"]);
    assert!(said.contains("workers") && said.contains("env.SECRET"), "{said}");
    assert!(said.contains("to bring it into force: systemctl reload"), "{said}");
    assert!(!said.contains("hunter"), "values of variables are nobody's to read: {said}");
    ok(&app, &["reload"]);
    assert_eq!(ok(&app, &["diff"]), same);
    ok(&app, &["scale", "-1"]);
    assert!(ok(&app, &["diff"]).contains("2 (scaled)"));
    app.change("listen = [", "listen = [\"127.0.0.1:1\", ");
    assert!(ok(&app, &["diff"]).contains("systemctl stop"), "sockets stay as they are in a reload");
    app.change("workers", "wokers");
    assert!(refused(&app, &["diff"]).contains("unknown key `wokers`"));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = text(&cohortctl().args(["completions", shell]).output().expect("starts"));
        assert_eq!(output.0, Some(0));
        for command in ["doctor", "import", "logs", "top", "trigger"] {
            assert!(output.1.contains(command), "{shell}: {command}");
        }
    }
}

/// A doctor finds what is wrong, says what to do, and fails.
#[test]
fn the_doctor_finds_what_is_wrong() {
    let app = Spec::new("web.js").start();
    let doctor = || text(&cohortctl().arg("doctor").arg(app.file()).output().expect("starts"));
    let (_, well) = doctor();
    assert!(well.contains("is right") && well.contains("2 workers are ready"), "{well}");
    app.change("workers = 2", "workers = 3");
    let (_, said) = doctor();
    assert!(said.contains("it does not run as its file says: workers"), "{said}");
    app.change("bin/node", "bin/nonesuch");
    let (code, said) = doctor();
    assert_eq!(code, Some(1));
    assert!(said.contains("does not find") && said.contains("write its full path"), "{said}");
    app.change("workers", "wokers");
    let (code, said) = doctor();
    assert!(code == Some(1) && said.contains("did you mean `workers`?"), "{said}");
}

/// Whoever watches is told of each change, to the end.
#[test]
fn a_watcher_hears_of_every_change() {
    let mut app = Spec::new("web.js").start();
    let mut watcher = Varlink::connect(&app);
    watcher.say(&json!({ "method": "org.cohortd.App.Watch", "more": true }));
    let first = watcher.hear();
    assert_eq!(first["parameters"]["state"], "2/2 workers ready");
    assert_eq!(first["continues"], true);
    ok(&app, &["scale", "3"]);
    let mut states = Vec::new();
    while states.last().is_none_or(|last| last != "3/3 workers ready") {
        let answer = watcher.hear();
        states.push(answer["parameters"]["state"].as_str().expect("words").to_owned());
    }
    assert!(states.contains(&"2/3 workers ready, 1 starting".to_owned()), "{states:?}");
    app.signal("TERM");
    assert_eq!(app.wait(), Some(0));
    let rest: Vec<Value> = std::iter::from_fn(|| watcher.hear_if_any()).collect();
    let stopping = |answer: &Value| answer["parameters"]["state"].to_string().contains("Stopping");
    assert!(rest.iter().any(stopping), "{rest:?}");
}

/// What is no call, and calls of what is not there, get varlink's own errors; the app goes on.
#[test]
fn strange_calls_are_refused() {
    let app = Spec::new("web.js").start();
    let mut varlink = Varlink::connect(&app);
    for (call, error) in [
        (json!({ "method": "org.cohortd.App.Nonesuch" }), "org.varlink.service.MethodNotFound"),
        (json!({ "method": "Status" }), "org.varlink.service.MethodNotFound"),
        (json!({ "method": "" }), "org.varlink.service.MethodNotFound"),
        (json!({ "method": "org.cohortd.App.Scale" }), "org.varlink.service.InvalidParameter"),
        (
            json!({ "method": "org.cohortd.App.Scale", "parameters": { "workers": { "to": -1 } } }),
            "org.varlink.service.InvalidParameter",
        ),
        (
            json!({ "method": "org.cohortd.App.Scale", "parameters": { "workers": { "to": 0 } } }),
            "org.cohortd.App.Failed",
        ),
        (
            json!({ "method": "org.cohortd.App.Restart", "parameters": { "slot": 1e99 } }),
            "org.varlink.service.InvalidParameter",
        ),
        (
            json!({ "method": "org.cohortd.App.Signal", "parameters": { "signal": 4096 } }),
            "org.cohortd.App.Failed",
        ),
        (
            json!({ "method": "org.varlink.service.GetInterfaceDescription",
                "parameters": { "interface": "org.example" } }),
            "org.varlink.service.InterfaceNotFound",
        ),
    ] {
        varlink.say(&call);
        assert_eq!(varlink.hear()["error"], error, "{call}");
    }
    let info = varlink.call("org.varlink.service.GetInfo", json!({}));
    assert_eq!(info["parameters"]["product"], "cohortd");
    // A call that wants no answer gets none: what comes next is the next one's.
    varlink.say(&json!({ "method": "org.cohortd.App.Status", "oneway": true }));
    let diff = varlink.call("org.cohortd.App.Diff", json!({}));
    assert_eq!(diff["parameters"]["differences"], json!([]));
    varlink.say(&json!({ "method": "org.cohortd.App.Watch" }));
    assert_eq!(varlink.hear()["error"], "org.varlink.service.ExpectedMore");

    let deep = "[".repeat(100_000) + "\0";
    for garbage in
        [&b"\0"[..], b"{}\0", b"\xff\xfe\0", b"[1]\0", b"{\"method\":1}\0", deep.as_bytes()]
    {
        let mut varlink = Varlink::connect(&app);
        varlink.write(garbage);
        assert_eq!(varlink.hear()["error"], "org.cohortd.App.InvalidMessage");
        let mut rest = Vec::new();
        varlink.0.read_to_end(&mut rest).expect("it closes");
        assert_eq!(rest, b"");
    }
    // One that has no end is not read for ever.
    let mut endless = Varlink::connect(&app);
    let chunk = vec![b'x'; 1 << 16];
    let refused = until(|| endless.0.get_mut().write_all(&chunk).is_err());
    assert!(refused, "it was read on and on");
    assert_eq!(status(&app)["state"], "2/2 workers ready");
}

/// Each type that is described is what is said, key by key.
#[test]
fn the_description_is_true() {
    let app = actions();
    let mut varlink = Varlink::connect(&app);
    let described = varlink.call(
        "org.varlink.service.GetInterfaceDescription",
        json!({ "interface": "org.cohortd.App" }),
    );
    let text = described["parameters"]["description"].as_str().expect("text").to_owned();
    let keys_of = |block: &str| -> Vec<(String, bool)> {
        let block = text.split_once(block).unwrap_or_else(|| panic!("{block}")).1;
        let block = block.split_once("\n)").expect("it ends").0;
        block
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .filter_map(|line| line.trim().trim_end_matches(',').split_once(": "))
            .map(|(name, kind)| (name.to_owned(), kind.starts_with('?')))
            .collect()
    };
    let holds = |described: &[(String, bool)], said: &Value| {
        let said = said.as_object().expect("an object");
        for key in said.keys() {
            assert!(described.iter().any(|(name, _)| name == key), "{key} is not described");
        }
        for (name, optional) in described {
            assert!(*optional || said.contains_key(name), "{name} is not said: {said:?}");
        }
    };
    let status = varlink.call("org.cohortd.App.Status", json!({}))["parameters"].clone();
    for method in [
        "method Status() -> (",
        "method Watch() -> (",
        "method Scale(workers: (to: ?int, by: ?int)) -> (",
    ] {
        holds(&keys_of(method), &status);
    }
    holds(&keys_of("type Worker ("), &status["workers"][0]);
    assert!(until(|| varlink
        .call("org.cohortd.App.Status", json!({}))
        .to_string()
        .contains("mute")));
    let trigger = json!({ "action": "where" });
    let answers = varlink.call("org.cohortd.App.Trigger", trigger)["parameters"]["answers"].clone();
    holds(&keys_of("type Answer ("), &answers[0]);
    app.change("workers = 2", "workers = 3");
    let diff = varlink.call("org.cohortd.App.Diff", json!({}))["parameters"].clone();
    holds(&keys_of("type Difference ("), &diff["differences"][0]);
}

/// Every command under a real systemd, by who may and by who may not.
#[test]
fn each_command_does_what_it_says_under_systemd() {
    assert!(js().exists());
    on_each(|host| {
        host.add("myapp", "/srv/js/apps/actions.js", "8080");
        let listed = host.ok("cohortctl");
        assert!(listed.contains("myapp") && listed.contains("inactive"), "{listed}");
        assert!(host.run("cohortctl show myapp").stderr.contains("does not run here"));
        let doctor = host.run("cohortctl doctor myapp");
        assert!(doctor.stdout.contains("systemctl enable --now myapp@cluster"), "{doctor}");

        host.ok("systemctl start myapp@cluster");
        let doctor = host.run("cohortctl doctor myapp");
        for fine in
            ["the units are those of", "is active", "listens", "2 workers are ready", "Node 20"]
        {
            assert!(doctor.stdout.contains(fine), "{fine}: {doctor}");
        }
        assert_eq!(doctor.code, 0, "{doctor}");
        for (command, said) in [
            ("ls", "2/2 workers ready"),
            ("show myapp", "profile cluster"),
            ("show myapp#1", "slot        1"),
            ("check myapp", "right. 2 workers"),
            ("diff myapp", "myapp runs as /etc/cohortd/myapp.toml says"),
            ("signal myapp USR2", "sent to workers 1, 2"),
            ("send myapp#0 7", "sent to worker 1"),
            ("restart myapp#1", "myapp#1: worker 3 serves"),
            ("scale myapp +1", "myapp: 3/3 workers ready"),
            ("diff myapp", "3 (scaled)"),
            ("reload myapp", "generation 2 serves"),
            ("completions bash", "cohortctl"),
        ] {
            let out = host.ok(&format!("cohortctl {command}"));
            assert!(out.contains(said), "{command}: {out}");
        }
        host.is_soon("actions", || host.ok("cohortctl trigger myapp").contains("echo"));
        assert!(host.ok("cohortctl trigger myapp#0 where").contains("myapp#0: {\"slot\":0}"));

        let top = "printf q | script -qefc 'cohortctl top myapp' /dev/null"; // a terminal
        let shown = host.machine.ok(&["sh", "-c", top]);
        assert!(shown.contains("generation 2, 0 requests/s"), "{shown}");

        let other = "setpriv --reuid=nobody --regid=nogroup --clear-groups";
        let out = host.run(&format!("{other} cohortctl reload myapp"));
        assert!(out.code == 1 && out.stderr.contains("use sudo"), "{out}");
        let own = "setpriv --reuid=myapp --regid=myapp --clear-groups";
        assert!(host.ok(&format!("{own} cohortctl signal myapp USR2")).contains("sent to"));

        // systemd's own tool, where it is there.
        if host.run("test -x /usr/bin/varlinkctl").code == 0 {
            let at = "/run/cohortd/myapp/control";
            let out = host.ok(&format!("varlinkctl introspect {at} org.cohortd.App"));
            assert!(out.contains("method Reload() -> ("), "{out}");
            let out = host.ok(&format!("varlinkctl call {at} org.cohortd.App.Reload {{}}"));
            assert!(out.contains("\"generation\":3"), "{out}");
        }
        let checked: Value =
            serde_json::from_str(&host.ok("cohortctl check myapp --json")).expect("JSON");
        assert_eq!((&checked["app"], &checked["workers"]), (&json!("myapp"), &json!(2)));
        let added: Value =
            serde_json::from_str(&host.ok("cohortctl add myapp --user myapp --json"))
                .expect("JSON");
        assert_eq!(added["start"], "systemctl enable --now myapp.socket myapp@cluster");
        let removed: Value =
            serde_json::from_str(&host.ok("cohortctl remove myapp --json")).expect("JSON");
        let sorted = |paths: &Value| {
            let mut paths = paths.as_array().expect("a list").clone();
            paths.sort_by_key(Value::to_string);
            paths
        };
        assert_eq!(sorted(&removed["removed"]), sorted(&added["written"]));
        assert!(
            host.ok("cohortctl ls").contains("not running")
                || host.ok("cohortctl ls").contains("inactive")
        );
    });
}
