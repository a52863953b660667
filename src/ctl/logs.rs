//! `cohortctl logs`: what an app and its workers have written. The journal has it, so journalctl
//! shows it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::CtlError;
use crate::config::is_app_name;
use crate::control::Client;
use crate::systemd::unit_file::FOLDER;

/// Show what an app and its workers have written, with journalctl
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The app's name; NAME#SLOT for one worker's output only
    #[arg(value_parser = parse_target)]
    app: Target,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// So many of the last lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
    /// Only errors: cohortd's own, and standard error unless the configuration gives it another priority
    #[arg(long)]
    err: bool,
    /// From then on: "10 min ago", "today", "2026-11-20 18:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<OsString>,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

/// An app, or one of its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    app: String,
    slot: Option<usize>,
}

fn parse_target(text: &str) -> Result<Target, String> {
    let (app, slot) = match text.split_once('#') {
        None => (text, None),
        Some((app, slot)) => {
            let slot = slot.parse().map_err(|_| "expected a slot's number behind the #")?;
            (app, Some(slot))
        }
    };
    if is_app_name(app) {
        Ok(Target { app: app.to_owned(), slot })
    } else {
        Err("expected an app's name, such as myapp or myapp#0".to_owned())
    }
}

impl Logs {
    /// Becomes journalctl.
    ///
    /// # Errors
    /// There is no journalctl, or no such service.
    pub fn run(&self) -> Result<(), CtlError> {
        let app = &self.app.app;
        if !Path::new(FOLDER).join(format!("{app}.service")).exists() {
            return Err(CtlError::Refused(no_service(app)));
        }
        let error = Command::new("journalctl").args(self.arguments()).exec();
        Err(CtlError::Refused(match error.kind() {
            io::ErrorKind::NotFound => "there is no journalctl here".to_owned(),
            _ => format!("journalctl: {error}"),
        }))
    }

    fn arguments(&self) -> Vec<OsString> {
        let Target { app, slot } = &self.app;
        let mut words: Vec<OsString> = vec!["--unit".into(), format!("{app}.service").into()];
        let mut option = |name: &str, value: Option<OsString>| {
            words.extend(value.into_iter().flat_map(|value| [name.into(), value]));
        };
        option("--identifier", slot.map(|slot| format!("{app}-w{slot}").into()));
        option("--lines", self.lines.map(|n| n.to_string().into()));
        option("--priority", self.err.then(|| "err".into()));
        option("--since", self.since.clone());
        option("--output", self.json.then(|| "json".into()));
        words.extend(self.follow.then(|| "--follow".into()));
        words
    }
}

/// Why an app without a service has no log here.
fn no_service(app: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    if runtime.is_ok_and(|runtime| runtime.block_on(Client::connect(app)).is_ok()) {
        format!(
            "{app} runs in the foreground: its log is where `cohortd run` was started, and not in the \
             journal"
        )
    } else {
        format!("there is no app \"{app}\" here; what a removed one has left: journalctl -u {app}")
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::Logs;

    fn arguments(line: &str) -> Result<String, String> {
        let command = Logs::augment_args(Command::new("logs").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split(' ')).map_err(|e| e.to_string())?;
        let logs = Logs::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        let words: Vec<_> =
            logs.arguments().into_iter().map(|w| w.to_string_lossy().into_owned()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn journalctl_is_told_whose_lines_are_wanted() {
        for (line, want) in [
            ("shop", "--unit shop.service"),
            ("shop -f", "--unit shop.service --follow"),
            ("shop#2 -n 20", "--unit shop.service --identifier shop-w2 --lines 20"),
            ("shop --err --json", "--unit shop.service --priority err --output json"),
            ("shop --since -1h", "--unit shop.service --since -1h"),
        ] {
            assert_eq!(arguments(line).as_deref(), Ok(want), "{line}");
        }
        for line in ["shop#", "shop#x", "../shop", "#1", "shop#1#2"] {
            assert!(arguments(line).is_err(), "{line}");
        }
    }
}
