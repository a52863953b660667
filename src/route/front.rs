//! The front-end of an app: its workers, the sessions that live in them, and clients' connections.
//! How those arrive is in `arrive`, who serves them in `choose`, how they end in `disconnect`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access_log::AccessLog;
use super::admission::Admission;
use super::counts::{Counts, SlotCounts};
use super::forward::Forwarding;
use super::given::{Looks, Speaks};
use super::head::Session;
use super::notes::Notes;
use super::pair::Pairs;
use super::succession::{Succession, ToPredecessor};
use super::table::Sessions;
use super::tls::Tls;
use super::upstream::Upstream;
use crate::config::{Config, Kind, Limits, Route};
use crate::keeper::{Mark, Marks};
use crate::listen::Place;
use crate::sync::lock;
use crate::worker::WorkerId;

/// How often it is looked whether a drained worker still has connections that were handed over.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a reload may change.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) route: Route,
    pub(super) limits: Limits,
    /// If clients' connections are encrypted.
    pub(super) tls: Option<Tls>,
    /// If there is one.
    pub(super) access_log: Option<Arc<AccessLog>>,
}

impl Settings {
    fn new(config: &Config, tls: Option<Tls>, log: Option<Arc<AccessLog>>) -> Settings {
        Settings {
            route: config.route.clone(),
            limits: config.limits.clone(),
            tls,
            access_log: config.access_log.then(|| log.unwrap_or_else(AccessLog::start)),
        }
    }
}

/// The front-end of one app.
#[derive(Debug)]
pub struct Front {
    pub(super) places: Vec<Place>,
    /// The workers are Node's, and can be given connections.
    pub(super) settings: watch::Sender<Arc<Settings>>,
    pub(super) hands_over: bool,
    pub(super) pairs: Pairs,
    pub(super) workers: watch::Sender<Vec<Arc<Upstream>>>,
    pub(super) sessions: Mutex<Sessions>,
    pub(super) looks: Arc<Mutex<Looks>>,
    /// Requests that wait to hear of their session.
    pub(super) parked: Mutex<HashMap<String, Arc<Notify>>>,
    /// Polls that wait to hear of their session's end.
    polls: Mutex<HashMap<String, Arc<Notify>>>,
    pub(super) next_disconnect: tokio::sync::Mutex<tokio::time::Instant>,
    pub(super) turn: AtomicUsize,
    pub(super) begun: Instant,
    pub(super) admission: Admission,
    notes: OnceLock<Arc<dyn Notes>>,
    marks: OnceLock<Marks>,
    /// The way to other hosts, if there may be any.
    pub(super) forwarding: OnceLock<Arc<Forwarding>>,
    /// What has come here.
    pub counts: Counts,
    /// What each slot's workers have done.
    slots: Mutex<Vec<Arc<SlotCounts>>>,
    pub(super) stop: CancellationToken,
    /// Connections come to their end here: it stops, or passes them on.
    pub(super) turns: CancellationToken,
    pub(super) accepting: TaskTracker,
    pub(super) connections: TaskTracker,
    pub(super) succession: Succession,
}

impl Front {
    /// A front-end that knows no worker yet, for listeners at these places.
    ///
    /// # Errors
    /// The private listener could not be opened.
    pub fn new(config: &Config, tls: Option<Tls>, places: Vec<Place>) -> io::Result<Front> {
        Ok(Front {
            places,
            hands_over: config.kind == Kind::Node,
            settings: watch::Sender::new(Arc::new(Settings::new(config, tls, None))),
            pairs: Pairs::new()?,
            workers: watch::Sender::default(),
            sessions: Mutex::default(),
            looks: Arc::default(),
            parked: Mutex::default(),
            polls: Mutex::default(),
            next_disconnect: tokio::sync::Mutex::new(tokio::time::Instant::now()),
            turn: AtomicUsize::new(0),
            begun: Instant::now(),
            admission: Admission::default(),
            notes: OnceLock::new(),
            marks: OnceLock::new(),
            forwarding: OnceLock::new(),
            counts: Counts::default(),
            slots: Mutex::default(),
            stop: CancellationToken::new(),
            turns: CancellationToken::new(),
            accepting: TaskTracker::new(),
            connections: TaskTracker::new(),
            succession: Succession::default(),
        })
    }

    /// Somebody takes notes from now on.
    pub fn take_notes(&self, notes: Arc<dyn Notes>) {
        let _ = self.notes.set(notes); // there is one
    }

    pub(super) fn notes(&self) -> Option<&Arc<dyn Notes>> {
        self.notes.get()
    }

    /// There is a keeper, for whom connections are marked from now on.
    pub fn mark_for_keeper(&self, marks: Marks) {
        let _ = self.marks.set(marks); // there is one
    }

    /// How a connection is marked.
    pub(super) fn mark(&self, connection: impl AsFd) -> Mark {
        self.marks.get().map_or_else(Mark::default, |marks| marks.of(connection))
    }

