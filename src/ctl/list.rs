//! `cohortctl ls`: every app of this machine that there is a configuration of, or that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::print::{self, Tone, toned};
use super::{CONFIG_FOLDER, CtlError, booted, hosts, running};
use crate::config::is_app_name;
use crate::control::{Client, ClientError};
use crate::places;
use crate::supervisor::Status;

/// An app that does not answer so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// List all apps, those that run and those that don't
#[derive(Debug, Default, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List the hosts that each app's bus leads to
    #[arg(long)]
    hosts: bool,
}

/// An app of this machine.
#[derive(Debug, Serialize)]
struct App {
    app: String,
    /// Its configuration in /etc/cohortd, if it has one there.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// How it is, if it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    /// What systemd calls it if it does not: `inactive`, `failed`, `activating`…
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// Why it is not known how it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl List {
    /// Runs the command.
    ///
    /// # Errors
    /// No runtime.
    pub fn run(&self) -> Result<(), CtlError> {
        let files = configured();
        let names: BTreeSet<String> = files.keys().cloned().chain(places::apps()).collect();
        let mut answers = running::block_on(ask_all(names))?;
        let silent = answers.iter().filter(|(_, answer)| not_running(answer));
        let mut units = units(silent.map(|(name, _)| name.as_str()));
        let mut apps = Vec::new();
        while let Some((app, answer)) = answers.pop_first() {
            let file = files.get(&app).cloned();
            let runs_not = not_running(&answer);
            let (status, error) = match answer {
                Ok(status) => (Some(status), None),
                Err(_) if runs_not => (None, None),
                Err(error) => (None, Some(error.to_string())),
            };
            if runs_not && file.is_none() {
                continue; // of a run that was killed
            }
            apps.push(App { unit: units.remove(&app), app, file, status, error });
        }
        if self.json {
            print::json(&apps);
        } else if apps.is_empty() {
            println!(
                "no apps here. To add one: cohortctl add NAME --exec \"node app.js\" --listen 8080"
            );
        } else if self.hosts {
            let apps = apps.iter().filter_map(|app| app.status.as_ref());
            let rows: Vec<_> = apps.flat_map(hosts::rows).collect();
            if rows.is_empty() {
                println!("no app here has a bus: see [relay] in cohortd.toml(5)");
            } else {
                print!("{}", print::table(&hosts::TITLES, &rows));
            }
        } else {
            print(&apps);
        }
        Ok(())
    }
}

fn print(apps: &[App]) {
    let titles = [
        "APP",
        "STATE",
        " GENERATION",
        " IN FLIGHT",
        " SESSIONS",
        " MEMORY",
        " FAILURES",
        " UPTIME",
    ];
    let rows: Vec<_> = apps
        .iter()
        .map(|app| {
            let name = || app.app.as_str().into();
            let Some(status) = &app.status else {
                let state = app.error.as_deref().or(app.unit.as_deref()).unwrap_or("not running");
                let tone =
                    if state == "failed" || app.error.is_some() { Tone::Bad } else { Tone::Plain };
                let blank = (2..titles.len()).map(|_| "".into());
                return [name(), toned(state, tone)].into_iter().chain(blank).collect();
            };
            let ready = status.workers.iter().filter(|worker| worker.state == "ready").count();
            let tone = if ready >= status.wanted { Tone::Good } else { Tone::Busy };
            let sum = |of: fn(&crate::supervisor::WorkerStatus) -> usize| {
                status.workers.iter().map(of).sum::<usize>()
            };
            vec![
                name(),
                toned(&status.state, tone),
                status.generation.into(),
                sum(|w| w.in_flight).into(),
                sum(|w| w.sessions).into(),
                print::bytes(sum(|w| w.memory.unwrap_or(0))).into(),
                status.failures.into(),
                print::seconds(status.uptime).into(),
            ]
        })
        .collect();
    print!("{}", print::table(&titles, &rows));
}

/// The configurations where systemd's apps have theirs, by name.
pub(super) fn configured() -> BTreeMap<String, PathBuf> {
    let files = std::fs::read_dir(Path::new(CONFIG_FOLDER)).into_iter().flatten().flatten();
    let files = files.map(|entry| entry.path());
    let name = |file: PathBuf| {
        let name = file.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned();
        is_app_name(&name).then_some((name, file))
    };
    files.filter_map(name).collect()
}

async fn ask_all(names: BTreeSet<String>) -> BTreeMap<String, Result<Status, ClientError>> {
    let ask = async |app: &str| Client::connect(app).await?.call("Status", json!({})).await;
    let asked = names.into_iter().map(|app| async move {
        let late =
            || Err(ClientError::Failed(format!("no answer within {} s", PATIENCE.as_secs())));
        let answer = tokio::time::timeout(PATIENCE, ask(&app)).await.unwrap_or_else(|_| late());
        (app, answer)
    });
    asked.collect::<JoinSet<_>>().join_all().await.into_iter().collect()
}

fn not_running(answer: &Result<Status, ClientError>) -> bool {
    matches!(answer, Err(ClientError::NotRunning { .. }))
}

/// What systemd calls the services of these apps.
fn units<'a>(apps: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let apps: Vec<&str> = apps.collect();
    if apps.is_empty() || !booted() {
        return BTreeMap::new();
    }
    let services = apps.iter().map(|app| format!("{app}.service"));
    let output = Command::new("systemctl").arg("is-active").arg("--").args(services).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let said = said.unwrap_or_default();
    apps.into_iter().map(str::to_owned).zip(said.lines().map(str::to_owned)).collect()
}
