//! `cohortctl ls --hosts`: the hosts that each app's bus leads to, this one first.

use super::print::{self, Cell, Tone, toned};
use crate::relay::{HostStatus, Volume};
use crate::supervisor::Status;

pub(super) const TITLES: [&str; 10] = [
    "APP",
    "HOST",
    "STATE",
    " NUMBER",
    " WORKERS",
    " FRAMES",
    " BYTES",
    " FORWARDED",
    "VERSION",
    " UPTIME",
];

/// One that was not heard for so long is about to be gone, in seconds.
const SILENT: f64 = 1.5;

/// A row for each host of an app; none if it has no bus. Frames are those that have come from there; of
/// this host, those that were sent. Requests of a host's sessions are forwarded there.
pub(super) fn rows(status: &Status) -> Vec<Vec<Cell>> {
    let Some(bus) = &status.bus else { return Vec::new() };
    let state = match &bus.error {
        Some(error) => toned(format!("this host; {error}"), Tone::Bad),
        None if bus.up => toned("this host", Tone::Good),
        None => toned("this host; not on the bus yet", Tone::Busy),
    };
    let ready = status.workers.iter().filter(|worker| worker.state == "ready").count();
    let name = (status.app.as_str(), bus.host.as_str());
    let counts = (bus.number, ready, bus.sent);
    let own = row(name, state, counts, "".into(), &status.version, status.uptime);
    std::iter::once(own).chain(bus.hosts.iter().map(|host| other(&status.app, host))).collect()
}

fn other(app: &str, host: &HostStatus) -> Vec<Cell> {
    let state = match host.silence {
        silence if silence > SILENT => toned(format!("silent for {silence:.1} s"), Tone::Bad),
        _ => toned("there", Tone::Good),
    };
    let counts = (host.number, host.workers, host.received);
    let forwarded = match (&host.forward, host.forwarded.requests) {
        (None, 0) => "".into(),
        (_, requests) => requests.into(),
    };
    row((app, &host.name), state, counts, forwarded, &host.version, host.uptime)
}

fn row(
    (app, host): (&str, &str),
    state: Cell,
    (number, workers, traffic): (u16, usize, Volume),
    forwarded: Cell,
    version: &str,
    uptime: u64,
) -> Vec<Cell> {
    let bytes = usize::try_from(traffic.bytes).unwrap_or(usize::MAX);
    vec![
        app.into(),
        host.into(),
        state,
        number.into(),
        workers.into(),
        traffic.frames.into(),
        print::bytes(bytes).into(),
        forwarded,
        version.into(),
        print::seconds(uptime).into(),
    ]
}
