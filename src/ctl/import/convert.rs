//! One app of PM2's as a configuration, with the report of how.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::Context;
use super::app::{App, Given};
use super::command::{Command, command};
use super::environment::{Environment, environment, named_by_profile};
use super::lifecycle;
use super::report::AppReport;
use super::values::{text, workers};
use crate::config::{Kind, Listen, OF_UNITS, is_app_name};

/// Where `@socket.io/pm2` listens if nobody says otherwise.
const SOCKETIO_PORT: &str = "8080";

/// An app's configuration.
#[derive(Debug)]
pub(super) struct Converted {
    /// The file's text.
    pub(super) toml: String,
    /// There are variables that better not everybody reads.
    pub(super) has_secrets: bool,
    /// Where its workers start.
    pub(super) directory: PathBuf,
    /// Without the file's name, which the caller knows.
    pub(super) report: AppReport,
}

/// What an app listens on.
#[derive(Debug)]
struct Socket {
    entries: Vec<String>,
    /// Where that is said.
    how: String,
}

/// Converts an app.
pub(super) fn convert(keys: Map<String, Value>, context: &Context) -> Converted {
    let mut app = App::new(keys);
    let given_name = app.take("name");
    let command = command(&mut app, context);
    let mut env = environment(&mut app, context);
    let suffix = named_by_profile(&mut app, &env);
    let name = name(&mut app, given_name.as_ref(), &command, suffix.as_deref());

    let (kind, socket, problem) = kind(&mut app, context, &command, &mut env, &name);
    for given in &command.mode {
        let kind = if kind == Kind::Job { "job" } else { "node" };
        app.mapped(given, &format!("kind = \"{kind}\""));
    }
    app.toml.top("exec", command.exec.clone());
    app.toml.top("directory", command.directory.to_string_lossy().as_ref());
    if let Some(socket) = &socket {
        app.toml.top("listen", socket.entries.clone());
    }
    count(&mut app);
    if kind == Kind::Job {
        app.toml.top("kind", "job");
    }
    if let Some(profile) = &env.profile {
        app.toml.top("use_profile", profile.as_str());
    }
    let has_port = env.get("PORT").is_some() || env.differs("PORT");
    lifecycle::ready(&mut app, kind);
    lifecycle::stop(&mut app, kind);
    let goes_on = lifecycle::restart(&mut app);
    lifecycle::schedule(&mut app, &name, !goes_on, has_port, kind);
    lifecycle::memory(&mut app);
    lifecycle::watch(&mut app, &name);
    let user = lifecycle::unit(&mut app, &name);
    env.write(&mut app);

    notes(&mut app, &command, &env, kind, socket.as_ref());
    let secrets = env.secrets();
    if !secrets.is_empty() {
        app.notes.push(format!(
            "secrets, by the look of it: {}. So the file is not for everybody to read; better put \
             them into an env_file, or give them as credentials of systemd's",
            secrets.join(", "),
        ));
    }
    let socket_unit = if kind == Kind::Job { String::new() } else { format!("{name}.socket ") };
    let profile = env.profile.as_deref().unwrap_or("cluster");
    let user = user.map(|user| format!(" --user {user}")).unwrap_or_default();
    let keys = app.finish();
    Converted {
        toml: app.toml.render("Imported from PM2."),
        has_secrets: !secrets.is_empty(),
        directory: command.directory,
        report: AppReport {
            keys,
            notes: std::mem::take(&mut app.notes),
            problem,
            drop_in: drop_in(&app),
            next: vec![
                format!("cohortctl add {name}{user}"),
                format!("systemctl enable --now {socket_unit}{name}@{profile}"),
            ],
            file: String::new(),
            name,
        },
    }
}

/// The app's name as units take it.
fn name(app: &mut App, given: Option<&Given>, command: &Command, suffix: Option<&str>) -> String {
    let said = given.and_then(|given| text(&given.value)).filter(|name| !name.trim().is_empty());
    let mut whole = said.clone().unwrap_or_else(|| command.stem.clone());
    if let Some(suffix) = suffix {
        whole = format!("{whole}-{suffix}");
    }
    let name = fitting(&whole);
    if let Some(given) = given {
        let note = if Some(&name) == said.as_ref() {
            "the name of the file".to_owned()
        } else {
            format!("the name of the file: {name}")
        };
        app.mapped(given, &note);
    }
    name
}

/// The nearest name that units can have.
pub(super) fn fitting(name: &str) -> String {
    let is_its = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut fitting: String = name.chars().map(|c| if is_its(c) { c } else { '-' }).collect();
    fitting = fitting.trim_matches(['-', '_']).chars().take(64).collect();
    while let Some(less) = OF_UNITS.iter().find_map(|end| fitting.strip_suffix(end)) {
        fitting = less.to_owned();
    }
    if is_app_name(&fitting) { fitting } else { "app".to_owned() }
}

