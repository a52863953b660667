//! One process' link to the bus: a task that connects, stays connected, and says so.
//!
//! The link is known to be alive by its own echo: what it says to all comes back to it as well. It
//! says a beat every [`BEAT`]; when [`BEATS`] of them have not come back, the connection is given
//! up and made anew, whatever TCP still hopes for.
//!
//! Nothing here waits for the bus but that task: what is sent waits in a queue that is bounded in
//! bytes, of which the oldest packets are dropped when it is full. While there is no connection
//! packets grow old, and after [`STALE`] they are dropped, too: until then the others may have
//! declared this host gone, and what it said before that must not come after it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::broker::{Broker, BusError};
use super::parts::Incoming;
use super::queue::{About, Outgoing, PART, To, Volume};
use super::secret::Secret;
use super::url::{BusUrl, Prefix, Server};
use super::wire::{Foreign, HEADER, Header, HostId, Kind};
use crate::sync::lock;

/// How long it may take until what we say comes back on a new connection.
pub(super) const ATTEMPT: Duration = Duration::from_secs(1);

/// How often it is tried to connect: at first so soon again, later more rarely.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

const BEAT: Duration = Duration::from_millis(500);
const BEATS: usize = 3;

/// So many beats of earlier connections are remembered: a bus that was slow may still bring them.
const OLD_BEATS: usize = 16;

/// How long a packet may wait for a connection.
const STALE: Duration = Duration::from_secs(1);

/// What goes out at once, in frames and bytes.
const BATCH: (usize, usize) = (256, PART + HEADER);

/// How long what is still to be said may take in the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often it is said that packets are dropped.
const COMPLAINT: Duration = Duration::from_secs(10);

/// How the bus is reached.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub url: BusUrl,
    /// What the names on it begin with.
    pub prefix: Prefix,
    /// Who this is.
    pub own: HostId,
    /// What it shows to be let in.
    pub secret: Option<Secret>,
    /// The certificates of those who may have signed the server's, in PEM. None: those that the
    /// system trusts.
    pub ca: Option<Vec<u8>>,
    /// A certificate to show, with what else of its chain the server needs, and its key, in PEM.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// How many bytes may wait to be sent.
    pub queue: usize,
}

/// Nothing of secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("url", &self.url)
            .field("prefix", &self.prefix)
            .field("own", &self.own)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Finds out what can be found out without the bus.
    ///
    /// # Errors
    /// The secret is of the other engine or damaged, or a certificate or key can't be used.
    pub fn check(&self) -> Result<(), BusError> {
        #[cfg(feature = "nats")]
        if self.url.engine == super::Engine::Nats {
            super::nats::show(self.secret.as_ref(), b"")?;
        }
        #[cfg(feature = "redis")]
        if self.url.engine == super::Engine::Redis {
            super::redis::client(&self.url.servers[0], self)?;
        }
        #[cfg(any(feature = "nats", feature = "redis"))]
        super::tls::client(self)?;
        Ok(())
    }
}

/// What a link tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What is sent goes out from now on, and what others send is heard.
    Up,
    /// No more, or still not, for another reason than before.
    Down,
    /// Another host's, whole, in the order in which it came.
    Frame(Header, Bytes),
}

/// How a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// What it said to all has come back.
    Up {
        /// Since when.
        since: Instant,
    },
    /// It has not.
    Down {
        /// Since when.
        since: Instant,
        /// Why, and what to do about it, as far as that is known.
        why: String,
    },
}

/// What a link has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// What was given to the bus, beats included.
    pub sent: Volume,
    /// What came from other hosts.
    pub received: Volume,
    /// What was given up because it would have waited too long, or too much would have waited.
    pub dropped: Volume,
    /// The bytes that wait.
    pub queued: usize,
    /// Frames that did not come, or in vain.
    pub lost: u64,
    /// Frames that came a second time, and were not given on.
    pub repeated: u64,
    /// What came and is nothing that a cohortd of this version says.
    pub foreign: u64,
    /// How often it came up.
    pub connections: u64,
    /// How long the last beat took there and back.
    pub delay: Option<Duration>,
}

