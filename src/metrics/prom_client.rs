//! What the workers' own `prom-client` answers when its primary asks for their metrics, and what that
//! makes of all their answers. Pure.
//!
//! A worker that has made an `AggregatorRegistry` answers `prom-client:getMetricsReq` with
//! `getMetricsAsJSON()` of each of its registries (`lib/cluster.js` of prom-client 11 to 15). Values of
//! one name and the same labels become one, in the way that the metric's `aggregator` says.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::text::{Exposition, Kind, number};
use crate::worker::wire::Value;

/// What begins the names of our own metrics.
pub const OURS: &str = "cohortd_";

/// The question.
#[derive(Debug, Serialize)]
pub struct Question {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "requestId")]
    id: u64,
}

impl Question {
    /// With a number that the answer has too.
    pub fn new(id: u64) -> Question {
        Question { kind: "prom-client:getMetricsReq", id }
    }
}

/// Which question an answer belongs to.
#[derive(Debug, Deserialize)]
pub struct AnswerTo {
    /// Its number.
    #[serde(rename = "requestId")]
    pub id: u64,
}

/// A worker's answer.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// By registry.
    #[serde(default)]
    metrics: Vec<Vec<Metric>>,
    /// Why there are none.
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Metric {
    name: String,
    #[serde(default)]
    help: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    aggregator: Option<String>,
    #[serde(default)]
    values: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    value: Value,
    /// Of a histogram or a summary: its name with a suffix.
    #[serde(rename = "metricName", default)]
    name: Option<String>,
}

/// How values become one.
#[derive(Debug, Clone, Copy)]
enum Aggregator {
    Sum,
    First,
    Min,
    Max,
    Average,
}

impl Aggregator {
    /// `None`: the metric is left out, because it says so or nobody knows what it says.
    fn named(name: Option<&str>) -> Option<Aggregator> {
        Some(match name {
            None | Some("sum") => Aggregator::Sum,
            Some("first") => Aggregator::First,
            Some("min") => Aggregator::Min,
            Some("max") => Aggregator::Max,
            Some("average") => Aggregator::Average,
            Some(_) => return None,
        })
    }

    fn apply(self, values: &[f64]) -> f64 {
        let sum = || values.iter().sum::<f64>();
        // As in JavaScript, what is no number makes all of it none.
        let best = |better: fn(f64, f64) -> f64| {
            let one = |a: f64, b: f64| {
                if a.is_nan() {
                    a
                } else if b.is_nan() {
                    b
                } else {
                    better(a, b)
                }
            };
            values.iter().copied().reduce(one).unwrap_or(f64::NAN)
        };
        match self {
            Aggregator::Sum => sum(),
            Aggregator::First => values.first().copied().unwrap_or(f64::NAN),
            Aggregator::Min => best(f64::min),
            Aggregator::Max => best(f64::max),
            Aggregator::Average => sum() / values.len() as f64,
        }
    }
}

/// A sample's labels, in its own order.
type Labels<'a> = Vec<(&'a str, String)>;

/// The values of the same name and labels.
struct Series<'a> {
    suffix: &'a str,
    labels: Labels<'a>,
    values: Vec<f64>,
}

/// Writes what the answers of all workers come to, in the order of the answers. Names that are ours
/// alone are left out.
pub fn aggregate(answers: &[Answer], out: &mut Exposition) {
    for metrics in grouped(answers.iter().flat_map(|a| &a.metrics).flatten(), |m| &m.name) {
        let first = metrics[0];
        let aggregator = Aggregator::named(first.aggregator.as_deref());
        let Some(aggregator) = aggregator.filter(|_| !first.name.starts_with(OURS)) else {
            continue;
        };
        let kind = match first.kind.as_deref() {
            Some("counter") => Kind::Counter,
            Some("gauge") => Kind::Gauge,
            Some("histogram") => Kind::Histogram,
            Some("summary") => Kind::Summary,
            _ => Kind::Unknown,
        };
        let mut family = out.family(&first.name, kind, first.help.as_deref().unwrap_or_default());
        for series in series_of(&metrics) {
            let labels = series.labels.iter().map(|(name, value)| (*name, value.as_str()));
            family.sample(series.suffix, labels, aggregator.apply(&series.values));
        }
    }
}

fn series_of<'a>(metrics: &[&'a Metric]) -> Vec<Series<'a>> {
    let mut all: Vec<Series<'a>> = Vec::new();
    let mut known: HashMap<(&str, Labels<'_>), usize> = HashMap::new();
    for (metric, sample) in metrics.iter().flat_map(|m| m.values.iter().map(move |s| (m, s))) {
        let suffix = match &sample.name {
            Some(name) => name.strip_prefix(&metric.name),
            None => Some(""),
        };
        let Some(suffix @ ("" | "_bucket" | "_sum" | "_count")) = suffix else { continue };
        let labels = labels_of(&sample.labels);
        let mut sorted = labels.clone();
        sorted.sort();
        let at = *known.entry((suffix, sorted)).or_insert_with(|| {
            all.push(Series { suffix, labels, values: Vec::new() });
            all.len() - 1
        });
        all[at].values.push(match sample.value {
            Value::Int(n) => n as f64,
            Value::Num(n) => n,
            _ => f64::NAN, // JSON has no other word for it than null
        });
    }
    all
}

