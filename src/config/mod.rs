//! The configuration: one TOML file an app, read whole and checked whole.
//!
//! `file` is the schema, `value` and `template` the small languages inside strings, `check` the way from
//! there to [`Config`], `env`, `metrics`, `relay` and `tls` that of some tables, `fits` what does not go together,
//! `env_file` what other files say, `differ` in what two readings differ. A key that is not known
//! is refused, never ignored.

mod check;
mod differ;
mod env;
mod env_file;
mod error;
mod file;
mod fits;
mod metrics;
mod relay;
mod template;
mod tls;
mod value;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::route::affinity::Sticky;
pub use crate::supervisor::fleet::Restart as RestartPolicy;
use crate::systemd::journal::Priority;
use crate::worker::wire::Framing;
pub use differ::{Difference, Takes};
pub(crate) use env::RESERVED;
pub use env_file::EnvFile;
pub use error::ConfigError;
use file::File;
use hyper::header::HeaderName;
pub use metrics::{Metrics, PromClient};
pub use relay::Bus;
pub use template::Template;
pub use tls::{Pem, Tls};
use toml::Spanned;
pub use value::{Listen, Network};

/// A checked configuration. Every value is one that cohortd honours.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The app's name: the file's, without `.toml`; of a `cohortd.toml`, its folder's.
    pub app: String,
    /// The file.
    pub file: PathBuf,
    /// `exec`: the worker's command line; never a shell.
    pub exec: Vec<String>,
    /// `directory`: where workers start. Default: the file's folder. Symbolic links in it are
    /// followed anew at every worker start.
    pub directory: PathBuf,
    /// `listen`: what is routed to the workers.
    pub listen: Vec<Listen>,
    /// `workers`: how many. Default `"auto"`: the processors that this process may use.
    pub workers: usize,
    /// `kind`: how workers are spoken to. Default `node`.
    pub kind: Kind,
    /// `serialization`: the framing of the workers' IPC. Default `advanced`.
    pub framing: Framing,
    /// `use_profile`: the name of the handle unit's instance. Default `cluster`.
    pub profile: String,
    /// `[ready]`.
    pub ready: Ready,
    /// `[health]`.
    pub health: Health,
    /// `[stop]`.
    pub stop: Stop,
    /// `[reload]`.
    pub reload: Reload,
    /// `[restart]`.
    pub restart: Restart,
    /// `[memory]`.
    pub memory: Memory,
    /// `[route]`.
    pub route: Route,
    /// `[limits]`.
    pub limits: Limits,
    /// `[tls]`: clients' connections are encrypted up to us. Default: none is.
    pub tls: Option<Tls>,
    /// `[log] access`: whether there is a line for each request, in JSON. Default `off`.
    pub access_log: bool,
    /// `[log] stderr`: the priority in the journal of what workers write to standard error. Default
    /// `err`.
    pub stderr: Priority,
    /// `[relay]`: how packets get to other hosts. Default: there is none.
    pub bus: Option<Bus>,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `env_file`: files with variables. Default: none.
    pub env_files: Vec<EnvFile>,
    /// `[env]` and the chosen profile's over it; where the configuration was loaded, over those of
    /// [`Config::env_files`].
    pub env: BTreeMap<String, String>,
    /// Of [`Config::env`] what the configuration itself says, and no other file.
    pub own_env: BTreeMap<String, String>,
    /// `[env_per_worker]`: what differs by slot, over all others.
    pub env_per_worker: BTreeMap<String, Template>,
    /// What the file says, by key, for comparing.
    keys: BTreeMap<String, String>,
    /// The file's text, by which a successor reads it again.
    pub(crate) text: String,
}

/// How workers are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Node's own cluster protocol, over IPC.
    Node,
    /// Any language: a listening socket as descriptor 3, as systemd hands it over.
    Socket,
    /// No socket at all: it is only kept running.
    Job,
}

/// When a worker can be sent requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// `when`: what has to be so beside that it serves every `listen` entry. Default `auto`:
    /// nothing.
    pub when: ReadyWhen,
    /// `timeout`: a worker that is not ready by then has failed. Default 30 s.
    pub timeout: Duration,
}

/// What makes a worker ready that serves what it has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadyWhen {
    /// `"auto"`, and `"listening"` for Node: that it does.
    Serving,
    /// `"message"`: `process.send("ready")`.
    Message,
    /// `"notify"`: `READY=1` on the worker's own `NOTIFY_SOCKET`.
    Notify,
    /// `"http:/path"`: a GET of this path is answered with 200 to 399.
    Http(String),
}

/// How it is found out that a worker that is ready does not work any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `http`: a path that a well worker answers with 200 to 399. Before it first has, it is not
    /// ready.
    pub http: Option<String>,
    /// `every`: the time between two such requests, and what each may take. Default 5 s.
    pub every: Duration,
    /// `fail_after`: how many in a row have to fail. Default 3.
    pub fail_after: u32,
    /// `event_loop`: an event loop that stands still for so long hangs; zero: it may. Default 10 s.
    pub event_loop: Duration,
    /// `on_hang`: how the worker is then ended. Default `kill`.
    pub on_hang: OnHang,
}

