//! `cohortctl top`: a running app, worker by worker, as it goes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;

use super::print::{self, Cell, Tone, toned};
use super::{CtlError, running, show};
use crate::control::Client;
use crate::supervisor::{Status, WorkerStatus};

/// How many values a sparkline has.
const HISTORY: usize = 30;

/// Watch a running app: requests, event-loop delay, CPU, memory and sessions of each worker
#[derive(Debug, clap::Args)]
pub struct Top {
    /// The app's name
    app: String,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    every: f64,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds, such as 1 or 0.5")?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("expected 0.1 to 3600".into()) }
}

/// What a worker has done between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rates {
    /// Requests a second.
    requests: f64,
    /// CPU, in percent of one processor.
    cpu: Option<f64>,
}

/// What has been seen of an app.
#[derive(Debug, Default)]
struct Seen {
    last: Option<(Instant, Status)>,
    /// By the worker's id.
    rates: BTreeMap<u64, Rates>,
    /// Requests a second, by the worker's id.
    history: BTreeMap<u64, VecDeque<f64>>,
}

impl Seen {
    fn look(&mut self, now: Instant, status: Status) {
        self.rates.clear();
        if let Some((before, old)) = &self.last {
            let seconds = (now - *before).as_secs_f64().max(1e-3);
            for worker in &status.workers {
                let Some(old) = old.workers.iter().find(|old| old.id == worker.id) else {
                    continue;
                };
                let requests = worker.requests.saturating_sub(old.requests) as f64 / seconds;
                let cpu = worker.cpu.zip(old.cpu);
                let cpu = cpu.map(|(now, before)| 100.0 * (now - before).max(0.0) / seconds);
                self.rates.insert(worker.id, Rates { requests, cpu });
                let history = self.history.entry(worker.id).or_default();
                history.push_back(requests);
                if history.len() > HISTORY {
                    history.pop_front();
                }
            }
        }
        self.history.retain(|id, _| status.workers.iter().any(|worker| worker.id == *id));
        self.last = Some((now, status));
    }
}

impl Top {
    /// Runs the command until `q`, Escape or Ctrl-C.
    ///
    /// # Errors
    /// The app does not run or ends, or this is no terminal.
    pub fn run(&self) -> Result<(), CtlError> {
        if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
            return Err(CtlError::Refused(format!(
                "this is no terminal: `cohortctl show {} --json` says the same once",
                self.app
            )));
        }
        running::block_on(async {
            // Before the screen is taken: what is wrong now is said on the one that is there.
            let mut client = Client::connect(&self.app).await?;
            let screen = Screen::take().map_err(terminal)?;
            let mut seen = Seen::default();
            loop {
                seen.look(Instant::now(), client.call("Status", json!({})).await?);
                let until = Instant::now() + Duration::from_secs_f64(self.every);
                screen.show(&seen.text()).map_err(terminal)?;
                if screen.is_left(until).map_err(terminal)? {
                    return Ok(());
                }
            }
        })?
    }
}

fn terminal(error: io::Error) -> CtlError {
    CtlError::Refused(format!("the terminal: {error}"))
}

/// The terminal's other screen, without a cursor or an echo; the first one is back when it is dropped.
struct Screen {
    before: Termios,
}

