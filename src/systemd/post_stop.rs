//! `ExecStopPost=`: what is left of an app after a real stop is ended and removed, and its socket
//! closed.
//!
//! The socket unit is not bound to the service (on systemd 257 a restart would then replace it and
//! refuse connections), so nothing else closes it. After a crash it stays open and keeps the
//! connections that arrive, and the workers live on for the next cohortd. Which of these it is, the
//! unit's job tells. A wrong configuration closes it, too: nobody will answer, and each client would
//! have the service tried again.

use std::env;

use zbus::Connection;
use zbus::OwnedObjectPath;

use crate::worker::cgroup::Service;
use crate::{exit, places};

/// systemd's own bus name, also the prefix of its interfaces.
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// What systemd says of a unit that it does not know.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What ended the service's main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// `systemctl stop`, or what depends on one.
    Stop,
    /// `systemctl restart`.
    Restart,
    /// The configuration is wrong. The service has failed, and is not tried again.
    Misconfigured,
    /// Its own doing, or somebody's who killed it: it is started again.
    Crash,
}

/// Cleans up behind an app's service.
///
/// # Errors
/// The bus can't be reached, or systemd says no.
pub async fn clean_up(app: &str) -> zbus::Result<()> {
    let service = Service::of_control();
    let mut asked = ask(app).await;
    if let (Ok(Cause::Crash), Some(service)) = (&asked, &service) {
        service.make_room();
        // It may be stopped just after it has crashed, and this is not run again then.
        asked = ask(app).await;
    }
    let cause = match asked {
        Ok(cause) => cause,
        // The workers must not depend on the bus.
        Err(_) if says("SERVICE_RESULT", "success") => Cause::Restart,
        Err(_) => Cause::Crash,
    };
    if let Some(service) = service.filter(|_| cause != Cause::Crash) {
        service.end_all();
    }
    asked?;
    let mode = match cause {
        Cause::Stop => {
            // The folder itself stays: it is a mount here. Nothing that stays does harm.
            let _ = std::fs::remove_dir_all(places::temporary_of(app));
            "replace"
        }
        // With the socket systemd would stop what needs it: the start that has just failed.
        Cause::Misconfigured => "ignore-dependencies",
        Cause::Restart | Cause::Crash => return Ok(()),
    };
    let bus = Connection::system().await?;
    let manager = manager(&bus, "org.freedesktop.systemd1.Manager").await?;
    let socket = format!("{app}.socket");
    // The service is still stopping: waiting for the socket's job here would be for ever.
    let stopped: zbus::Result<OwnedObjectPath> =
        manager.call("StopUnit", &(socket.as_str(), mode)).await;
    match stopped {
        // A job has none.
        Err(zbus::Error::MethodError(name, ..)) if name == NO_SUCH_UNIT => Ok(()),
        other => other.map(drop),
    }
}

/// What systemd has said of the main process's end (systemd.exec(5)).
fn says(variable: &str, value: &str) -> bool {
    env::var(variable).is_ok_and(|said| said == value)
}

async fn manager(bus: &Connection, interface: &'static str) -> zbus::Result<zbus::Proxy<'static>> {
    zbus::Proxy::new(bus, SYSTEMD, "/org/freedesktop/systemd1", interface).await
}

/// What ended the main process.
async fn ask(app: &str) -> zbus::Result<Cause> {
    let bus = Connection::system().await?;
    let manager = manager(&bus, "org.freedesktop.systemd1.Manager").await?;
    let unit: OwnedObjectPath = manager.call("GetUnit", &format!("{app}.service").as_str()).await?;
    let unit = zbus::Proxy::new(&bus, SYSTEMD, &unit, "org.freedesktop.systemd1.Unit").await?;
    let (id, job): (u32, OwnedObjectPath) = unit.get_property("Job").await?;
    let kind: String = match id {
        0 => String::new(),
        _ => {
            let job = zbus::Proxy::new(&bus, SYSTEMD, job, "org.freedesktop.systemd1.Job").await?;
            job.get_property("JobType").await?
        }
    };
    Ok(match kind.as_str() {
        "stop" => Cause::Stop,
        "restart" => Cause::Restart,
        _ if says("EXIT_STATUS", &exit::CONFIG.to_string()) => Cause::Misconfigured,
        // It has ended while it was started, or reloaded, and is tried again.
        _ => Cause::Crash,
    })
}
