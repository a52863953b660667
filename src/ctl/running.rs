//! Commands for a running app: `reload`, `scale`, `show`. Each waits for its effect.

use std::path::Path;

use serde_json::json;

use super::{CtlError, save};
use crate::control::Client;
use crate::supervisor::{Reloaded, Scale, Status};

/// Read the configuration anew and replace all workers; fails if that failed
#[derive(Debug, clap::Args)]
pub struct Reload {
    /// The app's name
    app: String,
}

/// Change the number of workers, until the next reload or for good
#[derive(Debug, clap::Args)]
pub struct ScaleTo {
    /// The app's name
    app: String,
    /// How many (6), or how many more (+2) or fewer (-- -1)
    #[arg(value_parser = parse_scale)]
    workers: Scale,
    /// Write the number into the app's configuration as well
    #[arg(long)]
    save: bool,
}

/// Show a running app and its workers
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The app's name
    app: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_scale(text: &str) -> Result<Scale, String> {
    let number = || text.parse::<i64>().map_err(|_| "expected a number, such as 6, +2 or -1");
    if text.starts_with(['+', '-']) {
        Ok(Scale::By(number()?))
    } else {
        usize::try_from(number()?).map(Scale::To).map_err(|e| e.to_string())
    }
}

impl Reload {
    /// Runs the command.
    ///
    /// # Errors
    /// The configuration is wrong, or the new workers did not stay well.
    pub fn run(&self) -> Result<(), CtlError> {
        let reloaded: Reloaded = ask(&self.app, "Reload", json!({}))?;
        println!("{}: generation {} serves", self.app, reloaded.generation);
        Ok(())
    }
}

impl ScaleTo {
    /// Runs the command.
    ///
    /// # Errors
    /// There can't be so many, or they can't be saved.
    pub fn run(&self) -> Result<(), CtlError> {
        let status: Status = ask(&self.app, "Scale", json!({ "workers": self.workers }))?;
        println!("{}: {}", self.app, status.state);
        if self.save {
            let workers = status.wanted;
            save::workers(&self.app, Path::new(&status.file), workers).map_err(|error| {
                CtlError::NotSaved { app: self.app.clone(), workers, source: Box::new(error) }
            })?;
            println!("{}: workers = {workers}", status.file);
        }
        Ok(())
    }
}

impl Show {
    /// Runs the command.
    ///
    /// # Errors
    /// The app does not run.
    pub fn run(&self) -> Result<(), CtlError> {
        let status: Status = ask(&self.app, "Status", json!({}))?;
        if self.json {
            let text = serde_json::to_string_pretty(&status);
            println!("{}", text.expect("a status has a form in JSON"));
            return Ok(());
        }
        println!("{}: {}, generation {}", status.app, status.state, status.generation);
        if let Some(error) = &status.last_reload_error {
            println!("last reload: {error}");
        }
        println!("SLOT WORKER GENERATION      PID  STATE     IN FLIGHT SESSIONS   MEMORY  STATUS");
        for w in &status.workers {
            let memory = w.memory.map_or_else(|| "?".into(), |bytes| format!("{}M", bytes >> 20));
            let line = format!(
                "{:>4} {:>6} {:>10} {:>8}  {:<9} {:>9} {:>8} {memory:>8}  {}",
                w.slot,
                w.id,
                w.generation,
                w.pid,
                w.state,
                w.in_flight,
                w.sessions,
                w.status.as_deref().unwrap_or_default()
            );
            println!("{}", line.trim_end());
        }
        Ok(())
    }
}

fn ask<T: serde::de::DeserializeOwned>(
    app: &str,
    method: &str,
    parameters: serde_json::Value,
) -> Result<T, CtlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(crate::control::ClientError::Broken)?;
    Ok(runtime.block_on(async { Client::connect(app).await?.call(method, parameters).await })?)
}
