//! From a file's schema to what it means, or to the first thing wrong with it.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::differ;
use super::error::{ConfigError, nearest};
use super::file::{self, Count, File, Text};
use super::value::{self, Listen, Network};
use super::{
    APP_NAME, Balance, Bus, Config, Deliver, Forwarded, Health, Kind, Limits, Memory, OnHang,
    Protocol, Ready, ReadyWhen, Reload, Restart, RestartPolicy, Route, Sticky, Stop, StopMethod,
    app_name, is_name,
};
use crate::systemd::journal::Priority;
use crate::worker::wire::Framing;

/// What lines on standard error may be in the journal.
const PRIORITIES: [(&str, Priority); 5] = [
    ("err", Priority::Err),
    ("warning", Priority::Warning),
    ("notice", Priority::Notice),
    ("info", Priority::Info),
    ("debug", Priority::Debug),
];

/// More workers than this on one machine is a mistake in the file.
const MAX_WORKERS: i64 = 1024;

/// No worker of Node runs in less than this (16 MiB): a smaller limit is a mistake in the unit.
const LEAST_MEMORY: usize = 16 << 20;

/// A file's text, for the places of its mistakes.
pub(super) struct Check<'a> {
    pub(super) file: &'a Path,
    pub(super) source: &'a str,
}

pub(super) type Checked<T> = Result<T, ConfigError>;

