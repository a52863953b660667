//! What has become of each key: the report, for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// What became of a key of the source. Each has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Class {
    /// It is in the configuration.
    Mapped,
    /// It is for the unit, which is not written here.
    Unit,
    /// systemd or cohortd does it anyway, another way.
    Replaced,
    /// Nothing does it here.
    Dropped,
    /// PM2 knows no such key either.
    Unknown,
}

impl Class {
    const ALL: [Class; 5] =
        [Class::Mapped, Class::Unit, Class::Replaced, Class::Dropped, Class::Unknown];

    fn title(self) -> &'static str {
        match self {
            Class::Mapped => "mapped",
            Class::Unit => "for the unit",
            Class::Replaced => "replaced by",
            Class::Dropped => "dropped, because",
            Class::Unknown => "unknown to PM2 too",
        }
    }
}

/// One key of the source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Entry {
    /// As the source has it.
    pub(super) key: String,
    pub(super) class: Class,
    /// What it became, what does it instead, or why nothing does.
    pub(super) note: String,
    /// The app behaves otherwise without it.
    pub(super) matters: bool,
}

/// One app.
#[derive(Debug, Clone, Serialize)]
pub(super) struct AppReport {
    pub(super) name: String,
    /// Where its configuration is, or would be.
    pub(super) file: String,
    pub(super) keys: Vec<Entry>,
    /// What to look at before it is started.
    pub(super) notes: Vec<String>,
    /// Why it can't be imported as it is.
    pub(super) problem: Option<String>,
    /// A drop-in for `systemctl edit NAME`; empty where there is nothing to say.
    pub(super) drop_in: String,
    /// What to run next.
    pub(super) next: Vec<String>,
}

/// One source.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) source: String,
    /// Whether configurations were written.
    pub(super) written: bool,
    /// What stands beside the apps in the source.
    pub(super) keys: Vec<Entry>,
    pub(super) apps: Vec<AppReport>,
}

impl Report {
    /// How many keys were dropped that matter.
    pub(super) fn lost(&self) -> usize {
        let of_apps = self.apps.iter().flat_map(|app| &app.keys);
        self.keys.iter().chain(of_apps).filter(|entry| entry.matters).count()
    }

    /// Lines for people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for app in &self.apps {
            let _ = writeln!(out, "{}: {}", app.name, app.file);
            list(&mut out, &app.keys);
            if let Some(problem) = &app.problem {
                let _ = writeln!(out, "  can't be imported so\n    {problem}");
            }
            if !app.notes.is_empty() {
                let _ = writeln!(out, "  look at");
            }
            for note in &app.notes {
                let _ = writeln!(out, "    {note}");
            }
            if !app.drop_in.is_empty() {
                let _ = writeln!(out, "  with `systemctl edit {}` say", app.name);
                for line in app.drop_in.lines() {
                    let _ = writeln!(out, "    {line}");
                }
            }
            if self.written {
                let _ = writeln!(out, "  then run");
                for command in &app.next {
                    let _ = writeln!(out, "    {command}");
                }
            }
            out.push('\n');
        }
        if !self.keys.is_empty() {
            let _ = writeln!(out, "beside the apps in {}", self.source);
            list(&mut out, &self.keys);
            out.push('\n');
        }
        out
    }
}

/// A class a paragraph; what matters is marked.
fn list(out: &mut String, keys: &[Entry]) {
    let width = keys.iter().map(|entry| entry.key.chars().count()).max().unwrap_or(0);
    for class in Class::ALL {
        let mut entries = keys.iter().filter(|entry| entry.class == class).peekable();
        if entries.peek().is_some() {
            let _ = writeln!(out, "  {}", class.title());
        }
        for entry in entries {
            let mark = if entry.matters { '!' } else { ' ' };
            let line = format!("  {mark} {:width$}  {}", entry.key, entry.note);
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}
