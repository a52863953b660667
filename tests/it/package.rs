//! The Debian package: what apt does with it, from the first installation to the purge.
//!
//! `packaging/build-deb.sh` makes it of the programs that the tests have anyway, once for all tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cohortd::systemd::unit_file;

use crate::machine::{self, Output, Suite};
use crate::systemd::{Host, on_bare};

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/build-deb.sh");

/// Does what the quick start says.
const AUTOPKGTEST: &str = include_str!("../../packaging/debian/tests/quick-start");

/// Packs a package anew: PACKAGE NEW VERSION [what its cohortd says instead of starting].
const REPACK: &str = r##"
set -eu
work=$(mktemp -d "$2.XXXXXX")
trap 'rm -rf "$work"' EXIT
dpkg-deb -R "$1" "$work/tree"
sed -i "s/^Version: .*/Version: $3/" "$work/tree/DEBIAN/control"
echo "# version $3" >>"$work/tree/etc/cohortd/app.toml.example"
[ -z "$4" ] || printf '#!/bin/sh\necho "%s" >&2\nexit 1\n' "$4" >"$work/tree/usr/bin/cohortd"
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/tree" "$work/new.deb" >/dev/null
mv "$work/new.deb" "$2"
"##;

/// What the cohortd of [`broken`] says.
pub(crate) const BROKEN: &str = "cohortd: this build is broken";

/// The package of the programs that are tested, made if it is not there as they are now.
pub(crate) fn deb() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_cohortd")).parent().expect("a folder");
    PathBuf::from(stdout(Command::new(BUILD).arg("--programs").arg(programs)))
}

/// The same package as this version, and with another `/etc/cohortd/app.toml.example`.
pub(crate) fn newer(version: &str) -> PathBuf {
    repacked("newer", version, "")
}

/// A package of this version whose cohortd does not start: it says [`BROKEN`] and exits with 1.
pub(crate) fn broken(version: &str) -> PathBuf {
    repacked("broken", version, BROKEN)
}

/// Beside the package that it is made of, so that both are in the folder of one.
fn repacked(kind: &str, version: &str, says: &str) -> PathBuf {
    let deb = deb();
    let new = deb.with_file_name(format!("{kind}-{version}.deb"));
    let modified = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    if modified(&new) <= modified(&deb) {
        let mut repack = Command::new("sh");
        stdout(repack.args(["-c", REPACK, "sh"]).arg(deb).arg(&new).arg(version).arg(says));
    }
    new
}

