//! journald's two sockets: entries with fields, for our own lines, and a stream of lines for each
//! worker's output, which does not pass through us.
//!
//! The protocols: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/> and sd_journal_stream_fd(3).

use std::fmt::{Debug, Write as _};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with,
};
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::events;
use crate::sys;

/// Where entries with fields go.
const ENTRIES: &str = "/run/systemd/journal/socket";

/// Where streams of lines are opened.
const STREAMS: &str = "/run/systemd/journal/stdout";

/// As much as systemd gives a service's output: whoever writes waits for journald only then.
const SEND_BUFFER: usize = 8 << 20;

/// What a stream still has when its worker has ended is read within this, or journald stands still.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// How often it is looked whether it has been read.
const READ_STEP: Duration = Duration::from_millis(10);

/// Having read a line, journald looks up in `/proc` whose it is: that takes it a moment.
const LOOK_UP: Duration = Duration::from_millis(30);

/// How bad a line is, as syslog has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    /// An error.
    Err = 3,
    /// A warning.
    Warning = 4,
    /// Normal, but worth a look.
    Notice = 5,
    /// As usual.
    Info = 6,
    /// For those who look for a fault.
    Debug = 7,
}

impl From<&Level> for Priority {
    fn from(level: &Level) -> Priority {
        match *level {
            Level::ERROR => Priority::Err,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            Level::DEBUG | Level::TRACE => Priority::Debug,
        }
    }
}

/// A worker's standard output and standard error.
#[derive(Debug)]
pub struct Streams {
    /// Its lines have the priority `info`.
    pub out: OwnedFd,
    /// Its lines have their own priority.
    pub err: OwnedFd,
}

impl Streams {
    /// Opens both for the worker in this slot. A line can have another priority by `<N>` in front
    /// (sd-daemon(3)).
    ///
    /// # Errors
    /// There is no journald, or it stands still.
    pub fn open(app: &str, slot: usize, err: Priority) -> io::Result<Streams> {
        let open = |priority| stream(&header(app, slot, priority));
        Ok(Streams { out: open(Priority::Info)?, err: open(err)? })
    }

    /// What `JOURNAL_STREAM` is for the worker (systemd.exec(5)).
    ///
    /// # Errors
    /// The kernel's.
    pub fn name(&self) -> io::Result<String> {
        let stat = rustix::fs::fstat(&self.err)?;
        Ok(format!("{}:{}", stat.st_dev, stat.st_ino))
    }

    /// Ends when journald has read what the worker has written, and knows whose it is: by a line
    /// of a process that is gone it can't tell the unit.
    pub async fn until_read(&self) {
        let waits = |stream: &OwnedFd| sys::unsent(stream).is_ok_and(|bytes| bytes > 0);
        let read = async {
            while waits(&self.out) || waits(&self.err) {
                sleep(READ_STEP).await;
            }
        };
        let _ = timeout(READ_LIMIT, read).await;
        sleep(LOOK_UP).await;
    }
}

/// What a stream begins with: whose it is, its priority, that `<N>` is heeded, and nowhere else to
/// go. The unit counts only if root says it; else journald knows it by the cgroup.
fn header(app: &str, slot: usize, priority: Priority) -> String {
    format!("{app}-w{slot}\n{app}.service\n{}\n1\n0\n0\n0\n", priority as u8)
}

fn stream(header: &str) -> io::Result<OwnedFd> {
    // A journald that stands still must not hold us up.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(STREAMS)?)?;
    shutdown(&socket, Shutdown::Read)?;
    set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
    let mut socket = UnixStream::from(socket);
    socket.write_all(header.as_bytes())?;
    // Programs expect it of what they write to.
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// Sends our own lines as entries with fields. What journald does not take goes to standard error.
#[derive(Debug)]
pub struct Entries {
    socket: UnixDatagram,
    app: String,
}

impl Entries {
    /// Those of an app.
    ///
    /// # Errors
    /// There is no journald here.
    pub fn open(app: &str) -> io::Result<Entries> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        rustix::fs::access(ENTRIES, rustix::fs::Access::WRITE_OK)?;
        Ok(Entries { socket, app: app.to_owned() })
    }

    fn entry(&self, event: &Event<'_>, said: &Said) -> Vec<u8> {
        let mut entry = Vec::new();
        let priority = Priority::from(event.metadata().level()) as u8;
        put(&mut entry, "PRIORITY", &priority.to_string());
        put(&mut entry, "SYSLOG_IDENTIFIER", &self.app);
        put(&mut entry, "MESSAGE", &said.text);
        if events::ALL.contains(&event.metadata().name()) {
            put(&mut entry, "MESSAGE_ID", event.metadata().name());
        }
        put(&mut entry, "COHORTD_APP", &self.app);
        for (name, value) in &said.fields {
            put(&mut entry, &variable(name), value);
        }
        entry
    }
}

impl<S: Subscriber> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        if self.socket.send_to(&self.entry(event, &said), ENTRIES).is_err() {
            let priority = Priority::from(event.metadata().level()) as u8;
            let _ = writeln!(io::stderr(), "<{priority}>{}", said.text);
        }
    }
}

/// What an event says: as a line for people, and field by field.
#[derive(Debug, Default)]
struct Said {
    text: String,
    fields: Vec<(&'static str, String)>,
}

impl Said {
    fn add(&mut self, field: &Field, shown: &dyn Debug, value: String) {
        if field.name() == "message" {
            self.text.insert_str(0, &value);
        } else {
            let _ = write!(self.text, " {}={shown:?}", field.name());
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, value, format!("{value:?}"));
    }
}

/// The name of one of our fields in the journal.
fn variable(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    "COHORTD_".chars().chain(name.chars().map(letter)).collect()
}

/// Adds a field. One of several lines has its length in front.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_several_lines_has_its_length() {
        let mut entry = Vec::new();
        put(&mut entry, "PRIORITY", "6");
        put(&mut entry, "MESSAGE", "one\ntwo");
        put(&mut entry, "COHORTD_ERROR", "");
        let want = b"PRIORITY=6\nMESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nCOHORTD_ERROR=\n";
        assert_eq!(entry, want);
    }

    #[test]
    fn fields_have_names_that_journald_takes() {
        for (name, want) in [
            ("worker", "COHORTD_WORKER"),
            ("in_flight", "COHORTD_IN_FLIGHT"),
            ("http.path", "COHORTD_HTTP_PATH"),
        ] {
            assert_eq!(variable(name), want);
        }
    }

    #[test]
    fn a_stream_begins_with_whose_it_is() {
        let want = "shop-w2\nshop.service\n3\n1\n0\n0\n0\n";
        assert_eq!(header("shop", 2, Priority::Err), want);
    }
}
