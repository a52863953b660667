//! Plain requests, forwarded as bytes: those without a body that ask for nothing but an answer, which
//! are most of them. A head is parsed once and written once, and its answer follows it. Whatever takes
//! more goes, as it came, to `serve`, and its connection stays there: errors, bodies, sessions,
//! upgrades, settings that have to look at each request. So does a request that a worker has failed.
//!
//! ```text
//! head (request) ─▶ worker (choose, bare) ─▶ answer (response) ─▶ client ─┐
//!   ▲ └─▶ serve                              └─▶ serve                    │
//!   └─────────────────────────────────────────────────────────────────────┘
//! ```

mod bare;
pub(super) mod field;
mod request;
mod response;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFuture;

use super::choose::{Work, affinity_of_head};
use super::counts::Retry;
use super::fields::introduce_in;
use super::front::{Front, Settings};
use super::given::Origin;
use super::half_close::FromClient;
use super::idle::Lane;
use super::peer::Ends;
use super::proxy::{Tried, kept_for};
use super::stall::Impatient;
use super::upstream::{InFlight, Upstream};
use crate::config::Sticky;
use crate::keeper::Mark;

pub(super) use bare::Bare;
use request::Plain;
use response::{Body, Keep};

/// How much of a head is read at once, and how much of a body.
const HEAD_PART: usize = 2 << 10;
const BODY_PART: usize = 64 << 10;

/// A worker's head is not larger.
const MAX_HEAD: usize = 256 << 10;

/// What becomes of a connection.
pub(super) enum Left {
    /// It has ended.
    Ended,
    /// It is passed on between two requests.
    PassedOn(Impatient<FromClient>, Vec<u8>),
    /// It is for others to serve.
    Other(Other),
}

/// A connection with a request that is not answered here.
pub(super) struct Other {
    pub(super) client: Impatient<FromClient>,
    /// What has been read of it.
    pub(super) ahead: Vec<u8>,
    /// There is a request, whether or not any of it has been read.
    pub(super) is_due: bool,
    /// Where the request has been sent in vain.
    pub(super) tried: Option<Tried>,
}

/// A client's connection, between two requests or at one.
struct Connection<'a> {
    front: &'a Front,
    from: Origin,
    ends: &'a Ends,
    client: Impatient<FromClient>,
    /// How it is marked when it rests.
    mark: Mark,
    /// What has been read and is not answered.
    unread: Vec<u8>,
    /// What is sent next, either way.
    out: Vec<u8>,
}

/// What comes next on a connection.
enum Next {
    Plain(Plain),
    Other,
    PassedOn,
    Ended,
}

/// What has become of a request.
enum Outcome {
    /// It is answered; whether another may follow it.
    Answered { closes: bool },
    /// There is no one to be answered, or no answer.
    Abandoned,
    /// It has no answer yet.
    Failed(Option<Tried>),
}

/// Answers plain requests until something else comes. So much has been read `ahead`; `is_due`: there
/// is a request, which is answered in any case.
pub(super) async fn carry(
    front: &Front,
    from: Origin,
    ends: &Ends,
    client: Impatient<FromClient>,
    mark: Mark,
    ahead: Vec<u8>,
    mut is_due: bool,
) -> Left {
    let mut on = Connection { front, from, ends, client, mark, unread: ahead, out: Vec::new() };
    let mut turns = pin!(front.turns.cancelled());
    let mut timer = pin!(tokio::time::sleep(front.settings().limits.idle));
    loop {
        let settings = front.settings();
        let next = match suits(&settings) {
            true => on.next(&settings, turns.as_mut(), timer.as_mut(), is_due).await,
            false => Next::Other,
        };
        let plain = match next {
            Next::Plain(plain) => plain,
            Next::Other => return on.others(is_due, None),
            Next::PassedOn => return Left::PassedOn(on.client, on.unread),
            Next::Ended => return Left::Ended,
        };
        let unanswered = front.counts.unanswered();
        let outcome = on.answer(&settings, plain).await;
        if let Outcome::Abandoned = outcome {
            return Left::Ended;
        }
        unanswered.answered();
        match outcome {
            Outcome::Answered { closes: false } => {}
            Outcome::Failed(tried) => return on.others(true, tried),
            _ => return Left::Ended,
        }
        on.unread.drain(..plain.length);
        is_due = false;
    }
}

