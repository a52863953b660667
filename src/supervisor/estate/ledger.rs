//! Where it is written down: lines of JSON in memory that is a file's (memfd_create(2)), which
//! systemd keeps.
//!
//! Lines are only ever added, each by one write, so whatever moment this process is killed at, what is
//! there is whole. When most of it is out of date, a new file takes its place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, memfd_create};

use super::record::{Record, State, Unreadable};
use crate::route::HandedOver;
use crate::worker::WorkerId;

/// A file is never replaced before it has so many bytes,
const SHORT: usize = 256 << 10;

/// and so many times as many as it had at first.
const GROWN: usize = 4;

/// Everything that was written down, as far as it still holds.
#[derive(Debug)]
pub struct Contents {
    /// How everything is.
    pub state: State,
    /// Sessions: whose each is, and how long it may be silent.
    pub sessions: HashMap<String, (WorkerId, Option<Duration>)>,
    /// Those that are over, and whose each was.
    pub over: HashMap<String, WorkerId>,
    /// Connections that workers were given, by inode.
    pub given: HashMap<u64, (WorkerId, HandedOver)>,
}

/// One file.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    length: usize,
    first: usize,
    is_broken: bool,
}

impl Ledger {
    /// A new one, with this in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(records: impl Iterator<Item = Record>) -> io::Result<Ledger> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("cohortd-state", flags)?);
        let mut text = Vec::new();
        records.for_each(|record| add(&mut text, &record));
        file.write_all(&text)?;
        Ok(Ledger { file, length: text.len(), first: text.len(), is_broken: false })
    }

    /// Adds a line.
    pub fn write(&mut self, record: &Record) {
        let mut line = Vec::with_capacity(128);
        add(&mut line, record);
        // It is memory: more of it is to be had, or this process is about to end anyway.
        match self.file.write(&line) {
            Ok(n) if n == line.len() => self.length += n,
            result if !self.is_broken => {
                self.is_broken = true;
                tracing::error!(?result, "a successor will not know everything: out of memory");
            }
            _ => {}
        }
    }

    /// Whether a new file should take its place.
    pub fn has_grown(&self) -> bool {
        self.is_broken || self.length > SHORT.max(self.first * GROWN)
    }

    /// Nothing can be added from now on, by nobody.
    ///
    /// # Errors
    /// The kernel's.
    pub fn seal(&self) -> io::Result<()> {
        let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        Ok(rustix::fs::fcntl_add_seals(&self.file, seals)?)
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn add(text: &mut Vec<u8>, record: &Record) {
    serde_json::to_writer(&mut *text, record).expect("every record has a form in JSON");
    text.push(b'\n');
}

/// Reads what a predecessor has written down.
///
/// # Errors
/// It says nothing that can be gone on with.
pub fn read(file: OwnedFd) -> Result<Contents, Unreadable> {
    let mut text = Vec::new();
    let mut file = File::from(file);
    let whole = file.rewind().and_then(|()| file.read_to_end(&mut text));
    whole.map_err(|_| Unreadable::Nothing)?;
    let (mut state, mut sessions) = (None, HashMap::new());
    let (mut over, mut given) = (HashMap::new(), HashMap::new());
    // Whatever this version does not know says nothing to it.
    for record in text.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()) {
        match record {
            Record::State(newer) => state = Some(*newer),
            Record::Session(sid, worker, silence) => {
                over.remove(&sid);
                sessions.insert(sid, (worker, silence.map(Duration::from_millis)));
            }
            Record::SessionEnded(sid) => {
                over.remove(&sid);
                sessions.remove(&sid);
            }
            Record::SessionOver(sid, worker) => {
                sessions.remove(&sid);
                over.insert(sid, worker);
            }
            Record::Given(worker, connection) => {
                given.insert(connection.inode(), (worker, connection));
            }
        }
    }
    let state = state.ok_or(Unreadable::Nothing)?;
    state.check()?;
    Ok(Contents { state, sessions, over, given })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::FORMAT;
    use super::*;
    use crate::supervisor::fleet::{Fleet, Policy, Restart};

    fn state() -> State {
        const S: fn(u64) -> Duration = Duration::from_secs;
        let policy = Policy {
            ready_timeout: S(5),
            backoff: (S(1), S(30)),
            restart: Restart::Always,
            stop_on_exit: vec![],
            drain: S(3),
            asks: 1,
            ask_timeout: S(1),
            surge: 1,
            canary: S(0),
        };
        State {
            format: FORMAT,
            readable_by: State::readable_by(),
            version: "0.1.0".to_owned(),
            successions: 2,
            begun: S(7),
            up: true,
            serving: 3,
            last: 4,
            failed_reloads: 0,
            last_reload_error: None,
            fleet: Fleet::new(policy, 2, 1).snapshot(),
            releases: BTreeMap::from([(3, "exec = [\"node\"]\n".to_owned())]),
            workers: Vec::new(),
            servers: Vec::new(),
            hosts: None,
        }
    }

    fn whole(state: State) -> Record {
        Record::State(Box::new(state))
    }

    fn web_socket() -> HandedOver {
        serde_json::from_str(r#"{"inode":77,"speaks":"web_socket"}"#).expect("one")
    }

    fn copy(ledger: &Ledger) -> OwnedFd {
        ledger.file().try_clone_to_owned().expect("a copy")
    }

    #[test]
    fn what_is_written_last_counts() {
        let mut ledger = Ledger::new([whole(state())].into_iter()).expect("memory");
        for record in [
            Record::Session("a".into(), WorkerId(1), Some(45_000)),
            Record::Session("b".into(), WorkerId(2), None),
            Record::Given(WorkerId(1), web_socket()),
            whole(State { up: false, ..state() }),
            Record::SessionEnded("a".into()),
            Record::Session("c".into(), WorkerId(2), None),
            Record::SessionOver("c".into(), WorkerId(2)),
            Record::SessionOver("d".into(), WorkerId(2)),
            Record::SessionEnded("d".into()),
        ] {
            ledger.write(&record);
        }
        let contents = read(copy(&ledger)).expect("whole");
        assert_eq!(contents.state, State { up: false, ..state() });
        assert_eq!(contents.sessions, HashMap::from([("b".to_owned(), (WorkerId(2), None))]));
        assert_eq!(contents.over, HashMap::from([("c".to_owned(), WorkerId(2))]));
        assert_eq!(contents.given, HashMap::from([(77, (WorkerId(1), web_socket()))]));
    }

    #[test]
    fn what_is_cut_or_unknown_is_passed_over() {
        let ledger = Ledger::new([whole(state())].into_iter()).expect("memory");
        let mut file = File::from(copy(&ledger));
        file.write_all(b"{\"from_the_future\":[1,2]}\n\xff\n{\"session\":[\"a\",1,nu")
            .expect("memory");
        let contents = read(copy(&ledger)).expect("whole");
        assert_eq!((contents.state, contents.sessions.len()), (state(), 0));
    }

    #[test]
    fn what_has_no_state_is_refused() {
        let mut ledger = Ledger::new(std::iter::empty()).expect("memory");
        assert_eq!(read(copy(&ledger)).expect_err("empty"), Unreadable::Nothing);
        ledger.write(&Record::SessionEnded("a".into()));
        assert_eq!(read(copy(&ledger)).expect_err("no state"), Unreadable::Nothing);
    }

    /// A newer version's is read if it says that it can be, whatever else is in it.
    #[test]
    fn versions_understand_each_other() {
        let newer = |readable_by: u32| {
            let mut json = serde_json::to_value(whole(state())).expect("a value");
            json["state"]["format"] = (FORMAT + 1).into();
            json["state"]["readable_by"] = readable_by.into();
            json["state"]["version"] = "9.0.0".into();
            json["state"]["invented"] = "later".into();
            let ledger = Ledger::new(std::iter::empty()).expect("memory");
            let mut file = File::from(copy(&ledger));
            writeln!(file, "{json}").expect("memory");
            read(copy(&ledger))
        };
        assert_eq!(newer(FORMAT).expect("readable").state.serving, 3);
        let version = "9.0.0".to_owned();
        assert_eq!(newer(FORMAT + 1).expect_err("too new"), Unreadable::TooNew { version });
    }

    #[test]
    fn nothing_can_be_added_to_what_is_sealed() {
        let mut ledger = Ledger::new([whole(state())].into_iter()).expect("memory");
        ledger.seal().expect("it can be");
        ledger.write(&Record::SessionEnded("a".into()));
        assert!(ledger.is_broken);
        assert!(read(copy(&ledger)).is_ok());
    }

    #[test]
    fn it_is_written_anew_when_most_of_it_is_out_of_date() {
        let mut ledger = Ledger::new([whole(state())].into_iter()).expect("memory");
        let mut lines = 0;
        while !ledger.has_grown() {
            ledger.write(&Record::Session("a-session".into(), WorkerId(1), None));
            lines += 1;
        }
        assert!(lines > 1000, "{lines}");
    }
}
