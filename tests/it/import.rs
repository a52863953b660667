//! `cohortctl import`: what becomes of the files that people have for PM2.
//!
//! `tests/import/NAME` holds a source, perhaps with arguments, and what is then said in `expected`;
//! `BLESS=1` writes that anew, to be read before it is committed.

use std::borrow::BorrowMut;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::app::{NODES, cohortctl, node};

/// `cohortctl import` with a Node in PATH.
fn import(version: &str, arguments: &[&str]) -> Command {
    let mut command = cohortctl();
    let folder = node(version).parent().expect("bin/node").to_owned();
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    command.arg("import").args(arguments);
    command
}

fn said(out: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("exit {}\n{}{}", out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

fn run(mut command: impl BorrowMut<Command>) -> String {
    said(&command.borrow_mut().output().expect("cohortctl"))
}

/// A source in a folder of its own, and an empty folder for what comes of it.
struct Given {
    source: String,
    output: PathBuf,
    _folder: TempDir,
}

impl Given {
    fn new(name: &str, text: &str) -> Given {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join(name);
        fs::write(&source, text).expect("writable");
        let source = source.to_str().expect("text").to_owned();
        Given { source, output: folder.path().join("out"), _folder: folder }
    }

    fn import(&self, arguments: &[&str]) -> String {
        let output = self.output.to_str().expect("text");
        run(import("node22", &[&[&self.source, "--output", output], arguments].concat()))
    }
}

const APP: &str = "module.exports = { apps: [{ name: 'api', script: 'a.js', port: 3000 }] };";

#[test]
fn sources_of_all_kinds_become_what_is_written_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let mut seen = 0;
    for entry in fs::read_dir(folder).expect("the folder of sources") {
        let folder = entry.expect("an entry").path();
        let is_source = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            ["ecosystem", "process", "package", "pm2.", "dump"].iter().any(|s| name.starts_with(s))
        };
        let files = fs::read_dir(&folder).expect("a folder");
        let source = files.map(|file| file.expect("a file").path()).find(is_source);
        let source = source.unwrap_or_else(|| panic!("no source in {}", folder.display()));
        let arguments = fs::read_to_string(folder.join("arguments")).unwrap_or_default();
        let mut command = import("node20", &["--dry-run"]);
        command.arg(&source).args(arguments.split_whitespace());
        let here = folder.to_str().expect("text");
        let said = run(command).replace(here, "FOLDER");
        let expected = folder.join("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).expect("writable");
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(said, wanted, "\n{} said:\n{said}", folder.display());
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} sources found");
}

/// Both kinds of modules, on every Node; what a file prints is no matter.
#[test]
fn programs_are_read_on_every_node() {
    for version in NODES {
        for (name, text) in [
            (
                "ecosystem.config.js",
                "console.log('[1]'); module.exports = { apps: [{ script: 'a.js' }] }",
            ),
            (
                "a.config.cjs",
                "setInterval(() => {}, 1000); module.exports = [{ script: __dirname + '/a.js' }]",
            ),
            ("a.config.mjs", "export const apps = [{ script: 'a.js' }]; console.log('x')"),
            ("b.config.mjs", "export default Promise.resolve({ apps: { script: 'a.js' } })"),
        ] {
            let given = Given::new(name, text);
            let out = run(import(version, &[&given.source, "--dry-run"]));
            assert!(out.starts_with("exit 0\n"), "{version} {name}: {out}");
            assert!(out.contains("exec = [\"node\", \"a.js\"]\n"), "{version} {name}: {out}");
        }
    }
}

#[test]
fn configurations_are_written_and_not_overwritten() {
    let given = Given::new("ecosystem.config.js", APP);
    let out = given.import(&["--dry-run"]);
    assert!(out.starts_with("exit 0\n") && !given.output.exists(), "{out}");

    let out = given.import(&[]);
    assert!(out.starts_with("exit 0\n") && out.contains("cohortctl add api"), "{out}");
    let file = given.output.join("api.toml");
    let text = fs::read_to_string(&file).expect("written");
    assert!(text.contains("listen = [\"3000\"]"), "{text}");
    let mut check = cohortctl();
    check.arg("check").arg(&file);
    let out = run(check);
    assert!(out.starts_with("exit 0\n"), "{out}");

    fs::write(&file, "mine").expect("writable");
    let out = given.import(&[]);
    assert!(out.starts_with("exit 1\n") && out.contains("api.toml is there already"), "{out}");
    assert_eq!(fs::read_to_string(&file).expect("readable"), "mine");
    assert!(given.import(&["--force"]).starts_with("exit 0\n"));
    assert_eq!(fs::read_to_string(&file).expect("readable"), text);
}

/// Several apps come all or not at all, and what is missing is named.
#[test]
fn what_is_missing_is_asked_for() {
    let given = Given::new(
        "apps.json",
        r#"[{"name": "one", "script": "a.js", "port": 1}, {"name": "two", "script": "b.js", "instances": 2}]"#,
    );
    let out = given.import(&[]);
    assert!(out.starts_with("exit 1\n") && out.contains("say --listen two=PORT"), "{out}");
    assert!(!given.output.exists());
    for (arguments, message) in [
        (["--listen", "8080"], "there are several apps: say --listen APP=ENTRY"),
        (["--listen", "to=8080"], "there is no app \"to\" in it, but one, two"),
        (["--job", "to"], "there is no app \"to\" in it, but one, two"),
        (["--listen", "two=x"], "--listen: expected a port"),
    ] {
        let out = given.import(&arguments);
        assert!(out.starts_with("exit 1\n") && out.contains(message), "{out}");
    }
    let out = given.import(&["--listen", "two=127.0.0.1:8080"]);
    assert!(out.starts_with("exit 0\n"), "{out}");
    let text = fs::read_to_string(given.output.join("two.toml")).expect("written");
    assert!(text.contains("listen = [\"127.0.0.1:8080\"]"), "{text}");
}

#[test]
fn what_is_dropped_and_matters_is_an_exit_code() {
    let given = Given::new("apps.json", r#"{"script": "a.js", "watch": true, "time": true}"#);
    let out = given.import(&[]);
    assert!(out.starts_with("exit 3\n") && out.contains("\n  ! watch"), "{out}");
    assert!(given.output.join("a.toml").exists(), "it is imported all the same");
}

/// The report as JSON has each key in one class, and no secrets; those are not for everybody.
#[test]
fn the_report_is_json_without_secrets() {
    let given = Given::new(
        "apps.yml",
        "apps:\n- script: a.js\n  port: 80\n  uid: web\n  vizion: false\n  wat: 1\n  \
         env: {DB_PASSWORD: hunter2}\n",
    );
    let output = given.output.to_str().expect("text");
    let out = import("node20", &[&given.source, "--output", output, "--json"]).output();
    let out = out.expect("cohortctl");
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((report["written"].as_bool(), &report["keys"]), (Some(true), &Value::Array(vec![])));
    let app = &report["apps"][0];
    assert_eq!(app["name"], "a");
    let keys = app["keys"].as_array().expect("a list").iter();
    let classes: Vec<_> = keys.map(|key| [&key["key"], &key["class"]].map(Value::as_str)).collect();
    let wanted = [
        ["script", "mapped"],
        ["port", "mapped"],
        ["env", "mapped"],
        ["uid", "unit"],
        ["vizion", "dropped"],
        ["wat", "unknown"],
    ];
    assert_eq!(classes, wanted.map(|pair| pair.map(Some)));
    assert_eq!(app["next"][0], "cohortctl add a --user web");
    assert!(!said(&out).contains("hunter2"));

    let file = given.output.join("a.toml");
    assert!(fs::read_to_string(&file).expect("readable").contains("hunter2"));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o007, 0);
}

#[test]
fn a_list_of_processes_comes_on_standard_input() {
    let list = r#"[{"pid": 7, "pm_id": 0, "name": "api", "monit": {}, "pm2_env":
        {"name": "api", "pm_exec_path": "/srv/a.js", "pm_cwd": "/srv", "env": {"PORT": "3000"}}}]"#;
    let mut command = import("node20", &["-", "--dry-run"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("cohortctl");
    child.stdin.take().expect("piped").write_all(list.as_bytes()).expect("read");
    let out = said(&child.wait_with_output().expect("ended"));
    assert!(out.starts_with("exit 0\n") && out.contains("listen = [\"3000\"]"), "{out}");
}

#[test]
fn without_a_source_it_is_what_pm2_has_saved() {
    let given = Given::new("dump.pm2", r#"[{"name": "api", "pm_exec_path": "/srv/a.js"}]"#);
    let home = Path::new(&given.source).parent().expect("a folder");
    let mut command = import("node20", &["--dry-run"]);
    command.env("PM2_HOME", home);
    let out = run(command);
    assert!(
        out.starts_with("exit 0\n") && out.contains("exec = [\"node\", \"/srv/a.js\"]"),
        "{out}"
    );

    let mut command = import("node20", &[]);
    command.env("PM2_HOME", "/nonexistent");
    let out = run(command);
    assert!(out.starts_with("exit 1\n") && out.contains("run `pm2 save` first"), "{out}");
}

#[test]
fn what_can_t_be_read_is_said_with_its_place() {
    for (name, text, message) in [
        ("apps.json", "{\n \"apps\": [{ script: 1 }]\n}", "line 2 column 13"),
        ("apps.yml", "apps:\n  - script: [a\n", "line 3 column 1"),
        ("apps.json", "{\"name\": \"x\"}", "there are no apps in it"),
        ("package.json", "{\"name\": \"x\"}", "there are no apps in it"),
        ("ecosystem.config.js", "module.exports = 7", "there are no apps in it"),
        ("ecosystem.config.js", "throw new Error('out of order')", "out of order"),
        ("ecosystem.config.js", "module.exports = {", "SyntaxError"),
        ("ecosystem.config.js", "process.exit(0)", "it ended before it had a value"),
        ("apps.txt", "", "expected a file that ends in"),
    ] {
        let out = Given::new(name, text).import(&[]);
        assert!(out.starts_with("exit 1\n") && out.contains(message), "{text}: {out}");
        assert!(out.contains(name), "{out}");
    }
    let out = run(import("node20", &["/nonexistent/ecosystem.config.js"]));
    assert!(out.contains("/nonexistent/ecosystem.config.js: No such file"), "{out}");
    let given = Given::new("ecosystem.config.js", APP);
    let out = given.import(&["--node", "/nonexistent/node"]);
    assert!(out.contains("/nonexistent/node was not found"), "{out}");
    let apps = Given::new("apps.json", r#"{"script": "a.js"}"#);
    let mut command = import("node20", &[&apps.source, "--dry-run", "--node", "./bin/node"]);
    let out = run(command.current_dir("/usr"));
    assert!(out.contains("exec = [\"/usr/bin/node\", \"a.js\"]"), "{out}");
    let out = given.import(&["--static"]);
    assert!(out.starts_with("exit 1\n") && out.contains("--static runs none"), "{out}");
}

/// Where Node can hold a program to reading its folder, it does.
#[test]
fn a_program_may_only_read_its_folder() {
    for version in NODES.into_iter().filter(|version| *version != "node18") {
        let there = tempfile::NamedTempFile::new().expect("a file");
        let path = there.path().display();
        for act in [
            format!("require('node:fs').writeFileSync('{path}', 'x')"),
            format!("require('node:fs').readFileSync('{path}')"),
            "require('node:child_process').execSync('true')".to_owned(),
        ] {
            let given = Given::new("ecosystem.config.js", &format!("{act};\n{APP}"));
            let out = run(import(version, &[&given.source, "--dry-run"]));
            assert!(out.starts_with("exit 1\n"), "{version} {act}: {out}");
            assert!(
                out.contains("it wants more than to read its folder"),
                "{version} {act}: {out}"
            );
        }
        assert_eq!(fs::read(there.path()).expect("there"), b"");
        // Its own folder it may.
        let act = "require('node:fs').readFileSync(__filename); require('./b.js')";
        let given = Given::new("ecosystem.config.js", &format!("{act};\n{APP}"));
        let beside = Path::new(&given.source).with_file_name("b.js");
        fs::write(beside, "").expect("writable");
        let out = run(import(version, &[&given.source, "--dry-run"]));
        assert!(out.starts_with("exit 0\n"), "{version}: {out}");
    }
}

/// Nothing of the environment of who imports is seen, and what is missing for it is told.
#[test]
fn a_program_sees_no_environment() {
    let text = "module.exports = { apps: [{ script: 'a.js', env: { A: process.env.MINE } }] }";
    let given = Given::new("ecosystem.config.js", text);
    let mut command = import("node20", &[&given.source, "--dry-run"]);
    command.env("MINE", "7");
    let out = run(command);
    assert!(out.starts_with("exit 3\n") && out.contains("\n  ! env.A"), "{out}");
}

#[test]
fn a_program_has_to_end() {
    let begun = Instant::now();
    let out = Given::new("ecosystem.config.js", "for (;;);").import(&[]);
    assert!(out.starts_with("exit 1\n") && out.contains("did not end within 10 s"), "{out}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}
