//! `[metrics]`: where monitoring systems fetch metrics, and whether the app's own are among them.

use super::Kind;
use super::check::{Check, Checked};
use super::file::{self, Toggle};
use super::value::Listen;

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// `listen`: where they are served. Default: nowhere.
    pub listen: Option<Listen>,
    /// `prom_client`: whether the workers' own are among them. Default `auto`.
    pub prom_client: PromClient,
}

/// Whether the metrics of the workers' own `prom-client` are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromClient {
    /// Where the package is installed, of workers that answer.
    #[default]
    Auto,
    /// Of every worker.
    On,
    /// Of none.
    Off,
}

impl Check<'_> {
    pub(super) fn metrics(
        &self,
        raw: &file::Metrics,
        routed: &[Listen],
        kind: Kind,
    ) -> Checked<Metrics> {
        let listen = match &raw.listen {
            None => None,
            Some(text) => {
                let at =
                    only_here(text.as_ref()).or_else(|message| self.error(text.span(), message))?;
                if let Some(other) = routed.iter().find(|on| on.covers(&at) || at.covers(on)) {
                    let message = format!("listen has this already: \"{other}\"");
                    return self.error(text.span(), message);
                }
                Some(at)
            }
        };
        let prom_client = match &raw.prom_client {
            None => PromClient::Auto,
            Some(key) if kind != Kind::Node => {
                let why = "they have no IPC channel";
                let message =
                    format!("metrics.prom_client means nothing to workers of this kind: {why}");
                return self.error(key.span(), message);
            }
            Some(key) if listen.is_none() => {
                return self.error(key.span(), "prom_client means nothing without metrics.listen");
            }
            Some(key) => match key.as_ref() {
                Toggle::Switch(true) => PromClient::On,
                Toggle::Switch(false) => PromClient::Off,
                Toggle::Word(word) if word == "auto" => PromClient::Auto,
                Toggle::Word(word) => {
                    let message = format!("expected \"auto\", true or false, found \"{word}\"");
                    return self.error(key.span(), message);
                }
            },
        };
        Ok(Metrics { listen, prom_client })
    }
}

/// Metrics tell anybody who asks: only programs of this machine may.
fn only_here(text: &str) -> Result<Listen, String> {
    let port = match Listen::parse(text) {
        Ok(at @ Listen::Path(_)) => return Ok(at),
        Ok(at @ Listen::Addr(addr)) if addr.ip().is_loopback() => return Ok(at),
        Ok(Listen::Addr(addr)) => addr.port(),
        Ok(Listen::Port(port)) => port,
        Err(_) => {
            return Err(format!(
                "expected an address of this machine (\"127.0.0.1:9464\", \"[::1]:9464\") or a path \
                 (\"/run/cohortd/myapp/metrics.sock\"), found \"{text}\""
            ));
        }
    };
    Err(format!(
        "this would tell the whole network of the app: write \"127.0.0.1:{port}\" or a path, and let \
         a proxy that knows who may ask (nginx, stunnel) make it known to other machines"
    ))
}
