//! `[relay]`: over which bus packets get to workers on other hosts, how this host is called there, and
//! where requests of its sessions are brought.

use std::net::SocketAddr;

use toml::Spanned;

use super::check::{Check, Checked};
use super::error::ConfigError;
use super::file;
use super::tls::Pem;
use super::{Deliver, HostCookie, Kind, Listen, value};
use crate::fnv;
use crate::relay::Name;
use crate::relay::bus::{BusUrl, Prefix, UrlError};

/// What may wait for the bus.
const QUEUE: usize = 16 << 20;

/// At least one frame of middle size.
const LEAST_QUEUE: usize = 64 << 10;

/// `[relay]`, where there is a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bus {
    /// `bus`: where it is.
    pub url: Spanned<BusUrl>,
    /// `host`: this host's name. Default: the machine's.
    /// `number`: what the ids of its workers are made from. Default: a hash of its name.
    pub name: Name,
    /// `channel`: what the app's subjects or channels on the bus begin with. Default:
    /// `cohortd.APP.PROFILE`.
    pub channel: Prefix,
    /// `secret`: by what the bus knows us. Default: it knows everybody.
    pub secret: Option<Pem>,
    /// `ca`: who has signed the bus's certificate. Default: somebody whom this machine trusts.
    pub ca: Option<Pem>,
    /// `certificate` and `key`: ours for the bus. Default: none.
    pub identity: Option<(Pem, Pem)>,
    /// `queue`: how many bytes may wait for the bus. Default 16 MiB.
    pub queue: usize,
    /// `forward`: where other hosts bring requests of sessions that are here. Default: nowhere.
    pub forward: Option<SocketAddr>,
}

impl Bus {
    /// The files that it names.
    pub fn pems(&self) -> impl Iterator<Item = &Pem> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.secret.iter().chain(&self.ca).chain(identity)
    }
}

