//! The app on the system bus, with a real one and a real polkit.

use serde_json::{Value, json};

use crate::machine::Output;
use crate::systemd::{Host, on_each};

const NAME: &str = "org.cohortd.App_myapp";
const APP: &str = "/org/cohortd/app";
const APP1: &str = "org.cohortd.App1";
const WORKER1: &str = "org.cohortd.Worker1";
const NOBODY: &str = "setpriv --reuid=nobody --regid=nogroup --clear-groups";
const OPERATOR: &str = "setpriv --reuid=daemon --regid=daemon --clear-groups";
const OWNER: &str = "setpriv --reuid=myapp --regid=myapp --clear-groups";

/// Two workers with custom actions, on the bus.
fn up(host: &Host) {
    host.add("myapp", "/srv/js/apps/actions.js", "8080");
    let file = "/etc/cohortd/myapp.toml";
    let config = host.ok(&format!("cat {file}"));
    host.write(file, &format!("{config}\n[reload]\ncanary = \"200ms\"\n"));
    host.ok("systemctl start myapp@cluster");
    is_on_the_bus(host);
}

fn is_on_the_bus(host: &Host) {
    let states = || host.run(&format!("busctl get-property {NAME} {APP} {APP1} State"));
    host.is_soon("on the bus", || states().stdout == "s \"2/2 workers ready\"\n");
}

fn get(host: &Host, path: &str, interface: &str, property: &str) -> String {
    host.ok(&format!("busctl get-property {NAME} {path} {interface} {property}"))
}

fn worker(id: u64) -> String {
    format!("{APP}/worker/{id}")
}

fn call(user: &str, method: &str) -> String {
    format!("{user} busctl --timeout=60 call -- {NAME} {APP} {APP1} {method}")
}

/// By a tool that says the error's name.
fn send(host: &Host, user: &str, method: &str) -> Output {
    let call = "dbus-send --system --print-reply --reply-timeout=60000";
    host.run(&format!("{user} {call} --dest={NAME} {APP} {APP1}.{method}"))
}

fn refused(host: &Host, user: &str, method: &str, error: &str, why: &str) {
    let said = send(host, user, method);
    let begins = format!("Error {error}: ");
    assert!(said.code == 1 && said.stderr.starts_with(&begins), "{method}: {said}");
    assert!(said.stderr.contains(why), "{method}: {said}");
}

/// Everybody can read everything that is there, and see what it is.
#[test]
fn the_app_and_its_workers_are_objects() {
    on_each(|host| {
        up(host);
        let pid = host.main_pid();
        for (property, value) in [
            ("Name", "s \"myapp\""),
            ("File", "s \"/etc/cohortd/myapp.toml\""),
            ("Profile", "s \"cluster\""),
            ("Version", concat!("s \"", env!("CARGO_PKG_VERSION"), "\"")),
            ("State", "s \"2/2 workers ready\""),
            ("Generation", "t 1"),
            ("Wanted", "u 2"),
            ("Failures", "t 0"),
            ("LastReloadError", "s \"\""),
            ("Workers", "ao 2 \"/org/cohortd/app/worker/1\" \"/org/cohortd/app/worker/2\""),
        ] {
            assert_eq!(get(host, APP, APP1, property), value, "{property}");
        }
        for (id, slot) in [(1, 0), (2, 1)] {
            let of = |property| get(host, &worker(id), WORKER1, property);
            assert_eq!(of("Id"), format!("t {id}"));
            assert_eq!(of("Slot"), format!("u {slot}"));
            assert_eq!((of("Generation"), of("State")), ("t 1".into(), "s \"ready\"".into()));
            let worker = of("Pid").replace("u ", "");
            assert!(worker != pid && host.processes().contains(&worker), "{worker}");
            assert_ne!(of("Memory"), "t 0");
            assert_eq!((of("InFlight"), of("Sessions")), ("t 0".into(), "t 0".into()));
            assert!(of("Uptime").starts_with("t "));
        }
        // A figure is that of the moment, though nobody was told of it.
        let uptime = || get(host, &worker(1), WORKER1, "Uptime");
        let before = uptime();
        host.is_soon("time passes", || uptime() != before);

        let all = host.ok(&format!(
            "{NOBODY} busctl --json=short call {NAME} / org.freedesktop.DBus.ObjectManager \
             GetManagedObjects"
        ));
        let all: Value = serde_json::from_str(&all).expect("JSON");
        let all = &all["data"][0];
        assert_eq!(all[APP][APP1]["Wanted"]["data"], 2, "{all}");
        assert_eq!(all[worker(2)][WORKER1]["Slot"]["data"], 1, "{all}");

        let tree = host.ok(&format!("{NOBODY} busctl --list tree {NAME}"));
        assert!(tree.lines().any(|path| path == worker(2)), "{tree}");
        let interface = host.ok(&format!("{NOBODY} busctl introspect {NAME} {APP} {APP1}"));
        for line in [
            ".Reload method - t -",
            ".Scale method u - -",
            ".ScaleBy method i - -",
            ".RestartWorker method u t -",
            ".Signal method ii at -",
            ".Trigger method iss s -",
            ".Reloaded signal t - -",
            ".ReloadFailed signal s - -",
            ".State property s \"2/2 workers ready\" emits-change",
            ".Name property s \"myapp\" const",
        ] {
            let has = |said: &str| said.split_whitespace().eq(line.split_whitespace());
            assert!(
                interface.lines().any(|said| said.trim_end() == line || has(said)),
                "{line}\n{interface}"
            );
        }
        let path = worker(1);
        let interface = host.ok(&format!("busctl introspect {NAME} {path} {WORKER1}"));
        let memory = interface.lines().find(|line| line.starts_with(".Memory")).expect("listed");
        assert!(memory.trim_end().ends_with('-'), "it tells of no change: {memory}");
    });
}