/// Labels as text. Those without a value are as if they were not there.
fn labels_of(labels: &Value) -> Labels<'_> {
    let Value::Object(entries) = labels else { return Vec::new() };
    let text = |value: &Value| match value {
        Value::Str(text) => Some(text.clone()),
        Value::Int(n) => Some(n.to_string()),
        Value::Num(n) => Some(number(*n)),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    };
    entries.iter().filter_map(|(name, value)| Some((name.as_str(), text(value)?))).collect()
}

/// Those of the same name together, each group where its first was.
fn grouped<'a, T>(
    all: impl Iterator<Item = &'a T>,
    name: impl Fn(&'a T) -> &'a str,
) -> Vec<Vec<&'a T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for one in all {
        let at = *known.entry(name(one)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[at].push(one);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::text::Format;
    use super::*;

    /// What comes of these registries, one a worker.
    fn aggregated(workers: &[&str]) -> String {
        let answer = |text: &&str| {
            serde_json::from_str(&format!(r#"{{"metrics":[[{text}]]}}"#)).expect("an answer")
        };
        let answers: Vec<Answer> = workers.iter().map(answer).collect();
        let mut out = Exposition::new(Format::Text);
        aggregate(&answers, &mut out);
        let lines = out.finish();
        lines.lines().filter(|line| !line.starts_with("# HELP")).map(|l| format!("{l}\n")).collect()
    }

    fn gauge(aggregator: &str, value: &str) -> String {
        format!(
            r#"{{"name":"g","help":"","type":"gauge","aggregator":"{aggregator}","values":[{{"value":{value},"labels":{{}}}}]}}"#
        )
    }

    #[test]
    fn each_aggregator_does_as_it_is_called() {
        let table = [("sum", "6"), ("first", "3"), ("min", "1"), ("max", "3"), ("average", "2")];
        for (aggregator, value) in table {
            let [a, b, c] = ["3", "1", "2"].map(|n| gauge(aggregator, n));
            let text = aggregated(&[&a, &b, &c]);
            assert_eq!(text, format!("# TYPE g gauge\ng {value}\n"), "{aggregator}");
        }
        for aggregator in ["omit", "nonesuch"] {
            assert_eq!(aggregated(&[&gauge(aggregator, "1")]), "", "{aggregator}");
        }
        let text = aggregated(&[&gauge("max", "null"), &gauge("max", "1")]);
        assert_eq!(text, "# TYPE g gauge\ng NaN\n");
    }

    #[test]
    fn values_meet_by_their_labels_in_whatever_order() {
        let counter = |values: &str| {
            format!(r#"{{"name":"c_total","help":"","type":"counter","values":[{values}]}}"#)
        };
        let a = counter(
            r#"{"value":1,"labels":{"code":200,"m":"GET"}},{"value":5,"labels":{"code":500}}"#,
        );
        let b = counter(
            r#"{"value":2,"labels":{"m":"GET","code":"200"}},{"value":0.5,"labels":{"a":true,"n":null}}"#,
        );
        assert_eq!(
            aggregated(&[&a, &b]),
            "# TYPE c_total counter\nc_total{code=\"200\",m=\"GET\"} 3\nc_total{code=\"500\"} 5\n\
             c_total{a=\"true\"} 0.5\n"
        );
    }

    #[test]
    fn histograms_and_summaries_part_by_part() {
        let histogram = r#"{"name":"h","help":"","type":"histogram","aggregator":"sum","values":[
            {"labels":{"le":0.1},"value":1,"metricName":"h_bucket","exemplar":null},
            {"labels":{"le":"+Inf"},"value":2,"metricName":"h_bucket"},
            {"labels":{},"value":7.5,"metricName":"h_sum"},
            {"labels":{},"value":2,"metricName":"h_count"},
            {"labels":{},"value":2,"metricName":"h_else"}]}"#;
        assert_eq!(
            aggregated(&[histogram, histogram]),
            "# TYPE h histogram\nh_bucket{le=\"0.1\"} 2\nh_bucket{le=\"+Inf\"} 4\nh_sum 15\nh_count 4\n"
        );
        let summary = r#"{"name":"s","help":"","type":"summary","aggregator":"sum","values":[
            {"labels":{"quantile":0.5},"value":1},
            {"labels":{},"value":3,"metricName":"s_sum"},
            {"labels":{},"value":2,"metricName":"s_count"}]}"#;
        assert_eq!(
            aggregated(&[summary, summary]),
            "# TYPE s summary\ns{quantile=\"0.5\"} 2\ns_sum 6\ns_count 4\n"
        );
    }

    #[test]
    fn our_own_names_and_what_is_no_name_are_left_out() {
        let named = |name: &str| {
            format!(r#"{{"name":"{name}","help":"","type":"gauge","values":[{{"value":1}}]}}"#)
        };
        assert_eq!(aggregated(&[&named("cohortd_requests_total"), &named("a b")]), "");
        assert_eq!(aggregated(&[&named("app:x")]), "# TYPE app:x gauge\napp:x 1\n");
    }

    #[test]
    fn an_answer_may_be_that_there_is_none() {
        let answer: Answer =
            serde_json::from_str(r#"{"type":"x","requestId":3,"error":"no"}"#).expect("an answer");
        assert_eq!(answer.error.as_deref(), Some("no"));
        let mut out = Exposition::new(Format::Text);
        aggregate(&[answer], &mut out);
        assert_eq!(out.finish(), "");
    }
}
