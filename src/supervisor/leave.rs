//! Leaving the app to a successor: what is written down for one all the time, and how another program
//! goes on in this process when it is asked for (`cohortctl reexec`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::estate::{self, FORMAT, Kept, Record, State};
use super::handle::{Reply, Succession};
use super::phase::Phase;
use super::resume::monotonic;
use super::run::Supervisor;
use super::tasks::Event;
use crate::listen::Socket;
use crate::program;
use crate::route::Front;
use crate::systemd::events;
use crate::worker::WorkerId;
use crate::worker::channel::Channel;

/// How long the new program may take to say that it can go on.
const REHEARSAL: Duration = Duration::from_secs(20);

/// How long what is under way with workers may take to be whole.
const SETTLES: Duration = Duration::from_secs(2);

/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(1);

/// What came of asking the new program whether it can go on.
pub(super) type Rehearsal = Result<(), String>;

/// What another program, in this process, goes on with.
#[derive(Debug)]
pub struct Heritage {
    /// The app's listening sockets.
    pub sockets: Vec<OwnedFd>,
    /// Everything else, by name.
    pub kept: Kept,
    /// Of programs before this one, which still finish something.
    pub predecessors: Vec<OwnedFd>,
    /// Has the connections on which something is under way.
    pub front: Arc<Front>,
}

impl Supervisor {
    /// Writes down how everything is, if that has changed.
    pub(super) fn note(&mut self, phase: &Phase) {
        let Some(estate) = self.shared.estate.clone() else { return };
        if self.noted.is_none() {
            return self.note_all(phase);
        }
        let state = self.state(phase);
        if self.noted.as_ref() != Some(&state) {
            estate.note(state.clone());
            self.noted = Some(state);
        }
    }

    /// Writes down everything in a new file.
    pub(super) fn note_all(&mut self, phase: &Phase) {
        let Some(estate) = self.shared.estate.clone() else { return };
        let state = self.state(phase);
        match estate.write_anew(self.records(&state)) {
            Ok(()) => self.shared.front.take_notes(estate),
            Err(error) => tracing::error!(%error, "this app would not survive a crash of cohortd"),
        }
        self.noted = Some(state);
    }

    fn records(&self, state: &State) -> impl Iterator<Item = Record> {
        let sessions = self.shared.front.sessions().into_iter();
        let sessions = sessions.map(|(sid, id, silence)| estate::session(&sid, id, Some(silence)));
        let over = self.shared.front.sessions_over().into_iter();
        let over = over.map(|(sid, id)| Record::SessionOver(sid.into(), id));
        let given = self.processes.iter().flat_map(|(id, process)| {
            let all = process.upstream.handed_over().into_iter();
            all.map(|connection| Record::Given(*id, connection)).collect::<Vec<_>>()
        });
        std::iter::once(Record::State(Box::new(state.clone())))
            .chain(sessions)
            .chain(over)
            .chain(given)
    }

