//! What `docs/security.md` claims of an app's service, under a real systemd, by unmodified apps.

use serde_json::{Value, json};

use crate::app::NODES;
use crate::machine;
use crate::systemd::{Host, JS, on_each};

/// Does what it is told.
const OBEY: &str = r#"
const fs = require("node:fs"), net = require("node:net"), { execFileSync, spawn } = require("node:child_process");
const attempt = (what) => { try { return what(); } catch (error) { return error.code ?? `${error}`; } };
require("node:http").createServer(async (req, res) => {
  const code = [];
  for await (const chunk of req) code.push(chunk);
  let answer;
  try { answer = await eval(`${Buffer.concat(code)}`); } catch (error) { answer = `${error.stack}`; }
  res.end(JSON.stringify(answer ?? null));
}).listen(8080);
"#;

/// Tries what apps do; answers with what did not work.
const NEEDS: &str = r#"
const fs = require("node:fs"), os = require("node:os"), path = require("node:path"), net = require("node:net");
const { execFileSync, spawn } = require("node:child_process"), { once } = require("node:events");
const { Worker } = require("node:worker_threads");

const connects = async (server, where) => {
  await once(server.listen({ ...where, exclusive: true }), "listening");
  const at = server.address();
  const client = net.connect(typeof at === "string" ? { path: at } : { port: at.port, host: at.address });
  await once(client, "connect");
  client.destroy();
  server.close();
  return true;
};
const needs = {
  processors: () => os.cpus().length > 0 && os.loadavg().length === 3 && os.totalmem() > 0,
  interfaces: () => os.networkInterfaces().lo.length > 0,
  priority: () => { os.setPriority(5); return os.getPriority() === 5; },
  user: () => os.userInfo().username === "myapp",
  names: async () => (await require("node:dns").promises.lookup("localhost")).address.length > 0,
  files: () => {
    for (const folder of ["one", "two"]) fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync("one/file", "text", { mode: 0o644 });
    fs.renameSync("one/file", "two/file");
    fs.linkSync("two/file", "one/link");
    fs.chmodSync("one/link", 0o755);
    fs.unlinkSync("one/link");
    return fs.readFileSync("two/file", "utf8") === "text";
  },
  temporary: () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "app-"));
    fs.writeFileSync(path.join(folder, "upload"), "x".repeat(1 << 20));
    fs.writeFileSync("/var/tmp/upload", "x");
    fs.writeFileSync("/dev/shm/shared", "x");
    return true;
  },
  children: () => execFileSync("/bin/sh", ["-c", "id -un; echo hello | cat"]).toString() === "myapp\nhello\n",
  signals: async () => {
    const child = spawn("sleep", ["1000"]);
    await once(child, "spawn");
    fs.readFileSync(`/proc/${child.pid}/environ`);
    child.kill();
    return (await once(child, "exit"))[1] === "SIGTERM";
  },
  threads: async () => (await once(new Worker("require('worker_threads').parentPort.postMessage(7)", { eval: true }), "message"))[0] === 7,
  compilers: () => {
    const code = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 6, 1, 4, 0, 65, 42, 11];
    let sum = 0;
    for (let i = 0; i < 1e6; i++) sum += i % 7;
    return sum > 0 && new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(code))).exports.f() === 42;
  },
  tcp: () => connects(net.createServer(), { port: 0, host: "127.0.0.1" }),
  paths: () => connects(net.createServer(), { path: `${process.cwd()}/app.sock` }),
  udp: async () => {
    const socket = require("node:dgram").createSocket("udp4");
    socket.bind({ port: 0, address: "127.0.0.1", exclusive: true });
    await once(socket, "listening");
    socket.close();
    return true;
  },
  itself: () => fs.readdirSync("/proc").includes(`${process.pid}`) && process.memoryUsage().rss > 0,
};
require("node:http").createServer(async (req, res) => {
  const lacking = {};
  for (const [name, works] of Object.entries(needs)) {
    try { if ((await works()) !== true) lacking[name] = "no"; } catch (error) { lacking[name] = `${error.stack}`; }
  }
  res.end(JSON.stringify({ version: process.version, lacking }));
}).listen(8080);
"#;

const FILE: &str = "/etc/cohortd/myapp.toml";

