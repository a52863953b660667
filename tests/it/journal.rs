//! What the journal has of an app: each worker's lines as its own, and what happened to it in fields.

use std::collections::BTreeSet;

use cohortd::systemd::events;
use serde_json::Value;

use crate::app::{Spec, cohortctl, until};
use crate::systemd::{Host, on_each};

const CATALOG: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/cohortd.catalog"));

/// Says who it is on both streams, once with a priority of its own, and whether `JOURNAL_STREAM` is
/// what standard error is.
const WEB: &str = r#"
const { worker } = require("node:cluster");
const { dev, ino } = require("node:fs").fstatSync(2, { bigint: true });
const journal = process.env.JOURNAL_STREAM === `${dev}:${ino}`;
console.log(`worker ${worker.id} says hello`);
console.log(`<4>worker ${worker.id} warns`);
console.error(`worker ${worker.id} complains`);
console.error(`worker ${worker.id} writes to the journal: ${journal}`);
require("node:http").createServer((req, res) => {
  if (req.url === "/exit") process.exit(7);
  if (req.url === "/spin") for (;;);
  res.end(`${process.pid}\n`);
}).listen(8080);
"#;

const FILE: &str = "/etc/cohortd/myapp.toml";

impl Host {
    /// Entries of the journal, oldest first, as these arguments of journalctl choose them.
    fn entries(&self, arguments: &str) -> Vec<Value> {
        self.ok("journalctl --sync");
        let json = self.ok(&format!("journalctl -q --no-pager -o json {arguments}"));
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// An app without a socket whose workers are this script of sh.
    fn add_job(&self, script: &str, toml: &str) {
        self.write("/srv/myapp/job.sh", script);
        let add = ["cohortctl", "add", "myapp", "--kind", "job", "--exec", "/bin/sh job.sh"];
        let more = ["--directory", "/srv/myapp", "--user", "myapp", "--workers", "4"];
        self.machine.ok(&[&add[..], &more[..]].concat());
        let text = self.ok(&format!("cat {FILE}"));
        self.write(FILE, &format!("{text}\n{toml}\n"));
    }
}

/// Each worker's output comes under its own name, straight from its process, and standard error with
/// a priority of its own. The worker can tell that it writes to the journal.
#[test]
fn each_worker_writes_to_the_journal_itself() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        let line = |slot: usize, text: &str| -> Value {
            let of_slot = format!("-u myapp -t myapp-w{slot}");
            let find = || host.entries(&of_slot).into_iter().find(|line| line["MESSAGE"] == text);
            assert!(until(|| find().is_some()), "{text:?} of {slot}: {}", host.journal(""));
            find().expect("just seen")
        };
        for (slot, id) in [(0, 1), (1, 2)] {
            for (said, priority) in [("says hello", "6"), ("warns", "4"), ("complains", "3")] {
                let line = line(slot, &format!("worker {id} {said}"));
                assert_eq!(line["PRIORITY"], priority, "{line}");
                assert_eq!(line["_TRANSPORT"], "stdout");
                assert_eq!(line["_COMM"], "node", "its own line, not a copy");
                assert_eq!(line["_SYSTEMD_UNIT"], "myapp.service");
            }
            line(slot, &format!("worker {id} writes to the journal: true"));
        }

        let text = host.ok(&format!("cat {FILE}"));
        let more = "[log]\nstderr = \"notice\"\n[reload]\ncanary = \"100ms\"\n";
        host.write(FILE, &format!("{text}\n{more}"));
        host.ok("systemctl reload myapp");
        assert_eq!(line(0, "worker 3 complains")["PRIORITY"], "5");
    });
}

