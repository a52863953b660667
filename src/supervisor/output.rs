//! Workers' output: in the foreground each line has its worker before it.
//!
//! A thread of its own does the writing: a terminal that stands still (or a pager that is not
//! read) holds up the workers that write, as it would without us, but never cohortd.

use std::io::{IsTerminal, Write};
use std::process::Child;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot};

/// Longer lines are cut into several: a worker that never ends its line must not fill our memory.
const MAX_LINE: usize = 16 << 10;

/// Lines that wait to be written; then the workers wait.
const MAX_WAITING: usize = 256;

/// How long the last lines may take in the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// One colour a slot, in turn: those readable on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Where workers' output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To systemd's journal by streams of their own, or else where ours goes.
    Inherit,
    /// Line by line to our own, with the worker's slot before it.
    Prefixed,
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// The writing thread.
#[derive(Debug)]
pub(super) struct Printer {
    lines: mpsc::Sender<(Stream, Vec<u8>)>,
    done: oneshot::Receiver<()>,
}

impl Printer {
    /// Starts it.
    pub(super) fn start() -> Printer {
        let (lines, mut waiting) = mpsc::channel::<(Stream, Vec<u8>)>(MAX_WAITING);
        let (is_done, done) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some((stream, line)) = waiting.blocking_recv() {
                // Nobody may be reading any more; the app goes on all the same.
                let _ = match stream {
                    Stream::Out => write(&mut std::io::stdout().lock(), &line),
                    Stream::Err => write(&mut std::io::stderr().lock(), &line),
                };
            }
            let _ = is_done.send(());
        });
        Printer { lines, done }
    }

    /// Prints a worker's output, both streams, until it ends.
    pub(super) fn print(&self, child: &mut Child, slot: usize) {
        if let Some(Ok(stdout)) = child.stdout.take().map(ChildStdout::from_std) {
            let prefix = prefix(slot, std::io::stdout().is_terminal());
            tokio::spawn(read_lines(stdout, prefix, Stream::Out, self.lines.clone()));
        }
        if let Some(Ok(stderr)) = child.stderr.take().map(ChildStderr::from_std) {
            let prefix = prefix(slot, std::io::stderr().is_terminal());
            tokio::spawn(read_lines(stderr, prefix, Stream::Err, self.lines.clone()));
        }
    }

    /// Waits a moment until what the workers have written is printed.
    pub(super) async fn finish(self) {
        drop(self.lines);
        let _ = tokio::time::timeout(FLUSH_LIMIT, self.done).await;
    }
}

fn write(to: &mut impl Write, line: &[u8]) -> std::io::Result<()> {
    to.write_all(line)?;
    to.flush()
}

fn prefix(slot: usize, coloured: bool) -> String {
    if coloured {
        format!("\x1b[{}mw{slot} |\x1b[0m ", COLOURS[slot % COLOURS.len()])
    } else {
        format!("w{slot} | ")
    }
}

async fn read_lines(
    stream: impl AsyncRead + Unpin,
    prefix: String,
    to: Stream,
    lines: mpsc::Sender<(Stream, Vec<u8>)>,
) {
    let mut reader = BufReader::new(stream);
    let mut line = prefix.clone().into_bytes();
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let end = memchr::memchr(b'\n', chunk);
        let room = MAX_LINE.saturating_sub(line.len());
        let taken = end.unwrap_or(chunk.len()).min(room);
        line.extend_from_slice(&chunk[..taken]);
        let is_whole = end == Some(taken);
        let is_full = line.len() >= MAX_LINE;
        reader.consume(taken + usize::from(is_whole));
        if is_whole || is_full {
            line.push(b'\n');
            let _ = lines.send((to, line)).await;
            line = prefix.clone().into_bytes();
        }
    }
    if line.len() > prefix.len() {
        line.push(b'\n');
        let _ = lines.send((to, line)).await;
    }
}