/// Each method is answered when its effect is there, or with why it is not.
#[test]
fn methods_do_what_they_say() {
    on_each(|host| {
        up(host);
        let state =
            |state: &str| assert_eq!(get(host, APP, APP1, "State"), format!("s \"{state}\""));
        assert_eq!(host.ok(&call("", "Reload")), "t 2");
        assert_eq!(get(host, APP, APP1, "Generation"), "t 2");
        host.ok(&call("", "Scale u 3"));
        state("3/3 workers ready");
        host.ok(&call("", "ScaleBy i -1"));
        state("2/2 workers ready");
        assert_eq!(get(host, APP, APP1, "Wanted"), "u 2");
        let restarted = host.ok(&call("", "RestartWorker u 1"));
        let now = restarted.replace("t ", "");
        assert!(get(host, APP, APP1, "Workers").ends_with(&format!("/worker/{now}\"")));
        assert_eq!(host.ok(&call("", "Signal ii 1 12")), format!("at 1 {now}"));
        host.logs("", "got SIGUSR2");
        host.is_soon("actions", || {
            host.run(&call("", "Trigger iss -1 only-one ")).code == 1
                && host.ok("cohortctl trigger myapp").contains("only-one")
        });
        let trigger = |parameter: &str| {
            let call = call("", "Trigger iss 0 echo");
            let mut words: Vec<&str> = call.split_whitespace().collect();
            words.push(parameter);
            host.machine.run(&words)
        };
        let said = trigger(r#"{"a":7}"#);
        assert!(
            said.stdout.contains(r#"\"answer\":{\"parameter\":{\"a\":7},\"slot\":0}"#),
            "{said}"
        );
        let said = trigger("");
        assert!(said.stdout.contains(r#"\"slot\":0"#) && said.code == 0, "{said}");

        let failed = "org.cohortd.Error.Failed";
        refused(host, "", "Scale uint32:0", failed, "there can be 1 to 1024 workers, not 0");
        refused(host, "", "RestartWorker uint32:7", failed, "there is no slot 7: they are 0 to 1");
        refused(
            host,
            "",
            "Signal int32:0 int32:4096",
            failed,
            "there is no signal with the number",
        );
        refused(host, "", "Trigger int32:0 string:nonesuch string:", failed, "there is no action");
        let invalid = "org.freedesktop.DBus.Error.InvalidArgs";
        refused(host, "", "Signal int32:-2 int32:9", invalid, "-2 is no slot");
        refused(host, "", "Trigger int32:0 string:echo string:{", invalid, "is not JSON");
        let file = "/etc/cohortd/myapp.toml";
        let config = host.ok(&format!("cat {file}"));
        host.write(file, "wokers = 2\n");
        refused(host, "", "Reload", failed, "unknown key `wokers`");
        assert!(get(host, APP, APP1, "LastReloadError").contains("unknown key"));

        // Who waits when the app is stopped is told so.
        host.write(file, &config.replace("200ms", "1h"));
        let send = format!("dbus-send --system --print-reply --dest={NAME} {APP} {APP1}.Reload");
        host.ok(&format!("systemd-run --quiet --unit=waits {send}"));
        host.is_soon("a roll", || get(host, APP, APP1, "State").contains("reloading 1/2"));
        host.ok("systemctl stop myapp");
        let waits = || host.ok("journalctl --no-pager -o cat -u waits");
        host.is_soon("told", || {
            waits().contains("Error org.cohortd.Error.Stopped: the app was stopped")
        });
    });
}

/// root and the app's user may change something, and whom polkit lets; others are told what to do.
#[test]
fn who_may_not_is_refused() {
    on_each(|host| {
        up(host);
        let denied = "org.freedesktop.DBus.Error.AccessDenied";
        let changing = [
            "Reload",
            "Scale uint32:3",
            "ScaleBy int32:1",
            "RestartWorker uint32:0",
            "Signal int32:-1 int32:9",
            "Trigger int32:-1 string:where string:",
        ];
        let before = host.processes();
        for method in changing {
            refused(host, NOBODY, method, denied, "use sudo");
            let why = "polkit allows org.cohortd.manage.myapp; it wants a password here";
            refused(host, OPERATOR, method, denied, why);
        }
        let said = host.run(&call(NOBODY, "Reload"));
        assert!(said.code == 1 && said.stderr == "Call failed: Access denied\n", "{said}");
        assert_eq!(host.processes(), before);
        assert_eq!(get(host, APP, APP1, "Failures"), "t 0");
        assert!(!host.journal("").contains("called over D-Bus"));

        for (user, generation) in [(OWNER, 2), ("", 3)] {
            assert_eq!(host.ok(&call(user, "Reload")), format!("t {generation}"));
            let id = host.ok(&format!("{user} id -u"));
            host.logs("-t myapp", &format!("called over D-Bus user={id} method=\"Reload\""));
            host.ok(&call(user, "Scale u 3"));
            host.ok(&call(user, "ScaleBy i -1"));
        }

        // An administrator's rule.
        host.write(
            "/etc/polkit-1/rules.d/50-operator.rules",
            r#"polkit.addRule(function (action, subject) {
                if (action.id === "org.cohortd.manage.myapp" && action.lookup("app") === "myapp"
                    && subject.user === "daemon") return polkit.Result.YES;
            });"#,
        );
        host.is_soon("the rule", || host.run(&call(OPERATOR, "Reload")).code == 0);
        host.ok(&call(OPERATOR, "Scale u 3"));
        assert_eq!(get(host, APP, APP1, "Wanted"), "u 3");
        refused(host, NOBODY, "Reload", denied, "use sudo");

        // Without a polkit only the two.
        host.ok("systemctl mask --now polkit.service");
        refused(host, OPERATOR, "Reload", denied, "it can't be asked");
        host.ok(&call(OWNER, "Scale u 2"));
        host.ok(&call("", "Scale u 1"));
    });
}

/// What `busctl monitor` hears of an app.
struct Ear<'a>(&'a Host);

impl Ear<'_> {
    fn listen(host: &Host) -> Ear<'_> {
        let monitor = format!("busctl monitor --json=short {NAME}");
        host.ok(&format!("systemd-run --quiet --unit=ear {monitor}"));
        let ear = Ear(host);
        // What the bus says; busctl says it only in some versions.
        let listens = || host.ok("journalctl --no-pager -u dbus").contains("became a monitor");
        host.is_soon("listening", listens);
        ear
    }

    fn heard(&self) -> String {
        self.0.ok("journalctl --no-pager -o cat -u ear")
    }

    /// Signals of this name, their paths and what is in them.
    fn signals(&self, member: &str) -> Vec<(String, Value)> {
        let heard = self.heard();
        let lines = heard.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|said| said["type"] == "signal" && said["member"] == member)
            .map(|said| {
                let path = said["path"].as_str().unwrap_or_default().to_owned();
                (path, said["payload"]["data"].clone())
            })
            .collect()
    }

    /// The values of a property that were told.
    fn changes(&self, path: &str, property: &str) -> Vec<Value> {
        let all = self.signals("PropertiesChanged").into_iter().filter(|(of, _)| of == path);
        all.filter_map(|(_, data)| data[1].get(property).map(|value| value["data"].clone()))
            .collect()
    }
}

