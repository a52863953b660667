//! The examples, as they stand in the repository: apps that know nothing of cohortd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::app::{Spec, client, free_port, node, until};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// What an example's own `cohortd.toml` says, but for the port and the Node that are used here.
fn toml(name: &str) -> cohortd::config::Config {
    let file = example(name).join("cohortd.toml");
    cohortd::config::Config::load(&file).unwrap_or_else(|e| panic!("{e}"))
}

fn get(url: &str) -> String {
    let output = Command::new("curl").args(["-sS", "-m", "10", url]).output();
    String::from_utf8_lossy(&output.expect("curl starts").stdout).into_owned()
}

#[test]
fn their_configurations_are_right() {
    for (name, port) in [("chat", 8080), ("sticky", 8080), ("get-started", 3000), ("http", 8000)] {
        let config = toml(name);
        assert_eq!(config.app, name);
        assert_eq!(config.listen[0].port(), Some(port));
        assert!(config.directory.join(&config.exec[1]).exists(), "{:?}", config.exec);
    }
    for name in ["uvicorn", "job"] {
        assert_eq!(toml(name).app, name);
    }
}

#[test]
fn a_plain_http_server_on_its_own_port() {
    // It has its port written into it, so that has to be free here.
    let app =
        Spec::new("sio.js").script(example("http/server.js")).listen(&["127.0.0.1:8000"]).start();
    assert!(get(&app.url()).starts_with("hello from"), "{}", app.log());
}

#[test]
fn socket_ios_get_started_app_on_its_own_port() {
    let script = example("get-started/index.js");
    let app = Spec::new("sio.js").script(script).listen(&["127.0.0.1:3000"]).start();
    assert!(get(&app.url()).contains("<html"), "{}", app.log());
    app.client("clients/connect.js", &["20"]);
}

#[test]
fn the_seed_which_never_listens() {
    let app = Spec::new("sio.js").script(example("sticky/worker.js")).workers(4).start();
    app.client("clients/connect.js", &["40"]);
    app.wait_for_times(" | connect ", 40);
}

#[test]
fn the_chat_in_a_real_browser() {
    let port = free_port();
    let app = Spec::new("sio.js")
        .script(example("chat/server.js"))
        .listen(&[&format!("127.0.0.1:{port}")])
        .start();
    let url = app.url();
    client("browser/chat.js", &[&url], &[])
        .unwrap_or_else(|said| panic!("{said}\n--- log\n{}", app.log()));
}

/// As `make demo-hosts` runs it, with the program that is built here and the packages that are there.
#[test]
fn the_chat_on_two_hosts() {
    let folder = TempDir::new().expect("a temporary folder");
    let built = folder.path().join("built");
    let words = folder.path().join("words");
    let cargo = format!(
        "#!/bin/sh\necho \"$@\" >'{}'\nmkdir -p '{1}/release' && ln -s '{2}' '{1}/release'\n",
        words.display(),
        built.display(),
        env!("CARGO_BIN_EXE_cohortd")
    );
    for (name, text) in [("npm", "#!/bin/sh\n"), ("cargo", &cargo)] {
        let program = folder.path().join(name);
        fs::write(&program, text).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own");
    }
    let node = node("node20");
    let path = format!(
        "{}:{}:{}",
        folder.path().display(),
        node.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut demo = Command::new("make")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "demo-hosts"])
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", &built)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("make starts");
    let urls = ["http://10.77.7.1:8080", "http://10.77.7.2:8080"];
    let serves = |url: &&str| get(url).contains("<html");
    let up = until(|| urls.iter().all(serves));
    let seen = client("clients/chat.js", &[&urls.join(",")], &[]);
    // Ctrl-C, which all of it hears.
    kill_process_group(Pid::from_child(&demo), Signal::INT).expect("signalled");
    demo.wait().expect("our own child");
    assert!(up, "the hosts did not come up");
    seen.unwrap_or_else(|said| panic!("{said}"));
    let words = fs::read_to_string(words).expect("cargo was called");
    assert_eq!(words, "build --release --locked --features nats\n");
    let spaces = Command::new("ip").args(["netns", "list"]).output().expect("iproute2");
    let spaces = String::from_utf8_lossy(&spaces.stdout).into_owned();
    assert!(!spaces.contains("cohortd-demo"), "{spaces}");
}
