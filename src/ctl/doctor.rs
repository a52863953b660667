//! `cohortctl doctor`: what is wrong with an app's surroundings, and what to do about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::json;

use super::print::{self, Tone};
use super::{CtlError, add, booted, check, list, policies, running, schedule, units};
use crate::config::{Config, Kind};
use crate::relay::Reach;
use crate::route::Tls;
use crate::supervisor::{Differences, Status};
use crate::systemd::unit_file;

/// The oldest systemd and Node that cohortd is tested with.
const OLDEST_SYSTEMD: u32 = 252;
const OLDEST_NODE: u32 = 18;

/// Where a service finds programs if nothing else is said: systemd.exec(5).
const UNIT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the socket units ask for, and the kernel has to allow.
const BACKLOG: u32 = 4096;

/// Descriptors that a busy front-end needs.
const FEW_DESCRIPTORS: u64 = 16_384;

/// Look for what is wrong with apps and their surroundings, and say what to do
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// An app's name, or its file; without it all in /etc/cohortd
    app: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    level: Level,
    what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Default)]
struct Findings {
    /// Whom they are about at the moment.
    app: Option<String>,
    all: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, level: Level, what: impl Into<String>, advice: Option<String>) {
        self.all.push(Finding { app: self.app.clone(), level, what: what.into(), advice });
    }

    fn ok(&mut self, what: impl Into<String>) {
        self.add(Level::Ok, what, None);
    }

    fn warning(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Level::Warning, what, Some(advice.into()));
    }

    fn error(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Level::Error, what, Some(advice.into()));
    }
}

impl Doctor {
    /// Runs the command.
    ///
    /// # Errors
    /// Something does not work.
    pub fn run(&self) -> Result<(), CtlError> {
        let mut findings = Findings::default();
        machine(&mut findings);
        let files: Vec<PathBuf> = match &self.app {
            Some(app) => vec![check::file_of(app)],
            None => list::configured().into_values().collect(),
        };
        for file in &files {
            findings.app = file.file_stem().map(|name| name.to_string_lossy().into_owned());
            match Config::load(file) {
                Ok(config) => app(&config, &mut findings),
                Err(error) => findings.error(error.to_string(), "correct the file"),
            }
        }
        if self.json {
            print::json(&findings.all);
        } else {
            print(&findings.all);
        }
        match findings.all.iter().filter(|finding| finding.level == Level::Error).count() {
            0 => Ok(()),
            1 => Err(CtlError::Refused("one thing does not work".into())),
            n => Err(CtlError::Refused(format!("{n} things do not work"))),
        }
    }
}

fn print(findings: &[Finding]) {
    for finding in findings {
        let (tone, mark) = match finding.level {
            Level::Ok => (Tone::Good, "ok"),
            Level::Warning => (Tone::Busy, "warning"),
            Level::Error => (Tone::Bad, "error"),
        };
        let app = finding.app.as_deref().map(|app| format!("{app}: ")).unwrap_or_default();
        println!("{}  {app}{}", tone.padded(mark, 7), finding.what);
        if let Some(advice) = &finding.advice {
            println!("         → {advice}");
        }
    }
}

fn machine(findings: &mut Findings) {
    if !booted() {
        findings.warning(
            "systemd does not run this machine",
            "use `cohortd run FILE`; the units, their sockets and the journal are not to be had",
        );
    } else if let Some(version) = first_number(&output("systemctl", &["--version"])) {
        if version < OLDEST_SYSTEMD {
            findings.error(
                format!("systemd {version} is older than {OLDEST_SYSTEMD}"),
                "upgrade to Debian 12 or newer",
            );
        } else {
            findings.ok(format!("systemd {version}"));
        }
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        findings.warning(
            "the unified cgroup hierarchy is not mounted at /sys/fs/cgroup",
            "boot without systemd.unified_cgroup_hierarchy=0; until then [memory] has no effect",
        );
    }
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    if let Some(allowed) = first_number(&somaxconn).filter(|allowed| *allowed < BACKLOG) {
        findings.warning(
            format!("at most {allowed} connections can wait to be accepted (net.core.somaxconn)"),
            format!("sysctl -w net.core.somaxconn={BACKLOG}"),
        );
    }
}

fn app(config: &Config, findings: &mut Findings) {
    let checked = schedule::check(config)
        .and_then(|()| Ok(Tls::check(config)?))
        .and_then(|()| Ok(Reach::check(config)?));
    match checked {
        Ok(()) => findings.ok(format!("{} is right", config.file.display())),
        Err(error) => findings.error(error.to_string(), "correct the file"),
    }
    let user = units::installed(&config.app).map(|service| service.user);
    directory(config, user.as_deref(), findings);
    program(config, findings);
    packages(config, findings);
    if booted() {
        match &user {
            Some(user) => installed(config, user, findings),
            None => findings.error(
                format!("there is no {}", units::service_file(&config.app).display()),
                format!("cohortctl add {}", config.app),
            ),
        }
    }
    running(config, findings);
}