/// Whether requests need not be looked at for more than where they go.
fn suits(Settings { route, access_log, .. }: &Settings) -> bool {
    let issues_cookies = matches!(route.sticky, Sticky::Cookie(_)) || route.host_cookie.is_some();
    access_log.is_none() && route.request_id.is_none() && !issues_cookies
}

impl Connection<'_> {
    fn others(self, is_due: bool, tried: Option<Tried>) -> Left {
        let is_due = is_due || !self.unread.is_empty();
        Left::Other(Other { client: self.client, ahead: self.unread, is_due, tried })
    }

    /// Waits for the next request.
    async fn next(
        &mut self,
        settings: &Settings,
        mut turns: Pin<&mut WaitForCancellationFuture<'_>>,
        mut timer: Pin<&mut Sleep>,
        is_due: bool,
    ) -> Next {
        let Connection { front, client, mark, unread, out, .. } = self;
        let Settings { route, limits, .. } = settings;
        let peer = self.from.peer;
        let introduce =
            |host: &[u8], out: &mut Vec<u8>| introduce_in(out, peer, host, route.forwarded);
        let introduce = (!peer.trusted).then_some(introduce);
        let mut since = None;
        loop {
            if front.turns.is_cancelled() {
                match (front.stop.is_cancelled(), is_due) {
                    (false, _) => return Next::PassedOn,
                    (true, false) => return Next::Ended,
                    (true, true) => {}
                }
            }
            match request::read(unread, introduce, out) {
                request::Reading::Plain(plain) => return Next::Plain(plain),
                request::Reading::Partial if unread.len() <= limits.head_size => {}
                request::Reading::Partial | request::Reading::Other => return Next::Other,
            }
            if unread.is_empty() {
                // While it waits it needs no room.
                (*unread, *out) = (Vec::new(), Vec::new());
                mark.rests();
            }
            let read = poll_fn(|context| {
                ready!(client.get_mut().poll_read_ready(context))?;
                mark.busy();
                unread.reserve(HEAD_PART);
                pin!(client.read_buf(unread)).poll(context)
            });
            tokio::select! {
                biased;
                read = read => if !matches!(read, Ok(1..)) {
                    return Next::Ended;
                },
                () = turns.as_mut(), if !is_due => {}
                () = idle(timer.as_mut(), &mut since, limits.idle) => return Next::Ended,
            }
        }
    }

    /// Sends a request, whose head for the worker is in `out`, and its answer back.
    async fn answer(&mut self, settings: &Settings, plain: Plain) -> Outcome {
        let Connection { front, from: Origin { listener, peer }, ends, .. } = *self;
        let begun = std::time::Instant::now();
        let affinity = affinity_of_head(&settings.route, peer, &self.unread[..plain.length]);
        let balance = settings.route.balance;
        let picked = front.pick(listener, balance, affinity, Work::Repeatable, None);
        let Some(upstream) = picked else {
            return Outcome::Failed(None); // whoever it is left to waits for one
        };
        let failed = |why| Outcome::Failed(Some(Tried { worker: upstream.worker.id, why }));
        let in_flight = upstream.begin();
        let lane = Lane { listener, client: ends.alone(&upstream.worker) };
        let mut line = match upstream.waiting_bare(lane, ends, begun) {
            Some(line) => line,
            None => match self.connect(&upstream).await {
                Some(line) => line,
                None => return failed(Retry::Unreached),
            },
        };
        if let Some(field) = ends.due_field(&upstream.worker, &mut line.told) {
            self.out.splice(plain.fields..plain.fields, field.into_bytes());
        }
        match line.write(&self.out).await {
            Ok(written) if line.write_all(&self.out[written..]).await.is_ok() => {}
            Ok(_) => return failed(Retry::Unanswered),
            Err(_) => return failed(Retry::Unsent),
        }
        let mut received = Vec::new();
        let answer = loop {
            match response::read(&received, plain.is_head, &mut self.out) {
                response::Reading::Answer(answer) => break answer,
                response::Reading::Interim(length) => drop(received.drain(..length)),
                response::Reading::Partial if received.len() <= MAX_HEAD => {
                    received.reserve(HEAD_PART);
                    match self.hear(&mut line, &mut received).await {
                        Heard::Some => {}
                        Heard::End | Heard::Failure if !line.has_ended() => {
                            return failed(Retry::Unanswered);
                        }
                        _ => return Outcome::Abandoned,
                    }
                }
                _ => return failed(Retry::Unanswered),
            }
        };
        let Ok(status) = StatusCode::from_u16(answer.status) else {
            return failed(Retry::Unanswered);
        };
        let now = std::time::Instant::now();
        upstream.answered(status, Some(now - begun));
        // What follows on the connection may not be meant as a request: the worker, too, reads no
        // further.
        let unread = status == StatusCode::BAD_REQUEST && answer.keep == Keep::No;
        let closes =
            plain.closes || unread || answer.body == Body::UntilEnd || front.stop.is_cancelled();
        if closes {
            self.out.extend_from_slice(b"connection: close\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
        let keep = match answer.keep {
            Keep::No => None,
            Keep::Unsaid => Some(kept_for(None)),
            Keep::Seconds(seconds) => Some(kept_for(Some(seconds))),
        };
        let lease = Lease { upstream, lane, line, keep, begun: now, _in_flight: in_flight };
        let is_whole = self.pass(answer.body, lease, received, answer.length).await;
        Outcome::Answered { closes: closes || !is_whole }
    }

    async fn connect(&self, upstream: &Arc<Upstream>) -> Option<Bare> {
        let _needing = self.front.needs_a_worker().await;
        let told = self.ends.for_worker(&upstream.worker);
        let opened = upstream.open(self.from.listener, told, &self.front.pairs).await;
        opened.ok().map(Bare::new)
    }

    /// Sends an answer: the head, which is in `out`, and behind it the body, which begins in what was
    /// received `from` there. Whether all of it went.
    async fn pass(
        &mut self,
        mut body: Body,
        mut lease: Lease,
        mut received: Vec<u8>,
        from: usize,
    ) -> bool {
        let Ok(part) = body.take(&received[from..]) else { return false };
        self.out.extend_from_slice(&received[from..from + part]);
        let mut is_all = from + part == received.len();
        while !body.is_over() {
            if self.client.write_all(&self.out).await.is_err() {
                return false;
            }
            received.clear();
            received.reserve(BODY_PART);
            match self.hear(&mut lease.line, &mut received).await {
                Heard::Some => {}
                Heard::End if body == Body::UntilEnd => return true,
                Heard::End | Heard::Failure | Heard::Gone => return false,
            }
            let Ok(part) = body.take(&received) else { return false };
            is_all = part == received.len();
            received.truncate(part);
            std::mem::swap(&mut self.out, &mut received);
        }
        // However slow the client is, the worker is done.
        if is_all {
            lease.free();
        } else {
            drop(lease);
        }
        self.client.write_all(&self.out).await.is_ok()
    }

    /// Waits for more of an answer. When the client has said its last word meanwhile, the worker hears
    /// of it.
    async fn hear(&mut self, line: &mut Bare, received: &mut Vec<u8>) -> Heard {
        loop {
            let last_word = poll_fn(|context| self.client.get_mut().poll_last_word(context));
            tokio::select! {
                biased;
                read = line.read_buf(received) => return match read {
                    Ok(0) => Heard::End,
                    Ok(_) => Heard::Some,
                    Err(_) => Heard::Failure,
                },
                heard = last_word, if !line.has_ended() => {
                    if heard.is_err() || line.end().await.is_err() {
                        return Heard::Gone;
                    }
                }
            }
        }
    }
}

/// A connection to a worker, in use for one request.
struct Lease {
    upstream: Arc<Upstream>,
    lane: Lane,
    line: Bare,
    /// How long it may wait for another; `None`: its worker closes it.
    keep: Option<Duration>,
    /// When the answer began to come.
    begun: std::time::Instant,
    _in_flight: InFlight,
}

impl Lease {
    fn free(self) {
        if let Some(keep) = self.keep.filter(|_| !self.line.has_ended()) {
            self.upstream.keep_bare(self.lane, self.line, keep, self.begun);
        }
    }
}

/// What is heard of a worker.
enum Heard {
    Some,
    End,
    Failure,
    /// It is the client that has gone.
    Gone,
}

/// Ends when it has been waited for so long. The timer is set when its time is over, and not for each
/// request.
async fn idle(mut timer: Pin<&mut Sleep>, since: &mut Option<Instant>, limit: Duration) {
    let until = *since.get_or_insert_with(Instant::now) + limit;
    loop {
        timer.as_mut().await;
        if timer.deadline() >= until {
            return;
        }
        timer.as_mut().reset(until);
    }
}
