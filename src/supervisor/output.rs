//! Workers' output in the foreground: each line with its worker before it.

use std::io::{IsTerminal, Write};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;

/// Longer lines are cut into several: a worker that never ends its line must not fill our memory.
const MAX_LINE: usize = 16 << 10;

/// One colour a slot, in turn: those readable on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Prints a worker's output, both streams, until it ends.
pub(super) fn print(child: &mut Child, slot: usize) {
    if let Some(stdout) = child.stdout.take() {
        let prefix = prefix(slot, std::io::stdout().is_terminal());
        tokio::spawn(lines(stdout, move |line| {
            let _ = write_line(&mut std::io::stdout().lock(), &prefix, line);
        }));
    }
    if let Some(stderr) = child.stderr.take() {
        let prefix = prefix(slot, std::io::stderr().is_terminal());
        tokio::spawn(lines(stderr, move |line| {
            let _ = write_line(&mut std::io::stderr().lock(), &prefix, line);
        }));
    }
}

fn prefix(slot: usize, coloured: bool) -> String {
    if coloured {
        format!("\x1b[{}mw{slot} |\x1b[0m ", COLOURS[slot % COLOURS.len()])
    } else {
        format!("w{slot} | ")
    }
}

fn write_line(to: &mut impl Write, prefix: &str, line: &[u8]) -> std::io::Result<()> {
    to.write_all(&[prefix.as_bytes(), line, b"\n"].concat())?;
    to.flush()
}

async fn lines(stream: impl AsyncRead + Unpin, mut print: impl FnMut(&[u8])) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let end = memchr::memchr(b'\n', chunk);
        let room = MAX_LINE - line.len();
        let taken = end.unwrap_or(chunk.len()).min(room);
        line.extend_from_slice(&chunk[..taken]);
        let whole = end == Some(taken);
        reader.consume(taken + usize::from(whole));
        if whole || line.len() == MAX_LINE {
            print(&line);
            line.clear();
        }
    }
    if !line.is_empty() {
        print(&line);
    }
}
