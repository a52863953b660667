//! How the programs end: exit codes, and the one way an error is said.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it failed; standard error says what and what to do |
//! | 2 | the command line is wrong |
//! | 3 | `cohortctl import`: done, but something was dropped that changes how an app behaves |
//! | 75 | the app was stopped before what was asked for happened (EX_TEMPFAIL) |
//! | 78 | the configuration is wrong (EX_CONFIG); nothing was touched |

use std::fmt::Display;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::log;

/// Something of PM2's was not carried over.
pub const DROPPED: u8 = 3;

/// EX_CONFIG of sysexits.h.
pub const CONFIG: u8 = 78;

/// EX_TEMPFAIL of sysexits.h.
pub const STOPPED: u8 = 75;

/// Says that something was not carried over.
pub fn dropped(error: &impl Display) -> ExitCode {
    log::last_words(&format!("warning: {error}"));
    ExitCode::from(DROPPED)
}

/// Says that the app was stopped meanwhile.
pub fn stopped(error: &impl Display) -> ExitCode {
    log::last_words(&format!("error: {error}"));
    ExitCode::from(STOPPED)
}

/// Says what failed.
pub fn failed(error: &impl Display) -> ExitCode {
    log::last_words(&format!("error: {error}"));
    ExitCode::FAILURE
}

/// Says what is wrong with the configuration.
pub fn bad_config(error: &ConfigError) -> ExitCode {
    log::last_words(&format!("error: {error}"));
    ExitCode::from(CONFIG)
}
