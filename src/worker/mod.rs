//! Worker processes: how they are started, talked to, and proven ready.

mod actions;
pub mod cgroup;
pub mod channel;
mod domain;
pub mod held;
mod hook;
mod id;
pub mod lane;
pub mod marks;
pub mod memory;
pub mod notify;
pub mod probe;
pub mod processor;
pub mod spawn;
pub mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use actions::Actions;
pub use id::WorkerId;

use crate::sync::lock;
use cgroup::Cgroup;
use channel::{Channel, ChannelError, Reader};
use lane::Lane;
use wire::action::{Ask, Said};
use wire::cluster::{
    HandleReply, HandleType, Message, Ping, SockName, StickyConnection, WithHandle,
};
use wire::hook::ToHook;
use wire::{Incoming, Value};

/// How long what we have loaded into a worker may take to answer: the worker may hang.
const HOOK_LIMIT: Duration = Duration::from_secs(5);

/// What is spoken on a connection, as the worker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP.
    Http,
    /// What an upgrade led to, in the clear.
    WebSocket,
    /// Anything else.
    Other,
}

/// A custom action was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// The worker has announced none of this name.
    #[error("it has no such action")]
    Unknown,
    /// It has ended meanwhile.
    #[error("it has ended before it answered")]
    Gone,
}

/// How long an event loop takes to answer.
#[derive(Debug, Clone, Copy, Default)]
struct Pulse {
    last: Option<Duration>,
    asked: Option<Instant>,
}

/// What a worker has said of itself, once and for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How it tells our word on its clients from anybody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer_token: Option<String>,
    /// Names of its custom actions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    actions: Vec<String>,
    /// It takes connections by its lane.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lane: bool,
}

/// A running worker, as everybody else sees it: something to send to.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Its place.
    pub slot: usize,
    /// Its process, as of its start.
    pub pid: u32,
    /// Everything that it has started is in there too.
    pub cgroup: Option<Cgroup>,
    /// Its IPC, if it is one of Node's.
    channel: Option<Channel>,
    /// Where connections are sent to it, if it takes them there.
    lane: Option<Lane>,
    /// How long its event loop took to answer, and when it was asked since.
    pulse: Mutex<Pulse>,
    /// Its processor time when it was last looked at, in nanoseconds.
    cpu: AtomicU64,
    peer_token: OnceLock<String>,
    seq: AtomicU64,
    /// Connections that the worker has been given and has not said yes or no to.
    offered: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    /// PM2's custom actions.
    pub actions: Actions,
    /// Who waits for an answer of what we have loaded into it. One may ask at a time.
    asking: tokio::sync::Mutex<()>,
    asked: Mutex<Option<(u64, oneshot::Sender<String>)>>,
}

impl Worker {
    /// Puts the pieces together.
    pub fn new(
        id: WorkerId,
        slot: usize,
        pid: u32,
        cgroup: Option<Cgroup>,
        channel: Option<Channel>,
    ) -> Worker {
        Worker::resume(id, slot, pid, cgroup, channel, Known::default(), 0)
    }

    /// Puts the pieces of a predecessor's worker together. Messages to it are numbered from `seq` on.
    pub fn resume(
        id: WorkerId,
        slot: usize,
        pid: u32,
        cgroup: Option<Cgroup>,
        channel: Option<Channel>,
        known: Known,
        seq: u64,
    ) -> Worker {
        Worker {
            id,
            slot,
            pid,
            cgroup,
            channel,
            lane: None,
            pulse: Mutex::default(),
            cpu: AtomicU64::new(0),
            peer_token: known.peer_token.map(OnceLock::from).unwrap_or_default(),
            seq: AtomicU64::new(seq),
            offered: Mutex::default(),
            actions: Actions::of(known.actions),
            asking: tokio::sync::Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// It has a lane, which it may never use.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn with_lane(mut self, ends: Option<lane::Ends>, known: &Known) -> io::Result<Worker> {
        self.lane = ends.map(|ends| Lane::new(ends, known.lane)).transpose()?;
        Ok(self)
    }

    /// What it has said of itself.
    pub fn known(&self) -> Known {
        Known {
            peer_token: self.peer_token().map(str::to_owned),
            actions: self.actions.known(),
            lane: self.lane.as_ref().is_some_and(Lane::is_open),
        }
    }

    /// Its lane, if it has one.
    pub fn lane(&self) -> Option<&Lane> {
        self.lane.as_ref()
    }

    /// Its IPC, if it is one of Node's.
    pub fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref()
    }