/// How a worker that hangs is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHang {
    /// SIGKILL.
    Kill,
    /// SIGABRT, for a core dump; SIGKILL after `[stop] timeout`.
    Abort,
}

/// How workers are stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// `method`: what to ask with, in order. Default `["SIGTERM"]`.
    pub method: Vec<StopMethod>,
    /// `drain`: how long requests in flight may take to finish. Default 30 s.
    pub drain: Duration,
    /// `timeout`: how long a worker may take to exit after each request to. Default 10 s.
    pub timeout: Duration,
}

/// One way to ask a worker to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopMethod {
    /// A signal, by its number.
    Signal(i32),
    /// `"message:TEXT"`: `process.on("message", text => …)`.
    Message(String),
}

/// How workers are replaced by those of a new configuration or release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// `surge`: how many workers more than `workers` there may be meanwhile. Default 1.
    pub surge: usize,
    /// `canary`: how long the first new worker has to stay well before others follow. Default
    /// 10 s.
    pub canary: Duration,
    /// `disconnects_per_second`: how fast clients are disconnected that a worker still has after
    /// `[stop] drain`. Default 100.
    pub disconnects_per_second: u32,
    /// `schedule`, with its place in the file: what is wrong with it only systemd can tell.
    schedule: Option<Spanned<String>>,
}

impl Reload {
    /// `schedule`: when a timer of systemd asks for a reload, as `OnCalendar=` takes it.
    pub fn schedule(&self) -> Option<&str> {
        self.schedule.as_ref().map(|text| text.as_ref().as_str())
    }
}

/// When a worker that has exited is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// `policy`. Default `always`.
    pub policy: RestartPolicy,
    /// `backoff`: the first and the longest wait before a start that follows a failure. Default
    /// 100 ms to 30 s; doubled each time, forgotten after the longest wait without a failure.
    pub backoff: (Duration, Duration),
    /// `stop_on_exit`: exit codes after which a slot stays empty.
    pub stop_on_exit: Vec<i32>,
}

/// How much memory a worker may use. Default: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// `recycle_at`: with so many bytes a worker is replaced, as in a reload.
    pub recycle_at: Option<usize>,
    /// `max`: the kernel gives it no more; if it needs more, it is killed.
    pub max: Option<usize>,
}

/// How a request finds its worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// `protocol`: what is spoken on the connections. Default `http`.
    pub protocol: Protocol,
    /// `sticky`: what decides where a client's requests go. Default `auto`: the sessions of Socket.IO.
    pub sticky: Sticky,
    /// `trusted`: clients whose forwarded headers pass unchanged. Default `["loopback"]`.
    pub trusted: Vec<Network>,
    /// `preserve_client_ip`: whether Node workers see their clients' own addresses as their
    /// sockets'. Default: where `exec` begins with Node itself.
    pub preserve_client_ip: bool,
    /// `deliver`: how requests come to their worker. Default `auto`.
    pub deliver: Deliver,
    /// `balance`: how requests without a session are spread. Default `least-loaded`.
    pub balance: Balance,
    /// `queue`: how long a request waits while no worker is ready; then 503. Default 5 s.
    pub queue: Duration,
    /// `proxy_protocol`: connections of trusted proxies begin with a PROXY header. Default no.
    pub proxy_protocol: bool,
    /// `forwarded`: in which headers the app is told who a client is. Default `x-forwarded`.
    pub forwarded: Forwarded,
    /// `request_id`: a header that names each request. Default: none.
    pub request_id: Option<HeaderName>,
    /// `host_cookie`: a cookie by which a balancer knows the host that a client belongs to. Default:
    /// none is issued.
    pub host_cookie: Option<HostCookie>,
}

/// What a client is told of the host that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCookie {
    /// The cookie's name.
    pub name: String,
    /// Its value: the host's.
    pub host: String,
}

/// How requests come to their worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deliver {
    /// One by one, through us.
    Auto,
    /// With their connection, which the worker is given for good.
    Handoff,
    /// Workers listen themselves.
    Shared,
}

/// In which headers the app is told who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`.
    X,
    /// `Forwarded` (RFC 7239).
    Standard,
    /// All of them.
    Both,
}

/// What is spoken on clients' connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, request by request; what begins with TLS is passed on whole.
    Http,
    /// Anything: whole connections, of which nothing is looked at.
    Tcp,
}

impl Route {
    /// A client's own address: the last one that no trusted proxy has, of those that trusted
    /// proxies say (`X-Forwarded-For`). `peer` is who is connected.
    pub fn client<'h>(
        &self,
        peer: Option<IpAddr>,
        forwarded_for: impl Iterator<Item = &'h [u8]>,
    ) -> Option<IpAddr> {
        let trusts = |address: IpAddr| self.trusted.iter().any(|n| n.contains(address));
        let is_proxy = peer.map_or(self.trusted.contains(&Network::Loopback), trusts);
        if !is_proxy {
            return peer;
        }
        let lines: Vec<&str> =
            forwarded_for.filter_map(|value| std::str::from_utf8(value).ok()).collect();
        let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
        let mut client = peer;
        for hop in hops.map_while(|hop| hop.trim().parse::<IpAddr>().ok()) {
            client = Some(hop);
            if !trusts(hop) {
                break;
            }
        }
        client
    }
}

