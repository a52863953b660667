//! `cohortctl`: one file a command.

pub mod add;
pub mod check;
pub mod completions;
pub mod diff;
pub mod doctor;
mod hardening;
mod hosts;
pub mod import;
pub mod list;
pub mod logs;
mod policies;
mod print;
pub mod reexec;
pub mod refresh;
pub mod remove;
pub mod running;
mod save;
mod schedule;
pub mod show;
mod target;
pub mod top;
mod units;
pub mod workers;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::ConfigError;

/// Where configurations live.
pub const CONFIG_FOLDER: &str = "/etc/cohortd";

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The configuration is wrong; nothing was changed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A running app was not reached, or said no.
    #[error(transparent)]
    Running(#[from] crate::control::ClientError),
    /// Said wrongly, or not possible now; the message says what to do.
    #[error("{0}")]
    Refused(String),
    /// A file could not be read, written or removed.
    #[error("{path}: {source}{hint}", path = path.display(), hint = hint(source))]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The running app was scaled, and its file is as it was.
    #[error("{app} is scaled to {workers} until its next reload, but that is not saved: {source}")]
    NotSaved {
        /// The app.
        app: String,
        /// How many it has now.
        workers: usize,
        /// Why not.
        source: Box<CtlError>,
    },
    /// Apps were imported, and something of them is not carried over that matters.
    #[error("keys that were dropped and change how the apps behave: {0}, marked with ! above")]
    Dropped(usize),
    /// systemctl said no.
    #[error("`{command}` failed: {output}")]
    Systemctl {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (this is for root: use sudo)",
        _ => "",
    }
}

impl CtlError {
    fn file(path: &Path, source: io::Error) -> Self {
        CtlError::File { path: path.to_owned(), source }
    }
}

/// Runs systemctl and waits for it.
fn systemctl(arguments: &[&str]) -> Result<(), CtlError> {
    let command = format!("systemctl {}", arguments.join(" "));
    let failed = |output: String| CtlError::Systemctl { command: command.clone(), output };
    let output = Command::new("systemctl")
        .args(arguments)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Whether systemd runs this machine.
fn booted() -> bool {
    sd_notify::booted().unwrap_or(false)
}