/// A link, which ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    own: HostId,
    began: Instant,
    inner: Mutex<Inner>,
    /// There is something to send.
    ready: Notify,
    closing: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    outgoing: Outgoing,
    incoming: Incoming,
    state: State,
    /// It is time for a beat.
    beat: bool,
    /// Beats that have not come back, by what is in them.
    beats: Vec<(u64, Instant)>,
    /// Those that had not come back when their connection was given up.
    old_beats: VecDeque<u64>,
    /// How many beats ago one came back.
    unanswered: usize,
    counts: Counts,
    complained: (Option<Instant>, Volume),
    /// It was said that there is a later version.
    told_of_later: bool,
}

impl Link {
    /// Begins to connect, and goes on until it is closed or dropped. Events come one after the other
    /// from a task of the runtime that this is called in; they must not take long.
    pub fn start(settings: Settings, events: impl FnMut(Event) + Send + 'static) -> Arc<Link> {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            own: settings.own,
            began: now,
            inner: Mutex::new(Inner {
                outgoing: Outgoing::new(settings.own, settings.queue),
                incoming: Incoming::default(),
                state: State::Down { since: now, why: BusError::NotYet.to_string() },
                beat: false,
                beats: Vec::new(),
                old_beats: VecDeque::new(),
                unanswered: 0,
                counts: Counts::default(),
                complained: (None, Volume::default()),
                told_of_later: false,
            }),
            ready: Notify::new(),
            closing: CancellationToken::new(),
        });
        let task = tokio::spawn(run(shared.clone(), settings, events));
        Arc::new(Link { shared, task: Mutex::new(Some(task)) })
    }

    /// Has a body go out, whenever that may be: this never waits. Beats the link says by itself.
    pub fn send(&self, to: To, about: About, body: impl Into<Bytes>) {
        if about.kind == Kind::Beat || to == To::Host(self.shared.own) {
            return;
        }
        let now = self.shared.began.elapsed();
        let mut inner = lock(&self.shared.inner);
        inner.outgoing.push(to, about, body.into(), now);
        if let State::Down { .. } = inner.state {
            inner.outgoing.drop_before(now.saturating_sub(STALE));
        }
        drop(inner);
        self.shared.ready.notify_one();
    }

    /// How it is.
    pub fn state(&self) -> State {
        lock(&self.shared.inner).state.clone()
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let inner = lock(&self.shared.inner);
        let heard = inner.incoming.counts();
        Counts {
            dropped: inner.outgoing.dropped(),
            queued: inner.outgoing.bytes(),
            lost: heard.lost,
            repeated: heard.repeated,
            foreign: inner.counts.foreign + heard.refused,
            ..inner.counts
        }
    }

    /// Lets what waits go out, for a second at most, and ends it. No event comes after that.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        let task = lock(&self.task).take();
        if let Some(mut task) = task
            && timeout(LAST_WORDS, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

/// Connects again and again. An attempt that took long is followed by the next at once, so that a
/// bus is found soon after it is back.
async fn run(shared: Arc<Shared>, settings: Settings, mut events: impl FnMut(Event) + Send) {
    let mut pause = PAUSE.0;
    for server in settings.url.servers.iter().cycle() {
        let began = Instant::now();
        let Err(error): Result<Infallible, _> = match settings.url.engine {
            #[cfg(feature = "nats")]
            super::Engine::Nats => {
                session::<super::nats::Nats>(&shared, &settings, server, &mut events).await
            }
            #[cfg(feature = "redis")]
            super::Engine::Redis => {
                session::<super::redis::Redis>(&shared, &settings, server, &mut events).await
            }
            #[cfg(not(all(feature = "nats", feature = "redis")))]
            _ => {
                let why = "this cohortd was built without it".to_owned();
                Err(BusError::Unreachable { server: server.clone(), why })
            }
        };
        let now = Instant::now();
        let (was_up, is_news) = shared.down(&error);
        if is_news {
            events(Event::Down);
        }
        if shared.closing.is_cancelled() {
            return;
        }
        let jitter = 0.5 + fastrand::f64() / 2.0;
        let mut next = began + pause.mul_f64(jitter);
        pause = PAUSE.1.min(pause * 2);
        if was_up {
            // Not all hosts at the same time.
            next = now + PAUSE.0.mul_f64(fastrand::f64());
            pause = PAUSE.0;
        }
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = shared.closing.cancelled() => return,
        }
    }
}

