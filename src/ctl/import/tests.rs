use std::path::Path;

use serde_json::{Map, Value, json};

use super::Context;
use super::convert::{Converted, convert, fitting};
use super::keys::{KEYS, PROFILES};
use super::report::Class;
use crate::config::Config;

fn context<'a>(jobs: &'a [String], listen: &'a [(Option<String>, String)]) -> Context<'a> {
    Context {
        folder: Path::new("/srv/app"),
        node: "node",
        profile: Some("production"),
        listen,
        jobs,
        look: &|_| None,
    }
}

fn converted(app: Value) -> Converted {
    let Value::Object(keys) = app else { panic!("no app: {app}") };
    convert(keys, &context(&[], &[]))
}

/// What a key became.
fn fate(app: &Converted, key: &str) -> (Class, String, bool) {
    let mut of_it = app.report.keys.iter().filter(|entry| entry.key == key);
    let entry = of_it.next().unwrap_or_else(|| panic!("nothing is said of {key}"));
    assert!(of_it.next().is_none(), "{key} is in two classes");
    (entry.class, entry.note.clone(), entry.matters)
}

/// What it stands for in camelCase.
fn camel(word: &str) -> String {
    let mut parts = word.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        text + &head.to_uppercase() + tail
    })
}

/// Each of PM2's 65 keys, by each of its names and whatever its value is, ends in exactly one class,
/// and what comes of it is a configuration.
#[test]
fn every_key_ends_in_exactly_one_class() {
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(2500),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("5s"),
        json!("0 4 * * *"),
        json!("200M"),
        json!("cluster"),
        json!("a 'b"),
        json!([]),
        json!(["a"]),
        json!([[1]]),
        json!({}),
        json!({"A": 1, "B": null, "NODE_UNIQUE_ID": 1, "C=": "x"}),
    ];
    let mut seen = 0;
    for key in &KEYS {
        let name = if key.name == PROFILES { "env_production" } else { key.name };
        let mut words = vec![name.to_owned()];
        words.extend(key.aliases.iter().map(ToString::to_string));
        if key.name != PROFILES {
            words.extend(words.clone().iter().map(|word| camel(word)));
        }
        words.sort_unstable();
        words.dedup();
        for word in words {
            for value in &values {
                let mut app = Map::from_iter([("script".to_owned(), json!("app.js"))]);
                if key.name == "script" {
                    app.clear();
                }
                app.insert(word.clone(), value.clone());
                // Or there would be no port.
                let listen = [(None, "8080".to_owned())];
                let done = convert(app, &context(&[], &listen));
                let (class, note, _) = fate(&done, &word);
                assert_ne!(class, Class::Unknown, "{word}");
                assert!(!note.is_empty(), "{word}: {value}");
                if done.report.problem.is_none() {
                    let parsed = Config::parse(Path::new("/etc/cohortd/x.toml"), &done.toml);
                    assert!(parsed.is_ok(), "{word}: {value}\n{}\n{parsed:?}", done.toml);
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 2000, "{seen}");
}

#[test]
fn a_key_that_pm2_does_not_know_is_told_apart() {
    let app = converted(json!({"script": "a.js", "max_memory_restat": "1G", "env_": {}}));
    assert_eq!(fate(&app, "max_memory_restat").0, Class::Unknown);
    assert_eq!(fate(&app, "env_").0, Class::Unknown);
}

#[test]
fn of_two_names_for_one_key_the_first_counts() {
    let app = converted(json!({"script": "a.js", "exec": "b.js", "cmd": "c.js"}));
    assert!(app.toml.contains("\"a.js\"") && !app.toml.contains("\"b.js\""), "{}", app.toml);
    assert_eq!(fate(&app, "exec").0, Class::Dropped);
    assert_eq!(fate(&app, "cmd").0, Class::Dropped);
}

/// The line of a key in a configuration.
fn line<'a>(toml: &'a str, key: &str) -> &'a str {
    let is_it = |line: &&str| line.split(" = ").next() == Some(key);
    toml.lines().find(is_it).map_or("", |line| line.split_once(" = ").map_or("", |(_, v)| v))
}

