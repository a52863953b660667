//! `cohortctl refresh`: what `add` has written, as this version would write it. The Debian package runs
//! it after each upgrade.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::list::configured;
use super::units::{self, Unit};
use super::{CtlError, add, booted, policies, systemctl};
use crate::config::Config;
use crate::systemd::unit_file;

/// Write the units and policies of all apps anew, as this version writes them; what was edited stays
#[derive(Debug, clap::Args)]
pub struct Refresh {}

/// What became of an app's files.
enum Outcome {
    /// They are what this version writes, or not ours.
    Same,
    Written,
    /// Left as they are, because of this.
    Left(String),
}

impl Refresh {
    /// Runs the command.
    ///
    /// # Errors
    /// A file can't be read or written; those of the other apps are.
    pub fn run(&self) -> Result<(), CtlError> {
        let programs = add::programs()?;
        let (mut written, mut failed) = (false, Vec::new());
        for (app, file) in configured() {
            match refresh(&app, &file, &programs) {
                Ok(Outcome::Same) => {}
                Ok(Outcome::Written) => {
                    written = true;
                    println!("{app}: units and policies are written anew");
                }
                Ok(Outcome::Left(why)) => {
                    println!("{app}: units and policies stay as they are: {why}");
                }
                Err(error) => failed.push(format!("{app}: {error}")),
            }
        }
        if written {
            policies::reload_bus()?;
            if booted() {
                systemctl(&["daemon-reload"])?;
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(CtlError::Refused(failed.join("\n"))) }
    }
}

fn refresh(app: &str, file: &Path, programs: &Path) -> Result<Outcome, CtlError> {
    // An app that was never added, or that runs another installation's program.
    let Some(service) = units::installed(app) else { return Ok(Outcome::Same) };
    let ours = format!("{}/cohortd ", units::escaped(programs));
    if !service.exec.starts_with(&ours) {
        return Ok(Outcome::Same);
    }
    let old: Vec<PathBuf> = units::of_app(app).into_iter().chain(policies::of_app(app)).collect();
    let text = |path: &Path| unit_file::read(path).unwrap_or_default();
    if let Some(edited) = old.iter().find(|path| !unit_file::is_sealed(&text(path))) {
        return Ok(Outcome::Left(format!("{} has been edited", edited.display())));
    }
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return Ok(Outcome::Left(error.to_string())),
    };
    let mut new = units::render(&config, &service.user, programs);
    new.extend(policies::render(app, &service.user));
    // What an administrator has changed in the file comes into force when they say so, not by an upgrade:
    // systemd would close a port at once.
    let goes = old.iter().any(|path| !new.iter().any(|unit| unit.path == *path));
    let ports = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with("ListenStream=")).map(str::to_owned).collect()
    };
    let before: BTreeSet<_> = old.iter().flat_map(|path| ports(&text(path))).collect();
    let after: BTreeSet<_> = new.iter().flat_map(|unit| ports(&unit.text)).collect();
    if goes || before != after {
        return Ok(Outcome::Left(format!("{} has changed since", file.display())));
    }
    if let Some(foreign) = new.iter().find_map(Unit::foreign) {
        return Ok(Outcome::Left(format!("{} is not ours", foreign.display())));
    }
    new.retain(|unit| text(&unit.path) != unit.text);
    for unit in &new {
        add::write(&unit.path, &unit.text)?;
    }
    Ok(if new.is_empty() { Outcome::Same } else { Outcome::Written })
}