/// However soon a worker is gone after its words, and cohortd after its own, `journalctl -u` has
/// them: not a line of several hundred is without its unit.
#[test]
fn last_words_belong_to_the_unit() {
    on_each(|host| {
        let script =
            "[ $NODE_APP_INSTANCE != 0 ] || exec sleep 1000\necho out $$\necho err $$ >&2\n";
        host.add_job(script, "[restart]\nbackoff = \"1ms..1ms\"");
        host.ok("systemctl start myapp@cluster");
        let words = || host.entries("-t myapp-w1 -t myapp-w2 -t myapp-w3");
        host.is_soon("some hundred", || words().len() > 600);
        host.ok("systemctl stop myapp");

        // cohortd itself gives up, again and again.
        host.write("/srv/myapp/job.sh", "echo out $$\necho err $$ >&2\nexit 1\n");
        let ends = || host.entries("-t myapp -p err").len();
        host.run("systemctl start --no-block myapp");
        host.is_soon("some ends", || ends() > 6);
        // Nor does a worker start.
        host.ok("mv /srv/myapp /srv/elsewhere");
        let starts = || host.entries(&format!("MESSAGE_ID={}", events::WORKER_NOT_STARTED)).len();
        host.is_soon("some failed starts", || starts() > 60);
        host.run("systemctl stop myapp");

        let strays = |lines: Vec<Value>| {
            let is_stray = |line: &Value| line["_SYSTEMD_UNIT"] != "myapp.service";
            lines.into_iter().filter(is_stray).collect::<Vec<_>>()
        };
        let all = words();
        let texts = all.iter().filter_map(|line| line["MESSAGE"].as_str());
        // A shell that is started while its script is moved complains.
        let texts = texts.filter(|text| !text.contains("sh: "));
        let streams: BTreeSet<&str> = texts.filter_map(|text| text.get(..3)).collect();
        assert_eq!(streams, ["err", "out"].into());
        assert_eq!(strays(all), [Value::Null; 0]);
        assert_eq!(strays(host.entries("-t myapp")), [Value::Null; 0]);
    });
}

/// A journald that stands still holds nobody up, and knows whose lines are those that it comes to read
/// only when cohortd is gone.
#[test]
fn a_journal_that_stands_still_is_not_waited_for() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        host.ok("journalctl --sync");
        host.ok("systemctl kill -s STOP systemd-journald");
        host.get("http://127.0.0.1:8080");
        host.ok("systemctl stop myapp");
        host.ok("systemctl kill -s CONT systemd-journald");
        for line in
            ["stopping: finishing what is in flight", "stopped worker=1", "stopped worker=2"]
        {
            let is_its = |entry: &&Value| {
                entry["MESSAGE"].as_str().is_some_and(|text| text.starts_with(line))
            };
            let all = host.entries("-t myapp");
            let found = all.iter().find(is_its).unwrap_or_else(|| panic!("{line}: {all:?}"));
            assert_eq!(found["_SYSTEMD_UNIT"], "myapp.service", "{found}");
        }
    });
}

/// What happens to the app and its workers can be looked for by its id and its fields, and
/// `journalctl -x` explains it.
#[test]
fn events_have_fields_and_explanations() {
    on_each(|host| {
        host.write("/usr/lib/systemd/catalog/cohortd.catalog", CATALOG);
        host.ok("journalctl --update-catalog");
        host.add_text(WEB);
        let text = host.ok(&format!("cat {FILE}"));
        let more = "[health]\nevent_loop = \"500ms\"\n[reload]\ncanary = \"100ms\"\n";
        host.write(FILE, &format!("{text}\n{more}"));
        host.ok("systemctl start myapp@cluster");
        host.run("curl -s http://127.0.0.1:8080/exit");
        host.logs("", "ready worker=3");
        host.run("curl -s -m 5 http://127.0.0.1:8080/spin");
        host.logs("", "ready worker=4");
        host.ok("systemctl reload myapp");
        host.write("/srv/myapp/app.js", "throw new Error('a broken release')");
        assert_ne!(host.run("systemctl reload myapp").code, 0);
        host.ok("systemctl stop myapp");

        let event = |id: &str, fields: &[(&str, &str)]| {
            let mut matches = format!("-u myapp MESSAGE_ID={id} COHORTD_APP=myapp");
            for (name, value) in fields {
                matches += &format!(" COHORTD_{name}={value}");
            }
            let found = host.entries(&matches);
            assert!(!found.is_empty(), "no {matches} in\n{}", host.journal("-o verbose -t myapp"));
            let line = &found[0];
            assert_eq!(line["SYSLOG_IDENTIFIER"], "myapp");
            assert_eq!(line["_COMM"], "cohortd");
            line.clone()
        };
        let of = |worker, slot, generation| {
            [("WORKER", worker), ("SLOT", slot), ("GENERATION", generation)]
        };
        event(events::WORKER_STARTED, &of("2", "1", "1"));
        event(events::WORKER_READY, &of("2", "1", "1"));
        let up = event(events::APP_UP, &[("WORKERS", "2")]);
        assert_eq!((&up["MESSAGE"], &up["PRIORITY"]), (&"up workers=2".into(), &"6".into()));
        let crashed = event(events::WORKER_CRASHED, &[("GENERATION", "1")]);
        assert_eq!(crashed["COHORTD_EXIT"], "exit code 7");
        assert_eq!(crashed["PRIORITY"], "4");
        let hung = event(events::WORKER_HUNG, &[("GENERATION", "1")]);
        assert!(hung["COHORTD_ILL"].as_str().is_some_and(|ill| ill.contains("stood still")));
        assert_eq!(hung["PRIORITY"], "3");
        event(events::RELOAD_BEGUN, &[("GENERATION", "2")]);
        event(events::RELOAD_SUCCEEDED, &[("GENERATION", "2")]);
        event(events::WORKER_EXITED, &[("GENERATION", "2")]);
        let failed = event(events::RELOAD_FAILED, &[]);
        assert!(failed["COHORTD_ERROR"].as_str().is_some_and(|why| why.contains("was given up")));
        event(events::APP_STOPPING, &[]);

        let explained = host.journal("-x -t myapp");
        for subject in ["A worker of myapp has crashed", "A reload of myapp has failed"] {
            assert!(explained.contains(subject), "{explained}");
        }
        assert!(explained.contains("because: generation 3 was given up"), "{explained}");
    });
}