/// Who listens knows at each moment what who asks would be told.
#[test]
fn changes_are_told() {
    on_each(|host| {
        up(host);
        let ear = Ear::listen(host);
        host.ok("cohortctl scale myapp 3");
        host.is_soon("the scale", || {
            ear.changes(APP, "Wanted") == [3]
                && ear.changes(APP, "State").last() == Some(&json!("3/3 workers ready"))
        });
        let added = ear.signals("InterfacesAdded");
        assert_eq!(added.len(), 1, "{added:?}");
        assert_eq!(added[0].0, "/");
        assert_eq!(added[0].1[0], worker(3));
        assert_eq!(added[0].1[1][WORKER1]["Slot"]["data"], 2, "{added:?}");
        assert_eq!(added[0].1[1][WORKER1]["State"]["data"], "starting", "{added:?}");
        assert_eq!(ear.changes(&worker(3), "State"), ["ready"]);
        let workers: Vec<String> = [1, 2, 3].map(worker).to_vec();
        assert_eq!(ear.changes(APP, "Workers"), [json!(workers)]);

        host.ok("systemctl reload myapp");
        host.is_soon("the reload", || {
            ear.changes(APP, "State").last() == Some(&json!("2/2 workers ready"))
                && ear.signals("InterfacesRemoved").len() == 3
        });
        assert_eq!(ear.signals("Reloaded"), [(APP.to_owned(), json!([2]))]);
        assert_eq!(ear.changes(APP, "Generation"), [2]);
        let gone = ear.signals("InterfacesRemoved").into_iter();
        let mut gone: Vec<Value> = gone.map(|(_, data)| data[0].clone()).collect();
        gone.sort_by_key(Value::to_string);
        assert_eq!(gone, workers);
        let told = ear.changes(APP, "Workers");
        let told: Vec<&str> = told
            .last()
            .and_then(Value::as_array)
            .expect("paths")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let asked = get(host, APP, APP1, "Workers");
        assert!(
            told.len() == 2 && told.iter().all(|path| asked.contains(path)),
            "{told:?} {asked}"
        );

        host.ok(&format!("kill -KILL {}", get(host, told[0], WORKER1, "Pid").replace("u ", "")));
        host.is_soon("the failure", || ear.changes(APP, "Failures") == [1]);
        is_on_the_bus(host);

        // The same failure twice is two.
        host.write("/etc/cohortd/myapp.toml", "wokers = 2\n");
        for times in 1..=2 {
            assert_ne!(host.run("systemctl reload myapp").code, 0);
            host.is_soon("the failed reload", || ear.signals("ReloadFailed").len() == times);
        }
        let failed = ear.signals("ReloadFailed");
        assert!(
            failed[1].1[0].as_str().is_some_and(|why| why.contains("unknown key")),
            "{failed:?}"
        );
        assert_eq!(ear.signals("Reloaded").len(), 1);
    });
}

