//! Where the bus is: `nats://`, `tls://`, `redis://` and `rediss://`, and the names on it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::wire::HostId;

/// What speaks there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// NATS, without JetStream.
    Nats,
    /// Redis or Valkey, from version 6 on: its pub/sub.
    Redis,
}

/// Where the bus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusUrl {
    /// What speaks there.
    pub engine: Engine,
    /// It is encrypted from the first byte on, or as soon as NATS has greeted.
    pub tls: bool,
    /// Where; NATS may have several servers that know each other. At least one.
    pub servers: Vec<Server>,
    /// The number of Redis' database. Its channels are the same in all.
    pub database: u32,
}

/// A host's name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Why it is not the URL of a bus. Nothing of the text is in it but what can't be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It begins with something else.
    #[error(
        "expected nats://HOST, tls://HOST (NATS over TLS), redis://HOST or rediss://HOST (Redis over TLS)"
    )]
    Scheme,
    /// A user or a password is in it.
    #[error(
        "a user or password in the URL can be read by whoever can read the configuration: \
         leave it out, and give it as a credential"
    )]
    Secret,
    /// There is no host.
    #[error("the URL names no host")]
    NoHost,
    /// It is not a host.
    #[error("expected a host's name or address, found {0:?}")]
    Host(String),
    /// It is not a port.
    #[error("expected a port from 1 to 65535, found {0:?}")]
    Port(String),
    /// More than one.
    #[error("Redis is reached at one host; name one")]
    Several,
    /// There is more behind the host.
    #[error("expected nothing behind the host, found {0:?}")]
    Path(String),
    /// It is not the number of a database.
    #[error("expected nothing or a database's number behind the host, found {0:?}")]
    Database(String),
    /// It is not in this program.
    #[error("this cohortd was built without {engine}: build it with --features {feature}")]
    NotBuilt {
        /// What is missing.
        engine: Engine,
        /// The cargo feature.
        feature: &'static str,
    },
}

/// What the names on the bus begin with: all apps that share it have another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

/// Why names can't begin with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected words of letters, digits, - and _ with dots between them, at most {MOST} bytes: found {0:?}"
)]
pub struct PrefixError(String);

/// The longest prefix, in bytes.
const MOST: usize = 160;

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Nats => "NATS",
            Engine::Redis => "Redis",
        })
    }
}

impl Engine {
    fn is_built(self) -> Result<(), UrlError> {
        let (built, feature) = match self {
            Engine::Nats => (cfg!(feature = "nats"), "nats"),
            Engine::Redis => (cfg!(feature = "redis"), "redis"),
        };
        if built { Ok(()) } else { Err(UrlError::NotBuilt { engine: self, feature }) }
    }
}

impl FromStr for BusUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<BusUrl, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let (engine, tls) = match scheme {
            "nats" => (Engine::Nats, false),
            "tls" => (Engine::Nats, true),
            "redis" => (Engine::Redis, false),
            "rediss" => (Engine::Redis, true),
            _ => return Err(UrlError::Scheme),
        };
        // First, so that nothing of a password gets into another error.
        if rest.contains('@') {
            return Err(UrlError::Secret);
        }
        engine.is_built()?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (hosts, path) = rest.split_at(end);
        let port = if engine == Engine::Nats { 4222 } else { 6379 };
        let servers =
            hosts.split(',').map(|host| server(host, port)).collect::<Result<Vec<_>, _>>()?;
        let number = path.strip_prefix('/').unwrap_or(path);
        let database = match engine {
            Engine::Nats if !number.is_empty() => return Err(UrlError::Path(path.to_owned())),
            Engine::Redis if servers.len() > 1 => return Err(UrlError::Several),
            Engine::Redis if !number.is_empty() => {
                digits(number).ok_or_else(|| UrlError::Database(path.to_owned()))?
            }
            _ => 0,
        };
        Ok(BusUrl { engine, tls, servers, database })
    }
}

fn server(text: &str, default: u16) -> Result<Server, UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) =
                bracketed.split_once(']').ok_or_else(|| UrlError::Host(text.to_owned()))?;
            host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host(text.to_owned()))?;
            (host, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_its = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if host.is_empty() {
                return Err(UrlError::NoHost);
            }
            if !host.chars().all(is_its) {
                return Err(UrlError::Host(host.to_owned()));
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(port) => {
            let number = digits(port).filter(|port| *port != 0);
            number.ok_or_else(|| UrlError::Port(port.to_owned()))?
        }
        None if port.is_empty() => default,
        None => return Err(UrlError::Host(text.to_owned())),
    };
    Ok(Server { host: host.to_owned(), port })
}