impl Check<'_> {
    /// The configuration that a file means.
    pub(super) fn config(&self, raw: File) -> Checked<Config> {
        let app = app_name(self.file).ok_or_else(|| {
            ConfigError::of_file(self.file, format!("the file's name is the app's: {APP_NAME}"))
        })?;
        let folder = std::path::absolute(self.file)
            .ok()
            .and_then(|file| file.parent().map(Path::to_owned))
            .unwrap_or_default();
        let directory = match &raw.directory {
            Some(text) => folder.join(text.as_ref()),
            None => folder,
        };
        let words = [("node", Kind::Node), ("socket", Kind::Socket), ("job", Kind::Job)];
        let kind = self.word(&raw.kind, &words)?.unwrap_or(Kind::Node);
        self.fits(&raw, kind)?;
        let exec = self.exec(&raw.exec)?;
        let listen = self.listen(&raw.listen, kind)?;
        let env = self.env(&raw)?;
        let profile = self.profile(&raw)?;
        let bus = self.relay(&raw.relay, &app, &profile, kind, &listen)?;
        Ok(Config {
            kind,
            file: self.file.to_owned(),
            route: self.route(&raw.route, kind, &exec, bus.as_ref())?,
            exec,
            directory,
            tls: self.tls(&raw.tls, &listen, kind)?,
            metrics: self.metrics(&raw.metrics, &listen, kind)?,
            bus,
            listen,
            workers: self.workers(&raw.workers)?,
            framing: self
                .word(
                    &raw.serialization,
                    &[("advanced", Framing::Advanced), ("json", Framing::Json)],
                )?
                .unwrap_or_default(),
            app,
            profile,
            ready: self.ready(&raw.ready, kind)?,
            health: self.health(&raw.health)?,
            stop: self.stop(&raw.stop)?,
            reload: self.reload(&raw.reload)?,
            restart: self.restart(&raw.restart)?,
            memory: self.memory(&raw.memory)?,
            limits: self.limits(&raw.limits)?,
            access_log: self
                .word(&raw.log.access, &[("off", false), ("json", true)])?
                .unwrap_or(false),
            stderr: self.word(&raw.log.stderr, &PRIORITIES)?.unwrap_or(Priority::Err),
            env_files: self.env_files(&raw.env_file)?,
            env: env.clone(),
            own_env: env,
            env_per_worker: self.env_per_worker(&raw.env_per_worker)?,
            keys: differ::keys(self.source),
            text: self.source.to_owned(),
        })
    }

    pub(super) fn error<T>(&self, span: Range<usize>, message: impl Into<String>) -> Checked<T> {
        Err(ConfigError::at(self.file, self.source, span, message))
    }

    /// One of the words; `None` when the key is absent.
    pub(super) fn word<T: Copy>(
        &self,
        key: &Option<Text>,
        words: &[(&str, T)],
    ) -> Checked<Option<T>> {
        let Some(text) = key else { return Ok(None) };
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text.as_ref()) {
            return Ok(Some(*value));
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.error(
            text.span(),
            format!("expected {}, found \"{}\"", known.join(" or "), text.as_ref()),
        )
    }

    pub(super) fn parsed<T>(
        &self,
        key: &Option<Text>,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Checked<T> {
        match key {
            None => Ok(default),
            Some(text) => parse(text.as_ref()).or_else(|message| self.error(text.span(), message)),
        }
    }

    fn duration(&self, key: &Option<Text>, default: Duration) -> Checked<Duration> {
        self.parsed(key, default, value::duration)
    }

    fn exec(&self, exec: &Option<Spanned<Vec<String>>>) -> Checked<Vec<String>> {
        let Some(exec) = exec else {
            return Err(ConfigError::of_file(
                self.file,
                "exec is missing: exec = [\"node\", \"worker.js\"]",
            ));
        };
        let span = exec.span();
        let exec = exec.as_ref();
        match exec.first() {
            None => self.error(span, "exec has to name a program: [\"node\", \"worker.js\"]"),
            Some(program) if program.is_empty() => {
                self.error(span, "exec begins with an empty string instead of a program")
            }
            Some(program) if exec.len() == 1 && program.contains(char::is_whitespace) => self.error(
                span,
                "one string with spaces is one program's name; write each argument as a string of \
                 its own: [\"node\", \"worker.js\"]",
            ),
            _ if exec.iter().any(|arg| arg.contains('\0')) => {
                self.error(span, "an argument can't contain a NUL character")
            }
            Some(_) => Ok(exec.clone()),
        }
    }

    fn listen(&self, listen: &[Text], kind: Kind) -> Checked<Vec<Listen>> {
        if listen.is_empty() && kind != Kind::Job {
            return Err(ConfigError::of_file(
                self.file,
                "listen is missing: listen = [\"8080\"] for a port, [\"/run/myapp.sock\"] for a path",
            ));
        }
        let mut entries: Vec<Listen> = Vec::new();
        for text in listen {
            let entry = Listen::parse(text.as_ref()).or_else(|m| self.error(text.span(), m))?;
            if entries.contains(&entry) {
                return self.error(text.span(), format!("\"{entry}\" stands here twice"));
            }
            if let Some(other) = entries.iter().find(|other| other.covers(&entry)) {
                return self.error(text.span(), format!("\"{entry}\" is a part of \"{other}\""));
            }
            if let Some(other) = entries.iter().find(|other| entry.covers(other)) {
                return self.error(text.span(), format!("\"{other}\" is a part of \"{entry}\""));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn workers(&self, count: &Option<Spanned<Count>>) -> Checked<usize> {
        // Knows cpusets and the cgroup's cpu.max.
        let auto = std::thread::available_parallelism().map_or(1, usize::from);
        let Some(count) = count else { return Ok(auto) };
        let span = count.span();
        match count.as_ref() {
            Count::Number(n) if (1..=MAX_WORKERS).contains(n) => Ok(*n as usize),
            Count::Number(n) => {
                self.error(span, format!("expected 1 to {MAX_WORKERS} workers, found {n}"))
            }
            Count::Word(word) if word == "auto" => Ok(auto),
            Count::Word(word) => {
                match word.strip_prefix("auto-").and_then(|n| n.parse::<usize>().ok()) {
                    Some(less) => Ok(auto.saturating_sub(less).max(1)),
                    None => self.error(
                        span,
                        format!("expected a number, \"auto\" or \"auto-1\", found \"{word}\""),
                    ),
                }
            }
        }
    }

    fn ready(&self, raw: &file::Ready, kind: Kind) -> Checked<Ready> {
        let words: &[(&str, ReadyWhen)] = match kind {
            Kind::Node => &[
                ("auto", ReadyWhen::Serving),
                ("listening", ReadyWhen::Serving),
                ("message", ReadyWhen::Message),
                ("notify", ReadyWhen::Notify),
            ],
            Kind::Socket | Kind::Job => {
                &[("auto", ReadyWhen::Serving), ("notify", ReadyWhen::Notify)]
            }
        };
        let when = self.parsed(&raw.when, ReadyWhen::Serving, |text| {
            let known = words.iter().find(|(word, _)| *word == text);
            match (known, text.strip_prefix("http:")) {
                (Some((_, when)), _) => Ok(when.clone()),
                (None, Some(path)) if kind != Kind::Job => {
                    value::http_path(path).map(ReadyWhen::Http)
                }
                _ => {
                    let names = words.iter().map(|(word, _)| *word);
                    let path = (kind != Kind::Job).then_some("http:/path");
                    let names: Vec<String> =
                        names.chain(path).map(|name| format!("\"{name}\"")).collect();
                    Err(format!("expected {}, found \"{text}\"", names.join(" or ")))
                }
            }
        })?;
        Ok(Ready { when, timeout: self.duration(&raw.timeout, Duration::from_secs(30))? })
    }

    fn health(&self, raw: &file::Health) -> Checked<Health> {
        let every = self.parsed(&raw.every, Duration::from_secs(5), |text| {
            let every = value::duration(text)?;
            let long_enough = every >= Duration::from_millis(100);
            if long_enough { Ok(every) } else { Err("expected at least 100ms".into()) }
        })?;
        let fail_after = match &raw.fail_after {
            None => 3,
            Some(n) => match u32::try_from(*n.as_ref()) {
                Ok(n @ 1..=1000) => n,
                _ => return self.error(n.span(), "expected 1 to 1000 failures in a row"),
            },
        };
        let event_loop = self.parsed(&raw.event_loop, Duration::from_secs(10), |text| {
            match value::duration(text)? {
                limit if limit.is_zero() || limit >= Duration::from_millis(100) => Ok(limit),
                _ => Err("expected at least 100ms, or 0s for no limit".into()),
            }
        })?;
        let http = self.parsed(&raw.http, None, |text| value::http_path(text).map(Some))?;
        for (key, span) in [
            ("every", raw.every.as_ref().map(Spanned::span)),
            ("fail_after", raw.fail_after.as_ref().map(Spanned::span)),
        ] {
            if let Some(span) = span.filter(|_| http.is_none()) {
                return self.error(span, format!("{key} means nothing without health.http"));
            }
        }
        let words = [("kill", OnHang::Kill), ("abort", OnHang::Abort)];
        let on_hang = self.word(&raw.on_hang, &words)?.unwrap_or(OnHang::Kill);
        Ok(Health { http, every, fail_after, event_loop, on_hang })
    }

    fn stop(&self, raw: &file::Stop) -> Checked<Stop> {
        let mut method = Vec::new();
        for text in raw.method.iter().flatten() {
            method.push(value::stop_method(text.as_ref()).or_else(|m| self.error(text.span(), m))?);
        }
        if raw.method.is_none() {
            method.push(StopMethod::Signal(rustix::process::Signal::TERM.as_raw()));
        }
        Ok(Stop {
            method,
            drain: self.duration(&raw.drain, Duration::from_secs(30))?,
            timeout: self.duration(&raw.timeout, Duration::from_secs(10))?,
        })
    }

    fn reload(&self, raw: &file::Reload) -> Checked<Reload> {
        self.word(&raw.on_failure, &[("rollback", ())])?;
        let surge = match &raw.surge {
            None => 1,
            Some(surge) => match usize::try_from(*surge.as_ref()) {
                Ok(n @ 1..=1024) => n,
                _ => {
                    return self.error(surge.span(), "expected a number of workers from 1 to 1024");
                }
            },
        };
        let disconnects_per_second = match &raw.disconnects_per_second {
            None => 100,
            Some(n) => match u32::try_from(*n.as_ref()) {
                Ok(n @ 1..=100_000) => n,
                _ => return self.error(n.span(), "expected 1 to 100000 clients a second"),
            },
        };
        let schedule = match &raw.schedule {
            None => None,
            Some(text) => match value::calendar(text.as_ref()) {
                Ok(()) => Some(text.clone()),
                Err(message) => return self.error(text.span(), message),
            },
        };
        let canary = self.duration(&raw.canary, Duration::from_secs(10))?;
        Ok(Reload { surge, canary, disconnects_per_second, schedule })
    }

    fn restart(&self, raw: &file::Restart) -> Checked<Restart> {
        use RestartPolicy::{Always, Never, OnFailure};
        let mut stop_on_exit = Vec::new();
        for code in raw.stop_on_exit.iter().flatten() {
            match i32::try_from(*code.as_ref()) {
                Ok(n @ 0..=255) => stop_on_exit.push(n),
                _ => return self.error(code.span(), "expected an exit code from 0 to 255"),
            }
        }
        let words = [("always", Always), ("on-failure", OnFailure), ("never", Never)];
        let backoff = (Duration::from_millis(100), Duration::from_secs(30));
        Ok(Restart {
            policy: self.word(&raw.policy, &words)?.unwrap_or(Always),
            backoff: self.parsed(&raw.backoff, backoff, value::duration_range)?,
            stop_on_exit,
        })
    }

    fn memory(&self, raw: &file::Memory) -> Checked<Memory> {
        let size = |key: &Option<Text>| {
            self.parsed(key, None, |text| match value::size(text)? {
                n if n >= LEAST_MEMORY => Ok(Some(n)),
                _ => Err(format!("expected at least {}M", LEAST_MEMORY >> 20)),
            })
        };
        let memory = Memory { recycle_at: size(&raw.recycle_at)?, max: size(&raw.max)? };
        if let (Some(text), Some(recycle_at), Some(max)) =
            (&raw.recycle_at, memory.recycle_at, memory.max)
            && recycle_at >= max
        {
            return self.error(text.span(), "recycle_at has to be less than max");
        }
        Ok(memory)
    }

    fn route(
        &self,
        raw: &file::Route,
        kind: Kind,
        exec: &[String],
        bus: Option<&Bus>,
    ) -> Checked<Route> {
        let words = [("least-loaded", Balance::LeastLoaded), ("round-robin", Balance::RoundRobin)];
        let deliver =
            [("auto", Deliver::Auto), ("handoff", Deliver::Handoff), ("shared", Deliver::Shared)];
        let forwarded = [
            ("x-forwarded", Forwarded::X),
            ("forwarded", Forwarded::Standard),
            ("both", Forwarded::Both),
        ];
        let trusted = match &raw.trusted {
            None => vec![Network::Loopback],
            Some(list) => list
                .iter()
                .map(|t| Network::parse(t.as_ref()).or_else(|m| self.error(t.span(), m)))
                .collect::<Checked<_>>()?,
        };
        let deliver = self.word(&raw.deliver, &deliver)?.unwrap_or(Deliver::Auto);
        let preserve_client_ip = match &raw.preserve_client_ip {
            Some(preserve) => *preserve.as_ref(),
            None => kind == Kind::Node && begins_with_node(exec),
        };
        if let Some(text) = raw.deliver.as_ref().filter(|_| deliver == Deliver::Shared)
            && !preserve_client_ip
        {
            let message = "this needs what preserve_client_ip = true loads into the workers";
            return self.error(text.span(), message);
        }
        Ok(Route {
            protocol: self
                .word(&raw.protocol, &[("http", Protocol::Http), ("tcp", Protocol::Tcp)])?
                .unwrap_or(Protocol::Http),
            sticky: self.parsed(&raw.sticky, Sticky::Sessions, value::sticky)?,
            trusted,
            preserve_client_ip,
            deliver,
            balance: self.word(&raw.balance, &words)?.unwrap_or(Balance::LeastLoaded),
            queue: self.duration(&raw.queue, Duration::from_secs(5))?,
            proxy_protocol: raw.proxy_protocol.as_ref().is_some_and(|on| *on.as_ref()),
            forwarded: self.word(&raw.forwarded, &forwarded)?.unwrap_or(Forwarded::X),
            request_id: self
                .parsed(&raw.request_id, None, |text| value::header_name(text).map(Some))?,
            host_cookie: self.host_cookie(raw, bus, deliver)?,
        })
    }

    fn limits(&self, raw: &file::Limits) -> Checked<Limits> {
        let head_size = self.parsed(&raw.head_size, 32 << 10, |text| match value::size(text)? {
            n @ 1024..=262_144 => Ok(n),
            _ => Err(format!("expected a size from 1K to 256K, found \"{text}\"")),
        })?;
        let connections = |key: &Option<Spanned<i64>>| match key {
            None => Ok(None),
            Some(n) => match usize::try_from(*n.as_ref()) {
                Ok(n @ 1..) => Ok(Some(n)),
                _ => self.error(n.span(), "expected a number of connections, at least 1"),
            },
        };
        Ok(Limits {
            head_size,
            head_timeout: self.duration(&raw.head_timeout, Duration::from_secs(15))?,
            idle: self.duration(&raw.idle, Duration::from_secs(75))?,
            body_size: self.parsed(&raw.body_size, None, |text| value::size(text).map(Some))?,
            body_timeout: self.duration(&raw.body_timeout, Duration::from_secs(60))?,
            send_timeout: self.duration(&raw.send_timeout, Duration::from_secs(60))?,
            connections: connections(&raw.connections)?,
            connections_per_client: connections(&raw.connections_per_client)?,
        })
    }

    fn profile(&self, raw: &File) -> Checked<String> {
        let Some(name) = &raw.use_profile else { return Ok("cluster".into()) };
        let word = name.as_ref();
        if word != "cluster" && !raw.profile.contains_key(word) {
            let hint = match nearest(word, raw.profile.keys().map(String::as_str)) {
                Some(near) => format!("; did you mean \"{near}\"?"),
                None => format!(": write [profile.{word}.env]"),
            };
            return self.error(name.span(), format!("there is no profile \"{word}\"{hint}"));
        }
        if is_name(word) {
            Ok(word.to_owned())
        } else {
            self.error(name.span(), "a profile's name is letters, digits, - and _")
        }
    }
}

/// Whether it is Node itself that is started, and lets more be loaded into it. Something else may
/// run it as another user or in another root, where it would not find what it has to load.
fn begins_with_node(exec: &[String]) -> bool {
    let is_node = |program: &String| {
        Path::new(program).file_name().is_some_and(|name| name == "node" || name == "nodejs")
    };
    let refuses = ["--experimental-permission", "--experimental-policy"];
    exec.first().is_some_and(is_node)
        && !exec.iter().any(|word| refuses.iter().any(|option| word.starts_with(option)))
}