impl Screen {
    fn take() -> io::Result<Screen> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        // Ctrl-C is a key as well: killed by it, we would leave the screen as it is.
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let screen = Screen { before };
        print!("\x1b[?1049h\x1b[?25l");
        Ok(screen)
    }

    /// As much of the text as there is room for.
    fn show(&self, text: &str) -> io::Result<()> {
        // A terminal that does not know its size says 0.
        let rows = match tcgetwinsize(io::stdout())?.ws_row {
            0 => usize::MAX,
            rows => usize::from(rows) - 1,
        };
        let mut out = io::stdout().lock();
        write!(out, "\x1b[H")?;
        for line in text.lines().take(rows) {
            // Without wrapping: what is too long ends at the edge.
            write!(out, "\x1b[?7l{line}\x1b[?7h\x1b[K\r\n")?;
        }
        write!(out, "\x1b[J")?;
        out.flush()
    }

    /// Waits; whether somebody wants to leave before the time is over.
    fn is_left(&self, until: Instant) -> io::Result<bool> {
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let stdin = io::stdin();
            let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut ready, Some(&left)) {
                Err(rustix::io::Errno::INTR) | Ok(0) => continue, // a resize, or the time
                other => drop(other?),
            }
            let mut keys = [0; 16];
            let n = rustix::io::read(&stdin, &mut keys)?;
            if n == 0 || keys[..n].iter().any(|key| matches!(key, b'q' | 0x1b | 0x03)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print!("\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

const TITLES: [&str; 10] = [
    " SLOT",
    " WORKER",
    "STATE",
    " REQ/S",
    " IN FLIGHT",
    " LOOP",
    " CPU",
    " MEMORY",
    " SESSIONS",
    "REQ/S SINCE",
];

impl Seen {
    fn text(&self) -> String {
        let Some((_, status)) = &self.last else { return String::new() };
        let all = self.rates.values().fold(0.0, |all, rates| all + rates.requests);
        let most = self.history.values().flatten().copied().fold(1.0, f64::max);
        let rows: Vec<_> = status.workers.iter().map(|worker| self.row(worker, most)).collect();
        format!(
            "{}: {}, generation {}, {all:.0} requests/s\n\n{}\nq ends it",
            status.app,
            status.state,
            status.generation,
            print::table(&TITLES, &rows)
        )
    }

    fn row(&self, worker: &WorkerStatus, most: f64) -> Vec<Cell> {
        let rates = self.rates.get(&worker.id);
        let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned()).into();
        let history = self.history.get(&worker.id);
        vec![
            worker.slot.into(),
            worker.id.into(),
            toned(&worker.state, Tone::of_state(&worker.state)),
            known(rates.map(|rates| format!("{:.0}", rates.requests))),
            worker.in_flight.into(),
            known(worker.event_loop_delay.map(|s| format!("{:.1}ms", s * 1000.0))),
            known(rates.and_then(|rates| rates.cpu).map(|cpu| format!("{cpu:.0}%"))),
            show::memory(worker).into(),
            worker.sessions.into(),
            history.map(|values| sparkline(values, most)).unwrap_or_default().into(),
        ]
    }
}

fn sparkline(values: &VecDeque<f64>, most: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |value: &f64| BARS[((value / most * 7.0).round() as usize).min(7)];
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(requests: u64, cpu: f64) -> Status {
        let worker = json!({
            "id": 7, "slot": 0, "generation": 1, "pid": 9, "state": "ready", "uptime": 3,
            "memory": 50 << 20, "in_flight": 2, "sessions": 4, "requests": requests, "cpu": cpu,
            "event_loop_delay": 0.00125
        });
        serde_json::from_value(json!({
            "app": "shop", "file": "/etc/cohortd/shop.toml", "state": "1/1 workers ready",
            "profile": "cluster", "pid": 8, "version": "1", "uptime": 3, "failures": 0,
            "generation": 1, "wanted": 1, "failed_reloads": 0, "workers": [worker]
        }))
        .expect("a status")
    }

    #[test]
    fn rates_are_what_was_done_between_two_looks() {
        let begun = Instant::now();
        let mut seen = Seen::default();
        seen.look(begun, status(100, 1.0));
        let row = |text: String| text.lines().nth(3).expect("a worker").to_owned();
        let words =
            |text: String| row(text).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(seen.text())[..5], ["0", "7", "ready", "-", "2"]);
        seen.look(begun + Duration::from_secs(2), status(500, 1.5));
        assert_eq!(
            words(seen.text()),
            ["0", "7", "ready", "200", "2", "1.2ms", "25%", "50M", "4", "█"]
        );
        assert!(seen.text().starts_with("shop: 1/1 workers ready, generation 1, 200 requests/s\n"));
        // Counted anew by a successor of the same slot: what is less is no rate.
        seen.look(begun + Duration::from_secs(3), status(0, 0.0));
        assert_eq!(words(seen.text())[3], "0");
    }

    #[test]
    fn a_line_has_so_many_values_at_most() {
        let mut seen = Seen::default();
        let begun = Instant::now();
        for n in 0..100 {
            seen.look(begun + Duration::from_secs(n), status(n * n, 0.0));
        }
        let text = seen.text();
        let line = text.lines().nth(3).and_then(|line| line.split_whitespace().last());
        let line: Vec<char> = line.expect("a line").chars().collect();
        assert_eq!(line.len(), HISTORY);
        assert!(line.is_sorted() && line[0] < line[HISTORY - 1], "{line:?}");
    }
}
