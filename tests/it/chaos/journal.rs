//! A service's part of the journal.

use std::cell::RefCell;
use std::fmt::Write as _;

use serde_json::Value;

use super::service::ok;

/// More than there ever are.
const MOST_WORKERS: usize = 32;

/// A line that somebody has written.
struct Line {
    /// In ms since 1970.
    at: u64,
    pid: i32,
    /// cohortd's own are no stream's. All others write to their standard output or error.
    is_entry: bool,
    priority: u8,
    text: String,
}

/// `options` are further ones of journalctl, or matches.
fn lines(app: &str, options: &str) -> Vec<Line> {
    ok("journalctl --sync");
    let read = ok(&format!("journalctl -q -o json -u {app} SYSLOG_IDENTIFIER={app} {options}"));
    let line = |json: &str| {
        let entry: Value = serde_json::from_str(json).expect("JSON");
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        Line {
            at: text("__REALTIME_TIMESTAMP").parse::<u64>().expect("µs") / 1000,
            pid: text("_PID").parse().unwrap_or_default(),
            is_entry: text("_TRANSPORT") == "journal",
            priority: text("PRIORITY").parse().unwrap_or_default(),
            text: text("MESSAGE").to_owned(),
        }
    };
    read.lines().map(line).collect()
}

/// All of it up to now, in the form of the foreground's log.
pub(super) struct Journal {
    app: String,
    begun: u64,
    read: RefCell<String>,
}

impl Journal {
    pub(super) fn new(app: &str, begun: u64) -> Journal {
        Journal { app: app.to_owned(), begun, read: RefCell::default() }
    }

    pub(super) fn log(&self) -> String {
        let mut log = self.read.borrow_mut();
        let mut options = format!("--cursor-file=/run/{}.cursor", self.app);
        for slot in 0..MOST_WORKERS {
            let _ = write!(options, " SYSLOG_IDENTIFIER={}-w{slot}", self.app);
        }
        for line in lines(&self.app, &options) {
            let Line { at, pid, is_entry, priority, text } = line;
            let level = match priority {
                0..=3 => "ERROR",
                4 => "WARN",
                5..=6 => "INFO",
                _ => "DEBUG",
            };
            let seconds = at.saturating_sub(self.begun) as f64 / 1000.0;
            let _ = match is_entry {
                true => writeln!(log, "{seconds:.6}s {level:>5} {text}"),
                false => writeln!(log, "{pid} | {text}"),
            };
        }
        log.clone()
    }
}

/// What the last `ExecReload=` since a moment has said that ended so. systemd makes one job of all
/// reloads that are asked for meanwhile, and whoever waits is told how the last of them ended.
pub(super) fn reload_said(app: &str, from: u64, well: bool) -> String {
    let mut said = lines(app, &format!("--since=@{}", from / 1000));
    // By what it says: whose line it is the journal may not know, the process is gone so soon.
    let success = format!("{app}: generation ");
    said.retain(|line| {
        let is_its = if well { line.text.starts_with(&success) } else { line.priority == 3 };
        is_its && line.at >= from && !line.is_entry
    });
    let last = said.last().map(|line| line.pid);
    let of_last = said.iter().filter(|line| Some(line.pid) == last);
    of_last.map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
}
