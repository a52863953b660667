//! How things are printed for people: aligned, short, and in colour where somebody looks.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::LazyLock;

/// Whether standard output is a terminal that may be coloured (<https://no-color.org>).
static COLOURED: LazyLock<bool> = LazyLock::new(|| {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
});

/// What a state is to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Busy,
    Bad,
    Plain,
}

impl Tone {
    /// Of a worker's state.
    pub(super) fn of_state(state: &str) -> Tone {
        match state {
            "ready" => Tone::Good,
            "killed" | "gone" => Tone::Bad,
            _ => Tone::Busy,
        }
    }

    /// The text in this tone, and blanks up to the width.
    pub(super) fn padded(self, text: &str, width: usize) -> String {
        self.paint(text) + &" ".repeat(width.saturating_sub(text.chars().count()))
    }

    fn paint(self, text: &str) -> String {
        let colour = match self {
            Tone::Good => 32,
            Tone::Busy => 33,
            Tone::Bad => 31,
            Tone::Plain => return text.to_owned(),
        };
        if *COLOURED { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A table's cell.
#[derive(Debug)]
pub(super) struct Cell(String, Tone);

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell(text.to_string(), Tone::Plain)
    }
}

/// A cell in its tone.
pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Cell {
    Cell(text.into(), tone)
}

/// Rows below their titles. A title that begins with a space stands on the right, as its numbers do.
pub(super) fn table(titles: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].0.chars().count());
        cells.chain([titles[at].trim_start().len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |cells: &[(&str, Tone)]| {
        let mut line = String::new();
        for (at, (text, tone)) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[at] - text.chars().count());
            let text = tone.paint(text);
            let gap = if at == 0 { "" } else { "  " };
            let _ = match titles[at].starts_with(' ') {
                true => write!(line, "{gap}{pad}{text}"),
                false => write!(line, "{gap}{text}{pad}"),
            };
        }
        line.trim_end().to_owned() + "\n"
    };
    let head: Vec<_> = titles.iter().map(|title| (title.trim_start(), Tone::Plain)).collect();
    let mut text = line(&head);
    for row in rows {
        text +=
            &line(&row.iter().map(|Cell(text, tone)| (text.as_str(), *tone)).collect::<Vec<_>>());
    }
    text
}

/// Bytes, in the unit in which they are easy to read.
pub(super) fn bytes(bytes: usize) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit < UNITS.len() - 1 {
        size /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 1 && size < 10.0);
    format!("{size:.digits$}{}", UNITS[unit])
}

/// Seconds, in the two largest units.
pub(super) fn seconds(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let at = UNITS.iter().position(|(length, _)| seconds >= *length).unwrap_or(UNITS.len() - 1);
    let (length, name) = UNITS[at];
    let mut text = format!("{}{name}", seconds / length);
    if let Some((smaller, name)) = UNITS.get(at + 1) {
        let rest = seconds % length / smaller;
        if rest > 0 {
            let _ = write!(text, "{rest}{name}");
        }
    }
    text
}

/// JSON, for programs.
pub(super) fn json(value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value);
    println!("{}", text.expect("our answers have a form in JSON"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["shop".into(), 12.into(), toned("ready", Tone::Good)],
            vec!["a".into(), 7.into(), "".into()],
        ];
        let text = table(&["APP", " MEMORY", "STATE"], &rows);
        assert_eq!(text, "APP   MEMORY  STATE\nshop      12  ready\na          7\n");
    }

    #[test]
    fn sizes_and_times_are_short() {
        let sizes: Vec<String> =
            [0, 999, 1 << 20, 85 << 20, 1100 << 20, 3 << 40].map(bytes).to_vec();
        assert_eq!(sizes, ["0B", "999B", "1.0M", "85M", "1.1G", "3.0T"]);
        let times: Vec<String> = [0, 59, 60, 61, 3_600, 90_000, 864_000].map(seconds).to_vec();
        assert_eq!(times, ["0s", "59s", "1m", "1m1s", "1h", "1d1h", "10d"]);
    }
}
