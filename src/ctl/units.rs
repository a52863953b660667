//! An app's units: what they are called, and their text from the templates in `units/`.

use std::path::{Path, PathBuf};

use crate::config::{Config, Listen};

/// Where an administrator's units live. A generator's could not be enabled.
const FOLDER: &str = "/etc/systemd/system";

/// Where else systemd looks for units: one of ours by the same name would take the place of it.
const OTHER_FOLDERS: [&str; 4] = [
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// How every unit of ours begins: what does not begin so is not overwritten or removed.
pub(super) const MARK: &str = "# Written by cohortctl add ";

/// On top of what stopping may take by the configuration.
const STOP_MARGIN_SECONDS: u64 = 15;

/// One unit file.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Unit {
    /// The file of somebody else that this unit would overwrite or take the place of.
    pub(super) fn foreign(&self) -> Option<PathBuf> {
        let name = self.path.file_name()?;
        let others = OTHER_FOLDERS.iter().map(|folder| Path::new(folder).join(name));
        let mut foreign = std::iter::once(self.path.clone())
            .chain(others)
            .filter(|path| path.symlink_metadata().is_ok() && !is_ours(path));
        foreign.next()
    }
}

/// All units of an app, run by this user from programs in this folder.
pub(super) fn render(config: &Config, user: &str, programs: &Path) -> Vec<Unit> {
    let templates = [
        (include_str!("../../units/app.service.in"), format!("{}.service", config.app)),
        (include_str!("../../units/app.socket.in"), format!("{}.socket", config.app)),
        (
            include_str!("../../units/app@profile.service.in"),
            format!("{}@{}.service", config.app, config.profile),
        ),
        (include_str!("../../units/app@.service.in"), format!("{}@.service", config.app)),
    ];
    let stream = |on: &Listen| format!("ListenStream={}", on.to_string().replace('%', "%%"));
    let listen: Vec<String> = config.listen.iter().map(stream).collect();
    let asks = config.stop.timeout.as_secs() * config.stop.method.len() as u64;
    let stop = config.stop.drain.as_secs() + asks + STOP_MARGIN_SECONDS;
    let workers = match config.workers {
        1 => "one worker".to_owned(),
        n => format!("{n} workers"),
    };
    let config_file = std::path::absolute(&config.file).unwrap_or(config.file.clone());
    let values = [
        ("@APP@", config.app.clone()),
        ("@PROFILE@", config.profile.clone()),
        ("@CONFIG@", escaped(&config_file)),
        ("@USER@", user.replace('%', "%%")),
        ("@BIN@", escaped(programs)),
        ("@LISTEN@", listen.join("\n")),
        ("@WORKERS@", workers),
        ("@STOP_SECONDS@", stop.to_string()),
    ];
    let fill = |template: &str| {
        values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
    };
    let unit = |(template, name): (&str, String)| Unit {
        path: Path::new(FOLDER).join(name),
        text: fill(template),
    };
    templates.into_iter().map(unit).collect()
}

/// A path as a word of a unit file: `%` and spaces mean something there.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%").replace(' ', "\\x20")
}

/// The unit files that an app may have, whatever its profile is or was.
pub(super) fn of_app(app: &str) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_its = name == format!("{app}.service")
            || name == format!("{app}.socket")
            || (name.starts_with(&format!("{app}@")) && name.ends_with(".service"));
        is_its && is_ours(path)
    };
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

/// Whether we have written this file.
pub(super) fn is_ours(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}