/// The bus is restarted, killed, and gone for a while: no client notices, the app is not restarted,
/// its control socket answers, and its name comes back.
#[test]
fn a_bus_that_goes_harms_nothing() {
    on_each(|host| {
        up(host);
        let (main, before) = (host.main_pid(), host.processes());
        let load = host.clients("load", "load.js http://127.0.0.1:8080/");
        let well = || {
            assert!(host.ok("cohortctl show myapp").starts_with("myapp: 2/2 workers ready"));
            assert_eq!((host.main_pid(), host.processes()), (main.clone(), before.clone()));
        };
        for how in ["systemctl restart dbus.service", "systemctl kill --signal=KILL dbus.service"] {
            host.ok(how);
            well();
            host.is_soon("a bus", || host.run("busctl status").code == 0);
            is_on_the_bus(host);
            well();
        }
        // None at all, and one that does not answer.
        host.ok("systemctl stop dbus.socket dbus.service");
        well();
        host.ok("cohortctl scale myapp 3");
        host.ok("cohortctl scale myapp 2");
        host.ok("systemctl start dbus.socket dbus.service");
        let bus = host.show("dbus.service", "MainPID");
        host.ok(&format!("kill -STOP {bus}"));
        assert!(host.ok("cohortctl show myapp").starts_with("myapp: 2/2 workers ready"));
        host.ok("cohortctl reload myapp");
        host.ok(&format!("kill -CONT {bus}"));
        is_on_the_bus(host);
        assert_eq!(get(host, APP, APP1, "Generation"), "t 2", "what was missed is there");
        assert_eq!(host.main_pid(), main);
        let seen = load.stop();
        assert_eq!(seen["failures"], json!({}), "{seen}");
        host.logs("-t myapp -p warning", "not on the system bus; it is tried again");
    });
}