/// One connection, from the attempt to why it ended.
async fn session<B: Broker>(
    shared: &Shared,
    settings: &Settings,
    server: &Server,
    events: &mut (impl FnMut(Event) + Send),
) -> Result<Infallible, BusError> {
    let attempt = async {
        let (mut out, mut input) = B::open(server, settings).await?;
        B::put(&mut out, vec![shared.beat()]).await?;
        // What comes before the first echo is not heard: the others don't know yet that we are here.
        loop {
            let (direct, frame) = B::next(&mut input).await?;
            if shared.is_echo(direct, &frame) {
                return Ok::<_, BusError>((out, input));
            }
        }
    };
    let late = || BusError::Late { server: server.clone(), limit: ATTEMPT };
    let (mut out, mut input) = tokio::select! {
        opened = timeout(ATTEMPT, attempt) => opened.map_err(|_| late())??,
        () = shared.closing.cancelled() => return Err(BusError::Closed),
    };
    shared.up(server);
    events(Event::Up);
    let write = async {
        loop {
            let frames = shared.batch();
            if !frames.is_empty() {
                B::put(&mut out, frames).await?;
            } else if shared.closing.is_cancelled() {
                return Err(BusError::Closed);
            } else {
                tokio::select! {
                    () = shared.ready.notified() => {}
                    () = shared.closing.cancelled() => {}
                }
            }
        }
    };
    // All that has come is taken before anything else is done, so that it does not pile up.
    let read = tokio::task::unconstrained(async {
        loop {
            let (direct, frame) = B::next(&mut input).await?;
            if let Some((header, body)) = shared.hear(direct, &frame) {
                events(Event::Frame(header, body));
            }
        }
    });
    tokio::select! {
        error = write => error,
        error = read => error,
        () = beats(shared) => {
            Err(BusError::Silent { server: server.clone(), limit: BEAT * BEATS as u32 })
        }
    }
}

/// Has a beat go out from time to time, until too many have not come back.
async fn beats(shared: &Shared) {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut inner = lock(&shared.inner);
        if inner.unanswered >= BEATS {
            return;
        }
        inner.unanswered += 1;
        inner.beat = true;
        inner.complain();
        drop(inner);
        shared.ready.notify_one();
    }
}

impl Shared {
    /// What goes out next: a beat, if it is time, and as much as is taken at once of what waits.
    fn batch(&self) -> Vec<(To, Bytes)> {
        let mut frames = Vec::new();
        if std::mem::take(&mut lock(&self.inner).beat) {
            frames.push(self.beat());
        }
        let mut inner = lock(&self.inner);
        let mut bytes = 0;
        while frames.len() < BATCH.0 && bytes < BATCH.1 {
            let Some((to, frame)) = inner.outgoing.pop() else { break };
            bytes += frame.len();
            inner.counts.sent.add(&frame);
            frames.push((to, frame));
        }
        frames
    }

    /// A beat that will be known when it comes back.
    fn beat(&self) -> (To, Bytes) {
        let mut inner = lock(&self.inner);
        let token = fastrand::u64(..);
        if inner.beats.len() > BEATS {
            inner.beats.remove(0);
        }
        inner.beats.push((token, Instant::now()));
        let (to, frame) = inner.outgoing.beat(&token.to_be_bytes());
        inner.counts.sent.add(&frame);
        (to, frame)
    }

    /// Whether it is a beat of ours.
    fn is_echo(&self, direct: bool, frame: &Bytes) -> bool {
        match Header::read(frame) {
            Ok((header, body)) if header.host == self.own && header.kind == Kind::Beat => {
                !direct && lock(&self.inner).echo(&body)
            }
            _ => false,
        }
    }