/// A number without a sign.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// As in the configuration, with what is the default.
impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.engine, self.tls) {
            (Engine::Nats, false) => "nats",
            (Engine::Nats, true) => "tls",
            (Engine::Redis, false) => "redis",
            (Engine::Redis, true) => "rediss",
        };
        write!(f, "{scheme}://")?;
        for (at, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if at == 0 { "" } else { "," })?;
        }
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let is_its = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let is_word = |word: &str| !word.is_empty() && word.chars().all(is_its);
        if text.len() <= MOST && text.split('.').all(is_word) {
            Ok(Prefix(text.to_owned()))
        } else {
            Err(PrefixError(text.chars().take(MOST).collect()))
        }
    }
}

impl Prefix {
    /// What every host listens to.
    pub fn all(&self) -> String {
        format!("{}.all", self.0)
    }

    /// What one host listens to.
    pub fn host(&self, id: HostId) -> String {
        format!("{}.host.{:016x}", self.0, id.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(feature = "nats", feature = "redis"))]
    #[test]
    fn urls_are_read() {
        for (text, want) in [
            ("nats://bus", "nats://bus:4222"),
            ("nats://bus:1", "nats://bus:1"),
            ("nats://bus/", "nats://bus:4222"),
            ("tls://a.example,b_2:4223,[::1]", "tls://a.example:4222,b_2:4223,[::1]:4222"),
            ("redis://127.0.0.1", "redis://127.0.0.1:6379"),
            ("redis://h/0", "redis://h:6379"),
            ("rediss://[2001:db8::1]:7/3", "rediss://[2001:db8::1]:7/3"),
        ] {
            let url: BusUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.to_string(), want);
            assert_eq!(want.parse(), Ok(url), "{want}");
        }
    }

    #[cfg(all(feature = "nats", feature = "redis"))]
    #[test]
    fn what_is_no_url_is_told() {
        for (text, want) in [
            ("", UrlError::Scheme),
            ("bus:4222", UrlError::Scheme),
            ("http://bus", UrlError::Scheme),
            ("NATS://bus", UrlError::Scheme),
            ("nats://", UrlError::NoHost),
            ("nats://:4222", UrlError::NoHost),
            ("nats://a,,b", UrlError::NoHost),
            ("nats://a b", UrlError::Host("a b".to_owned())),
            ("nats://[::1", UrlError::Host("[::1".to_owned())),
            ("nats://[bus]", UrlError::Host("[bus]".to_owned())),
            ("nats://[::1]4222", UrlError::Host("[::1]4222".to_owned())),
            ("nats://bus:", UrlError::Port(String::new())),
            ("nats://bus:0", UrlError::Port("0".to_owned())),
            ("nats://bus:+1", UrlError::Port("+1".to_owned())),
            ("nats://bus:65536", UrlError::Port("65536".to_owned())),
            ("nats://bus/app", UrlError::Path("/app".to_owned())),
            ("nats://bus?tls", UrlError::Path("?tls".to_owned())),
            ("redis://a,b", UrlError::Several),
            ("redis://a/x", UrlError::Database("/x".to_owned())),
            ("redis://a/-1", UrlError::Database("/-1".to_owned())),
            ("redis://user:hush@a", UrlError::Secret),
            ("nats://hush@a,b", UrlError::Secret),
            ("nats://a:hu/sh@b", UrlError::Secret),
        ] {
            let error = text.parse::<BusUrl>().expect_err(text);
            assert_eq!(error, want, "{text}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn a_build_without_nats_says_so() {
        let error = "nats://bus".parse::<BusUrl>().expect_err("not built");
        assert!(error.to_string().starts_with("this cohortd was built without NATS"), "{error}");
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_build_without_redis_says_so() {
        let error = "rediss://bus".parse::<BusUrl>().expect_err("not built");
        assert!(error.to_string().starts_with("this cohortd was built without Redis"), "{error}");
    }

    #[test]
    fn names_begin_with_what_both_engines_take() {
        let prefix: Prefix = "cohortd.shop-2.prod_A".parse().expect("a prefix");
        assert_eq!(prefix.all(), "cohortd.shop-2.prod_A.all");
        assert_eq!(prefix.host(HostId(0xab)), "cohortd.shop-2.prod_A.host.00000000000000ab");
        let long = "x".repeat(MOST + 1);
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$SYS", "ä", "a\r\nb", &long]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text:?}");
        }
    }
}
