//! The worker's command line, from script, interpreter and arguments.

use std::path::{Component, Path, PathBuf};

use super::Context;
use super::app::{App, Given};
use super::values::{is_on, text, words};

/// Programs that start the app's own as a child: that one is then no worker of ours.
const RUNNERS: [&str; 5] = ["npm", "npx", "yarn", "pnpm", "npm-cli.js"];

/// How an app is started.
#[derive(Debug, Default)]
pub(super) struct Command {
    /// Empty where the source names no script.
    pub(super) exec: Vec<String>,
    pub(super) directory: PathBuf,
    /// It is Node that is started, on the app's own script.
    pub(super) is_node: bool,
    /// PM2's cluster mode.
    pub(super) is_cluster: bool,
    /// The keys that say so; what they become is the caller's to say.
    pub(super) mode: Vec<Given>,
    /// Something like npm comes before the app's own process.
    pub(super) has_runner: bool,
    /// The script's name without its extension: an app without a name has this one.
    pub(super) stem: String,
    /// The script.
    pub(super) script: Option<PathBuf>,
}

/// What a script is started with.
enum Start {
    Node(String),
    Interpreter(Vec<String>),
    Itself,
}

/// Reads everything that makes the command line.
pub(super) fn command(app: &mut App, context: &Context) -> Command {
    let directory = directory(app, context);
    let mut command = Command { directory, ..Command::default() };
    let interpreter = app.take("exec_interpreter");
    let said = interpreter.as_ref().and_then(|given| text(&given.value));
    let said = said.filter(|word| !word.trim().is_empty());
    let node_args = list(app, "node_args");
    let args = list(app, "args");
    let maps = app.take("source_map_support");
    let script = app.take("script").and_then(|given| match text(&given.value) {
        Some(script) if !script.trim().is_empty() => {
            app.mapped(&given, "exec");
            Some(script)
        }
        _ => {
            app.dropped(&given, "expected a file or a program");
            None
        }
    });
    let (start, rest) = match &script {
        Some(script) => start(script, said.as_deref(), context, &mut command),
        None => (Start::Itself, Vec::new()),
    };
    if let Some(given) = &interpreter {
        interpreted(app, given);
    }
    command.is_node = matches!(start, Start::Node(_));
    let mut options = Vec::new();
    if let Some((given, words)) = node_args {
        match start {
            Start::Itself => app.dropped(&given, "nothing interprets the script"),
            _ => {
                app.mapped(&given, "exec");
                options.extend(words);
            }
        }
    }
    if let Some(given) = maps {
        match is_on(&given.value) {
            true if command.is_node => {
                app.mapped(&given, "exec: --enable-source-maps");
                options.push("--enable-source-maps".to_owned());
            }
            true => app.idle(&given, "it is for Node"),
            false => app.idle(&given, "they are off unless exec turns them on"),
        }
    }
    command.exec = match start {
        Start::Node(node) => vec![node],
        Start::Interpreter(words) => words,
        Start::Itself => Vec::new(),
    };
    command.exec.extend(options);
    command.exec.extend(rest);
    if let Some((given, words)) = args {
        app.mapped(&given, "exec");
        command.exec.extend(words);
    }
    mode(app, &mut command);
    command
}

/// Where workers start: `cwd`, or the folder of the source.
fn directory(app: &mut App, context: &Context) -> PathBuf {
    let Some(given) = app.take("cwd") else { return plain(context.folder) };
    match text(&given.value) {
        Some(cwd) => {
            let directory = plain(&context.folder.join(cwd));
            app.mapped(&given, &format!("directory = {:?}", directory.display().to_string()));
            directory
        }
        None => {
            app.dropped(&given, "expected a folder");
            plain(context.folder)
        }
    }
}

/// A path without the steps that lead nowhere; `..` may be more than it seems, and stays.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// A key that is a list of words; what is none is dropped here.
fn list(app: &mut App, key: &'static str) -> Option<(Given, Vec<String>)> {
    let given = app.take(key)?;
    match words(&given.value) {
        Ok(words) => Some((given, words)),
        Err(why) => {
            app.dropped(&given, &why);
            None
        }
    }
}

/// What the script is started with, and the words that follow.
fn start(
    script: &str,
    interpreter: Option<&str>,
    context: &Context,
    command: &mut Command,
) -> (Start, Vec<String>) {
    let path = command.directory.join(script);
    let is_file = (context.look)(&path).is_some();
    if script.contains(char::is_whitespace) && !is_file && interpreter.is_none() {
        return line(script, context, command);
    }
    // A release is switched by its folder: the script is found from there.
    let script = Path::new(script);
    let script = script.strip_prefix(&command.directory).unwrap_or(script);
    let script = script.to_string_lossy().into_owned();
    let name = Path::new(&script).file_stem().unwrap_or_default();
    command.stem = name.to_string_lossy().into_owned();
    let program = Path::new(&script).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found = is_file || script.contains('/');
    let mut start = match interpreter {
        Some(word) => interpret(word, context),
        None => by_content(&path, found, context),
    };
    if RUNNERS.contains(&program.as_str()) {
        command.has_runner = true;
        start = match start {
            Start::Node(node) if found => Start::Interpreter(vec![node]),
            _ => Start::Itself,
        };
    }
    command.script = Some(path);
    let word = match start {
        Start::Itself if is_file && !script.contains('/') => format!("./{script}"),
        _ => script,
    };
    (start, vec![word])
}

