//! One generation's configuration, and what follows from it for its workers.

use std::collections::BTreeMap;
use std::ffi::OsString;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::Output;
use super::fleet::Policy;
use crate::config::{Config, Kind, ReadyWhen};
use crate::route::Tls;
use crate::worker::cgroup::Limits;
use crate::worker::spawn::{self, Interface, Plan};
use crate::{log, places};

/// What one reading of the configuration started.
#[derive(Debug)]
pub(super) struct Release {
    pub(super) config: Config,
    /// What its `[tls]` names.
    pub(super) tls: Option<Tls>,
    pub(super) plan: Plan,
}

impl Release {
    pub(super) fn new(config: Config, tls: Option<Tls>, output: Output) -> Release {
        if config.kind == Kind::Node && !config.route.preserve_client_ip {
            tracing::info!(
                "workers see 127.0.0.1 as the address of clients whose requests are proxied: see \
                 [route] preserve_client_ip"
            );
        }
        if access(&config.directory, Access::WRITE_OK) == Err(Errno::ROFS) {
            tracing::info!(
                directory = %config.directory.display(),
                "workers can't write to their directory; if they are to, run `cohortctl add {app}` and \
                 `systemctl restart {app}`",
                app = config.app,
            );
        }
        let plan = plan(&config, output);
        Release { config, tls, plan }
    }

    pub(super) fn policy(&self) -> Policy {
        let config = &self.config;
        Policy {
            ready_timeout: config.ready.timeout,
            backoff: config.restart.backoff,
            restart: config.restart.policy,
            stop_on_exit: config.restart.stop_on_exit.clone(),
            drain: config.stop.drain,
            asks: config.stop.method.len(),
            ask_timeout: config.stop.timeout,
            surge: config.reload.surge,
            canary: config.reload.canary,
        }
    }
}

/// What is said to us about our own process, and not about our workers'.
fn is_ours_alone(name: &str) -> bool {
    name.starts_with("LISTEN_")
        || name.starts_with("NODE_CHANNEL_")
        || matches!(
            name,
            "NODE_UNIQUE_ID"
                | "NOTIFY_SOCKET"
                | "WATCHDOG_PID"
                | "WATCHDOG_USEC"
                | "FDSTORE"
                | "JOURNAL_STREAM"
                | "SYSTEMD_EXEC_PID"
                | "MANAGERPID"
                | "MANAGERPIDFDID"
                | log::LEVELS
        )
        || places::says_folders(name)
}

/// How workers are started. They see our own environment but for what is ours alone, then `PORT` (the
/// first port of `listen`), then what the configuration says.
fn plan(config: &Config, output: Output) -> Plan {
    let output = match output {
        Output::Prefixed => spawn::Output::Piped,
        Output::Inherit if log::is_journal() => spawn::Output::Journal(config.stderr),
        Output::Inherit => spawn::Output::Inherited,
    };
    let mut env: BTreeMap<OsString, OsString> =
        std::env::vars_os().filter(|(name, _)| !is_ours_alone(&name.to_string_lossy())).collect();
    env.extend(places::others().map(|(name, folders)| (name.into(), folders)));
    // Where a worker's own can't be opened, it has ours.
    if matches!(output, spawn::Output::Journal(_)) {
        let ours = std::env::var_os("JOURNAL_STREAM");
        env.extend(ours.map(|stream| ("JOURNAL_STREAM".into(), stream)));
    }
    let is_node = config.kind == Kind::Node;
    // Only Node asks us for the port, which is taken.
    if let Some(port) = config.listen.iter().find_map(|on| on.port()).filter(|_| is_node) {
        env.insert("PORT".into(), port.to_string().into());
    }
    env.extend(config.env.iter().map(|(name, value)| (name.into(), value.into())));
    Plan {
        app: config.app.clone(),
        exec: config.exec.clone(),
        directory: config.directory.clone(),
        interface: match config.kind {
            Kind::Node => Interface::Node(config.framing),
            Kind::Socket => Interface::Socket,
            Kind::Job => Interface::None,
        },
        knows_clients: config.route.preserve_client_ip,
        env,
        env_per_worker: config.env_per_worker.clone(),
        memory: Limits { high: config.memory.recycle_at, max: config.memory.max },
        notifies: !is_node || config.ready.when == ReadyWhen::Notify,
        watchdog: (!is_node && !config.health.event_loop.is_zero())
            .then_some(config.health.event_loop),
        output,
    }
}
