//! What workers see in their environment: what the configuration says, what the documentation lists, and
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{App, Spec};
use crate::machine::Suite;
use crate::reload::{ok, refused};
use crate::systemd::{Host, on, on_each};

/// Answers with its environment.
const SHOW: &str = r#"
require("node:http").createServer((req, res) => res.end(JSON.stringify(process.env)))
  .listen(Number(process.env.SERVE ?? process.env.PORT));
"#;

const FILE: &str = "/etc/cohortd/myapp.toml";

/// The variables that systemd and cohortd set for each worker of a service, as documented. The machine's
/// user has no shell.
const OF_SYSTEMD: [&str; 6] = ["HOME", "INVOCATION_ID", "LANG", "LOGNAME", "PATH", "USER"];
const OF_SYSTEMD_254: [&str; 2] = ["MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"];
const OF_COHORTD: [&str; 4] = ["COHORTD_APP", "JOURNAL_STREAM", "NODE_APP_INSTANCE", "PWD"];

type Env = BTreeMap<String, String>;

/// An app in the foreground that shows its environment, in a folder of its own.
fn show(folder: &TempDir, more: &str) -> App {
    let script = folder.path().join("show.js");
    fs::write(&script, SHOW).expect("written");
    let spec = Spec::new("none").script(script).workers(1);
    let port = spec.address().rsplit(':').next().expect("a port").to_owned();
    let more = format!("{more}\n[reload]\ncanary = \"50ms\"");
    spec.env("SERVE", port).env("IN_TABLE", "table").more(&more).start()
}

fn seen(app: &App) -> Env {
    let mut connection = TcpStream::connect(app.address()).expect("connects");
    write!(connection, "GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    let from = answer.find('{').unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(answer[from..].trim_end()).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// Later ones win: files in their order, then `[env]`, then what differs by slot. A reload reads the
/// files anew: what was taken out is gone, and a mistake fails it with its place, and without the
/// line, which may be a secret.
#[test]
fn files_are_read_at_each_reload() {
    let folder = TempDir::new().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("written");
    };
    write("one.env", "ONE=1\nBOTH=one\nIN_TABLE=file\nBY_SLOT=file\n# NOT=1\n");
    write("two.env", "BOTH='two # of two'\n");
    let more = "env_file = [\"one.env\", \"two.env\", \"-none.env\"]\n\
                [env_per_worker]\nBY_SLOT = \"{3000 + slot}\"";
    let app = show(&folder, more);
    let env = seen(&app);
    for (name, value) in
        [("ONE", "1"), ("BOTH", "two # of two"), ("IN_TABLE", "table"), ("BY_SLOT", "3000")]
    {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}: {env:?}");
    }
    assert!(!env.contains_key("NOT"));

    write("one.env", "BOTH=one\n");
    write("none.env", "NEW=\"a\\nb\"\n");
    ok(&app, &["reload"]);
    let env = seen(&app);
    assert!(!env.contains_key("ONE"), "{env:?}");
    assert_eq!(env["NEW"], "a\nb");

    write("two.env", "GOOD=1\nSECRET=\"hunter2\n");
    let said = refused(&app, &["reload"]);
    assert!(said.contains("two.env:2:8: this quote is not closed"), "{said}");
    assert!(!said.contains("hunter2") && !app.log().contains("hunter2"), "{said}");
    fs::remove_file(folder.path().join("two.env")).expect("is there");
    let said = refused(&app, &["reload"]);
    let place = format!("{}:6:12: ", app.file().display());
    assert!(
        said.contains(&place) && said.contains("two.env can't be read: No such file"),
        "{said}"
    );
    assert_eq!(seen(&app), env, "the old one serves on");
}

/// The shell's own variables are there in the foreground, those that are cohortd's alone are not.
#[test]
fn the_foreground_passes_the_shell_s_environment_on() {
    let folder = TempDir::new().expect("a temporary folder");
    let script = folder.path().join("show.js");
    fs::write(&script, SHOW).expect("written");
    let spec = Spec::new("none").script(script).workers(1);
    let port = spec.address().rsplit(':').next().expect("a port").to_owned();
    let app = spec
        .env("SERVE", port)
        .more("[env_per_worker]\nNODE_OPTIONS = \"--title=slot-{slot}\"")
        .ours("OF_THE_SHELL", "1")
        .ours("NOTIFY_SOCKET_OF_MINE", "2")
        .ours("WATCHDOG_USEC", "30000000")
        .ours("JOURNAL_STREAM", "1:2")
        .start();
    let env = seen(&app);
    assert_eq!((&*env["OF_THE_SHELL"], &*env["NOTIFY_SOCKET_OF_MINE"]), ("1", "2"));
    assert_eq!(env["NODE_OPTIONS"], "--title=slot-0", "as the user has set it");
    for name in ["COHORTD_LOG", "WATCHDOG_USEC", "JOURNAL_STREAM"] {
        assert!(!env.contains_key(name), "{name}: {env:?}");
    }
}

