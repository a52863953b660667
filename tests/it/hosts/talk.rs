//! `clients/hosts.js`: clients that talk all the time, and their account of what has arrived.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::app::{js, node};

pub(crate) struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talk {
    /// Clients of these URLs, on a program that these words run, if there are any; they have found
    /// each other.
    pub(crate) fn start(words: &[String], urls: &str) -> Talk {
        let node = node("node20").display().to_string();
        let mut words = words.iter().chain([&node]);
        let mut child = Command::new(words.next().expect("there is node"))
            .args(words)
            .arg(js().join("clients/hosts.js"))
            .arg(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut talk = Talk { child, input, output };
        let ready = talk.read();
        assert_eq!(ready["settled"], true, "{ready}");
        talk
    }

    /// A fault begins, after a calm.
    pub(crate) fn begin(&mut self) {
        self.calm();
        self.command("begin");
    }

    /// It has ended: how long it took until every host knew everybody again.
    pub(crate) fn end(&mut self) -> Value {
        self.end_while(|| {}).0
    }

    /// The same, and what comes of something that is done at the same time.
    pub(crate) fn end_while<T>(&mut self, meanwhile: impl FnOnce() -> T) -> (Value, T) {
        self.send("end");
        let done = meanwhile();
        (self.read(), done)
    }

    /// One client of each host says so much to a room in which there is nobody.
    pub(crate) fn flood(&mut self, mebibytes: usize) {
        self.command(&format!("flood {mebibytes}"));
    }

    /// How often each client has heard this.
    pub(crate) fn heard(&mut self, word: &str) -> Vec<u64> {
        let answer = self.command(&format!("heard {word}"));
        let times = answer["times"].as_array().cloned().unwrap_or_default();
        times.iter().filter_map(Value::as_u64).collect()
    }

    /// Nothing happens for a while, in which all that is said arrives.
    fn calm(&mut self) {
        self.command("calm");
    }

    /// What has become of all that was said.
    pub(crate) fn account(mut self) -> Value {
        self.calm();
        self.command("account")
    }

    fn command(&mut self, command: &str) -> Value {
        self.send(command);
        self.read()
    }

    fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("it reads");
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it writes");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
