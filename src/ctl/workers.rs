//! Commands for the workers of an app, or for one of them: `restart`, `signal`, `send`, `trigger`.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::print::{self, Tone, toned};
use super::target::Target;
use super::{CtlError, running};
use crate::supervisor::{Reached, Restarted, Status, Trigger, Triggered, WorkerStatus};

/// Replace the worker of one slot; its successor serves before it goes
#[derive(Debug, clap::Args)]
pub struct Restart {
    /// The slot: APP#SLOT
    #[arg(value_name = "APP#SLOT")]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Send a signal to the workers of an app, or to one
#[derive(Debug, clap::Args)]
pub struct SendSignal {
    /// The app, or one of its slots: APP#SLOT
    #[arg(value_name = "APP[#SLOT]")]
    target: Target,
    /// Its name (SIGUSR2, USR2) or number
    #[arg(value_parser = parse_signal)]
    signal: i32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Send a message to the workers of an app, or to one: process.on("message") in Node
#[derive(Debug, clap::Args)]
pub struct SendMessage {
    /// The app, or one of its slots: APP#SLOT
    #[arg(value_name = "APP[#SLOT]")]
    target: Target,
    /// The message, in JSON: '{"topic":"clear"}', or '"shutdown"'
    #[arg(value_parser = parse_json)]
    message: Value,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Have workers carry out a custom action (io.action() of @pm2/io), or list their actions
#[derive(Debug, clap::Args)]
pub struct TriggerAction {
    /// The app, or one of its slots: APP#SLOT
    #[arg(value_name = "APP[#SLOT]")]
    target: Target,
    /// The action's name; without it they are listed
    action: Option<String>,
    /// What it is given: JSON, and what is none is taken as text
    parameter: Option<String>,
    /// How long to wait for answers, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const SIGNALS: [(&str, Signal); 17] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("URG", Signal::URG),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
];

fn parse_signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, signal)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(signal.as_raw());
    }
    let number = text.parse().ok().filter(|number| Signal::from_named_raw(*number).is_some());
    number.ok_or_else(|| {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        format!("expected one of {}, or a signal's number", names.join(", "))
    })
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("{error}; text is written in quotes of its own: '\"{text}\"'"))
}

impl Restart {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no such slot, or its next worker has failed.
    pub fn run(&self) -> Result<(), CtlError> {
        let Target { app, slot } = &self.target;
        let Some(slot) = slot else {
            return Err(CtlError::Refused(format!(
                "which slot? {app}#0, say. For all workers: `cohortctl reload {app}` replaces them \
                 without losing a request, `systemctl restart {app}` stops and starts the app"
            )));
        };
        let restarted: Restarted = running::watched(app, "Restart", json!({ "slot": slot }))?;
        if self.json {
            print::json(&restarted);
        } else {
            println!("{app}#{slot}: worker {} serves", restarted.worker);
        }
        Ok(())
    }
}

impl SendSignal {
    /// Runs the command.
    ///
    /// # Errors
    /// There is nobody to send it to.
    pub fn run(&self) -> Result<(), CtlError> {
        let Target { app, slot } = &self.target;
        let parameters = json!({ "slot": slot, "signal": self.signal });
        let reached = running::ask(app, "Signal", parameters)?;
        report(app, &reached, self.json);
        Ok(())
    }
}

impl SendMessage {
    /// Runs the command.
    ///
    /// # Errors
    /// There is nobody to send it to.
    pub fn run(&self) -> Result<(), CtlError> {
        let Target { app, slot } = &self.target;
        let parameters = json!({ "slot": slot, "message": self.message });
        let reached = running::ask(app, "Send", parameters)?;
        report(app, &reached, self.json);
        Ok(())
    }
}

fn report(app: &str, reached: &Reached, json: bool) {
    if json {
        return print::json(reached);
    }
    let workers: Vec<String> = reached.workers.iter().map(ToString::to_string).collect();
    let word = if workers.len() == 1 { "worker" } else { "workers" };
    println!("{app}: sent to {word} {}", workers.join(", "));
}

impl TriggerAction {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no such action, or a worker did not answer.
    pub fn run(&self) -> Result<(), CtlError> {
        let Target { app, slot } = &self.target;
        let Some(action) = &self.action else { return self.list() };
        let parameter = self
            .parameter
            .as_ref()
            .map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str())));
        let trigger = Trigger { action: action.clone(), parameter, timeout: self.timeout };
        let mut parameters = json!(trigger);
        parameters["slot"] = json!(slot);
        let Triggered { answers } = running::ask(app, "Trigger", parameters)?;
        let failed: Vec<String> = answers
            .iter()
            .filter_map(|a| Some(format!("{app}#{}: {}", a.slot, a.error.as_ref()?)))
            .collect();
        if self.json {
            print::json(&answers);
        } else {
            for answer in &answers {
                if let Some(value) = &answer.answer {
                    println!("{app}#{}: {value}", answer.slot);
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(CtlError::Refused(failed.join("\n"))) }
    }

    fn list(&self) -> Result<(), CtlError> {
        let status: Status = running::ask(&self.target.app, "Status", json!({}))?;
        let meant = |slot: usize| self.target.slot.is_none_or(|wanted| wanted == slot);
        let workers: Vec<_> = status.workers.iter().filter(|worker| meant(worker.slot)).collect();
        if self.json {
            let of =
                |w: &&WorkerStatus| json!({ "slot": w.slot, "worker": w.id, "actions": w.actions });
            print::json(&workers.iter().map(of).collect::<Vec<_>>());
            return Ok(());
        }
        let rows: Vec<_> = workers
            .iter()
            .map(|worker| {
                let actions = worker.actions.join(", ");
                let none = toned("none announced", Tone::Plain);
                vec![worker.slot.into(), if actions.is_empty() { none } else { actions.into() }]
            })
            .collect();
        print!("{}", print::table(&[" SLOT", "ACTIONS"], &rows));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGUSR2", "usr2", "12"] {
            assert_eq!(parse_signal(text), Ok(12), "{text}");
        }
        for text in ["", "SIG", "SIGSIGTERM", "0", "-1", "999"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_word_is_no_json() {
        assert_eq!(parse_json("\"x\""), Ok(json!("x")));
        assert!(parse_json("x").is_err_and(|error| error.contains("'\"x\"'")));
    }
}
