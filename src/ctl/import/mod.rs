//! `cohortctl import`: PM2's apps become configurations, and a report says what became of each key.
//!
//! A source is read (`sources`, `relaxed`, `yaml`, `dump`; `sandbox` where it is a program), each of
//! its apps is converted (`keys`, `app`, `convert`, with `command`, `environment` and `lifecycle`,
//! which speak `values` and `cron`), and what came of it is written (`text`) and told (`report`).

mod app;
mod command;
mod convert;
mod cron;
mod dump;
mod environment;
mod keys;
mod lifecycle;
mod relaxed;
mod report;
mod sandbox;
mod sources;
#[cfg(test)]
mod tests;
mod text;
mod values;
mod yaml;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::{CONFIG_FOLDER, CtlError, schedule};
use crate::config::{Config, Listen};
use convert::{Converted, convert};
use report::Report;
use sources::{Form, Found};

/// Turn PM2's apps into configurations, and say what became of each of their keys
#[derive(Debug, clap::Args)]
pub struct Import {
    /// ecosystem.config.js (.cjs, .mjs), a JSON or YAML file, package.json or dump.pm2; - is
    /// standard input, for `pm2 jlist` [default: dump.pm2 of `pm2 save`, in $PM2_HOME or ~/.pm2]
    source: Option<PathBuf>,
    /// Use the variables of env_NAME, laid over env
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// What an app listens on, if its PORT does not say so: 8080, 127.0.0.1:8080 or a path; with
    /// several apps APP=8080; may be repeated
    #[arg(long, value_name = "[APP=]ENTRY")]
    listen: Vec<String>,
    /// This app has no socket of cohortd's: it is only kept running; may be repeated
    #[arg(long, value_name = "APP")]
    job: Vec<String>,
    /// The program that is Node, to read a source with and to begin exec with
    #[arg(long, default_value = "node")]
    node: String,
    /// Never run a source that is a program
    #[arg(long = "static")]
    is_static: bool,
    /// Where configurations are written
    #[arg(long, value_name = "DIR", default_value = CONFIG_FOLDER)]
    output: PathBuf,
    /// Overwrite configurations that are there
    #[arg(long)]
    force: bool,
    /// Print the configurations and the report, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What an app is converted with.
struct Context<'a> {
    /// The source's.
    folder: &'a Path,
    node: &'a str,
    profile: Option<&'a str>,
    /// For the one app, or with the name of an app before it.
    listen: &'a [(Option<String>, String)],
    jobs: &'a [String],
    /// The beginning of a file; `None` when there is none.
    look: &'a dyn Fn(&Path) -> Option<Vec<u8>>,
}

impl Context<'_> {
    /// What was said that an app listens on.
    fn listen(&self, name: &str) -> Vec<String> {
        let of_it = |app: &Option<String>| app.as_deref().is_none_or(|app| app == name);
        self.listen.iter().filter(|(app, _)| of_it(app)).map(|(_, entry)| entry.clone()).collect()
    }
}

impl Import {
    /// Runs the command.
    ///
    /// # Errors
    /// Nothing has been written, unless it is [`CtlError::Dropped`].
    pub fn run(&self) -> Result<(), CtlError> {
        let listen = self.entries()?;
        let source = self.source()?;
        let found = self.read(&source)?;
        if found.apps.len() > 1 && listen.iter().any(|(app, _)| app.is_none()) {
            let message = "there are several apps: say --listen APP=ENTRY";
            return Err(CtlError::Refused(message.to_owned()));
        }
        let folder = if source == Path::new("-") { Path::new("x") } else { &source };
        let folder = std::path::absolute(folder).map_err(|e| CtlError::file(&source, e))?;
        // A path is from here, and workers start elsewhere.
        let node = match std::path::absolute(&self.node) {
            Ok(path) if self.node.contains('/') => path.to_string_lossy().into_owned(),
            _ => self.node.clone(),
        };
        let context = Context {
            folder: folder.parent().unwrap_or(Path::new("/")),
            node: &node,
            profile: self.profile.as_deref(),
            listen: &listen,
            jobs: &self.job,
            look: &look,
        };
        let mut apps: Vec<Converted> = Vec::new();
        for listed in found.apps {
            let mut app = convert(listed.keys, &context);
            app.report.keys.extend(listed.removed);
            app.report.notes.extend(listed.note.map(str::to_owned));
            app.report.file = self.file(&app.report.name).display().to_string();
            apps.push(app);
        }
        self.is_said_of_some(&apps, &listen)?;
        let refused = self.refusal(&apps);
        let write = refused.is_none() && !self.dry_run;
        if write {
            self.write(&apps)?;
        }
        let configurations: Vec<_> = apps.iter().map(|app| app.toml.clone()).collect();
        let report = Report {
            source: source.display().to_string(),
            written: write,
            keys: found.beside,
            apps: apps.into_iter().map(|app| app.report).collect(),
        };
        self.print(&report, &configurations)?;
        match (refused, report.lost()) {
            (Some(error), _) => Err(error),
            (None, 0) => Ok(()),
            (None, lost) => Err(CtlError::Dropped(lost)),
        }
    }

