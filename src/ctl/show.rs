//! `cohortctl show`: a running app and its workers, or one of them.

use serde_json::json;

use super::print::{self, Tone, toned};
use super::target::Target;
use super::{CtlError, running};
use crate::supervisor::{Status, WorkerStatus};

/// Show a running app and its workers
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The app, or one of its slots: APP#SLOT
    #[arg(value_name = "APP[#SLOT]")]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Runs the command.
    ///
    /// # Errors
    /// The app does not run, or has no such slot.
    pub fn run(&self) -> Result<(), CtlError> {
        let mut status: Status = running::ask(&self.target.app, "Status", json!({}))?;
        if let Some(slot) = self.target.slot {
            status.workers.retain(|worker| worker.slot == slot);
            if status.workers.is_empty() {
                return Err(CtlError::Refused(format!(
                    "{} has no worker in slot {slot}: there are {} slots",
                    status.app, status.wanted
                )));
            }
        }
        if self.json {
            print::json(&status);
            return Ok(());
        }
        match self.target.slot {
            Some(_) => status.workers.iter().for_each(one),
            None => all(&status),
        }
        Ok(())
    }
}

fn all(status: &Status) {
    println!("{}: {}, generation {}", status.app, status.state, status.generation);
    println!(
        "cohortd {} (PID {}) since {}, profile {}, {}",
        status.version,
        status.pid,
        print::seconds(status.uptime),
        status.profile,
        status.file,
    );
    if status.failures > 0 {
        println!("workers have failed {} times since", status.failures);
    }
    if let Some(error) = &status.last_reload_error {
        println!("last reload: {error}");
    }
    let titles = [
        " SLOT",
        " WORKER",
        " GENERATION",
        " PID",
        "STATE",
        " UPTIME",
        " IN FLIGHT",
        " SESSIONS",
        " MEMORY",
        "STATUS",
    ];
    let rows: Vec<_> = status
        .workers
        .iter()
        .map(|w| {
            vec![
                w.slot.into(),
                w.id.into(),
                w.generation.into(),
                w.pid.into(),
                toned(&w.state, Tone::of_state(&w.state)),
                print::seconds(w.uptime).into(),
                w.in_flight.into(),
                w.sessions.into(),
                memory(w).into(),
                w.status.as_deref().unwrap_or_default().into(),
            ]
        })
        .collect();
    print!("\n{}", print::table(&titles, &rows));
}

fn one(worker: &WorkerStatus) {
    let lines = [
        ("slot", worker.slot.to_string()),
        ("worker", worker.id.to_string()),
        ("generation", worker.generation.to_string()),
        ("pid", worker.pid.to_string()),
        ("state", worker.state.clone()),
        ("uptime", print::seconds(worker.uptime)),
        ("in flight", worker.in_flight.to_string()),
        ("sessions", worker.sessions.to_string()),
        ("memory", memory(worker)),
        ("status", worker.status.clone().unwrap_or_default()),
        ("actions", worker.actions.join(", ")),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        println!("{name:<11} {value}");
    }
}

pub(super) fn memory(worker: &WorkerStatus) -> String {
    worker.memory.map_or_else(|| "?".into(), print::bytes)
}
