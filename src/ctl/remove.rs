//! `cohortctl remove`: an app is no systemd service any more.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{CONFIG_FOLDER, CtlError, booted, policies, print, systemctl, units};
use crate::config::is_app_name;
use crate::places;

/// Stop an app and remove its units and policies; its configuration stays unless --purge is said
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The app's name
    app: String,
    /// Remove its configuration too
    #[arg(long)]
    purge: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Remove {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no such app, or systemd can't stop it.
    pub fn run(&self) -> Result<(), CtlError> {
        let file = Path::new(CONFIG_FOLDER).join(format!("{}.toml", self.app));
        // Or NAME-reload.service would be taken for an app's.
        let units = if is_app_name(&self.app) { units::of_app(&self.app) } else { Vec::new() };
        if units.is_empty() && !(self.purge && file.exists()) {
            return Err(CtlError::Refused(format!("there is no app \"{}\" here", self.app)));
        }
        if booted() && !units.is_empty() {
            let mut disable = vec!["disable", "--now"];
            let names = units.iter().filter_map(|path| path.file_name()?.to_str());
            // A template has nothing to stop.
            disable.extend(names.filter(|name| !name.contains("@.")));
            systemctl(&disable)?;
            // systemd would go on listing what has failed. Those that have not are no matter.
            let _ = systemctl(&[&["reset-failed"], &disable[2..]].concat());
            // Nothing has removed those of one that had failed.
            let _ = fs::remove_dir_all(places::temporary_of(&self.app));
        }
        let policies = if units.is_empty() { Vec::new() } else { policies::of_app(&self.app) };
        let mut removed: Vec<PathBuf> = units.into_iter().chain(policies).collect();
        for file in &removed {
            fs::remove_file(file).map_err(|e| CtlError::file(file, e))?;
        }
        policies::reload_bus()?;
        if booted() {
            systemctl(&["daemon-reload"])?;
        }
        if self.purge && file.exists() {
            fs::remove_file(&file).map_err(|e| CtlError::file(&file, e))?;
            removed.push(file.clone());
        }
        if self.json {
            print::json(&json!({ "app": self.app, "removed": removed }));
        } else if file.exists() {
            println!("{} is no service any more; {} stays", self.app, file.display());
        } else {
            println!("{} is removed", self.app);
        }
        Ok(())
    }
}
