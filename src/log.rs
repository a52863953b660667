//! Our own lines: entries in the journal for an app's service, or lines on standard error, for the
//! journal with their priority in front.

use std::fmt;
use std::io::IsTerminal;
use std::sync::LazyLock;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::systemd::journal::{Entries, Priority};

/// Begins logging, with an entry in the journal for each line if an app's service is named and our
/// standard error is the journal's. `COHORTD_LOG` sets the level: `error`, `warn`, `info` (the
/// default), `debug`, `trace`, also by module (`cohortd=info,async_nats=debug`).
pub fn start(service: Option<&str>) {
    let levels = levels(&std::env::var(LEVELS).unwrap_or_default());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let service = service.filter(|_| *TO_JOURNAL);
    if let Some(entries) = service.and_then(|app| Entries::open(app).ok()) {
        tracing_subscriber::registry().with(entries.with_filter(levels)).init();
    } else if *TO_JOURNAL {
        let layer = layer.event_format(Journal).with_ansi(false);
        tracing_subscriber::registry().with(layer.with_filter(levels)).init();
    } else {
        let layer = layer
            .with_timer(time::uptime())
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry().with(layer.with_filter(levels)).init();
    }
}

/// What is logged. Libraries say what we say better, unless they are named.
fn levels(wanted: &str) -> Targets {
    let ours = match wanted {
        "" => Ok(LevelFilter::INFO), // which has another meaning to the parser
        level => level.parse::<LevelFilter>(),
    };
    match (ours, wanted.parse::<Targets>()) {
        (Err(_), Ok(levels)) => levels,
        (ours, _) => {
            let ours = ours.unwrap_or(LevelFilter::INFO);
            Targets::new().with_default(LevelFilter::OFF).with_target("cohortd", ours)
        }
    }
}

/// The variable that sets the level.
pub const LEVELS: &str = "COHORTD_LOG";

/// Whether standard error is the journal's own stream.
pub fn is_journal() -> bool {
    *TO_JOURNAL
}

/// systemd says in `JOURNAL_STREAM` which that is (systemd.exec(5)).
static TO_JOURNAL: LazyLock<bool> = LazyLock::new(|| {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
});

/// Writes the error that a program ends with. It may have several lines.
pub fn last_words(text: &str) {
    // ERROR's priority. It is of a line, so each line has it.
    let priority = if *TO_JOURNAL { "<3>" } else { "" };
    for line in text.lines() {
        eprintln!("{priority}{line}");
    }
}

/// A line for the journal: `<N>` is its priority (sd-daemon(3)), and the journal knows the time.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", Priority::from(event.metadata().level()) as u8)?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_logged_only_by_name() {
        let table = [
            ("", LevelFilter::INFO, LevelFilter::OFF),
            ("debug", LevelFilter::DEBUG, LevelFilter::OFF),
            ("cohortd=warn,async_nats=trace", LevelFilter::WARN, LevelFilter::TRACE),
        ];
        for (wanted, ours, theirs) in table {
            let levels = levels(wanted);
            for (target, most) in [("cohortd::route", ours), ("async_nats", theirs)] {
                let logged = |level| levels.would_enable(target, &level);
                let all = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
                assert!(
                    all.into_iter().all(|level| logged(level) == (level <= most)),
                    "{wanted} {target}"
                );
            }
        }
    }
}
