//! `ExecStopPost=`: what is left of an app after a real stop is ended, and its socket closed.
//!
//! The socket unit is not bound to the service (on systemd 257 a restart would then replace it and
//! refuse connections), so nothing else closes it. After a crash it stays open and keeps the
//! connections that arrive, and the workers live on for the next cohortd. Which of these it is, the
//! unit's job tells.

use std::env;

use zbus::Connection;
use zbus::OwnedObjectPath;

use crate::exit;
use crate::worker::cgroup::Service;

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
    /// Its own doing, or somebody's who killed it: it is started again.
    Crash,
}

/// Cleans up behind an app's service.
///
/// # Errors
/// The bus can't be reached, or systemd says no.
pub async fn clean_up(app: &str) -> zbus::Result<()> {
    let service = Service::of_control();
    // It is not started again, so nobody goes on with the workers.
    let is_final = env::var("EXIT_STATUS").is_ok_and(|status| status == exit::CONFIG.to_string());
    let asked = ask(app).await;
    let cause = match &asked {
        Ok(cause) => *cause,
        Err(_) if env::var("SERVICE_RESULT").is_ok_and(|result| result == "success") => {
            Cause::Restart
        }
        Err(_) => Cause::Crash,
    };
    if let Some(service) = service {
        match cause {
            Cause::Crash if !is_final => service.make_room(),
            _ => service.end_all(),
        }
    }
    asked?;
    if cause == Cause::Stop {
        let bus = Connection::system().await?;
        let manager = manager(&bus, "org.freedesktop.systemd1.Manager").await?;
        let socket = format!("{app}.socket");
        // The service is still stopping: waiting for the socket's job here would be for ever.
        let stopped: zbus::Result<OwnedObjectPath> =
            manager.call("StopUnit", &(socket.as_str(), "replace")).await;
        match stopped {
            // A job has none.
            Err(zbus::Error::MethodError(name, ..)) if name == NO_SUCH_UNIT => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// What ended the main process.
async fn ask(app: &str) -> zbus::Result<Cause> {
    let bus = Connection::system().await?;
    let manager = manager(&bus, "org.freedesktop.systemd1.Manager").await?;
    let unit: OwnedObjectPath = manager.call("GetUnit", &format!("{app}.service").as_str()).await?;
    cause(&bus, &unit).await
}

async fn manager(bus: &Connection, interface: &'static str) -> zbus::Result<zbus::Proxy<'static>> {
    zbus::Proxy::new(bus, SYSTEMD, "/org/freedesktop/systemd1", interface).await
}

async fn cause(bus: &Connection, unit: &OwnedObjectPath) -> zbus::Result<Cause> {
    let unit = zbus::Proxy::new(bus, SYSTEMD, unit, "org.freedesktop.systemd1.Unit").await?;
    let (id, job): (u32, OwnedObjectPath) = unit.get_property("Job").await?;
    if id == 0 {
        return Ok(Cause::Crash);
    }
    let job = zbus::Proxy::new(bus, SYSTEMD, job, "org.freedesktop.systemd1.Job").await?;
    let kind: String = job.get_property("JobType").await?;
    Ok(match kind.as_str() {
        "stop" => Cause::Stop,
        "restart" => Cause::Restart,
        // It has ended while it was started, or reloaded, and is tried again.
        _ => Cause::Crash,
    })
}
