//! The small languages inside strings: durations, sizes, ports, networks, what to be sticky by.
//!
//! Each parser returns what was expected as its error; the caller knows where it stands.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::HeaderName;

use super::{Sticky, StopMethod};

/// `"500ms"`, `"30s"`, `"5m"`, `"1h"`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("expected a duration such as \"30s\" (ms, s, m, h), found \"{text}\"");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(expected)
}

/// Two durations, the first not above the second: `"100ms..30s"`.
pub(super) fn duration_range(text: &str) -> Result<(Duration, Duration), String> {
    let expected = || format!("expected a range such as \"100ms..30s\", found \"{text}\"");
    let (from, to) = text.split_once("..").ok_or_else(expected)?;
    let range = (duration(from)?, duration(to)?);
    if range.0 > range.1 { Err(expected()) } else { Ok(range) }
}

/// A number of bytes: `"512"`, `"32K"`, `"400M"`, `"2G"` (powers of 1024).
pub(super) fn size(text: &str) -> Result<usize, String> {
    let expected = || format!("expected a size such as \"400M\" (K, M, G), found \"{text}\"");
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: usize = number.parse().map_err(|_| expected())?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// A path to ask an HTTP server for: `"/healthz"`.
pub(super) fn http_path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
    match text.parse::<hyper::Uri>() {
        Ok(_) if is_path => Ok(text.to_owned()),
        _ => Err(format!("expected a path such as \"/healthz\", found \"{text}\"")),
    }
}

/// Whether it can be a calendar expression (systemd.time(7)): only systemd can tell whether it is
/// one, but what has other characters must not come into a unit file.
pub(super) fn calendar(text: &str) -> Result<(), String> {
    let is_its = |c: char| c.is_ascii_alphanumeric() || " *,-./:~+_@".contains(c);
    if !text.is_empty() && text == text.trim() && text.chars().all(is_its) {
        Ok(())
    } else {
        Err(format!("expected a calendar expression such as \"Mon..Fri 04:00\", found {text:?}"))
    }
}

/// One entry of `listen`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// `"8080"`: this port on every address, IPv6 and IPv4.
    Port(u16),
    /// `"127.0.0.1:8080"`, `"[::1]:8080"`: this address only; `"0.0.0.0:8080"`, `"[::]:8080"`: all
    /// of IPv4, all of IPv6.
    Addr(SocketAddr),
    /// `"/run/myapp.sock"`: a Unix socket.
    Path(PathBuf),
}

impl Listen {
    /// Reads one entry.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let expected = || {
            format!(
                "expected a port (\"8080\"), an address (\"127.0.0.1:8080\", \"[::1]:8080\") or a \
                 path (\"/run/myapp.sock\"), found \"{text}\""
            )
        };
        if text.starts_with('/') {
            // sun_path is 108 bytes with its NUL.
            return if text.len() < 108 { Ok(Listen::Path(text.into())) } else { Err(expected()) };
        }
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Listen::Port(port)),
            _ => match text.parse::<SocketAddr>() {
                Ok(addr) if addr.port() > 0 => Ok(Listen::Addr(addr)),
                _ => Err(expected()),
            },
        }
    }

    /// Whether a socket for this entry takes what one for the other would: they can't both be open.
    pub(super) fn covers(&self, other: &Listen) -> bool {
        match (self, other) {
            (Listen::Port(port), _) => other.port() == Some(*port),
            (Listen::Addr(all), Listen::Addr(one)) => {
                let of_a_kind = all.port() == one.port() && all.is_ipv4() == one.is_ipv4();
                of_a_kind && (all.ip().is_unspecified() || all == one)
            }
            _ => self == other,
        }
    }

    /// The TCP port, if it is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Listen::Port(port) => Some(*port),
            Listen::Addr(addr) => Some(addr.port()),
            Listen::Path(_) => None,
        }
    }
}

