//! A configuration as text, in the order in which it is read.

use toml::Value;

/// Tables with their keys, in the order of their first mention; the one without a name comes first.
#[derive(Debug, Default)]
pub(super) struct Text {
    top: Vec<(String, Value)>,
    tables: Vec<(String, Vec<(String, Value)>)>,
}

impl Text {
    /// A key at the top.
    pub(super) fn top(&mut self, key: &str, value: impl Into<Value>) {
        self.top.push((key.to_owned(), value.into()));
    }

    /// A table, whose name may have dots; it may stay empty.
    pub(super) fn table(&mut self, table: &str) -> &mut Vec<(String, Value)> {
        let known = self.tables.iter().position(|(name, _)| name == table);
        let at = known.unwrap_or_else(|| {
            self.tables.push((table.to_owned(), Vec::new()));
            self.tables.len() - 1
        });
        &mut self.tables[at].1
    }

    /// A key of a table.
    pub(super) fn set(&mut self, table: &str, key: &str, value: impl Into<Value>) {
        self.table(table).push((key.to_owned(), value.into()));
    }

    /// The whole of it.
    pub(super) fn render(&self, comment: &str) -> String {
        let line = |(key, value): &(String, Value)| format!("{} = {value}\n", bare(key));
        let mut text = format!("# {comment}\n");
        text.extend(self.top.iter().map(line));
        for (name, keys) in &self.tables {
            text += &format!("\n[{name}]\n");
            text.extend(keys.iter().map(line));
        }
        text
    }
}

/// A key as TOML takes it: quoted only where it has to be.
pub(super) fn bare(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        Value::from(key).to_string()
    }
}
