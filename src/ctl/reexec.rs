//! `cohortctl reexec`: running apps go on with the program that is installed now.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::running::block_on;
use super::{CtlError, print};
use crate::control::{Client, ClientError};
use crate::places;
use crate::supervisor::{Status, Succession};

/// How long the other program may take to answer when it has said that it can go on.
const LIMIT: Duration = Duration::from_secs(30);

/// How often it is asked whether it does.
const PAUSE: Duration = Duration::from_millis(20);

/// Let running apps go on with the cohortd that is installed now, without a restart
///
/// Workers, connections and the process's PID stay. The installed program is first asked whether it
/// can go on; if it can't, the app goes on as it is.
#[derive(Debug, clap::Args)]
pub struct Reexec {
    /// Apps by name; without one, all that systemd runs
    apps: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Reexec {
    /// Runs the command.
    ///
    /// # Errors
    /// An app goes on with the program that it had.
    pub fn run(&self) -> Result<(), CtlError> {
        let named = !self.apps.is_empty();
        let apps: Vec<String> = match named {
            true => self.apps.clone(),
            false => places::apps().into_iter().filter(|app| is_service(app)).collect(),
        };
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for app in &apps {
            match block_on(reexec(app)).and_then(|result| result) {
                Ok(status) => {
                    if !self.json {
                        println!("{app}: cohortd {} goes on (PID {})", status.version, status.pid);
                    }
                    done.push(status);
                }
                // It was stopped meanwhile: nothing has to go on.
                Err(ClientError::NotRunning { .. } | ClientError::Stopped(_)) if !named => {}
                Err(error) => failed.push(format!("{app}: {error}")),
            }
        }
        if self.json {
            print::json(&done);
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(CtlError::Refused(failed.join("\nerror: "))),
        }
    }
}

async fn reexec(app: &str) -> Result<Status, ClientError> {
    let mut client = Client::connect(app).await?;
    let Succession { number } = client.call("Reexec", json!({})).await?;
    let until = Instant::now() + LIMIT;
    loop {
        match status(app).await {
            Ok(status) if status.successions >= number => return Ok(status),
            // Neither of the two answers for a moment.
            Ok(_) | Err(ClientError::NotRunning { .. } | ClientError::Broken(_)) => {}
            Err(ClientError::Stopped(_)) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() > until {
            let reason = format!(
                "it does not answer since it was to go on: see `journalctl -u {app}`"
            );
            return Err(ClientError::Failed(reason));
        }
        sleep(PAUSE).await;
    }
}

async fn status(app: &str) -> Result<Status, ClientError> {
    Client::connect(app).await?.call("Status", json!({})).await
}

/// Whether systemd runs it, and not somebody in the foreground.
fn is_service(app: &str) -> bool {
    let unit = format!("{app}.service");
    let state = Command::new("systemctl").args(["is-active", "--quiet", &unit]).status();
    state.is_ok_and(|state| state.success())
}