/// As in the file, and as `ListenStream=` takes it.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Port(port) => write!(f, "{port}"),
            Listen::Addr(addr) => write!(f, "{addr}"),
            Listen::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A network whose hosts are proxies of ours: `"10.0.0.0/8"`, `"192.0.2.7"`, `"loopback"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// 127.0.0.0/8, ::1, and every client of a Unix socket.
    Loopback,
    /// Addresses that begin with these bits.
    Prefix {
        /// The first address.
        base: IpAddr,
        /// How many leading bits count.
        bits: u8,
    },
}

impl Network {
    /// Reads one entry of `trusted`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Network, String> {
        let expected = || {
            format!(
                "expected \"loopback\", an address or a network such as \"10.0.0.0/8\", found \"{text}\""
            )
        };
        if text == "loopback" {
            return Ok(Network::Loopback);
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| expected())?)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| expected())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(expected()) } else { Ok(Network::Prefix { base, bits }) }
    }

    /// Whether the address is in the network. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match (*self, address) {
            (Network::Loopback, _) => address.is_loopback(),
            (Network::Prefix { base: IpAddr::V4(base), bits }, IpAddr::V4(a)) => {
                let differing = base.to_bits() ^ a.to_bits();
                differing.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
            }
            (Network::Prefix { base: IpAddr::V6(base), bits }, IpAddr::V6(a)) => {
                let differing = base.to_bits() ^ a.to_bits();
                differing.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A header's or cookie's name.
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("\"{text}\" can't be a name there"))
}

/// `"auto"`, `"off"`, `"ip"`, `"cookie:NAME"`, `"header:NAME"`.
pub(super) fn sticky(text: &str) -> Result<Sticky, String> {
    let name = |name: &str| header_name(name).map(|_| name.to_owned());
    match (text, text.split_once(':')) {
        ("auto", _) => Ok(Sticky::Sessions),
        ("off", _) => Ok(Sticky::Off),
        ("ip", _) => Ok(Sticky::Address),
        (_, Some(("cookie", cookie))) => name(cookie).map(Sticky::Cookie),
        (_, Some(("header", header))) => name(header).map(Sticky::Header),
        _ => Err(format!(
            "expected \"auto\", \"off\", \"ip\", \"cookie:NAME\" or \"header:NAME\", found \"{text}\""
        )),
    }
}

/// `"SIGTERM"`, `"message:TEXT"`.
pub(super) fn stop_method(text: &str) -> Result<StopMethod, String> {
    use rustix::process::Signal;
    if let Some(message) = text.strip_prefix("message:").filter(|m| !m.is_empty()) {
        return Ok(StopMethod::Message(message.to_owned()));
    }
    let signal = match text {
        "SIGTERM" => Signal::TERM,
        "SIGINT" => Signal::INT,
        "SIGQUIT" => Signal::QUIT,
        "SIGHUP" => Signal::HUP,
        "SIGUSR1" => Signal::USR1,
        "SIGUSR2" => Signal::USR2,
        _ => {
            return Err(format!(
                "expected SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 or \"message:TEXT\", \
                 found \"{text}\""
            ));
        }
    };
    Ok(StopMethod::Signal(signal.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in
            ["", "5", "s", "1.5s", "-1s", "3 s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(duration_range("30s..100ms").is_err());
        assert_eq!(size("400M"), Ok(400 << 20));
        assert!(size("1T").is_err() && size("").is_err() && size("K").is_err());
    }

    #[test]
    fn listen_entries_print_as_they_are_written() {
        for text in ["8080", "127.0.0.1:80", "[::1]:80", "/run/x.sock"] {
            assert_eq!(Listen::parse(text).expect("is one").to_string(), text);
        }
        for wrong in ["0", "70000", "localhost:80", "127.0.0.1", "127.0.0.1:0", "", ":80", "run/x"]
        {
            assert!(Listen::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn calendar_expressions_can_be_written_into_a_unit() {
        for text in ["daily", "Mon,Fri *-*~03/2 04:00:00.5 America/New_York", "@7200", "Etc/GMT+5"]
        {
            assert_eq!(calendar(text), Ok(()), "{text}");
        }
        for wrong in ["", " ", " daily", "daily\n", "a\nb", "%n", "daily\\", "d\u{e4}ily", "a;b"] {
            assert!(calendar(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn entries_that_can_t_both_be_open() {
        let entry = |text: &str| Listen::parse(text).expect("is one");
        let covers = |one: &str, other: &str| entry(one).covers(&entry(other));
        for (one, other) in [
            ("80", "80"),
            ("80", "0.0.0.0:80"),
            ("80", "[::1]:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("/a", "/a"),
        ] {
            assert!(covers(one, other), "{one} {other}");
            assert!(one == other || !covers(other, one), "{other} {one}");
        }
        for (one, other) in [
            ("80", "81"),
            ("0.0.0.0:80", "[::]:80"),
            ("0.0.0.0:80", "127.0.0.1:81"),
            ("[::]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "[::1]:80"),
            ("80", "/80"),
        ] {
            assert!(!covers(one, other) && !covers(other, one), "{one} {other}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |network: &str, address: &str| {
            Network::parse(network).expect("is one").contains(address.parse().expect("is one"))
        };
        assert!(holds("10.0.0.0/8", "10.200.3.4") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("2001:db8::/32", "2001:db8::1") && holds("::/0", "::1"));
        assert!(holds("loopback", "127.9.8.7") && holds("loopback", "::1"));
        assert!(Network::parse("10.0.0.0/33").is_err() && Network::parse("lo").is_err());
    }
}