/// Apps have a name each, nobody else can take it, and nothing is left of one that is removed.
#[test]
fn names_belong_to_their_apps() {
    on_each(|host| {
        up(host);
        host.add("my_other-app", "/srv/js/apps/actions.js", "8081");
        host.ok("systemctl start my_other-app@cluster");
        let other = "org.cohortd.App_my_other-app";
        let name = format!("busctl get-property {other} {APP} {APP1} Name");
        host.is_soon("the other", || host.run(&name).stdout == "s \"my_other-app\"\n");
        assert_eq!(get(host, APP, APP1, "Name"), "s \"myapp\"");

        host.ok("systemctl stop myapp");
        let bus = "org.freedesktop.DBus";
        let take = format!("busctl call {bus} /org/freedesktop/DBus {bus} RequestName su {NAME} 0");
        for user in [NOBODY, OPERATOR] {
            let said = host.run(&format!("{user} {take}"));
            assert!(said.code == 1 && said.stderr == "Call failed: Access denied\n", "{said}");
        }
        assert_eq!(host.ok(&format!("{OWNER} {take}")), "u 1");
        host.ok("systemctl start myapp@cluster");
        is_on_the_bus(host);

        // polkit knows the names with such signs as well.
        let actions = "pkaction --action-id";
        host.is_soon("the action", || {
            host.run(&format!("{actions} org.cohortd.manage.my_other-app")).code == 0
        });
        let policies = "find /etc/dbus-1 /etc/polkit-1 /usr/share/polkit-1 -name *my_other-app*";
        assert_eq!(host.ok(policies).lines().count(), 2);
        host.ok("cohortctl remove my_other-app");
        assert_eq!(host.ok(policies), "");
        host.is_soon("no action", || {
            host.run(&format!("{actions} org.cohortd.manage.my_other-app")).code != 0
        });

        // Without the policy it runs all the same, and says what to do.
        host.ok("rm /etc/dbus-1/system.d/org.cohortd.App_myapp.conf");
        host.ok("systemctl reload dbus");
        host.ok("systemctl restart myapp");
        host.logs("-t myapp -p warning", "`cohortctl add` writes the policy for it");
        assert!(host.ok("cohortctl show myapp").starts_with("myapp: 2/2 workers ready"));
        host.ok("cohortctl add myapp --user myapp");
        is_on_the_bus(host);

        // What is not of our making stays, and is in the way.
        let mine = "/etc/dbus-1/system.d/org.cohortd.App_third.conf";
        host.write(mine, "<busconfig/>\n");
        let add =
            ["cohortctl", "add", "third", "--exec", "true", "--kind", "job", "--user", "myapp"];
        let said = host.machine.run(&add);
        assert!(said.code == 1 && said.stderr.contains(mine), "{said}");
        assert_eq!(host.ok("find /etc/cohortd /etc/systemd/system -name *third*"), "");
    });
}

/// Thousands of calls that make no sense, that may not be, and that are huge, by a user who has no
/// right to any: clients and the control socket don't notice, nothing is changed, and memory stays
/// bounded.
#[test]
fn a_hostile_caller_harms_nothing() {
    on_each(|host| {
        up(host);
        let before = (host.main_pid(), host.processes());
        let load = host.clients("load", "load.js http://127.0.0.1:8080/");
        let flood = format!("{NOBODY} /opt/node/bin/node /srv/js/clients/dbus-flood.js {NAME} 8");
        host.ok(&format!("systemd-run --quiet --unit=flood {flood}"));
        let heard = || host.ok("journalctl --no-pager -o cat -u flood");
        host.is_soon("the flood", || heard().contains("going"));
        host.ok("cohortctl signal myapp USR2");
        assert!(host.ok("cohortctl show myapp").starts_with("myapp: 2/2 workers ready"));
        host.is_soon("its end", || heard().contains("said"));
        let said = heard();
        let said = said.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = said.expect("just seen");
        let figure = |name: &str| said[name].as_u64().expect("a number");
        assert!(figure("said") > 5000 && figure("heard") > 100_000, "it was not much: {said}");

        is_on_the_bus(host);
        assert_eq!((host.main_pid(), host.processes()), before);
        assert_eq!(get(host, APP, APP1, "Generation"), "t 1");
        assert_eq!(host.ok(&call("", "Reload")), "t 2", "who may still can");
        let status = host.ok(&format!("cat /proc/{}/status", before.0));
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        let peak = peak.expect("kB");
        eprintln!("{said}, at most {peak} kB resident");
        assert!(peak < 300_000, "{peak} kB");
        let seen = load.stop();
        assert_eq!(seen["failures"], json!({}), "{seen}");
    });
}
