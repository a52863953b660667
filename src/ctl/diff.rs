//! `cohortctl diff`: in what an app's file is not what runs.

use serde_json::json;

use super::print::{self, Tone, toned};
use super::{CtlError, running};
use crate::config::Takes;
use crate::supervisor::Differences;

/// Show in what an app's configuration is not what runs
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The app's name
    app: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// Runs the command.
    ///
    /// # Errors
    /// The app does not run, or its file is wrong.
    pub fn run(&self) -> Result<(), CtlError> {
        let app = &self.app;
        let Differences { file, differences } = running::ask(app, "Diff", json!({}))?;
        if self.json {
            print::json(&Differences { file, differences });
            return Ok(());
        }
        let Some(takes) = differences.iter().map(|difference| difference.takes).max() else {
            println!("{app} runs as {file} says");
            return Ok(());
        };
        let rows: Vec<_> = differences
            .iter()
            .map(|difference| {
                let value = |value: &Option<String>, tone| {
                    toned(value.as_deref().unwrap_or("(default)"), tone)
                };
                vec![
                    difference.key.as_str().into(),
                    value(&difference.running, Tone::Bad),
                    value(&difference.configured, Tone::Good),
                ]
            })
            .collect();
        print!("{}", print::table(&["KEY", "RUNNING", "CONFIGURED"], &rows));
        println!(
            "\nto bring it into force: {}",
            match takes {
                Takes::Reload => format!("systemctl reload {app}"),
                Takes::Add => format!("cohortctl add {app} && systemctl reload {app}"),
                Takes::Restart => format!(
                    "cohortctl add {app} && systemctl stop {app}.socket {app} && systemctl start \
                     {app}"
                ),
            }
        );
        Ok(())
    }
}
