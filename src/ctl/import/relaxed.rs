//! JSON as people write it: with comments, and with a comma after the last item.

/// The text as strict JSON: what JSON does not know is blank, so that every place stays where it was.
pub(super) fn strict(text: &str) -> String {
    let mut out: Vec<char> = Vec::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    // Of the last comma, while only blanks have followed it.
    let mut comma: Option<usize> = None;
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            ('"', _) => {
                comma = None;
                out.push(c);
                while let Some(c) = rest.next() {
                    out.push(c);
                    match c {
                        '\\' => out.extend(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            ('/', Some('/')) => {
                out.push(' ');
                while let Some(c) = rest.next_if(|c| *c != '\n') {
                    out.push(if c == '\r' { c } else { ' ' });
                }
            }
            ('/', Some('*')) => {
                let mut last = ' ';
                out.push(' ');
                out.extend(rest.next().map(|_| ' '));
                for c in rest.by_ref() {
                    out.push(if c == '\n' { c } else { ' ' });
                    if (last, c) == ('*', '/') {
                        break;
                    }
                    last = c;
                }
            }
            (']' | '}', _) => {
                if let Some(comma) = comma.take() {
                    out[comma] = ' ';
                }
                out.push(c);
            }
            _ => {
                if c == ',' {
                    comma = Some(out.len());
                } else if !c.is_whitespace() {
                    comma = None;
                }
                out.push(c);
            }
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::strict;
    use serde_json::{Value, json};

    #[test]
    fn comments_and_last_commas_are_no_matter() {
        let text =
            "// one\n{\"a\": [1, 2,], /* two\n, ] */ \"u\": \"http://x,}/*\\\"*/\", // three\n}\n";
        let read: Value = serde_json::from_str(&strict(text)).expect("is JSON");
        assert_eq!(read, json!({"a": [1, 2], "u": "http://x,}/*\"*/"}));
    }

    #[test]
    fn what_is_wrong_stays_wrong_and_where_it_was() {
        for text in ["{\"a\": ,}", "[,]x", "{a: 1}", "[1 2]", "\"open", "/* open"] {
            assert!(serde_json::from_str::<Value>(&strict(text)).is_err(), "{text}");
        }
        let error = serde_json::from_str::<Value>(&strict("/* ü */\n[1, // x\n 2 3]"));
        assert_eq!(error.expect_err("is wrong").line(), 3);
    }
}
