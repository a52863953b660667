//! `cohortctl`: apps as systemd services.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cohortd::ctl::CtlError;
use cohortd::ctl::add::Add;
use cohortd::ctl::check::Check;
use cohortd::ctl::remove::Remove;
use cohortd::exit;

/// Adds, checks and removes apps that cohortd runs under systemd.
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
    Remove(Remove),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Add(add) => add.run(),
        Command::Check(check) => check.run(),
        Command::Remove(remove) => remove.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CtlError::Config(error)) => exit::bad_config(&error),
        Err(error) => exit::failed(&error),
    }
}
