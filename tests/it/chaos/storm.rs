//! Clients that go on through everything, and those that fall silent in the middle of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::app::{js, kill, node};
use crate::reload::Load;

/// `tests/js/clients/chaos.js`.
pub(crate) struct Storm {
    child: Child,
    commands: ChildStdin,
    lines: BufReader<ChildStdout>,
}

/// The moments between which a process was killed and was gone, in ms since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Storm {
    /// So many clients of a kind instead of as many as there are otherwise: `KIND=N`.
    pub(super) fn start(url: &str, kinds: &[&str]) -> Storm {
        let mut program = Command::new(node("node20"));
        Storm::of(program.arg(js().join("clients/chaos.js")).arg(url).args(kinds))
    }

    /// Of a command that runs the program.
    pub(crate) fn of(program: &mut Command) -> Storm {
        let mut child =
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
        let commands = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut storm = Storm { child, commands, lines };
        assert_eq!(storm.line(), "going");
        storm
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    fn say(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("it runs");
    }

    /// Nothing is under way any more, but the sessions are there.
    pub(crate) fn pause(&mut self) {
        self.say("pause");
        assert_eq!(self.line(), "paused");
    }

    pub(crate) fn resume(&mut self) {
        self.say("resume");
    }

    /// Until one of the `pausing` sessions, if there are any, has nothing under way.
    pub(crate) fn idle(&mut self) {
        self.say("idle");
        assert_eq!(self.line(), "idle");
    }

    /// SIGKILL for cohortd, as the clients see it. It has gone then.
    pub(crate) fn kill(&mut self, pid: i32) -> Death {
        assert!(pid > 1, "{pid} is no process of ours");
        self.say(&format!("kill {pid}"));
        let line = self.line();
        let mut words = line.split(' ').skip(1).map(|word| word.parse().expect("ms"));
        let mut next = || words.next().unwrap_or_else(|| panic!("not killed: {line:?}"));
        Death { from: next(), to: next() }
    }

    /// What they have seen.
    pub(crate) fn end(&mut self) -> Value {
        self.say("end");
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clients connect, are stopped in their tracks, and some ms later killed.
pub(super) fn vanish(url: &str, silent: u64) -> JoinHandle<()> {
    let url = url.to_owned();
    thread::spawn(move || {
        let clients = Load::of("vanish.js", &[&url], &[]);
        kill("STOP", clients.pid());
        thread::sleep(Duration::from_millis(silent));
    })
}
