//! The PROXY protocol, versions 1 and 2: a load balancer says first for whom it has connected
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

use super::peek;
use crate::keeper::Mark;
use crate::listen::Client;

/// Addresses take 232 bytes at most. The rest is for what else a balancer likes to say.
const MAX: usize = 4096;

const BOTH: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Version 1 is a line of at most so many bytes.
const MAX_LINE: usize = 107;

/// Takes the header off a connection: the client's address, or `None` for one that the balancer
/// has opened for itself, or where it doesn't know.
///
/// # Errors
/// The connection begins with something else, or ends.
pub(super) async fn take(client: &Client, mark: Mark) -> io::Result<Option<SocketAddr>> {
    let (source, length) = peek::peek(client, MAX, read).await?.map_err(io::Error::other)?;
    mark.busy();
    peek::take(client, length)?;
    Ok(source)
}

/// Reads the header at the beginning of these bytes, and its length; `None` while it is not whole.
/// What comes after it changes nothing.
///
/// # Errors
/// They begin with something else, or with more than is taken.
pub fn read(bytes: &[u8]) -> Option<Result<(Option<SocketAddr>, usize), Error>> {
    let beginning = match bytes.first() {
        Some(b'P') => &bytes[..bytes.len().min(MAX_LINE)],
        _ => &bytes[..bytes.len().min(MAX)],
    };
    match ProxyHeader::parse(beginning, BOTH) {
        Err(Error::BufferTooShort) if bytes.len() < MAX => None,
        read => {
            Some(read.map(|(header, length)| (header.proxied_address().map(|a| a.source), length)))
        }
    }
}
