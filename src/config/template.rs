//! Values that differ by slot: `"{slot}"`, `"{8000 + slot}"`. Pure.

/// The value of a variable, but for the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// This number and the slot's.
    Slot(u32),
}

impl Template {
    /// Reads a value. `{{` and `}}` are braces.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn parse(value: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = value;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            text += before;
            if brace.starts_with("{{") || brace.starts_with("}}") {
                text += &brace[..1];
                rest = &brace[2..];
                continue;
            }
            let Some((inside, after)) =
                brace[1..].split_once('}').filter(|_| brace.starts_with('{'))
            else {
                let brace = &brace[..1];
                return Err(format!(
                    "a {brace} without its other; write {brace}{brace} for the character"
                ));
            };
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(Part::Slot(base(inside)?));
            rest = after;
        }
        parts.push(Part::Text(text + rest));
        Ok(Template(parts))
    }

    /// The value in this slot.
    pub fn of_slot(&self, slot: usize) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Slot(base) => (u64::from(*base) + slot as u64).to_string(),
        };
        self.0.iter().map(part).collect()
    }
}

/// What is added to the slot.
fn base(inside: &str) -> Result<u32, String> {
    let expected =
        || format!("expected {{slot}} or a sum such as {{8000 + slot}}, found {{{inside}}}");
    let number = match inside.split_once('+') {
        None if inside.trim() == "slot" => return Ok(0),
        Some((number, slot)) if slot.trim() == "slot" => number,
        Some((slot, number)) if slot.trim() == "slot" => number,
        _ => return Err(expected()),
    };
    let number = number.trim();
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| is_number).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::Template;

    #[test]
    fn the_slot_is_put_in_its_place() {
        for (value, slot, want) in [
            ("{slot}", 0, "0"),
            ("{8000 + slot}", 3, "8003"),
            ("{ slot+ 1 }", 1, "2"),
            ("127.0.0.1:{9229+slot}", 2, "127.0.0.1:9231"),
            ("w{slot}-{100 + slot}{slot}", 7, "w7-1077"),
            ("{4294967295 + slot}", 1, "4294967296"),
            ("{{slot}} is {slot}}}", 5, "{slot} is 5}"),
            ("plain", 4, "plain"),
            ("", 4, ""),
        ] {
            let template = Template::parse(value).unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!(template.of_slot(slot), want, "{value}");
        }
    }

    #[test]
    fn what_is_no_sum_is_told() {
        let sum = "expected {slot} or a sum such as {8000 + slot}, found ";
        for (value, want) in [
            ("{Slot}", format!("{sum}{{Slot}}")),
            ("{}", format!("{sum}{{}}")),
            ("{slot + slot}", format!("{sum}{{slot + slot}}")),
            ("{-1 + slot}", format!("{sum}{{-1 + slot}}")),
            ("{+1 + slot}", format!("{sum}{{+1 + slot}}")),
            ("{1 + 2 + slot}", format!("{sum}{{1 + 2 + slot}}")),
            ("{4294967296 + slot}", format!("{sum}{{4294967296 + slot}}")),
            ("{2 * slot}", format!("{sum}{{2 * slot}}")),
            ("a{", "a { without its other; write {{ for the character".to_owned()),
            ("a}b", "a } without its other; write }} for the character".to_owned()),
        ] {
            assert_eq!(Template::parse(value), Err(want), "{value}");
        }
    }
}
