//! `ExecStopPost=`: after a real stop, close the app's socket too, and remove its temporary files.
//!
//! The socket unit is not bound to the service (on systemd 257 a restart would then replace it and
//! refuse connections), so nothing else closes it. After a crash or a restart it stays open and
//! keeps the connections that arrive. Which of these it is, the unit's job tells. A wrong configuration
//! closes it, too: nobody will answer, and each client would have the service tried again.

use zbus::Connection;
use zbus::OwnedObjectPath;

use crate::{exit, places};

/// systemd's own bus name, also the prefix of its interfaces.
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// What systemd says of a unit that it does not know.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What ended the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// `systemctl stop`, or what depends on one.
    Stop,
    /// The configuration is wrong. The service has failed, and is not tried again.
    Misconfigured,
    /// A restart, or a crash that a restart follows.
    Other,
}

/// Stops the app's socket unit if its service was stopped, or can't be started. What a stopped one
/// had in `/tmp` is removed: systemd does not know a stop from a crash, and would keep it.
///
/// # Errors
/// The bus can't be reached, or systemd says no.
pub async fn clean_up(app: &str) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    let manager = manager(&bus, "org.freedesktop.systemd1.Manager").await?;
    let service = format!("{app}.service");
    let unit: OwnedObjectPath = manager.call("GetUnit", &service.as_str()).await?;
    let mode = match cause(&bus, &unit).await? {
        Cause::Stop => {
            // The folder itself stays: it is a mount here. Nothing that stays does harm.
            let _ = std::fs::remove_dir_all(places::temporary_of(app));
            "replace"
        }
        // With the socket systemd would stop what needs it: the start that has just failed.
        Cause::Misconfigured => "ignore-dependencies",
        Cause::Other => return Ok(()),
    };
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

async fn manager(bus: &Connection, interface: &'static str) -> zbus::Result<zbus::Proxy<'static>> {
    zbus::Proxy::new(bus, SYSTEMD, "/org/freedesktop/systemd1", interface).await
}

async fn cause(bus: &Connection, unit: &OwnedObjectPath) -> zbus::Result<Cause> {
    let unit = zbus::Proxy::new(bus, SYSTEMD, unit, "org.freedesktop.systemd1.Unit").await?;
    let (id, job): (u32, OwnedObjectPath) = unit.get_property("Job").await?;
    if id != 0 {
        let job = zbus::Proxy::new(bus, SYSTEMD, job, "org.freedesktop.systemd1.Job").await?;
        let kind: String = job.get_property("JobType").await?;
        if kind == "stop" {
            return Ok(Cause::Stop);
        }
    }
    // systemd.exec(5) has the variable.
    let status = std::env::var("EXIT_STATUS").unwrap_or_default();
    let is_wrong = status.parse() == Ok(exit::CONFIG);
    Ok(if is_wrong { Cause::Misconfigured } else { Cause::Other })
}