/// How the workers are spoken to, what is listened on, and what is missing for that.
fn kind(
    app: &mut App,
    context: &Context,
    command: &Command,
    env: &mut Environment,
    name: &str,
) -> (Kind, Option<Socket>, Option<String>) {
    if command.exec.is_empty() {
        return (Kind::Job, None, Some("it has no script".to_owned()));
    }
    let asked = context.listen(name);
    if context.jobs.iter().any(|job| job == name) {
        return (Kind::Job, None, None);
    }
    if !asked.is_empty() {
        if !command.is_node {
            let problem = "only Node's own servers can be given a socket unchanged: leave out \
                           --listen, or see kind = \"socket\"";
            return (Kind::Job, None, Some(problem.to_owned()));
        }
        if env.differs("PORT") {
            let problem = "increment_var gives each worker a port of its own, and --listen is one \
                           for all: take one of them out";
            return (Kind::Job, None, Some(problem.to_owned()));
        }
        own_port(app, env, &asked);
        return (Kind::Node, Some(Socket { entries: asked, how: "--listen".into() }), None);
    }
    // Every worker has a port of its own: not one socket for all.
    if !command.is_node || env.differs("PORT") {
        return (Kind::Job, None, None);
    }
    if !command.is_cluster && mentions(context, command, "cluster.fork(") {
        app.notes.push(
            "it forks workers of its own (cluster.fork): cohortd would do that for it, without that \
             code and with --listen"
                .to_owned(),
        );
        return (Kind::Job, None, None);
    }
    match socket(context, command, env) {
        Some(socket) => (Kind::Node, Some(socket), None),
        None if command.is_cluster => {
            let problem = format!(
                "no port is known that it listens on: say --listen {name}=PORT, or --job {name} if \
                 it listens on none"
            );
            (Kind::Node, None, Some(problem))
        }
        None => (Kind::Job, None, None),
    }
}

/// With `--listen`, PORT is what cohortd makes of it.
fn own_port(app: &mut App, env: &mut Environment, asked: &[String]) {
    let first = asked.iter().find_map(|entry| Listen::parse(entry).ok()?.port());
    let Some(says) = env.get("PORT").map(str::to_owned) else { return };
    match first {
        Some(first) if says != first.to_string() => {
            env.remove("PORT");
            app.notes.push(format!("PORT was {says}; now it is {first}, the port of --listen"));
        }
        Some(_) => {}
        None => app.notes.push(format!(
            "PORT is {says}, and --listen names no port: the app has to listen on the path by itself"
        )),
    }
}

/// What it listens on, as far as the source says.
fn socket(context: &Context, command: &Command, env: &Environment) -> Option<Socket> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let of_env = |name: &str| Some((port(env.get(name)?)?, format!("env {name}")));
    let (port, how) = of_env("PORT")
        .or_else(|| of_env("PM2_PORT"))
        .or_else(|| Some((port(option(&command.exec)?)?, "its arguments".to_owned())))
        .or_else(|| {
            let is_sticky = mentions(context, command, "@socket.io/sticky");
            let port = SOCKETIO_PORT.parse().ok().filter(|_| is_sticky)?;
            Some((port, "the default of @socket.io/pm2".to_owned()))
        })?;
    let host = ["HOST", "HOSTNAME", "NITRO_HOST"].iter().find_map(|name| env.get(name));
    let entry = match host {
        Some("127.0.0.1" | "localhost") => format!("127.0.0.1:{port}"),
        Some("::1") => format!("[::1]:{port}"),
        _ => port.to_string(),
    };
    Some(Socket { entries: vec![entry], how })
}

/// Whether the beginning of the script has these words in it.
fn mentions(context: &Context, command: &Command, words: &str) -> bool {
    let script = command.script.as_ref().and_then(|script| (context.look)(script));
    script.is_some_and(|script| String::from_utf8_lossy(&script).contains(words))
}

/// The value of `--port` or `-p`.
fn option(exec: &[String]) -> Option<&str> {
    exec.iter().enumerate().find_map(|(at, word)| match word.as_str() {
        "--port" | "-p" => exec.get(at + 1).map(String::as_str),
        word => word.strip_prefix("--port="),
    })
}

/// `instances`.
fn count(app: &mut App) {
    let Some(given) = app.take("instances") else {
        return app.toml.top("workers", 1);
    };
    match workers(&given.value) {
        Some(count) => {
            app.mapped(&given, &format!("workers = {count}"));
            app.toml.top("workers", count);
        }
        None => {
            app.dropped(&given, "expected a number or \"max\"");
            app.toml.top("workers", 1);
        }
    }
}

/// What a reader of the report may not think of.
fn notes(app: &mut App, command: &Command, env: &Environment, kind: Kind, socket: Option<&Socket>) {
    if let Some(Socket { entries, how }) = socket {
        let on = entries.join(", ");
        app.notes.insert(0, format!("it listens on {on} ({how}): systemd opens that for it"));
        if how != "--listen" && entries.iter().all(|entry| entry.parse::<u16>().is_ok()) {
            app.notes.push(
                "this is on every address: if it was for this host alone, say --listen \
                 127.0.0.1:PORT"
                    .to_owned(),
            );
        }
        let others = env.elsewhere("PORT");
        if !others.is_empty() {
            app.notes.push(format!(
                "listen is not part of a profile, and PORT differs in {}",
                others.join(", ")
            ));
        }
    }
    match kind {
        Kind::Node if !command.is_cluster => app.notes.push(
            "in PM2's fork mode its process was alone; here a reload has a second one beside it for \
             a moment"
                .to_owned(),
        ),
        Kind::Job if env.get("PORT").is_some() || env.differs("PORT") => app.notes.push(
            "it opens its port itself, so there is no reload without a gap: a new process would \
             find the port taken; use systemctl restart"
                .to_owned(),
        ),
        _ => {}
    }
    if command.has_runner {
        app.notes.push(
            "something stands between cohortd and the app (npm, a shell): to give the app a socket, \
             name its own script in exec"
                .to_owned(),
        );
    }
}

/// The drop-in's text, a section after the other.
fn drop_in(app: &App) -> String {
    let mut text = String::new();
    let mut last = "";
    for (section, line) in &app.drop_in {
        if *section != last {
            text += &format!("[{section}]\n");
            last = section;
        }
        text += line;
        text.push('\n');
    }
    text
}
