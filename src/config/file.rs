//! The file's schema as serde reads it: every key there is, typed, not yet given a meaning.
//!
//! Values that need a check of their own are kept with their place in the file.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) exec: Option<Spanned<Vec<String>>>,
    pub(super) directory: Option<Text>,
    #[serde(default)]
    pub(super) listen: Vec<Text>,
    pub(super) workers: Option<Spanned<Count>>,
    pub(super) kind: Option<Text>,
    pub(super) serialization: Option<Text>,
    pub(super) use_profile: Option<Text>,
    #[serde(default)]
    pub(super) ready: Ready,
    #[serde(default)]
    pub(super) health: Health,
    #[serde(default)]
    pub(super) stop: Stop,
    #[serde(default)]
    pub(super) reload: Reload,
    #[serde(default)]
    pub(super) restart: Restart,
    #[serde(default)]
    pub(super) memory: Memory,
    #[serde(default)]
    pub(super) route: Route,
    #[serde(default)]
    pub(super) relay: Relay,
    #[serde(default)]
    pub(super) limits: Limits,
    pub(super) tls: Option<Spanned<Tls>>,
    #[serde(default)]
    pub(super) log: Log,
    pub(super) env_file: Option<Spanned<Files>>,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) env: Env,
    #[serde(default)]
    pub(super) env_per_worker: Env,
    #[serde(default)]
    pub(super) profile: BTreeMap<String, Profile>,
}

pub(super) type Env = BTreeMap<Spanned<String>, Text>;

/// `workers`: a number, or a word.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of workers, \"auto\" or \"auto-1\"")]
pub(super) enum Count {
    Number(i64),
    Word(String),
}

/// `env_file`: one file, or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file or a list of files, such as \"/etc/myapp.env\"")]
pub(super) enum Files {
    One(String),
    Several(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ready {
    pub(super) when: Option<Text>,
    pub(super) timeout: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    pub(super) http: Option<Text>,
    pub(super) every: Option<Text>,
    pub(super) fail_after: Option<Spanned<i64>>,
    pub(super) event_loop: Option<Text>,
    pub(super) on_hang: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    pub(super) method: Option<Vec<Text>>,
    pub(super) drain: Option<Text>,
    pub(super) timeout: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    pub(super) surge: Option<Spanned<i64>>,
    pub(super) canary: Option<Text>,
    pub(super) on_failure: Option<Text>,
    pub(super) disconnects_per_second: Option<Spanned<i64>>,
    pub(super) schedule: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restart {
    pub(super) policy: Option<Text>,
    pub(super) backoff: Option<Text>,
    pub(super) stop_on_exit: Option<Vec<Spanned<i64>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) recycle_at: Option<Text>,
    pub(super) max: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) protocol: Option<Text>,
    pub(super) sticky: Option<Text>,
    pub(super) trusted: Option<Vec<Text>>,
    pub(super) preserve_client_ip: Option<Spanned<bool>>,
    pub(super) deliver: Option<Text>,
    pub(super) balance: Option<Text>,
    pub(super) queue: Option<Text>,
    pub(super) proxy_protocol: Option<Spanned<bool>>,
    pub(super) forwarded: Option<Text>,
    pub(super) request_id: Option<Text>,
    pub(super) host_cookie: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    pub(super) adapter: Option<Text>,
    pub(super) bus: Option<Text>,
    pub(super) host: Option<Text>,
    pub(super) number: Option<Spanned<i64>>,
    pub(super) channel: Option<Text>,
    pub(super) secret: Option<Text>,
    pub(super) ca: Option<Text>,
    pub(super) certificate: Option<Text>,
    pub(super) key: Option<Text>,
    pub(super) queue: Option<Text>,
    pub(super) forward: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) head_size: Option<Text>,
    pub(super) head_timeout: Option<Text>,
    pub(super) idle: Option<Text>,
    pub(super) body_size: Option<Text>,
    pub(super) body_timeout: Option<Text>,
    pub(super) send_timeout: Option<Text>,
    pub(super) connections: Option<Spanned<i64>>,
    pub(super) connections_per_client: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) certificate: Option<Text>,
    pub(super) key: Option<Text>,
    pub(super) listen: Option<Spanned<Vec<Text>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) access: Option<Text>,
    pub(super) stderr: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Text>,
    pub(super) prom_client: Option<Spanned<Toggle>>,
}

/// `prom_client`: a word, or yes or no.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"auto\", true or false")]
pub(super) enum Toggle {
    Switch(bool),
    Word(String),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    #[serde(default)]
    pub(super) env: Env,
}
