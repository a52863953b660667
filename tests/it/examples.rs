//! The examples, as they stand in the repository: apps that know nothing of cohortd.

use std::path::{Path, PathBuf};

use crate::app::{Spec, client, free_port};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// What an example's own `cohortd.toml` says, but for the port and the Node that are used here.
fn toml(name: &str) -> cohortd::config::Config {
    let file = example(name).join("cohortd.toml");
    cohortd::config::Config::load(&file).unwrap_or_else(|e| panic!("{e}"))
}

fn get(url: &str) -> String {
    let output = std::process::Command::new("curl").args(["-sS", "-m", "10", url]).output();
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