/// Every event has its explanation, and nothing else has one.
#[test]
fn the_catalog_explains_every_event() {
    let ids: Vec<&str> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique, events::ALL.into());
    assert_eq!(ids.len(), unique.len(), "each has one");
    let variables = CATALOG.split('@').skip(1).step_by(2);
    for name in variables {
        assert!(name.starts_with("COHORTD_"), "{name:?}");
    }
}

/// Where journald can't be reached anew, everything goes by the stream that systemd has opened: that is
/// said once, and every line has its priority and its unit.
#[test]
fn without_streams_of_their_own_workers_share_ours() {
    on_each(|host| {
        host.add_text(WEB);
        host.write(
            "/etc/systemd/system/myapp.service.d/hidden.conf",
            "[Service]\nInaccessiblePaths=/run/systemd/journal/stdout /run/systemd/journal/socket\n",
        );
        host.ok("systemctl daemon-reload");
        host.ok("systemctl start myapp@cluster");
        for id in [1, 2] {
            host.logs("-t myapp", &format!("worker {id} writes to the journal: true"));
        }
        host.logs("-t myapp -p warning", "no journal streams for the workers");
        let log = host.journal("-t myapp");
        assert_eq!(log.matches("no journal streams").count(), 1, "{log}");
        host.run("curl -s http://127.0.0.1:8080/exit");
        host.logs("-t myapp -p warning", "exit=exit code 7");
        assert!(!host.journal("-p warning").contains("ready worker"));
    });
}

/// `cohortctl logs` shows what journalctl has of the service, or of one worker.
#[test]
fn logs_are_shown_by_journalctl() {
    on_each(|host| {
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        host.logs("", "worker 1 complains");
        host.logs("", "worker 2 complains");
        let all = host.ok("cohortctl logs myapp");
        assert_eq!(all, host.journal(""));
        assert!(all.contains("worker 1 says") && all.contains("accepting on=8080"), "{all}");
        let second = host.ok("cohortctl logs myapp#1 --since -1h");
        assert!(second.contains("worker 2 says") && !second.contains("worker 1"), "{second}");
        assert!(!second.contains("accepting"), "{second}");
        let errors = host.ok("cohortctl logs myapp --err");
        assert!(errors.contains("worker 1 complains") && !errors.contains("says"), "{errors}");
        let last = host.ok("cohortctl logs myapp#0 -n 1 --json");
        let last: Value = serde_json::from_str(&last).expect("one line of JSON");
        assert_eq!(last["_SYSTEMD_UNIT"], "myapp.service");
        // It is journalctl itself that goes on.
        host.ok("systemd-run --quiet --unit=follower cohortctl logs myapp#0 -f -n 0");
        let follower = || host.show("follower", "MainPID");
        let is_journalctl = || host.run(&format!("cat /proc/{}/comm", follower())).stdout;
        host.is_soon("journalctl", || is_journalctl() == "journalctl\n");
        host.run("curl -s http://127.0.0.1:8080/exit");
        host.run("curl -s http://127.0.0.1:8080/exit");
        host.is_soon("what comes", || {
            host.ok("journalctl --no-pager -u follower -o cat").contains("says hello")
        });
        host.ok("systemctl stop follower");

        let unknown = host.run("cohortctl logs other");
        assert_eq!(unknown.code, 1, "{unknown}");
        assert!(unknown.stderr.contains("there is no app \"other\" here"), "{unknown}");
    });
}

/// An app in the foreground has no log in the journal, and that is said.
#[test]
fn logs_of_the_foreground_are_where_it_was_started() {
    let app = Spec::new("children.js").workers(1).start();
    let out = cohortctl().args(["logs", app.name()]).output().expect("cohortctl starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("runs in the foreground"), "{said}");
}
