//! `cohortctl add`: an app becomes a systemd service.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::{
    CONFIG_FOLDER, CtlError, booted, hardening, policies, print, schedule, systemctl, units,
};
use crate::config::{APP_NAME, Config, Kind, is_app_name};
use crate::relay::Reach;
use crate::route::Tls;

/// Make an app a systemd service: write its configuration (unless it is there), its units and policies
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The app's name: of its configuration, its units and its log
    app: String,
    /// The worker's command line, such as "node worker.js"; quotes work as in a shell, nothing else
    #[arg(long)]
    exec: Option<String>,
    /// Where workers start
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// A port (8080), an address (127.0.0.1:8080) or a path (/run/myapp.sock); may be repeated
    #[arg(long, requires = "exec")]
    listen: Vec<String>,
    /// How workers are spoken to: node, socket (any language) or job (no socket at all)
    #[arg(long, requires = "exec")]
    kind: Option<String>,
    /// How many workers: a number, auto (one a processor) or auto-1
    #[arg(long, requires = "exec")]
    workers: Option<String>,
    /// The user that everything runs as [default: the owner of the directory]
    #[arg(long)]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Add {
    /// Runs the command.
    ///
    /// # Errors
    /// Nothing has been changed when the configuration is wrong.
    pub fn run(&self) -> Result<(), CtlError> {
        if !is_app_name(&self.app) {
            return Err(CtlError::Refused(format!(
                "\"{}\" can't be an app's name: {APP_NAME}",
                self.app
            )));
        }
        let file = Path::new(CONFIG_FOLDER).join(format!("{}.toml", self.app));
        let text = self.text(&file)?;
        let config = match &text {
            Some(text) => Config::parse(&file, text)?,
            None => Config::load(&file)?,
        };
        schedule::check(&config)?;
        Tls::check(&config)?;
        Reach::check(&config)?;
        let user = match &self.user {
            Some(user) => not_root(user)?.to_owned(),
            None => owner(&config)?,
        };
        let units = units::render(&config, &user, &programs()?);
        let policies = policies::render(&config.app, &user);
        if let Some(foreign) = units.iter().chain(&policies).find_map(units::Unit::foreign) {
            return Err(CtlError::Refused(format!(
                "{} exists and is not of cohortctl's making: choose another name or move it away",
                foreign.display()
            )));
        }
        if let Some(text) = text {
            write(&file, &text)?;
        }
        // A handle by the name of a profile before, or the timer of a schedule before.
        let mut old = units::of_app(&self.app);
        old.retain(|path| !units.iter().any(|unit| unit.path == *path));
        let [timer, service] =
            ["timer", "service"].map(|kind| format!("{}-reload.{kind}", self.app));
        if booted() && old.iter().any(|path| path.ends_with(&timer)) {
            systemctl(&["stop", &timer, &service])?;
            // systemd would go on listing a failure. That there was none is no matter.
            let _ = systemctl(&["reset-failed", &service]);
        }
        for path in old {
            fs::remove_file(&path).map_err(|e| CtlError::file(&path, e))?;
        }
        for unit in units.iter().chain(&policies) {
            write(&unit.path, &unit.text)?;
        }
        policies::reload_bus()?;
        if booted() {
            systemctl(&["daemon-reload"])?;
            if config.reload.schedule().is_some() {
                // For an app that runs already. Where it does not, systemd stops the timer at once.
                systemctl(&["start", &timer])?;
            }
        }
        let socket = match config.kind {
            Kind::Node | Kind::Socket => format!("{}.socket ", config.app),
            Kind::Job => String::new(),
        };
        let start = format!("systemctl enable --now {socket}{}@{}", config.app, config.profile);
        if self.json {
            let written: Vec<_> = units.iter().chain(&policies).map(|unit| &unit.path).collect();
            print::json(&json!({
                "app": config.app, "file": file, "user": user, "written": written, "start": start,
                "writable": hardening::writable(&config),
            }));
            return Ok(());
        }
        println!(
            "{app} is configured in {file} and runs as {user}. To start it, now and at each boot:\n  \
             {start}",
            app = config.app,
            file = file.display(),
        );
        for folder in hardening::writable(&config) {
            println!("It can write to {}", folder.display());
        }
        if let Some(schedule) = config.reload.schedule() {
            println!("While it runs, {timer} reloads it: {schedule}");
        }
        Ok(())
    }

    /// The text of a new configuration; `None` when the one that is there is to be used.
    fn text(&self, file: &Path) -> Result<Option<String>, CtlError> {
        let Some(exec) = &self.exec else {
            return if file.exists() {
                Ok(None)
            } else {
                Err(CtlError::Refused(format!(
                    "{} is not there yet: write it, or say --exec and --listen",
                    file.display()
                )))
            };
        };
        let words = shlex::split(exec)
            .ok_or_else(|| CtlError::Refused(format!("--exec has an open quote: {exec}")))?;
        let directory =
            fs::canonicalize(&self.directory).map_err(|e| CtlError::file(&self.directory, e))?;
        let string = |text: &str| toml::Value::from(text).to_string();
        let list = |items: &[String]| {
            let items: Vec<String> = items.iter().map(|item| string(item)).collect();
            format!("[{}]", items.join(", "))
        };
        let mut text = format!(
            "exec = {}\ndirectory = {}\n",
            list(&words),
            string(&directory.to_string_lossy()),
        );
        if !self.listen.is_empty() {
            text += &format!("listen = {}\n", list(&self.listen));
        }
        if let Some(kind) = &self.kind {
            text += &format!("kind = {}\n", string(kind));
        }
        if let Some(workers) = &self.workers {
            let value = workers.parse::<i64>().map_or_else(|_| string(workers), |n| n.to_string());
            text += &format!("workers = {value}\n");
        }
        match fs::read_to_string(file) {
            Ok(there) if there == text => Ok(None),
            Ok(_) => Err(CtlError::Refused(format!(
                "{} is there already and says something else: edit it and run `cohortctl add {}` \
                 without --exec",
                file.display(),
                self.app
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(text)),
            Err(error) => Err(CtlError::file(file, error)),
        }
    }
}

/// The user that owns the app's directory, by name if there is one; root is never taken by default.
fn owner(config: &Config) -> Result<String, CtlError> {
    let metadata =
        fs::metadata(&config.directory).map_err(|e| CtlError::file(&config.directory, e))?;
    if metadata.uid() == 0 {
        return Err(CtlError::Refused(format!(
            "{} belongs to root, and an app can't run as root: say --user NAME",
            config.directory.display()
        )));
    }
    let number = metadata.uid().to_string();
    // systemd takes the number as well.
    Ok(passwd(&number).into_iter().next().unwrap_or(number))
}

/// The user, who is not root by whatever name.
fn not_root(user: &str) -> Result<&str, CtlError> {
    let is_root = user.parse() == Ok(0) || passwd(user).get(2).is_some_and(|uid| uid == "0");
    if is_root {
        return Err(CtlError::Refused(format!(
            "an app can't run as {user}, which is root: name a user that has only what the app needs; \
             ports below 1024 are no reason, for systemd opens them"
        )));
    }
    Ok(user)
}

/// A user's entry in passwd(5), by name or number, wherever this machine has its users from; empty if
/// there is none.
fn passwd(user: &str) -> Vec<String> {
    let output = Command::new("getent").args(["passwd", "--", user]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.unwrap_or_default();
    let entry = line.lines().next().unwrap_or_default();
    entry.split(':').filter(|_| !entry.is_empty()).map(str::to_owned).collect()
}

/// The folder of `cohortd`, which is also ours.
pub(super) fn programs() -> Result<PathBuf, CtlError> {
    let this =
        std::env::current_exe().map_err(|e| CtlError::file(Path::new("/proc/self/exe"), e))?;
    let folder = this.parent().map(Path::to_owned).unwrap_or_default();
    let cohortd = folder.join("cohortd");
    if cohortd.exists() {
        Ok(folder)
    } else {
        Err(CtlError::file(&cohortd, io::ErrorKind::NotFound.into()))
    }
}

/// All of the text or none of it.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CtlError> {
    let error = |e| CtlError::file(path, e);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(error)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text).map_err(error)?;
    fs::rename(&new, path).map_err(error)
}