fn directory(config: &Config, user: Option<&str>, findings: &mut Findings) {
    let folder = config.directory.display();
    if !config.directory.is_dir() {
        return findings.error(format!("{folder} is no directory"), "correct `directory`");
    }
    // Only root can try to be somebody else.
    if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
        let enters = Command::new("runuser")
            .args(["-u", user, "--", "test", "-r"])
            .arg(&config.directory)
            .arg("-a")
            .arg("-x")
            .arg(&config.directory)
            .status();
        if enters.is_ok_and(|status| !status.success()) {
            findings.error(
                format!("{user} can't read {folder}"),
                format!("chown -R {user} {folder}, or name another user: cohortctl add --user"),
            );
        }
    }
}

fn program(config: &Config, findings: &mut Findings) {
    let name = &config.exec[0];
    let path = config.env.get("PATH").map_or(UNIT_PATH, String::as_str);
    let found = if name.contains('/') {
        let file = config.directory.join(name);
        file.exists().then_some(file)
    } else {
        path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.exists())
    };
    let Some(file) = found else {
        return findings.error(
            format!("a service does not find \"{name}\" in {path}"),
            format!("write its full path in exec, or its folder in [env] PATH (`which {name}`)"),
        );
    };
    if config.kind != Kind::Node || file.file_name().is_none_or(|name| name != "node") {
        return findings.ok(format!("{} is there", file.display()));
    }
    let said = output(&file, &["--version"]);
    match first_number(&said) {
        Some(version) if version >= OLDEST_NODE => {
            findings.ok(format!(
                "Node {} is {}",
                said.trim().trim_start_matches('v'),
                file.display()
            ));
        }
        Some(_) => findings.error(
            format!("{} is Node {}", file.display(), said.trim()),
            format!("upgrade to Node {OLDEST_NODE} or newer"),
        ),
        None => findings.error(
            format!("{} --version says nothing of a version", file.display()),
            "let exec begin with Node itself",
        ),
    }
}