    /// A connection is somebody else's to read, if it is read.
    pub(super) fn mark_unread(&self, connection: impl AsFd) {
        if let Some(marks) = self.marks.get() {
            marks.unread(connection);
        }
    }

    /// Sessions that are known, as a successor is told of them.
    pub fn sessions(&self) -> Vec<(Box<str>, WorkerId, Duration)> {
        lock(&self.sessions).all().collect()
    }

    /// Sessions that are over, and whose clients may not have heard it yet.
    pub fn sessions_over(&self) -> Vec<(Box<str>, WorkerId)> {
        lock(&self.sessions).over().collect()
    }

    /// A predecessor has ended this session.
    pub fn session_was_ended(&self, sid: &str, worker: WorkerId) {
        self.session_opened(sid, worker, None);
        self.end_session(sid, worker);
    }

    /// Routes by other settings from now on.
    pub fn configure(&self, config: &Config, tls: Option<Tls>) {
        self.settings.send_modify(|settings| {
            *settings = Arc::new(Settings::new(config, tls, settings.access_log.clone()));
        });
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// The worker can be sent requests from now on.
    pub fn add(&self, upstream: Arc<Upstream>) {
        upstream.begin_to_serve();
        self.workers.send_modify(|workers| workers.push(upstream.clone()));
        self.tell_of_worker(&upstream);
    }

    /// A worker has opened a server: if it can be sent requests, one may have waited for that.
    pub fn serves_again(&self, upstream: &Upstream) {
        if self.upstream(upstream.worker.id).is_some() {
            self.workers.send_modify(|_| {});
            self.tell_of_worker(upstream);
        }
    }

    /// The worker can't be sent requests any more.
    pub fn remove(self: &Arc<Self>, id: WorkerId) {
        let mut removed = None;
        self.workers.send_modify(|workers| {
            let at = workers.iter().position(|upstream| upstream.worker.id == id);
            removed = at.map(|at| workers.remove(at));
        });
        if let Some(upstream) = removed {
            upstream.leave();
            self.recover(&upstream);
        }
        self.succession.tell_predecessors(&ToPredecessor::Gone { worker: id.0 });
    }

    /// A worker that can be sent requests.
    pub(super) fn upstream(&self, id: WorkerId) -> Option<Arc<Upstream>> {
        self.workers.borrow().iter().find(|u| u.worker.id == id).cloned()
    }

    /// A session has begun in a worker; `silence` is how long it may be without a request.
    pub fn session_opened(&self, sid: &str, worker: WorkerId, silence: Option<Duration>) {
        let mut sessions = lock(&self.sessions);
        let is_news = sessions.open(sid, worker, silence, self.begun.elapsed());
        drop(sessions);
        if let Some(notes) = self.notes.get().filter(|_| is_news) {
            notes.session_opened(sid, worker, silence);
        }
        if let Some(waiting) = lock(&self.parked).remove(sid) {
            waiting.notify_waiters();
        }
        if let Some(successor) = self.succession.successor() {
            successor.session(sid, worker, silence);
        }
    }

    /// A worker says that a session of its own has ended.
    pub fn session_closed(&self, sid: &str, worker: WorkerId) {
        lock(&self.sessions).close(sid, worker);
        if let Some(notes) = self.notes.get() {
            notes.session_ended(sid);
        }
        self.tell_of_less(worker);
    }

    /// How many sessions live in a worker.
    pub fn sessions_of(&self, worker: WorkerId) -> usize {
        lock(&self.sessions).count(worker)
    }

    /// What the workers of a slot do is counted here.
    pub fn slot(&self, at: usize) -> Arc<SlotCounts> {
        let mut slots = lock(&self.slots);
        while slots.len() <= at {
            slots.push(Arc::default());
        }
        slots[at].clone()
    }

    /// Of every slot that there has been.
    pub fn slots(&self) -> Vec<Arc<SlotCounts>> {
        lock(&self.slots).clone()
    }

    /// Sessions of which a request waits to hear.
    pub fn parked(&self) -> usize {
        lock(&self.parked).len()
    }

    /// The sessions that live in a worker.
    pub(super) fn sids_of(&self, worker: WorkerId) -> Vec<Box<str>> {
        lock(&self.sessions).of(worker)
    }

    /// A session is over as far as we are concerned: its poll, or else its next one, is answered
    /// with that.
    pub(super) fn end_session(&self, sid: &str, worker: WorkerId) {
        lock(&self.sessions).end(sid, worker);
        if let Some(notes) = self.notes.get() {
            notes.session_over(sid, worker);
        }
        if let Some(poll) = lock(&self.polls).get(sid) {
            poll.notify_waiters();
        }
        self.tell_of_less(worker);
        let ended = ToPredecessor::SessionEnded { sid: sid.to_owned(), worker: worker.0 };
        self.succession.tell_predecessors(&ended);
    }

    fn tell_of_less(&self, worker: WorkerId) {
        if let Some(upstream) = self.upstream(worker) {
            upstream.session_ended();
        }
    }

    /// A poll that waits, and hears of it when its session is ended.
    pub(super) fn poll<'a>(&'a self, session: &'a Session) -> Option<LongPoll<'a>> {
        let Session::Of(sid) = session else { return None };
        let ended = lock(&self.polls).entry(sid.clone()).or_default().clone();
        Some(LongPoll { front: self, sid, ended })
    }

    /// Ends when nothing is left in a worker that takes no new work: no request, no session, no
    /// connection that was handed over. Those of HTTP are taken back meanwhile. It is sent nothing
    /// from then on: what a session still says that was ended would find it stopping.
    pub async fn left(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        let id = upstream.worker.id;
        let is_done = || upstream.in_flight() == 0 && self.sessions_of(id) == 0;
        self.recover(upstream);
        loop {
            let less = upstream.less();
            let has_http = upstream.has_http();
            if !is_done() && !has_http {
                less.await;
                continue;
            }
            let given = self.still_given(upstream).await;
            // Something may have been begun, or taken, during the look.
            let has_none = given.as_ref().is_some_and(Vec::is_empty) && upstream.given() == 0;
            if is_done() && has_none {
                return self.remove(id);
            }
            if let Some(given) = given.filter(|_| has_http) {
                self.take_back(upstream, given).await;
            }
            // Nobody tells when such a connection ends.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A connection whose second end can be given to a worker.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn open_pair(&self) -> io::Result<(TcpStream, OwnedFd)> {
        self.pairs.open().await
    }

    /// Accepts no more, and lets every connection end with the request it is at. Connections that
    /// were handed over are their workers'.
    pub fn stop(&self) {
        if let Some(forwarding) = self.forwarding.get() {
            forwarding.close();
        }
        self.stop.cancel();
        self.turns.cancel();
        self.accepting.close();
        self.connections.close();
        self.succession.tell_predecessors(&ToPredecessor::Stop);
    }

    /// Waits until every connection has ended, after [`Front::stop`], here and in predecessors, and
    /// every request on those that workers have.
    pub async fn drained(self: &Arc<Self>) {
        // One may have been accepted at the very moment of the stop.
        self.accepting.wait().await;
        self.connections.wait().await;
        self.is_alone().await;
        let workers = self.workers.borrow().clone();
        for upstream in workers {
            upstream.listen_no_more();
            while upstream.has_http() {
                if let Some(mut given) = self.still_given(&upstream).await {
                    given.retain(|connection| matches!(connection.speaks, Speaks::Http(_)));
                    if given.is_empty() {
                        break;
                    }
                    self.take_back(&upstream, given).await;
                    self.connections.wait().await;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        // What a worker has sent back.
        self.connections.wait().await;
    }

    /// Waits a moment until the access log is written, in the end.
    pub async fn flush_log(&self) {
        if let Some(log) = &self.settings().access_log {
            log.flush().await;
        }
    }

    /// The access log's thread does not live on in a process that was forked.
    pub(super) fn begin_log_again(&self) {
        if let Some(log) = &self.settings().access_log {
            log.begin_again();
        }
    }

    /// How many connections are open here, handed-over ones not counted.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Ends when the front-end stops.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs something that counts as a connection.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(task);
    }
}

/// A poll that is in flight.
#[derive(Debug)]
pub(super) struct LongPoll<'a> {
    front: &'a Front,
    sid: &'a str,
    ended: Arc<Notify>,
}

impl LongPoll<'_> {
    /// Ends when its session is ended after this was called.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }
}

impl Drop for LongPoll<'_> {
    fn drop(&mut self) {
        let mut polls = lock(&self.front.polls);
        // The map's, and ours: no other poll of the session.
        if polls.get(self.sid).is_some_and(|ended| Arc::strong_count(ended) <= 2) {
            polls.remove(self.sid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::worker::Worker;

    #[tokio::test]
    async fn what_begins_at_the_last_moment_is_waited_for_and_nothing_comes_behind_it() {
        let text = "exec = ['worker']\nlisten = ['8080']\n";
        let config = Config::parse(Path::new("app.toml"), text).expect("a good configuration");
        let id = WorkerId(1);
        let (front, upstream, left) = loop {
            let front = Arc::new(Front::new(&config, None, Vec::new()).expect("a front-end"));
            let worker = Arc::new(Worker::new(id, 0, std::process::id(), None, None));
            let upstream = Arc::new(Upstream::new(worker, front.slot(0)));
            front.add(upstream.clone());
            let left = tokio::spawn({
                let (front, upstream) = (front.clone(), upstream.clone());
                async move { front.left(&upstream).await }
            });
            tokio::task::yield_now().await; // it looks
            // On a busy machine the look may be over already: once more.
            if !left.is_finished() {
                break (front, upstream, left);
            }
        };
        let in_flight = upstream.begin();
        for _ in 0..3 {
            front.still_given(&upstream).await;
        }
        assert!(!left.is_finished() && front.upstream(id).is_some());
        drop(in_flight);
        left.await.expect("it ends");
        assert!(front.upstream(id).is_none(), "nothing is sent to it any more");
    }
}
