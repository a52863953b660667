//! `[reload] schedule` is systemd's language, so systemd is asked whether it understands it.

use std::io;
use std::process::Command;

use super::CtlError;
use crate::config::Config;

/// Checks the schedule, if there is one and `systemd-analyze` to ask.
///
/// # Errors
/// What systemd says, with the schedule's place in the file.
pub(super) fn check(config: &Config) -> Result<(), CtlError> {
    let Some(schedule) = config.reload.schedule() else { return Ok(()) };
    match Command::new("systemd-analyze").args(["calendar", "--", schedule]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(config.bad_schedule(said.trim()).into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CtlError::Refused(format!("systemd-analyze: {error}"))),
    }
}