/// What of Socket.IO the app has installed, and what it lacks for more than one worker.
fn packages(config: &Config, findings: &mut Findings) {
    let version = |name: &str| {
        let folders = config.directory.ancestors();
        let file = folders.map(|f| f.join("node_modules").join(name).join("package.json"));
        let text = file.filter_map(|file| fs::read_to_string(file).ok()).next()?;
        let package: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(package["version"].as_str()?.to_owned())
    };
    let installed: Vec<String> = ["socket.io", "@socket.io/sticky", "@socket.io/cluster-adapter"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", version(name)?)))
        .collect();
    if installed.is_empty() {
        return;
    }
    let relays = [
        "cluster-adapter",
        "redis-adapter",
        "redis-streams-adapter",
        "mongo-adapter",
        "postgres-adapter",
    ];
    let relayed = relays.iter().any(|name| version(&format!("@socket.io/{name}")).is_some());
    if version("socket.io").is_some() && config.workers > 1 && !relayed {
        findings.warning(
            "Socket.IO has no adapter: io.emit() reaches only clients of the same worker",
            "npm install @socket.io/cluster-adapter, and io.adapter(createAdapter())",
        );
    } else {
        findings.ok(installed.join(", "));
    }
}

/// The units, as systemd has them.
fn installed(config: &Config, user: &str, findings: &mut Findings) {
    let app = &config.app;
    if let Ok(programs) = add::programs() {
        let stale = units::render(config, user, &programs)
            .into_iter()
            .chain(policies::render(app, user))
            .find(|unit| unit_file::read(&unit.path).is_none_or(|text| text != unit.text));
        match stale {
            Some(unit) => findings.warning(
                format!("{} is not what the configuration asks for", unit.path.display()),
                format!("cohortctl add {app} --user {user}"),
            ),
            None => findings.ok(format!("the units are those of the configuration, run by {user}")),
        }
    }
    let service = properties(&format!("{app}.service"));
    let is = |name: &str, value: &str| service.get(name).is_some_and(|is| is == value);
    if is("NeedDaemonReload", "yes") {
        findings.warning("systemd has not read the units again", "systemctl daemon-reload");
    }
    match service.get("ActiveState").map(String::as_str) {
        Some("active") => findings.ok("the service is active"),
        Some("failed") => findings.error(
            format!(
                "the service has failed ({})",
                service.get("Result").cloned().unwrap_or_default()
            ),
            format!("journalctl -u {app} -n 50"),
        ),
        state => findings.warning(
            format!("the service is {}", state.unwrap_or("unknown")),
            format!("systemctl enable --now {app}@{}", config.profile),
        ),
    }
    if config.kind == Kind::Job {
        return;
    }
    let socket = properties(&format!("{app}.socket"));
    if socket.get("ActiveState").is_some_and(|state| state == "active") {
        findings.ok(format!("{app}.socket listens"));
        return;
    }
    let taken = config.listen.iter().filter_map(|on| on.port()).find(|port| is_listened_on(*port));
    match taken {
        Some(port) => findings.error(
            format!("port {port} is taken by another program"),
            format!("ss -ltnp 'sport = :{port}' says by which; stop it, then systemctl start {app}.socket"),
        ),
        None => findings.warning(
            format!("{app}.socket does not listen"),
            format!("systemctl enable --now {app}.socket"),
        ),
    }
}

/// The app itself, if it can be asked.
fn running(config: &Config, findings: &mut Findings) {
    let app = &config.app;
    let status: Status = match running::ask(app, "Status", json!({})) {
        Ok(status) => status,
        Err(CtlError::Running(crate::control::ClientError::NotRunning { .. })) => return,
        Err(error) => return findings.error(error.to_string(), "sudo cohortctl doctor"),
    };
    let ready = status.workers.iter().filter(|worker| worker.state == "ready").count();
    if ready < status.wanted {
        findings.error(
            format!("{ready} of {} workers are ready", status.wanted),
            format!("journalctl -u {app} -n 50"),
        );
    } else {
        findings.ok(format!("{ready} workers are ready"));
    }
    if status.version != env!("CARGO_PKG_VERSION") {
        findings.warning(
            format!(
                "it runs cohortd {}, and {} is installed",
                status.version,
                env!("CARGO_PKG_VERSION")
            ),
            format!("systemctl restart {app}"),
        );
    }
    if let Some(error) = &status.last_reload_error {
        findings
            .error(format!("the last reload failed: {error}"), format!("systemctl reload {app}"));
    }
    if status.failures > 0 {
        let since = print::seconds(status.uptime);
        findings.warning(
            format!("workers have failed {} times in {since}", status.failures),
            format!("journalctl -u {app} -p warning"),
        );
    }
    let differences = running::ask(app, "Diff", json!({}));
    if let Ok(Differences { differences, .. }) = differences
        && !differences.is_empty()
    {
        let keys: Vec<&str> = differences.iter().map(|d| d.key.as_str()).collect();
        findings.warning(
            format!("it does not run as its file says: {}", keys.join(", ")),
            format!("cohortctl diff {app}"),
        );
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", status.pid)).unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    if let Some(few) = soft.filter(|soft| *soft < FEW_DESCRIPTORS) {
        findings.warning(
            format!("it may open {few} descriptors, and each connection takes one or two"),
            "raise LimitNOFILE= (systemctl edit), or ulimit -n",
        );
    }
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", status.pid)).unwrap_or_default();
    let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
    let controllers =
        cgroup.map(|path| Path::new("/sys/fs/cgroup").join(path).join("cgroup.controllers"));
    let has_memory = controllers
        .and_then(|file| fs::read_to_string(file).ok())
        .is_some_and(|text| text.split_whitespace().any(|word| word == "memory"));
    if config.memory.max.is_some() && !has_memory {
        findings.warning(
            "[memory] max is not in force: its cgroup has no memory controller",
            "run it as a service, on a kernel with cgroup_enable=memory",
        );
    }
}

fn output(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The first number in a text, such as a version's first.
fn first_number(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty())?;
    digits.parse().ok()
}

fn properties(unit: &str) -> BTreeMap<String, String> {
    let asked = "--property=ActiveState,NeedDaemonReload,Result";
    let text = output("systemctl", &["show", asked, "--", unit]);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Whether any program listens on a TCP port: proc(5), `/proc/net/tcp`.
fn is_listened_on(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let is_ours = words.next().is_some_and(|address| address.ends_with(&local));
            is_ours && words.nth(1) == Some(LISTEN)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_s_first_number() {
        assert_eq!(first_number("systemd 252 (252.39-1~deb12u1)"), Some(252));
        assert_eq!(first_number("v20.20.2\n"), Some(20));
        assert_eq!(first_number("no version"), None);
    }

    #[test]
    fn a_port_that_is_listened_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert!(is_listened_on(port));
        drop(listener);
        assert!(!is_listened_on(port));
    }
}
