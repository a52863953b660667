//! HTTP/1.1 by hand: connections on which a test chooses every byte, the bare Node server that
//! tells what is right, and what a process holds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};
use serde_json::Value;

use crate::app::{DEADLINE, js, node};

/// A client's connection.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

/// What can be written to and read from, but not for ever.
pub(crate) trait Stream: Read + Write + Send {
    fn wait(&self, at_most: Duration) -> io::Result<()>;
    /// A second end.
    fn again(&self) -> io::Result<Box<dyn Stream>>;
    fn finish(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn wait(&self, at_most: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(at_most))?;
        self.set_write_timeout(Some(at_most))
    }

    fn again(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn wait(&self, at_most: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(at_most))?;
        self.set_write_timeout(Some(at_most))
    }

    fn again(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Connects from this address; nothing on it may take longer than [`DEADLINE`].
pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let family = if source.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::new(source, 0)).expect("an address of this machine");
    rustix::net::connect(&socket, &address).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("a TCP socket");
    stream.wait(DEADLINE).expect("a socket");
    stream
}

/// The answer to one request on a connection of its own.
pub(crate) fn get(address: &str, target: &str) -> Answer {
    Wire::open(address).get(target)
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As they came, in order.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {:?}", self.status, self.text()))
    }
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Wire {
        Wire::over(stream)
    }
}

impl Wire {
    /// A connection that is there already.
    pub(crate) fn over(stream: impl Stream + 'static) -> Wire {
        Wire { stream: Box::new(stream), read: Vec::new() }
    }

    /// Connects; nothing on it may take longer than [`DEADLINE`].
    pub(crate) fn open(address: &str) -> Wire {
        let stream: Box<dyn Stream> = if address.starts_with('/') {
            Box::new(UnixStream::connect(address).expect("connected"))
        } else {
            let stream = TcpStream::connect(address).expect("connected");
            stream.set_nodelay(true).expect("a TCP socket");
            Box::new(stream)
        };
        stream.wait(DEADLINE).expect("a socket");
        Wire { stream, read: Vec::new() }
    }

    /// Connects from this address.
    pub(crate) fn open_from(source: IpAddr, address: SocketAddr) -> Wire {
        Wire::from(connect_from(source, address))
    }

    /// One end to read from and one to write to, at the same time.
    pub(crate) fn halves(self) -> (Wire, Wire) {
        let stream = self.stream.again().expect("duplicated");
        (self, Wire { stream, read: Vec::new() })
    }

    /// Reads wait so long from now on.
    pub(crate) fn patience(&self, at_most: Duration) {
        self.stream.wait(at_most).expect("a socket");
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sent");
    }

    /// Sends nothing more, but still reads.
    pub(crate) fn finish(&mut self) {
        self.stream.finish().expect("a connected socket");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A GET and its response.
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: app\r\n\r\n"));
        self.answer()
    }

    /// The next response.
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET").expect("a response")
    }

    /// The next response, to a request with this method; interim ones are passed over.
    pub(crate) fn answer_to(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let answer = self.any_answer(method)?;
            if answer.status >= 200 || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    /// The next response, which may be an interim one.
    pub(crate) fn any_answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.head()?;
        let bodiless =
            method == "HEAD" || answer.status < 200 || [204, 304].contains(&answer.status);
        let length = answer.field("content-length").map(|n| n.parse::<usize>());
        if bodiless {
        } else if answer.field("transfer-encoding").is_some() {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or(""), 16);
                let size = size.map_err(|_| bad(format!("not a chunk's size: {line:?}")))?;
                if size == 0 {
                    break;
                }
                let chunk = self.exactly(size)?;
                answer.body.extend(chunk);
                if !self.line()?.is_empty() {
                    return Err(bad("a chunk without its end"));
                }
            }
            answer.trailers = self.fields()?;
        } else if let Some(length) = length {
            let length = length.map_err(|_| bad("not a length"))?;
            answer.body = self.exactly(length)?;
        } else {
            while self.more()? {}
            answer.body = std::mem::take(&mut self.read);
        }
        Ok(answer)
    }

    /// The head of the next response only.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status = words.next().and_then(|n| n.parse().ok());
        match status.filter(|_| version.starts_with("HTTP/1.")) {
            Some(status) => {
                let fields = self.fields()?;
                Ok(Answer { status, fields, body: Vec::new(), trailers: Vec::new() })
            }
            None => Err(bad(format!("not a status line: {line:?}"))),
        }
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("{line:?}")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// A line without its end, each byte a character.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line = self.read[..end].iter().map(|&b| char::from(b)).collect();
                self.read.drain(..end + 2);
                return Ok(line);
            }
            self.more_or_end()?;
        }
    }

    /// So many bytes.
    pub(crate) fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < n {
            self.more_or_end()?;
        }
        Ok(self.read.drain(..n).collect())
    }

    fn more_or_end(&mut self) -> io::Result<()> {
        if self.more()? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads what is there, or waits for it; `false` at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut block = [0; 65_536];
        let n = self.stream.read(&mut block)?;
        self.read.extend_from_slice(&block[..n]);
        Ok(n > 0)
    }

    /// Whether the connection has ended, or ends within [`Wire::patience`], and nothing more comes.
    pub(crate) fn ends(&mut self) -> bool {
        if !self.read.is_empty() {
            return false;
        }
        match self.more() {
            Ok(more) => !more,
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// Whether the connection has ended, whatever came before its end.
    pub(crate) fn ends_now(&mut self) -> bool {
        match self.more() {
            Ok(more) => !more,
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// All that still comes until the end, or until nothing has come for so long. `true`: it ended.
    pub(crate) fn rest(&mut self, quiet: Duration) -> (Vec<u8>, bool) {
        self.patience(quiet);
        let ended = loop {
            match self.more() {
                Ok(true) => {}
                Ok(false) => break true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        (std::mem::take(&mut self.read), ended)
    }
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// An app of `tests/js/apps` in one process, with no cohortd before it.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: String,
}

impl Bare {
    pub(crate) fn start(script: &str) -> Bare {
        Bare::with("node20", script, &[("HOST", "127.0.0.1")])
    }

    /// On this version of Node, with these variables.
    pub(crate) fn with(version: &str, script: &str, env: &[(&str, &str)]) -> Bare {
        let mut child = Command::new(node(version))
            .arg(js().join("apps").join(script))
            .env("SINGLE", "1")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let port = said["address"]["port"].as_u64().expect("it listens");
        Bare { child, address: format!("127.0.0.1:{port}") }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many descriptors a process has.
pub(crate) fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A process's memory, in MiB.
pub(crate) fn memory(pid: i32) -> usize {
    status(pid, "VmRSS:") / 1024
}

/// What a process has that is no file's, in KiB.
pub(crate) fn anonymous(pid: i32) -> usize {
    status(pid, "RssAnon:")
}

/// The most memory that a process has had, in KiB.
pub(crate) fn peak(pid: i32) -> usize {
    status(pid, "VmHWM:")
}

fn status(pid: i32, key: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("in every status");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
