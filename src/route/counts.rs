//! What is counted on the way of requests: plain numbers that nobody waits for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;

use super::given::Speaks;
use super::head::Refusal;
use super::upload::Broken;
use crate::metrics::{Cases, Histogram, Tally, cases};

cases! {
    /// The class of an answer's status.
    pub enum Class by "code" {
        /// Only 101 is passed on.
        Informational: "1xx";
        /// Done.
        Success: "2xx";
        /// Elsewhere.
        Redirection: "3xx";
        /// The client's fault.
        Client: "4xx";
        /// The app's fault, and whatever HTTP does not know.
        Server: "5xx";
    }
}

cases! {
    /// What is spoken on a connection that was handed over.
    pub enum Protocol by "protocol" {
        /// HTTP, request by request.
        Http: "http";
        /// What an upgrade led to.
        WebSocket: "websocket";
        /// What only its ends can read.
        Other: "other";
    }
}

cases! {
    /// Why a connection was ended before a request on it was taken.
    pub enum Refused by "reason" {
        /// `[limits] connections` or `connections_per_client`.
        Limit: "limit";
        /// A trusted proxy sent no PROXY header.
        ProxyHeader: "proxy_header";
        /// The TLS handshake failed, or plain HTTP came instead.
        Tls: "tls";
        /// 400.
        Malformed: "malformed";
        /// 431.
        TooLarge: "head_too_large";
        /// 408, or a TLS handshake that took too long.
        Late: "head_timeout";
        /// It was to be handed over, and no worker took it.
        NoWorker: "no_worker";
    }
}

cases! {
    /// An answer that no worker gave.
    pub enum Own by "code", "reason" {
        /// Node knows no such method.
        Method: "400", "method";
        /// Two parsers could read the head differently.
        Ambiguous: "400", "ambiguous";
        /// The body broke off, or is none.
        BodyMalformed: "400", "body_malformed";
        /// The body stopped arriving.
        BodyLate: "408", "body_timeout";
        /// `[limits] body_size`.
        BodyTooLarge: "413", "body_too_large";
        /// The worker switched protocols unasked.
        Switched: "502", "switched_protocols";
        /// The worker ended before it had answered.
        Died: "502", "worker_died";
        /// The host that has the session was not reached, or ended before it had answered.
        HostFailed: "502", "host_failed";
        /// None was ready in time.
        NoWorker: "503", "no_worker";
        /// A poll hears that its session ends.
        SessionEnds: "200", "session_ended";
    }
}

cases! {
    /// Why a request was sent once more.
    pub enum Retry by "reason" {
        /// The worker could not be reached.
        Unreached: "unreached";
        /// The connection ended before the request had left.
        Unsent: "unsent";
        /// The worker ended before it had answered.
        Unanswered: "unanswered";
    }
}

cases! {
    /// Why a request with a session found no worker of it.
    pub enum Miss by "reason" {
        /// Nobody has reported it.
        Unknown: "unknown";
        /// Too many others waited for a report.
        Crowded: "crowded";
        /// Its worker is gone.
        Gone: "worker_gone";
    }
}

/// What has come to the front-end as a whole.
#[derive(Debug, Default)]
pub struct Counts {
    accepted: AtomicU64,
    abandoned: AtomicU64,
    /// Connections that were ended at once.
    pub refused: Tally<Refused>,
    /// Answers of our own.
    pub own: Tally<Own>,
    /// Requests that were sent once more.
    pub retries: Tally<Retry>,
    /// Sessions that were not found.
    pub misses: Tally<Miss>,
}

/// What the workers of a slot have done, one after the other.
#[derive(Debug, Default)]
pub struct SlotCounts {
    /// Their answers.
    pub answers: Tally<Class>,
    /// How long it took until an answer's head was there; without polls, which wait for something
    /// to say.
    pub durations: Histogram,
    /// Connections that they were given for good.
    pub handed_over: Tally<Protocol>,
    /// How long their event loops took to answer.
    pub event_loop: Histogram,
    /// The processor time of those that are gone, in nanoseconds.
    cpu_of_gone: AtomicU64,
    /// What was last told of it: it must not go back.
    cpu_told: AtomicU64,
}

impl Counts {
    pub(super) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Requests whose clients went away before they were answered.
    pub fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// A request that is yet to be answered.
    pub(super) fn unanswered(&self) -> Unanswered<'_> {
        Unanswered { counts: Some(self) }
    }
}

/// A request without an answer: when it is dropped, its client has gone.
#[derive(Debug)]
pub(super) struct Unanswered<'a> {
    counts: Option<&'a Counts>,
}

impl Unanswered<'_> {
    pub(super) fn answered(mut self) {
        self.counts = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(counts) = self.counts {
            counts.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl SlotCounts {
    /// A worker of this slot is gone, which has taken so much processor time.
    pub fn leave(&self, cpu: Duration) {
        self.cpu_of_gone.fetch_add(nanos(cpu), Ordering::Relaxed);
    }

    /// The processor time of all workers of the slot; `cpu` is that of those it has.
    pub fn cpu(&self, cpu: Duration) -> Duration {
        let all = self.cpu_of_gone.load(Ordering::Relaxed).saturating_add(nanos(cpu));
        Duration::from_nanos(self.cpu_told.fetch_max(all, Ordering::Relaxed).max(all))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Own {
    /// The answer's.
    pub(super) fn status(self) -> StatusCode {
        let code = Self::VALUES[self.index()][0];
        StatusCode::from_bytes(code.as_bytes()).expect("its first label is one")
    }
}

impl From<StatusCode> for Class {
    fn from(status: StatusCode) -> Class {
        match status.as_u16() {
            100..200 => Class::Informational,
            200..300 => Class::Success,
            300..400 => Class::Redirection,
            400..500 => Class::Client,
            _ => Class::Server,
        }
    }
}

impl From<&Speaks> for Protocol {
    fn from(speaks: &Speaks) -> Protocol {
        match speaks {
            Speaks::Http(_) => Protocol::Http,
            Speaks::WebSocket => Protocol::WebSocket,
            Speaks::Other => Protocol::Other,
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        match refusal {
            Refusal::Malformed => Refused::Malformed,
            Refusal::Late => Refused::Late,
            Refusal::TooLarge => Refused::TooLarge,
        }
    }
}

impl From<Broken> for Own {
    fn from(broken: Broken) -> Own {
        match broken {
            Broken::TooLarge => Own::BodyTooLarge,
            Broken::Late => Own::BodyLate,
            Broken::Malformed => Own::BodyMalformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_their_case() {
        assert_eq!(Own::NoWorker.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(Own::SessionEnds.status(), StatusCode::OK);
        for (status, class) in
            [(101, 0), (200, 1), (299, 1), (304, 2), (499, 3), (500, 4), (999, 4)]
        {
            let status = StatusCode::from_u16(status).expect("three digits");
            assert_eq!(Class::from(status).index(), class, "{status}");
        }
    }

    #[test]
    fn processor_time_never_goes_back() {
        const S: fn(u64) -> Duration = Duration::from_secs;
        let slot = SlotCounts::default();
        assert_eq!(slot.cpu(S(3)), S(3));
        // Seen both as gone and as there, at the same moment.
        slot.leave(S(3));
        assert_eq!(slot.cpu(S(3)), S(6));
        assert_eq!(slot.cpu(S(1)), S(6), "not less");
        assert_eq!(slot.cpu(S(4)), S(7));
    }
}
