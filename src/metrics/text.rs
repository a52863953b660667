//! The two texts that monitoring systems read: Prometheus' own (0.0.4) and OpenMetrics 1.0. Pure.
//!
//! They differ in what a counter's family is called, in what is escaped, and in how they end.

use std::collections::HashSet;
use std::fmt::Write;

use super::{Cases, Histogram, Tally};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The one that a client likes better by its `Accept` (RFC 9110, section 12.5.1); of what it likes
    /// alike, or knows neither of, Prometheus' own.
    pub fn accepted(accept: &str) -> Format {
        let (mut text, mut open) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut version, mut quality) = (None, 1.0);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            let best: &mut f64 = match (kind.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => &mut open,
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => &mut text,
                _ => continue,
            };
            *best = best.max(quality);
        }
        if open > text { Format::OpenMetrics } else { Format::Text }
    }
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Buckets (`le`), a sum and a count.
    Histogram,
    /// Quantiles, a sum and a count.
    Summary,
    /// Nobody says.
    Unknown,
}

/// A text that is being written.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
    /// The families that it has: none may come twice.
    families: HashSet<String>,
}

/// A family of it: a metric with all of its labels.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut Exposition,
    name: &'a str,
    kind: Kind,
    /// It must not be written.
    is_left_out: bool,
}

impl Exposition {
    /// An empty one.
    pub fn new(format: Format) -> Exposition {
        Exposition { format, text: String::new(), families: HashSet::new() }
    }

    /// Begins a family. One whose name is there already, or can't be a name, is left out.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let is_counter = kind == Kind::Counter;
        // There the family of a counter is called without its suffix.
        let family = match self.format {
            Format::OpenMetrics if is_counter => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let is_left_out = !is_name(name, true) || !self.families.insert(family.to_owned());
        if !is_left_out {
            let kind = match (kind, self.format) {
                (Kind::Counter, _) => "counter",
                (Kind::Gauge, _) => "gauge",
                (Kind::Histogram, _) => "histogram",
                (Kind::Summary, _) => "summary",
                (Kind::Unknown, Format::Text) => "untyped",
                (Kind::Unknown, Format::OpenMetrics) => "unknown",
            };
            self.text += &format!("# HELP {family} ");
            let quotes = self.format == Format::OpenMetrics;
            escape(&mut self.text, help, quotes);
            self.text += &format!("\n# TYPE {family} {kind}\n");
            let unit = ["seconds", "bytes"]
                .into_iter()
                .find(|unit| family.strip_suffix(unit).is_some_and(|before| before.ends_with('_')));
            if let Some(unit) = unit.filter(|_| self.format == Format::OpenMetrics) {
                self.text += &format!("# UNIT {family} {unit}\n");
            }
        }
        Family { out: self, name, kind, is_left_out }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text += "# EOF\n";
        }
        self.text
    }
}

impl Family<'_> {
    /// A value of it; `suffix` is what a histogram's or a summary's values have behind its name. With
    /// a label's name that can't be one it is left out.
    pub fn sample<'l>(
        &mut self,
        suffix: &str,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        value: f64,
    ) {
        let mut written = String::new();
        for (name, value) in labels {
            if !is_name(name, false) {
                return;
            }
            written += if written.is_empty() { "{" } else { "," };
            written += name;
            written += "=\"";
            escape(&mut written, value, true);
            let is_bound =
                matches!((self.kind, name), (Kind::Histogram, "le") | (Kind::Summary, "quantile"));
            let is_whole = value.parse::<i64>().is_ok();
            if is_bound && is_whole && self.out.format == Format::OpenMetrics {
                written += ".0"; // these are floats there
            }
            written.push('"');
        }
        if !written.is_empty() {
            written.push('}');
        }
        if self.is_left_out {
            return;
        }
        let name = match (self.out.format, self.kind) {
            (Format::OpenMetrics, Kind::Counter) => {
                let family = self.name.strip_suffix("_total").unwrap_or(self.name);
                format!("{family}_total")
            }
            _ => format!("{}{suffix}", self.name),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.out.text, "{name}{written} {}", number(value));
    }

    /// The only value.
    pub fn is(&mut self, value: f64) {
        self.sample("", [], value);
    }

    /// A value for each case, with these labels before its own.
    pub fn tally<C: Cases>(&mut self, labels: &[(&str, &str)], tally: &Tally<C>) {
        for (case, count) in tally.each() {
            self.sample("", labels.iter().copied().chain(case.iter().copied()), count as f64);
        }
    }

    /// All values of a histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let reading = histogram.read();
        let last = (f64::INFINITY, reading.count);
        for (bound, count) in reading.buckets.into_iter().chain([last]) {
            let bound = number(bound);
            let labels = labels.iter().copied().chain([("le", bound.as_str())]);
            self.sample("_bucket", labels, count as f64);
        }
        self.sample("_sum", labels.iter().copied(), reading.sum);
        self.sample("_count", labels.iter().copied(), reading.count as f64);
    }
}