#[test]
fn a_command_line_is_what_pm2_would_start() {
    for (app, exec) in [
        (json!({"script": "app.js"}), r#"["node", "app.js"]"#),
        (json!({"script": "./bin/www"}), r#"["node", "./bin/www"]"#),
        (
            json!({"script": "a.js", "node_args": "-r x --max-old-space-size=512", "args": "b 'c d'"}),
            r#"["node", "-r", "x", "--max-old-space-size=512", "a.js", "b", "c d"]"#,
        ),
        (
            json!({"script": "a.js", "source_map_support": true}),
            r#"["node", "--enable-source-maps", "a.js"]"#,
        ),
        (json!({"script": "a.py", "args": ["-v"]}), r#"["python3", "a.py", "-v"]"#),
        (
            json!({"script": "a.py", "interpreter": "./.venv/bin/python"}),
            r#"["./.venv/bin/python", "a.py"]"#,
        ),
        (json!({"script": "a.sh"}), r#"["bash", "a.sh"]"#),
        (
            json!({"script": "a.ts", "interpreter": "node", "interpreter_args": "--import tsx"}),
            r#"["node", "--import", "tsx", "a.ts"]"#,
        ),
        (
            json!({"script": "a.js", "interpreter": "/opt/node/bin/node"}),
            r#"["/opt/node/bin/node", "a.js"]"#,
        ),
        (json!({"script": "./api", "interpreter": "none"}), r#"["./api"]"#),
        (json!({"script": "npm", "args": "run start"}), r#"["npm", "run", "start"]"#),
        (json!({"script": "npm run start"}), r#"["npm", "run", "start"]"#),
        (json!({"cmd": "node --inspect server.js"}), r#"["node", "--inspect", "server.js"]"#),
        (json!({"script": "cd x && node y.js"}), r#"["bash", "-c", "cd x && node y.js"]"#),
        (json!({"script": "PORT=1 node y.js"}), r#"["bash", "-c", "PORT=1 node y.js"]"#),
        (
            json!({"script": "/srv/app/dist/main.js", "cwd": "/srv/app"}),
            r#"["node", "dist/main.js"]"#,
        ),
    ] {
        let done = converted(app.clone());
        assert_eq!(line(&done.toml, "exec"), exec, "{app}");
    }
}

#[test]
fn an_app_is_of_the_kind_that_serves_it_best() {
    for (app, kind, listen) in [
        (json!({"script": "a.js", "instances": 2, "env": {"PORT": 3000}}), "", r#"["3000"]"#),
        (json!({"script": "a.js", "env": {"PORT": 3000}}), "", r#"["3000"]"#),
        (json!({"script": "a.js", "port": 3000}), "", r#"["3000"]"#),
        (
            json!({"script": "a.js", "env": {"PORT": 1}, "env_production": {"PORT": "80"}}),
            "",
            r#"["80"]"#,
        ),
        (json!({"script": "a.js", "env": {"PM2_PORT": 9000}}), "", r#"["9000"]"#),
        (
            json!({"script": "a.js", "env": {"PORT": 3000, "HOST": "127.0.0.1"}}),
            "",
            r#"["127.0.0.1:3000"]"#,
        ),
        (json!({"script": "x/next", "args": "start -p 3001"}), "", r#"["3001"]"#),
        (json!({"script": "worker.js"}), "\"job\"", ""),
        (json!({"script": "a.py", "env": {"PORT": 3000}}), "\"job\"", ""),
        (json!({"script": "npm", "args": "start", "env": {"PORT": 3000}}), "\"job\"", ""),
        (
            json!({"script": "a.js", "exec_mode": "fork", "instances": 2, "increment_var": "PORT", "env": {"PORT": 3000}}),
            "\"job\"",
            "",
        ),
    ] {
        let done = converted(app.clone());
        assert_eq!((line(&done.toml, "kind"), line(&done.toml, "listen")), (kind, listen), "{app}");
        assert_eq!(done.report.problem, None, "{app}");
    }
}

#[test]
fn a_cluster_without_a_port_has_to_be_told() {
    let app = json!({"script": "worker.js", "instances": "max"});
    let problem = converted(app.clone()).report.problem.expect("none is known");
    assert!(
        problem.contains("--listen worker=PORT") && problem.contains("--job worker"),
        "{problem}"
    );

    let Value::Object(keys) = app else { panic!("no app") };
    let jobs = ["worker".to_owned()];
    let done = convert(keys.clone(), &context(&jobs, &[]));
    assert_eq!((done.report.problem, line(&done.toml, "kind")), (None, "\"job\""));

    // The app of Socket.IO's documentation names none: @socket.io/pm2 has one.
    let look = |_: &Path| Some(b"const { setupWorker } = require('@socket.io/sticky')".to_vec());
    let done = convert(keys, &Context { look: &look, ..context(&[], &[]) });
    assert_eq!((done.report.problem, line(&done.toml, "listen")), (None, r#"["8080"]"#));
}

#[test]
fn an_app_with_workers_of_its_own_keeps_them() {
    let look = |_: &Path| Some(b"for (const _ of cpus) cluster.fork();".to_vec());
    let Value::Object(keys) = json!({"script": "a.js", "port": 3000}) else { panic!("no app") };
    let done = convert(keys, &Context { look: &look, ..context(&[], &[]) });
    assert_eq!((line(&done.toml, "kind"), line(&done.toml, "listen")), ("\"job\"", ""));
    assert!(done.report.notes.iter().any(|note| note.contains("cluster.fork")));
}

#[test]
fn listen_takes_the_place_of_the_port() {
    let Value::Object(keys) = json!({"script": "a.js", "env": {"PORT": "3000", "A": "1"}}) else {
        panic!("no app")
    };
    let listen = [(Some("a".to_owned()), "127.0.0.1:4000".to_owned())];
    let done = convert(keys, &context(&[], &listen));
    assert_eq!(line(&done.toml, "listen"), r#"["127.0.0.1:4000"]"#);
    assert!(!done.toml.contains("PORT"), "{}", done.toml);
    assert!(done.report.notes.iter().any(|note| note.contains("PORT was 3000")));
}

#[test]
fn meanings_are_converted_and_not_copied() {
    let done = converted(json!({
        "script": "a.js", "instances": 2, "env": {"PORT": 1}, "wait_ready": true,
        "listen_timeout": 10_000, "kill_timeout": 5000, "shutdown_with_message": true,
        "cron_restart": "0 4 * * *", "stop_exit_codes": [0, 42], "exp_backoff_restart_delay": 100,
        "max_memory_restart": "300M", "namespace": "shop-eu", "uid": "deploy", "gid": "www",
        "max_restarts": 10
    }));
    for (key, value) in [
        ("when", "\"message\""),
        ("method", "[\"message:shutdown\"]"),
        ("schedule", "\"*-*-* 04:00:00\""),
        ("stop_on_exit", "[0, 42]"),
        ("backoff", "\"100ms..15s\""),
        ("recycle_at", "\"300M\""),
        ("workers", "2"),
    ] {
        assert_eq!(line(&done.toml, key), value, "{key}\n{}", done.toml);
    }
    assert!(done.toml.contains("[ready]\nwhen = \"message\"\ntimeout = \"10s\""), "{}", done.toml);
    assert!(done.toml.contains("[stop]\nmethod = [\"message:shutdown\"]\ntimeout = \"5s\""));
    assert_eq!(
        done.report.drop_in,
        "[Service]\nGroup=www\nSlice=shop_eu.slice\nReadWritePaths=-/sys/fs/cgroup/shop_eu.slice/a.service\n"
    );
    assert_eq!(done.report.next[0], "cohortctl add a --user deploy");
    assert!(done.report.keys.iter().all(|entry| !entry.matters), "{:?}", done.report.keys);
}

#[test]
fn defaults_of_pm2_are_not_carried_over() {
    let done = converted(json!({
        "script": "a.js", "kill_timeout": 1600, "listen_timeout": 3000, "restart_delay": 0,
        "autorestart": true, "watch": false, "instance_var": "NODE_APP_INSTANCE", "cron_restart": 0
    }));
    assert_eq!(
        done.toml,
        "# Imported from PM2.\nexec = [\"node\", \"a.js\"]\ndirectory = \"/srv/app\"\nworkers = 1\n\
         kind = \"job\"\n\n[stop]\nmethod = [\"SIGINT\"]\n"
    );
    assert!(done.report.keys.iter().all(|entry| !entry.matters), "{:?}", done.report.keys);
}

#[test]
fn what_changes_how_an_app_behaves_is_marked() {
    for (key, value) in [
        ("watch", json!(true)),
        ("watch", json!(["src"])),
        ("treekill", json!(false)),
        ("cron_restart", json!("0 0 13 * 5")),
        ("interpreter", json!("node@18")),
        ("wait_ready", json!(true)),
        ("shutdown_with_message", json!(true)),
        ("kill_timeout", json!("soon")),
        ("max_memory_restart", json!("1M")),
        ("env", json!({"A": null})),
    ] {
        let app = Map::from_iter([("script".into(), json!("a.js")), (key.into(), value.clone())]);
        let done = converted(Value::Object(app));
        assert!(done.report.keys.iter().any(|entry| entry.matters), "{key} {value}");
    }
}

#[test]
fn work_by_the_clock_is_for_a_timer() {
    let done =
        converted(json!({"script": "a.js", "autorestart": false, "cron_restart": "0 * * * *"}));
    let (class, note, matters) = fate(&done, "cron_restart");
    assert!(class == Class::Dropped && matters && note.contains("*-*-* *:00:00"), "{note}");
    assert_eq!(line(&done.toml, "policy"), "\"never\"");
    assert_eq!(line(&done.toml, "schedule"), "");
}

#[test]
fn each_worker_can_have_a_value_of_its_own() {
    let done = converted(json!({
        "script": "a.js", "exec_mode": "fork", "instances": 3, "increment_var": "PORT",
        "env": {"PORT": 8000}, "instance_var": "SLOT"
    }));
    let table = "[env_per_worker]\nPORT = \"{8000 + slot}\"\nSLOT = \"{slot}\"\n";
    assert!(done.toml.contains(table), "{}", done.toml);
    assert!(!done.toml.contains("[env]"), "{}", done.toml);

    let Value::Object(keys) = json!({"script": "a.js", "increment_var": "PORT"}) else {
        panic!("no app")
    };
    let listen = [(None, "8080".to_owned())];
    assert!(convert(keys, &context(&[], &listen)).report.problem.is_some(), "one port or many");
}

#[test]
fn secrets_are_written_but_not_told() {
    let done = converted(json!({"script": "a.js", "env": {"DB_PASSWORD": "hunter2", "A": "b"}}));
    assert!(done.has_secrets && done.toml.contains("hunter2"));
    let told = serde_json::to_string(&done.report).expect("can be written");
    assert!(told.contains("DB_PASSWORD") && !told.contains("hunter2"), "{told}");
}

#[test]
fn names_are_made_to_fit() {
    for (name, wanted) in [
        ("api", "api"),
        ("My App", "My-App"),
        ("@org/api", "org-api"),
        ("shop-reload", "shop"),
        ("shop-cleanup-reload", "shop"),
        ("a.b", "a-b"),
        ("--", "app"),
        ("", "app"),
        ("\u{e9}t\u{e9}", "t"),
    ] {
        assert_eq!(fitting(name), wanted, "{name}");
    }
    let done = converted(json!({
        "script": "a.js", "name": "shop", "append_env_to_name": true, "env_production": {}
    }));
    assert_eq!(done.report.name, "shop-production");
    assert_eq!(line(&done.toml, "use_profile"), "\"production\"");
}