    /// What is whole by a frame.
    fn hear(&self, direct: bool, frame: &Bytes) -> Option<(Header, Bytes)> {
        let mut inner = lock(&self.inner);
        let (header, body) = match Header::read(frame) {
            Ok((header, body)) if header.direct == direct => (header, body),
            Err(Foreign::Later) => {
                inner.hear_later();
                return None;
            }
            Ok(_) | Err(Foreign::Unknown) => {
                inner.counts.foreign += 1;
                return None;
            }
        };
        if header.host == self.own {
            let is_ours = match header.kind {
                Kind::Beat => inner.echo(&body) || inner.is_old(&body),
                _ => !direct && header.seq < inner.outgoing.next_to_all(),
            };
            inner.counts.foreign += u64::from(!is_ours);
            return None;
        }
        inner.counts.received.add(frame);
        if header.kind == Kind::Later {
            inner.hear_later();
        }
        inner.incoming.take(header, body, self.began.elapsed())
    }

    fn up(&self, server: &Server) {
        let mut inner = lock(&self.inner);
        inner.state = State::Up { since: Instant::now() };
        inner.counts.connections += 1;
        let then = self.began.elapsed().saturating_sub(STALE);
        inner.outgoing.drop_before(then);
        drop(inner);
        tracing::info!("the bus is there: {server}");
    }

    /// Whether it was up before, and whether why it is not is something else than before.
    fn down(&self, error: &BusError) -> (bool, bool) {
        let words = error.to_string();
        let mut inner = lock(&self.inner);
        inner.beat = false;
        inner.give_beats_up();
        inner.unanswered = 0;
        inner.outgoing.drop_begun();
        inner.outgoing.drop_before(self.began.elapsed().saturating_sub(STALE));
        inner.complain();
        let now = Instant::now();
        let (was_up, since, is_news) = match &inner.state {
            State::Up { .. } => (true, now, true),
            State::Down { since, why } => (false, *since, *why != words),
        };
        inner.state = State::Down { since, why: words.clone() };
        drop(inner);
        if is_news && !self.closing.is_cancelled() {
            tracing::warn!("no other host is reached: {words}");
        }
        (was_up, is_news)
    }
}

impl Inner {
    /// Whether it is in a beat that has not come back yet.
    fn echo(&mut self, body: &[u8]) -> bool {
        let is_it = |(token, _): &(u64, Instant)| token.to_be_bytes() == body;
        let Some(at) = self.beats.iter().position(is_it) else { return false };
        self.counts.delay = Some(self.beats[at].1.elapsed());
        self.beats.drain(..=at);
        self.unanswered = 0;
        true
    }

    /// A later version has said what this one does not know.
    fn hear_later(&mut self) {
        self.counts.foreign += 1;
        if !std::mem::replace(&mut self.told_of_later, true) {
            tracing::warn!(
                "a host has a later cohortd than this one: what this one does not know is ignored"
            );
        }
    }

    fn give_beats_up(&mut self) {
        self.old_beats.extend(self.beats.drain(..).map(|(token, _)| token));
        let too_many = self.old_beats.len().saturating_sub(OLD_BEATS);
        self.old_beats.drain(..too_many);
    }

    /// Whether it is in a beat of an earlier connection, which comes late.
    fn is_old(&mut self, body: &[u8]) -> bool {
        let at = self.old_beats.iter().position(|token| token.to_be_bytes() == body);
        at.is_some_and(|at| self.old_beats.remove(at).is_some())
    }

    /// Says what was dropped since it was said last.
    fn complain(&mut self) {
        let (last, said) = self.complained;
        let dropped = self.outgoing.dropped();
        if dropped == said || last.is_some_and(|last| last.elapsed() < COMPLAINT) {
            return;
        }
        self.complained = (Some(Instant::now()), dropped);
        tracing::warn!(
            "the bus did not take {} frames of {} bytes in time: other hosts have missed them",
            dropped.frames - said.frames,
            dropped.bytes - said.bytes
        );
    }
}

impl Volume {
    fn add(&mut self, frame: &Bytes) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
    }
}
