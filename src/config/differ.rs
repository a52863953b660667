//! In what two readings of a file differ, for people. Values of variables are nobody's to read.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Config, Deliver};

/// A key that has another value in the file than in what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The key, with its table's name before it.
    pub key: String,
    /// Its value in what runs, in TOML; absent: its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// Its value in the file, in TOML; absent: its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<String>,
    /// What makes it so.
    pub takes: Takes,
}

/// What makes a changed file come into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// A reload.
    Reload,
    /// `cohortctl add`, which writes the units.
    Add,
    /// `cohortctl add`, and a restart.
    Restart,
}

/// What stands for the value of a variable.
const HIDDEN: &str = "(not shown)";

impl Config {
    /// In what `new` is another configuration of the same app.
    pub fn differences(&self, new: &Config) -> Vec<Difference> {
        let keys: BTreeSet<&String> = self.keys.keys().chain(new.keys.keys()).collect();
        let keys = keys.into_iter().filter(|key| self.keys.get(*key) != new.keys.get(*key));
        let shares = |config: &Config| config.route.deliver == Deliver::Shared;
        let written = keys.map(|key| Difference {
            key: key.clone(),
            running: self.keys.get(key).cloned(),
            configured: new.keys.get(key).cloned(),
            takes: match key.as_str() {
                // What the unit lets it write to is another folder then, too.
                "kind" | "listen" | "directory" => Takes::Restart,
                relay if relay.starts_with("relay.") => Takes::Restart,
                "route.deliver" if shares(self) != shares(new) => Takes::Restart,
                "use_profile" | "reload.schedule" => Takes::Add,
                _ => Takes::Reload,
            },
        });
        let plain = variables("env", &self.env, &new.env);
        let per_worker = variables("env_per_worker", &self.env_per_worker, &new.env_per_worker);
        written.chain(plain).chain(per_worker).collect()
    }

    /// The same, if its file said that there are so many `workers`.
    pub fn with_workers(mut self, workers: usize, text: &str) -> Config {
        self.workers = workers;
        self.text = text.to_owned();
        self.keys.insert("workers".to_owned(), workers.to_string());
        self
    }

    /// The difference that there are `workers` of them now, whatever the file has said.
    pub fn scaled(&self, workers: usize, new: &Config) -> Option<Difference> {
        (workers != new.workers).then(|| Difference {
            key: "workers".to_owned(),
            running: Some(format!("{workers} (scaled)")),
            configured: new.keys.get("workers").cloned(),
            takes: Takes::Reload,
        })
    }
}

/// The variables of a table that differ.
fn variables<'a, V: PartialEq>(
    table: &'a str,
    running: &'a BTreeMap<String, V>,
    configured: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = Difference> + 'a {
    let names: BTreeSet<&String> = running.keys().chain(configured.keys()).collect();
    let hidden = |value: Option<&V>| value.map(|_| HIDDEN.to_owned());
    names.into_iter().filter(|name| running.get(*name) != configured.get(*name)).map(move |name| {
        Difference {
            key: format!("{table}.{name}"),
            running: hidden(running.get(name)),
            configured: hidden(configured.get(name)),
            takes: Takes::Reload,
        }
    })
}

/// Every key of a file with its value, but for those of variables.
pub(super) fn keys(source: &str) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    if let Ok(mut table) = source.parse::<toml::Table>() {
        for variables in ["env", "env_per_worker", "profile"] {
            table.remove(variables);
        }
        flatten("", table, &mut keys);
    }
    keys
}

fn flatten(before: &str, table: toml::Table, keys: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(table) => flatten(&format!("{before}{key}."), table, keys),
            value => drop(keys.insert(format!("{before}{key}"), value.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(more: &str) -> Config {
        let source = format!("exec = [\"node\", \"x.js\"]\n{more}");
        Config::parse(Path::new("/etc/cohortd/myapp.toml"), &source).expect("right")
    }

    #[test]
    fn what_differs_is_said_with_what_it_takes() {
        let old = config(
            "listen = [\"8080\"]\nworkers = 2\n[stop]\ndrain = \"5s\"\n[env_per_worker]\nP = \"{slot}\"\n[env]\nA = \"secret\"\nB = \"2\"",
        );
        let new = config(
            "listen = [\"8081\"]\nworkers = 2\n[reload]\nschedule = \"daily\"\n[env]\nA = \"hidden\"\nC = \"3\"",
        );
        let said: Vec<String> = old
            .differences(&new)
            .iter()
            .map(|d| {
                let value = |value: &Option<String>| value.clone().unwrap_or_default();
                format!("{} {} > {} {:?}", d.key, value(&d.running), value(&d.configured), d.takes)
            })
            .collect();
        assert_eq!(
            said,
            [
                "listen [\"8080\"] > [\"8081\"] Restart",
                "reload.schedule  > \"daily\" Add",
                "stop.drain \"5s\" >  Reload",
                "env.A (not shown) > (not shown) Reload",
                "env.B (not shown) >  Reload",
                "env.C  > (not shown) Reload",
                "env_per_worker.P (not shown) >  Reload",
            ]
        );
        assert_eq!(new.differences(&new), []);
    }

    #[test]
    fn a_scaled_app_differs_from_its_file() {
        let config = config("listen = [\"8080\"]\nworkers = 2");
        assert_eq!(config.scaled(2, &config), None);
        let difference = config.scaled(3, &config).expect("another number");
        assert_eq!(difference.running.as_deref(), Some("3 (scaled)"));
        assert_eq!(difference.configured.as_deref(), Some("2"));
    }
}