/// How requests without a session are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// To the one of two workers that has fewer requests in flight and sessions.
    LeastLoaded,
    /// In turn.
    RoundRobin,
}

/// What a client may take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `head_size`: bytes of a request's head. Default 32K; above it, 431.
    pub head_size: usize,
    /// `head_timeout`: how long a head may take to arrive; then 408. Default 15 s.
    pub head_timeout: Duration,
    /// `idle`: how long a kept-alive connection may wait for its next request. Default 75 s.
    pub idle: Duration,
    /// `body_size`: bytes of a request's body; above it, 413. Default: as many as it has.
    pub body_size: Option<usize>,
    /// `body_timeout`: how long a body may stop arriving; then 408. Default 60 s.
    pub body_timeout: Duration,
    /// `send_timeout`: how long a client may take nothing of what it is sent; then its connection is
    /// closed. Default 60 s.
    pub send_timeout: Duration,
    /// `connections`: how many may be open, those not counted that a worker was given; above it,
    /// 503. Default: as many as come.
    pub connections: Option<usize>,
    /// `connections_per_client`: how many of them one client may have, or one IPv6 /64. Those of
    /// trusted proxies are not counted. Default: as many as come.
    pub connections_per_client: Option<usize>,
}

impl Config {
    /// Reads and checks a file, and the files with variables that it names.
    ///
    /// # Errors
    /// The first thing wrong with them, with its place.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let source = std::fs::read_to_string(file)
            .map_err(|e| ConfigError::of_file(file, format!("can't be read: {e}")))?;
        Config::load_text(file, &source)
    }

    /// Checks a file's text as it was when it was read, and reads the files with variables that it
    /// names.
    ///
    /// # Errors
    /// The first thing wrong with them, with its place.
    pub fn load_text(file: &Path, source: &str) -> Result<Config, ConfigError> {
        let mut config = Config::parse(file, source)?;
        let mut env = BTreeMap::new();
        for named in &config.env_files {
            let bad = |span, message| ConfigError::at(file, source, span, message);
            env.extend(named.load(&config.directory, bad)?);
        }
        env.append(&mut config.env);
        config.env = env;
        Ok(config)
    }

    /// The certificates, keys and secrets that it names.
    pub fn pems(&self) -> impl Iterator<Item = &Pem> {
        let of_tls = self.tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]);
        of_tls.chain(self.bus.iter().flat_map(Bus::pems))
    }

    /// Something is wrong with what `[relay]` says of the bus.
    pub(crate) fn bad_bus(&self, bus: &Bus, message: impl Into<String>) -> ConfigError {
        self.at(bus.url.span(), message)
    }

    /// Something is wrong with `[reload] schedule`, in the file as it is now.
    pub(crate) fn bad_schedule(&self, message: impl Into<String>) -> ConfigError {
        self.at(self.reload.schedule.as_ref().map(Spanned::span).unwrap_or_default(), message)
    }

    /// An error at a byte range of the file as it is now.
    fn at(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        let source = std::fs::read_to_string(&self.file).unwrap_or_default();
        ConfigError::at(&self.file, &source, span, message)
    }

    /// Checks a file's text, and no other file's; `file` names it in errors, and its folder is where
    /// relative paths start.
    ///
    /// # Errors
    /// The first thing wrong with it, with its place.
    pub fn parse(file: &Path, source: &str) -> Result<Config, ConfigError> {
        let raw: File =
            toml::from_str(source).map_err(|e| ConfigError::of_toml(file, source, &e))?;
        check::Check { file, source }.config(raw)
    }
}

/// What an app's name can be, for people.
pub(crate) const APP_NAME: &str = "letters, digits, - and _, at most 64, beginning with a letter or digit, and not ending in -reload or -cleanup";

/// The app's name for a file, if it can be one: it names units, cgroups and D-Bus objects.
pub fn app_name(file: &Path) -> Option<String> {
    let stem = file.file_stem()?.to_str()?;
    let name = if stem == "cohortd" {
        std::path::absolute(file).ok()?.parent()?.file_name()?.to_str()?.to_owned()
    } else {
        stem.to_owned()
    };
    is_app_name(&name).then_some(name)
}

/// How the names of units end that an app has beside its service.
pub(crate) const OF_UNITS: [&str; 2] = ["-reload", "-cleanup"];

/// A name whose units, `NAME-reload.timer` among them, are no other name's.
pub fn is_app_name(name: &str) -> bool {
    is_name(name) && !OF_UNITS.iter().any(|end| name.ends_with(end))
}

/// Letters, digits, `-` and `_`, beginning with a letter or digit; at most 64.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
