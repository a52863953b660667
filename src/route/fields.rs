//! Header fields on their way to a worker and back: what was meant for us is taken out, and the app
//! is told who its client is.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::choose::FORWARDED_FOR;
use super::peer::Peer;
use super::plain::field;
use crate::config::Forwarded;

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The words of a header that is a list.
pub(super) fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes what is said to us and not to the other end (RFC 9110, section 7.6.1).
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        words(headers, header::CONNECTION).filter_map(|word| word.parse().ok()).collect();
    for name in named {
        // Framing is ours to decide by what was received, whatever `Connection` claims.
        if name != header::CONTENT_LENGTH && name != header::HOST {
            headers.remove(name);
        }
    }
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
}

/// Gives the request an id. That of a trusted proxy is kept.
pub(super) fn identify(headers: &mut HeaderMap, name: &HeaderName, peer: Peer) {
    if !(peer.trusted && headers.contains_key(name)) {
        let id = format!("{:032x}", fastrand::u128(..));
        headers.insert(name, HeaderValue::try_from(id).expect("hexadecimal digits"));
    }
}

/// Says who the client is. A trusted proxy has said it already, and is not added as a hop; what
/// anyone else says about itself is not passed on.
pub(super) fn introduce(headers: &mut HeaderMap, peer: Peer, which: Forwarded) {
    if peer.trusted {
        return;
    }
    for name in
        [header::FORWARDED, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO, REAL_IP]
    {
        headers.remove(name);
    }
    let host = headers.get(header::HOST).cloned();
    introduction(peer, host.as_ref().map(HeaderValue::as_bytes), which, |name, value| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    });
}

/// The same at the end of a head of bytes that says nothing of it.
pub(super) fn introduce_in(head: &mut Vec<u8>, peer: Peer, host: &[u8], which: Forwarded) {
    introduction(peer, Some(host), which, |name, value| field::write(head, name.as_str(), value));
}

fn introduction(
    peer: Peer,
    host: Option<&[u8]>,
    which: Forwarded,
    mut say: impl FnMut(HeaderName, &[u8]),
) {
    let address = peer.address.map(|address| address.ip().to_canonical());
    let scheme = if peer.encrypted { "https" } else { "http" };
    if which != Forwarded::X {
        say(header::FORWARDED, &standard(address, host, scheme));
    }
    if which == Forwarded::Standard {
        return;
    }
    if let Some(address) = address {
        say(FORWARDED_FOR, address.to_string().as_bytes());
    }
    say(FORWARDED_PROTO, scheme.as_bytes());
    if let Some(host) = host {
        say(FORWARDED_HOST, host);
    }
}

/// `Forwarded` (RFC 7239, section 4).
fn standard(address: Option<IpAddr>, host: Option<&[u8]>, scheme: &str) -> Vec<u8> {
    let mut value = match address {
        Some(IpAddr::V4(address)) => format!("for={address};"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\";"),
        None => "for=unknown;".to_owned(),
    }
    .into_bytes();
    if let Some(host) = host {
        // A quoted string (RFC 9110, section 5.6.4): a port's colon needs it.
        value.extend(b"host=\"");
        for byte in host {
            if matches!(byte, b'"' | b'\\') {
                value.push(b'\\');
            }
            value.push(*byte);
        }
        value.extend(b"\";");
    }
    value.extend(b"proto=");
    value.extend(scheme.as_bytes());
    value
}
