//! YAML as the values that JSON has.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// More values than this are no list of apps, but aliases of aliases of aliases.
const MOST_VALUES: usize = 100_000;

/// A list or a map that has not ended yet.
enum Open {
    List(Vec<Value>),
    /// With the key that waits for its value.
    Map(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Document {
    open: Vec<(Open, usize)>,
    anchors: HashMap<usize, Value>,
    values: usize,
    whole: Option<Value>,
}

/// The one document of a text.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let mut document = Document::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        document.take(event).map_err(|what| format!("{what} at line {}", span.start.line()))?;
    }
    document.whole.ok_or_else(|| "it is empty".to_owned())
}

impl Document {
    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::SequenceStart(anchor, _) => self.open.push((Open::List(Vec::new()), anchor)),
            Event::MappingStart(anchor, _) => self.open.push((Open::Map(Map::new(), None), anchor)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((Open::List(items), anchor)) => self.put(Value::Array(items), anchor)?,
                Some((Open::Map(map, _), anchor)) => self.put(Value::Object(map), anchor)?,
                None => return Err("an end without a beginning".to_owned()),
            },
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain
                    || tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                let value = if is_text { Value::from(&*text) } else { plain(&text) };
                self.put(value, anchor)?;
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                self.put(value.ok_or("an alias of something unknown")?, 0)?;
            }
            Event::DocumentStart(_) if self.whole.is_some() => {
                return Err("a second document".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts a value where it belongs.
    fn put(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.values += size(&value);
        if self.values > MOST_VALUES {
            return Err("too many values".to_owned());
        }
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.whole = Some(value),
            Some((Open::List(items), _)) => items.push(value),
            Some((Open::Map(map, key), _)) => match (key.take(), value) {
                (None, Value::String(text)) => *key = Some(text),
                (None, Value::Number(number)) => *key = Some(number.to_string()),
                (None, Value::Bool(on)) => *key = Some(on.to_string()),
                (None, _) => return Err("a key that is no text".to_owned()),
                (Some(key), value) if key == "<<" => merge(map, value)?,
                (Some(key), value) => {
                    map.insert(key, value);
                }
            },
        }
        Ok(())
    }
}

/// How many values there are in a value; what was counted when it was put counts again.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// `<<: *other`: what the map does not say itself.
fn merge(map: &mut Map<String, Value>, other: Value) -> Result<(), String> {
    match other {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| merge(map, item)),
        _ => Err("<< with something that is no map".to_owned()),
    }
}

/// A word without quotes, by YAML 1.2's core schema.
fn plain(text: &str) -> Value {
    let number =
        |radix: u32, digits: &str| i64::from_str_radix(digits, radix).ok().map(Value::from);
    let found = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
            (Some(digits), _) => number(16, digits),
            (_, Some(digits)) => number(8, digits),
            _ => number(10, text).or_else(|| {
                // Not "inf" or "nan", which Rust would take.
                let is_number = text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
                let number = text.parse().ok().filter(|_| is_number);
                number.and_then(Number::from_f64).map(Value::Number)
            }),
        },
    };
    found.unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::read;
    use serde_json::json;

    #[test]
    fn values_are_those_of_json() {
        let text = "# apps\napps:\n  - &web\n    name: web\n    script: ./app.js\n    instances: 4\n    \
                    exec_mode: cluster\n    wait_ready: true\n    cron_restart: '0 4 * * *'\n    \
                    env: {PORT: 3000, RATE: 1.5, V: \"1\", W: !!str 2, N: , X: yes}\n  - <<: *web\n    \
                    name: two\n    args: [a, -b]\n";
        let env = json!({
            "PORT": 3000, "RATE": 1.5, "V": "1", "W": "2", "N": null, "X": "yes"
        });
        let web = json!({
            "name": "web", "script": "./app.js", "instances": 4, "exec_mode": "cluster",
            "wait_ready": true, "cron_restart": "0 4 * * *", "env": env
        });
        let mut two = web.clone();
        two["name"] = json!("two");
        two["args"] = json!(["a", "-b"]);
        assert_eq!(read(text), Ok(json!({"apps": [web, two]})));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in
            ["", "a: [1", "a: b: c", "? [a]\n: b", "a: *b", "---\na: 1\n---\nb: 2\n", "<<: 1"]
        {
            assert!(read(text).is_err(), "{text:?}: {:?}", read(text));
        }
        let bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned()
            + &(b'b'..=b'h').fold(String::new(), |text, c| {
                let aliases = format!("*{}, ", (c - 1) as char).repeat(10);
                format!("{text}{0}: &{0} [{1}]\n", c as char, aliases.trim_end_matches(", "))
            });
        assert!(read(&bomb).expect_err("too much").contains("too many"), "{bomb}");
    }
}
