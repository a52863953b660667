//! Clients that go on through everything, and those that fall silent in the middle of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::app::{js, kill, node};
use crate::reload::Load;

/// `tests/js/clients/chaos.js`.
pub(super) struct Storm {
    child: Child,
    commands: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Storm {
    pub(super) fn start(url: &str) -> Storm {
        let mut child = Command::new(node("node20"))
            .arg(js().join("clients/chaos.js"))
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
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
    pub(super) fn pause(&mut self) {
        self.say("pause");
        assert_eq!(self.line(), "paused");
    }

    pub(super) fn resume(&mut self) {
        self.say("resume");
    }

    /// What they have seen.
    pub(super) fn end(&mut self) -> Value {
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