/// A number as JavaScript writes it, which is short and keeps all of it; infinities and what is no
/// number as Prometheus does.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else if value != 0.0 && !(1e-6..1e21).contains(&value.abs()) {
        let text = format!("{value:e}");
        if text.contains("e-") { text } else { text.replace('e', "e+") }
    } else {
        format!("{}", value + 0.0) // no negative zero
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// Whether it can be the name of a metric, or else of a label.
fn is_name(name: &str, of_metric: bool) -> bool {
    let is_its = |c: char| c.is_ascii_alphanumeric() || c == '_' || (of_metric && c == ':');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_its)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::tally::cases;
    use super::*;

    cases! {
        enum Colour by "colour", "code" {
            Red: "red", "1";
            Blue: "blue", "2";
        }
    }

    fn written(format: Format) -> String {
        let tally = Tally::<Colour>::default();
        tally.count(Colour::Red);
        tally.count(Colour::Blue);
        tally.count(Colour::Blue);
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1500));
        let mut out = Exposition::new(format);
        out.family("a_total", Kind::Counter, "Says \"a\" \\ b\nc.").is(3.0);
        out.family("b", Kind::Counter, "B.").tally(&[("slot", "0")], &tally);
        out.family("c_bytes", Kind::Gauge, "C.").sample("", [("x", "a\"\\\n")], -0.5);
        out.family("d_seconds", Kind::Histogram, "D.").histogram(&[], &histogram);
        out.family("c_bytes", Kind::Gauge, "Again.").is(1.0);
        out.family("1", Kind::Gauge, "No name.").is(1.0);
        out.family("e", Kind::Unknown, "E.").sample("", [("a-b", "")], 1.0);
        out.finish()
    }

    #[test]
    fn prometheus_own() {
        let text = written(Format::Text);
        let (begin, end) = text.split_once("d_seconds_bucket").expect("a histogram");
        assert_eq!(
            begin,
            "# HELP a_total Says \"a\" \\\\ b\\nc.\n# TYPE a_total counter\na_total 3\n\
             # HELP b B.\n# TYPE b counter\n\
             b{slot=\"0\",colour=\"red\",code=\"1\"} 1\nb{slot=\"0\",colour=\"blue\",code=\"2\"} 2\n\
             # HELP c_bytes C.\n# TYPE c_bytes gauge\nc_bytes{x=\"a\\\"\\\\\\n\"} -0.5\n\
             # HELP d_seconds D.\n# TYPE d_seconds histogram\n"
        );
        assert!(end.starts_with("{le=\"0.0005\"} 0\n"), "{end}");
        assert!(end.contains("{le=\"1\"} 0\nd_seconds_bucket{le=\"2.5\"} 1\n"), "{end}");
        assert!(
            end.ends_with(
                "{le=\"+Inf\"} 1\nd_seconds_sum 1.5\nd_seconds_count 1\n\
                 # HELP e E.\n# TYPE e untyped\n"
            ),
            "{end}"
        );
    }

    #[test]
    fn openmetrics() {
        let text = written(Format::OpenMetrics);
        let (begin, end) = text.split_once("d_seconds_bucket").expect("a histogram");
        assert_eq!(
            begin,
            "# HELP a Says \\\"a\\\" \\\\ b\\nc.\n# TYPE a counter\na_total 3\n\
             # HELP b B.\n# TYPE b counter\n\
             b_total{slot=\"0\",colour=\"red\",code=\"1\"} 1\n\
             b_total{slot=\"0\",colour=\"blue\",code=\"2\"} 2\n\
             # HELP c_bytes C.\n# TYPE c_bytes gauge\n# UNIT c_bytes bytes\n\
             c_bytes{x=\"a\\\"\\\\\\n\"} -0.5\n\
             # HELP d_seconds D.\n# TYPE d_seconds histogram\n# UNIT d_seconds seconds\n"
        );
        assert!(end.contains("{le=\"1.0\"} 0\nd_seconds_bucket{le=\"2.5\"} 1\n"), "{end}");
        assert!(end.ends_with("# HELP e E.\n# TYPE e unknown\n# EOF\n"), "{end}");
    }

    #[test]
    fn numbers_are_javascript_s() {
        let table = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1_700_000_000.25, "1700000000.25"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in table {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        use Format::{OpenMetrics, Text};
        let table = [
            ("", Text),
            ("*/*", Text),
            ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", Text),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.5", OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=x", Text),
            // Prometheus 2 and 3
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                 q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                 escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            ("text/plain;version=0.0.4,application/openmetrics-text;q=0.9", Text),
            ("application/openmetrics-text,text/plain", Text),
        ];
        for (accept, format) in table {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    /// What a reader takes the label `x` of a text's only sample for.
    fn read_back(text: &str) -> Option<String> {
        let line = text.lines().find(|line| !line.starts_with('#'))?;
        let mut chars = line.strip_prefix("m{x=\"")?.chars();
        let mut value = String::new();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    c @ ('"' | '\\') => c,
                    _ => return None,
                }),
                c => value.push(c),
            }
        }
        (chars.as_str() == "} 1").then_some(value)
    }

    proptest! {
        #[test]
        fn any_label_comes_back(value in any::<String>(), tricky in "[\\\\\"\n{}=, a]*") {
            for format in [Format::Text, Format::OpenMetrics] {
                for value in [&value, &tricky] {
                    let mut out = Exposition::new(format);
                    out.family("m", Kind::Gauge, value).sample("", [("x", value.as_str())], 1.0);
                    let text = out.finish();
                    let rows = text.split('\n').filter(|line| !line.starts_with('#')).count();
                    prop_assert_eq!(rows, 2, "a sample, and the end: {}", &text);
                    let read = read_back(&text);
                    prop_assert_eq!(read.as_ref(), Some(value), "{}", text);
                }
            }
        }
    }
}