    /// The sockets that its processes have open, by inode.
    pub fn sockets(&self) -> HashMap<u64, held::Place> {
        let first = Pid::from_raw(self.pid as i32);
        match &self.cgroup {
            Some(cgroup) => held::sockets(&cgroup.processes()),
            None => held::sockets(first.as_slice()),
        }
    }

    /// One of the sockets of its first process.
    pub fn socket(&self, descriptor: RawFd) -> Option<(u64, held::Place)> {
        held::socket(Pid::from_raw(self.pid as i32)?, descriptor)
    }

    /// The memory that it uses, in bytes.
    pub fn memory(&self) -> Option<usize> {
        memory::used(self.pid, self.cgroup.as_ref())
    }

    /// The processor time that it has taken. What it had when it was last looked at, where it can't be
    /// looked at any more.
    pub fn cpu(&self) -> Option<Duration> {
        if let Some(used) = processor::used(self.pid, self.cgroup.as_ref()) {
            let nanos = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            self.cpu.fetch_max(nanos, Ordering::Relaxed);
        }
        let seen = self.last_cpu();
        (!seen.is_zero()).then_some(seen)
    }

    /// The processor time that it had when that was last looked at.
    pub fn last_cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }

    /// How long its event loop last took to answer; longer, if it has not answered for longer now.
    /// `None`: it is not asked, or has not answered yet.
    pub fn event_loop_delay(&self) -> Option<Duration> {
        let Pulse { last, asked } = *lock(&self.pulse);
        let waits = asked.map(|at| at.elapsed()).unwrap_or_default();
        last.map(|last| last.max(waits))
    }

    /// Messages that wait for it, in bytes.
    pub fn queued(&self) -> usize {
        self.channel.as_ref().map_or(0, Channel::queued)
    }

    /// Whether a connection leaves as soon as it is given to it.
    pub fn has_room(&self) -> bool {
        self.channel.as_ref().is_none_or(Channel::has_room)
    }

    /// Wakes up when that may be so again since this was called, if it is one of Node's.
    pub fn room(&self) -> Option<impl Future<Output = ()>> {
        self.channel.as_ref().map(Channel::room)
    }

    /// What a request has to say with its client's addresses, or the worker would not believe
    /// them. `None`: it can't be told any.
    pub fn peer_token(&self) -> Option<&str> {
        self.peer_token.get().map(String::as_str)
    }

    /// Gives a connection to the worker's server known by `key`; here as below, `peer` is what it
    /// shall take for the connection's ends, if it hears of such things.
    ///
    /// # Errors
    /// The worker refused it (it is closing, or has `maxConnections`) or is gone: the connection,
    /// of which nothing has been read.
    pub async fn give_to_server(
        &self,
        key: &str,
        connection: OwnedFd,
        peer: Option<&str>,
    ) -> Result<(), OwnedFd> {
        let seq = self.next_seq();
        let (answer, answered) = oneshot::channel();
        self.offers().insert(seq, answer);
        let message = WithHandle::new(HandleType::Native, Message::newconn(seq, key)).of_peer(peer);
        let given = self.give(&message, connection).await;
        let result = match given {
            Ok(connection) => match answered.await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(connection),
            },
            Err(connection) => Err(connection),
        };
        self.offers().remove(&seq);
        result
    }

    /// Gives a connection to @socket.io/sticky in the worker.
    ///
    /// # Errors
    /// The worker is gone: the connection, of which nothing has been read.
    pub async fn give_to_sticky(
        &self,
        connection: OwnedFd,
        peer: Option<&str>,
    ) -> Result<(), OwnedFd> {
        let message = WithHandle::new(HandleType::Socket, StickyConnection::new()).of_peer(peer);
        self.give(&message, connection).await.map(drop)
    }

    async fn give<M: Serialize>(&self, message: &M, fd: OwnedFd) -> Result<OwnedFd, OwnedFd> {
        let Some(channel) = &self.channel else { return Err(fd) };
        let delivered = channel.send_handle(self.encode(message), fd).await;
        if delivered.arrived { Ok(delivered.fd) } else { Err(delivered.fd) }
    }

    /// Answers `queryServer`: connections will be given to the server.
    pub fn serve(&self, ack: u64, key: &str, data: &Value, name: Option<&SockName>) {
        self.send(&Message::serve(self.next_seq(), ack, key, data, name));
    }

    /// Answers `queryServer` with the socket itself.
    ///
    /// # Errors
    /// The worker is gone.
    pub async fn share(
        &self,
        ack: u64,
        key: &str,
        data: &Value,
        kind: HandleType,
        socket: OwnedFd,
    ) -> Result<(), OwnedFd> {
        let message = Message::share(self.next_seq(), ack, key, data);
        self.give(&WithHandle::new(kind, message), socket).await.map(drop)
    }

    /// Answers `queryServer` with an error of the kernel.
    pub fn refuse(&self, ack: u64, key: &str, errno: i32) {
        self.send(&Message::refuse(self.next_seq(), ack, key, errno));
    }

    /// Ends when the worker's event loop has answered: so long it takes, or hangs. A program that
    /// does not speak all of Node's protocol may never answer.
    pub async fn answers(&self) {
        match &self.channel {
            Some(channel) => channel.answers(self.encode(&Ping::new())).await,
            None => std::future::pending().await,
        }
    }

    /// [`Worker::answers`]; remembers how long that took, and says it.
    pub async fn answers_in(&self) -> Duration {
        let asked = Instant::now();
        lock(&self.pulse).asked = Some(asked);
        self.answers().await;
        let took = asked.elapsed();
        *lock(&self.pulse) = Pulse { last: Some(took), asked: None };
        took
    }

    /// Answers with nothing more than that it was heard.
    pub fn acknowledge(&self, ack: u64) {
        self.send(&Message::ack(self.next_seq(), ack));
    }

    /// Has it close those of these connections, by its descriptors, on which nothing is under way.
    /// Returns which those were: without what we load into it, none.
    pub async fn release(&self, descriptors: &[RawFd]) -> Vec<RawFd> {
        let answer = self.ask_hook(|seq| ToHook::release(seq, descriptors)).await;
        answer.unwrap_or_default().split(' ').filter_map(|number| number.parse().ok()).collect()
    }

    /// Whether it has read, before this ends, all that was sent to it before this was called. `false`:
    /// it does not say.
    pub async fn catches_up(&self) -> bool {
        // An answer with a number: those to what a predecessor has sent are not taken for it.
        self.ask_hook(|seq| ToHook::release(seq, &[])).await.is_some()
    }

    /// Waits until a worker of a predecessor has answered all that was sent to it; then descriptors may
    /// be. One that was not loaded with anything of ours can't be asked: it has read all of it, at least.
    pub async fn begin(&self) {
        let Some(channel) = &self.channel else { return };
        if !self.catches_up().await {
            channel.is_read().await;
        }
        channel.begin();
    }

    /// The connections that it has accepted itself at this port or path, by its descriptors. `None`:
    /// it does not say.
    pub async fn connections(&self, at: &str) -> Option<Vec<(Spoken, RawFd)>> {
        let answer = self.ask_hook(|seq| ToHook::list(seq, at)).await?;
        let one = |word: &str| {
            let spoken = match word.get(..1)? {
                "h" => Spoken::Http,
                "w" => Spoken::WebSocket,
                _ => Spoken::Other,
            };
            Some((spoken, word[1..].parse().ok()?))
        };
        Some(answer.split(' ').filter_map(one).collect())
    }

    /// Has it listen no more at this port or path, without any word to the app.
    pub fn leave(&self, at: &str) {
        self.send(&ToHook::leave(at));
    }

    /// Gives it a connection as if it had accepted it there itself.
    ///
    /// # Errors
    /// The worker is gone: the connection, of which nothing has been read.
    pub async fn give_to_hook(
        &self,
        at: &str,
        connection: OwnedFd,
        peer: Option<&str>,
    ) -> Result<(), OwnedFd> {
        let message = WithHandle::new(HandleType::Native, ToHook::take(at)).of_peer(peer);
        self.give(&message, connection).await.map(drop)
    }

    async fn ask_hook<'a>(&self, question: impl FnOnce(u64) -> ToHook<'a>) -> Option<String> {
        self.peer_token()?;
        let _turn = self.asking.lock().await;
        let (answer, answered) = oneshot::channel();
        let seq = self.next_seq();
        *lock(&self.asked) = Some((seq, answer));
        self.send(&question(seq));
        let answered = tokio::time::timeout(HOOK_LIMIT, answered).await;
        answered.ok()?.ok()
    }

    /// Has it carry out one of its custom actions, and waits for the answer as long as it takes.
    ///
    /// # Errors
    /// It has no such action, or has gone.
    pub async fn trigger(
        &self,
        action: &str,
        parameter: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value, TriggerError> {
        let answered = self.actions.await_answer(action).ok_or(TriggerError::Unknown)?;
        self.send(&Ask::new(action, parameter));
        answered.await.map_err(|_| TriggerError::Gone)
    }

    /// Sends a message.
    pub fn send<M: Serialize>(&self, message: &M) {
        self.send_frame(self.encode(message));
    }

    /// Sends a whole frame of this worker's framing.
    pub fn send_frame(&self, frame: Bytes) {
        if let Some(channel) = &self.channel {
            channel.send(frame);
        }
    }

    /// The framing of this worker.
    pub fn framing(&self) -> wire::Framing {
        self.channel.as_ref().map(Channel::framing).unwrap_or_default()
    }

    /// Ends the channel, upon which a Node worker exits.
    pub fn hang_up(&self) {
        if let Some(channel) = &self.channel {
            channel.close();
        }
        self.offers().clear();
        self.actions.hang_up();
        lock(&self.asked).take();
    }

    /// Writes what is sent to the worker, until the channel ends.
    pub async fn write(&self) {
        if let Some(channel) = &self.channel {
            channel.write().await;
        }
    }

    /// Reads what the worker sends until the channel ends, and hands on what is not about
    /// descriptors.
    ///
    /// # Errors
    /// The worker broke the protocol, or did not read; it can't be talked to any more.
    pub async fn read(
        &self,
        mut on: impl FnMut(&Incoming<'_>, &Bytes),
    ) -> Result<(), ChannelError> {
        let Some(channel) = &self.channel else { return Ok(()) };
        let mut reader = Reader::new(channel.framing());
        let ended = loop {
            let frame = match reader.next(channel).await {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let Ok(keys) = wire::look(channel.framing(), &frame) else {
                on(&Incoming::App, &frame);
                continue;
            };
            match wire::classify(&keys) {
                Incoming::HandleArrived => channel.acknowledged(true),
                Incoming::HandleMissing => channel.acknowledged(false),
                Incoming::Handle => self.send(&HandleReply::new(true)),
                Incoming::HearsOfPeers(token) => {
                    self.peer_token.get_or_init(|| token.to_owned());
                }
                Incoming::TakesLane => {
                    if let Some(lane) = &self.lane {
                        lane.open();
                    }
                }
                Incoming::FromHook(answer) => {
                    let (seq, answer) = answer.split_once(' ').unwrap_or((answer, ""));
                    let is_its = |asked: &mut (u64, _)| seq.parse() == Ok(asked.0);
                    if let Some((_, asker)) = lock(&self.asked).take_if(is_its) {
                        let _ = asker.send(answer.to_owned()); // it may have given up
                    }
                }
                Incoming::Action => {
                    if let Ok(said) = Said::read(channel.framing(), &frame) {
                        self.actions.heard(said);
                    }
                }
                Incoming::Reply { seq, accepted } => {
                    if let Some(answer) = self.offers().remove(&seq) {
                        let _ = answer.send(accepted); // its asker may have given up
                    }
                }
                message => on(&message, &frame),
            }
        };
        self.hang_up();
        ended
    }

    fn encode<M: Serialize>(&self, message: &M) -> Bytes {
        let frame = self.framing().encode(message);
        let frame = frame.expect("every message of ours has a form in both framings");
        frame.into_boxed_slice().into() // what waits takes no more than its length
    }

    fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    fn offers(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<bool>>> {
        lock(&self.offered)
    }
}
