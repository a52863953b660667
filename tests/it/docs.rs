//! What the documentation says to type does what it says: each `sh` block is run as it stands. The quick
//! start is run with the package installed (`package.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::machine::Suite;
use crate::systemd::{Host, on};

/// The blocks of a page that are for a shell, in their order.
fn blocks(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(path).expect("a page");
    let blocks = text.split("\n```sh\n").skip(1);
    blocks.map(|rest| rest.split_once("\n```\n").expect("a block ends").0.to_owned()).collect()
}

fn run_all(host: &Host, page: &str) {
    let blocks = blocks(page);
    assert_ne!(blocks.len(), 0, "{page} has none");
    for block in blocks {
        host.write("/tmp/block", &format!("set -eu\ncd /srv/myapp\n{block}\n"));
        let out = host.run("sh /tmp/block");
        assert_eq!(out.code, 0, "{page}:\n{block}\n{out}\n{}", host.journal("-n 30"));
    }
}

fn with_node(suite: Suite, behaves: impl Fn(&Host)) {
    on(suite, |host| {
        host.ok("ln -s /opt/node/bin/node /usr/local/bin/node");
        behaves(host);
    });
}

#[test]
fn the_operations_work() {
    with_node(Suite::Bookworm, |host| {
        host.write(
            "/srv/myapp/app.js",
            "for (const port of [8080, 8081]) require('node:http').createServer((_, res) => res.end('hello')).listen(port);",
        );
        host.add("myapp", "app.js", "8080");
        host.ok("systemctl start myapp@cluster");
        run_all(host, "operations.md");
        assert_eq!(host.get("http://127.0.0.1:8081"), "hello");
    });
}

#[test]
fn the_examples_of_security_work() {
    with_node(Suite::Bookworm, |host| {
        let app = "require('node:http').createServer((_, res) => res.end('hello')).listen(8080)";
        host.write("/srv/myapp/app.js", app);
        host.add("myapp", "app.js", "8080");
        host.ok("systemctl start myapp@cluster");
        run_all(host, "security.md");
        assert_eq!(host.get("http://127.0.0.1:8080"), "hello");
    });
}

/// Each test that the page names is there, and each of those that are made for it is named.
#[test]
fn each_claim_of_security_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).expect("a page");
    let named: BTreeSet<(&str, &str)> =
        page.split(['`', ' ', '\n']).filter_map(|word| word.split_once("::")).collect();
    let tests = |file: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(root.join(format!("tests/it/{file}.rs"))).expect("a file");
        let after = text.split("#[test]\nfn ").skip(1);
        after.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())).collect()
    };
    for (file, test) in &named {
        assert!(tests(file).contains(*test), "there is no {file}::{test}");
    }
    for test in tests("security") {
        assert!(named.contains(&("security", test.as_str())), "security::{test} is not named");
    }
}

/// systemd 257 has `varlinkctl`.
#[test]
fn what_other_pages_say_works() {
    with_node(Suite::Trixie, |host| {
        let app = "require('node:http').createServer((_, res) => res.end('hello')).listen(8080)";
        host.write("/srv/myapp/app.js", app);
        host.add("myapp", "app.js", "8080");
        host.ok("systemctl start myapp@cluster");
        host.is_soon("on the bus", || host.run("busctl status org.cohortd.App_myapp").code == 0);
        run_all(host, "dbus.md");
        run_all(host, "cohortctl.md");
        host.ok("cohortctl remove --purge myapp");
        host.write(
            "/srv/myapp/ecosystem.config.js",
            "module.exports = { apps: [{ name: 'myapp', script: 'app.js', env: { PORT: 8080 } }] };",
        );
        host.ok("chown -R myapp /srv/myapp");
        run_all(host, "coming-from-pm2.md");
        assert_eq!(host.get("http://127.0.0.1:8080"), "hello");
    });
}
