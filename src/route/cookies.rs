//! Cookies that tell a client where it belongs: in which slot, and on which host.

use hyper::header::{self, HeaderMap, HeaderValue};

use super::affinity::{self, Affinity, COOKIE};
use crate::config::HostCookie;

/// Tells a client without a place, or with one that is no more, where it belongs.
pub(super) fn issue_cookie(headers: &mut HeaderMap, affinity: Affinity, slot: usize) {
    let is_right = match affinity {
        Affinity::Anywhere => false,
        Affinity::Slot(claimed) => claimed == slot,
        Affinity::Key(_) => true, // it finds the same place again
    };
    if !is_right {
        let cookie = format!("{COOKIE}={slot}; Path=/; HttpOnly; SameSite=Lax");
        let cookie = HeaderValue::try_from(cookie).expect("a number is a header's text");
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Whether a client says that it belongs to this host.
pub(super) fn knows_host(headers: &HeaderMap, HostCookie { name, host }: &HostCookie) -> bool {
    let cookies = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes);
    affinity::cookie(cookies, name) == Some(host.as_bytes())
}

/// Tells a client to which host it belongs, for the balancer in front of all.
pub(super) fn issue_host(headers: &mut HeaderMap, HostCookie { name, host }: &HostCookie) {
    let cookie = format!("{name}={host}; Path=/; HttpOnly; SameSite=Lax");
    let cookie = HeaderValue::try_from(cookie).expect("names are a header's text");
    headers.append(header::SET_COOKIE, cookie);
}