impl Check<'_> {
    pub(super) fn relay(
        &self,
        raw: &file::Relay,
        app: &str,
        profile: &str,
        kind: Kind,
        listen: &[Listen],
    ) -> Checked<Option<Bus>> {
        self.word(&raw.adapter, &[("auto", ())])?;
        let others = [
            ("host", raw.host.as_ref().map(|key| key.span())),
            ("number", raw.number.as_ref().map(|key| key.span())),
            ("channel", raw.channel.as_ref().map(|key| key.span())),
            ("secret", raw.secret.as_ref().map(|key| key.span())),
            ("ca", raw.ca.as_ref().map(|key| key.span())),
            ("certificate", raw.certificate.as_ref().map(|key| key.span())),
            ("key", raw.key.as_ref().map(|key| key.span())),
            ("queue", raw.queue.as_ref().map(|key| key.span())),
            ("forward", raw.forward.as_ref().map(|key| key.span())),
        ];
        let Some(bus) = raw.bus.as_ref().filter(|text| !text.as_ref().is_empty()) else {
            return match others.into_iter().find_map(|(key, span)| Some((key, span?))) {
                Some((key, span)) => {
                    self.error(span, format!("relay.{key} means nothing without relay.bus"))
                }
                None => Ok(None),
            };
        };
        if kind != Kind::Node {
            let message = "relay.bus means nothing to workers of this kind: it carries packets of \
                           Socket.IO's cluster adapter, which come over Node's IPC";
            return self.error(bus.span(), message);
        }
        let url = bus.as_ref().parse::<BusUrl>();
        let url = url.or_else(|error| match error {
            // An error with its place shows the line.
            UrlError::Secret => Err(ConfigError::of_file(self.file, format!("relay.bus: {error}"))),
            error => self.error(bus.span(), error.to_string()),
        })?;
        let pem = |key: &Option<file::Text>| key.as_ref().map(|text| self.pem(text)).transpose();
        let identity = match (pem(&raw.certificate)?, pem(&raw.key)?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => return self.error(bus.span(), "relay.key is missing"),
            (None, Some(_)) => return self.error(bus.span(), "relay.certificate is missing"),
        };
        let ca = pem(&raw.ca)?;
        if !url.tls && (ca.is_some() || identity.is_some()) {
            let message = "certificates mean nothing here: the bus is spoken to in the clear. For \
                           TLS the address begins with tls:// (NATS) or rediss:// (Redis)";
            return self.error(bus.span(), message);
        }
        Ok(Some(Bus {
            url: Spanned::new(bus.span(), url),
            name: self.host(raw)?,
            channel: match &raw.channel {
                None => format!("cohortd.{app}.{profile}").parse().expect("names are words"),
                Some(text) => {
                    let channel = text.as_ref().parse::<Prefix>();
                    channel.or_else(|e| self.error(text.span(), e.to_string()))?
                }
            },
            secret: pem(&raw.secret)?,
            ca,
            identity,
            queue: self.parsed(&raw.queue, QUEUE, queue)?,
            forward: raw.forward.as_ref().map(|text| self.forward(text, listen)).transpose()?,
        }))
    }

    fn forward(&self, text: &file::Text, listen: &[Listen]) -> Checked<SocketAddr> {
        let at = forward(text.as_ref()).or_else(|message| self.error(text.span(), message))?;
        match listen.iter().find(|on| on.covers(&Listen::Addr(at))) {
            Some(other) => self.error(text.span(), format!("listen has this already: \"{other}\"")),
            None => Ok(at),
        }
    }

    /// `[route] host_cookie`.
    pub(super) fn host_cookie(
        &self,
        raw: &file::Route,
        bus: Option<&Bus>,
        deliver: Deliver,
    ) -> Checked<Option<HostCookie>> {
        let Some(text) = &raw.host_cookie else { return Ok(None) };
        let Some(bus) = bus else {
            let message = "route.host_cookie means nothing without relay.bus: there is one host";
            return self.error(text.span(), message);
        };
        if deliver != Deliver::Auto {
            let message = "this needs route.deliver = \"auto\": answers of other ways of delivery \
                           don't pass through cohortd";
            return self.error(text.span(), message);
        }
        value::header_name(text.as_ref()).or_else(|message| self.error(text.span(), message))?;
        let (name, host) = (text.as_ref().clone(), bus.name.name.clone());
        Ok(Some(HostCookie { name, host }))
    }

    fn host(&self, raw: &file::Relay) -> Checked<Name> {
        let name = match &raw.host {
            Some(text) => name(text.as_ref()).or_else(|e| self.error(text.span(), e))?,
            None => machine(),
        };
        let number = match &raw.number {
            None => number_of(&name),
            Some(number) => match u16::try_from(*number.as_ref()) {
                Ok(number @ 1..=Name::MOST) => number,
                _ => {
                    let message = format!(
                        "expected a number from 1 to {}, found {}",
                        Name::MOST,
                        number.as_ref()
                    );
                    return self.error(number.span(), message);
                }
            },
        };
        Ok(Name { name, number })
    }
}

/// The machine's name.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// For most pairs of hosts it is another.
fn number_of(name: &str) -> u16 {
    let hash = fnv::hash(name.as_bytes()) % u64::from(Name::MOST);
    u16::try_from(hash).unwrap_or_default() + 1
}

fn name(text: &str) -> Result<String, String> {
    let is_of_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(is_of_name) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a host's name: at most 64 letters, digits, -, _ and dots, found {text:?}"
    ))
}

/// Other hosts are told of it, so it has to be one that leads here.
fn forward(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(at) if !at.ip().is_unspecified() && at.port() != 0 => Ok(at),
        _ => Err(format!(
            "expected the address at which the other hosts reach this one, and a port \
             (\"10.0.0.1:7443\", \"[fd00::1]:7443\"), found \"{text}\""
        )),
    }
}

