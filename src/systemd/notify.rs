//! What systemd is told: readiness, a line of status, the end, and that the loop still turns.

use std::time::Duration;

use sd_notify::NotifyState;

/// The way to systemd's notification socket; without one (in the foreground) nothing is said.
#[derive(Debug, Default)]
pub struct Notifier {
    status: String,
}

impl Notifier {
    /// `READY=1`.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// `STOPPING=1`.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// `STATUS=`, when it is another one.
    pub fn status(&mut self, status: String) {
        if self.status != status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// `WATCHDOG=1`.
    pub fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// How often [`Notifier::alive`] has to be said: twice in each `WatchdogSec=`.
    pub fn watchdog_period(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 2)
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd can't be notified");
    }
}
