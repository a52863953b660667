//! `cohortctl check`: is a configuration right, and does it mean what was thought?

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CONFIG_FOLDER, CtlError, print, schedule};
use crate::config::{Config, is_app_name};
use crate::relay::Reach;
use crate::route::Tls;

/// Check a configuration without touching anything
#[derive(Debug, clap::Args)]
pub struct Check {
    /// An app's name, or a file
    app: String,
    /// Also fail unless this profile is the configured one
    #[arg(long)]
    profile: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The file of an app's name, or the file itself.
pub(super) fn file_of(app: &str) -> PathBuf {
    if is_app_name(app) {
        Path::new(CONFIG_FOLDER).join(format!("{app}.toml"))
    } else {
        PathBuf::from(app)
    }
}

impl Check {
    /// Runs the command.
    ///
    /// # Errors
    /// The configuration is wrong, or has another profile.
    pub fn run(&self) -> Result<(), CtlError> {
        let config = Config::load(&file_of(&self.app))?;
        schedule::check(&config)?;
        Tls::check(&config)?;
        Reach::check(&config)?;
        if let Some(profile) = self.profile.as_ref().filter(|p| **p != config.profile) {
            return Err(CtlError::Refused(format!(
                "{app} is configured with the profile {configured}, not {profile}: use \
                 {app}@{configured}, or set use_profile = \"{profile}\" in {file}",
                app = config.app,
                configured = config.profile,
                file = config.file.display(),
            )));
        }
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        if self.json {
            print::json(&json!({
                "app": config.app, "file": config.file, "profile": config.profile,
                "exec": config.exec, "directory": config.directory, "workers": config.workers,
                "listen": listen,
            }));
            return Ok(());
        }
        println!(
            "{}: right. {} workers of {:?} in {}, listening on {}",
            config.file.display(),
            config.workers,
            config.exec.join(" "),
            config.directory.display(),
            listen.join(", "),
        );
        Ok(())
    }
}