fn queue(text: &str) -> Result<usize, String> {
    match value::size(text)? {
        size if size >= LEAST_QUEUE => Ok(size),
        _ => Err(format!("expected at least \"64K\", found \"{text}\"")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(relay: &str) -> Result<Option<Bus>, String> {
        let source = format!("exec = [\"node\", \"x.js\"]\nlisten = [\"8080\"]\n[relay]\n{relay}");
        let config = Config::parse(Path::new("/etc/cohortd/myapp.toml"), &source);
        config.map(|config| config.bus).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_follows_from_the_app_and_the_machine() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("bus = \"\""), Ok(None));
        let bus = parse("bus = \"nats://10.0.0.5\"").expect("right").expect("a bus");
        assert_eq!(
            (bus.channel.to_string().as_str(), bus.queue),
            ("cohortd.myapp.cluster", 16 << 20)
        );
        assert_eq!(bus.name, Name { name: machine(), number: number_of(&machine()) });
        let all = "bus = \"rediss://r\"\nhost = \"web1\"\nnumber = 7\nchannel = \"a.b-c\"\n\
                   secret = \"credential:bus\"\nca = \"ca.pem\"\ncertificate = \"c.pem\"\n\
                   key = \"credential:k\"\nqueue = \"1M\"\nforward = \"[fd00::1]:7443\"";
        let bus = parse(all).expect("right").expect("a bus");
        assert_eq!(bus.name, Name { name: "web1".into(), number: 7 });
        assert_eq!((bus.channel.to_string().as_str(), bus.queue), ("a.b-c", 1 << 20));
        assert_eq!(bus.forward, "[fd00::1]:7443".parse().ok());
        let pems: Vec<String> = bus.pems().map(Pem::to_string).collect();
        assert_eq!(pems, ["credential:bus", "ca.pem", "c.pem", "credential:k"]);
    }

    #[test]
    fn hosts_have_numbers_that_node_can_keep() {
        let numbers: Vec<u16> = (0..9999).map(|n| number_of(&format!("web{n}"))).collect();
        assert!(numbers.iter().all(|number| (1..=Name::MOST).contains(number)));
        let ids = |number| Name { name: String::new(), number }.ids();
        assert_eq!(ids(1), 65_537..=131_071);
        assert!(ids(1).end() < ids(2).start());
        assert_eq!(*ids(Name::MOST).end(), i32::MAX as u64);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("host = \"a\"", "relay.host means nothing without relay.bus"),
            ("bus = \"nats://h\"\nhost = \"\"", "expected a host's name"),
            ("bus = \"nats://h\"\nhost = \"a;b\"", "expected a host's name"),
            ("[route]\nhost_cookie = \"h\"", "route.host_cookie means nothing without relay.bus"),
            (
                "bus = \"nats://h\"\n[route]\nhost_cookie = \"h\"\ndeliver = \"handoff\"",
                "this needs route.deliver",
            ),
            ("bus = \"nats://h\"\n[route]\nhost_cookie = \"h h\"", "can't be a name there"),
            ("bus = \"nats://h\"\nnumber = 0", "expected a number from 1 to 32767, found 0"),
            ("bus = \"nats://h\"\nnumber = 32768", "expected a number from 1 to 32767"),
            ("bus = \"nats://h\"\nchannel = \"a..b\"", "expected words of letters"),
            ("bus = \"nats://h\"\nchannel = \"a.*\"", "expected words of letters"),
            ("bus = \"nats://h\"\nqueue = \"1K\"", "expected at least \"64K\""),
            ("bus = \"nats://h\"\nca = \"x\"", "spoken to in the clear"),
            ("bus = \"tls://h\"\nkey = \"x\"", "relay.certificate is missing"),
            ("bus = \"amqp://h\"", "nats://"),
            ("forward = \"10.0.0.1:7443\"", "relay.forward means nothing without relay.bus"),
            ("bus = \"nats://h\"\nforward = \"7443\"", "expected the address at which"),
            ("bus = \"nats://h\"\nforward = \"0.0.0.0:7443\"", "expected the address at which"),
            ("bus = \"nats://h\"\nforward = \"10.0.0.1:0\"", "expected the address at which"),
            ("bus = \"nats://h\"\nforward = \"10.0.0.1:8080\"", "listen has this already"),
            (
                "bus = \"nats://h\"\nforward = \"10.0.0.1:1\"\n[route]\ndeliver = \"handoff\"",
                "route.deliver is \"handoff\"",
            ),
            (
                "bus = \"nats://h\"\nforward = \"10.0.0.1:1\"\n[route]\nsticky = \"off\"",
                "route.sticky is \"off\"",
            ),
            (
                "bus = \"nats://h\"\nforward = \"10.0.0.1:1\"\n[route]\nprotocol = \"tcp\"",
                "route.protocol is \"tcp\"",
            ),
        ];
        for (relay, want) in table {
            let error = parse(relay).expect_err(relay);
            assert!(error.contains(want), "{relay}: {error}");
            assert!(error.contains("myapp.toml:"), "it has its place: {error}");
        }
    }
}
