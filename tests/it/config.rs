//! The configuration's errors, word for word, and what good files mean.
//!
//! `tests/config/bad/NAME.toml` has its message in `NAME.expected`; `BLESS=1` writes them anew, to
//! be read before they are committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use cohortd::config::{
    Balance, Config, Forwarded, Health, Limits, Listen, Metrics, OnHang, PromClient, ReadyWhen,
    RestartPolicy, Sticky, StopMethod,
};
use cohortd::systemd::journal::Priority;

#[test]
fn every_mistake_has_its_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad");
    let mut seen = 0;
    for entry in fs::read_dir(folder).expect("the folder of bad files") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let source = fs::read_to_string(&path).expect("readable");
        let name = Path::new(path.file_name().expect("a name"));
        let error = Config::parse(name, &source).expect_err(&format!("{name:?} is wrong"));
        let said = format!("{error}\n");
        let expected = path.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).expect("writable");
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(said, wanted, "\n{} said:\n{said}", path.display());
        seen += 1;
    }
    assert!(seen > 40, "only {seen} files found");
}

/// Every key that the parser knows is in the reference, none that it does not know, and what is said there
/// of defaults is so.
#[test]
fn the_reference_is_that_of_the_parser() {
    const PAGE: &str = include_str!("../../docs/configuration.md");
    let parse = |text: &str| {
        let smallest = "exec = [\"node\", \"x.js\"]\nlisten = [\"8080\"]\n";
        Config::parse(Path::new("shop.toml"), &format!("{smallest}{text}\n"))
    };
    let mut table = String::new();
    let mut documented: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut defaults = Vec::new();
    for line in PAGE.lines().take_while(|line| !line.starts_with("## ")) {
        let cells: Vec<&str> =
            line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let code = |cell: &str| {
            let inside = cell.strip_prefix('`')?.strip_suffix('`')?;
            (!inside.contains('`')).then(|| inside.to_owned())
        };
        let (key, default) = match cells.as_slice() {
            [key, default, _] => (code(key), *default),
            [name, key, default, ..] => {
                if let Some(name) = code(name).or_else(|| name.is_empty().then(|| table.clone())) {
                    table = name.trim_matches(['[', ']']).to_owned();
                }
                (code(key), *default)
            }
            _ => continue,
        };
        let Some(key) = key.filter(|key| !key.starts_with('[')) else { continue };
        if let Some(value) = code(default) {
            let head = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
            // What it takes for the key to mean something.
            let with = match key.as_str() {
                "every" | "fail_after" => "http = \"/\"\n",
                "prom_client" => "listen = \"127.0.0.1:9464\"\n",
                "queue" if table == "relay" => "bus = \"nats://localhost\"\n",
                _ => "",
            };
            defaults.push((format!("{head}{with}"), format!("{key} = {value}")));
        }
        documented.entry(table.clone()).or_default().push(key);
    }
    for (table, keys) in &mut documented {
        let head = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let error = parse(&format!("{head}zzzzzz = 1")).expect_err("an unknown key").to_string();
        let known = error.split_once("known here: ").expect("they are listed").1;
        let known = known.lines().next().unwrap_or_default().split(", ");
        // Tables have rows of their own, or no keys that are known.
        let tables = PAGE.split("`[").skip(1).map(|rest| rest.split(['.', ']']).next());
        let tables: Vec<&str> = tables.flatten().collect();
        let mut known: Vec<&str> = known.filter(|key| !tables.contains(key)).collect();
        known.sort_unstable();
        keys.sort_unstable();
        assert_eq!(*keys, known, "[{table}]");
    }
    assert!(documented.len() >= 10 && defaults.len() > 25, "{documented:?} {defaults:?}");
    let words = |config: Config| {
        let text = format!("{config:?}");
        text.rsplit_once(", keys: ").expect("its last field").0.to_owned()
    };
    for (before, default) in defaults {
        let [without, with] = [parse(&before), parse(&format!("{before}{default}"))];
        let with = with.unwrap_or_else(|error| panic!("{default}: {error}"));
        assert_eq!(words(with), words(without.expect("right")), "{default} is not the default");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/shop.toml")).expect_err("is missing");
    assert_eq!(
        error.to_string(),
        "/nonexistent/shop.toml: can't be read: No such file or directory (os error 2)"
    );
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let config = good("smallest");
    assert_eq!(config.app, "smallest");
    assert_eq!(config.listen, [Listen::Port(8080)]);
    assert_eq!(config.workers, std::thread::available_parallelism().map_or(1, usize::from));
    assert!(config.directory.ends_with("tests/config/good"), "the file's folder");
    assert_eq!(config.ready.when, ReadyWhen::Serving);
    assert_eq!(config.ready.timeout, Duration::from_secs(30));
    assert_eq!((config.health.http, config.health.fail_after), (None, 3));
    assert_eq!(config.health.event_loop, Duration::from_secs(10));
    assert_eq!(config.stop.method, [StopMethod::Signal(15)]);
    assert_eq!(config.profile, "cluster");
    assert_eq!(config.route.sticky, Sticky::Sessions);
    assert!(config.route.preserve_client_ip);
    assert_eq!(config.reload.schedule(), None);
    assert_eq!(config.tls, None);
    assert_eq!(config.metrics, Metrics { listen: None, prom_client: PromClient::Auto });
}

#[test]
fn what_is_loaded_into_node_is_loaded_only_into_node() {
    let preserves = |exec: &str, more: &str| {
        let text = format!("exec = [{exec}]\nlisten = [\"8080\"]\n{more}");
        let config = Config::parse(Path::new("shop.toml"), &text);
        config.unwrap_or_else(|e| panic!("{e}")).route.preserve_client_ip
    };
    for exec in ["'node', 'x'", "'/opt/node-22/bin/node', 'x'", "'nodejs', '--permission', 'x'"] {
        assert!(preserves(exec, "") && !preserves(exec, "route.preserve_client_ip = false"));
    }
    for exec in
        ["'env', 'node'", "'./node.sh'", "'node', '--experimental-permission', 'x'", "'bun'"]
    {
        assert!(!preserves(exec, "") && preserves(exec, "route.preserve_client_ip = true"));
    }
    assert!(!preserves("'node', 'x'", "kind = 'socket'"));
}

#[test]
fn every_key_reaches_its_place() {
    let config = good("whole");
    assert_eq!(config.exec[1], "--enable-source-maps");
    assert_eq!(config.directory, Path::new("/srv/myapp/current"));
    assert_eq!(config.listen.len(), 4);
    assert_eq!(config.workers, 4);
    assert_eq!(config.ready.when, ReadyWhen::Http("/ready?deep=1".into()));
    assert_eq!(config.ready.timeout, Duration::from_secs(10));
    let Health { every, fail_after, event_loop, on_hang, .. } = config.health;
    assert_eq!((every, fail_after), (Duration::from_secs(2), 5));
    assert_eq!((event_loop, on_hang), (Duration::ZERO, OnHang::Abort));
    assert_eq!(config.health.http.as_deref(), Some("/healthz"));
    assert_eq!(config.stop.method, [StopMethod::Message("shutdown".into()), StopMethod::Signal(2)]);
    assert_eq!(config.stop.drain, Duration::from_secs(20));
    assert_eq!((config.reload.surge, config.reload.disconnects_per_second), (2, 50));
    assert_eq!(config.reload.schedule(), Some("Mon..Fri 04:00"));
    assert_eq!(config.restart.policy, RestartPolicy::OnFailure);
    assert_eq!(config.restart.backoff.0, Duration::from_millis(250));
    assert_eq!(config.restart.stop_on_exit, [0, 42]);
    assert_eq!(config.memory.recycle_at, Some(400 << 20));
    assert_eq!(config.memory.max, Some(600 << 20));
    assert_eq!(config.route.balance, Balance::RoundRobin);
    assert_eq!(config.route.trusted.len(), 3);
    assert!(config.route.proxy_protocol && config.access_log);
    assert_eq!(config.route.forwarded, Forwarded::Both);
    assert_eq!(config.route.request_id.as_ref().map(|name| name.as_str()), Some("x-request-id"));
    assert!(!config.route.preserve_client_ip);
    assert_eq!(config.limits.head_size, 16 << 10);
    assert_eq!(config.limits.body_size, Some(10 << 20));
    assert_eq!(config.limits.body_timeout, Duration::from_secs(20));
    assert_eq!(config.limits.send_timeout, Duration::from_secs(40));
    let Limits { connections, connections_per_client, .. } = config.limits;
    assert_eq!((connections, connections_per_client), (Some(10_000), Some(100)));
    let tls = config.tls.expect("a table");
    assert_eq!(tls.certificate.credential(), Some("myapp.pem"));
    assert_eq!(tls.key.path(&config.directory), Ok("/srv/myapp/current/tls/key.pem".into()));
    assert_eq!(tls.listen, Some(vec![config.listen[1].clone()]));
    let socket = Listen::Path("/run/cohortd/whole/metrics.sock".into());
    assert_eq!(config.metrics, Metrics { listen: Some(socket), prom_client: PromClient::Off });
    assert_eq!(config.env["NODE_ENV"], "staging", "the profile's over the plain one");
    assert_eq!(config.env["REGION"], "eu");
    assert_eq!(config.env_files.len(), 1);
    assert_eq!(config.env_per_worker["INSPECT"].of_slot(2), "127.0.0.1:9231");
    assert_eq!(config.stderr, Priority::Warning);
    assert_eq!(config.profile, "staging");
}

fn good(name: &str) -> Config {
    let file = format!("{}/tests/config/good/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Config::load(Path::new(&file)).unwrap_or_else(|e| panic!("{e}"))
}
