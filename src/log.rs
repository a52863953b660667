//! Our own lines: on standard error, for the journal with their priority in front.

use std::fmt;
use std::io::IsTerminal;
use std::sync::LazyLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins logging. `COHORTD_LOG` sets the level: `error`, `warn`, `info` (the default), `debug`,
/// `trace`, also by module (`info,cohortd::route=trace`).
pub fn start() {
    let wanted = std::env::var("COHORTD_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let levels = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if *TO_JOURNAL {
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

/// Whether standard error is the journal's own stream: systemd says in `JOURNAL_STREAM` which that
/// is (systemd.exec(5)).
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
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
