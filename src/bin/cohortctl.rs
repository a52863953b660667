//! `cohortctl`: apps as systemd services.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cohortd::control::ClientError;
use cohortd::ctl::CtlError;
use cohortd::ctl::add::Add;
use cohortd::ctl::check::Check;
use cohortd::ctl::import::Import;
use cohortd::ctl::remove::Remove;
use cohortd::ctl::running::{Reload, ScaleTo, Show};
use cohortd::exit;

/// Adds apps to systemd, and speaks to those that run.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Add(Add),
    Check(Check),
    Import(Import),
    Reload(Reload),
    Remove(Remove),
    Scale(ScaleTo),
    Show(Show),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Add(add) => add.run(),
        Command::Check(check) => check.run(),
        Command::Import(import) => import.run(),
        Command::Reload(reload) => reload.run(),
        Command::Remove(remove) => remove.run(),
        Command::Scale(scale) => scale.run(),
        Command::Show(show) => show.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ CtlError::Dropped(_)) => exit::dropped(&error),
        Err(CtlError::Config(error)) => exit::bad_config(&error),
        Err(CtlError::Running(error @ ClientError::Stopped(_))) => exit::stopped(&error),
        Err(error) => exit::failed(&error),
    }
}
