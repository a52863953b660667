//! An app's units: what they are called, and their text from the templates in `units/`.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::hardening;
use crate::config::{Config, Kind, Listen, Pem};
use crate::systemd::unit_file::{self, FOLDER};

/// Where else systemd looks for units: one of ours by the same name would take the place of it.
const OTHER_FOLDERS: [&str; 4] = [
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// On top of what stopping may take by the configuration.
const STOP_MARGIN_SECONDS: u64 = 15;

/// One unit file.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Unit {
    /// A file of this text and the line that shows whether it has been edited.
    pub(super) fn new(path: PathBuf, text: &str) -> Unit {
        Unit { path, text: unit_file::sealed(text) }
    }

    /// The file of somebody else that this unit would overwrite or take the place of.
    pub(super) fn foreign(&self) -> Option<PathBuf> {
        let name = self.path.file_name()?;
        let others = OTHER_FOLDERS.iter().map(|folder| Path::new(folder).join(name));
        let mut foreign = std::iter::once(self.path.clone())
            .chain(others)
            .filter(|path| path.symlink_metadata().is_ok() && unit_file::read(path).is_none());
        foreign.next()
    }
}

/// All units of an app, run by this user from programs in this folder.
pub(super) fn render(config: &Config, user: &str, programs: &Path) -> Vec<Unit> {
    let mut templates = vec![
        (include_str!("../../units/app.service.in"), format!("{}.service", config.app)),
        (
            include_str!("../../units/app@profile.service.in"),
            format!("{}@{}.service", config.app, config.profile),
        ),
        (include_str!("../../units/app@.service.in"), format!("{}@.service", config.app)),
        (
            include_str!("../../units/app-cleanup.service.in"),
            format!("{}-cleanup.service", config.app),
        ),
    ];
    let socket = (config.kind != Kind::Job).then(|| format!("{}.socket", config.app));
    if let Some(socket) = &socket {
        templates.push((include_str!("../../units/app.socket.in"), socket.clone()));
    }
    let schedule = config.reload.schedule();
    if schedule.is_some() {
        let timer = include_str!("../../units/app-reload.timer.in");
        templates.push((timer, format!("{}-reload.timer", config.app)));
        let service = include_str!("../../units/app-reload.service.in");
        templates.push((service, format!("{}-reload.service", config.app)));
    }
    let wants = |_| format!("# [reload] schedule\nWants={}-reload.timer", config.app);
    let asks = config.stop.timeout.as_secs() * config.stop.method.len() as u64;
    let stop = config.stop.drain.as_secs() + asks + STOP_MARGIN_SECONDS;
    let names: BTreeSet<&str> = config.pems().filter_map(Pem::credential).collect();
    let mut credentials: Vec<String> =
        names.iter().map(|name| format!("LoadCredential={name}")).collect();
    if !credentials.is_empty() {
        credentials.insert(0, "# From /etc/credstore, or where systemctl edit says".into());
    }
    let workers = match config.workers {
        1 => "one worker".to_owned(),
        n => format!("{n} workers"),
    };
    let config_file = std::path::absolute(&config.file).unwrap_or(config.file.clone());
    let values = [
        ("@APP@", config.app.clone()),
        (
            "@NEEDS_SOCKET@",
            socket.as_ref().map(|s| format!("Requires={s}\nAfter={s}")).unwrap_or_default(),
        ),
        ("@SOCKETS@", socket.as_ref().map(|s| format!("Sockets={s}")).unwrap_or_default()),
        ("@PROFILE@", config.profile.clone()),
        ("@CONFIG@", escaped(&config_file)),
        ("@USER@", user.replace('%', "%%")),
        ("@BIN@", escaped(programs)),
        ("@WANTS_TIMER@", schedule.map(wants).unwrap_or_default()),
        ("@SCHEDULE@", schedule.unwrap_or_default().to_owned()),
        ("@LISTEN@", listen(&config.listen)),
        ("@CREDENTIALS@", credentials.join("\n")),
        ("@FILES@", hardening::lines(config).join("\n")),
        ("@CGROUP@", hardening::cgroup("system.slice", &config.app)),
        ("@WORKERS@", workers),
        ("@STOP_SECONDS@", stop.to_string()),
    ];
    let fill = |template: &str| {
        values.iter().fold(template.to_owned(), |text, (name, value)| {
            // A line that would be empty is left out.
            let name = if value.is_empty() { format!("{name}\n") } else { (*name).to_owned() };
            text.replace(&name, value)
        })
    };
    let unit =
        |(template, name): (&str, String)| Unit::new(Path::new(FOLDER).join(name), &fill(template));
    templates.into_iter().map(unit).collect()
}

/// Lines of the socket unit: where it listens, and what has to be said about that.
fn listen(entries: &[Listen]) -> String {
    let is_any_v6 = |on: &Listen| matches!(on, Listen::Addr(a) if a.ip() == Ipv6Addr::UNSPECIFIED);
    let v6_only = entries.iter().any(is_any_v6);
    let mut lines = Vec::new();
    for on in entries {
        match on {
            Listen::Port(port) if v6_only => {
                lines.push(format!("ListenStream=0.0.0.0:{port}"));
                lines.push(format!("ListenStream=[::]:{port}"));
            }
            _ => lines.push(format!("ListenStream={}", on.to_string().replace('%', "%%"))),
        }
    }
    if v6_only {
        lines.push(
            "# [::] is every IPv6 address, and no IPv4 one; this holds for the whole unit".into(),
        );
        lines.push("BindIPv6Only=ipv6-only".into());
    }
    // systemd warns where it can't set it.
    if entries.iter().any(|on| on.port().is_some()) {
        lines.push("NoDelay=yes".into());
    }
    lines.join("\n")
}

/// A path as a word of a unit file: `%` and spaces mean something there.
pub(super) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%").replace(' ', "\\x20")
}

/// The unit files that an app may have, whatever its profile is or was.
pub(super) fn of_app(app: &str) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_its = name == format!("{app}.service")
            || name == format!("{app}.socket")
            || name == format!("{app}-reload.timer")
            || name == format!("{app}-reload.service")
            || name == format!("{app}-cleanup.service")
            || (name.starts_with(&format!("{app}@")) && name.ends_with(".service"));
        is_its && unit_file::read(path).is_some()
    };
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

/// An app's service, as it is installed.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) user: String,
    /// How it is started: the program, `serve`, the configuration.
    pub(super) exec: String,
}

/// The service of an app, if it is one of ours.
pub(super) fn installed(app: &str) -> Option<Installed> {
    let text = unit_file::read(&service_file(app))?;
    let value = |key| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    Some(Installed { user: value("User=")?, exec: value("ExecStart=")? })
}

/// Where an app's service is.
pub(super) fn service_file(app: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{app}.service"))
}