    /// The file that is read.
    fn source(&self) -> Result<PathBuf, CtlError> {
        if let Some(source) = &self.source {
            return Ok(source.clone());
        }
        let home = std::env::var_os("PM2_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pm2")));
        let dump = home.unwrap_or_default().join("dump.pm2");
        if dump.exists() {
            return Ok(dump);
        }
        Err(CtlError::Refused(format!(
            "{} is not there: name an ecosystem file, or run `pm2 save` first, as the user that PM2 \
             runs as",
            dump.display()
        )))
    }

    /// `--listen`, each with the app that it is for.
    fn entries(&self) -> Result<Vec<(Option<String>, String)>, CtlError> {
        let split = |text: &String| {
            let (app, entry) = match text.split_once('=') {
                Some((app, entry)) if !app.contains('/') => (Some(app.to_owned()), entry),
                _ => (None, text.as_str()),
            };
            Listen::parse(entry).map_err(|e| CtlError::Refused(format!("--listen: {e}")))?;
            Ok((app, entry.to_owned()))
        };
        self.listen.iter().map(split).collect()
    }

    /// Refuses names of apps that are not in the source.
    fn is_said_of_some(
        &self,
        apps: &[Converted],
        listen: &[(Option<String>, String)],
    ) -> Result<(), CtlError> {
        let names: Vec<&str> = apps.iter().map(|app| app.report.name.as_str()).collect();
        let said = listen.iter().filter_map(|(app, _)| app.as_ref()).chain(&self.job);
        match said.into_iter().find(|app| !names.contains(&app.as_str())) {
            Some(app) => Err(CtlError::Refused(format!(
                "there is no app \"{app}\" in it, but {}",
                names.join(", ")
            ))),
            None => Ok(()),
        }
    }

    fn read(&self, source: &Path) -> Result<Found, CtlError> {
        let refused = |why: String| CtlError::Refused(format!("{}: {why}", source.display()));
        if source == Path::new("-") {
            let text = io::read_to_string(io::stdin()).map_err(|e| CtlError::file(source, e))?;
            let value = sources::read(Form::Json, &text).map_err(refused)?;
            return sources::find(Form::Json, value).map_err(refused);
        }
        let form = sources::form(source).map_err(refused)?;
        let value = if form == Form::Script {
            fs::metadata(source).map_err(|e| CtlError::file(source, e))?;
            if self.is_static {
                return Err(refused(
                    "this is a program, and --static runs none: have Node write its value down, \
                     node -p 'JSON.stringify(require(\"./ecosystem.config.js\"))' > apps.json, and \
                     import that"
                        .to_owned(),
                ));
            }
            sandbox::evaluate(source, &self.node).map_err(refused)?
        } else {
            let text = fs::read_to_string(source).map_err(|e| CtlError::file(source, e))?;
            sources::read(form, &text).map_err(refused)?
        };
        sources::find(form, value).map_err(refused)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.output.join(format!("{name}.toml"))
    }

    /// Why nothing can be written, if so.
    fn refusal(&self, apps: &[Converted]) -> Option<CtlError> {
        let mut names = BTreeSet::new();
        for app in apps {
            let name = &app.report.name;
            let file = self.file(name);
            if let Some(problem) = &app.report.problem {
                return Some(CtlError::Refused(format!("{name}: {problem}")));
            }
            if !names.insert(name) {
                let message = format!("two apps are called {name}: give one of them another name");
                return Some(CtlError::Refused(message));
            }
            let checked = Config::parse(&file, &app.toml).map_err(CtlError::from);
            if let Err(error) = checked.and_then(|config| schedule::check(&config)) {
                return Some(error);
            }
            if !self.dry_run && !self.force && file.symlink_metadata().is_ok() {
                return Some(CtlError::Refused(format!(
                    "{} is there already: say --force to overwrite it, or --output",
                    file.display()
                )));
            }
        }
        None
    }

    fn write(&self, apps: &[Converted]) -> Result<(), CtlError> {
        fs::create_dir_all(&self.output).map_err(|e| CtlError::file(&self.output, e))?;
        for app in apps {
            let file = self.file(&app.report.name);
            write(&file, app).map_err(|e| CtlError::file(&file, e))?;
        }
        Ok(())
    }

    fn print(&self, report: &Report, configurations: &[String]) -> Result<(), CtlError> {
        let mut out = String::new();
        if self.json {
            out = serde_json::to_string_pretty(report).expect("nothing in it that JSON lacks");
            out.push('\n');
        } else {
            if self.dry_run {
                for (app, text) in report.apps.iter().zip(configurations) {
                    out += &format!("## {}\n{text}\n", app.file);
                }
            }
            out += &report.text();
        }
        let written = io::stdout().write_all(out.as_bytes());
        written.map_err(|e| CtlError::file(Path::new("standard output"), e))
    }
}

/// The beginning of a file.
fn look(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|m| m.is_file()))?;
    file.take(64 << 10).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// All of the text or none of it; what has secrets only for root and the group of the app's folder.
fn write(path: &Path, app: &Converted) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new)?;
    if app.has_secrets {
        let group = fs::metadata(&app.directory).map(|folder| folder.gid());
        let shared = rustix::process::geteuid().is_root() && group.is_ok();
        if let Some(group) = group.ok().filter(|_| shared) {
            fchown(&file, None, Some(group))?;
        }
        let mode = if shared { 0o640 } else { 0o600 };
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.write_all(app.toml.as_bytes())?;
    fs::rename(&new, path)
}