    fn state(&self, phase: &Phase) -> State {
        let mut workers: Vec<estate::Worker> = self
            .processes
            .iter()
            .map(|(id, process)| {
                let worker = &process.worker;
                let path = |path: &crate::listen::OwnPath| path.as_path().to_owned();
                let mark = worker.channel().map(Channel::mark);
                let mark = mark.or(process.cut.as_ref().map(|(_, mark)| mark));
                estate::Worker {
                    id: *id,
                    pid: worker.pid,
                    begun: process.begun.saturating_duration_since(self.begun),
                    mark: mark.map(|mark| mark.place()),
                    known: worker.known(),
                    status: process.status.clone(),
                    says_ready: process.says_ready,
                    doors: process.upstream.doors(),
                    adapters: self.shared.relay.adapters(*id),
                    private: process.private.as_ref().map(path),
                    notify: process.notify_path.as_ref().map(path),
                }
            })
            .collect();
        workers.sort_by_key(|worker| worker.id);
        let text = |release: &super::release::Release| release.config.text.clone();
        let releases: BTreeMap<u64, String> = self
            .releases
            .iter()
            .map(|(generation, release)| (generation.0, text(release)))
            .collect();
        State {
            format: FORMAT,
            readable_by: State::readable_by(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            successions: self.successions,
            begun: self.noted.as_ref().map_or_else(
                || monotonic().saturating_sub(self.begun.elapsed()),
                |noted| noted.begun,
            ),
            up: matches!(phase, Phase::Up),
            serving: self.serving.0,
            last: self.last.0,
            failed_reloads: self.failed_reloads,
            last_reload_error: self.last_reload_error.clone(),
            fleet: self.fleet.snapshot(),
            releases,
            workers,
            servers: self.servers.snapshot(),
            hosts: self.shared.relay.known(),
        }
    }

    /// Somebody wants the program that is installed now to go on. Whether it can is asked of it, while
    /// everything goes on here.
    pub(super) fn succeed(&mut self, reply: Reply<Succession>, phase: &Phase) {
        let Some(estate) = &self.shared.estate else {
            let _ = reply.send(Err("another program can go on only under systemd".to_owned()));
            return;
        };
        self.to_leave.push(reply);
        if self.to_leave.len() > 1 {
            return; // it is being asked
        }
        let rehearsed = self.rehearsed.clone();
        let state = self.state(phase);
        match estate.copy(self.records(&state)) {
            Ok(kept) => drop(tokio::spawn(async move {
                let _ = rehearsed.send(rehearse(kept).await); // the app may have been stopped
            })),
            Err(error) => drop(rehearsed.send(Err(error.to_string()))),
        }
    }

    /// The other program has said whether it can go on.
    pub(super) fn on_rehearsal(&mut self, rehearsal: Rehearsal) {
        match rehearsal {
            Ok(()) => self.is_rehearsed = true,
            Err(why) => {
                tracing::error!(name: events::NOT_SUCCEEDED, why, "the installed program can't go on");
                let why = format!("the installed program can't go on, this one does: {why}");
                self.answer_who_leaves(&Err(why));
            }
        }
    }

    /// Whether the other program is to go on now: whoever waits for something else is answered first.
    pub(super) fn may_leave(&mut self, phase: &Phase) -> bool {
        if !self.is_rehearsed {
            return false;
        }
        if !matches!(phase, Phase::Up) {
            self.answer_who_leaves(&Err("the app is being stopped".to_owned()));
            return false;
        }
        let waits = self.fleet.is_rolling()
            || !(self.to_reload.is_empty()
                && self.scaling.is_empty()
                && self.restarting.is_empty());
        if !waits {
            self.answer_who_leaves(&Ok(Succession { number: self.successions + 1 }));
        }
        !waits
    }

    fn answer_who_leaves(&mut self, answer: &Result<Succession, String>) {
        self.is_rehearsed = false;
        for reply in self.to_leave.drain(..) {
            let _ = reply.send(answer.clone()); // its asker may have gone
        }
    }

    /// Leaves everything to another program. Whatever is under way between clients and workers is the
    /// front-end's, which stays.
    pub(super) async fn leave(
        mut self,
        inbox: &mut mpsc::UnboundedReceiver<(WorkerId, Event)>,
    ) -> Heritage {
        tracing::info!(name: events::SUCCEEDED, "the installed program goes on");
        let front = self.shared.front.clone();
        let mut sockets: Vec<_> = front.close_doors().await;
        sockets.sort_by_key(|(listener, _)| *listener);
        let sockets = sockets.into_iter().map(|(_, socket)| socket).chain(self.sockets.drain(..));
        let sockets = sockets.map(Socket::leave).collect();
        front.settled(SETTLES).await;
        let predecessors = front.predecessors().await;
        front.flush_log().await;
        self.settled(inbox).await;
        self.shared.leaving.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let estate = self.shared.estate.clone().expect("asked before");
        let state = self.state(&Phase::Up);
        self.shared.relay.hush();
        let kept = estate.leave(self.records(&state)).unwrap_or_else(|error| {
            // systemd has what was written down until now.
            tracing::error!(%error, "not everything is handed on");
            Kept::new()
        });
        self.servers.leave_all();
        self.processes.drain().for_each(|(_, process)| process.leave());
        Heritage { sockets, kept, predecessors, front }
    }

    /// Ends when every channel is between two messages and what workers have said has been answered,
    /// or after a moment. Nobody else would: it has been read.
    async fn settled(&mut self, inbox: &mut mpsc::UnboundedReceiver<(WorkerId, Event)>) {
        let until = Instant::now() + SETTLES;
        loop {
            while let Ok((id, event)) = inbox.try_recv() {
                self.on(id, event);
            }
            let mut channels = self.processes.values().filter_map(|p| p.worker.channel());
            if channels.all(Channel::is_settled) || Instant::now() > until {
                return;
            }
            sleep(LOOK).await;
        }
    }
}

/// Has the installed program read all that it would go on with.
async fn rehearse(kept: Kept) -> Rehearsal {
    let mut command = program::again(&["--rehearse"]);
    let names: Vec<&str> = kept.keys().map(String::as_str).collect();
    command.env("LISTEN_FDNAMES", names.join(":")).env("LISTEN_FDS", names.len().to_string());
    program::hand_over(&mut command, kept.into_values()).map_err(|error| error.to_string())?;
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std().get_program());
    let ended = match timeout(REHEARSAL, command.output()).await {
        Ok(ended) => ended.map_err(|error| format!("{shown}: {error}"))?,
        Err(_) => return Err(format!("{shown} did not answer within {} s", REHEARSAL.as_secs())),
    };
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(format!("{shown}: {} ({})", said.trim(), ended.status))
}