impl Host {
    /// An app that does what it is told, with this in its configuration, started.
    fn obey(&self, toml: &str) {
        self.add_text(OBEY);
        let text = self.ok(&format!("cat {FILE}"));
        self.write(FILE, &format!("{text}\n{toml}\n"));
        self.ok("systemctl start myapp@cluster");
    }

    /// What a worker has to say to a piece of code.
    fn tell(&self, code: &str) -> Value {
        let url = "http://127.0.0.1:8080";
        let said = self.machine.ok(&["curl", "-gsSf", "-m", "20", "--data-binary", code, url]);
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    fn as_user(&self, user: &str, command: &str) -> crate::machine::Output {
        let become_it = format!("setpriv --reuid={user} --regid={user} --clear-groups --");
        self.run(&format!("{become_it} {command}"))
    }
}

#[test]
fn units_are_rated_1_6_at_most() {
    on_each(|host| {
        host.ok("useradd --create-home deploy");
        host.ok("install -d -o deploy /home/deploy/app");
        let add = |app: &str, more: &str| {
            let line = format!("cohortctl add {app} --exec true {more}");
            host.ok(&line);
        };
        add("myapp", "--directory /srv/myapp --user myapp --listen 8080");
        add("served", "--directory /srv/myapp --user myapp --listen 8081 --kind socket");
        add("homely", "--directory /home/deploy/app --listen 8082");
        add("work", "--directory /srv/myapp --user myapp --kind job");
        for app in ["myapp", "served", "homely", "work"] {
            let rated = |at_most: u32| {
                let limit = format!("--threshold={at_most}");
                host.run(&format!("systemd-analyze security --no-pager {limit} {app}.service"))
            };
            let out = rated(16);
            assert_eq!(out.code, 0, "{app}: {out}");
            assert_ne!(rated(5).code, 0, "it can be too high");
            let verified = host.run(&format!("systemd-analyze verify {app}.service"));
            assert!(!verified.stderr.contains("Failed to parse"), "{app}: {verified}");
        }
        // Its cgroup has another name than its unit.
        let job = ["cohortctl", "add", "memory", "--exec", "sleep 1000", "--kind", "job"];
        host.machine.ok(&[&job[..], &["--directory", "/srv/myapp", "--user", "myapp"]].concat());
        host.ok("systemctl start memory@cluster");
        let log = host.ok("journalctl --no-pager -u memory");
        assert!(log.contains("ready worker=1") && !log.contains("can't be used"), "{log}");
    });
}

/// As it was before anything was kept from them, on every Node.
#[test]
fn apps_have_what_they_need() {
    on_each(|host| {
        host.write("/srv/myapp/app.js", NEEDS);
        for version in NODES {
            let node = format!("{JS}/node_modules/{version}/bin/node");
            let toml = format!(
                "exec = [{node:?}, \"app.js\"]\ndirectory = \"/srv/myapp\"\nlisten = [\"8080\"]\n\
                 workers = 1\n"
            );
            host.write(FILE, &toml);
            host.ok("cohortctl add myapp --user myapp");
            host.ok("systemctl restart myapp");
            let said = host.get("http://127.0.0.1:8080");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!(said["lacking"], json!({}), "{version}");
            assert!(said["version"].as_str().is_some_and(|is| is[1..].starts_with(&version[4..])));
        }
        assert_eq!(host.journal("-p warning"), "-- No entries --");
    });
}

#[test]
fn an_app_writes_to_folders_of_its_own_only() {
    on_each(|host| {
        host.ok("install -d -o myapp /srv/another /var/lib/another");
        host.obey("[reload]\ncanary = \"100ms\"");
        let put = |path: &str| host.tell(&format!("attempt(() => fs.writeFileSync({path:?}, ''))"));
        for path in ["here", "/srv/myapp/here", "/tmp/here", "/dev/shm/here"] {
            assert_eq!(put(path), json!(null), "{path}");
        }
        for path in ["/srv/another/x", "/var/lib/another/x", "/etc/x", "/usr/x"] {
            assert_eq!(put(path), json!("EROFS"), "{path}");
        }
        assert_eq!(put("/sys/fs/cgroup/system.slice/dbus.service/cgroup.kill"), "EROFS");
        assert_eq!(put("/proc/sys/kernel/hostname"), "EROFS");
        let list =
            |path: &str| host.tell(&format!("attempt(() => fs.readdirSync({path:?}).sort())"));
        assert_eq!(list("/home"), "EACCES");
        assert_eq!(list("/root"), "EACCES");
        assert!(!list("/dev").to_string().contains("kmsg"), "no devices");
        let status = host.tell("fs.readFileSync('/proc/self/status', 'utf8')").to_string();
        for line in ["NoNewPrivs:\\t1", "CapBnd:\\t0000000000000000", "Seccomp:\\t2"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let shell = |command: &str| {
            host.tell(&format!(
                "attempt(() => execFileSync('sh', ['-c', {command:?}], {{ stdio: 'pipe' }}) && 0)"
            ))
        };
        assert_eq!(shell("true"), 0);
        for command in ["unshare --user true", "mount -t tmpfs none /tmp", "chmod u+s here"] {
            assert_ne!(shell(command), 0, "{command}");
        }
        let port = "new Promise((done) => net.createServer().on('error', (e) => done(e.code))\
                    .on('listening', () => done('open')).listen({ port: 80, exclusive: true }))";
        assert_eq!(host.tell(port), "EACCES");

        // A folder that has taken the place of its own is another one.
        host.ok("cp -a /srv/myapp /srv/new");
        host.ok("mv /srv/myapp /srv/old");
        host.ok("mv /srv/new /srv/myapp");
        host.ok("systemctl reload myapp");
        assert_eq!(put("/srv/myapp/x"), "EROFS");
        host.logs("", "workers can't write to their directory");
        host.ok("systemctl restart myapp");
        assert_eq!(put("/srv/myapp/x"), json!(null));

        // What a release leads to, the next one too, and what lies beside.
        host.ok("systemctl stop myapp");
        host.ok("install -d -o myapp /srv/shop /srv/shop/releases/1 /srv/shop/releases/2 /srv/shop/shared");
        for release in [1, 2] {
            let text = format!(
                "fs.writeFileSync('wrote', ''); fs.writeFileSync('/srv/shop/shared/{release}', '');"
            );
            host.write(&format!("/srv/shop/releases/{release}/app.js"), &format!("{OBEY}{text}"));
        }
        host.ok("ln -s releases/1 /srv/shop/current");
        let text = host.ok(&format!("cat {FILE}")).replace("/srv/myapp", "/srv/shop/current");
        host.write(FILE, &text);
        assert!(host.ok("cohortctl add myapp --user myapp").ends_with("It can write to /srv/shop"));
        host.ok("systemctl start myapp.socket myapp");
        host.ok("ln -sfn releases/2 /srv/shop/current");
        host.ok("systemctl reload myapp");
        host.ok("ls /srv/shop/releases/1/wrote /srv/shop/releases/2/wrote /srv/shop/shared/2");
        assert_eq!(put("/srv/myapp/x"), "EROFS");
    });
}

#[test]
fn of_the_homes_an_app_sees_the_one_it_is_in() {
    on_each(|host| {
        host.ok("useradd --create-home deploy");
        host.ok("useradd --create-home other");
        host.ok("install -d -o deploy /home/deploy/app");
        host.ok("chmod 755 /home/deploy /home/other");
        host.write("/home/deploy/app/app.js", OBEY);
        host.write("/home/deploy/.settings", "settings");
        host.ok("chown deploy /home/deploy/.settings");
        let add = ["cohortctl", "add", "myapp", "--exec", "/opt/node/bin/node app.js", "--listen"];
        host.machine.ok(&[&add[..], &["8080", "--directory", "/home/deploy/app"]].concat());
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.tell("fs.readdirSync('/home')"), json!(["deploy"]));
        assert_eq!(host.tell("fs.readFileSync('/home/deploy/.settings', 'utf8')"), "settings");
        assert_eq!(host.tell("fs.writeFileSync('here', '')"), json!(null));
        let other = host.tell("attempt(() => fs.writeFileSync('/home/deploy/.settings', ''))");
        assert_eq!(other, "EROFS");
        host.ok("ls /home/deploy/app/here");
        host.ok("systemctl stop myapp");

        // The home itself.
        host.ok("mv /home/deploy/app/app.js /home/deploy");
        let text = host.ok(&format!("cat {FILE}")).replace("/home/deploy/app", "/home/deploy");
        host.write(FILE, &text);
        host.ok("cohortctl add myapp");
        host.ok("systemctl start myapp.socket myapp");
        assert_eq!(host.tell("fs.writeFileSync('.settings', 'new')"), json!(null));
        assert_eq!(host.ok("cat /home/deploy/.settings"), "new");
    });
}

/// By what the documentation says to write.
#[test]
fn what_is_kept_can_be_given_back() {
    on_each(|host| {
        host.ok("install -d -o myapp /srv/uploads /home/myapp/.cache");
        host.ok("mknod -m 666 /dev/gadget c 1 3");
        host.obey("");
        let works =
            |code: &str| host.tell(&format!("attempt(() => ({code}) && 'works')")) == "works";
        let shell =
            |command: &str| format!("execFileSync('sh', ['-c', {command:?}], {{ stdio: 'pipe' }})");
        let kept = [
            "fs.writeFileSync('/srv/uploads/x', '') ?? 1".to_owned(),
            "fs.writeFileSync('/home/myapp/.cache/x', '') ?? 1".to_owned(),
            "fs.readFileSync('/tmp/of-another').length === 0".to_owned(),
            "fs.openSync('/dev/gadget', 'r+')".to_owned(),
            "fs.existsSync('/proc/1/status')".to_owned(),
            "(fs.mkdirSync('group', { recursive: true }), fs.chmodSync('group', 0o2755)) ?? 1"
                .to_owned(),
            "fs.chownSync('app.js.mine', process.getuid(), process.getgid()) ?? 1".to_owned(),
            shell("unshare --user true"),
        ];
        host.ok("touch /tmp/of-another");
        host.ok("install -o myapp /dev/null /srv/myapp/app.js.mine");
        for code in &kept {
            assert!(!works(code), "{code}");
        }
        host.write(
            "/etc/systemd/system/myapp.service.d/more.conf",
            "[Service]\nReadWritePaths=/srv/uploads\nProtectHome=no\nReadWritePaths=/home/myapp/.cache\n\
             PrivateTmp=no\nBindPaths=\nReadWritePaths=/tmp /var/tmp\nPrivateDevices=no\n\
             DeviceAllow=/dev/gadget rw\nProtectProc=default\nRestrictSUIDSGID=no\n\
             RestrictNamespaces=no\nSystemCallFilter=@mount @chown chroot\n",
        );
        host.ok("systemctl daemon-reload");
        host.ok("systemctl restart myapp");
        for code in &kept {
            assert!(works(code), "{code}: {}", host.tell(&format!("attempt(() => {code})")));
        }
    });
}

/// They are there as long as the app is: also when cohortd is killed meanwhile.
#[test]
fn temporary_files_are_the_app_s_own() {
    on_each(|host| {
        host.obey("");
        host.ok("touch /tmp/of-another");
        let names = || {
            host.tell(
                "[...fs.readdirSync('/tmp'), ...fs.readdirSync('/var/tmp')].map(String).sort()",
            )
        };
        assert_eq!(names(), json!([]));
        host.tell("fs.writeFileSync('/tmp/mine', '')");
        assert_eq!(names(), json!(["mine", "mine"]), "they are one folder");
        assert_eq!(host.run("find /tmp /var/tmp -name mine").stdout, "");
        assert_ne!(host.as_user("daemon", "ls /var/cache/cohortd/myapp").code, 0);
        let env = host.tell("Object.keys(process.env).join()").to_string();
        assert!(!env.contains("CACHE_DIRECTORY"), "{env}");

        let cohortd = host.main_pid();
        host.ok(&format!("kill -KILL {cohortd}"));
        host.is_soon("another cohortd", || {
            host.main_pid() != cohortd && host.show("myapp", "ActiveState") == "active"
        });
        assert_eq!(names(), json!(["mine", "mine"]));
        host.ok("systemctl stop myapp");
        // Perhaps not even the folder: the second clean-up sees no mount there.
        let left = host.run("find /var/cache/cohortd/myapp -mindepth 1");
        assert_eq!(left.stdout, "", "nothing is left");

        // Not where something in there is meant.
        let text = host.ok(&format!("cat {FILE}"));
        host.write(FILE, &format!("{text}\n[env]\nSOCKET = \"/tmp/database.sock\"\n"));
        host.ok("cohortctl add myapp --user myapp");
        host.ok("systemctl start myapp.socket myapp");
        assert!(names().to_string().contains("of-another"));
        host.tell("fs.writeFileSync('/tmp/mine', '')");
        host.ok("ls /tmp/mine");
        host.ok("cohortctl remove myapp");
        assert_eq!(host.ok("ls -A /var/cache/cohortd"), "");
    });
}

/// By any process of their user's.
#[test]
fn cohortd_can_t_be_looked_into() {
    on_each(|host| {
        host.obey("");
        let cohortd = host.main_pid();
        let worker = host.processes().into_iter().find(|pid| *pid != cohortd).expect("two");
        for look in ["cat /proc/PID/environ", "head -c 1 /proc/PID/mem", "ls /proc/PID/fd/"] {
            let of = |pid: &str| host.as_user("myapp", &look.replace("PID", pid));
            for guarded in [&cohortd, &host.keepers().concat()] {
                let out = of(guarded);
                assert!(out.code != 0 && out.stderr.contains("Permission denied"), "{look}: {out}");
            }
            assert!(!of(&worker).stderr.contains("Permission denied"), "{look} of a worker");
        }
    });
}

#[test]
fn workers_reach_neither_cohortd_nor_each_other() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let numbers = release.split(|c: char| !c.is_ascii_digit()).take(2);
    let version: Vec<u32> = numbers.filter_map(|number| number.parse().ok()).collect();
    if !machine::require((version < vec![6, 12]).then_some("Linux 6.12")) {
        return;
    }
    on_each(|host| {
        host.obey("");
        let all = host.processes();
        let tries = r"
            [PIDS].filter((pid) => pid !== process.pid).map((pid) => ({
              seen: fs.readdirSync('/proc').includes(`${pid}`),
              environment: attempt(() => fs.readFileSync(`/proc/${pid}/environ`).length),
              memory: attempt(() => fs.openSync(`/proc/${pid}/mem`)),
              descriptors: attempt(() => fs.readdirSync(`/proc/${pid}/fd`).length),
              asked: attempt(() => process.kill(pid, 0)),
              killed: attempt(() => process.kill(pid, 'SIGKILL')),
            }))
        ";
        let nothing = json!({
            "seen": false, "environment": "ENOENT", "memory": "ENOENT", "descriptors": "ENOENT",
            "asked": "EPERM", "killed": "EPERM",
        });
        let said = host.tell(&tries.replace("PIDS", &host.all_processes().join(",")));
        assert_eq!(
            said,
            json!([nothing, nothing, nothing]),
            "cohortd, its keeper, the other worker"
        );
        // Nor what runs as the same user elsewhere.
        host.ok("systemd-run --quiet --unit=other --uid=myapp sleep 1000");
        let other = host.show("other", "MainPID");
        assert_eq!(host.tell(&tries.replace("PIDS", &other)), json!([nothing]));
        assert_eq!(host.processes(), all);

        // cohortd reaches them.
        host.ok("cohortctl signal myapp#0 KILL");
        host.is_soon("replaced", || host.show("myapp", "StatusText") == "2/2 workers ready");
        assert_ne!(host.processes(), all);
    });
}

