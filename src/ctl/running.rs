//! Commands for a running app: `reload`, `scale`. Each waits for its effect.

use std::io::{IsTerminal, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{CtlError, print, save};
use crate::control::{Client, ClientError};
use crate::supervisor::{Reloaded, Scale, Status};

/// Read the configuration anew and replace all workers; fails if that failed
#[derive(Debug, clap::Args)]
pub struct Reload {
    /// The app's name
    app: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Change the number of workers, until the next reload or for good
#[derive(Debug, clap::Args)]
pub struct ScaleTo {
    /// The app's name
    app: String,
    /// How many (6), or how many more (+2) or fewer (-1)
    #[arg(value_parser = parse_scale, allow_negative_numbers = true)]
    workers: Scale,
    /// Write the number into the app's configuration as well
    #[arg(long)]
    save: bool,
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
        let reloaded: Reloaded = watched(&self.app, "Reload", json!({}))?;
        if self.json {
            print::json(&reloaded);
        } else {
            println!("{}: generation {} serves", self.app, reloaded.generation);
        }
        Ok(())
    }
}

impl ScaleTo {
    /// Runs the command.
    ///
    /// # Errors
    /// There can't be so many, or they can't be saved.
    pub fn run(&self) -> Result<(), CtlError> {
        let status: Status = watched(&self.app, "Scale", json!({ "workers": self.workers }))?;
        if self.json {
            print::json(&status);
        } else {
            println!("{}: {}", self.app, status.state);
        }
        if self.save {
            let workers = status.wanted;
            save::workers(&self.app, Path::new(&status.file), workers).map_err(|error| {
                CtlError::NotSaved { app: self.app.clone(), workers, source: Box::new(error) }
            })?;
            if !self.json {
                println!("{}: workers = {workers}", status.file);
            }
        }
        Ok(())
    }
}

/// Calls a method of a running app and waits for its effect.
pub(super) fn ask<T: DeserializeOwned>(
    app: &str,
    method: &str,
    parameters: Value,
) -> Result<T, CtlError> {
    Ok(block_on(async { Client::reach(app).await?.call(method, parameters).await })??)
}

/// [`ask`], and where somebody looks, a line says meanwhile how the app is.
pub(super) fn watched<T: DeserializeOwned>(
    app: &str,
    method: &str,
    parameters: Value,
) -> Result<T, CtlError> {
    if !std::io::stderr().is_terminal() {
        return ask(app, method, parameters);
    }
    let answer = block_on(async {
        let mut client = Client::reach(app).await?;
        let mut watching = Client::reach(app).await?;
        watching.watch().await?;
        let progress = async {
            while let Ok(status) = watching.answer::<Status>().await {
                eprint!("\r\x1b[K{app}: {}", status.state);
                let _ = std::io::stderr().flush();
            }
            std::future::pending().await
        };
        let answer = tokio::select! {
            answer = client.call(method, parameters) => answer,
            () = progress => unreachable!("it has no end"),
        };
        eprint!("\r\x1b[K");
        answer
    });
    Ok(answer??)
}

/// Waits for something that speaks to running apps.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(ClientError::Broken)?.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_change_of_it() {
        assert_eq!(parse_scale("6"), Ok(Scale::To(6)));
        assert_eq!(parse_scale("+2"), Ok(Scale::By(2)));
        assert_eq!(parse_scale("-1"), Ok(Scale::By(-1)));
        assert!(parse_scale("many").is_err() && parse_scale("1.5").is_err());
    }
}