/// A command line instead of a script: words where words will do, else a shell's.
fn line(line: &str, context: &Context, command: &mut Command) -> (Start, Vec<String>) {
    const SHELLS: &str = "|&;<>()$`\\*?~{}[]#!";
    let words = shlex::split(line).filter(|_| !line.contains(|c: char| SHELLS.contains(c)));
    let words = words.filter(|words| words.first().is_some_and(|word| !word.contains('=')));
    let Some(mut words) = words else {
        command.has_runner = true;
        command.stem = "app".to_owned();
        return (Start::Itself, vec!["bash".into(), "-c".into(), line.to_owned()]);
    };
    let program = words.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    command.has_runner = RUNNERS.contains(&program.as_str());
    let script = words.iter().skip(1).find(|word| !word.starts_with('-')).map(Path::new);
    let named = script.and_then(Path::file_stem).unwrap_or(program.as_ref());
    command.stem = named.to_string_lossy().into_owned();
    command.script = script.map(|script| command.directory.join(script));
    if is_node(&program) {
        let node = words.remove(0);
        return (interpret(&node, context), words);
    }
    (Start::Itself, words)
}

fn is_node(program: &str) -> bool {
    program == "node" || program == "nodejs"
}

/// What the source says to start the script with.
fn interpret(word: &str, context: &Context) -> Start {
    let name = Path::new(word).file_name().unwrap_or_default().to_string_lossy();
    match word {
        "none" => Start::Itself,
        "node" => Start::Node(context.node.to_owned()),
        _ if word.starts_with("node@") => Start::Node(context.node.to_owned()),
        _ if is_node(&name) => Start::Node(word.to_owned()),
        _ => Start::Interpreter(shlex::split(word).unwrap_or_else(|| vec![word.to_owned()])),
    }
}

/// What PM2 would start the file with that nothing is said about.
fn by_content(path: &Path, found: bool, context: &Context) -> Start {
    let with = |program: &str| Start::Interpreter(vec![program.to_owned()]);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("sh") => with("bash"),
        Some("py") => with("python3"),
        Some("rb") => with("ruby"),
        Some("php") => with("php"),
        Some("pl") => with("perl"),
        Some("coffee") => with("coffee"),
        Some("ls") => with("lsc"),
        Some("ts" | "tsx") => with("bun"),
        Some("js" | "cjs" | "mjs") => Start::Node(context.node.to_owned()),
        _ if !found => Start::Itself,
        _ => match (context.look)(path) {
            Some(bytes) if bytes.starts_with(b"\x7fELF") => Start::Itself,
            Some(bytes) if bytes.starts_with(b"#!") => {
                let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
                if String::from_utf8_lossy(line).contains("node") {
                    Start::Node(context.node.to_owned())
                } else {
                    Start::Itself
                }
            }
            _ => Start::Node(context.node.to_owned()),
        },
    }
}

/// What became of the interpreter.
fn interpreted(app: &mut App, given: &Given) {
    match text(&given.value) {
        Some(word) if word.starts_with("node@") => app
            .dropped(given, "no version of Node is installed for an app: name its program in exec"),
        Some(word) if word == "none" => app.mapped(given, "exec, which begins with the script"),
        Some(_) => app.mapped(given, "exec"),
        None => app.dropped(given, "expected a program"),
    }
}

/// Cluster or fork, as PM2 would decide.
fn mode(app: &mut App, command: &mut Command) {
    let said = app.take("exec_mode");
    let forced = app.take("execute_command");
    let is_cluster = said.as_ref().and_then(|given| text(&given.value));
    command.is_cluster = match is_cluster.as_deref() {
        Some("cluster" | "cluster_mode") => true,
        Some(_) => false,
        None => app.has("instances") && command.is_node,
    };
    if let Some(given) = forced {
        if is_on(&given.value) {
            command.is_cluster = false;
            command.mode.push(given);
        } else {
            app.idle(&given, "it is off");
        }
    }
    match (said, is_cluster.as_deref()) {
        (Some(given), Some("cluster" | "cluster_mode" | "fork" | "fork_mode")) => {
            command.mode.push(given);
        }
        (Some(given), _) => app.dropped(&given, "expected cluster or fork"),
        (None, _) => {}
    }
}
