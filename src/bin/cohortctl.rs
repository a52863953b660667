//! `cohortctl`: apps as systemd services, and those that run.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cohortd::control::ClientError;
use cohortd::ctl::CtlError;
use cohortd::ctl::add::Add;
use cohortd::ctl::check::Check;
use cohortd::ctl::completions::Completions;
use cohortd::ctl::diff::Diff;
use cohortd::ctl::doctor::Doctor;
use cohortd::ctl::import::Import;
use cohortd::ctl::list::List;
use cohortd::ctl::logs::Logs;
use cohortd::ctl::reexec::Reexec;
use cohortd::ctl::refresh::Refresh;
use cohortd::ctl::remove::Remove;
use cohortd::ctl::running::{Reload, ScaleTo};
use cohortd::ctl::show::Show;
use cohortd::ctl::top::Top;
use cohortd::ctl::workers::{Restart, SendMessage, SendSignal, TriggerAction};
use cohortd::{exit, man};

/// Adds apps to systemd, and speaks to those that run. Without a command it lists them.
#[derive(Parser)]
#[command(name = "cohortctl", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(visible_alias = "list")]
    Ls(List),
    Show(Show),
    Top(Top),
    Add(Add),
    Remove(Remove),
    Import(Import),
    Check(Check),
    Diff(Diff),
    Reload(Reload),
    Reexec(Reexec),
    Scale(ScaleTo),
    Restart(Restart),
    Signal(SendSignal),
    Send(SendMessage),
    Trigger(TriggerAction),
    Logs(Logs),
    Doctor(Doctor),
    Completions(Completions),
    Refresh(Refresh),
    /// Print the man page
    #[command(hide = true)]
    Man,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        None => List::default().run(),
        Some(Command::Ls(list)) => list.run(),
        Some(Command::Show(show)) => show.run(),
        Some(Command::Top(top)) => top.run(),
        Some(Command::Add(add)) => add.run(),
        Some(Command::Remove(remove)) => remove.run(),
        Some(Command::Import(import)) => import.run(),
        Some(Command::Check(check)) => check.run(),
        Some(Command::Diff(diff)) => diff.run(),
        Some(Command::Reload(reload)) => reload.run(),
        Some(Command::Reexec(reexec)) => reexec.run(),
        Some(Command::Scale(scale)) => scale.run(),
        Some(Command::Restart(restart)) => restart.run(),
        Some(Command::Signal(signal)) => signal.run(),
        Some(Command::Send(send)) => send.run(),
        Some(Command::Trigger(trigger)) => trigger.run(),
        Some(Command::Logs(logs)) => logs.run(),
        Some(Command::Doctor(doctor)) => doctor.run(),
        Some(Command::Completions(completions)) => completions.run(Arguments::command()),
        Some(Command::Refresh(refresh)) => refresh.run(),
        Some(Command::Man) => man::print(Arguments::command(), "1")
            .map_err(|error| CtlError::Refused(error.to_string())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ CtlError::Dropped(_)) => exit::dropped(&error),
        Err(CtlError::Config(error)) => exit::bad_config(&error),
        Err(CtlError::Running(error @ ClientError::Stopped(_))) => exit::stopped(&error),
        Err(error) => exit::failed(&error),
    }
}
