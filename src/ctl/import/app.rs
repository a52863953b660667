//! One app of the source on its way: the keys that nobody has looked at yet, and what became of the
//! others.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::keys::{KEYS, Key, PROFILES, key};
use super::report::{Class, Entry};
use super::text::Text;

/// Why what is null is dropped: a source may have it from an environment that it was not given.
pub(super) const NO_VALUE: &str =
    "it has no value: null or undefined, perhaps from process.env, which is empty here";

/// A key of the source with its value.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// As the source has it.
    pub(super) key: String,
    pub(super) value: Value,
}

/// An app, half converted.
#[derive(Debug, Default)]
pub(super) struct App {
    left: BTreeMap<&'static str, Vec<Given>>,
    entries: Vec<(usize, Entry)>,
    /// The configuration so far.
    pub(super) toml: Text,
    /// What to look at.
    pub(super) notes: Vec<String>,
    /// Lines of a drop-in, by section.
    pub(super) drop_in: Vec<(&'static str, String)>,
}

impl App {
    /// Sorts the keys of an app; those whose fate does not depend on their value have it already.
    pub(super) fn new(keys: Map<String, Value>) -> App {
        let mut app = App::default();
        for (word, value) in keys {
            let given = Given { key: word, value };
            match key(&given.key) {
                None => app.say(&given, Class::Unknown, "", false),
                Some(Key { fate: Some((class, note)), .. }) => {
                    app.say(&given, *class, note, false);
                }
                Some(_) if given.value.is_null() => app.dropped(&given, NO_VALUE),
                Some(known) => app.left.entry(known.name).or_default().push(given),
            }
        }
        app
    }

    /// The value of a key, which is then the caller's to answer for.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Given> {
        let mut all = self.left.remove(name)?;
        // The key itself before its aliases.
        let first = all.iter().position(|given| given.key == name).unwrap_or(0);
        let given = all.swap_remove(first);
        for other in all {
            self.dropped(&other, &format!("{} stands there too", given.key));
        }
        Some(given)
    }

    /// Whether nobody has taken it yet.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.left.contains_key(name)
    }

    /// Every `env_NAME`, with the name.
    pub(super) fn take_profiles(&mut self) -> Vec<(String, Given)> {
        let all = self.left.remove(PROFILES).unwrap_or_default();
        let name = |given: &Given| given.key.strip_prefix("env_").unwrap_or_default().to_owned();
        all.into_iter().map(|given| (name(&given), given)).collect()
    }

    /// Says what became of a key.
    fn say(&mut self, given: &Given, class: Class, note: &str, matters: bool) {
        let entry = Entry { key: given.key.clone(), class, note: note.to_owned(), matters };
        self.entries.push((place(&given.key), entry));
    }

    pub(super) fn mapped(&mut self, given: &Given, to: &str) {
        self.say(given, Class::Mapped, to, false);
    }

    pub(super) fn unit(&mut self, given: &Given, to: &str) {
        self.say(given, Class::Unit, to, false);
    }

    pub(super) fn replaced(&mut self, given: &Given, by: &str) {
        self.say(given, Class::Replaced, by, false);
    }

    /// Dropped, and nobody notices.
    pub(super) fn idle(&mut self, given: &Given, why: &str) {
        self.say(given, Class::Dropped, why, false);
    }

    /// Dropped, and the app behaves otherwise.
    pub(super) fn dropped(&mut self, given: &Given, why: &str) {
        self.say(given, Class::Dropped, why, true);
    }

    /// What became of a variable of an `env`.
    pub(super) fn variable(&mut self, env: &Given, name: &str, class: Class, note: &str) {
        let note = note.to_owned();
        let matters = class == Class::Dropped;
        let key = format!("{}.{name}", env.key);
        self.entries.push((place(&env.key), Entry { key, class, note, matters }));
    }

    /// What became of each key, in the order of the table.
    pub(super) fn finish(&mut self) -> Vec<Entry> {
        for given in std::mem::take(&mut self.left).into_values().flatten() {
            debug_assert!(false, "nobody has taken {}", given.key);
            self.dropped(&given, "this version does not look at it");
        }
        self.entries.sort_by_key(|(place, _)| *place);
        std::mem::take(&mut self.entries).into_iter().map(|(_, entry)| entry).collect()
    }
}

/// Where a key stands in the report.
fn place(word: &str) -> usize {
    let of_table = key(word).and_then(|of| KEYS.iter().position(|key| key.name == of.name));
    of_table.unwrap_or(KEYS.len())
}
