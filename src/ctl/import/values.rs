//! PM2's loosely typed values, and what they are in a configuration.

use serde_json::Value;

/// Text, or a number, which PM2 takes for text as well.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What an environment variable becomes; `None` for what has no value.
pub(super) fn variable(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        // Objects and lists are passed on as JSON.
        other => Some(other.to_string()),
    }
}

/// Whether a switch is on, as JavaScript sees it; text says so in words.
pub(super) fn is_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "false" | "0"),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// A list of words, or one text with them, cut like a shell would. The error has the text.
pub(super) fn words(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(items) => items
            .iter()
            .map(|item| text(item).ok_or_else(|| format!("{item} is no word")))
            .collect(),
        // Some say `args: false` for none.
        Value::Bool(false) | Value::Null => Ok(Vec::new()),
        other => {
            let text = text(other).ok_or("expected a text or a list")?;
            shlex::split(&text).ok_or_else(|| "it has an open quote".to_owned())
        }
    }
}

/// Milliseconds: a number, or text with or without a unit (`"5s"`).
pub(super) fn milliseconds(value: &Value) -> Option<u64> {
    let text = text(value)?;
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    let scale = match unit {
        "" | "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let millis = (number * scale).round();
    // A year and a bit; and no more than f64 is exact for.
    (millis <= 1e11).then_some(millis as u64)
}

/// Milliseconds as a configuration has them, in the largest unit without a fraction.
pub(super) fn duration(millis: u64) -> String {
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis > 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// Bytes: a number, or text with `K`, `M` or `G`; as a configuration has them.
pub(super) fn size(value: &Value) -> Option<String> {
    let text = text(value)?.trim().to_ascii_uppercase();
    let text = text.strip_suffix('B').unwrap_or(&text);
    let (number, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: f64 = number.trim().parse().ok().filter(|n: &f64| *n > 0.0 && *n < 1e15)?;
    let bytes = (number * f64::from(1_u32 << shift)).round() as u64;
    for (unit, shift) in [("G", 30), ("M", 20), ("K", 10)] {
        if bytes.is_multiple_of(1 << shift) {
            return Some(format!("{}{unit}", bytes >> shift));
        }
    }
    Some(bytes.to_string())
}

/// More instances than `workers` takes.
const TOO_MANY: i64 = 1025;

/// `instances`, as `workers` has it.
pub(super) fn workers(value: &Value) -> Option<toml::Value> {
    let text = text(value)?;
    match text.trim() {
        "max" => Some("auto".into()),
        number => match number.parse::<i64>().ok()? {
            0 => Some("auto".into()),
            less if less < 0 => Some(format!("auto{less}").into()),
            n => (n < TOO_MANY).then(|| n.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_get_units() {
        for (given, wanted) in [
            (json!(1600), "1600ms"),
            (json!(3000), "3s"),
            (json!("5000"), "5s"),
            (json!("5s"), "5s"),
            (json!("1.5s"), "1500ms"),
            (json!("2m"), "2m"),
            (json!(3_600_000), "1h"),
            (json!("90m"), "90m"),
            (json!(0), "0ms"),
        ] {
            assert_eq!(milliseconds(&given).map(duration).as_deref(), Some(wanted), "{given}");
        }
        for wrong in [json!(-5), json!("soon"), json!(true), json!([]), json!(""), json!("1e99")] {
            assert_eq!(milliseconds(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (given, wanted) in [
            (json!("150M"), "150M"),
            (json!("1G"), "1G"),
            (json!("1.5G"), "1536M"),
            (json!("512K"), "512K"),
            (json!("300MB"), "300M"),
            (json!("300m"), "300M"),
            (json!(157_286_400), "150M"),
            (json!("157286400"), "150M"),
            (json!(100_000_001), "100000001"),
        ] {
            assert_eq!(size(&given).as_deref(), Some(wanted), "{given}");
        }
        for wrong in [json!(0), json!("M"), json!("-1M"), json!("1T"), json!({}), json!("")] {
            assert_eq!(size(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn instances_are_workers() {
        for (given, wanted) in [
            (json!("max"), toml::Value::from("auto")),
            (json!(0), "auto".into()),
            (json!("0"), "auto".into()),
            (json!(-1), "auto-1".into()),
            (json!("-2"), "auto-2".into()),
            (json!(4), 4.into()),
            (json!("4"), 4.into()),
        ] {
            assert_eq!(workers(&given), Some(wanted), "{given}");
        }
        for wrong in [json!("many"), json!(1.5), json!(1025), json!(true), json!([])] {
            assert_eq!(workers(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_are_cut_like_a_shell_would() {
        assert_eq!(
            words(&json!("start -p 3000")),
            Ok(vec!["start".into(), "-p".into(), "3000".into()])
        );
        assert_eq!(words(&json!("--name 'a b'")), Ok(vec!["--name".into(), "a b".into()]));
        assert_eq!(words(&json!(["a b", 3])), Ok(vec!["a b".into(), "3".into()]));
        assert!(words(&json!("it's")).is_err() && words(&json!([[]])).is_err());
    }

    #[test]
    fn switches_are_what_javascript_makes_of_them() {
        for on in [json!(true), json!(1), json!("true"), json!(["x"]), json!({})] {
            assert!(is_on(&on), "{on}");
        }
        for off in [json!(false), json!(0), json!(""), json!("false"), json!(null)] {
            assert!(!is_on(&off), "{off}");
        }
    }
}