fn stdout(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

/// Whether packages can be made here: see [`machine::require`].
pub(crate) fn require() -> bool {
    let out = Command::new(BUILD).arg("--lacking").output().expect("bash is installed");
    let said = String::from_utf8_lossy(&out.stdout).trim_end().to_owned();
    machine::require(Some(said.as_str()).filter(|said| !said.is_empty()))
}

/// Where a machine has a package.
fn inside(deb: &Path) -> String {
    format!("/debs/{}", deb.file_name().and_then(|name| name.to_str()).expect("a name"))
}

/// Does it on each systemd, with packages at `/debs` and none installed.
fn on_each_bare(behaves: impl Fn(&Host)) {
    if require() {
        let deb = deb();
        let folder = deb.parent().expect("a folder");
        for suite in Suite::ALL {
            on_bare(suite, folder, &behaves);
        }
    }
}

impl Host {
    /// `dpkg`, which keeps edited configuration, and installs documentation also where the machine's
    /// does not.
    pub(crate) fn dpkg(&self, arguments: &str) -> Output {
        let with = "--force-confold --path-include=/usr/share/doc/cohortd/*";
        let line = format!("env DEBIAN_FRONTEND=noninteractive dpkg {with} {arguments}");
        self.machine.run_within(Duration::from_secs(120), &line.split(' ').collect::<Vec<_>>())
    }

    fn install(&self, deb: &Path) -> String {
        let out = self.dpkg(&format!("-i {}", inside(deb)));
        assert_eq!(out.code, 0, "{out}");
        out.stdout + &out.stderr
    }

    /// Every file of the machine but what it writes by itself.
    fn all_files(&self) -> BTreeSet<String> {
        let own = ["/var/lib/dpkg/*", "/var/log/*", "/srv/*", "/etc/*-"];
        let own: String = own.iter().map(|path| format!(" -not -path {path}")).collect();
        self.ok(&format!("find / -xdev -not -type d{own}")).lines().map(str::to_owned).collect()
    }
}

const WEB: &str = "require('node:http').createServer((_, res) => res.end('hello')).listen(8080);";
const EXAMPLE: &str = "/etc/cohortd/app.toml.example";
const SERVICE: &str = "/etc/systemd/system/myapp.service";

/// Upgraded, downgraded, removed, installed again and purged: what an administrator has edited stays as
/// long as it may, units that nobody has edited are written anew, apps run when they should, and in the
/// end nothing is left.
#[test]
fn a_package_has_its_whole_life() {
    on_each_bare(|host| {
        let before = host.all_files();
        host.install(&deb());
        assert!(host.ok("getent passwd cohortd").ends_with("/usr/sbin/nologin"));
        host.ok(&format!("cp {EXAMPLE} /tmp/app.toml"));
        host.ok("cohortctl check /tmp/app.toml");
        let catalog = host.ok("journalctl --list-catalog 6ddc1486294d47dcaf18f2b195d50291");
        assert!(catalog.contains("has crashed"), "{catalog}");

        host.write("/srv/myapp/app.js", WEB);
        host.add("myapp", "app.js", "8080");
        host.add("edited", "app.js", "8081");
        host.add("moved", "app.js", "8082");
        host.ok("systemctl enable --now myapp.socket myapp@cluster");
        assert_eq!(host.get("http://127.0.0.1:8080"), "hello");
        let socket = || host.show("myapp.socket", "InvocationID");
        let (pid, of_socket) = (host.main_pid(), socket());

        // As if an older version had written the service, and an administrator edited the other one.
        let service = host.ok(&format!("cat {SERVICE}")) + "\n";
        let (body, seal) = service.trim_end().rsplit_once('\n').expect("its last line");
        assert!(seal.contains("checksum"), "{seal}");
        let older = unit_file::sealed(&format!("{body}\n# an older version's\n"));
        host.write(SERVICE, &older);
        let of_edited = SERVICE.replace("myapp", "edited");
        host.write(&of_edited, &older.replace("older", "administrator"));
        // What is to be another port is not yet.
        host.ok("sed -i s/8082/8083/ /etc/cohortd/moved.toml");
        let example = host.ok(&format!("cat {EXAMPLE}")) + "# edited\n";
        host.write(EXAMPLE, &example);

        let said = host.install(&newer("0.1.1"));
        let stays =
            format!("edited: units and policies stay as they are: {of_edited} has been edited");
        assert!(said.contains(&stays), "{said}");
        let changed =
            "moved: units and policies stay as they are: /etc/cohortd/moved.toml has changed";
        assert!(said.contains(changed), "{said}");
        assert!(host.ok("cat /etc/systemd/system/moved.socket").contains("ListenStream=8082"));
        assert!(said.contains("myapp: units and policies are written anew"), "{said}");
        assert_eq!(host.ok(&format!("cat {SERVICE}")) + "\n", service);
        assert!(host.ok(&format!("cat {of_edited}")).contains("administrator"));
        assert_eq!(host.show("myapp", "NeedDaemonReload"), "no");
        assert_eq!(host.ok(&format!("cat {EXAMPLE}")) + "\n", example);
        let new = host.ok(&format!("cat {EXAMPLE}.dpkg-dist"));
        assert!(new.ends_with("# version 0.1.1"), "{new}");

        let refused = host.dpkg(&format!("-i {}", inside(&broken("0.1.2"))));
        assert_ne!(refused.code, 0, "{refused}");
        assert!(format!("{refused}").contains(BROKEN), "{refused}");
        assert_eq!(host.get("http://127.0.0.1:8080"), "hello");
        host.install(&deb());
        assert_eq!(host.ok("dpkg-query -W -f ${Version} cohortd"), env!("CARGO_PKG_VERSION"));
        assert_eq!(host.get("http://127.0.0.1:8080"), "hello");
        assert_eq!((host.main_pid(), socket()), (pid, of_socket), "the same process and socket");

        let removed = host.dpkg("-r cohortd");
        assert!(removed.stdout.contains("Stopping the app myapp\n"), "{removed}");
        assert!(!removed.stdout.contains("Stopping the app edited"), "{removed}");
        assert_eq!(host.states(), "inactive inactive inactive");
        for kept in [EXAMPLE, "/etc/cohortd/myapp.toml", SERVICE] {
            host.ok(&format!("test -e {kept}"));
        }
        assert_ne!(host.run("systemctl start myapp").code, 0);
        assert_eq!(host.show("myapp", "SubState"), "failed", "and not auto-restart");

        host.install(&deb());
        assert_eq!(host.ok(&format!("cat {EXAMPLE}")) + "\n", example);
        host.ok("systemctl start myapp.socket myapp@cluster");
        assert_eq!(host.get("http://127.0.0.1:8080"), "hello");

        let purged = host.dpkg("-P cohortd");
        assert_eq!(purged.code, 0, "{purged}");
        assert_eq!(host.states(), "inactive inactive inactive");
        let after = host.all_files();
        assert_eq!(after.difference(&before).collect::<Vec<_>>(), [""; 0]);
        assert_eq!(before.difference(&after).collect::<Vec<_>>(), [""; 0]);
        for gone in ["/etc/cohortd", "/run/cohortd", "/usr/share/doc/cohortd"] {
            assert_eq!(host.run(&format!("test -e {gone}")).code, 1, "{gone}");
        }
    });
}

/// What `packaging/debian/tests` has for autopkgtest: the quick start, as it stands.
#[test]
fn the_quick_start_works() {
    if require() {
        let deb = deb();
        on_bare(Suite::Bookworm, deb.parent().expect("a folder"), |host| {
            host.ok("ln -s /opt/node/bin/node /usr/local/bin/node");
            host.install(&deb);
            host.write("/tmp/test", AUTOPKGTEST);
            let out = host.run("env AUTOPKGTEST_TMP=/tmp sh /tmp/test");
            assert_eq!(out.code, 0, "{out}\n{}", host.ok("journalctl --no-pager -n 30"));
            assert!(out.stdout.contains("good day from"), "{out}");
            assert_eq!(host.run("curl -s http://127.0.0.1:8080").code, 7, "nothing is left of it");
        });
    }
}

/// lintian finds nothing; every page and completion is there, and knows every command and key.
#[test]
fn the_package_is_clean_and_complete() {
    if !require() {
        return;
    }
    let deb = deb();
    let mut lintian = Command::new("lintian");
    let said = stdout(lintian.args(["--fail-on", "error,warning", "-EvIi"]).arg(&deb));
    assert!(!said.contains("\nW: ") && !said.contains("\nE: "), "{said}");

    let files = stdout(Command::new("dpkg-deb").arg("--contents").arg(&deb));
    for file in [
        "/usr/lib/systemd/catalog/cohortd.catalog",
        "/usr/lib/sysusers.d/cohortd.conf",
        "/usr/share/fish/vendor_completions.d/cohortctl.fish",
        "/usr/share/zsh/vendor-completions/_cohortctl",
        "/usr/share/doc/cohortd/examples/chat/server.js",
        "/usr/share/doc/cohortd/units/app.service.in",
        "/usr/share/doc/cohortd/docs/quick-start.md",
    ] {
        let is_it = |line: &str| line.ends_with(&format!(" .{file}"));
        assert!(files.lines().any(is_it), "{file} is not in\n{files}");
    }
    let read = |file: &str| {
        let cat = if file.ends_with(".gz") { "| gzip -dc" } else { "" };
        let script = format!("dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/share/{file} {cat}");
        stdout(Command::new("sh").args(["-c", &script]).arg(&deb))
    };
    let help = stdout(Command::new(env!("CARGO_BIN_EXE_cohortctl")).arg("--help"));
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let commands = commands.expect("a list").lines().filter_map(|line| line.split(' ').nth(2));
    let commands: Vec<&str> = commands.filter(|word| *word != "help").collect();
    let (page, bash) =
        (read("man/man1/cohortctl.1.gz"), read("bash-completion/completions/cohortctl"));
    for command in &commands {
        assert!(page.contains(&format!("\n.SS {command}\n")), "{command} is not in\n{page}");
        assert!(bash.contains(&format!(" {command} ")), "{command} is not in the completions");
    }
    assert!(commands.len() > 15, "{commands:?}");
    assert!(read("man/man8/cohortd.8.gz").contains("\n.SS run\n"));
    let page = read("man/man5/cohortd.toml.5.gz");
    for key in ["exec", "disconnects_per_second", "preserve_client_ip", "[env_per_worker]"] {
        let is_there = page.replace("\\", "").contains(&key.replace("\\", ""));
        assert!(is_there, "{key} is not in\n{page}");
    }
    assert!(!page.contains("](#"), "links are words");
}