/// Given by a credential and by a file: workers have them, and nobody else.
#[test]
fn secrets_are_told_to_nobody() {
    on_each(|host| {
        host.write("/etc/db.secret", "canary-of-a-credential");
        host.write("/srv/myapp/.env", "DB=canary-of-a-file\n");
        host.ok("chmod 600 /etc/db.secret /srv/myapp/.env");
        host.ok("chown myapp /srv/myapp/.env");
        let drop_in = "/etc/systemd/system/myapp.service.d/secret.conf";
        host.write(drop_in, "[Service]\nLoadCredential=db:/etc/db.secret\n");
        host.add_text(OBEY);
        let text = host.ok(&format!("cat {FILE}"));
        let more = "[reload]\ncanary = \"100ms\"\n[metrics]\nlisten = \"127.0.0.1:9464\"\n[log]\naccess = \"json\"";
        host.write(FILE, &format!("env_file = \".env\"\n{text}\n{more}\n"));
        host.ok("systemctl start myapp@cluster");
        let has =
            "[process.env.DB, fs.readFileSync(`${process.env.CREDENTIALS_DIRECTORY}/db`, 'utf8')]";
        assert_eq!(host.tell(has), json!(["canary-of-a-file", "canary-of-a-credential"]));

        // All that is said when things go wrong, too.
        host.ok("systemctl reload myapp");
        host.ok("cohortctl signal myapp#0 KILL");
        host.write("/srv/myapp/.env", "DB=canary-of-a-file\nOPEN=\"canary\n");
        assert_ne!(host.run("systemctl reload myapp").code, 0);
        host.write("/srv/myapp/.env", "DB=canary-of-another-file\n");
        assert!(host.ok("cohortctl diff myapp --json").contains("env.DB"));
        host.is_soon("replaced", || host.show("myapp", "StatusText") == "2/2 workers ready");
        let objects =
            "org.cohortd.App_myapp / org.freedesktop.DBus.ObjectManager GetManagedObjects";
        for look in [
            "sh -c cat${IFS}/proc/*/cmdline",
            "journalctl --no-pager --all -o json",
            "cohortctl show myapp --json",
            "cohortctl ls --json",
            "cohortctl diff myapp --json",
            "cohortctl doctor myapp --json",
            &format!("busctl --json=short call {objects}"),
            "systemctl show myapp.service",
            "curl -gsSf http://127.0.0.1:9464/metrics",
            "grep -rsh . /etc/systemd/system /run/cohortd /var/cache/cohortd",
        ] {
            let said = host.run(look);
            assert!(!said.stdout.is_empty(), "{look}: {said}");
            assert!(!format!("{said}").contains("canary"), "{look}: {said}");
        }
        let cohortd = host.main_pid();
        let record = format!(
            "for f in /proc/{cohortd}/fd/*; do case $(readlink $f) in *:cohortd-state*) cat $f; esac; done"
        );
        let record = host.machine.ok(&["sh", "-c", &record]);
        assert!(record.contains("\"fleet\"") && !record.contains("canary-of"), "{record}");
        let own = host.ok(&format!("cat /proc/{cohortd}/environ"));
        assert!(own.contains("CREDENTIALS_DIRECTORY") && !own.contains("canary"), "{own}");
        let worker = host.processes().into_iter().find(|pid| *pid != cohortd).expect("two");
        for file in ["/run/credentials/myapp.service/db", &format!("/proc/{worker}/environ")] {
            assert!(host.ok(&format!("cat {file}")).contains("canary"), "{file}");
            assert_ne!(host.as_user("daemon", &format!("cat {file}")).code, 0, "{file}");
        }
    });
}

