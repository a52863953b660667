//! What is left of an app after a real stop is ended and removed, and its socket closed.
//!
//! The socket unit is not bound to the service (on systemd 257 a restart would then replace it and
//! refuse connections), so nothing else closes it. After a crash it stays open and keeps the
//! connections that arrive, and the workers live on for the next cohortd. Which of these it is, the
//! unit's job tells `ExecStopPost=`. A wrong configuration closes the socket, too: nobody will answer,
//! and each client would have the service tried again.
//!
//! systemd runs no `ExecStopPost=` for a stop that comes when that of a crash has been run already and
//! the service waits to be started again. So there is another unit, which systemd stops when the service
//! is over, whatever it was before.

use std::env;

use zbus::Connection;
use zbus::OwnedObjectPath;

use crate::worker::cgroup::Service;
use crate::{exit, places};

/// systemd's own bus name, also the prefix of its interfaces.
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// What systemd says of a unit that it does not know.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What systemd says where a job would be replaced and the mode is "fail".
const IN_THE_WAY: &str = "org.freedesktop.systemd1.TransactionIsDestructive";

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
    let asked = ask(app).await;
    let cause = match asked {
        Ok(cause) => cause,
        // The workers must not depend on the bus.
        Err(_) if says("SERVICE_RESULT", "success") => Cause::Restart,
        Err(_) => Cause::Crash,
    };
    match (cause, service) {
        (Cause::Crash, Some(service)) => service.make_room(),
        (_, Some(service)) => service.end_all(),
        (_, None) => {}
    }
    asked?;
    match cause {
        Cause::Stop => stopped(&Connection::system().await?, app, "replace").await,
        // With the socket systemd would stop what needs it: the start that has just failed.
        Cause::Misconfigured => {
            close(&Connection::system().await?, app, "ignore-dependencies").await
        }
        Cause::Restart | Cause::Crash => Ok(()),
    }
}

/// Cleans up behind an app whose service is not up, in whatever state it was stopped.
///
/// # Errors
/// The bus can't be reached, or systemd says no.
pub async fn end(app: &str) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    match unit(&bus, app, "Unit").await {
        Ok(unit) => {
            let state: String = unit.get_property("ActiveState").await?;
            if !["inactive", "failed"].contains(&state.as_str()) {
                return Ok(()); // somebody has stopped the unit that does this
            }
        }
        // It has no process.
        Err(error) if is_unknown(&error) => return stopped(&bus, app, "fail").await,
        Err(error) => return Err(error),
    }
    let path: String = unit(&bus, app, "Service").await?.get_property("ControlGroup").await?;
    if let Some(service) = Service::at(&path) {
        service.end_all();
    }
    // Not where somebody starts it already.
    stopped(&bus, app, "fail").await
}

/// Removes what a stopped app has no more use of, and closes its socket.
async fn stopped(bus: &Connection, app: &str, mode: &str) -> zbus::Result<()> {
    // The folder itself stays where it is a mount, and is made by each start. What stays does no harm.
    let _ = std::fs::remove_dir_all(places::temporary_of(app));
    close(bus, app, mode).await
}

/// Has the socket stopped, unless the mode is "fail" and somebody starts it. The service may still be
/// stopping: waiting for that job would be for ever.
async fn close(bus: &Connection, app: &str, mode: &str) -> zbus::Result<()> {
    let manager = manager(bus, "org.freedesktop.systemd1.Manager").await?;
    let socket = format!("{app}.socket");
    let job: zbus::Result<OwnedObjectPath> =
        manager.call("StopUnit", &(socket.as_str(), mode)).await;
    match job {
        // The kind "job" has none.
        Err(error) if is_unknown(&error) => Ok(()),
        Err(error) if is_error(&error, IN_THE_WAY) => Ok(()),
        other => other.map(drop),
    }
}

fn is_unknown(error: &zbus::Error) -> bool {
    is_error(error, NO_SUCH_UNIT)
}

fn is_error(error: &zbus::Error, which: &str) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if *name == which)
}

/// What systemd has said of the main process's end (systemd.exec(5)).
fn says(variable: &str, value: &str) -> bool {
    env::var(variable).is_ok_and(|said| said == value)
}

async fn manager(bus: &Connection, interface: &'static str) -> zbus::Result<zbus::Proxy<'static>> {
    zbus::Proxy::new(bus, SYSTEMD, "/org/freedesktop/systemd1", interface).await
}

/// An app's service, by one of its interfaces.
async fn unit(bus: &Connection, app: &str, interface: &str) -> zbus::Result<zbus::Proxy<'static>> {
    let manager = manager(bus, "org.freedesktop.systemd1.Manager").await?;
    let unit: OwnedObjectPath = manager.call("GetUnit", &format!("{app}.service").as_str()).await?;
    zbus::Proxy::new(bus, SYSTEMD, unit, format!("{SYSTEMD}.{interface}")).await
}

/// What ended the main process.
async fn ask(app: &str) -> zbus::Result<Cause> {
    let bus = Connection::system().await?;
    let unit = unit(&bus, app, "Unit").await?;
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
