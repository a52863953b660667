//! A request on its way to the host that has its session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};

use super::super::download::{Lease, Server};
use super::super::front::Front;
use super::super::head::Session;
use super::super::peer::{Caller, Ends, Peer};
use super::super::proxy::{Failure, MAX_TRIES, Requests, copy_of};
use super::super::upload::{Broken, Upload};
use super::super::upstream::{Line, ListenerId};
use super::host::{Host, KEEP};

/// Which listener a client has come to, and the ends of its connection.
static CALLER: HeaderName = HeaderName::from_static("x-cohortd-caller");

/// In an answer: the session is not there.
static UNKNOWN: HeaderName = HeaderName::from_static("x-cohortd-unknown-session");

/// How long until a host is tried again that has the session and was not reached.
const AGAIN: Duration = Duration::from_millis(100);

/// Says whose a request is.
fn tell(caller: &Caller, headers: &mut HeaderMap) {
    let text = format!("{} {}", caller.listener.0, caller.ends.told());
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(CALLER.clone(), value);
    }
}

/// Whose a request is, in another front-end's words; `listeners`: how many we have.
pub(in crate::route) fn told(headers: &mut HeaderMap, listeners: usize) -> Caller {
    let value = headers.remove(&CALLER);
    let text = value.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (listener, ends) = text.split_once(' ').unwrap_or_default();
    let listener = listener.parse().ok().filter(|at| *at < listeners).unwrap_or_default();
    let (ends, address, encrypted) = Ends::of_words(ends);
    // What it says of its client is true, and said already.
    let peer = Peer { address, trusted: true, encrypted };
    Caller { listener: ListenerId(listener), peer, ends }
}

/// Says to the other front-end that the session is not here.
pub(in crate::route) fn disown(headers: &mut HeaderMap) {
    headers.insert(UNKNOWN.clone(), HeaderValue::from_static("1"));
}

impl Front {
    /// Another host answers, whose word on the session was taken out.
    fn heed(&self, sid: &str, headers: &mut HeaderMap) {
        if headers.remove(&UNKNOWN).is_some()
            && let Some(forwarding) = self.forwarding.get()
        {
            forwarding.forget(sid);
        }
    }

    /// A session's host has not been reached: the same, when it can be, or the one that has taken its
    /// place. `None`: it is gone, or can't be reached until then.
    async fn locate_again(&self, sid: &str, before: &Host, until: Instant) -> Option<Arc<Host>> {
        let forwarding = self.forwarding.get()?;
        let session = Session::Of(sid.to_owned());
        while Instant::now() < until {
            forwarding.forget(sid);
            match self.locate(&session, true).await {
                Some(host) if host.id != before.id => return Some(host),
                Some(host) => {
                    tokio::time::sleep(AGAIN).await;
                    return Some(host);
                }
                None if forwarding.relay.hears(before.id) => {}
                None => return None,
            }
        }
        None
    }
}

impl Requests {
    /// Sends a request to the host of its session. Like one for a worker it is sent again when nothing
    /// can have come of it; and when the host can't be reached, that is waited for as for a worker.
    pub(in crate::route) async fn forward(
        &self,
        caller: &Caller,
        sid: &str,
        mut host: Arc<Host>,
        mut request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let front = &self.front;
        let repeatable = request.body().is_end_stream() && request.method().is_idempotent();
        let is_upgrade = request.headers().contains_key(header::UPGRADE);
        let until = Instant::now() + front.settings().route.queue;
        let mut repeated = false;
        tell(caller, request.headers_mut());
        for n in 0..MAX_TRIES {
            // One that waited may have been closed at the other end, and so may the next.
            let waiting = if n == 0 { host.waiting() } else { None };
            let mut line = match waiting {
                Some(line) => line,
                None => self.reach(sid, &mut host, until).await?,
            };
            let copy = (repeatable && !repeated).then(|| copy_of(&request));
            request.body_mut().goes_out(line.sending.begin());
            let under_way = (!is_upgrade).then(|| self.last_word.goes_to(&line.sending));
            let mut error = match line.sender.try_send_request(request).await {
                Ok(mut response) => {
                    front.heed(sid, response.headers_mut());
                    let server = Server::Host(host);
                    let lease = Lease { server, line, keep: None, _under_way: under_way };
                    return Ok((response, lease));
                }
                Err(error) => error,
            };
            request = match (error.take_message(), Broken::behind(error.error())) {
                (Some(unsent), _) => unsent,
                (None, Some(broken)) => return Err(Failure::Body(broken)),
                // To that host its client was gone.
                (None, None) if self.last_word.is_said() => return Err(Failure::Died),
                (None, None) => {
                    repeated = true;
                    match copy {
                        Some(copy) => copy,
                        None => {
                            host.complain(error.error());
                            return Err(Failure::Host(host));
                        }
                    }
                }
            };
        }
        Err(Failure::Host(host))
    }

    /// A new connection to the host of a session, which may have become another one.
    async fn reach(
        &self,
        sid: &str,
        host: &mut Arc<Host>,
        until: Instant,
    ) -> Result<Line, Failure> {
        loop {
            let error = match host.connect().await {
                Ok(line) => return Ok(line),
                Err(error) => error,
            };
            match self.front.locate_again(sid, host, until).await {
                Some(again) => *host = again,
                None => {
                    host.complain(&error);
                    return Err(Failure::Host(host.clone()));
                }
            }
        }
    }
}

/// How long a connection to another host waits for its next request.
pub(in crate::route) fn keep(headers: &HeaderMap) -> Option<Duration> {
    let closes = super::super::fields::words(headers, header::CONNECTION)
        .any(|word| word.eq_ignore_ascii_case("close"));
    (!closes).then_some(KEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ends: &str, listener: usize) -> (Caller, bool) {
        let mut headers = HeaderMap::new();
        let (ends, address, encrypted) = Ends::of_words(ends);
        let peer = Peer { address, trusted: false, encrypted };
        tell(&Caller { listener: ListenerId(listener), peer, ends }, &mut headers);
        let caller = told(&mut headers, 2);
        (caller, headers.is_empty())
    }

    #[test]
    fn a_client_stays_who_it_is() {
        let table = [
            ("192.0.2.7 51034 192.0.2.1 80", Some("192.0.2.7:51034"), false),
            ("192.0.2.7 51034 192.0.2.1 443 tls", Some("192.0.2.7:51034"), true),
            ("2001:db8::7 5 2001:db8::1 80", Some("[2001:db8::7]:5"), false),
            ("", None, false),
        ];
        for (ends, address, encrypted) in table {
            let (caller, is_taken_out) = round(ends, 1);
            assert!(is_taken_out, "nobody else hears of it");
            assert_eq!(caller.listener, ListenerId(1));
            assert_eq!(caller.ends.told(), ends);
            assert_eq!(caller.peer.address.map(|a| a.to_string()).as_deref(), address);
            assert_eq!((caller.peer.encrypted, caller.peer.trusted), (encrypted, true));
        }
        assert_eq!(round("", 2).0.listener, ListenerId(0), "we have no such listener");
    }
}