#[test]
fn no_app_is_root_s() {
    on_each(|host| {
        host.write("/srv/myapp/app.js", OBEY);
        host.ok("useradd --non-unique --uid 0 toor");
        for user in ["root", "0", "toor"] {
            let add = "cohortctl add myapp --exec true --directory /srv/myapp --kind job --user";
            let refused = host.run(&format!("{add} {user}"));
            let said = format!("error: an app can't run as {user}, which is root: ");
            assert!(refused.code == 1 && refused.stderr.starts_with(&said), "{refused}");
        }
        assert_ne!(host.run(&format!("ls {FILE}")).code, 0, "nothing was written");
    });
}

/// An app that has been told of a new release may reload itself; but a user who is not its own may
/// not even ask.
#[test]
fn a_worker_commands_its_own_app_and_a_stranger_none() {
    on_each(|host| {
        host.obey("[reload]\ncanary = \"100ms\"");
        let old = host.processes();
        host.tell(
            "void spawn('cohortctl', ['reload', 'myapp'], { detached: true, stdio: 'ignore' })",
        );
        let generation = || {
            let shown = host.tell("`${execFileSync('cohortctl', ['show', 'myapp', '--json'])}`");
            let shown: Value = serde_json::from_str(shown.as_str().expect("text")).expect("JSON");
            shown["generation"].as_u64()
        };
        host.is_soon("reloaded", || generation() == Some(2));
        host.is_soon("all are new", || {
            let new = host.processes();
            new.len() == 3 && new.iter().filter(|pid| old.contains(pid)).count() == 1
        });
        for command in ["show", "reload"] {
            let out = host.as_user("daemon", &format!("cohortctl {command} myapp"));
            assert_eq!(out.code, 1, "{out}");
        }
        let socket = "curl -gsS -m 20 --unix-socket /run/cohortd/myapp/control http://localhost/";
        assert_eq!(host.as_user("daemon", socket).code, 7, "refused");
    });
}