impl Host {
    fn drop_in(&self, text: &str) {
        let file = "/etc/systemd/system/myapp.service.d/env.conf";
        self.write(file, &format!("[Service]\n{text}"));
        self.ok("systemctl daemon-reload");
    }

    fn append(&self, toml: &str) {
        let text = self.ok(&format!("cat {FILE}"));
        self.write(FILE, &format!("{text}\n{toml}\n"));
    }
}

fn names(json: &str) -> BTreeSet<String> {
    let env: Env = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"));
    env.into_keys().collect()
}

fn set(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.concat().into_iter().map(str::to_owned).collect()
}

/// Under systemd a worker sees exactly what is documented, of whatever kind it is, and what the user
/// has set.
#[test]
fn a_service_s_workers_see_exactly_what_is_documented() {
    for suite in Suite::ALL {
        let of_systemd: &[&str] = match suite {
            Suite::Bookworm => &OF_SYSTEMD,
            Suite::Trixie => &[&OF_SYSTEMD[..], &OF_SYSTEMD_254].concat(),
        };
        on(suite, |host| exactly(host, of_systemd));
    }
}

fn exactly(host: &Host, of_systemd: &[&str]) {
    host.add_text(SHOW);
    host.append("[env]\nMINE = \"1\"\n[env_per_worker]\nBY_SLOT = \"{slot}\"");
    host.drop_in("Environment=OF_UNIT=1 COHORTD_LOG=debug\n");
    host.ok("systemctl start myapp@cluster");
    let mine = ["BY_SLOT", "MINE", "OF_UNIT"];
    let env = host.get("http://127.0.0.1:8080");
    let want = set(&[of_systemd, &OF_COHORTD, &mine, &["PORT"]]);
    assert_eq!(names(&env), want, "{env}");
    let env: Value = serde_json::from_str(&env).expect("JSON");
    assert_eq!((&env["USER"], &env["PORT"]), (&json!("myapp"), &json!("8080")));
    assert_eq!(env["BY_SLOT"], env["NODE_APP_INSTANCE"]);
    host.ok("cohortctl remove --purge myapp");

    let socket = ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID"];
    let notify = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];
    for (kind, own) in [("socket", &[&socket[..], &notify[..]].concat()[..]), ("job", &notify)] {
        // What the process was started with, before the shell adds to it.
        let exec = "/bin/sh -c 'cp /proc/$$/environ /srv/myapp/seen; exec sleep 1000'";
        let add = ["cohortctl", "add", "myapp", "--kind", kind, "--exec", exec];
        let more = ["--directory", "/srv/myapp", "--user", "myapp", "--workers", "1"];
        let listen: &[&str] = if kind == "job" { &[] } else { &["--listen", "8080"] };
        host.machine.ok(&[&add[..], &more[..], listen].concat());
        host.append("[env]\nMINE = \"1\"\n[env_per_worker]\nBY_SLOT = \"{slot}\"");
        host.drop_in("Environment=OF_UNIT=1\n");
        host.ok("systemctl start --no-block myapp@cluster");
        host.is_soon("seen", || host.run("test -s /srv/myapp/seen").code == 0);
        let seen = host.ok("cat /srv/myapp/seen");
        let names: BTreeSet<String> =
            seen.split('\0').filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
        assert_eq!(names, set(&[of_systemd, &OF_COHORTD, &mine, own]), "{kind}");
        host.ok("systemctl stop myapp");
        host.ok("cohortctl remove --purge myapp");
        host.ok("rm /srv/myapp/seen");
    }
}

/// systemd's credentials are the workers' too, and so are its other folders, but for cohortd's own.
#[test]
fn credentials_and_folders_are_passed_on() {
    on_each(|host| {
        host.add_text(
            r#"
            const { CREDENTIALS_DIRECTORY, RUNTIME_DIRECTORY, STATE_DIRECTORY } = process.env;
            const secret = require("node:fs").readFileSync(`${CREDENTIALS_DIRECTORY}/db`, "utf8");
            const seen = JSON.stringify({ secret, RUNTIME_DIRECTORY, STATE_DIRECTORY });
            require("node:http").createServer((req, res) => res.end(seen)).listen(8080);
            "#,
        );
        host.write("/etc/db.secret", "hunter2");
        host.ok("chmod 600 /etc/db.secret");
        let folders = "RuntimeDirectory=another\nStateDirectory=another\n";
        host.drop_in(&format!("LoadCredential=db:/etc/db.secret\n{folders}"));
        host.ok("systemctl start myapp@cluster");
        let seen: Value = serde_json::from_str(&host.get("http://127.0.0.1:8080")).expect("JSON");
        let want = json!({
            "secret": "hunter2",
            "RUNTIME_DIRECTORY": "/run/another",
            "STATE_DIRECTORY": "/var/lib/another",
        });
        assert_eq!(seen, want);
        host.ok("cohortctl show myapp");
    });
}
