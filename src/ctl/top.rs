//! `cohortctl top`: a running app, worker by worker, as it goes.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use serde_json::json;

use super::print::{self, Tone};
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
                let Some(old) = old.workers.iter().find(|old| old.id == worker.id) else { continue };
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
    /// Runs the command until `q` or Ctrl-C.
    ///
    /// # Errors
    /// The app does not run, or this is no terminal.
    pub fn run(&self) -> Result<(), CtlError> {
        if !std::io::stdout().is_terminal() {
            return Err(CtlError::Refused(format!(
                "this is no terminal: `cohortctl show {} --json` says the same once",
                self.app
            )));
        }
        // Before the screen is taken: whatever is wrong is said on the one that is there.
        let mut client = running::block_on(Client::connect(&self.app))??;
        let mut terminal = ratatui::init();
        let result = running::block_on(self.watch(&mut client, &mut terminal));
        ratatui::restore();
        result?
    }

    async fn watch(
        &self,
        client: &mut Client,
        terminal: &mut ratatui::DefaultTerminal,
    ) -> Result<(), CtlError> {
        let mut seen = Seen::default();
        loop {
            let status = client.call("Status", json!({})).await?;
            seen.look(Instant::now(), status);
            let screen = |error| CtlError::Refused(format!("the terminal: {error}"));
            terminal.draw(|frame| draw(frame, &seen)).map_err(screen)?;
            let until = Instant::now() + Duration::from_secs_f64(self.every);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if !event::poll(left).map_err(screen)? {
                    break;
                }
                match event::read().map_err(screen)? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                            return Ok(());
                        }
                        _ => {}
                    },
                    Event::Resize(..) => {
                        terminal.draw(|frame| draw(frame, &seen)).map_err(screen)?;
                    }
                    _ => {}
                }
            }
        }
    }
}

const COLUMNS: [(&str, u16); 10] = [
    ("SLOT", 4),
    ("WORKER", 6),
    ("STATE", 13),
    ("REQ/S", 8),
    ("IN FLIGHT", 9),
    ("LOOP", 7),
    ("CPU", 5),
    ("MEMORY", 7),
    ("SESSIONS", 8),
    ("", HISTORY as u16),
];

fn draw(frame: &mut Frame, seen: &Seen) {
    let Some((_, status)) = &seen.last else { return };
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let all: f64 = seen.rates.values().map(|rates| rates.requests).sum();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Line::from(vec![
        Span::styled(status.app.clone(), bold),
        format!(": {}, generation {}, {all:.0} requests/s", status.state, status.generation).into(),
    ]);
    frame.render_widget(Paragraph::new(vec![title]), head);
    let most = seen.history.values().flatten().copied().fold(1.0, f64::max);
    let rows = status.workers.iter().map(|worker| row(worker, seen, most));
    let widths = COLUMNS.map(|(_, width)| Constraint::Length(width));
    let titles = Row::new(COLUMNS.map(|(title, _)| title)).style(bold);
    frame.render_widget(Table::new(rows, widths).header(titles).column_spacing(2), body);
    frame.render_widget(Paragraph::new("q ends it").style(Style::new().dim()), foot);
}

fn row<'a>(worker: &WorkerStatus, seen: &Seen, most: f64) -> Row<'a> {
    let rates = seen.rates.get(&worker.id).copied();
    let unknown = || "-".to_owned();
    let history = seen.history.get(&worker.id);
    let colour = match Tone::of_state(&worker.state) {
        Tone::Good => Color::Green,
        Tone::Bad => Color::Red,
        Tone::Busy | Tone::Plain => Color::Yellow,
    };
    Row::new([
        Cell::from(worker.slot.to_string()),
        worker.id.to_string().into(),
        Cell::from(worker.state.clone()).style(colour),
        rates.map_or_else(unknown, |rates| format!("{:.0}", rates.requests)).into(),
        worker.in_flight.to_string().into(),
        worker.event_loop_delay.map_or_else(unknown, milliseconds).into(),
        rates.and_then(|rates| rates.cpu).map_or_else(unknown, |cpu| format!("{cpu:.0}%")).into(),
        show::memory(worker).into(),
        worker.sessions.to_string().into(),
        history.map(|values| sparkline(values, most)).unwrap_or_default().into(),
    ])
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}ms", seconds * 1000.0)
}

fn sparkline(values: &VecDeque<f64>, most: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |value: &f64| BARS[((value / most * 7.0).round() as usize).min(7)];
    values.iter().map(bar).collect()
}
